"""What a backup is: tiers, names, the manifest and what has been found out about it since.

A backup exists if and only if its manifest does. The objects of one backup share a stem,
`<database>/<tier>/<database>_<YYYY-MM-DD>T<HHMMSS>Z`:

- `<stem>.dump`         the archive (or `<stem>.dump/…`, the files of a directory archive)
- `<stem>.json`         the manifest, written last
- `<stem>.verify.json`  the newest verification's outcome
- `<stem>.proof.json`   the certificate of a proved restore
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

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


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackupId(_Record):
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


class ServerIdentity(_Record):
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


class TableFingerprint(_Record):
    """One table as the dump's own snapshot saw it.

    Args:
        oid: pg_class oid, which is also what the archive's table of contents names.
        schema_name: schema.
        name: table.
        rows: row count, or None where counting was switched off.
        row_hash: order-independent hash of all rows as a decimal string, or None.
        method: how the hash was made: `hash_record` (binary, same major version only), `text`, or None.
    """

    oid: int
    schema_name: str
    name: str
    rows: int | None
    row_hash: str | None
    method: Literal["hash_record", "text"] | None


class StoredFile(_Record):
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


class Manifest(_Record):
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
    extensions: dict[str, str]
    roles: tuple[str, ...]
    keep_forever: bool = False
    reason: str = ""

    @property
    def backup_id(self) -> BackupId:
        """Its name in parts."""
        return BackupId(database=self.database, tier=self.tier, created_at=self.created_at)


class Verification(_Record):
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


class CatalogEntry(_Record):
    """A backup as the catalog shows it: its manifest and the newest verification, if any."""

    manifest: Manifest
    verification: Verification | None

    @property
    def backup_id(self) -> BackupId:
        """Its name in parts."""
        return self.manifest.backup_id

    @property
    def good(self) -> bool:
        """Verified, and for this very object."""
        return (
            self.verification is not None
            and self.verification.failure is None
            and self.verification.sha256 == self.manifest.sha256
            and self.verification.backup == self.manifest.id
        )
