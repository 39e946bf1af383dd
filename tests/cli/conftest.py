"""A database with a backup to be made of it, a proving ground that has its role, and a shell on the worst night."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from include.backup.stores.local import LocalStore
from tests.backup.dump_world import run_sql
from tests.cli.cli_world import DarkShell, configure, connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

ROOMS = 1234


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Airflow that has no database of its own: connections come from the environment alone."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setenv("NIGHT_PORTER_CONFIG", str(tmp_path / "maintenance.yaml"))
    return tmp_path


@pytest.fixture
def source(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    """A small database on the production server."""
    dsn = fresh_database(pg17, "hotel")
    run_sql(dsn, f"CREATE TABLE rooms AS SELECT generate_series(1, {ROOMS}) AS number")
    return dsn


@pytest.fixture
def hotel(home: Path, source: Dsn, monkeypatch: pytest.MonkeyPatch) -> Dsn:
    """The same, configured."""
    monkeypatch.setenv("AIRFLOW_CONN_HOTEL_DB", connection(source))
    configure(home, hotel="hotel_db")
    return source


@pytest.fixture
def ground(ground17: PostgresServer, source: Dsn) -> Iterator[Dsn]:
    """The other server, with the role that owns the database; what a test leaves of databases there goes."""
    superuser = ground17.superuser()
    before = databases_of(superuser)
    role = sql.Identifier(source.user)
    with superuser.connect() as session:
        session.execute(sql.SQL("CREATE ROLE {}").format(role))
    yield superuser
    with superuser.connect() as session:
        for name in databases_of(superuser) - before:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        session.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def dark(tmp_path: Path) -> DarkShell:
    return DarkShell(tmp_path)


def databases_of(server: Dsn) -> set[str]:
    with server.connect() as session:
        return {name for (name,) in session.execute("SELECT datname FROM pg_database")}
