"""What is asked of the source database: who it is, what a dump will hold, what its role may not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql

from include.backup.model import DatabaseLocale, ServerIdentity
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from include.postgres.dsn import Dsn

    Connection = psycopg.Connection[tuple[Any, ...]]

# What pg_dump leaves out by itself: system schemas, other sessions' temporary tables, and members of an extension
# whose rows the extension did not ask to be dumped (extconfig).
_DUMPED_CLASSES = """
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
          AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND NOT c.oid = ANY (COALESCE(e.extconfig, '{}')))
"""

# The topmost partitioned table, where one on the way up to it is partitioned by hash.
_HASH_PARTITION_OF = """
    WITH RECURSIVE above(oid, height) AS (
      SELECT c.oid, 0 WHERE c.relispartition
      UNION ALL
      SELECT i.inhparent, a.height + 1 FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid
    )
    SELECT (pg_catalog.array_agg(s.nspname || '.' || t.relname ORDER BY a.height DESC))[1]
    FROM above a JOIN pg_catalog.pg_class t ON t.oid = a.oid
    JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace
    LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.oid
    HAVING pg_catalog.bool_or(p.partstrat = 'h')
"""

_TABLES = f"""
    SELECT c.oid::bigint, n.nspname, c.relname, ({_HASH_PARTITION_OF})
    {_DUMPED_CLASSES} AND c.relkind = 'r' ORDER BY 2, 3
"""

# What pg_dump reads or locks. A materialized view's rows are not dumped; a partitioned table has none of its own, so
# row-level security on it hides nothing from a dump.
_UNREADABLE = f"""
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END,
           pg_catalog.format('%I.%I', n.nspname, c.relname),
           CASE WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') THEN 'no USAGE on the schema'
                WHEN NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN 'no SELECT'
                ELSE 'row-level security would hide rows' END
    {_DUMPED_CLASSES} AND c.relkind IN ('r', 'p', 'S')
      AND (NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           OR NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
           OR (c.relkind = 'r' AND pg_catalog.row_security_active(c.oid)))
    UNION ALL
    SELECT 'large object', l.oid::text, 'no SELECT'
    FROM pg_catalog.pg_largeobject_metadata l
    WHERE NOT pg_catalog.pg_has_role(l.lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
                      AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
    ORDER BY 1, 2
"""  # noqa: S608

_EXCLUSIVELY_LOCKED = """
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), l.pid, a.usename
    FROM pg_catalog.pg_locks l
    JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    WHERE l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND l.granted AND l.mode = 'AccessExclusiveLock'
    ORDER BY 1
"""

_ROLES = """
    SELECT rolname FROM pg_catalog.pg_roles WHERE oid IN (
      SELECT refobjid FROM pg_catalog.pg_shdepend
      WHERE refclassid = 'pg_catalog.pg_authid'::regclass
        AND dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      UNION SELECT relowner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
      UNION SELECT proowner FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = pronamespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
      UNION SELECT nspowner FROM pg_catalog.pg_namespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
    ORDER BY 1
"""


# Members of extensions come with them. The superuser that initdb made is in no pg_shdepend. Whoever owns a database
# has the rights of pg_database_owner there, and nobody can be made a member of it.
_OWNERS = """
    SELECT DISTINCT pg_catalog.pg_get_userbyid(o.owner) FROM (
      SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relowner, c.relnamespace FROM pg_catalog.pg_class c
      WHERE c.relpersistence <> 't'
      UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, oid, proowner, pronamespace FROM pg_catalog.pg_proc
      UNION ALL SELECT 'pg_catalog.pg_type'::regclass, oid, typowner, typnamespace FROM pg_catalog.pg_type
      UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, oid, nspowner, oid FROM pg_catalog.pg_namespace
      UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, oid, lomowner, NULL
      FROM pg_catalog.pg_largeobject_metadata
      UNION ALL SELECT classid, objid, refobjid, NULL FROM pg_catalog.pg_shdepend
      WHERE refclassid = 'pg_catalog.pg_authid'::regclass AND deptype = 'o' AND classid NOT IN (
              'pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_type'::regclass,
              'pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_extension'::regclass,
              'pg_catalog.pg_user_mapping'::regclass)
        AND dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    ) o(class, oid, owner, schema)
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
    WHERE (n.oid IS NULL OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
      AND pg_catalog.pg_get_userbyid(o.owner) <> 'pg_database_owner'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e')
    ORDER BY 1
"""


_PROVIDERS: dict[str, Literal["libc", "icu", "builtin"]] = {"c": "libc", "i": "icu", "b": "builtin"}


@dataclass(frozen=True)
class Table:
    """A table whose rows the dump will hold; for `hash_partition_of` see `TableFingerprint`."""

    oid: int
    schema_name: str
    name: str
    hash_partition_of: str | None = None


@dataclass(frozen=True)
class Contents:
    """What one snapshot of the source holds.

    Args:
        tables: those with rows in the archive, ordered by schema and name.
        extensions: name to version.
        roles: roles that owners and grants name: a restore needs them.
        owners: those among them that own something.
        locale: what the database was created with.
        schema_revision: the applied revision, or None where there is no revision table.
    """

    tables: tuple[Table, ...]
    extensions: dict[str, str]
    roles: tuple[str, ...]
    owners: tuple[str, ...]
    locale: DatabaseLocale
    schema_revision: str | None


@dataclass(frozen=True)
class Unreadable:
    """An object that would make the dump fail, or worse, be silently incomplete."""

    kind: str
    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.problem})"


def connect(dsn: Dsn, *, database: str) -> Connection:
    """Open a session on the source.

    Raises:
        MaintenanceError: with the server's reason; transient only where the server could not be reached.
    """
    try:
        return dsn.connect()
    except psycopg.Error as error:
        reason = " / ".join(str(error).strip().splitlines()) or type(error).__name__
        # Anything but an OperationalError is about the connection's own options.
        refused = not isinstance(error, psycopg.OperationalError) or _is_refusal(reason)
        raise MaintenanceError(
            f"cannot connect to {dsn}: {reason}",
            database=database,
            untouched="nothing was written, earlier backups are as they were",
            remedy="correct the Airflow connection (user, password, database, extras), or what the server allows "
            "that role (LOGIN, CONNECT, pg_hba.conf)"
            if refused
            else "check that the server is up and that this machine reaches it; the task tries again by itself",
            transient=not refused,
        ) from error


def _is_refusal(reason: str) -> bool:
    # A failed connection has no SQLSTATE in psycopg, only libpq's text (the server's part in its lc_messages).
    words = (
        "password authentication failed",
        "no password supplied",
        "no pg_hba.conf entry",
        "does not exist",
        "not permitted to log in",
        "permission denied for database",
        "SSL was required",
        "certificate",
    )
    return any(word in reason for word in words)


def identity(connection: Connection) -> ServerIdentity:
    """Which server and database this is; the system identifier is None where the role may not read it."""
    version, major, name, allowed = _row(
        connection,
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, "
        "current_database(), has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')",
    )
    system = str(_row(connection, "SELECT system_identifier FROM pg_control_system()")[0]) if allowed else None
    return ServerIdentity(system_identifier=system, database=name, version=version.split()[0], major=major)


def contents(connection: Connection, *, revision_table: str | None) -> Contents:
    """What the connection's present snapshot holds."""
    tables = connection.execute(_TABLES).fetchall()
    extensions = connection.execute("SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY 1").fetchall()
    roles = connection.execute(_ROLES).fetchall()
    return Contents(
        tables=tuple(Table(*row) for row in tables),
        extensions=dict(extensions),
        roles=tuple(name for (name,) in roles),
        owners=tuple(name for (name,) in connection.execute(_OWNERS).fetchall()),
        locale=locale(connection),
        schema_revision=_revision(connection, revision_table),
    )


def locale(connection: Connection) -> DatabaseLocale:
    """What the database that a session is connected to was created with."""
    encoding, row = _row(
        connection,
        "SELECT pg_encoding_to_char(encoding), to_jsonb(d) FROM pg_database d WHERE datname = current_database()",
    )
    # One row as a document: before 15 there is no datlocprovider, and datlocale is called daticulocale in 15 and 16.
    provider = _PROVIDERS[row.get("datlocprovider", "c")]
    return DatabaseLocale(
        encoding=encoding,
        provider=provider,
        collate=row["datcollate"],
        ctype=row["datctype"],
        locale=None if provider == "libc" else row.get("datlocale", row.get("daticulocale")),
    )


def _revision(connection: Connection, revision_table: str | None) -> str | None:
    if revision_table is None:
        return None
    schema, table = revision_table.split(".")
    found = _row(connection, "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) IS NOT NULL", schema, table)[0]
    if not found:
        return None
    query = sql.SQL("SELECT string_agg(version_num, ', ' ORDER BY version_num) FROM {}")
    row = connection.execute(query.format(sql.Identifier(schema, table))).fetchone()
    return row[0] if row else None


def database_bytes(connection: Connection) -> int:
    """Size of the whole database on disk in bytes, indexes included.

    The tables' own sizes would say more, but asking for them waits behind every ALTER TABLE that is under way.
    """
    return int(_row(connection, "SELECT pg_database_size(current_database())")[0])


def unreadable(connection: Connection) -> tuple[Unreadable, ...]:
    """Everything in the database that this role cannot dump whole."""
    return tuple(Unreadable(*row) for row in connection.execute(_UNREADABLE).fetchall())


def exclusively_locked(connection: Connection) -> tuple[str, ...]:
    """The tables that nobody else may read at this moment, each with the session that holds it."""
    rows = connection.execute(_EXCLUSIVELY_LOCKED.encode()).fetchall()
    return tuple(f"{name} (by process {pid} of role {role})" for name, pid, role in rows)


def behind_pooler(connection: Connection) -> bool:
    """Whether something answers in the server's place: the process number it announced is not the server's."""
    return bool(connection.info.backend_pid != _row(connection, "SELECT pg_backend_pid()")[0])


def _row(connection: Connection, query: str, *values: object) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values or None).fetchone()
    if row is None:
        raise AssertionError(query)
    return row
