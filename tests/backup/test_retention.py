"""The rule of retention, one promise a test. Today is Wednesday, 2026-03-18, noon UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from include.backup.model import Tier
from include.backup.retention import Policy, plan
from tests.backup.retention_world import FIVE_DAILY, NOW, State, at, days_ago, dropped, entry, nightly, the

# What fills a slot


def test_the_newest_good_backups_of_as_many_days_as_promised_are_kept() -> None:
    assert dropped(nightly(8, 0)) == {days_ago(5), days_ago(6), days_ago(7), days_ago(8)}


def test_a_database_with_fewer_backups_than_promised_loses_none() -> None:
    assert dropped(nightly(4, 0)) == set()


def test_a_database_without_backups_has_an_empty_plan() -> None:
    assert plan([], FIVE_DAILY, now=NOW).decisions == ()


def test_every_backup_gets_exactly_one_decision() -> None:
    entries = [*nightly(9, 0), *nightly(9, 0, tier=Tier.WEEKLY), *nightly(3, 0, tier=Tier.MONTHLY, state="failed")]
    decided = [decision.backup for decision in plan(entries, FIVE_DAILY, now=NOW).decisions]
    assert len(decided) == len(set(decided)) == len(entries)


def test_a_decision_names_the_slot_it_fills_counting_from_the_newest() -> None:
    slots = [decision.slot for decision in plan(nightly(5, 0), FIVE_DAILY, now=NOW).decisions]
    assert slots == ["daily 1 of 5", "daily 2 of 5", "daily 3 of 5", "daily 4 of 5", "daily 5 of 5", None]


def test_a_decision_carries_the_hash_and_size_of_what_was_planned() -> None:
    decision = the([entry(days_ago(1), archive="abc")], days_ago(1))
    assert (decision.sha256, decision.bytes) == ("sha256 of abc", 3)


def test_days_without_a_good_backup_are_not_counted() -> None:
    entries = [entry(days_ago(day)) for day in (0, 30, 60, 90, 120, 150)]
    assert dropped(entries) == {days_ago(150)}


def test_a_month_of_missed_runs_drops_nothing() -> None:
    entries = nightly(5, 1)
    assert dropped(entries, now=NOW + timedelta(days=31)) == set()


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_month_of_backups_that_are_not_good_drops_no_good_one(state: State) -> None:
    good = nightly(34, 30)
    assert dropped([*good, *nightly(29, 0, state=state)]) == set()


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_backup_that_is_not_good_fills_no_slot(state: State) -> None:
    assert the([*nightly(9, 2), entry(days_ago(1), state=state)], days_ago(1)).slot is None
    assert the([*nightly(9, 2), entry(days_ago(1), state=state)], days_ago(6)).slot == "daily 5 of 5"


def test_a_day_whose_newest_backup_failed_is_filled_by_the_good_one_before() -> None:
    morning, evening = at("2026-03-10 02:00"), at("2026-03-10 20:00")
    decision = the([*nightly(3, 0), entry(morning), entry(evening, state="failed")], morning)
    assert (decision.action, decision.slot) == ("keep", "daily 5 of 5")


# Periods are those of UTC


def test_a_week_is_an_iso_week_and_begins_on_monday() -> None:
    sunday, monday = at("2026-03-08 23:59"), at("2026-03-09 00:00")
    week = Policy(weekly=2)
    entries = [entry(moment, Tier.WEEKLY) for moment in (at("2026-03-02 03:00"), sunday, monday)]
    assert dropped(entries, week) == {at("2026-03-02 03:00")}


def test_the_last_days_of_december_belong_to_the_first_iso_week_of_the_new_year() -> None:
    entries = [entry(at("2025-12-29 03:00"), Tier.WEEKLY), entry(at("2026-01-04 03:00"), Tier.WEEKLY)]
    assert dropped(entries) == {at("2025-12-29 03:00")}


def test_the_first_days_of_january_may_belong_to_the_last_iso_week_of_the_old_year() -> None:
    entries = [entry(at("2026-12-28 03:00"), Tier.WEEKLY), entry(at("2027-01-03 03:00"), Tier.WEEKLY)]
    assert dropped(entries, now=at("2027-03-01 00:00")) == {at("2026-12-28 03:00")}


def test_week_ten_is_newer_than_week_nine() -> None:
    entries = [entry(at(f"2026-{day} 03:00"), Tier.WEEKLY) for day in ("02-22", "03-01", "03-08")]
    assert dropped(entries, Policy(weekly=2)) == {at("2026-02-22 03:00")}


def test_a_month_is_a_calendar_month() -> None:
    entries = [entry(at(f"2026-{day} 04:00"), Tier.MONTHLY) for day in ("01-01", "01-31", "02-01", "02-28")]
    assert dropped(entries) == {at("2026-01-01 04:00"), at("2026-02-01 04:00")}


def test_december_and_january_are_different_months_of_different_years() -> None:
    entries = [entry(at(f"{day} 04:00"), Tier.MONTHLY) for day in ("2025-01-01", "2025-12-01", "2026-01-01")]
    assert dropped(entries) == {at("2025-01-01 04:00")}
    assert dropped(entries[1:], Policy(monthly=1)) == {at("2025-12-01 04:00")}


def test_days_are_those_of_utc_whatever_zone_a_time_is_written_in() -> None:
    tokyo = timezone(timedelta(hours=9))
    before, after = datetime(2026, 3, 11, 8, 59, tzinfo=tokyo), datetime(2026, 3, 11, 9, 1, tzinfo=tokyo)
    entries = [entry(before), entry(after)]  # one day in Tokyo, two in UTC
    assert dropped(entries) == set()


def test_now_may_be_written_in_any_zone() -> None:
    entries = nightly(9, 0)
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    assert plan(entries, FIVE_DAILY, now=tokyo) == plan(entries, FIVE_DAILY, now=NOW)


def test_a_leap_day_is_a_day() -> None:
    entries = [entry(at(f"2028-{day} 02:00")) for day in ("02-28", "02-29", "03-01")]
    assert dropped(entries, Policy(daily=3), now=at("2028-03-02 00:00")) == set()


# Several good backups of one period


def test_an_extra_backup_of_today_costs_the_nightly_one_nothing_today() -> None:
    nightly_one, extra = at("2026-03-18 02:00"), at("2026-03-18 11:00")
    entries = [entry(nightly_one), entry(extra)]
    assert dropped(entries) == set()
    assert the(entries, nightly_one).slot is None
    assert the(entries, extra).slot == "daily 1 of 5"


def test_when_the_day_is_over_its_newest_good_backup_stays_and_the_earlier_ones_go() -> None:
    entries = [entry(at("2026-03-17 02:00")), entry(at("2026-03-17 09:00")), entry(at("2026-03-17 23:59"))]
    assert dropped(entries) == {at("2026-03-17 02:00"), at("2026-03-17 09:00")}


def test_a_day_is_over_at_midnight_utc_and_not_before() -> None:
    entries = [entry(at("2026-03-17 02:00")), entry(at("2026-03-17 09:00"))]
    assert dropped(entries, now=at("2026-03-17 23:59")) == set()
    assert dropped(entries, now=at("2026-03-18 00:00")) == {at("2026-03-17 02:00")}


def test_a_second_backup_of_a_running_week_or_month_waits_for_its_end() -> None:
    week = [entry(at("2026-03-16 03:00"), Tier.WEEKLY), entry(at("2026-03-17 03:00"), Tier.WEEKLY)]
    month = [entry(at("2026-03-01 04:00"), Tier.MONTHLY), entry(at("2026-03-17 04:00"), Tier.MONTHLY)]
    assert dropped([*week, *month]) == set()
    assert dropped(week, now=at("2026-03-23 00:00")) == {at("2026-03-16 03:00")}
    assert dropped(month, now=at("2026-04-01 00:00")) == {at("2026-03-01 04:00")}


def test_many_backups_of_one_day_do_not_push_out_other_days() -> None:
    entries = [*nightly(4, 1), *(entry(NOW - timedelta(minutes=minute)) for minute in range(10, 110, 10))]
    assert dropped(entries) == set()


# Backups that are not good


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_an_old_backup_that_is_not_good_goes_when_newer_good_ones_fulfil_the_promise(state: State) -> None:
    doubtful = entry(days_ago(3.5), state=state)
    assert dropped([*nightly(4, 0), doubtful]) == {days_ago(3.5)}


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_backup_that_is_not_good_stays_while_a_promised_slot_is_empty(state: State) -> None:
    assert dropped([*nightly(3, 0), entry(days_ago(2.5), state=state)]) == set()


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_backup_that_is_not_good_stays_while_it_is_newer_than_every_good_one(state: State) -> None:
    assert dropped([*nightly(20, 12), entry(days_ago(11), state=state)]) == {days_ago(day) for day in range(17, 21)}


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_backups_that_are_not_good_are_kept_when_the_tier_has_no_good_one(state: State) -> None:
    assert dropped(nightly(40, 2, state=state)) == set()


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_backup_finished_less_than_a_day_ago_is_kept_for_its_verification(state: State) -> None:
    good = [*nightly(6, 1), entry(days_ago(0.1))]
    nearly = entry(days_ago(3), state=state, finished=NOW - timedelta(hours=24) + timedelta(seconds=1))
    just = entry(days_ago(3), state=state, finished=NOW - timedelta(hours=24))
    assert days_ago(3) not in dropped([one for one in good if one.manifest.created_at != days_ago(3)] + [nearly])
    assert days_ago(3) in dropped([one for one in good if one.manifest.created_at != days_ago(3)] + [just])


def test_a_promise_that_only_pinned_backups_fulfil_is_not_fulfilled() -> None:
    pinned = [entry(days_ago(day), pinned=True) for day in range(10)]
    assert dropped([*pinned, entry(days_ago(9.5), state="failed")]) == set()


def test_a_failed_backup_is_called_failed_with_what_was_found() -> None:
    assert the([*nightly(5, 0), entry(days_ago(4.5), state="failed")], days_ago(4.5)).reason == (
        "its verification failed (sha256 differs), a newer one is good, and all 5 promised days have a good backup"
    )


def test_a_backup_whose_verification_was_of_another_object_is_called_not_verified() -> None:
    doubtful = entry(days_ago(4.5), state="verified as another object")
    assert the([*nightly(5, 0), doubtful], days_ago(4.5)).reason.startswith("not verified, ")


# Tiers and pins


def test_a_weekly_backup_never_fills_a_daily_slot() -> None:
    entries = [*nightly(3, 0), *nightly(20, 0, tier=Tier.WEEKLY)]
    assert all(decision.backup.tier == Tier.WEEKLY for decision in plan(entries, FIVE_DAILY, now=NOW).drops)


def test_the_only_good_backup_of_a_tier_stays_however_old_it_is() -> None:
    ancient = entry(at("2019-01-01 04:00"), Tier.MONTHLY)
    assert the([*nightly(9, 0), ancient], at("2019-01-01 04:00"), Policy(1, 1, 1, 1)).action == "keep"


def test_the_only_good_backup_of_a_database_stays_among_a_hundred_bad_ones() -> None:
    only = entry(at("2025-01-01 02:00"))
    assert dropped([only, *nightly(100, 0, state="failed")], Policy(1, 1, 1, 1)) == set()


def test_pre_migration_backups_are_counted_one_by_one() -> None:
    entries = [entry(NOW - timedelta(minutes=minute), Tier.PRE_MIGRATION) for minute in (10, 20, 30)]
    assert dropped(entries) == {NOW - timedelta(minutes=30)}
    assert the(entries, NOW - timedelta(minutes=20)).slot == "pre-migration 2 of 2"


def test_a_pinned_backup_is_kept_however_old() -> None:
    pinned = entry(at("2020-01-01 02:00"), pinned=True)
    assert the([*nightly(9, 0), pinned], at("2020-01-01 02:00")).action == "keep"


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_pinned_backup_is_kept_even_when_it_is_not_good(state: State) -> None:
    pinned = entry(days_ago(8.5), pinned=True, state=state)
    assert the([*nightly(9, 0), pinned], days_ago(8.5)).action == "keep"


def test_a_pinned_backup_fills_no_slot_and_takes_none_from_another() -> None:
    entries = [*nightly(5, 1), entry(days_ago(0), pinned=True)]
    assert dropped(entries) == set()
    assert the(entries, days_ago(0)).slot is None


def test_a_pinned_backup_does_not_replace_the_good_one_of_its_day() -> None:
    entries = [entry(at("2026-03-10 02:00")), entry(at("2026-03-10 09:00"), pinned=True)]
    assert dropped(entries) == set()
