"""Real PostgreSQL servers for every test, started when the first test asks, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from psycopg import sql
from xdist.scheduler import LoadScopeScheduling

from include.postgres.dsn import Dsn
from include.stack.postgres import PostgresServer, installations

if TYPE_CHECKING:
    from collections.abc import Iterator

# A test's database need not survive a power cut; some tests leave a prepared transaction behind on purpose.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "60",
    "max_prepared_transactions": "5",
}


# These start an Airflow each. Two at a time would take the machine's both cores, and could take the same port.
AIRFLOW_FILES = (
    "tests/dags/test_backup_night.py",
    "tests/dags/test_form.py",
    "tests/dags/test_prove_night.py",
    "tests/dags/test_restore_night.py",
    "tests/dags/test_monitor_night.py",
    "tests/deploy/test_containers_by_hand.py",
    "tests/stack/test_embedded.py",
)


# A shell that looks at a running stack has these (`make env`); no test may depend on it.
for variable in ("NIGHT_PORTER_CONFIG", "AIRFLOW_HOME"):
    os.environ.pop(variable, None)


class OneAirflowAtATime(LoadScopeScheduling):
    """Gives all tests with an Airflow to one worker, in one piece and first; the others one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return "airflow" if nodeid.startswith(AIRFLOW_FILES) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneAirflowAtATime:
    return OneAirflowAtATime(config, log)


class FreshDatabase(Protocol):
    """Makes an empty database owned by a fresh role that is no superuser."""

    def __call__(self, server: PostgresServer, prefix: str = "t") -> Dsn: ...


@contextlib.contextmanager
def _running(major: int) -> Iterator[PostgresServer]:
    found = installations()
    if major not in found:
        pytest.skip(f"NOT RUN: PostgreSQL {major} is not installed on this machine")
    # Not pytest's own folder: that one is closed to the account a server of root's runs under.
    with tempfile.TemporaryDirectory(prefix=f"night-porter-pg{major}-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        server = PostgresServer(Path(folder) / "server", bin_dir=found[major], settings=FAST)
        server.start(die_with_parent=True)
        try:
            yield server
        finally:
            server.kill()
            server.remove()


@pytest.fixture(scope="session")
def pg17() -> Iterator[PostgresServer]:
    with _running(17) as server:
        yield server


@pytest.fixture(scope="session")
def ground17() -> Iterator[PostgresServer]:
    """A second PostgreSQL 17: the proving ground, which is never the server that a backup came from."""
    with _running(17) as server:
        yield server


@pytest.fixture(scope="session")
def pg18() -> Iterator[PostgresServer]:
    with _running(18) as server:
        yield server


@pytest.fixture(scope="session")
def pg15() -> Iterator[PostgresServer]:
    with _running(15) as server:
        yield server


@pytest.fixture
def fresh_database() -> Iterator[FreshDatabase]:
    made: list[tuple[PostgresServer, Dsn]] = []

    def make(server: PostgresServer, prefix: str = "t") -> Dsn:
        name = f"{prefix}_{secrets.token_hex(5)}"
        password = secrets.token_urlsafe(16)
        with server.superuser().connect() as session:
            session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), password))
            session.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
        dsn = Dsn(host="127.0.0.1", port=server.port, dbname=name, user=name, password=password)
        made.append((server, dsn))
        return dsn

    yield make
    for server, dsn in made:
        server.start(die_with_parent=True)  # a test may have ended it
        name = sql.Identifier(dsn.dbname)
        with server.superuser().connect() as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            session.execute(sql.SQL("DROP OWNED BY {}").format(name))
            session.execute(sql.SQL("DROP ROLE {}").format(name))
