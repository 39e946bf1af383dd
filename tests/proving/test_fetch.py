"""An archive comes to disk whole, as it was written and for nobody else to read, or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest

from include.backup.model import whole_sha256
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.backup.verify import BackupDamagedError
from include.errors import MaintenanceError
from include.proving.fetch import fetch
from tests.backup.dump_world import dump, options, run_sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.backup.model import Manifest
    from include.stack.postgres import PostgresServer

KINDS = ("plain", "encrypted", "directory", "encrypted directory")
IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())


@pytest.fixture(scope="module")
def made(pg17: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Manifest]]]:
    """A store with one backup of every kind, made once; each test gets a copy of it."""
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "staging").mkdir()
    source = pg17.superuser("fetch_source")
    run_sql(pg17.superuser(), "CREATE DATABASE fetch_source TEMPLATE template0")
    run_sql(
        source,
        "CREATE TABLE t AS SELECT i, md5(i::text) || md5((-i)::text) AS f FROM generate_series(1, 60000) i",
        "CREATE TABLE u AS SELECT 1 AS a",
    )
    store = LocalStore(folder / "store")

    def backup(kind: str) -> Manifest:
        recipients = (RECIPIENT,) if "encrypted" in kind else ()
        staging = folder / "staging" if "directory" in kind else None
        return dump(source, store, options("none", staging=staging, encryption_recipients=recipients))

    yield folder / "store", {kind: backup(kind) for kind in KINDS}
    run_sql(pg17.superuser(), "DROP DATABASE fetch_source")


@pytest.fixture
def store(made: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> LocalStore:
    shutil.copytree(made[0], tmp_path / "store")
    return LocalStore(tmp_path / "store")


@pytest.fixture
def manifests(made: tuple[Path, dict[str, Manifest]]) -> dict[str, Manifest]:
    return made[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "parent" / "staging"
    made.mkdir(parents=True, mode=0o700)
    return made


def key_for(manifest: Manifest) -> str | None:
    return str(IDENTITY) if manifest.encryption_recipients else None


def stored(store: LocalStore, manifest: Manifest) -> dict[str, bytes]:
    """The archive's files as they are to be on disk."""
    files = {}
    for file in manifest.files:
        data = store.get(f"{manifest.id}{file.suffix}")
        files[Path(file.suffix).name] = pyrage.decrypt(data, [IDENTITY]) if manifest.encryption_recipients else data
    return files


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_stored_comes_to_disk_decrypted_and_for_its_owner_alone(
    store: LocalStore, manifests: dict[str, Manifest], kind: str, folder: Path
) -> None:
    manifest = manifests[kind]
    told: list[int] = []
    before = os.umask(0)
    try:
        archive = fetch(store, manifest, folder, identity=key_for(manifest), progress=told.append)
    finally:
        os.umask(before)
    expected = stored(store, manifest)
    if "directory" in kind:
        assert {path.name: path.read_bytes() for path in archive.iterdir()} == expected
        assert archive.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in archive.iterdir()} == {0o600}
    else:
        assert archive.read_bytes() == expected[".dump"]
        assert archive.stat().st_mode & 0o777 == 0o600
    assert told == sorted(told)
    assert told[-1] == manifest.bytes


@pytest.mark.parametrize("kind", KINDS)
def test_any_difference_from_what_was_written_is_damage(
    store: LocalStore, manifests: dict[str, Manifest], kind: str, folder: Path
) -> None:
    manifest = manifests[kind]
    for number, file in enumerate(manifest.files):
        key = f"{manifest.id}{file.suffix}"
        whole = store.get(key)
        middle = len(whole) // 2
        damages = {
            "sha256 is": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            f"{len(whole) - 1} bytes are stored": whole[:-1],
            f"{len(whole) + 1} bytes are stored": whole + b"\0",
            "0 bytes are stored": b"",
            "missing from the store": None,
        }
        for turn, (expected, data) in enumerate(damages.items()):
            store.delete(key) if data is None else store.put(key, data, replace=True)
            room = folder / f"{number}-{turn}"
            room.mkdir()
            with pytest.raises(BackupDamagedError, match=expected) as raised:
                fetch(store, manifest, room, identity=key_for(manifest))
            assert manifest.id in raised.value.what
            assert not raised.value.transient
        store.put(key, whole, replace=True)


def test_a_manifest_that_contradicts_itself_is_damage(
    store: LocalStore, manifests: dict[str, Manifest], folder: Path
) -> None:
    for change in ({"bytes": 1}, {"sha256": "0" * 64}):
        with pytest.raises(BackupDamagedError, match="contradicts itself"):
            fetch(store, manifests["plain"].model_copy(update=change), folder, identity=None)


def test_bytes_that_no_key_decrypts_are_damage_even_where_the_manifest_vouches_for_them(
    store: LocalStore, manifests: dict[str, Manifest], folder: Path
) -> None:
    from hashlib import sha256

    manifest = manifests["encrypted"]
    stranger = pyrage.x25519.Identity.generate().to_public()
    for number, data in enumerate((pyrage.encrypt(b"x" * 99, [stranger]), store.get(manifest.backup_id.dump_key)[:-9])):
        store.put(manifest.backup_id.dump_key, data, replace=True)
        file = manifest.files[0].model_copy(update={"bytes": len(data), "sha256": sha256(data).hexdigest()})
        forged = manifest.model_copy(update={"files": (file,), "bytes": len(data), "sha256": whole_sha256((file,))})
        (folder / str(number)).mkdir()
        with pytest.raises(BackupDamagedError, match="cannot be decrypted"):
            fetch(store, forged, folder / str(number), identity=str(IDENTITY))


@pytest.mark.parametrize("kind", ["encrypted", "encrypted directory"])
def test_a_missing_or_wrong_key_is_told_with_the_recipients_before_anything_is_read(
    manifests: dict[str, Manifest], kind: str, folder: Path, tmp_path: Path
) -> None:
    other = pyrage.x25519.Identity.generate()
    nothing = LocalStore(tmp_path / "nothing")
    for given in (None, "", "  \n", str(other), f"# a comment\n{other}\n", "AGE-SECRET-KEY-1NONSENSE", "hunter2"):
        with pytest.raises(MaintenanceError) as raised:
            fetch(nothing, manifests[kind], folder, identity=given)
        told = str(raised.value)
        assert not isinstance(raised.value, BackupDamagedError)
        assert not raised.value.transient
        assert "identity_connection" in raised.value.remedy
        assert "SECRET-KEY-1N" not in told
        assert "hunter2" not in told
        assert str(other) not in told
        if given not in ("AGE-SECRET-KEY-1NONSENSE", "hunter2"):
            assert RECIPIENT in told
        if given and str(other) in given:
            assert str(other.to_public()) in told
    assert list(folder.iterdir()) == []


def test_a_key_file_as_age_keygen_writes_it_will_do_and_so_will_several_keys(
    store: LocalStore, manifests: dict[str, Manifest], folder: Path
) -> None:
    other = pyrage.x25519.Identity.generate()
    text = f"# created: 2026-01-01\n# public key: {RECIPIENT}\n{other}\n\n{IDENTITY}\n"
    assert fetch(store, manifests["encrypted"], folder, identity=text).read_bytes() == next(
        iter(stored(store, manifests["encrypted"]).values())
    )


class TroubledStore(LocalStore):
    """A folder whose archives break off in the middle; files of a directory wait for each other before."""

    def __init__(self, root: Path, readers: int) -> None:
        super().__init__(root)
        self._together = threading.Barrier(readers, timeout=30)

    def read(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        self._together.wait()
        yield next(iter(super().read(key)))[:100]
        raise StoreError("the store went away", untouched="all", remedy="wait", transient=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_goes_away_is_no_word_against_the_backup(
    manifests: dict[str, Manifest], kind: str, folder: Path, store: LocalStore, tmp_path: Path
) -> None:
    # The files of a directory are read at the same time: each waits for the others.
    troubled = TroubledStore(tmp_path / "store", len(manifests[kind].files))
    with pytest.raises(StoreError, match="went away") as raised:
        fetch(troubled, manifests[kind], folder, identity=key_for(manifests[kind]))
    assert raised.value.transient


def test_a_staging_folder_without_room_is_told_before_anything_is_read(
    manifests: dict[str, Manifest], small_disk: Path, tmp_path: Path
) -> None:
    with pytest.raises(MaintenanceError, match=r"has .* free, the archive of .* takes") as raised:
        fetch(LocalStore(tmp_path / "nothing"), manifests["plain"], small_disk, identity=None)
    assert "staging" in raised.value.remedy


@pytest.mark.parametrize("kind", ["plain", "encrypted", "directory"])
def test_a_disk_that_fills_up_on_the_way_is_no_word_against_the_backup(
    store: LocalStore, manifests: dict[str, Manifest], small_disk: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody else takes the room meanwhile.
    monkeypatch.setattr("include.proving.fetch._require_room", lambda _folder, _manifest: None)
    with pytest.raises(MaintenanceError, match="No space left on device") as raised:
        fetch(store, manifests[kind], small_disk, identity=key_for(manifests[kind]))
    assert not isinstance(raised.value, BackupDamagedError)
