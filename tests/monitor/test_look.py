"""Hours of a monitor in simulated time, with a folder as the store and the outside watch beside it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.options import MonitorOptions
from include.backup.stores.local import LocalStore
from include.monitor.changes import after_telling, remember, state_key
from include.monitor.look import look
from include.proving.options import ProofOptions
from tests.backup.retention_world import NOW, entry, write
from tests.heartbeat import Watch

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from include.monitor.look import Look

HOUR = timedelta(hours=1)


class Monitor:
    """What an hourly run does, without its Airflow: look, tell, remember, beat."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store
        self.told: list[str] = []
        self.watch = Watch(port=0)

    def run(self, now: datetime) -> Look:
        seen = look(self.store, "hotel", monitor=MonitorOptions(), proof=ProofOptions(), now=now)
        self.told += [f"new {finding.key}" for finding in seen.changes.new]
        self.told += [f"worse {finding.key}" for finding in seen.changes.worse]
        self.told += [f"over {each.finding.key}" for each in seen.changes.over]
        remember(self.store, "hotel", after_telling(seen.previous, seen.changes, now=now))
        if not seen.critical:
            self.watch.beats.append(now)
        return seen


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def monitor(store: LocalStore) -> Monitor:
    return Monitor(store)


def _night(store: LocalStore, now: datetime) -> None:
    write(store, entry(now - timedelta(minutes=20), proof="proved"), archive={".dump": b"a"})


def test_a_well_kept_database_beats_every_hour_and_tells_nothing(store: LocalStore, monitor: Monitor) -> None:
    for hour in range(24 * 4):
        if hour % 24 == 0:
            _night(store, NOW + hour * HOUR)
        assert not monitor.run(NOW + hour * HOUR).critical
        assert not monitor.watch.alarmed(NOW + hour * HOUR)
    assert monitor.told == []


def test_when_the_monitor_stops_the_outside_watch_raises_its_alarm_within_two_hours(
    store: LocalStore, monitor: Monitor
) -> None:
    _night(store, NOW)
    for hour in range(5):
        monitor.run(NOW + hour * HOUR)
    stopped = NOW + 4 * HOUR
    assert not monitor.watch.alarmed(stopped + 2 * HOUR)
    assert monitor.watch.alarmed(stopped + 2 * HOUR + timedelta(seconds=1))


def test_when_backups_stop_it_is_told_once_at_each_doubling_and_the_heartbeat_stays_away(
    store: LocalStore, monitor: Monitor
) -> None:
    _night(store, NOW)
    for hour in range(24 * 3):
        monitor.run(NOW + hour * HOUR)
    assert monitor.told == ["new rpo:verified", "new rpo:proved", "worse rpo:verified"]
    assert monitor.watch.beats[-1] == NOW + 25 * HOUR
    assert monitor.watch.alarmed(NOW + 28 * HOUR)
    back = NOW + 24 * 3 * HOUR
    _night(store, back)
    assert not monitor.run(back).critical
    assert monitor.told[3:] == ["over rpo:verified", "over rpo:proved"]
    assert not monitor.watch.alarmed(back)


def test_a_look_writes_nothing(store: LocalStore) -> None:
    _night(store, NOW)
    before = {item.key: store.get(item.key) for item in store.list()}
    look(store, "hotel", monitor=MonitorOptions(), proof=ProofOptions(), now=NOW + 100 * HOUR)
    assert {item.key: store.get(item.key) for item in store.list()} == before


def test_a_memory_that_was_damaged_makes_everything_new_and_says_so(store: LocalStore, monitor: Monitor) -> None:
    monitor.run(NOW)
    assert not monitor.run(NOW + HOUR).changes
    store.put(state_key("hotel"), b"{", replace=True)
    seen = monitor.run(NOW + 2 * HOUR)
    assert seen.memory_lost
    assert {finding.key for finding in seen.changes.new} == {"rpo:verified", "rpo:proved"}
    assert not monitor.run(NOW + 3 * HOUR).changes


def test_a_clock_that_was_set_back_is_noticed_by_the_last_look(store: LocalStore, monitor: Monitor) -> None:
    _night(store, NOW - 24 * HOUR)
    monitor.run(NOW)
    assert [finding.key for finding in monitor.run(NOW - 2 * HOUR).findings] == ["clock"]


def test_what_a_killed_run_left_is_noticed_a_day_later(store: LocalStore, monitor: Monitor) -> None:
    _night(store, NOW)
    left = entry(NOW - HOUR).backup_id
    store.put(left.dump_key, b"a")
    (written,) = [item.modified.replace(microsecond=0) for item in store.list(left.stem)]
    _night(store, written)
    assert monitor.run(written + 23 * HOUR).findings == ()
    _night(store, written + 24 * HOUR)
    assert [finding.key for finding in monitor.run(written + 25 * HOUR).findings] == ["leftovers"]


def test_another_databases_backups_are_not_this_ones(store: LocalStore) -> None:
    write(store, entry(NOW - HOUR, database="hotel-2", proof="proved"), archive={".dump": b"a"})
    seen = look(store, "hotel", monitor=MonitorOptions(), proof=ProofOptions(), now=NOW)
    assert [finding.key for finding in seen.findings] == ["rpo:verified", "rpo:proved"]
