"""What killed runs left in a store: objects of ours that no manifest speaks for, and uploads never finished.

A backup exists if and only if its manifest does, so an archive or a record without one is no backup: the
remains of a dump that died before its manifest, or of a removal that died after it. They cost room for ever
and show up in no list of backups. Only what follows our naming to the letter, and is old enough that no run can
still be working on it, is ever touched.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from include.backup.model import BackupId
from include.backup.stores.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from include.backup.stores.base import Store, StoredObject, UnfinishedUpload

MIN_AGE = timedelta(days=7)  # longer than any dump or verification may run
_SUFFIXES = frozenset({".dump", ".json", ".inventory.json", ".verify.json", ".proof.json", ".accepted.json"})


@dataclass(frozen=True)
class Sweep:
    """What one sweep found and, unless it was a dry run, removed.

    Args:
        objects: leftover objects, in key order.
        uploads: uploads that never were committed, in key order.
        dry_run: True where nothing was removed.
    """

    objects: tuple[StoredObject, ...]
    uploads: tuple[UnfinishedUpload, ...]
    dry_run: bool

    @property
    def bytes(self) -> int:
        """Size of the objects; what unfinished uploads hold is not known."""
        return sum(found.size for found in self.objects)


def owner(key: str) -> BackupId | None:
    """The backup that an object is a part of: its manifest, a record, or (a file of) its archive.

    None for everything else, though its name may begin like one of ours (`….dump.bak`, `….json.old`).
    """
    parsed = BackupId.from_key(key)
    if parsed is None:
        return None
    backup, suffix = parsed
    in_directory_archive = suffix.startswith(".dump/") and suffix != ".dump/"
    return backup if suffix in _SUFFIXES or in_directory_archive else None


def leftovers(
    objects: Iterable[StoredObject], *, database: str, now: datetime, min_age: timedelta = MIN_AGE
) -> list[StoredObject]:
    """Objects of backups that have no manifest; pure.

    A backup's objects are judged together: one that is younger than `min_age` protects the others, because a
    run may still be adding to them.

    Args:
        objects: a listing, at least whole for every backup it shows.
        database: the configured name; other databases' objects are passed over.
        now: UTC.
        min_age: how long after its newest object a backup without manifest counts as abandoned.

    Returns:
        The leftovers in key order.
    """
    by_stem: dict[str, list[StoredObject]] = defaultdict(list)
    manifests: set[str] = set()
    for found in objects:
        backup = owner(found.key)
        if backup is None or backup.database != database:
            continue
        by_stem[backup.stem].append(found)
        if found.key == backup.manifest_key:
            manifests.add(backup.stem)
    abandoned = [
        found
        for stem, parts in by_stem.items()
        if stem not in manifests and all(now - part.modified > min_age for part in parts)
        for found in parts
    ]
    return sorted(abandoned, key=lambda found: found.key)


def abandoned_uploads(
    uploads: Iterable[UnfinishedUpload], *, database: str, now: datetime, min_age: timedelta = MIN_AGE
) -> list[UnfinishedUpload]:
    """Unfinished uploads of this database's backups that started more than `min_age` ago, in key order; pure."""
    return sorted(
        (
            upload
            for upload in uploads
            if (backup := owner(upload.key)) is not None
            and backup.database == database
            and now - upload.started > min_age
        ),
        key=lambda upload: (upload.key, upload.token),
    )


def sweep(store: Store, database: str, *, now: datetime, dry_run: bool = True) -> Sweep:
    """Find one database's leftovers and, unless it is a dry run, remove them.

    Each backup's objects are listed and judged again right before they go, so that a manifest written meanwhile
    saves them.

    Args:
        store: where to look.
        database: the configured name.
        now: UTC.
        dry_run: only report.

    Returns:
        What was found (dry run) or removed.

    Raises:
        StoreError: the store refused; the text says what had been removed by then.
    """
    prefix = f"{database}/"
    found = leftovers(store.list(prefix), database=database, now=now)
    uploads = abandoned_uploads(store.unfinished(prefix), database=database, now=now)
    if dry_run:
        return Sweep(objects=tuple(found), uploads=tuple(uploads), dry_run=True)

    removed: list[StoredObject] = []
    aborted: list[UnfinishedUpload] = []
    try:
        for stem in sorted({backup.stem for item in found if (backup := owner(item.key)) is not None}):
            for item in leftovers(store.list(stem), database=database, now=now):
                store.delete(item.key)
                removed.append(item)
        for upload in uploads:
            store.abort(upload)
            aborted.append(upload)
    except StoreError as error:
        raise StoreError(
            f"the sweep of {store.url} stopped after {len(removed)} of {len(found)} leftover objects and "
            f"{len(aborted)} of {len(uploads)} unfinished uploads: {error.what}",
            untouched="every backup that has a manifest, and the leftovers not reached",
            remedy=error.remedy,
            database=database,
            transient=error.transient,
        ) from error
    return Sweep(objects=tuple(removed), uploads=tuple(aborted), dry_run=False)
