"""The server on which a database is to come back: what is there, and what speaks against it. Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from include.backup import source
from include.errors import MaintenanceError
from include.proving.requirements import requirements
from include.proving.restore import tools_for

if TYPE_CHECKING:
    from include.backup.model import Manifest, ServerIdentity
    from include.postgres.dsn import Dsn

    Connection = psycopg.Connection[tuple[Any, ...]]

UNTOUCHED = "nothing was changed on the server; every database there is as it was"
MAINTENANCE_DATABASES = ("postgres", "template1")
NAME_BYTES = 63  # NAMEDATALEN - 1: the server would cut a longer name without a word

# The server itself decides this way whose sessions a role may end (signalfuncs.c, pg_signal_backend).
_SESSIONS = """
    SELECT r.rolname, count(*)::int,
           me.rolsuper OR (NOT r.rolsuper
             AND (pg_catalog.pg_has_role(r.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')))
    FROM pg_catalog.pg_stat_activity s
    JOIN pg_catalog.pg_roles r ON r.oid = s.usesysid
    JOIN pg_catalog.pg_roles me ON me.rolname = current_user
    WHERE s.datname = %s GROUP BY 1, 3 ORDER BY 1
"""

_DATABASE = """
    SELECT oid::bigint, datistemplate, pg_catalog.pg_get_userbyid(datdba), pg_catalog.pg_has_role(datdba, 'USAGE'),
           CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') THEN pg_catalog.pg_database_size(oid) END
    FROM pg_catalog.pg_database WHERE datname = %s
"""

_AIRFLOW = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname IN ('alembic_version', 'dag_run') AND relkind = 'r'
                   GROUP BY relnamespace HAVING count(*) = 2)
"""


@dataclass(frozen=True)
class Refusal:
    """One reason why a recovery cannot begin, and what to do about it."""

    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Live:
    """The database that a swap would replace.

    Args:
        oid: which database it is, whatever it is called.
        is_template: whether new databases are copied from it.
        owner: its owner.
        renamable: whether the role has the owner's rights.
        bytes: its size on disk, or None where the role may not know.
        is_airflows: whether it is Airflow's own metadata database, or None where it could not be looked into.
        sessions: role, number of its sessions, whether they may be ended.
        prepared: global ids of prepared transactions.
        slots: replication slots that read it.
    """

    oid: int
    is_template: bool
    owner: str
    renamable: bool
    bytes: int | None
    is_airflows: bool | None
    sessions: tuple[tuple[str, int, bool], ...]
    prepared: tuple[str, ...]
    slots: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TargetServer:
    """What was found on the server.

    Args:
        dsn: the database signed in to: never the one that a swap replaces.
        identity: which server it is; `database` is the one signed in to.
        lacking: what the server and the role must have for any recovery, or for this backup, and do not.
        databases: all names.
        live: the database to be replaced, or None where there is none of that name or no swap is wanted.
    """

    dsn: Dsn
    identity: ServerIdentity
    lacking: tuple[Refusal, ...]
    databases: frozenset[str]
    live: Live | None


def connect(target: Dsn, *, besides: str | None, database: str) -> tuple[Connection, Dsn]:
    """Sign in to the named database, or where that is missing or to be replaced, to a maintenance database.

    Args:
        target: the server and role; its database may be the very one that is lost.
        besides: name of a database not to sign in to.
        database: the configured name, for the message.

    Raises:
        MaintenanceError: none would do, with the server's reason for the first.
    """
    names = dict.fromkeys((target.dbname, *MAINTENANCE_DATABASES))
    first: psycopg.Error | None = None
    for name in names:
        if name == besides:
            continue
        try:
            return target.with_dbname(name).connect(), target.with_dbname(name)
        except psycopg.Error as error:
            first = first or error
    reason = " / ".join(str(first).strip().splitlines())
    raise MaintenanceError(
        f"cannot sign in to the target server as {target.user} at {target.host}:{target.port}: {reason}",
        database=database,
        untouched=UNTOUCHED,
        remedy=f"check that the server is up, and that the role {target.user} may sign in to the database "
        f"{next(name for name in names if name != besides)!r}",
    ) from first


def look(target: Dsn, manifest: Manifest, *, swap: str | None) -> TargetServer:
    """Ask the server all that a recovery has to know.

    Args:
        target: any database there, and the role.
        manifest: of the backup.
        swap: name of the live database to be replaced, or None.

    Raises:
        MaintenanceError: it cannot be reached, or refuses.
    """
    connection, dsn = connect(target, besides=swap, database=manifest.database)
    with connection:
        names = frozenset(name for (name,) in connection.execute("SELECT datname FROM pg_catalog.pg_database"))
        return TargetServer(
            dsn=dsn,
            identity=source.identity(connection),
            lacking=(
                *_general(connection, dsn),
                *_tools(source.identity(connection).major, manifest),
                *(Refusal(item.what, item.remedy) for item in requirements(connection, manifest)),
            ),
            databases=names,
            live=_live(connection, dsn, swap) if swap is not None and swap in names else None,
        )


def _general(connection: Connection, dsn: Dsn) -> tuple[Refusal, ...]:
    """What any recovery needs of a server and its role."""
    may_create, follows = _row(
        connection,
        "SELECT rolcreatedb OR rolsuper, pg_catalog.pg_is_in_recovery() "
        "FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    found = []
    if source.behind_pooler(connection):
        found.append(
            Refusal(
                f"a connection pooler answers at {dsn.host}:{dsn.port}; the locks that a recovery holds are lost there",
                "give the server's own host and port",
            )
        )
    if follows:
        found.append(Refusal(f"{dsn.host}:{dsn.port} is a standby, which cannot be written", "name its primary"))
    if not may_create:
        found.append(
            Refusal(
                f"the role {dsn.user} may not create databases on the target server",
                f'as superuser there: ALTER ROLE "{dsn.user}" CREATEDB;',
            )
        )
    return tuple(found)


def _tools(major: int, manifest: Manifest) -> tuple[Refusal, ...]:
    try:
        tools_for(major, manifest)
    except MaintenanceError as error:
        return (Refusal(error.what, error.remedy),)
    return ()


def _live(connection: Connection, dsn: Dsn, name: str) -> Live:
    oid, is_template, owner, renamable, size = _row(connection, _DATABASE, name)
    prepared = connection.execute("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s", (name,))
    slots = connection.execute("SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE database = %s", (name,))
    return Live(
        oid=oid,
        is_template=is_template,
        owner=owner,
        renamable=renamable,
        bytes=size,
        prepared=tuple(gid for (gid,) in prepared),
        slots=tuple(slot for (slot,) in slots),
        sessions=tuple(connection.execute(_SESSIONS.encode(), (name,)).fetchall()),
        is_airflows=_is_airflows(dsn.with_dbname(name)),
    )


def _is_airflows(dsn: Dsn) -> bool | None:
    try:
        with dsn.connect() as connection:
            return bool(_row(connection, _AIRFLOW)[0])
    except psycopg.Error:
        # A database that is damaged or closed cannot be looked into, and is what a swap may be needed for.
        return None


def name_refusals(name: str, server: TargetServer) -> tuple[Refusal, ...]:
    """Why the restored database cannot have this name; pure."""
    if name in server.databases:
        return (
            Refusal(
                f"a database {name!r} exists on the target server already, and is never restored into",
                "choose another name for the restored database",
            ),
        )
    if name != name.strip() or not name.isprintable() or not name or len(name.encode()) > NAME_BYTES:
        return (
            Refusal(
                f"{name!r} ({len(name.encode())} bytes) is no fitting database name",
                f"choose a name of 1 to {NAME_BYTES} bytes without line breaks or outer spaces",
            ),
        )
    if name.startswith("np_"):
        return (
            Refusal(
                f"{name!r} begins like Night Porter's own temporary databases, which are dropped by themselves",
                "choose a name that does not begin with np_",
            ),
        )
    return ()


def swap_refusals(typed: str, *, backed_up: str, old_name: str, server: TargetServer) -> tuple[Refusal, ...]:
    """Why the live database cannot be replaced; pure.

    Args:
        typed: what a person typed.
        backed_up: PostgreSQL name of the database that the backup was taken of.
        old_name: what the replaced database would be called.
        server: what was found.
    """
    if typed != backed_up:
        return (
            Refusal(
                f"the name typed for the swap is {typed!r}, but the backup is of the database {backed_up!r}",
                f"type {backed_up!r} to the letter, or restore without a swap and rename by hand",
            ),
        )
    if typed in MAINTENANCE_DATABASES or typed == "template0":
        return (Refusal(f"{typed!r} is a database of the server's own", "restore without a swap"),)
    live = server.live
    if live is None:
        return (
            Refusal(
                f"there is no database {typed!r} on the target server that could be replaced",
                f"restore without a swap, under the name {typed!r} if that is the one wanted",
            ),
        )
    found = []
    if live.is_template:
        found.append(Refusal(f"{typed!r} is a template database", "restore without a swap"))
    if live.is_airflows:
        found.append(
            Refusal(
                f"{typed!r} is Airflow's own metadata database (it has alembic_version and dag_run): it cannot be "
                "replaced from within",
                "restore without a swap, stop Airflow, then rename by hand (docs/restore.md)",
            )
        )
    if not live.renamable:
        found.append(
            Refusal(
                f"the role {server.dsn.user} may not rename {typed!r}, which belongs to {live.owner}",
                f'GRANT "{live.owner}" TO "{server.dsn.user}", or sign in as {live.owner}',
            )
        )
    if old_name in server.databases:
        found.append(Refusal(f"a database {old_name!r} exists already", "plan again in a second"))
    return tuple(found)


def _row(connection: Connection, query: str, *values: object) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values or None).fetchone()
    if row is None:
        raise AssertionError(query)
    return row
