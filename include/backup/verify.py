"""Reading a backup back: what the store gives must be what was written, and a whole archive of the right tables.

The archive is decoded to its end by pg_restore, but that alone finds too little: pg_restore decodes many damaged
archives with status 0 and wrong data. The sha256 over all stored bytes is what finds a flipped bit.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from include.backup.archive import STAGING_PREFIX
from include.backup.catalog import read_manifest
from include.backup.model import Verification, whole_sha256
from include.backup.stores.base import MissingObjectError
from include.errors import MaintenanceError
from include.postgres import tools as client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from io import FileIO

    from include.backup.model import BackupId, Manifest, StoredFile
    from include.backup.stores.base import Store

    Progress = Callable[[int], None]

# "215; 0 16402 TABLE DATA public bookings hotel": dump id, catalogue's oid, object's oid, kind, names. The oid is
# compared, not the name: names may hold spaces.
_TABLE_DATA = re.compile(r"^\d+; \d+ (?P<oid>\d+) TABLE DATA ", re.MULTILINE)


class BackupDamagedError(MaintenanceError):
    """What is stored is not what was written."""


@dataclass
class _Pass:
    """One reading of the stored bytes: counted, hashed and, if `sink` is there, handed on to pg_restore."""

    progress: Progress
    read: int = 0

    def run(self, chunks: Iterable[bytes], sink: FileIO | None) -> tuple[int, str]:
        sha256 = hashlib.sha256()
        size = 0
        for chunk in chunks:
            sha256.update(chunk)
            size += len(chunk)
            self.read += len(chunk)
            if sink is not None:
                sink = _hand_on(sink, chunk)
            self.progress(self.read)
        return size, sha256.hexdigest()


def _hand_on(sink: FileIO, chunk: bytes) -> FileIO | None:
    # pg_restore may end early on a damaged archive. The bytes are read on all the same: their hash says more.
    view = memoryview(chunk)
    try:
        while view:
            view = view[sink.write(view) :]
    except BrokenPipeError:
        return None
    return sink


def verify(
    store: Store,
    backup: BackupId,
    *,
    staging: Path | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Progress = lambda _: None,
) -> Verification:
    """Read one backup back from the store, judge it and put the outcome beside it.

    Encrypted archives are verified as encrypted bytes: the private key is not needed, and not asked for.

    Args:
        store: where it is.
        backup: which one.
        staging: folder with room for a whole archive of directory format; the system's temporary one by default.
        now: clock, UTC.
        progress: told the bytes read so far.

    Returns:
        The outcome, as recorded in `….verify.json`.

    Raises:
        BackupDamagedError: size, hash, decoding or table list is not what the manifest says; recorded too.
        MaintenanceError: it could not be judged (store gone, tools missing); nothing is recorded.
    """
    started = time.monotonic()
    manifest = read_manifest(store, backup)
    failure = _judge(store, manifest, staging, progress)
    outcome = Verification(
        backup=manifest.id,
        sha256=manifest.sha256,
        verified_at=now(),
        level="encrypted bytes" if manifest.encryption_recipients else "archive",
        failure=failure,
        seconds=round(time.monotonic() - started, 3),
    )
    store.put(backup.verification_key, outcome.model_dump_json(indent=2).encode(), replace=True)
    if failure is not None:
        raise BackupDamagedError(
            f"backup {manifest.id} is damaged: {failure}",
            database=manifest.database,
            untouched="it stays where it is, marked as failed, and fills no slot; other backups are as they were",
            remedy="run the backup again now, then look into the store that holds it",
        )
    return outcome


def _judge(store: Store, manifest: Manifest, staging: Path | None, progress: Progress) -> str | None:
    """What is wrong with the stored archive, or None."""
    if manifest.bytes != sum(file.bytes for file in manifest.files) or manifest.sha256 != whole_sha256(manifest.files):
        return "the manifest contradicts itself: bytes and sha256 are not those of the files that it lists"
    reading = _Pass(progress)
    try:
        if manifest.inventory is not None:
            # Not counted in the progress, which is told in bytes of the archive.
            stored = _Pass(lambda _: None).run(_read(store, manifest, manifest.inventory), None)
            if wrong := _compare(manifest.inventory, *stored):
                return wrong
        if manifest.encryption_recipients:
            return _first(_compare(file, *reading.run(_read(store, manifest, file), None)) for file in manifest.files)
        tools = client.choose(_major(manifest.tools["pg_dump"]), manifest.compression, database=manifest.database)
        if manifest.archive_format == "directory":
            return _judge_directory(store, manifest, tools, staging, reading)
        return _judge_custom(store, manifest, tools, reading)
    except MissingObjectError as error:
        return f"an object is missing from the store: {error.what}"


def _judge_custom(store: Store, manifest: Manifest, tools: client.ClientTools, reading: _Pass) -> str | None:
    (file,) = manifest.files
    with tempfile.TemporaryFile() as stderr, _decoder(tools, stderr, stdin=subprocess.PIPE) as process:
        size, sha256 = reading.run(_read(store, manifest, file), cast("FileIO", process.stdin))
        if process.stdin is not None:
            process.stdin.close()
        undecodable = client.outcome(process, stderr)
    if wrong := _compare(file, size, sha256):
        return wrong
    if undecodable:
        return f"the archive cannot be decoded to its end: {undecodable}"
    return _compare_tables(manifest, _list_streamed(tools, _read(store, manifest, file)))


def _judge_directory(
    store: Store, manifest: Manifest, tools: client.ClientTools, staging: Path | None, reading: _Pass
) -> str | None:
    """A directory has to be brought to disk whole: pg_restore opens its files by name."""
    with tempfile.TemporaryDirectory(dir=staging, prefix=STAGING_PREFIX) as name, ExitStack() as stack:
        folder = Path(name)
        for file in manifest.files:
            with (folder / Path(file.suffix).name).open("wb", buffering=0) as target:
                wrong = _compare(file, *reading.run(_read(store, manifest, file), target))
            if wrong:
                return wrong
        stderr = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(_decoder(tools, stderr, name))
        if undecodable := client.outcome(process, stderr):
            return f"the archive cannot be decoded to its end: {undecodable}"
        listing = subprocess.run(
            [tools.path("pg_restore"), "--list", name], capture_output=True, text=True, check=False
        )
        return _compare_tables(manifest, listing.stdout)


def _decoder(tools: client.ClientTools, stderr: IO[bytes], *source: str, **streams: int) -> client.Running:
    """pg_restore that decodes every block and throws the SQL away."""
    return client.running([tools.path("pg_restore"), "--file=/dev/null", *source], None, stderr=stderr, **streams)


def _list_streamed(tools: client.ClientTools, chunks: Iterable[bytes]) -> str:
    """The archive's table of contents, which is at its head: pg_restore stops reading after it."""
    with (
        tempfile.TemporaryFile() as stderr,
        tempfile.TemporaryFile() as listing,
        client.running(
            [tools.path("pg_restore"), "--list"], None, stderr=stderr, stdin=subprocess.PIPE, stdout=listing
        ) as process,
    ):
        sink: FileIO | None = cast("FileIO", process.stdin)
        for chunk in chunks:
            sink = _hand_on(sink, chunk) if sink is not None else None
            if sink is None:
                break
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
        listing.seek(0)
        return listing.read().decode(errors="replace")


def _compare_tables(manifest: Manifest, listing: str) -> str | None:
    expected = {table.oid: f"{table.schema_name}.{table.name}" for table in manifest.tables}
    found = {int(match["oid"]) for match in _TABLE_DATA.finditer(listing)}
    if missing := [name for oid, name in expected.items() if oid not in found]:
        return f"tables of the snapshot are not in the archive: {', '.join(sorted(missing))}"
    if surplus := sorted(found - expected.keys()):
        return f"the archive holds tables that the snapshot did not (oids {', '.join(map(str, surplus))})"
    return None


def _compare(file: StoredFile, size: int, sha256: str) -> str | None:
    if size != file.bytes:
        return f"{file.suffix}: {size} bytes are stored, {file.bytes} were written"
    if sha256 != file.sha256:
        return f"{file.suffix}: sha256 is {sha256}, {file.sha256} was written"
    return None


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _read(store: Store, manifest: Manifest, file: StoredFile) -> Iterable[bytes]:
    return store.read(f"{manifest.backup_id.stem}{file.suffix}")


def _major(version: str) -> int:
    return int(re.match(r"\d+", version)[0])  # type: ignore[index]
