"""A real Airflow, its scheduler running this bundle's DAGs against a real PostgreSQL server."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from psycopg import sql

from include.backup.catalog import read_catalog
from include.backup.stores.local import LocalStore
from include.stack.airflow import AirflowServer
from include.stack.airflow_config import postgres_connection
from tests.dags.browsing import chromium
from tests.slack import SlackReceiver, slack_receiver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from selenium import webdriver

    from include.backup.model import CatalogEntry
    from include.postgres.dsn import Dsn
    from include.stack.airflow_api import AirflowApi, TaskInstance
    from include.stack.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 180.0
PROVED = ("alpha", "alpha_2")  # their weekly backups; the daily ones of the backups' own tests are left alone
NO_RETRIES = ("default_args=DEFAULT_ARGS", 'default_args=DEFAULT_ARGS | {"retries": 0}')
# So that a killed task is not waited for through two retries, and one tier's run times out while a test looks on.
HURRY = {
    "backup.py": [
        NO_RETRIES,
        ("dagrun_timeout=timedelta(hours=12)", "dagrun_timeout=timedelta(seconds=25 if tier is Tier.MONTHLY else 600)"),
    ],
    "backup_prove.py": [NO_RETRIES],
    # An hour of fifteen seconds; paused, so that only its own tests hear of it.
    "backup_monitor.py": [
        ("default_args={**DEFAULT_ARGS,", 'default_args={**DEFAULT_ARGS, "retries": 0,'),
        ('"0 * * * *"', '"* * * * * */15"'),
        ("catchup=False", "catchup=False, is_paused_upon_creation=True"),
    ],
}


@dataclass
class Night:
    """Everything one night's test looks at."""

    airflow: AirflowServer
    api: AirflowApi
    slack: SlackReceiver
    store: LocalStore
    folder: Path
    databases: dict[str, Dsn]
    server: PostgresServer
    ground: PostgresServer

    def run(self, dag_id: str, **conf: object) -> tuple[str, str]:
        """Trigger a DAG and wait for its end; run id and final state."""
        run_id = self.api.trigger(dag_id, conf=conf)
        return run_id, self.api.wait_for_run(dag_id, run_id, seconds=RUN_SECONDS)

    def tasks(self, dag_id: str, run_id: str) -> dict[tuple[str, str], TaskInstance]:
        """The run's tasks by (task, database or backup)."""
        rows = self.api.task_instances(dag_id, run_id)
        return {(row.task_id.rpartition(".")[2], row.name): row for row in rows}

    def log(self, dag_id: str, run_id: str, task: str, database: str) -> str:
        return self.api.log(dag_id, run_id, self.tasks(dag_id, run_id)[task, database])

    def backups(self, database: str) -> list[CatalogEntry]:
        return list(read_catalog(self.store, database).entries)

    @contextmanager
    def connection(self, conn_id: str, **changes: Any) -> Iterator[None]:
        """Another connection for a while, as if an operator had changed or added it."""
        path = self.airflow.home / "connections.json"
        before = path.read_text(encoding="utf-8")
        document = json.loads(before)
        document[conn_id] = document.get(conn_id, {}) | changes
        path.write_text(json.dumps(document), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as a bundle, with shorter times."""
    root = tmp_path_factory.mktemp("bundle")
    (root / "dags").mkdir()
    for file in (ROOT / "dags").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for present, wanted in HURRY.get(file.name, []):
            assert text.count(present) == 1, f"{present} is not in dags/{file.name} any more"
            text = text.replace(present, wanted)
        (root / "dags" / file.name).write_text(text, encoding="utf-8")
    (root / "include").symlink_to(ROOT / "include")
    (root / "plugins").symlink_to(ROOT / "plugins")
    shutil.copy(ROOT / ".airflowignore", root)
    return root


@pytest.fixture(scope="session")
def night(
    pg17: PostgresServer, ground17: PostgresServer, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Night]:
    databases = {name: _database(pg17, name) for name in ("alpha", "alpha_2", "beta")}
    home = Path(tempfile.mkdtemp(prefix="night-porter-airflow-"))
    store = home / "store"
    config = home / "maintenance.yaml"
    tables = {
        name: {
            "connection": f"{name}_db",
            "lock_timeout_seconds": 120,
            "proof": {"tiers": ["weekly"] if name in PROVED else []},
        }
        for name in databases
    }
    config.write_text(yaml.safe_dump({"store": {"url": store.as_uri()}, "databases": tables}), encoding="utf-8")
    with slack_receiver() as slack:
        connections = {f"{name}_db": postgres_connection(dsn) for name, dsn in databases.items()}
        connections["slack_maintenance"] = slack.connection()
        connections["proving_ground"] = postgres_connection(_proving_role(ground17, databases))
        airflow = AirflowServer(home, root=bundle, config_file=config)
        try:
            airflow.start(connections=connections, die_with_parent=True)
            with airflow.api() as api:
                for dag_id in ("backup_monthly", "backup_prove", "backup_restore"):
                    api.wait_for_dag(dag_id)
                yield Night(
                    airflow=airflow,
                    api=api,
                    slack=slack,
                    store=LocalStore(store),
                    folder=store,
                    databases=databases,
                    server=pg17,
                    ground=ground17,
                )
        finally:
            airflow.stop()
            shutil.rmtree(home)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path / "profile") as chrome:
        yield chrome


def _proving_role(server: PostgresServer, owners: Iterable[str]) -> Dsn:
    """The role that makes copies, and the owners in production, which no backup holds."""
    password = secrets.token_urlsafe(24)
    role = sql.Identifier("night_proving_ground")
    with server.superuser().connect() as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(role, password))
        for owner in owners:
            session.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(owner)))
            session.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), role))
    return replace(server.superuser(), user="night_proving_ground", password=password)


def _database(server: PostgresServer, name: str) -> Dsn:
    password = secrets.token_urlsafe(24)
    with server.superuser().connect() as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(sql.Identifier(name), password))
        session.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
    dsn = replace(server.superuser(name), user=name, password=password)
    with dsn.connect() as session:
        session.execute("CREATE TABLE guests (id bigint PRIMARY KEY, name text NOT NULL)")
        session.execute("INSERT INTO guests SELECT n, 'guest ' || n FROM generate_series(1, 5000) AS n")
    return dsn
