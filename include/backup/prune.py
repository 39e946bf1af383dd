"""The removal that a retention plan orders: exactly its drops, and only while the store is as it was planned for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.backup.catalog import NoSuchBackupError, UnreadableManifestError, read_catalog, read_manifest
from include.backup.stores.base import StoreError
from include.backup.sweep import owner
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.backup.model import BackupId, CatalogEntry
    from include.backup.retention import Decision, RetentionPlan
    from include.backup.stores.base import Store, StoredObject


class PlanOutdatedError(MaintenanceError):
    """The store no longer holds what a plan was made for."""


@dataclass(frozen=True)
class Removal:
    """One backup that was removed: every object it had, and their size in bytes."""

    backup: BackupId
    keys: tuple[str, ...]
    bytes: int


def apply(
    plan: RetentionPlan, store: Store, *, progress: Callable[[int, int, Removal], None] | None = None
) -> list[Removal]:
    """Remove exactly what a plan drops, the oldest first.

    Before anything goes, what the plan rests on is read again: the good backups that fill slots, their proofs, and
    whether any proof has failed meanwhile. Before each backup goes, its manifest is read again. The manifest
    goes first, so that the backup ceases to exist at once and a run that dies here leaves leftovers (see
    `include.backup.sweep`), never a backup without archive.

    Args:
        plan: from `include.backup.retention.plan`.
        store: the one whose catalog was planned.
        progress: called after each backup with the number done, the number in all and what was removed.

    Returns:
        What was removed.

    Raises:
        PlanOutdatedError: the store no longer holds what was planned for; nothing more was removed.
        StoreError: the store refused; the text says what had been removed by then, and nothing more was.
    """
    drops = sorted(plan.drops, key=lambda decision: decision.backup.created_at)
    removals: list[Removal] = []
    if drops and (objection := _no_longer_as_planned(plan, store)):
        raise _outdated(objection, drops[0].backup.database, removals)
    for dropped in drops:
        removed: list[StoredObject] = []
        try:
            if objection := _no_longer_to_drop(dropped, store):
                raise _outdated(objection, dropped.backup.database, removals)
            for part in _parts(dropped.backup, store):
                store.delete(part.key)
                removed.append(part)
        except StoreError as error:
            raise StoreError(
                f"removing {dropped.backup} failed: {error.what}. Removed of it: "
                f"{', '.join(part.key for part in removed) or 'nothing for certain'}. {_told(removals)}",
                untouched=f"the other {len(plan.decisions) - len(removals) - 1} backups",
                remedy=f"{error.remedy} The next prune plans afresh; a sweep removes what has no manifest any more.",
                database=dropped.backup.database,
                transient=error.transient,
            ) from error
        removals.append(
            Removal(
                backup=dropped.backup,
                keys=tuple(part.key for part in removed),
                bytes=sum(part.size for part in removed),
            )
        )
        if progress is not None:
            progress(len(removals), len(drops), removals[-1])
    return removals


def _parts(backup: BackupId, store: Store) -> list[StoredObject]:
    """The objects of one backup in the order of their removal: manifest, records, archive."""
    records = (backup.verification_key, backup.proof_key, backup.acceptance_key, backup.inventory_key)
    order = {key: place for place, key in enumerate((backup.manifest_key, *records))}
    listed = [
        found
        for found in store.list(backup.stem)
        if (whose := owner(found.key)) is not None and whose.stem == backup.stem
    ]
    return sorted(listed, key=lambda found: (order.get(found.key, len(order)), found.key))


def _no_longer_as_planned(plan: RetentionPlan, store: Store) -> str | None:
    planned = {decision.backup: decision for decision in plan.decisions}
    catalog = read_catalog(store, plan.decisions[0].backup.database)
    found = {entry.backup_id: entry for entry in catalog.entries}
    for backup, entry in found.items():
        if entry.verdict == "failed" and (backup not in planned or planned[backup].verdict != "failed"):
            return f"a restore of {backup} has failed meanwhile"
    unreadable = dict(catalog.unreadable)
    concerned = {decision.backup.tier for decision in plan.drops}
    for kept in plan.keeps:
        if kept.slot is not None and kept.backup.tier in concerned:
            gone = unreadable.get(kept.backup.manifest_key, "there is no backup of that name any more")
            now = found.get(kept.backup)
            if objection := gone if now is None else _no_longer_fills(kept, now):
                return f"{kept.backup} was to keep, but {objection}"
    return None


def _no_longer_fills(decision: Decision, entry: CatalogEntry) -> str | None:
    if entry.manifest.sha256 != decision.sha256:
        return "another backup has taken its place"
    if entry.verification is None:
        return "its verification is gone or cannot be read"
    if not entry.good:
        return "its verification no longer says that it is good"
    return "it is no longer proved" if decision.verdict == "proved" and not entry.proved else None


def _no_longer_to_drop(decision: Decision, store: Store) -> str | None:
    try:
        manifest = read_manifest(store, decision.backup)
    except (NoSuchBackupError, UnreadableManifestError) as error:
        return f"{decision.backup} was to drop, but {error.what}"
    if manifest.sha256 != decision.sha256:
        return f"{decision.backup} was to drop, but another backup has taken its place"
    return (
        f"{decision.backup} was to drop, but it has been marked to be kept for ever" if manifest.keep_forever else None
    )


def _outdated(objection: str, database: str, removals: Sequence[Removal]) -> PlanOutdatedError:
    return PlanOutdatedError(
        f"the plan no longer fits the store: {objection}. {_told(removals)}",
        untouched="all backups that were not removed before it",
        remedy="Plan again and look at the new plan.",
        database=database,
        transient=True,
    )


def _told(removals: Sequence[Removal]) -> str:
    if not removals:
        return "Nothing was removed before it."
    return f"Removed before it: {', '.join(str(removal.backup) for removal in removals)}."
