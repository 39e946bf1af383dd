"""The monitor's tasks with real connections, a folder as the store, and receivers that play Slack and the watch."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowSkipException

from include.backup.stores.local import LocalStore
from include.errors import MaintenanceError
from include.monitor.changes import read_state
from include.runtime import monitor
from include.runtime.alerts import hourly_task_failed
from include.runtime.connections import heartbeat_url
from tests.backup.retention_world import entry, write
from tests.heartbeat import SECRET_PATH, heartbeat_receiver
from tests.slack import SlackReceiver, slack_receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Instance(SimpleNamespace):
    """What a task sees of itself."""

    dag_id = "backup_monitor"
    run_id = "scheduled__1"
    task_id = "look"
    map_index = 0
    log_url = "http://127.0.0.1:8080/log"
    rendered_map_index = "hotel"
    before: str | None = "success"

    def get_previous_ti(self, *, map_index: int) -> SimpleNamespace | None:
        assert map_index == self.map_index
        return SimpleNamespace(state=self.before) if self.before else None

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        return "running"

    def xcom_push(self, *, key: str, value: object) -> None:
        pass


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    config = tmp_path / "maintenance.yaml"
    databases = {"hotel": {"connection": "hotel_db", "proof": {"tiers": []}}}
    folder = tmp_path / "store"
    config.write_text(yaml.safe_dump({"store": {"url": folder.as_uri()}, "databases": databases}), encoding="utf-8")
    monkeypatch.setenv("NIGHT_PORTER_CONFIG", str(config))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    return LocalStore(folder)


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackReceiver]:
    with slack_receiver() as receiver:
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_MAINTENANCE", json.dumps(receiver.connection()))
        yield receiver


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def test_news_is_told_with_remedy_and_log_and_then_not_again(slack: SlackReceiver) -> None:
    for _ in range(3):
        result = monitor.look_at("hotel", Instance())
    assert result == {"database": "hotel", "critical": ["rpo:verified"], "warnings": []}
    (message,) = slack.messages
    assert message["text"] == (
        "backup_monitor: 1 new - hotel\n"
        "New, critical: there is no verified backup; the newest may be 26 hours old.\n"
        "What to do: look at the last runs of backup_daily, mend what failed, then trigger backup_daily.\n"
        "Log: http://127.0.0.1:8080/log"
    )


def test_news_that_slack_did_not_take_is_told_an_hour_later(slack: SlackReceiver, store: LocalStore) -> None:
    slack.status = 500
    monitor.look_at("hotel", Instance())
    state, _ = read_state(store, "hotel")
    assert state is not None
    assert state.told == ()
    slack.status = 200
    monitor.look_at("hotel", Instance())
    assert len(slack.about("1 new")) == 1


def test_nothing_is_told_where_it_could_not_be_remembered(slack: SlackReceiver, store: LocalStore) -> None:
    store.put("hotel/monitor.json/in-the-way", b"")
    with pytest.raises(MaintenanceError):
        monitor.look_at("hotel", Instance())
    assert slack.messages == []


def test_what_is_over_is_told_with_what_it_was(slack: SlackReceiver, store: LocalStore) -> None:
    monitor.look_at("hotel", Instance())
    write(store, entry(_now() - timedelta(hours=1)), archive={".dump": b"a"})
    assert monitor.look_at("hotel", Instance())["critical"] == []
    assert "1 over - hotel\nOver after " in slack.messages[1]["text"]
    assert "there is no verified backup" in slack.messages[1]["text"]


def test_a_lost_memory_is_said(slack: SlackReceiver, store: LocalStore) -> None:
    store.put("hotel/monitor.json", b"?")
    monitor.look_at("hotel", Instance())
    assert "cannot be understood any more" in slack.messages[0]["text"]


def test_many_findings_are_one_message_that_slack_takes(slack: SlackReceiver, store: LocalStore) -> None:
    for day in range(60):
        made = entry(_now() - timedelta(days=day), state="failed")
        write(store, made, archive={".dump": b"a"})
    result = monitor.look_at("hotel", Instance())
    assert len(result["critical"]) == 61
    (message,) = slack.messages
    assert len(message["blocks"]) < 50
    assert "And: 41 more; the log has them all" in message["text"]


def test_a_task_that_fails_every_hour_is_told_once_and_once_more_when_it_works_again(slack: SlackReceiver) -> None:
    error = MaintenanceError("the store is gone", untouched="all", remedy="mend it", database="hotel")
    for before in ("success", "failed", "failed"):
        hourly_task_failed({"exception": error, "ti": Instance(before=before)})  # type: ignore[typeddict-item]
    assert len(slack.about("look failed", "the store is gone")) == 1
    for before in ("failed", "success"):
        monitor.look_at("hotel", Instance(before=before))
    assert len(slack.about("last look at this database failed; this one did not")) == 1


def _looks(*critical: str) -> list[monitor.LookResult]:
    return [monitor.LookResult(database="hotel", critical=list(critical), warnings=["leftovers"])]


def test_the_heartbeat_goes_out_although_there_are_warnings_but_not_where_anything_is_critical(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with heartbeat_receiver() as watch:
        monkeypatch.setenv("AIRFLOW_CONN_HEARTBEAT", json.dumps(watch.connection()))
        monitor.beat([*_looks(), *_looks()])
        with pytest.raises(AirflowSkipException, match=r"not all is well with hotel \(room\)"):
            monitor.beat([*_looks(), *_looks("room")])
        assert watch.paths == [f"/{SECRET_PATH}"]


def test_without_a_connection_there_is_no_heartbeat_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_HEARTBEAT", raising=False)
    with pytest.raises(AirflowSkipException, match="no connection `heartbeat`"):
        monitor.beat(_looks())


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"host": "watch.example.com", "password": "ping/abc"}, "https://watch.example.com/ping/abc"),
        ({"host": "https://watch.example.com/ping/", "password": "/abc"}, "https://watch.example.com/ping/abc"),
        ({"host": "10.0.0.1", "schema": "http", "port": 8000, "password": "abc"}, "http://10.0.0.1:8000/abc"),
    ],
)
def test_the_heartbeats_address_is_the_host_and_the_password_its_path(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], address: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HEARTBEAT", json.dumps({"conn_type": "http", **fields}))
    assert heartbeat_url() == address


@pytest.mark.parametrize("fields", [{}, {"host": "ftp://watch.example.com"}, {"host": "watch", "schema": "file"}])
def test_a_heartbeat_that_has_no_web_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HEARTBEAT", json.dumps({"conn_type": "http", "password": SECRET_PATH, **fields}))
    with pytest.raises(MaintenanceError, match="`heartbeat` has no host") as caught:
        heartbeat_url()
    assert SECRET_PATH not in str(caught.value)


def test_an_acceptance_names_a_backup_and_a_reason(store: LocalStore) -> None:
    made = entry(_now())
    write(store, made, archive={".dump": b"a"})
    with pytest.raises(AirflowSkipException):
        monitor.accept_anomaly({"accept": None})
    with pytest.raises(MaintenanceError, match="is no backup's id"):
        monitor.accept_anomaly({"accept": "the last one", "reason": "x"})
    with pytest.raises(MaintenanceError, match="without a reason"):
        monitor.accept_anomaly({"accept": made.manifest.id})
    monitor.accept_anomaly({"accept": f" {made.manifest.id} ", "reason": "archived"})
    assert b"archived" in store.get(made.backup_id.acceptance_key)


def test_a_re_read_hands_on_what_it_found(store: LocalStore) -> None:
    made = entry(_now() - timedelta(days=40), encryption_recipients=("age1",))
    write(store, made, archive={".dump": b"a"})
    assert monitor.read_again("hotel") == {"intact": [], "damaged": [made.manifest.id]}
    assert monitor.read_again("hotel") == {"intact": [], "damaged": []}
