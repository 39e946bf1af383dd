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
from tests.slack import SlackReceiver, slack_receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.backup.model import CatalogEntry
    from include.postgres.dsn import Dsn
    from include.stack.airflow_api import AirflowApi, TaskInstance
    from include.stack.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 180.0
# So that a killed task is not waited for through two retries, and one tier's run times out while a test looks on.
HURRY = {
    '"retries": 2,': '"retries": 0,',
    "dagrun_timeout=timedelta(hours=12)": "dagrun_timeout=timedelta(seconds=25 if tier is Tier.MONTHLY else 600)",
}


@dataclass
class Night:
    """Everything one night's test looks at."""

    airflow: AirflowServer
    api: AirflowApi
    slack: SlackReceiver
    store: LocalStore
    databases: dict[str, Dsn]

    def run(self, dag_id: str, **conf: object) -> tuple[str, str]:
        """Trigger a DAG and wait for its end; run id and final state."""
        run_id = self.api.trigger(dag_id, conf=conf)
        return run_id, self.api.wait_for_run(dag_id, run_id, seconds=RUN_SECONDS)

    def tasks(self, dag_id: str, run_id: str) -> dict[tuple[str, str], TaskInstance]:
        """The run's tasks by (task, database)."""
        rows = self.api.task_instances(dag_id, run_id)
        return {(row.task_id.removeprefix("database."), row.name): row for row in rows}

    def log(self, dag_id: str, run_id: str, task: str, database: str) -> str:
        return self.api.log(dag_id, run_id, self.tasks(dag_id, run_id)[task, database])

    def backups(self, database: str) -> list[CatalogEntry]:
        return list(read_catalog(self.store, database).entries)

    @contextmanager
    def connection(self, conn_id: str, **changes: Any) -> Iterator[None]:
        """Another connection for a while, as if an operator had changed it."""
        path = self.airflow.home / "connections.json"
        before = path.read_text(encoding="utf-8")
        document = json.loads(before)
        document[conn_id] |= changes
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
        shutil.copy(file, root / "dags")
    text = (root / "dags" / "backup.py").read_text(encoding="utf-8")
    for present, wanted in HURRY.items():
        assert text.count(present) == 1, f"{present} is not in dags/backup.py any more"
        text = text.replace(present, wanted)
    (root / "dags" / "backup.py").write_text(text, encoding="utf-8")
    (root / "include").symlink_to(ROOT / "include")
    (root / "plugins").symlink_to(ROOT / "plugins")
    shutil.copy(ROOT / ".airflowignore", root)
    return root


@pytest.fixture(scope="session")
def night(pg17: PostgresServer, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    databases = {name: _database(pg17, name) for name in ("alpha", "alpha_2", "beta")}
    home = Path(tempfile.mkdtemp(prefix="night-porter-airflow-"))
    store = home / "store"
    config = home / "maintenance.yaml"
    tables = {name: {"connection": f"{name}_db", "lock_timeout_seconds": 120} for name in databases}
    config.write_text(yaml.safe_dump({"store": {"url": store.as_uri()}, "databases": tables}), encoding="utf-8")
    with slack_receiver() as slack:
        connections = {f"{name}_db": postgres_connection(dsn) for name, dsn in databases.items()}
        connections["slack_maintenance"] = slack.connection()
        airflow = AirflowServer(home, root=bundle, config_file=config)
        try:
            airflow.start(connections=connections, die_with_parent=True)
            with airflow.api() as api:
                api.wait_for_dag("backup_monthly")
                yield Night(airflow=airflow, api=api, slack=slack, store=LocalStore(store), databases=databases)
        finally:
            airflow.stop()
            shutil.rmtree(home)


def _database(server: PostgresServer, name: str) -> Dsn:
    password = secrets.token_urlsafe(24)
    with server.superuser().connect() as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), password))
        session.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
    dsn = replace(server.superuser(name), user=name, password=password)
    with dsn.connect() as session:
        session.execute("CREATE TABLE guests (id bigint PRIMARY KEY, name text NOT NULL)")
        session.execute("INSERT INTO guests SELECT n, 'guest ' || n FROM generate_series(1, 5000) AS n")
    return dsn
