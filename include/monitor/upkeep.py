"""The store around the backups: its room, and what killed runs left in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from humanize import naturalsize

from include.backup import sweep
from include.monitor.finding import Finding, some_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from include.backup.model import BackupId
    from include.backup.stores.base import StoredObject, UnfinishedUpload

# No run works that long on one backup. The sweep waits a week before it removes; a person may know earlier.
LEFTOVER_AGE = timedelta(days=1)
_GROWTH = 1.2  # as the preflight asks for


@dataclass(frozen=True)
class StoreFacts:
    """What a store says besides its backups.

    Args:
        objects: everything in it, of all databases: they share its room.
        uploads: the unfinished ones of the database concerned.
        free_bytes: room left, or None where the store knows no limit.
    """

    objects: tuple[StoredObject, ...]
    uploads: tuple[UnfinishedUpload, ...]
    free_bytes: int | None


def room(database: str, facts: StoreFacts) -> Iterator[Finding]:
    """Too little of it for the next backup (critical), or for the next one of each database that shares it."""
    if facts.free_bytes is None:
        return
    sizes = newest_sizes(facts.objects)
    own, together = int(sizes.get(database, 0) * _GROWTH), int(sum(sizes.values()) * _GROWTH)
    if facts.free_bytes >= together:
        return
    fits = facts.free_bytes >= own
    needed = together if fits else own
    next_ones = "the next backups of all databases are" if fits else "the next backup is"
    yield Finding(
        key="room",
        database=database,
        severity="warning" if fits else "critical",
        sentence=f"the store has {_size(facts.free_bytes)} free, {next_ones} expected to take {_size(needed)}",
        remedy="make room there, or lower the numbers under `retention` and run `python -m include.cli prune`",
        magnitude=round(needed / max(facts.free_bytes, 1), 3),
    )


def leftovers(database: str, facts: StoreFacts, *, now: datetime) -> Iterator[Finding]:
    """Objects without manifest, and uploads never finished."""
    objects = sweep.leftovers(facts.objects, database=database, now=now, min_age=LEFTOVER_AGE)
    uploads = sweep.abandoned_uploads(facts.uploads, database=database, now=now, min_age=LEFTOVER_AGE)
    remedy = (
        "see which run was killed on that day, and why. They are no backups; prune removes them a week after they "
        "were written"
    )
    if objects:
        size = _size(sum(found.size for found in objects))
        yield Finding(
            key="leftovers",
            database=database,
            severity="warning",
            sentence=f"objects without a manifest lie in the store since more than a day ({len(objects)}, {size}): "
            f"{some_of([found.key for found in objects])}",
            remedy=remedy,
            magnitude=len(objects),
        )
    if uploads:
        yield Finding(
            key="uploads",
            database=database,
            severity="warning",
            sentence=f"uploads begun more than a day ago were never finished ({len(uploads)}) and may cost money: "
            f"{some_of([upload.key for upload in uploads])}",
            remedy=remedy,
            magnitude=len(uploads),
        )


def newest_sizes(objects: Iterable[StoredObject]) -> dict[str, int]:
    """The bytes of each database's newest archive, as a listing of the whole store shows them."""
    sizes: dict[BackupId, int] = {}
    listed: set[BackupId] = set()
    for found in objects:
        backup = sweep.owner(found.key)
        if backup is None:
            continue
        if found.key == backup.manifest_key:
            listed.add(backup)
        elif found.key == backup.dump_key or found.key.startswith(f"{backup.dump_key}/"):
            sizes[backup] = sizes.get(backup, 0) + found.size
    by_age = sorted(listed & sizes.keys(), key=lambda backup: backup.created_at)
    return {backup.database: sizes[backup] for backup in by_age}


def _size(size: int) -> str:
    return naturalsize(size, binary=True)
