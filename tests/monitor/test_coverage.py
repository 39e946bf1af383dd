"""What the monitor finds: each promise with the backup that keeps it and the one that breaks it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.backup.catalog import Catalog
from include.backup.model import Tier
from include.backup.options import MonitorOptions
from include.backup.stores.base import StoredObject, UnfinishedUpload
from include.monitor.coverage import findings
from include.monitor.upkeep import StoreFacts, newest_sizes
from include.proving.options import ProofOptions
from tests.backup.retention_world import NOW, days_ago, entry, nightly, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.backup.model import CatalogEntry
    from include.monitor.finding import Finding

HOUR = timedelta(hours=1)
EMPTY = StoreFacts(objects=(), uploads=(), free_bytes=None)
UNPROVED = ProofOptions(tiers=())


def _found(
    entries: Sequence[CatalogEntry],
    facts: StoreFacts = EMPTY,
    *,
    proof: ProofOptions = UNPROVED,
    monitor: MonitorOptions | None = None,
    **more: Any,
) -> dict[str, Finding]:
    catalog = Catalog(entries=tuple(entries), unreadable=more.pop("unreadable", ()))
    found = findings("hotel", catalog, facts, monitor=monitor or MonitorOptions(), proof=proof, now=NOW, **more)
    assert len({finding.key for finding in found}) == len(found)
    return {finding.key: finding for finding in found}


def _object(key: str, size: int = 1, age: timedelta = timedelta(days=2)) -> StoredObject:
    return StoredObject(key=key, size=size, modified=NOW - age)


def test_a_database_with_a_fresh_proved_backup_has_no_finding() -> None:
    assert _found(nightly(10, 1, proof="proved"), proof=ProofOptions(rto_minutes=1)) == {}


def test_a_database_without_any_backup_is_critical() -> None:
    found = _found([], proof=ProofOptions())
    assert {key: finding.severity for key, finding in found.items()} == {
        "rpo:verified": "critical",
        "rpo:proved": "critical",
    }
    assert found["rpo:verified"].sentence == "there is no verified backup; the newest may be 26 hours old"
    assert "backup_daily" in found["rpo:verified"].remedy


def test_the_newest_verified_backup_may_be_as_old_as_the_rpo_and_no_older() -> None:
    assert _found([entry(NOW - 26 * HOUR)]) == {}
    late = _found([entry(NOW - 26 * HOUR - timedelta(seconds=1))])["rpo:verified"]
    assert late.severity == "critical"
    twice = _found([entry(NOW - 52 * HOUR)])["rpo:verified"]
    assert twice.sentence == (
        "the newest verified backup is 2.2 days old, 26 hours are allowed: hotel/daily/hotel_2026-03-16T080000Z"
    )
    assert twice.magnitude == 2
    assert late.magnitude == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("state", ["unverified", "failed", "verified as another object"])
def test_a_backup_that_was_not_verified_does_not_count(state: Any) -> None:
    assert "rpo:verified" in _found([entry(NOW - HOUR, state=state), entry(NOW - 30 * HOUR)])


def test_a_backup_whose_restore_failed_does_not_count() -> None:
    assert "rpo:verified" in _found([entry(NOW - HOUR, proof="failed"), entry(NOW - 30 * HOUR)])


def test_backups_of_any_tier_count() -> None:
    assert _found([entry(NOW - HOUR, Tier.WEEKLY)]) == {}


def test_the_newest_proved_backup_has_an_age_of_its_own_where_any_tier_is_proved() -> None:
    entries = [entry(NOW - 51 * HOUR, proof="proved"), entry(NOW - HOUR)]
    assert _found(entries) == {}
    overdue = _found(entries, proof=ProofOptions())["rpo:proved"]
    assert overdue.severity == "critical"
    assert "2.1 days old, 50 hours are allowed" in overdue.sentence


def test_an_incomplete_proof_is_no_proof() -> None:
    found = _found([entry(NOW - HOUR, proof="incomplete")], proof=ProofOptions())
    assert found["rpo:proved"].sentence.startswith("there is no proved backup")
    assert found["proof:incomplete"].severity == "warning"
    assert "row hashes" in found["proof:incomplete"].sentence


def test_a_failed_proof_is_critical_until_a_newer_one_succeeds() -> None:
    failed = entry(NOW - 3 * HOUR, proof="failed", proved=NOW - 2 * HOUR)
    found = _found([entry(NOW - 20 * HOUR), failed])
    assert found["proof:failed"].severity == "critical"
    assert "hotel_2026-03-18T090000Z was restored and is not what was dumped: row hashes" in (
        found["proof:failed"].sentence
    )
    assert found["retention"].sentence == "pruning of this database has stopped itself: the newest proof failed"
    after = entry(NOW - HOUR, proof="proved", proved=NOW - timedelta(minutes=30))
    assert _found([failed, after]) == {}
    unclear = entry(NOW - HOUR, proof="incomplete", proved=NOW - timedelta(minutes=30))
    assert {"proof:failed", "proof:incomplete"} <= _found([failed, unclear]).keys()


def test_a_restore_that_took_longer_than_promised_is_a_warning() -> None:
    proved = entry(NOW - HOUR, proof="proved")  # 3 s
    assert _found([proved], proof=ProofOptions(rto_minutes=0.05)) == {}
    slow = _found([proved], proof=ProofOptions(rto_minutes=0.04))["rto"]
    assert slow.severity == "warning"
    assert "took 3 seconds (fetch and restore), 0.04 minutes are allowed" in slow.sentence
    assert slow.magnitude == 1.25


def test_a_table_that_lost_its_rows_is_critical_until_it_is_accepted() -> None:
    before = entry(NOW - 25 * HOUR, tables=(table(1000),))
    after = entry(NOW - HOUR, tables=(table(500),))
    found = _found([before, after])
    anomaly = found["anomaly:hotel.bookings"]
    assert anomaly.severity == "critical"
    assert "1,000" in anomaly.sentence
    assert anomaly.magnitude == 2
    assert found["retention"].sentence.endswith(": a loss is unexplained")
    assert _found([before, entry(NOW - HOUR, tables=(table(500),), accepted=NOW)]) == {}


def test_each_damaged_backup_is_a_critical_finding_of_its_own() -> None:
    found = _found([*nightly(2, 0), entry(days_ago(9), state="failed"), entry(days_ago(8), state="failed")])
    assert [finding.severity for finding in found.values()] == ["critical", "critical"]
    damaged = found["damaged:hotel/daily/hotel_2026-03-09T120000Z"]
    assert "sha256 differs" in damaged.sentence
    assert "verify hotel/daily/hotel_2026-03-09T120000Z" in damaged.remedy


def test_a_reading_of_another_object_says_nothing_about_this_one() -> None:
    failed = entry(days_ago(9), state="failed")
    assert failed.verification is not None
    other = failed.verification.model_copy(update={"sha256": "of another object"})
    assert _found([*nightly(2, 0), failed.model_copy(update={"verification": other})]) == {}


def test_a_manifest_that_cannot_be_understood_is_a_warning() -> None:
    key = "hotel/daily/hotel_2026-03-09T120000Z.json"
    found = _found(nightly(1, 0), unreadable=((key, f"the manifest {key} cannot be understood: it is empty"),))
    assert found[f"unreadable:{key}"].severity == "warning"
    assert "it is empty" in found[f"unreadable:{key}"].sentence


def test_what_a_killed_run_left_a_day_ago_is_a_warning_with_its_size() -> None:
    stem = "hotel/daily/hotel_2026-03-16T020000Z"
    facts = StoreFacts(
        objects=(_object(f"{stem}.dump", 2048), _object(f"{stem}.inventory.json", 2048)),
        uploads=(UnfinishedUpload(f"{stem}.dump", NOW - timedelta(days=2), "token"),),
        free_bytes=None,
    )
    found = _found(nightly(1, 0), facts)
    assert {finding.severity for finding in found.values()} == {"warning"}
    assert f"{stem}.dump" in found["leftovers"].sentence
    assert "KiB" in found["leftovers"].sentence
    assert f"{stem}.dump" in found["uploads"].sentence


@pytest.mark.parametrize("key", ["hotel/daily/hotel_2026-03-16T020000Z.dump", "hotel/monitor.json", "hotel/notes.txt"])
def test_what_a_run_may_still_be_writing_and_what_is_not_ours_is_no_leftover(key: str) -> None:
    age = timedelta(hours=20) if key.endswith(".dump") else timedelta(days=100)
    upload = UnfinishedUpload(key, NOW - age, "token")
    assert _found(nightly(1, 0), StoreFacts(objects=(_object(key, age=age),), uploads=(upload,), free_bytes=None)) == {}


def _sized(database: str, size: int, day: int = 17) -> tuple[StoredObject, ...]:
    stem = f"{database}/daily/{database}_2026-03-{day}T020000Z"
    return _object(f"{stem}.dump", size), _object(f"{stem}.json")


@pytest.mark.parametrize(
    ("free", "severity"), [(119, "critical"), (120, "warning"), (479, "warning"), (480, None), (None, None)]
)
def test_the_next_backups_must_fit(free: int | None, severity: str | None) -> None:
    objects = (*_sized("hotel", 999, day=15), *_sized("hotel", 100), *_sized("ledger", 300))
    found = _found(nightly(1, 0), StoreFacts(objects=objects, uploads=(), free_bytes=free))
    assert (found["room"].severity if "room" in found else None) == severity


def test_an_archive_in_many_files_counts_whole_and_one_without_manifest_not_at_all() -> None:
    stem = "hotel/weekly/hotel_2026-03-15T030000Z"
    objects = (*_sized("hotel", 5, day=14), *(_object(f"{stem}.dump/{n}.dat", 10) for n in range(3)))
    assert newest_sizes(objects) == {"hotel": 5}
    assert newest_sizes((*objects, _object(f"{stem}.json"))) == {"hotel": 30}


@pytest.mark.parametrize(
    "future",
    [
        {"entries": [entry(NOW + 2 * HOUR)]},
        {"entries": [entry(NOW - HOUR, verified=NOW + 2 * HOUR)]},
        {"entries": [entry(NOW - HOUR, proof="proved", proved=NOW + 2 * HOUR)]},
        {"entries": nightly(1, 0), "last_look": NOW + 2 * HOUR},
    ],
)
def test_a_date_in_the_future_is_critical(future: dict[str, Any]) -> None:
    clock = _found(**future)["clock"]
    assert clock.severity == "critical"
    assert "2026-03-18 14:0" in clock.sentence


def test_clocks_may_differ_by_minutes() -> None:
    entries = [entry(NOW, verified=NOW + timedelta(minutes=4))]
    assert _found(entries, last_look=NOW + timedelta(minutes=4)) == {}


def test_the_critical_come_first() -> None:
    proved = entry(days_ago(3), proof="proved")
    found = _found([proved], proof=ProofOptions(rto_minutes=0.01))
    assert [finding.severity for finding in found.values()] == ["critical", "critical", "warning"]
