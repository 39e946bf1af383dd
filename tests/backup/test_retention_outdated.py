"""Pruning refuses where the store is no longer what the plan was made for, in a real folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.backup.model import CatalogEntry, Tier
from include.backup.prune import PlanOutdatedError, apply
from include.backup.retention import Policy, RetentionPlan, plan
from include.backup.stores.local import LocalStore
from tests.backup.retention_world import NOW, MemoryStore, catalog, days_ago, entry, write

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.stores.base import Store

TWO = Policy(daily=2, weekly=1, monthly=1, pre_migration=1)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def keys(store: Store) -> set[str]:
    return {found.key for found in store.list()}


def planned(store: Store) -> RetentionPlan:
    return plan(catalog(store), TWO, now=NOW)


def _refused(store: Store, plan: RetentionPlan, why: str) -> None:
    """`apply` refuses, names the reason, and has removed nothing of what the store holds now."""
    before = keys(store)
    with pytest.raises(PlanOutdatedError, match=why) as raised:
        apply(plan, store)
    assert keys(store) == before
    assert raised.value.transient


def _rewrite(store: Store, made: CatalogEntry, **changes: object) -> None:
    changed = made.manifest.model_copy(update=changes)
    store.put(made.backup_id.manifest_key, changed.model_dump_json().encode(), replace=True)


def test_a_backup_pinned_after_planning_is_not_removed(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    _rewrite(store, entry(days_ago(2)), keep_forever=True)
    _refused(store, decided, "marked to be kept for ever")


def test_another_archive_under_the_same_name_is_not_removed(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    _rewrite(store, entry(days_ago(2)), sha256="another")
    _refused(store, decided, "taken its place")


def test_a_manifest_with_another_id_under_the_same_name_is_not_removed(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    _rewrite(store, entry(days_ago(2)), id="hotel/daily/another")
    _refused(store, decided, "is that of hotel/daily/another")


def test_a_manifest_that_cannot_be_read_any_more_is_not_removed(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    store.put(entry(days_ago(2)).backup_id.manifest_key, b"{", replace=True)
    _refused(store, decided, "cannot be understood")


def test_the_archive_of_a_backup_whose_manifest_is_gone_is_left_to_the_sweep(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    store.delete(entry(days_ago(2)).backup_id.manifest_key)
    _refused(store, decided, "there is no backup")


def test_nothing_goes_when_a_backup_that_was_to_stay_is_gone(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    store.delete(entry(days_ago(0)).backup_id.manifest_key)
    _refused(store, decided, "hotel_2026-03-18T120000Z was to keep, but there is no backup")


def test_nothing_goes_when_the_manifest_of_a_backup_that_was_to_stay_cannot_be_read_any_more(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    store.put(entry(days_ago(0)).backup_id.manifest_key, b"{", replace=True)
    _refused(store, decided, "was to keep, but the manifest .* cannot be understood")


def test_nothing_goes_when_another_archive_took_the_place_of_one_that_was_to_stay(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    write(store, entry(days_ago(0), archive="another"))
    _refused(store, decided, "was to keep, but another backup has taken its place")


def test_nothing_goes_when_a_backup_that_was_to_stay_failed_its_next_verification(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    write(store, entry(days_ago(1), state="failed"))
    _refused(store, decided, "no longer says that it is good")


@pytest.mark.parametrize("record", [None, b"{"])
def test_nothing_goes_when_the_verification_of_a_backup_that_was_to_stay_is_lost(
    store: LocalStore, record: bytes | None
) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    key = entry(days_ago(1)).backup_id.verification_key
    if record is None:
        store.delete(key)
    else:
        store.put(key, record, replace=True)
    _refused(store, decided, "verification is gone or cannot be read")


# Proofs


def _proved_and_a_newer_one(store: Store) -> RetentionPlan:
    """Of day 2 the proved backup is to stay and the newer one to go."""
    write(store, entry(days_ago(1)))
    write(store, entry(days_ago(2.4), proof="proved"))
    write(store, entry(days_ago(2.2)))
    decided = planned(store)
    assert [drop.backup.created_at for drop in decided.drops] == [days_ago(2.2)]
    return decided


def test_a_verified_backup_goes_for_a_proved_one_that_is_still_proved(store: LocalStore) -> None:
    assert len(apply(_proved_and_a_newer_one(store), store)) == 1


def test_nothing_goes_when_the_proof_that_a_slot_rests_on_has_failed_meanwhile(store: LocalStore) -> None:
    decided = _proved_and_a_newer_one(store)
    write(store, entry(days_ago(2.4), proof="failed"))
    _refused(store, decided, "a restore of hotel/daily/hotel_2026-03-16T022400Z has failed meanwhile")


@pytest.mark.parametrize("record", [None, b"{"])
def test_nothing_goes_when_the_proof_that_a_slot_rests_on_is_lost(store: LocalStore, record: bytes | None) -> None:
    decided = _proved_and_a_newer_one(store)
    key = entry(days_ago(2.4)).backup_id.proof_key
    if record is None:
        store.delete(key)
    else:
        store.put(key, record, replace=True)
    _refused(store, decided, "was to keep, but it is no longer proved")


@pytest.mark.parametrize(
    "failed",
    [
        entry(days_ago(0), proof="failed"),
        entry(days_ago(0), Tier.WEEKLY, proof="failed"),
        entry(days_ago(2.2), proof="failed"),
    ],
    ids=["a newer one", "one of another tier", "the one that was to go"],
)
def test_nothing_goes_when_any_proof_has_failed_meanwhile(store: LocalStore, failed: CatalogEntry) -> None:
    decided = _proved_and_a_newer_one(store)
    write(store, failed)
    _refused(store, decided, f"a restore of {failed.manifest.id} has failed meanwhile")


def test_a_proof_that_had_failed_before_the_plan_was_made_holds_nothing_up(store: LocalStore) -> None:
    write(store, entry(days_ago(0.5), proof="failed", proved=days_ago(0.4)))
    write(store, entry(days_ago(1), proof="proved", proved=days_ago(0.3)))
    assert len(apply(_proved_and_a_newer_one(store), store)) == 1


def test_a_proof_that_came_in_meanwhile_holds_nothing_up(store: LocalStore) -> None:
    decided = _proved_and_a_newer_one(store)
    write(store, entry(days_ago(1), proof="proved"))
    assert len(apply(decided, store)) == 1


def test_a_refusal_half_way_tells_what_was_removed_before_it(store: LocalStore) -> None:
    for day in range(4):
        write(store, entry(days_ago(day)))
    decided = planned(store)
    _rewrite(store, entry(days_ago(2)), keep_forever=True)
    with pytest.raises(PlanOutdatedError) as raised:
        apply(decided, store)
    assert raised.value.what.endswith(f"Removed before it: {entry(days_ago(3)).backup_id}.")
    assert len(catalog(store)) == 3


def test_a_tier_that_loses_nothing_does_not_hold_up_the_others(store: LocalStore) -> None:
    for day in range(3):
        write(store, entry(days_ago(day)))
    monthly = entry(days_ago(1), Tier.MONTHLY)
    write(store, monthly)
    decided = planned(store)
    store.delete(monthly.backup_id.manifest_key)
    assert len(apply(decided, store)) == 1


def test_two_prunes_at_once_remove_no_more_than_one(store: LocalStore) -> None:
    memory = MemoryStore()
    for day in range(5):
        write(memory.store, entry(days_ago(day)))
    first, second = planned(memory.store), planned(memory.store)
    apply(first, memory.store)
    _refused(memory.store, second, "there is no backup")
    assert len(catalog(memory.store)) == 2
