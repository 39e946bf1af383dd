"""Pruning removes what the plan shows and nothing else, in a real folder; and how it stops."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.model import Tier
from include.backup.prune import Removal, apply
from include.backup.retention import Policy, RetentionPlan, plan
from include.backup.stores.base import Store, StoreError
from include.backup.stores.local import LocalStore
from include.backup.sweep import sweep
from tests.backup.retention_world import NOW, catalog, days_ago, entry, write

if TYPE_CHECKING:
    from pathlib import Path

TWO = Policy(daily=2, weekly=1, monthly=1, pre_migration=1)


class DyingStore(LocalStore):
    """Its line goes dead after so many deletions."""

    deletions_left = 0

    def delete(self, key: str) -> None:
        if self.deletions_left == 0:
            raise StoreError("the line is dead", untouched="all", remedy="Mend the line.", transient=True)
        self.deletions_left -= 1
        super().delete(key)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def keys(store: Store) -> set[str]:
    return {found.key for found in store.list()}


def planned(store: Store) -> RetentionPlan:
    return plan(catalog(store), TWO, now=NOW)


def test_exactly_the_objects_of_the_planned_drops_are_removed(store: LocalStore) -> None:
    objects = {day: write(store, entry(days_ago(day)), proof=day == 3) for day in range(5)}
    removals = apply(planned(store), store)
    assert keys(store) == objects[0] | objects[1]
    assert {key for removal in removals for key in removal.keys} == objects[2] | objects[3] | objects[4]


def test_a_directory_archive_goes_with_all_its_files(store: LocalStore) -> None:
    kept = write(store, entry(days_ago(1)), archive={".dump/toc.dat": b"abc", ".dump/12.dat.zst": b"d"})
    kept |= write(store, entry(days_ago(2)), archive={".dump/toc.dat": b"abc", ".dump/12.dat.zst": b"d"})
    gone = write(store, entry(days_ago(3)), archive={".dump/toc.dat": b"abc", ".dump/12.dat.zst": b"de"})
    (removal,) = apply(planned(store), store)
    assert keys(store) == kept
    assert set(removal.keys) == gone


def test_what_was_removed_is_told_with_all_its_bytes(store: LocalStore) -> None:
    for day in range(2):
        write(store, entry(days_ago(day)))
    write(store, entry(days_ago(2)), archive={".dump": b"x" * 1000}, proof=True)
    size = sum(found.size for found in store.list(entry(days_ago(2)).backup_id.stem))
    (removal,) = apply(planned(store), store)
    assert removal.backup == entry(days_ago(2)).backup_id
    assert removal.bytes == size > 1000


def test_a_plan_that_drops_nothing_touches_nothing(store: LocalStore) -> None:
    write(store, entry(days_ago(1)))
    before = keys(store)
    assert apply(planned(store), store) == []
    assert keys(store) == before


def test_a_stopped_plan_removes_nothing(store: LocalStore) -> None:
    for day in range(-1, 5):
        write(store, entry(days_ago(day)))
    before = keys(store)
    assert apply(planned(store), store) == []
    assert keys(store) == before


def test_another_database_whose_name_begins_alike_is_never_touched(store: LocalStore) -> None:
    others = set()
    for day in range(6):
        write(store, entry(days_ago(day), database="app"))
        for database in ("app_staging", "app-2", "ap", "a"):
            others |= write(store, entry(days_ago(day), database=database))
    apply(plan(catalog(store, "app"), TWO, now=NOW), store)
    assert {key for key in keys(store) if not key.startswith("app/")} == others
    assert len(catalog(store, "app")) == 2


def test_the_same_moment_in_another_tier_is_never_touched(store: LocalStore) -> None:
    for day in range(4):
        write(store, entry(days_ago(day)))
    weekly = write(store, entry(days_ago(3), Tier.WEEKLY))
    apply(planned(store), store)
    assert weekly <= keys(store)
    assert len(catalog(store)) == 3


def test_objects_that_only_begin_like_a_dropped_backups_are_never_touched(store: LocalStore) -> None:
    for day in range(4):
        write(store, entry(days_ago(day)))
    stem = entry(days_ago(3)).backup_id.stem
    foreign = {f"{stem}{suffix}" for suffix in (".dump.old", ".json.bak", ".txt", "-copy.dump", ".dump2/toc.dat")}
    for key in foreign:
        store.put(key, b"a person's own")
    apply(planned(store), store)
    assert {key for key in keys(store) if key.startswith(stem)} == foreign


def test_the_manifest_goes_first_and_the_archive_last(tmp_path: Path) -> None:
    for deletions in range(4):
        store = DyingStore(tmp_path / str(deletions))
        for day in range(2):
            write(store, entry(days_ago(day)))
        write(store, entry(days_ago(2)), proof=True)
        store.deletions_left = deletions
        with pytest.raises(StoreError):
            apply(planned(store), store)
        left = {key.removeprefix(entry(days_ago(2)).backup_id.stem) for key in keys(store) if "03-16" in key}
        assert left == set([".json", ".verify.json", ".proof.json", ".dump"][deletions:])


def test_the_oldest_backup_goes_first(store: LocalStore) -> None:
    for day in range(6):
        write(store, entry(days_ago(day)))
    removed = [removal.backup.created_at for removal in apply(planned(store), store)]
    assert removed == sorted(removed)


def test_progress_is_told_after_each_backup(store: LocalStore) -> None:
    for day in range(5):
        write(store, entry(days_ago(day)))
    told: list[tuple[int, int, Removal]] = []
    removals = apply(planned(store), store, progress=lambda done, total, removal: told.append((done, total, removal)))
    assert told == [(1, 3, removals[0]), (2, 3, removals[1]), (3, 3, removals[2])]


# A store that fails


def test_a_failing_removal_goes_no_further_and_tells_what_went_and_what_did_not(tmp_path: Path) -> None:
    store = DyingStore(tmp_path)
    for day in range(5):
        write(store, entry(days_ago(day)))
    store.deletions_left = 4  # all three objects of the oldest, the manifest of the next
    with pytest.raises(StoreError) as raised:
        apply(planned(store), store)
    oldest, half_removed = entry(days_ago(4)).backup_id, entry(days_ago(3)).backup_id
    assert raised.value.what == (
        f"removing {half_removed} failed: the line is dead. Removed of it: {half_removed.manifest_key}. "
        f"Removed before it: {oldest}."
    )
    assert raised.value.untouched == "the other 3 backups"
    assert (raised.value.transient, raised.value.database) == (True, "hotel")
    assert [one.backup_id for one in catalog(store)] == [entry(days_ago(day)).backup_id for day in (2, 1, 0)]
    assert half_removed.dump_key in keys(store)


def test_a_prune_after_a_failed_one_and_a_sweep_leave_no_rubbish(tmp_path: Path) -> None:
    store = DyingStore(tmp_path)
    for day in range(5):
        write(store, entry(days_ago(day)))
    store.deletions_left = 4
    with pytest.raises(StoreError):
        apply(planned(store), store)
    store.deletions_left = 1000
    apply(planned(store), store)
    sweep(store, "hotel", now=NOW + timedelta(days=3650), dry_run=False)
    assert keys(store) == {
        key
        for day in range(2)
        for backup in [entry(days_ago(day)).backup_id]
        for key in (backup.dump_key, backup.manifest_key, backup.verification_key)
    }
