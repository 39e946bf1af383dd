"""Brings a hotel database to a schema revision, in this process and without a configuration file."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config

    from include.postgres.dsn import Dsn

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_SCHEMA = "dbmaint"
VERSION_TABLE = "schema_revision"


@contextmanager
def alembic_config(dsn: Dsn) -> Iterator[Config]:
    """An Alembic configuration bound to an open connection, for as long as the block runs.

    The connection is opened by the driver, so no URL, and with it no password, reaches Alembic. Nothing is read from
    an ini file: Alembic's usual `fileConfig` would switch off every logger that is already there, Airflow's task
    logs among them.

    Args:
        dsn: the database; its role needs CREATE on the database the first time, for the schema `dbmaint`.

    Raises:
        psycopg.OperationalError: the server is not there or refuses.
    """
    from alembic.config import Config
    from sqlalchemy import create_engine, schema
    from sqlalchemy import inspect as reflect
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg://", creator=lambda: dsn.connect(autocommit=False), poolclass=NullPool)
    with engine.connect() as connection:
        if not reflect(connection).has_schema(VERSION_SCHEMA):
            connection.execute(schema.CreateSchema(VERSION_SCHEMA))
        # Alembic commits revision by revision only where no transaction is open already.
        connection.commit()
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        yield config


def upgrade(dsn: Dsn, revision: str = "head") -> None:
    """Apply the revisions that lead to `revision`, each in a transaction of its own.

    Args:
        dsn: the database; its role must own the tables.
        revision: a revision's id, or `head`.

    Raises:
        alembic.util.CommandError: the revision does not exist, or the database is at one that is unknown here.
        sqlalchemy.exc.DBAPIError: a statement failed; the revisions before it stay applied.
    """
    from alembic import command

    with alembic_config(dsn) as config:
        command.upgrade(config, revision)


def current(dsn: Dsn) -> str | None:
    """The revision that the database is at; None where none was ever applied or all were taken back.

    Raises:
        psycopg.OperationalError: the server is not there or refuses.
    """
    with dsn.connect() as connection:
        table = f"{VERSION_SCHEMA}.{VERSION_TABLE}"
        found = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        if found is None or found[0] is None:
            return None
        row = connection.execute("SELECT version_num FROM dbmaint.schema_revision").fetchone()
        return None if row is None else str(row[0])
