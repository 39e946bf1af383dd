"""Which backups there are, as the store itself says: no other record is kept, so none can be lost or disagree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from include.backup.model import BackupId, CatalogEntry, Manifest, Verification
from include.backup.stores.base import MissingObjectError
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from include.backup.stores.base import Store

# Small documents, one round trip each; a store far away answers eight at once about eight times as fast.
_READERS = 8


class NoSuchBackupError(MaintenanceError):
    """There is no manifest of that name."""


class UnreadableManifestError(MaintenanceError):
    """A manifest cannot be understood, or is another backup's."""


@dataclass(frozen=True)
class Catalog:
    """The backups of one database.

    Args:
        entries: oldest first.
        unreadable: manifests that cannot be understood (damaged, or written by a newer version), with the reason. They
            are shown and never touched.
    """

    entries: tuple[CatalogEntry, ...]
    unreadable: tuple[tuple[str, str], ...]


def read_catalog(store: Store, database: str) -> Catalog:
    """Read every manifest of one database, and the newest verification of each.

    Raises:
        StoreError: the store cannot be read.
    """
    manifests: list[BackupId] = []
    verified: set[str] = set()
    for item in store.list(f"{database}/"):
        named = BackupId.from_key(item.key)
        if named is None:
            continue
        backup, suffix = named
        if suffix == ".json":
            manifests.append(backup)
        elif suffix == ".verify.json":
            verified.add(backup.stem)
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        answers = list(pool.map(lambda backup: _entry(store, backup, verified=backup.stem in verified), manifests))
    entries = [answer for answer in answers if isinstance(answer, CatalogEntry)]
    return Catalog(
        entries=tuple(sorted(entries, key=lambda entry: (entry.manifest.created_at, entry.manifest.id))),
        unreadable=tuple(answer for answer in answers if isinstance(answer, tuple)),
    )


def databases(store: Store) -> tuple[str, ...]:
    """The databases that have at least one manifest in the store."""
    found = (BackupId.from_key(item.key) for item in store.list())
    return tuple(sorted({named[0].database for named in found if named is not None and named[1] == ".json"}))


def read_manifest(store: Store, backup: BackupId) -> Manifest:
    """The manifest of one backup.

    Raises:
        NoSuchBackupError: there is none.
        UnreadableManifestError: it cannot be understood, or is another backup's.
        StoreError: the store cannot be read.
    """
    try:
        data = store.get(backup.manifest_key)
        manifest = Manifest.model_validate_json(data)
    except MissingObjectError as error:
        raise NoSuchBackupError(
            f"there is no backup {backup} in {store.url}",
            database=backup.database,
            untouched="nothing was changed",
            remedy="`python -m include.cli backups` lists those that exist",
        ) from error
    except ValidationError as error:
        raise UnreadableManifestError(
            f"the manifest {backup.manifest_key} cannot be understood: {_first_problem(error)}",
            database=backup.database,
            untouched="nothing was changed",
            remedy="it is damaged or was written by a newer version; the archive beside it can still be restored by "
            "hand (docs/restore.md)",
        ) from error
    if manifest.backup_id != backup or manifest.id != backup.stem:
        raise UnreadableManifestError(
            f"the manifest {backup.manifest_key} is that of {manifest.id}",
            database=backup.database,
            untouched="nothing was changed",
            remedy="it was copied or renamed by hand: put it back where it belongs",
        )
    return manifest


def _entry(store: Store, backup: BackupId, *, verified: bool) -> CatalogEntry | tuple[str, str] | None:
    try:
        manifest = read_manifest(store, backup)
    except NoSuchBackupError:
        return None  # deleted between the listing and now
    except UnreadableManifestError as error:
        return backup.manifest_key, error.what
    return CatalogEntry(manifest=manifest, verification=_verification(store, backup) if verified else None)


def _verification(store: Store, backup: BackupId) -> Verification | None:
    try:
        return Verification.model_validate_json(store.get(backup.verification_key))
    except (MissingObjectError, ValidationError):
        return None  # a record that cannot be read proves nothing


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
