"""The proving ground: a server of its own on which backups become databases again. It is never production."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg

from include.backup import source
from include.errors import MaintenanceError
from include.proving.marker import Found, is_leftover, lock_number
from include.proving.session import asking, drop_database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from include.backup.model import Manifest
    from include.postgres.dsn import Dsn

    Connection = psycopg.Connection[tuple[Any, ...]]

log = logging.getLogger(__name__)

WHO = "proving ground"
_UNTOUCHED = "nothing was created on that server; production, the backups and other copies are as they were"

_OWN_DATABASES = """
    SELECT d.datname, pg_catalog.shobj_description(d.oid, 'pg_database'), NOT d.datallowconn AND d.datconnlimit = 0
    FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba
    WHERE r.rolname = current_user AND NOT d.datistemplate
    ORDER BY 1
"""
# Of every database: an advisory lock belongs to the database in which it was taken, and another run may have signed
# in to another maintenance database.
_LOCKS = """
    SELECT (classid::bigint << 32) | objid::bigint FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1
"""


class GroundRefusedError(MaintenanceError):
    """The server is, or may be, a production database's."""


@dataclass(frozen=True)
class Production:
    """What the proving ground must not be.

    Args:
        identifiers: system identifier of each production server -> configured name of a database there.
        addresses: host and port of each -> configured name.
    """

    identifiers: Mapping[str, str]
    addresses: Mapping[tuple[str, int], str]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A server that may hold copies.

    Args:
        dsn: its maintenance database, and the role that makes copies.
        role: that role, as the server knows it.
        version: as the server reports it.
        major: its major version.
        system_identifier: of the cluster.
    """

    dsn: Dsn
    role: str
    version: str
    major: int
    system_identifier: str


def open_ground(dsn: Dsn, production: Production) -> Ground:
    """Look at the server and accept it as the proving ground.

    Args:
        dsn: a maintenance database there (usually `postgres`) and a role with CREATEDB.
        production: the servers it must not be.

    Raises:
        GroundRefusedError: it is production, a physical copy of it, or cannot be shown not to be.
        MaintenanceError: it is not there, its role may not create databases, or a pooler answers in its place.
    """
    if name := _known_address(dsn, production):
        _refuse(f"{dsn.host}:{dsn.port} is where the production database {name} is", _ANOTHER_SERVER)
    with asking(dsn, f"{dsn.host}:{dsn.port} could not be asked what it is", database=WHO) as connection:
        server = source.identity(connection)
        role, creates, in_recovery = _about(connection)
        pooled = source.behind_pooler(connection)
    if server.system_identifier is None:
        _refuse(
            f"the role {role} may not read the system identifier of {dsn.host}:{dsn.port}, so it cannot be shown that "
            "this server is not production",
            f'as superuser there: GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO "{role}";',
        )
    if name := production.identifiers.get(server.system_identifier):
        _refuse(
            f"{dsn.host}:{dsn.port} has the system identifier {server.system_identifier}, which is that of the "
            f"production database {name}",
            _ANOTHER_SERVER,
        )
    if in_recovery:
        _refuse(f"{dsn.host}:{dsn.port} is a standby: it follows another server and cannot be written", _ANOTHER_SERVER)
    if pooled:
        raise MaintenanceError(
            f"a connection pooler answers at {dsn.host}:{dsn.port}; the locks that protect copies do not hold there",
            database=WHO,
            untouched=_UNTOUCHED,
            remedy="give the connection the server's own host and port",
        )
    if not creates:
        raise MaintenanceError(
            f"the role {role} may not create databases on {dsn.host}:{dsn.port}",
            database=WHO,
            untouched=_UNTOUCHED,
            remedy=f'as superuser there: ALTER ROLE "{role}" CREATEDB;',
        )
    return Ground(
        dsn=dsn,
        role=role,
        version=server.version,
        major=server.major,
        system_identifier=server.system_identifier,
    )


def refuse_source(ground: Ground, manifest: Manifest) -> None:
    """A backup is not restored onto the server that it came from: whatever happens there could happen to production.

    Raises:
        GroundRefusedError: it is that server.
    """
    if manifest.server.system_identifier == ground.system_identifier:
        _refuse(
            f"the backup {manifest.id} came from this very server ({ground.dsn.host}:{ground.dsn.port}, system "
            f"identifier {ground.system_identifier})",
            _ANOTHER_SERVER,
        )


def clean(ground: Ground, *, now: datetime) -> tuple[str, ...]:
    """Drop what killed runs left, and kept copies whose time is over.

    Only databases that are ours beyond doubt: our role's, named as copies are, with a copy's marker (or closed as only
    an unfinished creation leaves them), and with nobody holding the lock of the name.

    Args:
        ground: the server.
        now: UTC.

    Returns:
        The names of those dropped. One that could not be dropped is logged and left for the next time.

    Raises:
        MaintenanceError: the server could not be asked.
    """
    dropped = []
    with asking(ground.dsn, "leftover copies could not be looked for", database=WHO) as connection:
        databases = connection.execute(_OWN_DATABASES).fetchall()
        locks = {number for (number,) in connection.execute(_LOCKS).fetchall()}
        for name, comment, shell in databases:
            found = Found(name=name, comment=comment, shell=shell, locked=lock_number(name) in locks)
            if not is_leftover(found, now):
                continue
            try:
                drop_database(connection, name)
            except psycopg.Error as error:
                log.warning("the leftover copy %s could not be dropped: %s", name, error)
            else:
                dropped.append(name)
    return tuple(dropped)


_ANOTHER_SERVER = (
    "the proving ground is a server of its own, made with initdb: a standby, a restored base backup or a clone of the "
    "data folder carries production's identifier. Correct the connection, or create a fresh server"
)


def _refuse(what: str, remedy: str) -> NoReturn:
    raise GroundRefusedError(what, database=WHO, untouched=_UNTOUCHED, remedy=remedy)


def _about(connection: Connection) -> tuple[str, bool, bool]:
    row = connection.execute(
        "SELECT rolname, rolcreatedb OR rolsuper, pg_catalog.pg_is_in_recovery() "
        "FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is None:
        raise AssertionError("the current role is not in pg_roles")
    return row[0], row[1], row[2]


def _known_address(dsn: Dsn, production: Production) -> str | None:
    """The production database at this address, under whichever of its names.

    Only a help for the day on which production cannot be asked for its identifier: one server has many addresses.
    """
    ours = _addresses(dsn.host)
    for (host, port), name in production.addresses.items():
        if port == dsn.port and ours & _addresses(host):
            return name
    return None


def _addresses(host: str) -> frozenset[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # the folder of a Unix socket, or a name that nobody knows at the moment
        return frozenset({host.lower()})
    return frozenset({host.lower()} | {str(entry[4][0]) for entry in found})
