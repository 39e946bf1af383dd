"""What an operator may choose about proofs."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from include.backup.model import Tier
from include.backup.options import Section, tiers_by_name


class SmokeQuery(Section):
    """A question that a usable copy answers with true.

    Args:
        name: what it shows, in a few words.
        sql: one SELECT; its first column of its first row must be true. It runs in a read-only transaction.
    """

    name: str = Field(min_length=1, max_length=100)
    sql: str = Field(min_length=1)


class ProofOptions(Section):
    """How the backups of one database are proved.

    Args:
        tiers: the backups of these tiers are proved as soon as they are verified; none switches it off.
        rto_minutes: what fetching and restoring may take together before the monitor says so; none sets no limit.
        smoke_queries: asked of each restored copy.
        smoke_timeout_seconds: for each of them.
    """

    tiers: tuple[Tier, ...] = (Tier.DAILY,)
    rto_minutes: float | None = Field(default=None, gt=0)
    smoke_queries: tuple[SmokeQuery, ...] = ()
    smoke_timeout_seconds: int = Field(default=60, ge=1)

    @field_validator("tiers", mode="before")
    @classmethod
    def _tiers(cls, value: Any) -> Any:
        return tiers_by_name(value)

    @field_validator("smoke_queries", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class GroundOptions(Section):
    """The proving ground: the server on which backups become databases again.

    Args:
        connection: Airflow connection id (type postgres); its role needs CREATEDB there.
        jobs: parallel workers of pg_restore.
        staging: folder with room for a whole archive; the system's temporary one by default.
        identity_connection: Airflow connection id whose password is the age private key of encrypted backups.
    """

    connection: str = Field(default="proving_ground", pattern=r"^[\w.-]{1,200}$")
    jobs: int = Field(default=2, ge=1, le=64)
    staging: str | None = None
    identity_connection: str = Field(default="backup_identity", pattern=r"^[\w.-]{1,200}$")
