"""A restore's plan between its approval and its execution, and a person's word as Airflow hands it on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import DumpOptions
from include.backup.stores.local import LocalStore
from include.backup.verify import verify
from include.errors import MaintenanceError
from include.runtime import recovery
from include.stack.airflow_config import postgres_connection

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.model import Manifest
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def backup(
    pg17: PostgresServer,
    fresh_database: FreshDatabase,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Manifest:
    """A verified backup of `hotel`, which is configured and whose role may restore."""
    dsn = fresh_database(pg17, "hotel")
    with pg17.superuser().connect() as session:
        session.execute(f"ALTER ROLE {dsn.user} CREATEDB")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_HOTEL_DB", json.dumps(postgres_connection(dsn)))
    file = tmp_path / "maintenance.yaml"
    file.write_text(yaml.safe_dump({"store": {"url": store.url}, "databases": {"hotel": {"connection": "hotel_db"}}}))
    monkeypatch.setenv("NIGHT_PORTER_CONFIG", str(file))
    manifest = back_up(dsn, store, database="hotel", tier=Tier.DAILY, options=DumpOptions(), run_id="by the test")
    verify(store, manifest.backup_id)
    return manifest


def test_what_is_no_longer_what_was_approved_is_not_done(
    backup: Manifest, store: LocalStore, pg17: PostgresServer
) -> None:
    planned = recovery.plan({"database": "hotel", "backup": f" {backup.id} ", "new_name": "", "swap": None})
    assert (planned["backup"], planned["connection"], planned["swap"]) == (backup.id, "hotel_db", None)
    assert json.loads(json.dumps(planned)) == planned, "it does not survive an XCom"
    another = backup.model_copy(update={"schema_revision": "0002"})
    store.put(backup.backup_id.manifest_key, another.model_dump_json().encode(), replace=True)
    with pytest.raises(MaintenanceError, match="no longer what would be done") as caught:
        recovery.restore(planned)
    assert "nothing was restored" in caught.value.untouched
    with pg17.superuser().connect() as session:
        names = {name for (name,) in session.execute("SELECT datname FROM pg_database")}
    assert planned["new_name"] not in names


def test_a_backup_that_does_not_exist_or_is_none_is_refused_at_the_plan(backup: Manifest) -> None:
    for named in (backup.id.replace("daily", "weekly"), "yesterday's", backup.id.replace("hotel", "bar")):
        with pytest.raises(MaintenanceError):
            recovery.plan({"database": "hotel", "backup": named})


def test_no_answer_in_time_is_told_as_nothing_done() -> None:
    approval = recovery.Approval(task_id="approve", subject="Restore", response_timeout=recovery.APPROVAL_TIME)
    event: dict[str, Any] = {"error": "The response timeout has passed", "error_type": "timeout"}
    with pytest.raises(MaintenanceError) as caught:
        approval.execute_complete({}, event)
    assert "nobody approved or rejected the restore within 12 hours" in caught.value.what
    assert "nothing was restored" in caught.value.untouched
    assert not caught.value.transient
