"""Backups made up for the tests of retention and sweeping: entries, their objects, and a store in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic import ValidationError

from include.backup.certificate import Check, Proof, Verdict
from include.backup.model import (
    Acceptance,
    BackupId,
    CatalogEntry,
    Manifest,
    ServerIdentity,
    StoredFile,
    TableFingerprint,
    Tier,
    Verification,
)
from include.backup.record import Record
from include.backup.retention import Decision, Policy, plan
from include.backup.stores.base import MissingObjectError, StoredObject, StoreError, UnfinishedUpload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from include.backup.stores.base import Store

R = TypeVar("R", bound=Record)
State = Literal["good", "unverified", "failed", "verified as another object"]
NOW = datetime(2026, 3, 18, 12, 0, tzinfo=UTC)  # a Wednesday, in the middle of its day, week and month
FIVE_DAILY = Policy(daily=5, weekly=3, monthly=2, pre_migration=2)
_OUTCOMES: dict[Verdict, Literal["held", "differs", "not checked"]] = {
    "proved": "held",
    "failed": "differs",
    "incomplete": "not checked",
}
_SERVER = ServerIdentity(system_identifier="1", database="hotel", version="17.10", major=17)


def at(text: str) -> datetime:
    """`2026-03-18 02:00`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days_ago(days: float, *, now: datetime = NOW) -> datetime:
    return now - timedelta(days=days)


def entry(
    created: datetime,
    tier: Tier = Tier.DAILY,
    *,
    state: State = "good",
    pinned: bool = False,
    database: str = "hotel",
    finished: datetime | None = None,
    verified: datetime | None = None,
    archive: str = "a",
    proof: Verdict | None = None,
    proved: datetime | None = None,
    accepted: datetime | None = None,
    **manifest_fields: Any,
) -> CatalogEntry:
    """A backup that took a minute and was verified and proved within two more, unless told otherwise."""
    backup = BackupId(database=database, tier=tier, created_at=created)
    finished = finished or created + timedelta(minutes=1)
    fields: dict[str, Any] = {
        "id": backup.stem,
        "database": database,
        "tier": tier,
        "created_at": created,
        "finished_at": finished,
        "run_id": "manual",
        "server": _SERVER,
        "tools": {"pg_dump": "17.10"},
        "archive_format": "custom",
        "compression": "zstd:1",
        "bytes": len(archive),
        "sha256": f"sha256 of {archive}",
        "files": (StoredFile(suffix=".dump", bytes=len(archive), sha256=f"sha256 of {archive}"),),
        "dump_seconds": 60,
        "fingerprint_seconds": 1,
        "tables": (),
        "schema_revision": None,
        "extensions": {},
        "roles": (),
        "keep_forever": pinned,
    }
    manifest = Manifest(**{**fields, **manifest_fields})
    found: dict[str, Any] = {}
    if proof is not None:
        found["proof"] = certificate(manifest, proof, proved or finished + timedelta(minutes=2))
    if accepted is not None:
        found["acceptance"] = Acceptance(
            backup=manifest.id, sha256=manifest.sha256, accepted_at=accepted, reason="the archive was emptied"
        )
    if state == "unverified":
        return CatalogEntry(manifest=manifest, verification=None, **found)
    verification = Verification(
        backup=backup.stem,
        sha256="sha256 of something else" if state == "verified as another object" else manifest.sha256,
        verified_at=verified or finished + timedelta(minutes=1),
        level="archive",
        failure="sha256 differs" if state == "failed" else None,
        seconds=1,
    )
    return CatalogEntry(manifest=manifest, verification=verification, **found)


def certificate(manifest: Manifest, verdict: Verdict, proved_at: datetime) -> Proof:
    """Of this very archive and manifest."""
    return Proof(
        backup=manifest.id,
        sha256=manifest.sha256,
        manifest_sha256=manifest.digest,
        proved_at=proved_at,
        verdict=verdict,
        checks=(
            Check(name="rows", outcome="held", detail="3 tables"),
            Check(name="row hashes", outcome=_OUTCOMES[verdict], detail="3 tables"),
        ),
        fetch_seconds=1,
        restore_seconds=2,
        check_seconds=3,
        server_version="17.10",
        pg_restore="17.10",
    )


def table(rows: int | None, name: str = "bookings", *, root: str | None = None) -> TableFingerprint:
    return TableFingerprint(
        oid=1, schema_name="hotel", name=name, rows=rows, row_hash=None, method=None, hash_partition_of=root
    )


def dropped(entries: Iterable[CatalogEntry], policy: Policy = FIVE_DAILY, now: datetime = NOW) -> set[datetime]:
    return {decision.backup.created_at for decision in plan(list(entries), policy, now=now).drops}


def the(entries: Iterable[CatalogEntry], created: datetime, policy: Policy = FIVE_DAILY) -> Decision:
    found = [one for one in plan(list(entries), policy, now=NOW).decisions if one.backup.created_at == created]
    assert len(found) == 1
    return found[0]


def nightly(
    first: int, last: int, *, tier: Tier = Tier.DAILY, state: State = "good", proof: Verdict | None = None
) -> list[CatalogEntry]:
    """One backup a night, from `first` to `last` days ago."""
    return [entry(days_ago(day), tier, state=state, proof=proof) for day in range(last, first + 1)]


def write(
    store: Store, made: CatalogEntry, *, archive: dict[str, bytes] | None = None, proof: bool = False
) -> set[str]:
    """Put a backup's objects into a store, the archive first; `proof` is for one that nobody can read. The keys."""
    backup = made.backup_id
    objects = {f"{backup.stem}{suffix}": data for suffix, data in (archive or {".dump": b"a"}).items()}
    if proof:
        objects[backup.proof_key] = b"{}"
    for key, record in (
        (backup.verification_key, made.verification),
        (backup.proof_key, made.proof),
        (backup.acceptance_key, made.acceptance),
        (backup.manifest_key, made.manifest),
    ):
        if record is not None:
            objects[key] = record.model_dump_json().encode()
    for key, data in objects.items():
        store.put(key, data, replace=True)
    return set(objects)


@lru_cache(maxsize=8192)  # simulations read the same records hundreds of times
def _record(kind: type[R], data: bytes) -> R | None:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None


def catalog(store: Store, database: str = "hotel") -> list[CatalogEntry]:
    """What the catalog shows: every manifest, and the records beside it."""
    keys = {found.key for found in store.list(f"{database}/")}

    def record(kind: type[R], key: str) -> R | None:
        return _record(kind, store.get(key)) if key in keys else None

    entries = []
    for key in sorted(keys):
        parsed = BackupId.from_key(key) if key.endswith("Z.json") else None
        if parsed is None:
            continue
        backup = parsed[0]
        manifest = record(Manifest, key)
        assert manifest is not None
        entries.append(
            CatalogEntry(
                manifest=manifest,
                verification=record(Verification, backup.verification_key),
                proof=record(Proof, backup.proof_key),
                acceptance=record(Acceptance, backup.acceptance_key),
            )
        )
    return entries


class MemoryStore:
    """A store in memory that can be told to refuse after so many deletions."""

    url = "memory:"

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.uploads: list[UnfinishedUpload] = []
        self.deletions_left: int | None = None

    @property
    def store(self) -> Store:
        return cast("Store", self)

    @property
    def keys(self) -> set[str]:
        return set(self.objects)

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise MissingObjectError(f"no {key}", untouched="all", remedy="Look.")
        return self.objects[key][0]

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        assert replace or key not in self.objects
        self.objects[key] = (data, self.now)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                data, modified = self.objects[key]
                yield StoredObject(key, len(data), modified)

    def delete(self, key: str) -> None:
        if self.deletions_left is not None:
            if self.deletions_left == 0:
                raise StoreError("the line is dead", untouched="all", remedy="Mend the line.", transient=True)
            self.deletions_left -= 1
        self.objects.pop(key, None)

    def unfinished(self, prefix: str = "") -> Iterator[UnfinishedUpload]:
        return (upload for upload in list(self.uploads) if upload.key.startswith(prefix))

    def abort(self, upload: UnfinishedUpload) -> None:
        self.uploads.remove(upload)
