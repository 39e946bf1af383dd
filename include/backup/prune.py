"""The removal that a retention plan orders: exactly its drops, and only while the store is as it was planned for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from include.backup.catalog import NoSuchBackupError, UnreadableManifestError, read_manifest
from include.backup.model import CatalogEntry, Verification
from include.backup.stores.base import MissingObjectError, StoreError
from include.backup.sweep import owner
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.backup.model import BackupId, Manifest
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

    Before anything goes, the good backups on which the plan rests are read again; before each backup goes, so is its
    manifest. Of each backup the manifest goes first, so that it ceases to exist at once and a run that dies
    here leaves leftovers (see `include.backup.sweep`), never a backup without archive.

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
    concerned = {decision.backup.tier for decision in drops}
    for kept in plan.keeps:
        if kept.slot is not None and kept.backup.tier in concerned:
            _refuse_if(_no_longer_good(kept, store), kept, removals)
    for dropped in drops:
        removed: list[StoredObject] = []
        try:
            _refuse_if(_no_longer_to_drop(dropped, store), dropped, removals)
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
    order = {backup.manifest_key: 0, backup.verification_key: 1, backup.proof_key: 2}
    listed = [
        found
        for found in store.list(backup.stem)
        if (whose := owner(found.key)) is not None and whose.stem == backup.stem
    ]
    return sorted(listed, key=lambda found: (order.get(found.key, 3), found.key))


def _planned_manifest(decision: Decision, store: Store) -> Manifest | str:
    """The manifest as it is now, or why it is not the one that was planned for."""
    try:
        manifest = read_manifest(store, decision.backup)
    except (NoSuchBackupError, UnreadableManifestError) as error:
        return error.what
    return manifest if manifest.sha256 == decision.sha256 else "another backup has taken its place"


def _no_longer_to_drop(decision: Decision, store: Store) -> str | None:
    manifest = _planned_manifest(decision, store)
    if isinstance(manifest, str):
        return manifest
    return "it has been marked to be kept for ever" if manifest.keep_forever else None


def _no_longer_good(decision: Decision, store: Store) -> str | None:
    manifest = _planned_manifest(decision, store)
    if isinstance(manifest, str):
        return manifest
    try:
        verification = Verification.model_validate_json(store.get(decision.backup.verification_key))
    except (MissingObjectError, ValidationError):
        return "its verification is gone or cannot be read"
    good = CatalogEntry(manifest=manifest, verification=verification).good
    return None if good else "its verification no longer says that it is good"


def _refuse_if(objection: str | None, decision: Decision, removals: Sequence[Removal]) -> None:
    if objection is not None:
        raise PlanOutdatedError(
            f"the plan no longer fits the store: {decision.backup} was to {decision.action}, but {objection}. "
            f"{_told(removals)}",
            untouched="this backup and all that were not removed before it",
            remedy="Plan again and look at the new plan.",
            database=decision.backup.database,
            transient=True,
        )


def _told(removals: Sequence[Removal]) -> str:
    if not removals:
        return "Nothing was removed before it."
    return f"Removed before it: {', '.join(str(removal.backup) for removal in removals)}."
