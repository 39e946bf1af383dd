"""The rolling re-read: a month of simulated hours, and real archives in a folder."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.catalog import read_catalog
from include.backup.model import StoredFile, Tier, Verification
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.monitor.reread import WINDOW, due, reread
from tests.backup.retention_world import NOW, days_ago, entry, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.backup.model import BackupId, CatalogEntry

HOUR = timedelta(hours=1)


def _entry(number: int, size: int, *, read: datetime) -> CatalogEntry:
    made = entry(NOW - timedelta(days=400, hours=number))
    manifest = made.manifest.model_copy(update={"bytes": size})
    assert made.verification is not None
    verification = made.verification.model_copy(update={"verified_at": read})
    return made.model_copy(update={"manifest": manifest, "verification": verification})


class Simulation:
    """Backups whose readings are dated as the hours pass."""

    def __init__(self, entries: list[CatalogEntry]) -> None:
        self.entries = {made.backup_id: made for made in entries}
        self.now = NOW
        self.bytes: list[int] = []
        self.longest = timedelta(0)

    def hour(self, *, missed: bool = False) -> None:
        self.now += HOUR
        if missed:
            return
        chosen = due(list(self.entries.values()), now=self.now)
        assert len(set(chosen)) == len(chosen)
        self.bytes.append(sum(self.entries[backup].manifest.bytes for backup in chosen))
        for backup in chosen:
            self._read(backup)

    def _read(self, backup: BackupId) -> None:
        made = self.entries[backup]
        assert made.verification is not None
        self.longest = max(self.longest, self.now - made.verification.verified_at)
        update = {"verified_at": self.now}
        self.entries[backup] = made.model_copy(update={"verification": made.verification.model_copy(update=update)})

    def finish(self) -> timedelta:
        """The longest time that any backup went unread, those not read at all included."""
        for backup in list(self.entries):
            self._read(backup)
        return self.longest


def _many(read: Callable[[int], datetime], *, number: int = 200) -> list[CatalogEntry]:
    chance = random.Random(11)
    return [_entry(n, chance.choice((1, 10, 100, 300)) * 10**6, read=read(n)) for n in range(number)]


@pytest.mark.parametrize("spread", ["all verified in one hour", "verified one by one"])
def test_every_backup_is_read_again_within_the_month_and_the_load_is_even(spread: str) -> None:
    entries = _many(lambda n: NOW if spread == "all verified in one hour" else NOW - timedelta(hours=3 * n))
    simulation = Simulation(entries)
    for _ in range(24 * 90):
        simulation.hour()
    whole = sum(made.manifest.bytes for made in entries)
    largest = max(made.manifest.bytes for made in entries)
    assert max(simulation.bytes) <= whole / (20 * 24) + largest
    # Over ninety days at most once in twenty days, and at least once in thirty.
    assert whole * 3 <= sum(simulation.bytes) <= whole * 90 / 20
    for day in range(10, 90):
        assert sum(simulation.bytes[24 * day : 24 * day + 24]) <= 1.2 * whole / 20 + largest
    assert simulation.finish() <= timedelta(days=25) + HOUR


@pytest.mark.parametrize("missing", ["every other run", "nine of ten runs", "three days in a row", "at random"])
def test_runs_that_are_missed_break_no_promise(missing: str) -> None:
    chance = random.Random(3)
    missed: Iterator[bool] = {
        "every other run": (hour % 2 == 0 for hour in range(24 * 90)),
        "nine of ten runs": (hour % 10 != 0 for hour in range(24 * 90)),
        "three days in a row": (hour % (24 * 14) < 72 for hour in range(24 * 90)),
        "at random": (chance.random() < 0.6 for _ in range(24 * 90)),
    }[missing]
    simulation = Simulation(_many(lambda n: NOW - timedelta(hours=2 * n)))
    for gone in missed:
        simulation.hour(missed=gone)
    assert simulation.finish() <= WINDOW


def test_a_backlog_is_worked_off_at_four_times_the_usual_and_whole_where_the_month_would_be_missed() -> None:
    entries = [_entry(n, 10**6, read=NOW - timedelta(hours=1.25 * n)) for n in range(480)]  # evenly, over 25 days
    assert len(due(entries, now=NOW + HOUR)) == 1
    assert len(due(entries, now=NOW + timedelta(days=2))) == 4
    oldest = [made for n, made in enumerate(entries) if timedelta(hours=1.25 * n, days=10) >= timedelta(days=28)]
    assert set(due(entries, now=NOW + timedelta(days=10))) == {made.backup_id for made in oldest}
    assert len(oldest) > 100


def test_a_single_backup_is_read_when_it_is_due_and_not_before() -> None:
    simulation = Simulation([_entry(0, 10**12, read=NOW)])
    for _ in range(24 * 100):
        simulation.hour()
    assert sum(1 for read in simulation.bytes if read) == 4


def test_what_was_read_longest_ago_comes_first() -> None:
    entries = [_entry(n, 1, read=days_ago(26 + n)) for n in range(3)]
    assert due(entries, now=NOW)[0] == entries[2].backup_id


def test_what_was_never_verified_is_left_to_its_own_run() -> None:
    assert due([entry(days_ago(300), state="unverified")], now=NOW) == ()


def test_a_backup_that_was_damaged_is_read_again_like_the_others() -> None:
    made = entry(days_ago(40), state="failed")
    assert due([made], now=NOW) == (made.backup_id,)


def _stored(store: LocalStore, day: int, data: bytes = b"sealed bytes", **fields: object) -> CatalogEntry:
    """A backup whose archive is encrypted: its bytes are all that can be verified."""
    sha256 = hashlib.sha256(data).hexdigest()
    made = entry(
        days_ago(day),
        Tier.MONTHLY,
        bytes=len(data),
        sha256=sha256,
        files=(StoredFile(suffix=".dump", bytes=len(data), sha256=sha256),),
        encryption_recipients=("age1",),
    )
    write(store, made, archive={".dump": data})
    return made


def _reading(store: LocalStore, made: CatalogEntry) -> Verification:
    return Verification.model_validate_json(store.get(made.backup_id.verification_key))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_a_damaged_backup_is_recorded_and_the_others_are_read_all_the_same(store: LocalStore, tmp_path: Path) -> None:
    oldest, damaged, newest = _stored(store, 60), _stored(store, 50), _stored(store, 40)
    (tmp_path / "store" / damaged.backup_id.dump_key).write_bytes(b"sealed bytez")
    told: list[int] = []
    outcome = reread(store, "hotel", staging=None, now=lambda: NOW, progress=told.append)
    assert outcome.intact == (oldest.backup_id, newest.backup_id)
    ((backup, what),) = outcome.damaged
    assert backup == damaged.backup_id
    assert "sha256" in what
    assert told[-1] == 3 * len(b"sealed bytes")
    assert [_reading(store, made).verified_at for made in (oldest, damaged, newest)] == [NOW] * 3
    assert "sha256" in str(_reading(store, damaged).failure)
    # All were read now: nothing is due in the next run.
    assert reread(store, "hotel", staging=None, now=lambda: NOW + HOUR).intact == ()


def test_a_prune_during_the_reading_is_no_failure_and_leaves_nothing_behind(store: LocalStore) -> None:
    taken, kept = _stored(store, 60), _stored(store, 50)

    pruned: list[str] = []

    def prune(read: int) -> None:
        if not pruned:
            pruned.extend(item.key for item in store.list(taken.backup_id.stem))
            for key in pruned:
                store.delete(key)

    outcome = reread(store, "hotel", staging=None, now=lambda: NOW, progress=prune)
    assert (outcome.gone, outcome.intact, outcome.damaged) == ((taken.backup_id,), (kept.backup_id,), ())
    assert [item.key for item in store.list(taken.backup_id.stem)] == []


def test_a_prune_before_the_archive_is_opened_is_no_failure_either(store: LocalStore) -> None:
    first, second, third = _stored(store, 60), _stored(store, 50), _stored(store, 40)

    def prune(read: int) -> None:
        for key in (second.backup_id.manifest_key, third.backup_id.dump_key, third.backup_id.manifest_key):
            store.delete(key)

    outcome = reread(store, "hotel", staging=None, now=lambda: NOW, progress=prune)
    assert outcome.intact == (first.backup_id,)
    assert outcome.gone == (second.backup_id, third.backup_id)


class _Flaky(LocalStore):
    broken = ""

    def read(self, key: str, *, chunk_bytes: int = 1024) -> Iterator[bytes]:
        if key == self.broken:
            raise StoreError("the line is dead", untouched="all", remedy="mend it", transient=True)
        return super().read(key, chunk_bytes=chunk_bytes)


def test_a_store_that_fails_in_between_fails_the_run_at_its_end(tmp_path: Path) -> None:
    store = _Flaky(tmp_path / "store")
    unread, read = _stored(store, 60), _stored(store, 50)
    store.broken = unread.backup_id.dump_key
    with pytest.raises(StoreError, match="the line is dead"):
        reread(store, "hotel", staging=None, now=lambda: NOW)
    assert _reading(store, read).verified_at == NOW
    assert _reading(store, unread).verified_at < NOW
    store.broken = ""
    assert reread(store, "hotel", staging=None, now=lambda: NOW).intact == (unread.backup_id,)


def test_by_default_the_clock_is_the_machines(store: LocalStore) -> None:
    made = _stored(store, 60)
    began = datetime.now(UTC)
    reread(store, "hotel", staging=None)
    assert began <= _reading(store, made).verified_at <= datetime.now(UTC)
    assert [found.good for found in read_catalog(store, "hotel").entries] == [True]
