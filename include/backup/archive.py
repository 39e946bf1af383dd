"""Running pg_dump and bringing what it writes into a store, hashed and, where wanted, encrypted on the way."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from include.backup import source
from include.backup.model import StoredFile
from include.errors import MaintenanceError
from include.postgres import tools as client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

    from include.backup.model import BackupId
    from include.backup.options import DumpOptions
    from include.backup.stores.base import Store, Upload
    from include.postgres.dsn import Dsn

    Progress = Callable[[int], None]

log = logging.getLogger(__name__)

PIPE_BYTES = 1024 * 1024
STAGING_PREFIX = "night-porter-staging-"
STAGING_LEFTOVER_SECONDS = 2 * 24 * 3600.0
UNTOUCHED = "nothing is listed as a backup; earlier backups are as they were"
_CONNECTION_LOST = (
    "server closed the connection",
    "connection to server",
    "no connection to the server",
    "terminating connection",
    "before or while processing the request",  # the end of what libpq says of a lost server; its start may be cut off
)
# What --lock-wait-timeout sets is the statement's timeout.
_LOCK_FAILURE = re.compile(r"timeout.*LOCK TABLE")


@dataclass
class Meter:
    """Counts and hashes what goes into an upload, and tells the progress in bytes."""

    upload: Upload
    progress: Progress

    def __post_init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.sent = 0
        self.error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes. An error is remembered too, because age's library flattens it to text."""
        try:
            self._sha256.update(data)
            self.upload.write(data)
            self.sent += len(data)
            self.progress(self.sent)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here; encryption asks for it."""

    @property
    def sha256(self) -> str:
        """Of all bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DumpJob:
    """Everything that one run of pg_dump needs.

    Args:
        dsn: the source.
        store: where the archive goes.
        backup: the name it takes.
        tools: the pg_dump to run.
        snapshot: the exported snapshot's name.
        options: how to dump.
        expected_bytes: an estimate of the archive's size.
        progress: told the bytes sent so far.
        before_commit: called when pg_dump has succeeded; an exception from it discards the archive.
    """

    dsn: Dsn
    store: Store
    backup: BackupId
    tools: client.ClientTools
    snapshot: str
    options: DumpOptions
    expected_bytes: int
    progress: Progress
    before_commit: Callable[[], None]

    def run(self) -> tuple[StoredFile, ...]:
        """Dump into the store.

        Raises:
            MaintenanceError: pg_dump failed, was killed or took too long, or the store failed; no archive is visible
                in the store then (of a directory, files may be: they belong to no manifest).
        """
        if self.options.archive.format == "custom":
            return self._custom()
        try:
            return self._directory()
        except OSError as error:
            raise MaintenanceError(
                f"the staging folder {self.options.archive.staging} cannot be used: {error}",
                database=self.backup.database,
                untouched=UNTOUCHED,
                remedy="create it on every machine that runs tasks, with room for a dump and writable for its account",
            ) from error

    def _custom(self) -> tuple[StoredFile, ...]:
        """Stream one archive straight to the store; nothing touches the local disk."""
        with (
            self._pg_dump("--format=custom", stdout=subprocess.PIPE) as (process, check),
            self.store.upload(self.backup.dump_key, expected_bytes=self.expected_bytes) as upload,
        ):
            if process.stdout is None:
                raise AssertionError("pg_dump was started without a pipe")
            _widen(process.stdout)
            meter = Meter(upload, self.progress)
            copy(cast("FileIO", process.stdout), meter, self.options.encryption_recipients)
            check()
            self.before_commit()
            upload.commit()
            return (StoredFile(suffix=".dump", bytes=meter.sent, sha256=meter.sha256),)

    def _directory(self) -> tuple[StoredFile, ...]:
        """Dump with several jobs into the staging folder, then bring each file into the store."""
        if self.options.archive.staging is None:
            raise AssertionError("options without staging do not validate")
        staging = Path(self.options.archive.staging)
        _clear_leftovers(staging)
        with tempfile.TemporaryDirectory(dir=staging, prefix=STAGING_PREFIX) as name:
            folder = Path(name) / "archive"
            jobs = f"--jobs={self.options.archive.jobs}"
            with self._pg_dump("--format=directory", jobs, f"--file={folder}") as (_, check):
                check()
            self.before_commit()
            done = 0
            files = []
            for path in sorted(folder.iterdir()):
                suffix = f".dump/{path.name}"
                key = f"{self.backup.stem}{suffix}"
                size = path.stat().st_size
                with path.open("rb", buffering=0) as file, self.store.upload(key, expected_bytes=size) as upload:
                    meter = Meter(upload, partial(self._report, done))
                    copy(file, meter, self.options.encryption_recipients)
                    upload.commit()
                done += meter.sent
                files.append(StoredFile(suffix=suffix, bytes=meter.sent, sha256=meter.sha256))
            return tuple(files)

    def _report(self, before: int, sent: int) -> None:
        self.progress(before + sent)

    @contextmanager
    def _pg_dump(self, *arguments: str, **streams: int) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], None]]]:
        """A running pg_dump, and a check to call at its end, which waits for it and raises unless it succeeded."""
        command = [
            self.tools.path("pg_dump"),
            f"--snapshot={self.snapshot}",
            client.compress_option(self.tools, self.options.archive.compression),
            f"--lock-wait-timeout={self.options.lock_timeout_seconds * 1000}",
            *arguments,
        ]
        with (
            tempfile.TemporaryFile() as stderr,
            client.running(command, self.dsn, stderr=stderr, **streams) as process,
            _deadline(process, self.options) as overdue,
        ):

            def check() -> None:
                failure = client.outcome(process, stderr)
                if failure is not None and _LOCK_FAILURE.search(failure):
                    raise _lock_error(self.dsn, self.backup.database, self.options.lock_timeout_seconds)
                if failure is not None:
                    raise _error(failure, self.backup.database, overdue=overdue.is_set())
                for message in client.messages(stderr):  # with success, warnings: what it left out, and why
                    log.warning("%s: %s", self.backup.database, message)

            yield process, check


def copy(source: FileIO, meter: Meter, recipients: tuple[str, ...]) -> None:
    """Bring all bytes of `source` to the meter, encrypted where there are recipients; memory stays bounded.

    Raises:
        MaintenanceError: the store failed.
    """
    if recipients:
        _copy_encrypted(source, meter, recipients)
        return
    buffer = memoryview(bytearray(PIPE_BYTES))
    while count := source.readinto(buffer):
        meter.write(buffer[:count])


def _copy_encrypted(source: FileIO, meter: Meter, recipients: tuple[str, ...]) -> None:
    import pyrage

    keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    try:
        pyrage.encrypt_io(source, meter, keys)
    except pyrage.EncryptError:
        if meter.error is not None:
            raise meter.error from None
        raise


def _widen(pipe: IO[bytes]) -> None:
    # 64 KiB is Linux's default; a larger pipe lets pg_dump go on while a part is handed over. Elsewhere it stays.
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # an account's pipes may hold so much together, and no more
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


@contextmanager
def _deadline(process: subprocess.Popen[bytes], options: DumpOptions) -> Iterator[threading.Event]:
    overdue = threading.Event()

    def stop() -> None:
        overdue.set()
        process.kill()

    timer = threading.Timer(options.dump_timeout_minutes * 60, stop)
    timer.daemon = True
    timer.start()
    try:
        yield overdue
    finally:
        timer.cancel()


def _error(failure: str, database: str, *, overdue: bool) -> MaintenanceError:
    if overdue:
        return MaintenanceError(
            "the dump took longer than dump_timeout_minutes allows and was stopped",
            database=database,
            untouched=UNTOUCHED,
            remedy="raise dump_timeout_minutes, or dump in parallel (archive: {format: directory, …})",
        )
    lost = any(words in failure for words in _CONNECTION_LOST)
    return MaintenanceError(
        f"the dump failed: {failure}",
        database=database,
        untouched=UNTOUCHED,
        remedy=_remedy(failure, lost=lost),
        transient=lost,
    )


def _lock_error(dsn: Dsn, database: str, waited_seconds: int) -> MaintenanceError:
    # pg_dump's own message names every table of the database: it asks for all locks in one statement.
    with source.connect(dsn, database=database) as connection:
        held = ", ".join(source.exclusively_locked(connection))
    return MaintenanceError(
        f"pg_dump got no lock on every table within {waited_seconds} s; exclusively locked: {held or 'none any more'}",
        database=database,
        untouched=UNTOUCHED,
        remedy="end the session that holds the lock, or run the backup when its work is over",
        transient=True,
    )


def _remedy(failure: str, *, lost: bool) -> str:
    if "killed by signal" in failure:
        return (
            "look for the kernel's out-of-memory killer or an operator on the machine that ran the task; run it again"
        )
    if lost:
        return "look into the server's log for why it ended the session, then run the backup again"
    if "permission denied" in failure:
        return "grant the backup role SELECT on the named object (or membership in pg_read_all_data)"
    return "the message above is pg_dump's own; mend its cause and run the backup again"


def _clear_leftovers(staging: Path) -> None:
    """Remove what killed runs left in the staging folder: our own names only, and only when long out of use."""
    for folder in staging.glob(f"{STAGING_PREFIX}*"):
        if time.time() - folder.stat().st_mtime > STAGING_LEFTOVER_SECONDS:
            shutil.rmtree(folder)
