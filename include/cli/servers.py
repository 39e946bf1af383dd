"""Which server a command works on, how to sign in to it, and which servers are production."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from include.cli.common import read_entries
from include.cli.output import err
from include.errors import MaintenanceError
from include.postgres.dsn import Dsn

if TYPE_CHECKING:
    from include.backup.stores.base import Store
    from include.cli.common import Scope
    from include.config.settings import Settings
    from include.proving.ground import Ground, Production

SHAPE = "postgresql://ROLE@HOST:PORT/DATABASE"

ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar=SHAPE,
        help="The server, in place of the configured connection; options as ?sslmode=verify-full. Never with a "
        "password: that comes from PGPASSWORD, PGPASSFILE or ~/.pgpass, or is asked for.",
    ),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        help="File with the age private key of encrypted backups, as age-keygen writes it.",
    ),
]


def address(url: str) -> Dsn:
    """The server that a person named; ends with status 2 where it is not understood or holds a password.

    Nothing of the address is repeated in a message, since it may hold a secret.
    """
    import psycopg
    from psycopg import pq

    if not url.startswith(("postgresql://", "postgres://")):
        raise typer.BadParameter(f"a server is given as {SHAPE}", param_hint="--dsn")
    try:
        parameters = pq.Conninfo.parse(url.encode())
    except psycopg.OperationalError:
        raise typer.BadParameter(
            f"libpq does not understand this address; a server is given as {SHAPE}, options as ?sslmode=verify-full",
            param_hint="--dsn",
        ) from None
    given = {
        parameter.keyword.decode(): parameter.val.decode() for parameter in parameters if parameter.val is not None
    }
    # What libpq itself shows to nobody: password, sslpassword and their like.
    hidden = {parameter.keyword.decode() for parameter in parameters if parameter.dispchar in {b"*", b"D"}}
    if secret := sorted(hidden & given.keys()):
        raise typer.BadParameter(
            f"the address holds {', '.join(secret)}: everyone on this machine can read the arguments of a program. "
            "Leave it out and set PGPASSWORD, or PGPASSFILE (~/.pgpass), or wait to be asked; and change it, "
            "since it may have been seen already",
            param_hint="--dsn",
        )
    host, user, port = (given.pop(name, "") for name in ("host", "user", "port"))
    if not host or not user or not (port or "5432").isdecimal():
        raise typer.BadParameter(f"one host and a role are needed: {SHAPE}", param_hint="--dsn")
    dbname = given.pop("dbname", "postgres")
    return Dsn(host=host, port=int(port or 5432), dbname=dbname, user=user, options=given)


def signed_in(dsn: Dsn) -> Dsn:
    """The same with the password that libpq finds (PGPASSWORD, PGPASSFILE, ~/.pgpass) or that a person types.

    It is looked up here because the client programs are run without any PG* variable of the caller. A server that
    does not answer is no error here: who opens it next can say better what was left untouched.

    Raises:
        MaintenanceError: a password is needed, and there is neither one nor a terminal to ask at.
    """
    import psycopg

    try:
        with dsn.connect() as connection:
            return replace(dsn, password=connection.info.password or None)
    except psycopg.OperationalError as error:
        attempt = error.pgconn
        if attempt is None:
            return dsn
        if not attempt.needs_password:
            return replace(dsn, password=(attempt.password or b"").decode() or None)
    if not sys.stdin.isatty():
        raise MaintenanceError(
            f"{dsn} wants a password",
            untouched="nothing was read or written",
            remedy="set PGPASSWORD, or PGPASSFILE to a password file (~/.pgpass is read without it), or run this at a "
            "terminal, where it is asked for",
        )
    return replace(dsn, password=typer.prompt(f"Password of {dsn}", hide_input=True, err=True))


def private_keys(file: Path | None, here: Scope, server: Dsn | None) -> str | None:
    """The age private keys: in the file that a person named, else in Airflow's connection where that is in use.

    Args:
        file: from the command line.
        here: with the configuration, where one is at hand.
        server: from the command line; who names a server does without Airflow.
    """
    if file is not None:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        # age-keygen writes comments beside the key.
        keys = [line.strip() for line in lines if line.strip().startswith("AGE-SECRET-KEY-")]
        if not keys:
            raise typer.BadParameter(f"{file} holds no age private key (AGE-SECRET-KEY-…)", param_hint="--identity")
        return "\n".join(keys)
    if server is not None or here.settings is None:
        return None
    from include.runtime.proving import identity

    return identity(here.settings)


def proving_ground(here: Scope, store: Store, server: Dsn | None) -> Ground:
    """The server on which backups are proved: the one that a person named, else the configured one.

    Args:
        here: with the configuration, where one is at hand.
        store: where the backups are, whose manifests tell which servers are production.
        server: from the command line.

    Raises:
        MaintenanceError: it is, or may be, production, or cannot be used.
    """
    from include.proving.ground import open_ground

    if server is not None:
        return open_ground(signed_in(server), _production(store, here.settings))
    settings = _configured(here)
    from include.runtime.connections import postgres_dsn
    from include.runtime.proving import production

    return open_ground(postgres_dsn(settings.proving_ground.connection), production(settings, store))


def recovery_target(here: Scope, database: str, server: Dsn | None) -> Dsn:
    """The server on which a database is to come back: the one that a person named, else its own.

    Args:
        here: with the configuration, where one is at hand.
        database: its configured name.
        server: from the command line.

    Raises:
        MaintenanceError: there is no such connection, or a password is missing.
    """
    if server is not None:
        return signed_in(server)
    settings = _configured(here)
    if database not in settings.databases:
        raise typer.BadParameter(f"{database!r} is not configured: name the server", param_hint="--dsn")
    from include.runtime.connections import postgres_dsn

    return postgres_dsn(settings.databases[database].connection, database=database)


def _configured(here: Scope) -> Settings:
    if here.settings is None:
        raise typer.BadParameter("there is no configuration that says which server: name it", param_hint="--dsn")
    return here.settings


def _production(store: Store, settings: Settings | None) -> Production:
    """Production as far as it can be known on a night on which Airflow may be down."""
    from include.backup.catalog import databases
    from include.proving.ground import Production

    if settings is not None:
        try:
            from include.runtime.proving import production

            return production(settings, store)
        except Exception as error:  # noqa: BLE001 - whatever ails Airflow must not stop the night it is needed
            problem = error.what if isinstance(error, MaintenanceError) else type(error).__name__
            err.print(
                f"the configured servers are not known ({problem}): production is told by the system identifiers in "
                "the store's manifests alone",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
    # Of each database the newest that says it: a server that was replaced long ago may serve as proving ground.
    newest = {
        entry.manifest.database: entry.manifest.server.system_identifier
        for entry in read_entries(store, databases(store))
        if entry.manifest.server.system_identifier is not None
    }
    return Production(identifiers={identifier: name for name, identifier in newest.items()}, addresses={})
