"""The session that holds one snapshot for both the dump and its fingerprints, and the name that the backup takes."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from include.backup import source
from include.backup.fingerprint import SESSION_SETTINGS
from include.backup.inventory import take_sequences
from include.backup.model import BackupId, ServerIdentity, Tier
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import psycopg

    from include.backup.inventory import SequenceWindow
    from include.backup.stores.base import Store

_NAMES_TO_TRY = 60


@dataclass(frozen=True)
class Snapshot:
    """An open transaction whose snapshot other sessions may take.

    Args:
        connection: in a REPEATABLE READ, READ ONLY transaction.
        name: for `pg_dump --snapshot`.
        server: which server and database.
        contents: what the snapshot holds.
        sequences: as they stood when the snapshot had just been taken.
        database_bytes: size of the whole database on disk, in bytes.
    """

    connection: psycopg.Connection[tuple[Any, ...]]
    name: str
    server: ServerIdentity
    contents: source.Contents
    sequences: tuple[SequenceWindow, ...]
    database_bytes: int


def claim(
    connection: psycopg.Connection[tuple[Any, ...]], store: Store, *, database: str, tier: Tier, now: datetime
) -> BackupId:
    """Take the first free name from `now` on, in whole seconds, for as long as the connection lives.

    Two runs in the same second must not take the same name, and the first one's objects are not visible before it
    ends; an advisory lock in the source database settles it, without needing anything special of the store.

    Raises:
        MaintenanceError: no name was free within a minute's worth of seconds.
    """
    first = now.replace(microsecond=0)
    for second in range(_NAMES_TO_TRY):
        candidate = BackupId(database=database, tier=tier, created_at=first + timedelta(seconds=second))
        key = hashlib.sha256(f"night-porter {store.url} {candidate.stem}".encode()).digest()[:8]
        number = int.from_bytes(key, signed=True)
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()
        # Looked up only under the lock: before, the holder might be about to make its objects visible.
        if row and row[0]:
            if next(iter(store.list(f"{candidate.stem}.")), None) is None:
                return candidate
            connection.execute("SELECT pg_advisory_unlock(%s)", (number,))
    raise MaintenanceError(
        f"no free name for a {tier} backup within {_NAMES_TO_TRY} s of {first:%Y-%m-%d %H:%M:%S %Z}",
        database=database,
        untouched="nothing was written",
        remedy="find out what starts so many backups of this tier at once",
    )


@contextmanager
def exported(
    connection: psycopg.Connection[tuple[Any, ...]], *, revision_table: str, timeout: timedelta, lock_timeout: timedelta
) -> Iterator[Snapshot]:
    """Open the transaction and export its snapshot; it ends with the block.

    Args:
        connection: an idle session; its settings are changed for good.
        revision_table: where the applied schema revision stands.
        timeout: for each statement in the session: a snapshot that is held for ever holds back vacuum for ever.
        lock_timeout: how long a fingerprint may queue for a table's lock.
    """
    server = source.identity(connection)
    for setting in (
        *SESSION_SETTINGS,
        "SET idle_in_transaction_session_timeout = 0",
        f"SET statement_timeout = {int(timeout.total_seconds() * 1000)}",
        f"SET lock_timeout = {int(lock_timeout.total_seconds() * 1000)}",
        *(["SET transaction_timeout = 0"] if server.major >= 17 else []),
    ):
        connection.execute(setting.encode())
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        if row is None:
            raise AssertionError("pg_export_snapshot() gave no row")
        yield Snapshot(
            connection=connection,
            name=row[0],
            server=server,
            contents=source.contents(connection, revision_table=revision_table),
            sequences=take_sequences(connection),
            database_bytes=source.database_bytes(connection),
        )
    finally:
        if not connection.closed and not connection.broken:
            connection.rollback()
