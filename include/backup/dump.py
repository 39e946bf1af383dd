"""One backup: a snapshot, an archive of it in the store, and the manifest that makes it exist."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from include.backup import archive, source
from include.backup.fingerprint import fingerprint
from include.backup.model import Manifest, TableFingerprint, Tier, whole_sha256
from include.backup.snapshot import Snapshot, claim, exported
from include.errors import MaintenanceError
from include.postgres import tools as client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.options import DumpOptions
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn

    Fingerprints = tuple[tuple[TableFingerprint, ...], float]

# Measured (benchmarks/README.md): a zstd:1 dump has 8 % of the hotel database's size on disk and 40 % of the tokens
# table's. A third lies near the upper end; that an estimate may be too small is what growing parts are for.
EXPECTED_SHARE = 1 / 3
CANCEL_AGAIN_SECONDS = 0.2


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

    The fingerprints are taken in the very snapshot that pg_dump reads, while it reads. The manifest is written last:
    whatever fails before that leaves no backup, and no earlier one is touched.

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
            with _fingerprinting(snapshot, hashes=options.fingerprints == "hashes") as fingerprints:
                files = archive.DumpJob(
                    dsn=dsn,
                    store=store,
                    backup=backup,
                    tools=tools,
                    snapshot=snapshot.name,
                    options=options,
                    expected_bytes=int(snapshot.database_bytes * EXPECTED_SHARE),
                    progress=progress,
                    before_commit=partial(_require, fingerprints),
                ).run()
                tables, fingerprint_seconds = fingerprints.result()
            seconds = time.monotonic() - started
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
            fingerprint_seconds=round(fingerprint_seconds, 3),
            tables=tables,
            schema_revision=snapshot.contents.schema_revision,
            extensions=snapshot.contents.extensions,
            roles=snapshot.contents.roles,
            keep_forever=keep_forever,
            reason=reason,
        )
        store.put(backup.manifest_key, manifest.model_dump_json(indent=2).encode())
    return manifest


@contextmanager
def _fingerprinting(snapshot: Snapshot, *, hashes: bool) -> Iterator[Future[Fingerprints]]:
    """Take the fingerprints beside the dump, in the session that holds the snapshot; stopped if the dump fails."""

    def work() -> Fingerprints:
        started = time.monotonic()
        tables = fingerprint(snapshot.connection, snapshot.contents.tables, hashes=hashes)
        return tables, time.monotonic() - started

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fingerprint") as pool:
        future = pool.submit(work)
        try:
            yield future
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


def _require(fingerprints: Future[Fingerprints]) -> None:
    """An archive whose fingerprints failed is not to be committed."""
    fingerprints.result()


def _age_version(options: DumpOptions) -> dict[str, str]:
    if not options.encryption_recipients:
        return {}
    from importlib.metadata import version

    return {"pyrage": version("pyrage")}
