"""Which backups there are, as the store itself says: no other record is kept, so none can be lost or disagree."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from include.backup.certificate import Proof
from include.backup.model import Acceptance, BackupId, CatalogEntry, Manifest, Verification
from include.backup.record import Record
from include.backup.stores.base import MissingObjectError
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from include.backup.stores.base import Store

# Small documents, one round trip each; a store far away answers eight at once about eight times as fast.
_READERS = 8
_RECORDS = (".json", ".verify.json", ".proof.json", ".accepted.json")

R = TypeVar("R", bound=Record)


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
    """Read every manifest of one database, and what was found out about each backup since.

    Raises:
        StoreError: the store cannot be read.
    """
    listed: dict[BackupId, set[str]] = defaultdict(set)
    for item in store.list(f"{database}/"):
        named = BackupId.from_key(item.key)
        if named is not None and named[1] in _RECORDS:
            listed[named[0]].add(named[1])
    backups = [backup for backup, suffixes in listed.items() if ".json" in suffixes]
    keys = [f"{backup.stem}{suffix}" for backup in backups for suffix in sorted(listed[backup])]
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        documents = dict(zip(keys, pool.map(lambda key: _get(store, key), keys), strict=True))

    entries: list[CatalogEntry] = []
    unreadable: list[tuple[str, str]] = []
    for backup in backups:
        data = documents[backup.manifest_key]
        if data is None:
            continue  # deleted between the listing and now
        try:
            manifest = _understood(backup, data)
        except UnreadableManifestError as error:
            unreadable.append((backup.manifest_key, error.what))
            continue
        entries.append(
            CatalogEntry(
                manifest=manifest,
                verification=_record(Verification, documents.get(backup.verification_key)),
                proof=_record(Proof, documents.get(backup.proof_key)),
                acceptance=_record(Acceptance, documents.get(backup.acceptance_key)),
            )
        )
    return Catalog(
        entries=tuple(sorted(entries, key=lambda entry: (entry.manifest.created_at, entry.manifest.id))),
        unreadable=tuple(unreadable),
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
    data = _get(store, backup.manifest_key)
    if data is None:
        raise NoSuchBackupError(
            f"there is no backup {backup} in {store.url}",
            database=backup.database,
            untouched="nothing was changed",
            remedy="`python -m include.cli backups` lists those that exist",
        )
    return _understood(backup, data)


def _get(store: Store, key: str) -> bytes | None:
    try:
        return store.get(key)
    except MissingObjectError:
        return None


def _understood(backup: BackupId, data: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
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


def _record(kind: type[R], data: bytes | None) -> R | None:
    """What stands beside a manifest. One that cannot be read proves nothing, nor does it accept anything."""
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
