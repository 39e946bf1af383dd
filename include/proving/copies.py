"""Give me a restored copy of this backup: for as long as a block lives, and gone afterwards whatever happens."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.backup import source
from include.errors import MaintenanceError
from include.postgres import tools as client
from include.proving.fetch import fetch
from include.proving.ground import clean, refuse_source
from include.proving.marker import Marker, copy_name, lock_number
from include.proving.requirements import require
from include.proving.restore import create_database, restore_into
from include.proving.session import asking, drop_database, server_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from include.backup.model import Manifest
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn
    from include.postgres.tools import ClientTools
    from include.proving.archive_run import Progress
    from include.proving.ground import Ground

    Connection = psycopg.Connection[tuple[Any, ...]]

log = logging.getLogger(__name__)

STAGING_PREFIX = "night-porter-copy-"


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A restored copy.

    Args:
        dsn: the database, and the role that owns it.
        manifest: of the backup.
        archive: the archive on disk, decrypted, for as long as the block lives.
        tools: what restored it.
        fetch_seconds: bringing the archive to disk, hashed and decrypted.
        restore_seconds: from no database to one that can be used, VACUUM ANALYZE included where it was made.
    """

    dsn: Dsn
    manifest: Manifest
    archive: Path
    tools: ClientTools
    fetch_seconds: float
    restore_seconds: float


@contextmanager
def restored_copy(
    ground: Ground,
    store: Store,
    manifest: Manifest,
    *,
    jobs: int = 2,
    staging: Path | None = None,
    identity: str | None = None,
    for_plans: bool = False,
    keep_for: timedelta | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[Copy]:
    """A backup as a running database, dropped when the block ends, however it ends.

    What killed runs left is dropped first: databases and staging folders.

    Args:
        ground: where.
        store: where the backup is.
        manifest: of the backup.
        jobs: parallel workers of pg_restore.
        staging: folder with room for the whole archive; the system's temporary one by default.
        identity: age private key, for encrypted backups.
        for_plans: VACUUM and ANALYZE the copy, so that its plans are those of a database in use.
        keep_for: keep the database so long after the block's end, for people to look at; the archive goes.
        progress: told what is counted (`bytes`, `tables`, `indexes`), how much is done, and of how much.
        now: clock, UTC.

    Raises:
        GroundRefusedError: the backup came from that very server.
        MissingRequirementsError: the server lacks something; nothing was fetched or created.
        BackupDamagedError: what is stored is not what was written; nothing was created.
        RestoreFailedError: the archive could not be made a database.
        MaintenanceError: the server, the store or this machine failed; that says nothing about the backup.
    """
    refuse_source(ground, manifest)
    with restored(
        ground,
        store,
        manifest,
        purpose="",
        jobs=jobs,
        staging=staging,
        identity=identity,
        for_plans=for_plans,
        keep_for=keep_for,
        progress=progress,
        now=now,
    ) as copy:
        yield copy


@contextmanager
def restored(
    ground: Ground,
    store: Store,
    manifest: Manifest,
    *,
    purpose: str,
    jobs: int,
    staging: Path | None,
    identity: str | None,
    for_plans: bool,
    keep_for: timedelta | None,
    progress: Progress,
    now: Callable[[], datetime],
) -> Iterator[Copy]:
    """As `restored_copy`, but on any server, the backup's own too: for a recovery, which renames the database.

    A database that has another name when the block ends is not dropped.

    Args:
        purpose: begins the database's name: `np_<purpose><configured name>_…`.
        ground, store, manifest, jobs, staging, identity, for_plans, keep_for, progress, now: as for `restored_copy`.
    """
    clean(ground, now=now())
    with asking(ground.dsn, "the server could not be asked what it has", database=manifest.database) as connection:
        require(connection, manifest)
    with _staging(staging) as folder:
        started = time.monotonic()
        archive = fetch(
            store,
            manifest,
            folder,
            identity=identity,
            progress=lambda done: progress("bytes", done, manifest.bytes),
        )
        fetched = time.monotonic()
        with _database(ground.dsn, manifest, purpose=purpose, keep_for=keep_for, now=now) as (dsn, keep):
            tools = restore_into(dsn, archive, manifest, jobs=jobs, progress=progress)
            if for_plans:
                _prepare_for_plans(dsn, tools, manifest, jobs=jobs)
            keep()
            yield Copy(
                dsn=dsn,
                manifest=manifest,
                archive=archive,
                tools=tools,
                fetch_seconds=fetched - started,
                restore_seconds=time.monotonic() - fetched,
            )


@contextmanager
def empty_database(
    server: Dsn, manifest: Manifest, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[Dsn]:
    """An empty database made like a backup's own, dropped when the block ends; known as ours if the run is killed.

    Args:
        server: a maintenance database of the server, and a role with CREATEDB.
        manifest: of the backup.
        now: clock, UTC.

    Raises:
        MaintenanceError: the server refused or failed.
    """
    with _database(server, manifest, purpose="", keep_for=None, now=now) as (dsn, _):
        yield dsn


@contextmanager
def _database(
    server: Dsn, manifest: Manifest, *, purpose: str, keep_for: timedelta | None, now: Callable[[], datetime]
) -> Iterator[tuple[Dsn, Callable[[], None]]]:
    """A marked database, and a function that says it is complete, from when on `keep_for` holds."""
    created = now()
    name = copy_name(f"{purpose}{manifest.database}", created)
    marker = Marker(backup=manifest.id, created=created)
    complete = False

    def keep() -> None:
        nonlocal complete
        complete = True
        if keep_for is not None:
            _mark(server, name, marker.model_copy(update={"keep_until": now() + keep_for}), manifest)

    def end() -> None:
        if complete and keep_for is not None:
            keep()
        else:
            _drop(server, name, manifest)

    with _holding(server, name, manifest) as holder:
        try:
            create_database(holder, name, manifest, comment=marker.model_dump_json())
            yield server.with_dbname(name), keep
        except BaseException as error:
            try:
                end()
            except MaintenanceError as second:
                log.warning("the copy %s is left for the next run to drop: %s", name, second)
                error.add_note(f"the copy {name} could not be dropped either; the next run drops it")
            raise
        end()


@contextmanager
def _holding(server: Dsn, name: str, manifest: Manifest) -> Iterator[Connection]:
    """A session that holds the lock of a name: while it is there, nobody takes the copy for a leftover."""
    with source.connect(server, database=manifest.database) as holder:
        try:
            for setting in ("idle_session_timeout", "statement_timeout", "lock_timeout"):
                holder.execute(f"SET {setting} = 0".encode())
            holder.execute("SELECT pg_advisory_lock(%s)", [lock_number(name)])
        except psycopg.Error as error:
            raise server_error(f"the name {name} could not be locked", error, database=manifest.database) from error
        yield holder


def _mark(server: Dsn, name: str, marker: Marker, manifest: Manifest) -> None:
    comment = sql.Literal(marker.model_dump_json())
    statement = sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), comment)
    with asking(server, f"the copy {name} could not be marked", database=manifest.database) as connection:
        connection.execute(statement)


def _drop(server: Dsn, name: str, manifest: Manifest) -> None:
    # In a session of its own: the one that holds the lock may be gone.
    with asking(server, f"the copy {name} could not be dropped", database=manifest.database) as connection:
        drop_database(connection, name)


def _prepare_for_plans(dsn: Dsn, tools: ClientTools, manifest: Manifest, *, jobs: int) -> None:
    command = [tools.path("vacuumdb"), "--analyze", "--quiet", f"--jobs={jobs}"]
    with tempfile.TemporaryFile() as stderr:
        with client.running(command, dsn, stderr=stderr, stdin=subprocess.DEVNULL) as process:
            failure = client.outcome(process, stderr)
        if failure is not None:
            raise MaintenanceError(
                f"the copy {dsn.dbname} could not be vacuumed: {failure}",
                database=manifest.database,
                untouched="the backup, production and every other database are as they were",
                remedy="the message above is the server's or vacuumdb's own; mend its cause and try again",
            )


@contextmanager
def _staging(parent: Path | None) -> Iterator[Path]:
    """A folder for nobody but us, locked while it is in use, gone when the block ends."""
    root = Path(parent or tempfile.gettempdir())
    try:
        _clear_leftovers(root)
        folder, descriptor = _locked_folder(root)
    except OSError as error:
        raise MaintenanceError(
            f"the staging folder {root} cannot be used: {error}",
            untouched="nothing was created on any server; the backups are as they were",
            remedy="name a folder that exists wherever tasks run and is writable (proving_ground: {staging: …})",
        ) from error
    try:
        yield folder
    finally:
        _remove(folder, descriptor)


def _locked_folder(root: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(dir=root, prefix=STAGING_PREFIX))  # of mode 0700
        if (descriptor := _lock(folder)) is not None:
            return folder, descriptor


def _clear_leftovers(root: Path) -> None:
    """Remove what killed runs left: folders of ours that nobody has locked. The kernel unlocks a dead run's."""
    for folder in root.glob(f"{STAGING_PREFIX}*"):
        if (descriptor := _lock(folder)) is not None:
            _remove(folder, descriptor)


def _remove(folder: Path, descriptor: int) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("the staging folder %s is left for the next run to remove: %s", folder, error)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """Lock a folder of ours; None where another process has it, or has removed it meanwhile."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        if found.st_uid == os.geteuid() and found.st_ino == folder.stat().st_ino:
            return descriptor
    os.close(descriptor)
    return None
