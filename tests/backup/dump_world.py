"""What the tests of dumping share: options in one line, a restore by hand, and the fingerprints of a restored copy."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyrage

from include.backup import source
from include.backup.dump import back_up
from include.backup.fingerprint import SESSION_SETTINGS, fingerprint
from include.backup.model import Manifest, Tier
from include.backup.options import ArchiveOptions, DumpOptions
from include.backup.stores.local import LocalStore, LocalUpload
from include.postgres import tools as client

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.backup.model import TableFingerprint
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn


def options(compression: str = "zstd:1", *, staging: Path | None = None, jobs: int = 2, **others: Any) -> DumpOptions:
    """Directory format where there is a staging folder, else custom."""
    archive = (
        ArchiveOptions(format="directory", compression=compression, jobs=jobs, staging=str(staging))
        if staging
        else ArchiveOptions(compression=compression)
    )
    return DumpOptions(archive=archive, **others)


def dump(dsn: Dsn, store: Store, how: DumpOptions | None = None, *, database: str = "app", **others: Any) -> Manifest:
    """A daily backup, unless told otherwise."""
    return back_up(
        dsn,
        store,
        **{"database": database, "tier": Tier.DAILY, "options": how or options(), "run_id": "test", **others},
    )


def fetch(store: Store, manifest: Manifest, folder: Path, *, private_key: str | None = None) -> Path:
    """Bring the archive to disk as a person without Night Porter would: copy the objects, decrypt, nothing else."""
    folder.mkdir(parents=True)
    for file in manifest.files:
        data = b"".join(store.read(f"{manifest.id}{file.suffix}"))
        if private_key is not None:
            data = pyrage.decrypt(data, [pyrage.x25519.Identity.from_str(private_key)])
        (folder / Path(file.suffix).name).write_bytes(data)
    return folder if manifest.archive_format == "directory" else folder / ".dump"


def restore(archive: Path, manifest: Manifest, target: Dsn) -> None:
    """Stock pg_restore, of the version that dumped; any complaint of it fails the test."""
    major = int(manifest.tools["pg_dump"].split(".")[0])
    (tools,) = (found for found in client.installed() if found.major == major)
    answer = subprocess.run(
        [tools.path("pg_restore"), "--exit-on-error", "--dbname", f"host={target.host} port={target.port} "
         f"dbname={target.dbname} user={target.user}", str(archive)],
        env={"PGPASSWORD": target.password or "", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")


def fingerprints(dsn: Dsn) -> tuple[TableFingerprint, ...]:
    """Of a database as it is now, oids aside: those differ in a restored copy."""
    with dsn.connect() as connection, connection.transaction():
        for setting in SESSION_SETTINGS:
            connection.execute(setting.encode())
        tables = source.contents(connection, revision_table="dbmaint.schema_revision").tables
        return without_oids(fingerprint(connection, tables, hashes=True))


def without_oids(tables: tuple[TableFingerprint, ...]) -> tuple[TableFingerprint, ...]:
    return tuple(table.model_copy(update={"oid": 0}) for table in tables)


def run_sql(dsn: Dsn, *statements: str) -> None:
    with dsn.connect() as connection:
        for statement in statements:
            connection.execute(statement.encode())


class WatchedStore(LocalStore):
    """A folder that tells the test each step (`upload`, `write`, `commit`, `put`) and the bytes written so far.

    What the test does then, or raises, happens in the middle of a backup.
    """

    def __init__(self, root: Path, at: Callable[[str, int], None]) -> None:
        super().__init__(root)
        self.at = at

    def upload(self, key: str, *, expected_bytes: int | None = None) -> LocalUpload:
        self.at("upload", 0)
        return _WatchedUpload(self._path(key), self._root, self.at)

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        self.at("put", len(data))
        super().put(key, data, replace=replace)


class _WatchedUpload(LocalUpload):
    def __init__(self, path: Path, root: Path, at: Callable[[str, int], None]) -> None:
        super().__init__(path, root=root)
        self._at = at
        self._sent = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._sent += super().write(data)
        self._at("write", self._sent)
        return len(data)

    def commit(self, *, replace: bool = False) -> None:
        self._at("commit", self._sent)
        super().commit(replace=replace)


def once(step: str, act: Callable[[], object], *, after: int = 0) -> Callable[[str, int], None]:
    """Do something the first time that a step is reached with so many bytes written."""
    done: list[int] = []

    def at(reached: str, sent: int) -> None:
        if reached == step and sent >= after and not done:
            done.append(sent)
            act()

    return at


def pg_dumps(dsn: Dsn) -> list[psutil.Process]:
    """Every pg_dump that reads this database, whoever started it."""
    found = []
    ours = {f"port={dsn.port}", f"dbname={dsn.dbname}"}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != "pg_dump":
                continue
            if ours <= set(" ".join(process.cmdline()).replace("'", "").split()):
                found.append(process)
    return found


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def soon(true: Callable[[], bool], *, seconds: float) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
