"""What an operator may choose about a dump."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from include.backup.model import Tier


class Section(BaseModel):
    """A part of the configuration: unknown keys and loosely typed values are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def tiers_by_name(value: Any) -> Any:
    """A list of tiers as a file has them; for use as a `before` validator.

    Raises:
        ValueError: one is not known.
    """
    if not isinstance(value, list):
        return value
    known = {tier.value: tier for tier in Tier}
    if unknown := [item for item in value if item not in known]:
        raise ValueError(f"unknown tier {unknown[0]!r}; allowed: {', '.join(known)}")
    return tuple(known[item] for item in value)


class ArchiveOptions(Section):
    """How pg_dump writes.

    Args:
        format: `custom` streams straight to the store; `directory` dumps with several jobs into `staging` first,
            for databases so large that one pg_dump process takes too long.
        compression: `zstd:1` … `zstd:19`, `lz4:1` … `lz4:12`, `gzip:1` … `gzip:9` or `none`.
        jobs: parallel pg_dump workers; directory format only.
        staging: folder with room for a whole dump; directory format only, and required there.
    """

    format: Literal["custom", "directory"] = "custom"
    compression: str = Field(default="zstd:1", pattern=r"^(none|gzip:[1-9]|zstd:([1-9]|1[0-9])|lz4:([1-9]|1[0-2]))$")
    jobs: int = Field(default=2, ge=1, le=64)
    staging: str | None = None

    @model_validator(mode="after")
    def _staging_goes_with_directory(self) -> ArchiveOptions:
        if (self.format == "directory") != (self.staging is not None):
            raise ValueError(
                "`staging` (a folder with room for a dump) goes with `format: directory`, and only with it"
            )
        return self


class DumpOptions(Section):
    """How one database is dumped.

    Args:
        archive: how pg_dump writes.
        fingerprints: `hashes` (rows and a row hash for each table) or `counts` (rows only: cheaper, proves less).
        encryption_recipients: age public keys (`age1…`); the private key is not needed to back up.
        revision_table: where the applied schema revision stands, as `schema.table`.
        dump_timeout_minutes: after this the dump is stopped, so that its snapshot cannot hold back vacuum for ever.
        lock_timeout_seconds: how long pg_dump may queue for a table's lock; while it queues, others queue behind it.
    """

    archive: ArchiveOptions = ArchiveOptions()
    fingerprints: Literal["hashes", "counts"] = "hashes"
    encryption_recipients: tuple[str, ...] = ()
    revision_table: str = Field(default="dbmaint.schema_revision", pattern=r"^[^.]+\.[^.]+$")
    dump_timeout_minutes: int = Field(default=240, ge=1)
    lock_timeout_seconds: int = Field(default=60, ge=1)

    @field_validator("encryption_recipients", mode="before")
    @classmethod
    def _recipients(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        from pyrage import RecipientError, x25519

        for number, item in enumerate(value, start=1):
            try:
                x25519.Recipient.from_str(item)
            except (RecipientError, TypeError):
                # The value is not repeated: a private key pasted by mistake must not reach a log.
                raise ValueError(
                    f"entry {number} is no age public key; allowed: age1… as age-keygen prints it"
                ) from None
        return tuple(value)


class MonitorOptions(Section):
    """What the monitor expects of one database's backups.

    Args:
        rpo_hours: the newest verified backup may be this old.
        proof_rpo_hours: so may the newest proved one, where any tier of this database is proved.
        table_rows_lost_percent: a table that lost this share of its rows since the backup before is an anomaly.
        table_rows_minimum: tables that had fewer rows than this are not judged.
        dump_shrunk_percent: an archive that is smaller by this share than the one before is an anomaly.
        volatile_tables: tables (`schema.name`) that shrink by nature, such as queues: never judged; `*` in a name
            stands for anything, as in `events.day_*` for partitions that a job drops.
    """

    rpo_hours: float = Field(default=26, gt=0)
    proof_rpo_hours: float = Field(default=50, gt=0)
    table_rows_lost_percent: float = Field(default=40, gt=0, le=100)
    table_rows_minimum: int = Field(default=100, ge=1)
    dump_shrunk_percent: float = Field(default=50, gt=0, le=100)
    volatile_tables: tuple[str, ...] = ()

    @field_validator("volatile_tables", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value
