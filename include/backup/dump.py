"""One backup: a snapshot, an archive of it in the store, and the manifest that makes it exist."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg

from include.backup import archive, source
from include.backup.fingerprint import fingerprint
from include.backup.inventory import (
    Inventory,
    LargeObjects,
    SchemaObject,
    SequenceWindow,
    as_archived,
    take_large_objects,
    take_objects,
    take_sequences,
    windows,
    write_inventory,
)
from include.backup.model import Manifest, TableFingerprint, Tier, whole_sha256
from include.backup.snapshot import Snapshot, claim, exported
from include.errors import MaintenanceError
from include.postgres import tools as client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.options import DumpOptions
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn

log = logging.getLogger(__name__)

# Measured (benchmarks/README.md): a zstd:1 dump has 8 % of the hotel database's size on disk and 40 % of the tokens
# table's. A third lies near the upper end; that an estimate may be too small is what growing parts are for.
EXPECTED_SHARE = 1 / 3
CANCEL_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class _Held:
    """What the snapshot's own session read beside the dump, and how long that took."""

    tables: tuple[TableFingerprint, ...]
    objects: tuple[SchemaObject, ...]
    large_objects: LargeObjects
    seconds: float


@dataclass
class _Reading:
    """The reading that goes on beside a dump; `finish` waits for it, and reads the sequences once more."""

    snapshot: Snapshot
    future: Future[_Held]
    sequences: tuple[SequenceWindow, ...] = ()

    def finish(self) -> None:
        """For when pg_dump has ended: an archive without what proves it is not to be committed."""
        self.future.result()
        self.sequences = windows(self.snapshot.sequences, take_sequences(self.snapshot.connection))


def back_up(
    dsn: Dsn,
    store: Store,
    *,
    database: str,
    tier: Tier,
    options: DumpOptions,
    run_id: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    keep_forever: bool = False,
    reason: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Dump one database into the store.

    Fingerprints and inventory are taken in the very snapshot that pg_dump reads, while it reads. The manifest is
    written last: whatever fails before that leaves no backup, and no earlier one is touched.

    Args:
        dsn: the source.
        store: where it goes.
        database: the configured name.
        tier: why it is made.
        options: how.
        run_id: of the Airflow run, or what else started it.
        now: clock, UTC.
        keep_forever: pruning never touches it.
        reason: free text of the person who started it.
        progress: told the bytes sent so far.

    Returns:
        The manifest as written.

    Raises:
        MaintenanceError: anything that failed, with the cause and the remedy.
    """
    with source.connect(dsn, database=database) as connection, _session_errors(database):
        server_major = source.identity(connection).major
        tools = client.choose(server_major, options.archive.compression, database=database)
        backup = claim(connection, store, database=database, tier=tier, now=now())
        timeout = timedelta(minutes=options.dump_timeout_minutes)
        lock_timeout = timedelta(seconds=options.lock_timeout_seconds)
        with exported(
            connection, revision_table=options.revision_table, timeout=timeout, lock_timeout=lock_timeout
        ) as snapshot:
            started = time.monotonic()
            with _reading(snapshot, hashes=options.fingerprints == "hashes") as reading:
                files = archive.DumpJob(
                    dsn=dsn,
                    store=store,
                    backup=backup,
                    tools=tools,
                    snapshot=snapshot.name,
                    options=options,
                    expected_bytes=int(snapshot.database_bytes * EXPECTED_SHARE),
                    progress=progress,
                    before_commit=reading.finish,
                ).run()
            seconds = time.monotonic() - started
        held = reading.future.result()
        objects, left_out = as_archived(held.objects)
        for item in left_out:
            log.warning("%s: %s %s is not dumped as it is: %s", database, item.kind, item.name, item.flags)
        inventory = Inventory(
            backup=backup.stem,
            server_major=server_major,
            objects=objects,
            left_out=left_out,
            sequences=reading.sequences,
            large_objects=held.large_objects,
        )
        stored = write_inventory(store, backup, inventory, recipients=options.encryption_recipients)
        manifest = Manifest(
            id=backup.stem,
            database=database,
            tier=tier,
            created_at=backup.created_at,
            finished_at=now(),
            run_id=run_id,
            server=snapshot.server,
            tools={"pg_dump": tools.version, **_age_version(options)},
            archive_format=options.archive.format,
            compression=options.archive.compression,
            encryption_recipients=options.encryption_recipients,
            bytes=sum(file.bytes for file in files),
            sha256=whole_sha256(files),
            files=files,
            dump_seconds=round(seconds, 3),
            fingerprint_seconds=round(held.seconds, 3),
            tables=held.tables,
            schema_revision=snapshot.contents.schema_revision,
            revision_table=options.revision_table,
            extensions=snapshot.contents.extensions,
            roles=snapshot.contents.roles,
            owners=snapshot.contents.owners,
            locale=snapshot.contents.locale,
            inventory=stored,
            keep_forever=keep_forever,
            reason=reason,
        )
        store.put(backup.manifest_key, manifest.model_dump_json(indent=2).encode())
    return manifest


@contextmanager
def _reading(snapshot: Snapshot, *, hashes: bool) -> Iterator[_Reading]:
    """Fingerprints and inventory beside the dump, in the session that holds the snapshot; stopped if the dump fails."""

    def work() -> _Held:
        started = time.monotonic()
        # The schema first, as pg_dump does: a view dropped while the rows are read could not be deparsed any more.
        objects = take_objects(snapshot.connection)
        tables = fingerprint(snapshot.connection, snapshot.contents.tables, hashes=hashes)
        large_objects = take_large_objects(snapshot.connection, hashes=hashes)
        return _Held(tables, objects, large_objects, time.monotonic() - started)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fingerprint") as pool:
        future = pool.submit(work)
        try:
            yield _Reading(snapshot, future)
        except BaseException:
            # A request that comes between two statements stops nothing, so it is repeated; where the server is gone,
            # the session ends by itself, and what went wrong first is what counts.
            while not wait([future], timeout=CANCEL_AGAIN_SECONDS).done:
                with suppress(psycopg.Error):
                    snapshot.connection.cancel_safe()
            raise


@contextmanager
def _session_errors(database: str) -> Iterator[None]:
    """Turn what psycopg reports of the snapshot's session into what an operator needs."""
    try:
        yield
    except psycopg.Error as error:
        reason = " / ".join(str(error).strip().splitlines()) or type(error).__name__
        lost = _lost(error)
        raise MaintenanceError(
            f"the session that holds the snapshot failed: {reason}",
            database=database,
            untouched=archive.UNTOUCHED,
            remedy="look into the server's log for why it ended the session, then run the backup again"
            if lost
            else "the message above is the server's own; mend its cause and run the backup again",
            transient=lost,
        ) from error


def _lost(error: psycopg.Error) -> bool:
    """Whether the server ended the session: no SQLSTATE at all, or class 57P (shutdown, crash, not yet up)."""
    no_state = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return no_state or (error.sqlstate or "").startswith("57P")


def _age_version(options: DumpOptions) -> dict[str, str]:
    if not options.encryption_recipients:
        return {}
    from importlib.metadata import version

    return {"pyrage": version("pyrage")}
