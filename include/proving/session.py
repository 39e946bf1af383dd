"""Asking a server: what it reports, as an operator needs it, with no word against the backup."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.backup import source
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.postgres.dsn import Dsn


@contextmanager
def asking(dsn: Dsn, failing: str, *, database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A session for a few statements.

    Args:
        dsn: where.
        failing: what did not succeed if one of them fails, in words.
        database: the configured name.

    Raises:
        MaintenanceError: the server is not there, refuses or fails.
    """
    with source.connect(dsn, database=database) as connection:
        try:
            yield connection
        except psycopg.Error as error:
            raise server_error(failing, error, database=database) from error


def drop_database(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> None:
    """Drop a database with whoever is connected to it; one that is not there is no error.

    FORCE is refused to a role that is no superuser while autovacuum is at work there, whose process is not the role's
    to end. A plain DROP sends autovacuum away by itself.

    Raises:
        psycopg.Error: the server refused or went away.
    """
    statement = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    try:
        connection.execute(statement + sql.SQL(" WITH (FORCE)"))
    except psycopg.errors.InsufficientPrivilege:
        connection.execute(statement)


def server_error(what: str, error: psycopg.Error, *, database: str) -> MaintenanceError:
    """What psycopg reports, as an operator needs it: with no word against the backup."""
    reason = " / ".join(str(error).strip().splitlines()) or type(error).__name__
    state = error.sqlstate or ""
    # No SQLSTATE: the connection is gone. 57P: shutdown, crash, not yet up. 53300: too many connections.
    passing = (isinstance(error, psycopg.OperationalError) and not state) or state.startswith("57P") or state == "53300"
    return MaintenanceError(
        f"{what}: {reason}",
        database=database,
        untouched="the backup, production and every other database are as they were",
        remedy="look into the server's log for why it ended the session, then try again"
        if passing
        else "the message above is the server's own; mend its cause and try again",
        transient=passing,
    )
