"""What a backup is: tiers, names, the manifest and what has been found out about it since.

A backup exists if and only if its manifest does. The objects of one backup share a stem,
`<database>/<tier>/<database>_<YYYY-MM-DD>T<HHMMSS>Z`:

- `<stem>.dump`            the archive (or `<stem>.dump/…`, the files of a directory archive)
- `<stem>.inventory.json`  what else the dump's snapshot held: schema, sequences, large objects
- `<stem>.json`            the manifest, written last
- `<stem>.verify.json`     the newest verification's outcome
- `<stem>.proof.json`      the certificate: what the newest restore showed
- `<stem>.accepted.json`   a person's word that a size anomaly is what it should be
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from include.backup.certificate import Proof
from include.backup.record import Record

DATABASE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
STAMP_FORMAT = "%Y-%m-%dT%H%M%SZ"
_STEM = re.compile(
    r"(?P<database>[a-z][a-z0-9_-]{0,62})/(?P<tier>daily|weekly|monthly|pre-migration)/"
    r"(?P=database)_(?P<stamp>\d{4}-\d{2}-\d{2}T\d{6}Z)"
)


class Tier(StrEnum):
    """Why a backup was made, and so how long it is kept."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    PRE_MIGRATION = "pre-migration"


class BackupId(Record):
    """The name of one backup, in its parts.

    Args:
        database: the configured name (not the PostgreSQL one).
        tier: its tier.
        created_at: UTC, whole seconds.
    """

    database: str
    tier: Tier
    created_at: AwareDatetime

    @property
    def stem(self) -> str:
        """The key that its objects share, without suffix."""
        stamp = self.created_at.astimezone(UTC).strftime(STAMP_FORMAT)
        return f"{self.database}/{self.tier}/{self.database}_{stamp}"

    @property
    def dump_key(self) -> str:
        """Key of the archive (the folder's, without `/`, of a directory archive)."""
        return f"{self.stem}.dump"

    @property
    def manifest_key(self) -> str:
        """Key of the manifest."""
        return f"{self.stem}.json"

    @property
    def verification_key(self) -> str:
        """Key of the newest verification's record."""
        return f"{self.stem}.verify.json"

    @property
    def proof_key(self) -> str:
        """Key of the certificate."""
        return f"{self.stem}.proof.json"

    @property
    def inventory_key(self) -> str:
        """Key of the inventory."""
        return f"{self.stem}.inventory.json"

    @property
    def acceptance_key(self) -> str:
        """Key of the acceptance of a size anomaly."""
        return f"{self.stem}.accepted.json"

    def __str__(self) -> str:
        return self.stem

    @classmethod
    def parse(cls, stem: str) -> BackupId:
        """The backup that a manifest's `id` names.

        Raises:
            ValueError: it does not follow our naming to the letter.
        """
        named = cls.from_key(stem)
        if named is None or named[1]:
            raise ValueError(
                f"{stem!r} is no backup's id; allowed: <database>/<tier>/<database>_<YYYY-MM-DD>T<HHMMSS>Z"
            )
        return named[0]

    @classmethod
    def from_key(cls, key: str) -> tuple[BackupId, str] | None:
        """The backup an object belongs to, and the rest of its key (`.dump`, `.json`, `.dump/toc.dat`, …).

        None for whatever does not follow our naming to the letter: such objects are never ours to touch.
        """
        match = _STEM.match(key)
        if match is None:
            return None
        try:
            created = datetime.strptime(match["stamp"], STAMP_FORMAT).replace(tzinfo=UTC)
        except ValueError:
            return None
        backup = cls(database=match["database"], tier=Tier(match["tier"]), created_at=created)
        return backup, key[match.end() :]


class ServerIdentity(Record):
    """Which server and database a backup came from.

    Args:
        system_identifier: of the cluster (pg_control), or None where the role may not read it.
        database: the PostgreSQL name of the database.
        version: as the server reports it, e.g. `17.10`.
        major: the major version.
    """

    system_identifier: str | None
    database: str
    version: str
    major: int


class DatabaseLocale(Record):
    """What a database has to be created with to hold the same text in the same order.

    Args:
        encoding: e.g. `UTF8`.
        provider: `libc`, `icu` or `builtin`.
        collate: LC_COLLATE.
        ctype: LC_CTYPE.
        locale: of the provider, where that is not libc, else None.
    """

    encoding: str
    provider: Literal["libc", "icu", "builtin"]
    collate: str
    ctype: str
    locale: str | None


class TableFingerprint(Record):
    """One table as the dump's own snapshot saw it.

    Args:
        oid: pg_class oid, which is also what the archive's table of contents names.
        schema_name: schema.
        name: table.
        rows: row count, or None where counting was switched off.
        row_hash: order-independent hash of all rows as a decimal string, or None.
        method: how the hash was made: `hash_record` (binary, same major version only), `text`, or None.
        hash_partition_of: the topmost partitioned table (`schema.name`), where a level above this table is
            partitioned by hash: a restore may then put rows into other partitions than they came from.
    """

    oid: int
    schema_name: str
    name: str
    rows: int | None
    row_hash: str | None
    method: Literal["hash_record", "text"] | None
    hash_partition_of: str | None = None


class StoredFile(Record):
    """One stored object of the archive: key relative to the stem, bytes and sha256 as stored."""

    suffix: str
    bytes: int
    sha256: str


def whole_sha256(files: tuple[StoredFile, ...]) -> str:
    """The archive's hash: the object's own, or for a directory that of `sha256sum`'s listing of its files."""
    if len(files) == 1 and files[0].suffix == ".dump":
        return files[0].sha256
    listing = "".join(f"{file.sha256}  {file.suffix.removeprefix('.dump/')}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


class Manifest(Record):
    """Everything known about a backup when it was made. Written last, never changed."""

    schema_version: Literal[1] = 1
    id: str
    database: str
    tier: Tier
    created_at: AwareDatetime
    finished_at: AwareDatetime
    run_id: str
    server: ServerIdentity
    tools: dict[str, str] = Field(description="tool name to version, e.g. pg_dump: 17.10")
    archive_format: Literal["custom", "directory"]
    compression: str
    encryption_recipients: tuple[str, ...] = ()
    bytes: int
    sha256: str = Field(description="of the stored object; of the sorted list of files for a directory")
    files: tuple[StoredFile, ...]
    dump_seconds: float
    fingerprint_seconds: float
    tables: tuple[TableFingerprint, ...]
    schema_revision: str | None
    revision_table: str | None = Field(default=None, description="where the revision was read, as `schema.table`")
    extensions: dict[str, str]
    roles: tuple[str, ...] = Field(description="every role that owners, grants and policies name")
    owners: tuple[str, ...] = Field(default=(), description="those among the roles that own something")
    locale: DatabaseLocale | None = None
    inventory: StoredFile | None = Field(default=None, description="the inventory's object, encrypted like the archive")
    keep_forever: bool = False
    reason: str = ""

    @property
    def backup_id(self) -> BackupId:
        """Its name in parts."""
        return BackupId(database=self.database, tier=self.tier, created_at=self.created_at)

    @property
    def digest(self) -> str:
        """Sha256 over all that it promises, which is what a certificate is for.

        What a person may edit later (pins and reasons) is left out, and so are defaults: a field that a later
        version adds does not change the digests of earlier backups.
        """
        promised = self.model_dump(mode="json", exclude={"keep_forever", "reason"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(promised, sort_keys=True).encode()).hexdigest()


class Verification(Record):
    """What reading the stored object back showed.

    Args:
        backup: the backup's id.
        sha256: that the manifest promised.
        verified_at: when, UTC.
        level: `archive` (bytes, full decode, table list) or `encrypted bytes` (no private key here).
        failure: None where all held, else what did not.
        seconds: how long it took.
    """

    schema_version: Literal[1] = 1
    backup: str
    sha256: str
    verified_at: AwareDatetime
    level: Literal["archive", "encrypted bytes"]
    failure: str | None
    seconds: float


class Acceptance(Record):
    """A person's word that a backup's size anomaly is what it should be.

    Args:
        backup: the backup's id.
        sha256: of the archive that was looked at.
        accepted_at: when, UTC.
        reason: why it is right.
    """

    schema_version: Literal[1] = 1
    backup: str
    sha256: str
    accepted_at: AwareDatetime
    reason: str


class CatalogEntry(Record):
    """A backup as the catalog shows it: its manifest, and what was found out about it since."""

    manifest: Manifest
    verification: Verification | None
    proof: Proof | None = None
    acceptance: Acceptance | None = None

    @property
    def backup_id(self) -> BackupId:
        """Its name in parts."""
        return self.manifest.backup_id

    @property
    def good(self) -> bool:
        """Verified, and for this very object; and no restore has shown the contrary."""
        return (
            self.verification is not None
            and self.verification.failure is None
            and self.verification.sha256 == self.manifest.sha256
            and self.verification.backup == self.manifest.id
            and self.verdict != "failed"
        )

    @property
    def verdict(self) -> Literal["proved", "failed", "incomplete"] | None:
        """Of the certificate, where there is one for this very archive and manifest."""
        return self.proof.verdict if self.proof is not None and self._certified(self.proof) else None

    @property
    def proved(self) -> bool:
        """Good, and restored to exactly what was dumped."""
        return self.good and self.verdict == "proved"

    @property
    def accepted(self) -> bool:
        """Whether a person has accepted its anomalies, for this very object."""
        return (
            self.acceptance is not None
            and self.acceptance.backup == self.manifest.id
            and self.acceptance.sha256 == self.manifest.sha256
        )

    def _certified(self, proof: Proof) -> bool:
        return (proof.backup, proof.sha256, proof.manifest_sha256) == (
            self.manifest.id,
            self.manifest.sha256,
            self.manifest.digest,
        )
