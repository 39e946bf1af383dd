"""What a server must have before a backup can be restored on it: all that is missing is named at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.backup import source
from include.backup.model import DatabaseLocale
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from include.backup.model import Manifest

    Connection = psycopg.Connection[tuple[Any, ...]]

# Manifests of the first version do not say.
UNKNOWN_LOCALE = DatabaseLocale(encoding="UTF8", provider="libc", collate="C", ctype="C", locale=None)


class MissingRequirementsError(MaintenanceError):
    """The server lacks what the backup needs; all of it is named."""


@dataclass(frozen=True)
class Missing:
    """One thing that a server lacks.

    Args:
        what: in words.
        remedy: SQL for a superuser, or what else to do.
    """

    what: str
    remedy: str


_ROLES = """
    SELECT wanted.name, r.oid IS NOT NULL,
           r.oid IS NULL OR pg_catalog.pg_has_role(current_user, r.oid, {how})
             AND pg_catalog.pg_has_role(current_user, r.oid, 'USAGE')
    FROM pg_catalog.unnest(%s::text[]) AS wanted (name) LEFT JOIN pg_catalog.pg_roles r ON r.rolname = wanted.name
    ORDER BY 1
"""
_EXTENSIONS = """
    SELECT wanted.name, a.name IS NOT NULL,
           NOT COALESCE(v.superuser AND NOT v.trusted AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles
                                                               WHERE rolname = current_user), false)
    FROM pg_catalog.unnest(%s::text[]) AS wanted (name)
    LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = wanted.name
    LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
    ORDER BY 1
"""


def requirements(connection: Connection, manifest: Manifest) -> tuple[Missing, ...]:
    """All that this server and role lack to hold the backup.

    Args:
        connection: to any database of the server, as the role that will restore; no transaction is open.
        manifest: of the backup.
    """
    server = source.identity(connection)
    missing = []
    if server.major < manifest.server.major:
        missing.append(
            Missing(
                f"PostgreSQL {manifest.server.major} or later (this server is {server.version})",
                f"a server of at least the major version {manifest.server.major}",
            )
        )
    missing += _missing_roles(connection, server.major, manifest)
    missing += _missing_extensions(connection, manifest)
    missing += _missing_locale(connection, manifest.locale or UNKNOWN_LOCALE)
    return tuple(missing)


def require(connection: Connection, manifest: Manifest) -> None:
    """As `requirements`, but an error.

    Raises:
        MissingRequirementsError: something is missing; all of it is named, with what mends it.
    """
    if missing := requirements(connection, manifest):
        raise MissingRequirementsError(
            f"the server {connection.info.host}:{connection.info.port} lacks {len(missing)} thing(s) that the backup "
            f"{manifest.id} needs: {'; '.join(item.what for item in missing)}",
            database=manifest.database,
            untouched="nothing was created on that server; the backup and other databases are as they were",
            remedy="as superuser there: " + " ".join(dict.fromkeys(item.remedy for item in missing)),
        )


def _missing_roles(connection: Connection, major: int, manifest: Manifest) -> list[Missing]:
    me = connection.info.user
    # Before 16 there is no right to SET ROLE apart from membership.
    query = _ROLES.format(how="'SET'" if major >= 16 else "'MEMBER'")
    found = connection.execute(query.encode(), [sorted({*manifest.roles, *manifest.owners})]).fetchall()
    missing = []
    for name, exists, settable in found:
        role = _quoted(connection, name)
        grant = f"GRANT {role} TO {_quoted(connection, me)};"
        owns = name in manifest.owners
        if not exists:
            create = f"CREATE ROLE {role} NOLOGIN;"
            missing.append(Missing(f"role {role}", f"{create} {grant}" if owns else create))
        elif owns and not settable:
            missing.append(Missing(f"membership of {me} in role {role}, which owns objects", grant))
    return missing


def _missing_extensions(connection: Connection, manifest: Manifest) -> list[Missing]:
    missing = []
    for name, available, creatable in connection.execute(_EXTENSIONS.encode(), [list(manifest.extensions)]).fetchall():
        if not available:
            version = manifest.extensions[name]
            missing.append(
                Missing(f"extension {name} (the source had {version})", f"(install the package of extension {name})")
            )
        elif not creatable:
            me = _quoted(connection, connection.info.user)
            missing.append(
                Missing(
                    f"the right to create extension {name}, which only a superuser has",
                    f"ALTER ROLE {me} SUPERUSER; (on a server that holds nothing but copies)",
                )
            )
    return missing


def _missing_locale(connection: Connection, locale: DatabaseLocale) -> list[Missing]:
    """Which of the locale's parts the server does not know: it is asked to use them, and changes nothing."""
    probes: dict[str, sql.Composed] = {
        name: sql.SQL("SET LOCAL lc_monetary = {}").format(sql.Literal(name)) for name in (locale.collate, locale.ctype)
    }
    if locale.provider != "libc" and locale.locale is not None:
        probes[f"{locale.locale} ({locale.provider})"] = sql.SQL(
            "CREATE COLLATION pg_temp.night_porter_probe (PROVIDER = {}, LOCALE = {})"
        ).format(sql.Identifier(locale.provider), sql.Literal(locale.locale))
    missing = []
    for name, probe in probes.items():
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(probe)
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            missing.append(
                Missing(f"locale {name} ({reason})", f"(install locale {name} on the server's machine, and restart it)")
            )
    return missing


def _quoted(connection: Connection, name: str) -> str:
    return sql.Identifier(name).as_string(connection)
