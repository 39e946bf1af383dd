"""What a proof changes about retention, one promise a test. Today is Wednesday, 2026-03-18, noon UTC."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.anomaly import anomalies
from include.backup.model import Tier
from include.backup.options import MonitorOptions
from include.backup.retention import Policy, plan
from tests.backup.retention_world import FIVE_DAILY, NOW, at, certificate, days_ago, dropped, entry, nightly, table, the

if TYPE_CHECKING:
    from include.backup.model import CatalogEntry

THREE = Policy(daily=3)


def slots(entries: list[CatalogEntry], policy: Policy = THREE, now: datetime = NOW) -> list[str | None]:
    return [decision.slot for decision in plan(entries, policy, now=now).decisions]


def stopped(entries: list[CatalogEntry], *, now: datetime = NOW) -> str:
    """Why nothing goes; and nothing does."""
    decided = plan(entries, FIVE_DAILY, now=now, anomalies=anomalies(entries, MonitorOptions()))
    assert decided.drops == ()
    assert len(decided.keeps) == len(entries)
    return decided.stopped or ""


# Within a period


def test_the_proved_backup_of_a_day_fills_its_slot_before_a_newer_one_that_is_only_verified() -> None:
    proved, newer = entry(at("2026-03-16 02:00"), proof="proved"), entry(at("2026-03-16 11:00"))
    entries = [proved, newer, entry(days_ago(0.1))]
    assert dropped(entries) == {at("2026-03-16 11:00")}
    assert the(entries, at("2026-03-16 02:00")).slot == "daily 2 of 5, proved"


def test_the_newest_proved_backup_of_a_day_stays_and_earlier_proved_ones_go() -> None:
    entries = [entry(at(f"2026-03-16 {hour}:00"), proof="proved") for hour in ("02", "11")]
    assert dropped([*entries, entry(days_ago(0))]) == {at("2026-03-16 02:00")}


def test_today_the_newer_verified_backup_stays_beside_the_proved_one() -> None:
    entries = [entry(at("2026-03-18 02:00"), proof="proved"), entry(at("2026-03-18 11:00"))]
    assert dropped(entries) == set()
    assert the(entries, at("2026-03-18 11:00")).slot is None
    assert the(entries, at("2026-03-18 11:00")).reason == (
        "good; the proved one of 2026-03-18 02:00:00 UTC fills the slot, but day 2026-03-18 is not over yet"
    )


def test_a_verified_backup_made_late_in_a_day_keeps_a_day_of_time_for_its_proof() -> None:
    late = at("2026-03-17 23:30")
    entries = [entry(at("2026-03-17 02:00"), proof="proved"), entry(late), entry(at("2026-03-18 02:00"))]
    assert dropped(entries, now=at("2026-03-18 23:30")) == set()
    assert dropped(entries, now=at("2026-03-18 23:31")) == {late}


def test_an_older_verified_backup_gets_no_time_for_a_proof() -> None:
    entries = [entry(at("2026-03-17 20:00")), entry(at("2026-03-17 23:00"), proof="proved"), entry(days_ago(0.1))]
    assert dropped(entries) == {at("2026-03-17 20:00")}


def test_the_newest_good_backup_of_a_tier_stays_though_an_older_one_of_its_day_is_proved() -> None:
    newest = at("2026-03-10 11:00")
    entries = [*nightly(14, 9), entry(at("2026-03-10 02:00"), proof="proved"), entry(newest)]
    entries = [one for one in entries if one.manifest.created_at <= newest]
    assert the(entries, newest).action == "keep"
    assert the(entries, newest).reason == (
        "the newest good backup of this tier, though only that of 2026-03-10 02:00:00 UTC is proved"
    )
    assert the([*entries, entry(days_ago(1))], newest).action == "drop"


def test_a_failed_backup_goes_for_a_newer_good_one_even_where_the_slot_is_filled_by_an_older_proved_one() -> None:
    day = [entry(at("2026-03-16 02:00"), proof="proved"), entry(at("2026-03-16 20:00"), state="failed")]
    assert dropped([*day, *nightly(9, 3)], THREE) == {days_ago(day) for day in range(5, 10)}
    newest = entry(at("2026-03-16 23:00"))
    assert at("2026-03-16 20:00") in dropped([*day, newest, *nightly(9, 3)], THREE)


def test_a_proof_that_comes_in_wins_the_slot_back_from_the_earlier_one() -> None:
    entries = [entry(at("2026-03-16 02:00"), proof="proved"), entry(at("2026-03-16 11:00"), proof="proved")]
    assert dropped([*entries, entry(days_ago(0))]) == {at("2026-03-16 02:00")}


# Across periods


def test_when_every_night_is_proved_as_many_are_kept_as_without_proofs() -> None:
    assert dropped(nightly(9, 0, proof="proved")) == dropped(nightly(9, 0))
    assert slots(nightly(3, 0, proof="proved")) == [
        "daily 1 of 3, proved", "daily 2 of 3, proved", "daily 3 of 3, proved", None
    ]  # fmt: skip


def test_weeks_without_proofs_remove_none_of_the_last_proved_backups() -> None:
    entries = [*nightly(40, 30, proof="proved"), *nightly(29, 0)]
    kept = {one.backup.created_at for one in plan(entries, FIVE_DAILY, now=NOW).keeps}
    assert kept == {days_ago(day) for day in (0, 1, 2, 3, 4, 30, 31, 32, 33, 34)}


def test_older_proved_backups_go_one_by_one_as_newer_nights_are_proved() -> None:
    entries = [*nightly(9, 7, proof="proved"), *nightly(6, 1), entry(days_ago(0), proof="proved")]
    assert dropped(entries, THREE) == {days_ago(day) for day in (3, 4, 5, 6, 9)}
    assert slots(entries)[:3] == ["daily 1 of 3, proved", "daily 2 of 3, verified", "daily 3 of 3, verified"]
    assert [slot for slot in slots(entries)[3:] if slot] == ["daily, proved 2 of 3", "daily, proved 3 of 3"]


def test_no_more_than_twice_the_promised_number_is_kept_however_many_are_proved() -> None:
    assert len(plan([*nightly(90, 30, proof="proved"), *nightly(29, 0)], THREE, now=NOW).keeps) == 6


def test_the_newest_proved_backup_of_a_database_stays_however_old() -> None:
    for tier in Tier:
        ancient = entry(at("2019-01-01 04:00"), tier, proof="proved")
        decision = the([*nightly(30, 0, tier=tier), ancient], ancient.manifest.created_at, Policy(1, 1, 1, 1))
        assert (decision.action, decision.slot) == ("keep", f"{tier}, proved 1 of 1")


def test_a_tier_without_proofs_is_decided_as_if_no_other_tier_had_any() -> None:
    weekly = nightly(60, 0, tier=Tier.WEEKLY)
    alone = plan(weekly, FIVE_DAILY, now=NOW).decisions
    assert plan([*nightly(9, 0, proof="proved"), *weekly], FIVE_DAILY, now=NOW).decisions[10:] == alone


def test_an_incomplete_proof_is_no_proof_and_no_failure() -> None:
    incomplete = nightly(9, 0, proof="incomplete")
    decided, without = plan(incomplete, FIVE_DAILY, now=NOW), plan(nightly(9, 0), FIVE_DAILY, now=NOW)
    assert [(one.action, one.slot, one.reason) for one in decided.decisions] == [
        (one.action, one.slot, one.reason) for one in without.decisions
    ]


def test_a_certificate_of_another_archive_or_manifest_proves_nothing() -> None:
    proved, newer = entry(at("2026-03-16 02:00")), entry(at("2026-03-16 11:00"))
    proof = certificate(proved.manifest, "proved", at("2026-03-16 03:00"))
    for wrong in ({"sha256": "another"}, {"manifest_sha256": "another"}, {"backup": newer.manifest.id}):
        forged = proved.model_copy(update={"proof": proof.model_copy(update=wrong)})
        assert dropped([forged, newer, entry(days_ago(0))]) == {at("2026-03-16 02:00")}


def test_a_pinned_proved_backup_fills_no_slot_and_keeps_none_from_another() -> None:
    entries = [*nightly(9, 8, proof="proved"), *nightly(7, 1), entry(days_ago(0), proof="proved", pinned=True)]
    assert {one.backup.created_at for one in plan(entries, THREE, now=NOW).keeps} == {
        days_ago(day) for day in (0, 1, 2, 3, 8, 9)
    }


# A restore that failed


def test_a_backup_whose_restore_failed_fills_no_slot_and_goes_like_others_that_are_not_good() -> None:
    entries = [*nightly(4, 0, proof="proved"), entry(days_ago(3.5), proof="failed")]
    decision = the(entries, days_ago(3.5))
    assert (decision.action, decision.slot) == ("drop", None)
    assert decision.reason == (
        "its restore failed (row hashes), a newer one is good, and all 5 promised days have a good backup"
    )
    assert the(entries[1:], days_ago(3.5)).action == "keep"


def test_a_backup_that_failed_both_ways_is_told_by_its_verification() -> None:
    entries = [*nightly(4, 0, proof="proved"), entry(days_ago(3.5), state="failed", proof="failed")]
    assert the(entries, days_ago(3.5)).reason.startswith("its verification failed (sha256 differs), ")


def test_while_the_newest_proof_is_a_failed_one_nothing_goes_in_any_tier() -> None:
    entries = [*nightly(9, 1, proof="proved"), entry(days_ago(0), proof="failed"), *nightly(60, 0, tier=Tier.WEEKLY)]
    why = stopped(entries)
    assert (
        why
        == (
            "the newest proof of this database failed, that of hotel/daily/hotel_2026-03-18T120000Z on "
            "2026-03-18 12:03:00 UTC (row hashes). Nothing is dropped until a backup has been proved again: read "
            "hotel/daily/hotel_2026-03-18T120000Z.proof.json, mend the cause, then "
            "`python -m include.cli prove hotel/daily/hotel_2026-03-18T120000Z`, or prove a newer one"
        )
        or "a clock" in why
    )


@pytest.mark.parametrize("tier", list(Tier))
def test_a_failed_proof_of_any_tier_stops_the_others(tier: Tier) -> None:
    failed = entry(days_ago(0.5), tier, proof="failed")
    assert "proof of this database failed" in stopped([*nightly(9, 1, proof="proved"), failed])


def test_a_failed_proof_stops_even_where_the_backup_is_pinned_or_its_verification_failed_too() -> None:
    for failed in (
        entry(days_ago(0.5), proof="failed", pinned=True),
        entry(days_ago(0.5), proof="failed", state="failed"),
    ):
        assert "proof of this database failed" in stopped([*nightly(9, 1, proof="proved"), failed])


def test_the_newest_proof_is_the_one_made_last_and_not_the_one_of_the_newest_backup() -> None:
    old = entry(days_ago(8), proof="failed", proved=days_ago(0.1))
    assert "hotel_2026-03-10" in stopped([*nightly(20, 9), *nightly(7, 1, proof="proved"), old])
    again = entry(days_ago(8), proof="proved", proved=days_ago(0.1))
    assert dropped([*nightly(20, 9), entry(days_ago(1), proof="failed"), again]) != set()


def test_two_proofs_of_one_moment_of_which_one_failed_stop_it() -> None:
    for first, second in ((1, 2), (2, 1)):
        failed = entry(days_ago(first), proof="failed", proved=days_ago(0.5))
        proved = entry(days_ago(second), proof="proved", proved=days_ago(0.5))
        assert "proof of this database failed" in stopped([*nightly(20, 3), failed, proved])


def test_pruning_goes_on_when_a_backup_has_been_proved_again() -> None:
    entries = [*nightly(9, 2, proof="proved"), entry(days_ago(1), proof="failed")]
    assert stopped(entries)
    assert dropped([*entries, entry(days_ago(0.5), proof="proved")]) != set()


def test_an_incomplete_proof_neither_stops_pruning_nor_answers_a_failed_one() -> None:
    assert dropped([*nightly(9, 1, proof="proved"), entry(days_ago(0.5), proof="incomplete")]) != set()
    failed = [*nightly(9, 2, proof="proved"), entry(days_ago(1), proof="failed")]
    assert "proof of this database failed" in stopped([*failed, entry(days_ago(0.5), proof="incomplete")])


def test_a_failed_proof_that_was_of_another_archive_stops_nothing() -> None:
    failed = entry(days_ago(0.5), proof="failed")
    assert failed.proof is not None
    forged = failed.model_copy(update={"proof": failed.proof.model_copy(update={"sha256": "another"})})
    assert dropped([*nightly(9, 1), forged]) != set()


def test_a_proof_of_another_archive_is_no_answer_to_a_failed_one() -> None:
    proved = entry(days_ago(0.2), proof="proved")
    assert proved.proof is not None
    forged = proved.model_copy(update={"proof": proved.proof.model_copy(update={"sha256": "another"})})
    assert "proof of this database failed" in stopped([*nightly(9, 2), entry(days_ago(1), proof="failed"), forged])


# A loss that nobody has explained


def _emptied(**others: object) -> list[CatalogEntry]:
    full = [entry(days_ago(day), tables=(table(1000),)) for day in range(1, 10)]
    return [*full, entry(days_ago(0.5), tables=(table(10),), **others)]  # type: ignore[arg-type]  # any field of it


def test_while_a_loss_is_unexplained_nothing_goes_and_it_is_told_how_to_accept_it() -> None:
    why = stopped(_emptied())
    assert "hotel.bookings had 1,000 rows in hotel/daily/hotel_2026-03-17T120000Z" in why
    assert "python -m include.cli monitor --accept hotel/daily/hotel_2026-03-18T000000Z --reason" in why


def test_pruning_goes_on_when_the_loss_was_accepted_or_made_good() -> None:
    for entries in (
        _emptied(accepted=days_ago(0.1)),
        [*_emptied(), entry(days_ago(0.2), tables=(table(990),))],
    ):
        found = anomalies(entries, MonitorOptions())
        assert plan(entries, FIVE_DAILY, now=NOW, anomalies=found).drops != ()


def test_every_loss_is_named() -> None:
    before = entry(days_ago(1), tables=(table(1000), table(500, "guests")))
    lines = stopped([before, entry(days_ago(0.5), tables=(table(1), table(1, "guests")))]).splitlines()
    assert [line.split(" had ")[0] for line in lines] == ["hotel.bookings", "hotel.guests"]


# Clocks, and several reasons at once


def test_a_proof_or_an_acceptance_from_the_future_stops_all_pruning() -> None:
    ahead = NOW + timedelta(hours=1)
    for made in (entry(days_ago(1), proof="proved", proved=ahead), entry(days_ago(1), accepted=ahead)):
        why = stopped([*nightly(20, 2), made])
        assert "hotel_2026-03-17T120000Z or a record of it is dated 2026-03-18 13:00:00 UTC" in why


def test_all_reasons_to_stop_are_told_a_line_each() -> None:
    entries = [*_emptied(), entry(days_ago(0.6), proof="failed"), entry(NOW + timedelta(days=1), Tier.MONTHLY)]
    lines = stopped(entries).splitlines()
    assert ["clock" in lines[0], "proof" in lines[1], "rows" in lines[2], len(lines)] == [True, True, True, 3]
