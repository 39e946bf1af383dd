"""The monitor as a real scheduler runs it, an hour being fifteen seconds, and the watch outside that misses it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml

from include.backup.stores.local import LocalStore
from tests.heartbeat import SECRET_PATH, Watch, heartbeat_receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.dags.conftest import Night

pytestmark = pytest.mark.timeout(900)

DAG = "backup_monitor"
HOUR = timedelta(seconds=15)
DATABASES = ("alpha", "beta")
ENDED = {"success", "failed"}
PATIENCE_SECONDS = 240.0


@dataclass
class Hours:
    """The monitor of a store of its own, so that what other tests leave is none of its findings."""

    night: Night
    watch: Watch
    store: LocalStore

    def told(self, since: int = 0) -> list[str]:
        """Slack's texts about the monitor."""
        return self.night.slack.about(DAG)[since:]

    def runs(self) -> list[tuple[str, str]]:
        """Id and state of the scheduled runs, the newest first."""
        listed = self.night.api._call("GET", f"/api/v2/dags/{DAG}/dagRuns?order_by=-run_after&limit=50")["dag_runs"]
        return [(row["dag_run_id"], row["state"]) for row in listed if row["run_type"] == "scheduled"]

    def pause(self, *, paused: bool) -> None:
        """A run that is under way stays where it is; the tasks that the executor has already are waited for."""
        self.night.api._call("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": paused})
        if paused:
            _wait_until(lambda: not any(self._busy(run) for run, state in self.runs() if state not in ENDED))

    def _busy(self, run_id: str) -> bool:
        return any(task.state in {"queued", "running"} for task in self.night.api.task_instances(DAG, run_id))

    def wait_for_runs(self, number: int) -> None:
        """Wait until so many more runs have begun and ended."""
        before = {run_id for run_id, _ in self.runs()}
        _wait_until(lambda: sum(run not in before and state in ENDED for run, state in self.runs()) >= number)

    @contextmanager
    def settings(self, **changes: object) -> Iterator[None]:
        """Another configuration for a while."""
        path = self.night.airflow.config_file
        before = path.read_text(encoding="utf-8")
        path.write_text(yaml.safe_dump(yaml.safe_load(before) | changes), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def hours(night: Night, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hours]:
    folder: Path = tmp_path_factory.mktemp("monitored")
    night.api.wait_for_dag(DAG)
    with heartbeat_receiver() as watch:
        watch.silence = 2 * HOUR
        hours = Hours(night=night, watch=watch, store=LocalStore(folder))
        databases = {name: {"connection": f"{name}_db", "proof": {"tiers": []}} for name in DATABASES}
        with (
            night.connection("heartbeat", **watch.connection()),
            hours.settings(store={"url": folder.as_uri()}, databases=databases),
        ):
            hours.pause(paused=False)
            try:
                yield hours
            finally:
                hours.pause(paused=True)
    _read_dags_again(night)


def test_a_database_without_a_backup_is_told_once_and_over_once_there_is_one(hours: Hours) -> None:
    number = len(DATABASES)
    _wait_until(lambda: len(hours.told()) >= number)
    hours.wait_for_runs(2)
    assert len(hours.told()) == number
    for database in DATABASES:
        (text,) = hours.night.slack.about(DAG, f"1 new - {database}\n")
        assert "New, critical: there is no verified backup; the newest may be 26 hours old." in text
        assert "What to do: look at the last runs of backup_daily" in text
        assert f"/dags/{DAG}/runs/scheduled__" in text
    assert hours.watch.beats == []

    assert hours.night.run("backup_daily")[1] == "success"
    _wait_until(lambda: len(hours.told()) >= 2 * number)
    _wait_until(lambda: len(hours.watch.beats) >= 2)
    assert len(hours.told()) == 2 * number
    for database in DATABASES:
        (text,) = hours.night.slack.about(DAG, f"1 over - {database}\n")
        assert "there is no verified backup" in text
    assert set(hours.watch.paths) == {f"/{SECRET_PATH}"}


def test_a_store_that_is_gone_is_told_once_for_each_task_and_no_heartbeat_is_sent(hours: Hours) -> None:
    told = len(hours.told())
    blocked = hours.night.airflow.home / "no-folder"
    blocked.write_bytes(b"")
    with hours.settings(store={"url": f"{blocked.as_uri()}/store"}):
        hours.wait_for_runs(1)
        beats = len(hours.watch.beats)
        hours.wait_for_runs(2)
        assert [state for _, state in hours.runs() if state in ENDED][:2] == ["failed", "failed"]
        assert len(hours.watch.beats) == beats
        texts = hours.told(told)
    for task in ("look", "reread"):
        for database in DATABASES:
            assert len([text for text in texts if f"{task} failed - {database}\n" in text]) == 1
    assert len(texts) == 2 * len(DATABASES)
    _wait_until(lambda: len(hours.watch.beats) > beats)
    again = [text for text in hours.told(told) if "it sees again" in text]
    assert sorted(text.split("\n")[0] for text in again) == [
        f"{DAG}: it sees again - {database}" for database in DATABASES
    ]


def test_by_hand_an_acceptance_needs_a_reason_and_the_databases_are_looked_at_without(hours: Hours) -> None:
    backup = next(iter(hours.store.list("beta/daily/"))).key.partition(".")[0]
    run_id, state = hours.night.run(DAG, accept=backup, reason="the archive was emptied")
    assert state == "success"
    assert hours.night.tasks(DAG, run_id)["accept", ""].state == "success"
    assert b"the archive was emptied" in hours.store.get(f"{backup}.accepted.json")
    told = len(hours.told())
    run_id, _ = hours.night.run(DAG, accept=backup)
    assert hours.night.tasks(DAG, run_id)["accept", ""].state == "failed"
    assert hours.night.tasks(DAG, run_id)["look", "beta"].state == "success"
    assert len(hours.told()) == told + 1


def test_when_the_monitor_is_paused_the_watch_outside_raises_its_alarm_within_two_hours(hours: Hours) -> None:
    before = len(hours.watch.beats)
    _wait_until(lambda: len(hours.watch.beats) >= before + 2)
    assert not hours.watch.alarmed(datetime.now(UTC))
    hours.pause(paused=True)
    last = len(hours.watch.beats)
    _wait_until(lambda: hours.watch.alarmed(datetime.now(UTC)), seconds=2 * HOUR.total_seconds() + 1)
    assert len(hours.watch.beats) == last


def test_the_secret_path_is_in_no_file_of_airflows(hours: Hours) -> None:
    assert hours.watch.beats
    looked_at = 0
    for path in hours.night.airflow.home.rglob("*"):
        if path.is_file() and path.name != "connections.json":
            looked_at += 1
            assert SECRET_PATH.encode() not in path.read_bytes(), path
    assert looked_at > 20


def _read_dags_again(night: Night) -> None:
    """The DAGs have been read with other settings meanwhile: the tests that follow need them as they were."""
    read_before = {}
    for dag_id in ("backup_daily", "backup_prove", DAG):
        details = night.api._call("GET", f"/api/v2/dags/{dag_id}/details")
        read_before[dag_id] = details["last_parsed_time"]
        night.api._call("PUT", f"/api/v2/parseDagFile/{details['file_token']}")
    for dag_id, before in read_before.items():
        path = f"/api/v2/dags/{dag_id}/details"
        _wait_until(lambda path=path, before=before: night.api._call("GET", path)["last_parsed_time"] > before)  # type: ignore[misc] # a lambda's defaults


def _wait_until(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
