"""What is told and what is not: each thing once, again when it is worse, and when it is over."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.stores.local import LocalStore
from include.monitor.changes import State, after_telling, changes, read_state, remember, state_key
from include.monitor.finding import NOTHING_AT_ALL, Finding, some_of, written
from tests.backup.retention_world import NOW

if TYPE_CHECKING:
    from pathlib import Path

    from include.monitor.finding import Severity


def _finding(key: str = "rpo:verified", magnitude: float = 0, severity: Severity = "critical") -> Finding:
    return Finding(
        key=key, database="hotel", severity=severity, sentence=f"{key} {magnitude}", remedy="act", magnitude=magnitude
    )


def _told(*findings: Finding) -> State:
    return after_telling(None, changes(None, findings), now=NOW)


def test_what_was_not_told_is_new_and_then_the_same() -> None:
    finding = _finding()
    assert changes(None, [finding]).new == (finding,)
    later = changes(_told(finding), [finding])
    assert not later
    assert later.same == (finding,)


def test_what_is_gone_is_over_as_it_was_told_and_is_then_forgotten() -> None:
    state = _told(_finding(magnitude=1.1))
    news = changes(state, [])
    (over,) = news.over
    assert over.finding.sentence == "rpo:verified 1.1"
    assert over.since == NOW
    assert after_telling(state, news, now=NOW).told == ()


def test_an_age_is_told_again_at_twice_what_was_told_and_not_every_hour() -> None:
    state: State | None = None
    told = []
    for hour in range(27, 27 + 14 * 24):
        now = NOW + timedelta(hours=hour)
        news = changes(state, [_finding(magnitude=hour / 26)])
        if news:
            told.append(hour)
        state = after_telling(state, news, now=now)
    assert told == [27, 54, 108, 216]
    assert state is not None
    assert state.told[0].since == NOW + timedelta(hours=27)


def test_a_slow_worsening_adds_up() -> None:
    state = _told(_finding(magnitude=1))
    for magnitude in (1.3, 1.7, 1.99):
        news = changes(state, [_finding(magnitude=magnitude)])
        assert not news
        state = after_telling(state, news, now=NOW)
    assert changes(state, [_finding(magnitude=2)]).worse


def test_a_warning_that_becomes_critical_is_worse_and_what_eased_and_returns_is_no_news() -> None:
    warning, critical = _finding("room", severity="warning"), _finding("room")
    state = _told(warning)
    news = changes(state, [critical])
    assert news.worse == (critical,)
    state = after_telling(state, news, now=NOW)
    eased = changes(state, [warning])
    assert not eased
    assert not changes(after_telling(state, eased, now=NOW), [critical])


def test_a_lack_of_any_backup_is_worse_than_any_age() -> None:
    assert changes(_told(_finding(magnitude=400)), [_finding(magnitude=NOTHING_AT_ALL)]).worse
    assert not changes(_told(_finding(magnitude=NOTHING_AT_ALL)), [_finding(magnitude=400)])


def test_one_finding_that_comes_or_goes_leaves_the_others_alone() -> None:
    rpo, room = _finding(), _finding("room")
    news = changes(_told(rpo), [rpo, room])
    assert (news.new, news.same, news.over) == ((room,), (rpo,), ())


def test_what_was_told_is_kept_in_the_store_and_replaced(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_state(store, "hotel") == (None, True)
    for state in (_told(_finding()), _told(_finding("room", 2))):
        remember(store, "hotel", state)
        assert read_state(store, "hotel") == (state, True)
    assert [item.key for item in store.list()] == ["hotel/monitor.json"]


@pytest.mark.parametrize("data", [b"", b"{", b'{"schema_version": 2}', b"\xff"])
def test_a_memory_that_cannot_be_understood_is_none_and_said_to_be(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put(state_key("hotel"), data)
    assert read_state(store, "hotel") == (None, False)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(minutes=90), "90.0 minutes"),
        (timedelta(hours=26, minutes=30), "26.5 hours"),
        (timedelta(days=9), "9.0 days"),
    ],
)
def test_a_span_is_written_so_that_it_compares_with_its_limit(span: timedelta, text: str) -> None:
    assert written(span) == text


def test_a_long_list_is_cut_with_the_number_left_out() -> None:
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
