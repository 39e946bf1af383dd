"""What only a folder can do or suffer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.backup.stores.base import AlreadyExistsError, StoreError
from include.backup.stores.local import LocalStore

KEY = "hotel/daily/hotel_2026-01-02T020000Z.dump"
MIB = 1024 * 1024


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "new" / "store")


def test_only_the_owner_may_read_a_backup_or_enter_its_folder(store: LocalStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store.put(KEY, b"secret")
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_an_object_is_still_never_written_over(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_links)
    store.put(KEY, b"first")
    with pytest.raises(AlreadyExistsError):
        store.put(KEY, b"second")
    assert store.get(KEY) == b"first"
    assert everything(tmp_path / "new" / "store") == ["hotel", "hotel/daily", KEY]


def test_deleting_the_last_object_removes_its_empty_folders_but_not_the_store(
    store: LocalStore, tmp_path: Path
) -> None:
    store.put(KEY, b"x")
    store.put("hotel/weekly/x", b"x")
    store.delete(KEY)
    assert everything(tmp_path / "new" / "store") == ["hotel", "hotel/weekly", "hotel/weekly/x"]
    store.delete("hotel/weekly/x")
    assert everything(tmp_path / "new") == ["store"]


def test_files_of_others_are_neither_unfinished_uploads_nor_touched(store: LocalStore, tmp_path: Path) -> None:
    store.put(KEY, b"x")
    folder = tmp_path / "new" / "store"
    for name in (".nfs0001", "hotel/.night-porter-upload-short", "hotel/daily/.swp"):
        (folder / name).write_bytes(b"theirs")
    before = everything(folder)
    assert list(store.unfinished()) == []
    assert [entry.key for entry in store.list()] == [KEY]
    assert everything(folder) == before


def test_an_object_that_shrinks_while_it_is_read_is_an_error(store: LocalStore, tmp_path: Path) -> None:
    store.put(KEY, bytes(3 * MIB))
    chunks = store.read(KEY)
    next(chunks)
    os.truncate(tmp_path / "new" / "store" / KEY, 2 * MIB)
    with pytest.raises(StoreError, match="shorter"):
        list(chunks)


def test_the_room_left_is_that_of_the_file_system_even_before_the_folder_exists(
    store: LocalStore, tmp_path: Path
) -> None:
    file_system = os.statvfs(tmp_path)
    assert store.free_bytes() == pytest.approx(file_system.f_bavail * file_system.f_frsize, rel=0.1)


FILL = """
import resource, signal, sys
from pathlib import Path
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = LocalStore(Path(sys.argv[1]))
try:
    with store.upload("hotel/daily/x.dump") as upload:
        for _ in range(64):
            upload.write(bytes(1024 * 1024))
        upload.commit()
except StoreError as error:
    print(error)
    assert isinstance(error.__cause__, OSError) and not error.transient
else:
    sys.exit("the disk was never full")
assert list(store.list()) == [] and list(store.unfinished()) == []
store.check_writable()
"""


def fill(folder: Path, *, limit: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(folder), str(limit)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_that_may_not_grow_is_told_with_the_room_left_and_leaves_nothing(tmp_path: Path) -> None:
    told = fill(tmp_path / "store", limit=4 * MIB)
    assert "hotel/daily/x.dump" in told
    assert "bytes are left" in told
    assert "Make room" in told


def test_a_full_disk_is_told_with_the_room_left_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not Path("/bin/mount").exists():
        pytest.skip("NOT RUN: this machine cannot mount a small disk")
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("NOT RUN: this user may not mount a small disk")
    try:
        told = fill(disk / "store", limit=0)
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)
    assert "No space left on device" in told
    assert f"{disk}/store/hotel/daily/x.dump" in told
    assert "bytes are left" in told


def test_a_folder_that_may_not_be_written_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file, not a folder")
    with pytest.raises(StoreError, match="Not a directory") as refused:
        LocalStore(tmp_path / "store").check_writable()
    assert "mounted" in refused.value.remedy


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from include.backup.stores.local import LocalStore
with LocalStore(Path(sys.argv[1])).upload("hotel/daily/x.dump") as upload:
    while True:
        upload.write(bytes(65536))
        print(flush=True)
"""


def test_a_killed_writer_leaves_nothing_listed_and_its_remains_are_found_and_removed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    assert list(store.list()) == []
    (left,) = store.unfinished()
    assert left.key == "hotel/daily/x.dump"
    assert abs(left.started.timestamp() - time.time()) < 60
    assert list(store.unfinished("hotel/daily/")) == [left]
    assert list(store.unfinished("hotel/weekly/")) == []
    store.abort(left)
    assert list(store.unfinished()) == []
    assert everything(tmp_path) == []
