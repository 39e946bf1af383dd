"""When a plan is stopped or refused, and how it reads. Today is Wednesday, 2026-03-18, noon UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.model import Tier
from include.backup.retention import Policy, plan
from tests.backup.retention_world import FIVE_DAILY, NOW, State, at, days_ago, dropped, entry, nightly

if TYPE_CHECKING:
    from include.backup.certificate import Verdict

# Clocks


def test_a_backup_from_the_future_stops_all_pruning_of_the_database() -> None:
    decided = plan([*nightly(20, 0), entry(NOW + timedelta(days=1))], FIVE_DAILY, now=NOW)
    assert decided.drops == ()
    assert decided.stopped is not None
    assert "hotel/daily/hotel_2026-03-19T120000Z" in decided.stopped
    assert "2026-03-18 12:00:00 UTC" in decided.stopped


def test_a_backup_from_the_future_in_one_tier_stops_the_others_too() -> None:
    assert dropped([*nightly(20, 0), entry(NOW + timedelta(days=1), Tier.MONTHLY, state="failed")]) == set()


def test_a_clock_that_went_back_behind_the_newest_verification_stops_all_pruning() -> None:
    entries = [*nightly(20, 1), entry(days_ago(0.5), verified=NOW + timedelta(hours=1))]
    decided = plan(entries, FIVE_DAILY, now=NOW)
    assert decided.drops == ()
    assert decided.stopped is not None


def test_a_dump_that_ended_in_the_future_stops_all_pruning() -> None:
    ended = NOW + timedelta(hours=1)
    assert dropped([*nightly(20, 1), entry(days_ago(0.5), state="unverified", finished=ended)]) == set()


def test_pruning_goes_on_by_itself_when_the_future_has_come() -> None:
    entries = [*nightly(20, 0), entry(NOW + timedelta(days=1))]
    assert dropped(entries, now=NOW + timedelta(days=1, minutes=5)) != set()


def test_workers_whose_clocks_differ_by_minutes_do_not_stop_pruning() -> None:
    assert dropped([*nightly(20, 1), entry(NOW + timedelta(minutes=3))]) != set()
    assert dropped([*nightly(20, 1), entry(NOW + timedelta(minutes=4))]) == set()  # verified two minutes later


def test_a_clock_far_ahead_drops_no_slot() -> None:
    assert dropped(nightly(4, 0), now=NOW + timedelta(days=3650)) == set()


def test_a_stopped_plan_still_decides_on_every_backup() -> None:
    entries = [*nightly(20, 0), entry(NOW + timedelta(days=1))]
    decided = plan(entries, FIVE_DAILY, now=NOW)
    assert len(decided.keeps) == len(entries)


def test_a_plan_that_is_not_stopped_says_so() -> None:
    assert plan(nightly(20, 0), FIVE_DAILY, now=NOW).stopped is None


# What is refused


def test_a_plan_for_several_databases_is_refused() -> None:
    with pytest.raises(ValueError, match="hotel, hotel_staging"):
        plan([entry(NOW), entry(NOW, database="hotel_staging")], FIVE_DAILY, now=NOW)


def test_a_now_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        plan([entry(days_ago(1))], FIVE_DAILY, now=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("name", ["daily", "weekly", "monthly", "pre_migration"])
@pytest.mark.parametrize("number", [0, -1])
def test_a_policy_that_keeps_nothing_is_refused(name: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"{name.replace('_', '-')} backups is {number}"):
        Policy(**{name: number})


def test_a_backup_listed_twice_is_refused_and_not_taken_for_superseded() -> None:
    with pytest.raises(ValueError, match="twice"):
        plan([*nightly(8, 0), entry(days_ago(8))], FIVE_DAILY, now=NOW)


# Reading a plan


def test_reasons_are_sentences_a_lawyer_could_read() -> None:
    entries = [
        *nightly(6, 1),
        entry(at("2026-03-18 02:00")),
        entry(at("2026-03-18 09:00")),
        entry(days_ago(3.5)),
        entry(days_ago(30), pinned=True),
        entry(days_ago(0.01), state="unverified"),
    ]
    assert {str(one.backup)[-18:]: one.reason for one in plan(entries, FIVE_DAILY, now=NOW).decisions} == {
        "2026-03-18T114536Z": "not verified, but made less than 24 hours ago",
        "2026-03-18T090000Z": "the newest good backup of day 2026-03-18",
        "2026-03-18T020000Z": "good; the one of 2026-03-18 09:00:00 UTC is newer, but day 2026-03-18 is not over yet",
        "2026-03-17T120000Z": "the newest good backup of day 2026-03-17",
        "2026-03-16T120000Z": "the newest good backup of day 2026-03-16",
        "2026-03-15T120000Z": "the newest good backup of day 2026-03-15",
        "2026-03-15T000000Z": (
            "good, but day 2026-03-15 is over and keeps its newest good backup, of 2026-03-15 12:00:00 UTC"
        ),
        "2026-03-14T120000Z": "the newest good backup of day 2026-03-14",
        "2026-03-13T120000Z": "good, but 5 newer days have a good backup each, which is all that is promised",
        "2026-03-12T120000Z": "good, but 5 newer days have a good backup each, which is all that is promised",
        "2026-02-16T120000Z": "it is marked to be kept for ever; it fills no slot",
    }


def test_a_plan_lists_the_tiers_in_order_and_the_newest_first() -> None:
    entries = [*nightly(3, 0, tier=Tier.MONTHLY), *nightly(3, 0), *nightly(3, 0, tier=Tier.PRE_MIGRATION)]
    order = [(one.backup.tier, one.backup.created_at) for one in plan(entries, FIVE_DAILY, now=NOW).decisions]
    tiers = list(Tier)
    assert order == sorted(order, key=lambda one: (tiers.index(one[0]), datetime.max.replace(tzinfo=UTC) - one[1]))


def test_planning_looks_at_the_backups_and_not_at_their_order() -> None:
    entries = [*nightly(9, 0), *nightly(9, 0, tier=Tier.WEEKLY, state="failed")]
    assert plan(entries, FIVE_DAILY, now=NOW) == plan(entries[::-1], FIVE_DAILY, now=NOW)
    ahead = [entry(NOW + timedelta(days=1), tier) for tier in Tier]  # names the same one as the reason to stop
    assert plan(ahead, FIVE_DAILY, now=NOW) == plan(ahead[::-1], FIVE_DAILY, now=NOW)


# The page for operators


@pytest.mark.parametrize(
    ("daily", "goes"),
    [
        (["18 02", "17 02", "16 02", "15 02"], ["15 02"]),
        (["18 02", "10 02", "02 02"], []),
        (["10 02", "09 02", "08 02", *(f"{day} 02 failed" for day in range(11, 19))], []),
        (["18 02", "18 11"], []),
        (["17 02", "17 11"], ["17 02"]),
        (["17 02", "17 11 failed"], []),
        (["18 02", "17 02", "16 02", "16 01 failed"], ["16 01"]),
        (["18 02", "17 02", "12 02 failed"], []),
        (["18 02", "17 02", "16 02", "18 11 unverified"], []),
        (["18 02", "17 02", "16 02", "15 02 pinned"], []),
        ([*(f"{day} 02" for day in range(10, 19)), "25 02"], []),
        (["16 02 proved", "16 11", "17 02"], ["16 11"]),
        (["18 02 proved", "18 11"], []),
        (["17 02 proved", "17 23", "18 02"], []),
        ([f"{day} 02 proved" for day in range(10, 19)], [f"{day} 02" for day in range(10, 16)]),
        (
            [*(f"{day:02} 02 proved" for day in range(8, 13)), *(f"{day} 02" for day in range(13, 19))],
            ["08 02", "09 02", "13 02", "14 02", "15 02"],
        ),
        (
            ["12 02 proved", *(f"{day} 02" for day in range(13, 18)), "18 02 proved"],
            ["13 02", "14 02", "15 02"],
        ),
        ([*(f"{day} 02 proved" for day in range(10, 18)), "18 02 disproved"], []),
        (
            [*(f"{day} 02 proved" for day in range(10, 18)), "18 02 incomplete"],
            [f"{day} 02" for day in range(10, 15)],
        ),
    ],
)
def test_the_examples_in_the_documentation_hold(daily: list[str], goes: list[str]) -> None:
    states: dict[str, State] = {"failed": "failed", "unverified": "unverified"}
    proofs: dict[str, Verdict] = {"proved": "proved", "disproved": "failed", "incomplete": "incomplete"}
    entries = [
        entry(
            at(f"2026-03-{day} {hour}:00"),
            state=states.get("".join(word), "good"),
            pinned=word == ["pinned"],
            proof=proofs.get("".join(word)),
        )
        for day, hour, *word in (text.split() for text in daily)
    ]
    expected = {at(f"2026-03-{day} {hour}:00") for day, hour in (text.split() for text in goes)}
    assert dropped(entries, Policy(daily=3)) == expected
