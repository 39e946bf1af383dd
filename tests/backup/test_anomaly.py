"""What counts as a suspicious loss between backups, and when it is over. Today is Wednesday, 2026-03-18, noon UTC."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.backup.anomaly import Anomaly, accept, anomalies
from include.backup.catalog import NoSuchBackupError, read_catalog
from include.backup.model import Tier
from include.backup.options import MonitorOptions
from include.errors import MaintenanceError
from tests.backup.retention_world import NOW, State, days_ago, entry, table, write

if TYPE_CHECKING:
    from include.backup.model import CatalogEntry
    from include.backup.stores.local import LocalStore

OPTIONS = MonitorOptions()  # 40 % of a table of 100 rows or more, 50 % of the archive


def night(
    day: float, rows: int | None = 1000, size: int = 1000, tier: Tier = Tier.DAILY, **others: Any
) -> CatalogEntry:
    """A backup of one table, so many days ago."""
    return entry(days_ago(day), tier, **{"tables": (table(rows),), "bytes": size, **others})


def found(*entries: CatalogEntry, options: MonitorOptions = OPTIONS) -> list[tuple[str, int, int]]:
    """What, and between how many days ago and how many days ago."""
    return [
        (anomaly.kind, (NOW - anomaly.reference.created_at).days, (NOW - anomaly.backup.created_at).days)
        for anomaly in anomalies(entries, options)
    ]


# Rows


def test_a_table_that_lost_the_share_or_more_is_an_anomaly_and_one_that_lost_less_is_none() -> None:
    assert found(night(1), night(0, 600)) == [("rows lost", 1, 0)]
    assert found(night(1), night(0, 601)) == []
    assert found(night(1), night(0, 5000)) == []


def test_a_table_that_was_small_is_not_judged() -> None:
    assert found(night(1, 99), night(0, 0)) == []
    assert found(night(1, 100), night(0, 0)) == [("rows lost", 1, 0)]


def test_a_table_that_vanished_lost_all_its_rows() -> None:
    (anomaly,) = anomalies([night(1), night(0, tables=())], OPTIONS)
    assert (anomaly.kind, anomaly.subject, anomaly.before, anomaly.after) == (
        "table vanished",
        "hotel.bookings",
        1000,
        0,
    )
    assert found(night(1, 99), night(0, tables=())) == []


def test_a_new_table_and_the_first_backup_of_all_are_no_anomalies() -> None:
    assert found(night(0)) == []
    assert found(night(1), night(0, tables=(table(1000), table(5, "guests")))) == []


def test_rows_that_were_not_counted_neither_make_nor_end_an_anomaly() -> None:
    assert found(night(1), night(0, None)) == []
    assert found(night(1, None), night(0, 0)) == []
    assert found(night(2), night(1, 10), night(0, None)) == [("rows lost", 2, 1)]


@pytest.mark.parametrize("volatile", ["hotel.bookings", "hotel.book*", "*.bookings"])
def test_a_volatile_table_is_never_judged(volatile: str) -> None:
    assert found(night(1), night(0, 0), options=MonitorOptions(volatile_tables=(volatile,))) == []
    assert found(night(1), night(0, tables=()), options=MonitorOptions(volatile_tables=(volatile,))) == []


@pytest.mark.parametrize("volatile", ["hotel.booking", "bookings", "other.bookings", "hotel.bookings_*"])
def test_a_table_that_is_only_named_alike_is_judged(volatile: str) -> None:
    assert found(night(1), night(0, 0), options=MonitorOptions(volatile_tables=(volatile,))) == [("rows lost", 1, 0)]


def test_partitions_by_hash_are_judged_together_since_rows_may_move_between_them() -> None:
    def parts(*rows: int | None) -> CatalogEntry:
        tables = tuple(table(each, f"part_{number}", root="hotel.stays") for number, each in enumerate(rows))
        return night(len(rows) - 2, tables=tables)

    assert found(parts(500, 500, 0), parts(0, 1000)) == []
    (anomaly,) = anomalies([parts(500, 500, 0), parts(0, 400)], OPTIONS)
    assert (anomaly.subject, anomaly.before, anomaly.after) == ("hotel.stays", 1000, 400)
    assert found(parts(500, 500, 0), parts(None, 400)) == []
    assert found(parts(500, 500, 0), parts(0, 0), options=MonitorOptions(volatile_tables=("hotel.stays",))) == []


# The archive


def test_an_archive_that_shrank_by_the_share_or_more_is_an_anomaly() -> None:
    assert found(night(1), night(0, size=500)) == [("archive shrunk", 1, 0)]
    assert found(night(1), night(0, size=501)) == []


@pytest.mark.parametrize(
    "other", [{"compression": "zstd:3"}, {"archive_format": "directory"}, {"encryption_recipients": ("age1",)}]
)
def test_archives_that_were_written_differently_are_not_compared(other: dict[str, Any]) -> None:
    assert found(night(1), night(0, size=10, **other)) == []
    # The next one written as before is compared with the one before, whatever lay between.
    assert found(night(2), night(1, size=10, **other), night(0, size=10)) == [("archive shrunk", 2, 0)]
    # And a change of how archives are written does not end what was found before it.
    assert found(night(2), night(1, size=10), night(0, size=10, **other)) == [("archive shrunk", 2, 1)]


# From night to night


def test_an_anomaly_stays_one_on_the_following_nights_against_the_same_reference() -> None:
    assert found(night(4), night(3, 500), night(2, 500), night(1, 490), night(0, 480)) == [("rows lost", 4, 0)]


def test_an_anomaly_is_over_when_a_later_backup_is_as_before_again() -> None:
    assert found(night(3), night(2, 10), night(1, 990)) == []
    assert found(night(3), night(2, 10), night(1, 990), night(0, 500)) == [("rows lost", 1, 0)]
    assert found(night(3), night(2, tables=()), night(1, 990)) == []


def test_an_anomaly_of_one_table_does_not_hold_up_the_reference_of_another() -> None:
    def two(day: int, bookings: int, guests: int) -> CatalogEntry:
        return night(day, tables=(table(bookings), table(guests, "guests")))

    assert found(two(3, 1000, 1000), two(2, 10, 700), two(1, 10, 500), two(0, 10, 350)) == [("rows lost", 3, 0)]


def test_a_slow_decline_is_no_anomaly() -> None:
    assert found(*(night(day, 1000 - (10 - day) * 90) for day in range(10, 5, -1))) == []


def test_an_accepted_backup_is_the_new_reference_of_all_it_holds() -> None:
    accepted = night(1, 500, size=400, accepted=NOW)
    assert found(night(2), accepted) == []
    assert found(night(2), accepted, night(0, 490, size=390)) == []
    assert found(night(2), accepted, night(0, 100)) == [("rows lost", 1, 0)]
    assert found(night(3), night(2, 500, size=400), accepted) == []


def test_accepting_that_a_table_is_gone_settles_it() -> None:
    assert found(night(2), night(1, tables=(), accepted=NOW), night(0, tables=())) == []
    assert found(night(2), night(1, tables=()), night(0, tables=(), accepted=NOW)) == []


def test_accepting_a_backup_that_was_written_differently_settles_what_was_found_before_it() -> None:
    assert found(night(2), night(1, size=10), night(0, size=10, compression="zstd:3", accepted=NOW)) == []


def test_an_acceptance_of_another_archive_accepts_nothing() -> None:
    other = night(1, 500, accepted=NOW)
    assert other.acceptance is not None
    forged = other.model_copy(update={"acceptance": other.acceptance.model_copy(update={"sha256": "another"})})
    assert found(night(2), forged) == [("rows lost", 2, 1)]


def test_an_anomaly_may_grow_worse_after_a_part_of_it_was_accepted() -> None:
    assert found(night(2), night(1, 500, accepted=NOW), night(0, 50)) == [("rows lost", 1, 0)]


@pytest.mark.parametrize("state", ["failed", "unverified", "verified as another object"])
def test_a_backup_that_is_not_good_is_neither_judged_nor_a_reference(state: State) -> None:
    assert found(night(1), night(0, 0, state=state)) == []
    assert found(night(2), night(1, 0, state=state), night(0)) == []
    assert found(night(2), night(1, 9000, state=state), night(0)) == []


def test_a_backup_whose_restore_failed_is_neither_judged_nor_a_reference() -> None:
    assert found(night(2), night(1, 9000, proof="failed"), night(0)) == []


def test_backups_of_all_tiers_are_compared_by_time_whatever_their_order() -> None:
    entries = [night(2), night(1.5, 500, tier=Tier.WEEKLY), night(1, 1000), night(0, 990, tier=Tier.PRE_MIGRATION)]
    assert found(*entries) == []
    assert found(*entries[:2][::-1]) == [("rows lost", 2, 1)]
    assert anomalies(entries[:2][::-1], OPTIONS) == anomalies(entries[:2], OPTIONS)


def test_backups_from_before_the_oldest_daily_one_are_not_compared_since_pruning_made_gaps_there() -> None:
    months = [
        night(120, 9000, tier=Tier.MONTHLY),
        night(90, 5000, tier=Tier.MONTHLY),
        night(20, 2000, tier=Tier.WEEKLY),
    ]
    assert found(*months, night(400, 90_000, pinned=True), night(1), night(0)) == []
    assert found(*months, night(1), night(0, 10)) == [("rows lost", 1, 0)]


def test_a_database_without_daily_backups_is_judged_by_its_weekly_ones() -> None:
    assert found(night(14, tier=Tier.WEEKLY), night(7, 10, tier=Tier.WEEKLY)) == [("rows lost", 14, 7)]
    assert found(night(300, tier=Tier.MONTHLY), night(7, 10, tier=Tier.WEEKLY)) == []


# What a person reads and does


def test_an_anomaly_says_what_was_lost_between_which_backups_and_what_to_do() -> None:
    rows, archive = anomalies([night(1, 120_000, size=4096), night(0, 2_500, size=1024)], OPTIONS)[::-1]
    assert rows.sentence == (
        "hotel.bookings had 120,000 rows in hotel/daily/hotel_2026-03-17T120000Z and has 2,500 in "
        "hotel/daily/hotel_2026-03-18T120000Z, 97 % fewer"
    )
    assert archive.sentence == (
        "the archive had 4.0 KiB in hotel/daily/hotel_2026-03-17T120000Z and has 1.0 KiB in "
        "hotel/daily/hotel_2026-03-18T120000Z, 75 % less"
    )
    assert archive.subject == "archive custom zstd:1"
    (gone,) = anomalies([night(1), night(0, tables=())], OPTIONS)
    assert gone.sentence == (
        "hotel.bookings had 1,000 rows in hotel/daily/hotel_2026-03-17T120000Z and is missing in "
        "hotel/daily/hotel_2026-03-18T120000Z"
    )
    assert "monitor --accept hotel/daily/hotel_2026-03-18T120000Z --reason" in gone.remedy


def test_accepting_writes_who_may_read_it_why_and_the_next_catalog_shows_it(folder_store: LocalStore) -> None:
    suspicious = night(0, 10)
    for made in (night(1), suspicious):
        write(folder_store, made)
    (before,) = anomalies(read_catalog(folder_store, "hotel").entries, OPTIONS)
    assert isinstance(before, Anomaly)
    accept(folder_store, suspicious.backup_id, " the archive was emptied ", NOW)
    entries = read_catalog(folder_store, "hotel").entries
    assert anomalies(entries, OPTIONS) == ()
    assert entries[1].acceptance is not None
    assert (entries[1].acceptance.reason, entries[1].acceptance.accepted_at) == ("the archive was emptied", NOW)
    again: datetime = NOW + timedelta(hours=1)
    assert accept(folder_store, suspicious.backup_id, "another reason", again).accepted_at == again


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_accepting_without_a_reason_is_refused_and_writes_nothing(folder_store: LocalStore, reason: str) -> None:
    write(folder_store, night(0))
    keys = {item.key for item in folder_store.list()}
    with pytest.raises(MaintenanceError, match="without a reason"):
        accept(folder_store, night(0).backup_id, reason, NOW)
    assert {item.key for item in folder_store.list()} == keys


def test_a_backup_that_does_not_exist_cannot_be_accepted(folder_store: LocalStore) -> None:
    with pytest.raises(NoSuchBackupError):
        accept(folder_store, night(0).backup_id, "because", NOW)
    assert list(folder_store.list()) == []
