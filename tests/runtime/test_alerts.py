"""Alerts on their way to Slack, received over HTTP; the whole way through a scheduler is in tests/dags."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import MaintenanceError
from include.runtime import alerts
from tests.slack import TOKEN, SlackReceiver, slack_receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR = MaintenanceError("the disk is full", untouched="earlier backups", remedy="make room", database="hotel")


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackReceiver]:
    with slack_receiver() as receiver:
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_MAINTENANCE", json.dumps(receiver.connection()))
        yield receiver


class Instance(SimpleNamespace):
    """What a callback sees of its task."""

    dag_id = "backup_daily"
    run_id = "manual__1"
    task_id = "database.dump"
    log_url = "http://127.0.0.1:8080/log"
    rendered_map_index = "hotel"
    run_state = "running"

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        return self.run_state

    def xcom_push(self, *, key: str, value: object) -> None:
        self.pushed = {key: value}


def _context(exception: object, **changes: Any) -> Any:
    return {"exception": exception, "ti": Instance(**changes)}


def test_a_failed_task_is_told_with_cause_remedy_and_log(slack: SlackReceiver) -> None:
    context = _context(ERROR)
    alerts.task_failed(context)
    (message,) = slack.messages
    for words in ("dump failed", "hotel", "the disk is full", "earlier backups", "make room", "8080/log"):
        assert words in message["text"]
    assert context["ti"].pushed == {"told": True}


def test_two_failures_are_two_messages_each_with_its_own_text(slack: SlackReceiver) -> None:
    alerts.task_failed(_context(ERROR))
    alerts.task_failed(_context(MaintenanceError("no route", untouched="x", remedy="y", database="bar")))
    assert ["the disk is full" in message["text"] for message in slack.messages] == [True, False]
    assert "no route" in slack.messages[1]["text"]


def test_an_unforeseen_error_is_told_without_its_text_which_may_hold_anything(slack: SlackReceiver) -> None:
    alerts.task_failed(_context(ValueError("postgresql://user:hunter2@host")))
    (message,) = slack.messages
    assert "hunter2" not in json.dumps(message)
    assert "ValueError" in message["text"]


def test_what_was_told_already_is_not_told_again(slack: SlackReceiver) -> None:
    alerts.task_failed(_context(alerts.RunFailedError("failed: hotel")))
    alerts.task_failed(_context(ERROR, run_state="failed"))
    alerts.run_timed_out({"reason": "task_failure"})  # type: ignore[typeddict-unknown-key]
    assert slack.messages == []


def test_a_run_that_timed_out_is_told(slack: SlackReceiver) -> None:
    run = SimpleNamespace(dag_id="backup_daily", run_id="manual__2026-11-22T02:00:00+00:00")
    alerts.run_timed_out({"reason": "timed_out", "dag_run": run})  # type: ignore[typeddict-item, typeddict-unknown-key]
    (message,) = slack.messages
    assert "run timed out" in message["text"]
    assert "manual__2026-11-22T02%3A00%3A00%2B00%3A00" in message["text"]


def test_without_a_connection_the_text_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SLACK_MAINTENANCE", raising=False)
    with caplog.at_level(logging.ERROR):
        alerts.task_failed(_context(ERROR))
    assert "the disk is full" in caplog.text
    assert "make room" in caplog.text


def test_a_slack_that_refuses_hides_nothing_and_its_address_stays_secret(
    slack: SlackReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    slack.status = 500
    with caplog.at_level(logging.ERROR):
        alerts.task_failed(_context(ERROR))
    assert "the disk is full" in caplog.text
    assert TOKEN not in caplog.text


def test_a_slack_that_is_not_there_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = {"conn_type": "slackwebhook", "host": "http://127.0.0.1:1/services", "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_MAINTENANCE", json.dumps(nobody))
    with caplog.at_level(logging.ERROR):
        alerts.task_failed(_context(ERROR))
    assert "the disk is full" in caplog.text
    assert TOKEN not in caplog.text
