"""The swap: the live database steps aside and the restored one takes its name, in one transaction.

RENAME first takes the lock that signing in needs too, then waits up to 5 s for the sessions that are there already
(CountOtherDBBackends in procarray.c). A second session ends those meanwhile; whoever signs in waits for the commit.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.errors import MaintenanceError
from include.proving.recover_words import rename_sql

if TYPE_CHECKING:
    from include.postgres.dsn import Dsn

    Connection = psycopg.Connection[tuple[Any, ...]]

ATTEMPTS = 3
_LOOK_AGAIN_SECONDS = 0.02
_SETTINGS = (
    "SET lock_timeout = '5s'",  # whoever signs in queues behind a rename that queues
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
)

# Only once the rename holds its lock: from then on nobody signs in again, so no session is ended for nothing.
_SESSIONS = """
    SELECT a.pid, a.usename, a.application_name FROM pg_catalog.pg_stat_activity a
    WHERE a.datid = ANY (%(databases)s::oid[]) AND a.usesysid IS NOT NULL AND EXISTS (
      SELECT FROM pg_catalog.pg_locks l WHERE l.pid = %(renaming)s AND l.granted AND l.mode = 'AccessExclusiveLock'
        AND l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::regclass AND l.objid = a.datid)
"""


class SwapFailedError(MaintenanceError):
    """The live database has kept its name; the restored one is complete under its own."""


@dataclass
class _Ender:
    """Ends the sessions of databases that are being renamed, from a session of its own, until told to stop."""

    connection: Connection
    databases: list[int]
    renaming: int
    troubles: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            while not self.stop.wait(_LOOK_AGAIN_SECONDS):
                self._end_all()
        except psycopg.Error as error:
            self.troubles.add(f"the session that ends the others failed: {_text(error)}")

    def _end_all(self) -> None:
        found = self.connection.execute(_SESSIONS, {"databases": self.databases, "renaming": self.renaming}).fetchall()
        for pid, role, application in found:
            try:
                self.connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            except psycopg.errors.InsufficientPrivilege:
                self.troubles.add(f"process {pid} of role {role} ({application or 'unnamed'}) may not be ended by us")


def swap(dsn: Dsn, *, live: str, old_name: str, restored: str, database: str) -> None:
    """Give the restored database the live one's name, and the live one another, in one transaction.

    Args:
        dsn: a third database of the server.
        live: name of the database to be replaced; its sessions are ended, and those of the restored one.
        old_name: what it is called afterwards.
        restored: present name of the restored database.
        database: the configured name, for messages.

    Raises:
        SwapFailedError: neither name has changed, or (the text says so) the server went away before it answered.
    """
    oid: int | None = None
    troubles: set[str] = set()
    try:
        with dsn.connect() as renaming, dsn.connect() as ending:
            for setting in _SETTINGS:
                renaming.execute(setting.encode())
            oid, live_oid = _oid(ending, restored), _oid(ending, live)
            for attempt in range(1, ATTEMPTS + 1):
                ender = _Ender(ending, [live_oid, oid], renaming.info.backend_pid)
                troubles = ender.troubles
                try:
                    _rename_both(renaming, ender, live=live, old_name=old_name, restored=restored)
                except (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable):
                    if attempt == ATTEMPTS:
                        raise
                else:
                    return
    except psycopg.Error as error:
        name = _name_of(dsn, oid) if oid is not None else restored
        if name == live:
            return  # committed; only the answer was lost
        as_it_was = f"{live!r} is the database that it was; the restored one is complete and compared, as {restored!r}"
        unknown = f"the server does not answer: if it has no {old_name!r} when it is back, {as_it_was}"
        by_hand = f"BEGIN; {rename_sql(live, old_name)} {rename_sql(restored, live)} COMMIT;"
        raise SwapFailedError(
            f"{live!r} was not replaced: {'; '.join([_text(error), *sorted(troubles)])}",
            database=database,
            untouched=as_it_was if name == restored else unknown,
            remedy=f"end what uses {live!r} (applications, prepared transactions), then, in another "
            f"database of the server: {by_hand}",
        ) from error


def _rename_both(renaming: Connection, ender: _Ender, *, live: str, old_name: str, restored: str) -> None:
    thread = threading.Thread(target=ender.run, name="end-sessions")
    thread.start()
    try:
        with renaming.transaction():
            for old, new in ((live, old_name), (restored, live)):
                renaming.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
                )
    finally:
        ender.stop.set()
        thread.join()


def _oid(connection: Connection, name: str) -> int:
    row = connection.execute("SELECT oid FROM pg_catalog.pg_database WHERE datname = %s", (name,)).fetchone()
    if row is None:
        raise psycopg.errors.InvalidCatalogName(f"database {name!r} does not exist")
    return int(row[0])


def _name_of(dsn: Dsn, oid: int) -> str | None:
    try:
        with dsn.connect() as connection:
            row = connection.execute("SELECT datname FROM pg_catalog.pg_database WHERE oid = %s", (oid,)).fetchone()
    except psycopg.Error:
        return None
    return row[0] if row else None


def _text(error: psycopg.Error) -> str:
    parts = (error.diag.message_primary, error.diag.message_detail)
    return " ".join(part for part in parts if part) or " / ".join(str(error).strip().splitlines())
