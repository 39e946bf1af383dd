"""From an archive on disk to a database: what the server must have, the empty database, and the restore itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.errors import MaintenanceError
from include.postgres import tools as client
from include.proving import archive_run
from include.proving.requirements import UNKNOWN_LOCALE
from include.proving.session import asking, server_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from include.backup.model import DatabaseLocale, Manifest
    from include.postgres.dsn import Dsn
    from include.proving.archive_run import Progress

    Connection = psycopg.Connection[tuple[Any, ...]]

# Nothing is lost with an asynchronous commit: what is done last with a database that is to stay commits as usual,
# and the log is written in order. No statement of a restore is too long, and pg_restore switches off the other limits.
_SESSION = {
    "synchronous_commit": "off",
    "maintenance_work_mem": "256MB",
    "max_parallel_maintenance_workers": "2",
    "idle_session_timeout": "0",
}
_PREPARING = "the restored database could not be prepared"
# What pg_restore itself does after everything else: privileges, and what needs them.
_LATE = ("ACL", "DEFAULT ACL", "MATERIALIZED VIEW DATA", "EVENT TRIGGER", "COMMENT - EVENT TRIGGER")


class RestoreFailedError(MaintenanceError):
    """The server is well, and yet what is in the archive could not be made a database."""


def tools_for(server_major: int, manifest: Manifest) -> client.ClientTools:
    """The pg_restore for an archive: at least of the version that wrote it, and of the server's where there is one.

    Raises:
        MaintenanceError: none will do.
    """
    writer = int(manifest.tools["pg_dump"].split(".")[0])
    try:
        return client.choose(max(writer, server_major), manifest.compression, database=manifest.database)
    except MaintenanceError:
        return client.choose(writer, manifest.compression, database=manifest.database)


def create_database(connection: Connection, name: str, manifest: Manifest, *, comment: str | None = None) -> None:
    """Make the empty database that the archive is restored into, as the source was: encoding and locale.

    Nobody can connect to it before its comment stands, and afterwards only roles that are granted it.

    Args:
        connection: to a maintenance database, as the role that will own the new one; no transaction is open.
        name: of the new database.
        manifest: of the backup.
        comment: on the new database.

    Raises:
        MaintenanceError: the server refused; there may be an empty database of that name then, closed to everyone.
    """
    database = sql.Identifier(name)
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {} ALLOW_CONNECTIONS false CONNECTION LIMIT 0").format(
        database, _locale_clauses(manifest.locale or UNKNOWN_LOCALE)
    )
    try:
        connection.execute(create)
        if comment is not None:
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(comment)))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(database))
    except psycopg.Error as error:
        raise server_error(f"the database {name} could not be created", error, database=manifest.database) from error


def _locale_clauses(locale: DatabaseLocale) -> sql.Composed:
    clauses = sql.SQL("ENCODING {} LOCALE_PROVIDER {} LC_COLLATE {} LC_CTYPE {}").format(
        sql.Literal(locale.encoding),
        sql.Identifier(locale.provider),
        sql.Literal(locale.collate),
        sql.Literal(locale.ctype),
    )
    if locale.provider != "libc" and locale.locale is not None:
        name = sql.SQL("ICU_LOCALE" if locale.provider == "icu" else "BUILTIN_LOCALE")
        clauses += sql.SQL(" {} {}").format(name, sql.Literal(locale.locale))
    return clauses


def restore_into(
    dsn: Dsn,
    archive: Path,
    manifest: Manifest,
    *,
    jobs: int = 2,
    schema_only: bool = False,
    progress: Progress = lambda _what, _done, _total: None,
) -> client.ClientTools:
    """Restore an archive into an empty database, owners and privileges included; the first error ends it.

    Args:
        dsn: the database. Its role is a superuser, or owns it and may SET ROLE to every owner in the archive.
        archive: as `fetch` left it.
        manifest: of the backup.
        jobs: parallel workers of pg_restore.
        schema_only: without rows, sequences' values and large objects.
        progress: told `tables` or `indexes`, how many are done, and of how many.

    Returns:
        The tools that restored.

    Raises:
        RestoreFailedError: the archive's fault: it cannot be decoded, or the server cannot make of it what it says.
        MaintenanceError: the server's or the role's fault, or the machine's; the archive may be as good as ever.
    """
    target = _for_restoring(dsn)
    with asking(target, _PREPARING, database=manifest.database) as connection:
        major, superuser = _about(connection)
    tools = tools_for(major, manifest)
    contents = archive_run.contents(tools, archive)
    if isinstance(contents, archive_run.Refusal):
        raise _error(contents, manifest)

    def run(only: Sequence[str] | None) -> None:
        refusal = archive_run.run(
            tools,
            archive,
            target,
            arguments=["--no-tablespaces", *(["--schema-only"] if schema_only else [])],
            jobs=jobs,
            only=only,
            forgiving=major < 17 <= tools.major,
            total=contents,
            progress=progress,
        )
        if refusal is not None:
            raise _error(refusal, manifest)

    if superuser:
        run(None)
        return tools
    # An object can only be given to an owner that may create in its schema. Only a superuser is not asked, and the
    # privileges that the owners had come last in an archive: until then they are lent.
    schemas, others, late = _stages(contents)
    if schemas:
        run(schemas)
    with asking(target, _PREPARING, database=manifest.database) as connection:
        lent = _lend_create(connection, manifest)
    run(others)
    with asking(target, _PREPARING, database=manifest.database) as connection:
        _take_back(connection, lent)
    if late:
        run(late)
    return tools


def _stages(contents: archive_run.Contents) -> tuple[list[str], list[str], list[str]]:
    schemas: list[str] = []
    others: list[str] = []
    late: list[str] = []
    for line, entry in zip(contents.lines, contents.entries, strict=True):
        if entry.startswith("SCHEMA "):
            schemas.append(line)
        elif entry.startswith(tuple(f"{kind} " for kind in _LATE)):
            late.append(line)
        else:
            others.append(line)
    return schemas, others, late


def _lend_create(connection: Connection, manifest: Manifest) -> list[tuple[str, str]]:
    rows = connection.execute(
        """
        SELECT n.nspname, r.rolname FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND r.rolname = ANY (%s) AND r.rolname !~ '^pg_'
          AND NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
        """,
        [list(manifest.owners or manifest.roles)],  # manifests of the first version do not say who owns
    ).fetchall()
    for schema, role in rows:
        connection.execute(
            sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(sql.Identifier(schema), sql.Identifier(role))
        )
    return [(schema, role) for schema, role in rows]


def _take_back(connection: Connection, lent: list[tuple[str, str]]) -> None:
    for schema, role in lent:
        connection.execute(
            sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(sql.Identifier(schema), sql.Identifier(role))
        )


def _about(connection: Connection) -> tuple[int, bool]:
    """The server's major version, and whether the role is a superuser."""
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int / 10000, rolsuper FROM pg_catalog.pg_roles "
        "WHERE rolname = current_user"
    ).fetchone()
    if row is None:
        raise AssertionError("the current role is not in pg_roles")
    return row[0], row[1]


def _for_restoring(dsn: Dsn) -> Dsn:
    settings = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    return replace(dsn, options={**dsn.options, "options": f"{dsn.options.get('options', '')} {settings}".strip()})


def _error(refusal: archive_run.Refusal, manifest: Manifest) -> MaintenanceError:
    what = f"the backup {manifest.id} could not be restored: {refusal.words}"
    untouched = "the backup, production and every other database are as they were"
    if refusal.fault == "archive":
        return RestoreFailedError(
            what,
            database=manifest.database,
            untouched=untouched,
            remedy="the message above is pg_restore's or the server's own. Make a new backup now, and keep this one: "
            "most of it can be restored by hand (docs/restore.md)",
        )
    interrupted = refusal.fault == "interrupted"
    return MaintenanceError(
        what,
        database=manifest.database,
        untouched=untouched,
        remedy="look into that server's log for why it ended the session, then try again"
        if interrupted
        else "this says nothing about the backup: mend what the message above names on the server (room, memory, "
        "rights of the role), and try again",
        transient=interrupted,
    )
