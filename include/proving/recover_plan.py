"""What a recovery will do: decided and told, point by point, before anything is touched."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.backup.catalog import NoSuchBackupError, read_catalog
from include.errors import MaintenanceError
from include.proving.recover_target import (
    NAME_BYTES,
    UNTOUCHED,
    Refusal,
    TargetServer,
    look,
    name_refusals,
    swap_refusals,
)
from include.proving.recover_words import listing, points, state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.backup.catalog import Catalog
    from include.backup.model import BackupId, CatalogEntry
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn


class RecoveryRefusedError(MaintenanceError):
    """The recovery does not begin; every reason is named at once."""


@dataclass(frozen=True, kw_only=True)
class RecoveryPlan:
    """What a recovery will do, decided and told before anything is touched.

    Args:
        database: the configured name.
        made_at: when, UTC; names carry it.
        entry: the backup, as the catalog shows it.
        target: a maintenance database on the target server, and the role that recovers.
        new_name: the restored database's name (until the swap, where there is one).
        swap: name of the live database that is replaced, or None.
        old_name: what the replaced database will be called, or None.
        server: what was found on the target server.
        points: point by point, in words, what will be done and what will not. Cautions begin with `CAUTION: `.
    """

    database: str
    made_at: datetime
    entry: CatalogEntry
    target: Dsn
    new_name: str
    swap: str | None
    old_name: str | None
    server: TargetServer
    points: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What a person approves, as one value: archive, server, role, names and the very database replaced.

        Compare this, not the points, with an earlier plan: their figures (sessions, sizes, ages) move.
        """
        live = self.server.live
        parts = (
            self.entry.manifest.id,
            self.entry.manifest.digest,
            self.target.host,
            self.target.port,
            self.target.user,
            self.server.identity.system_identifier,
            self.new_name,
            self.swap,
            self.old_name,
            live and (live.oid, live.owner),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def plan(
    store: Store,
    *,
    database: str,
    target: Dsn,
    backup: BackupId | None = None,
    new_name: str | None = None,
    swap: str | None = None,
    now: datetime | None = None,
) -> RecoveryPlan:
    """Decide and tell what a recovery would do; nothing is changed.

    To carry out in another process what a person has approved, call it again with the approved plan's
    `entry.backup_id`, `new_name`, `swap` and the same `now`: names follow from these alone.

    Args:
        store: where the backups are.
        database: the configured name.
        target: any database on the target server that the role may connect to; the role will own what is restored.
        backup: which one; the newest proved one by default. One that is merely verified has to be named here.
        new_name: for the restored database; by default `<PostgreSQL name>_restored_<YYYYmmdd_HHMMSS>`.
        swap: the name of the live database to be replaced, exactly as typed by a person.
        now: UTC; names carry it.

    Raises:
        RecoveryRefusedError: with every reason at once.
        MaintenanceError: the store or the server could not be read.
    """
    now = now or datetime.now(UTC)
    catalog = read_catalog(store, database)
    entry = _choose(catalog, backup, database=database, url=store.url, now=now)
    backed_up = entry.manifest.server.database
    new_name = new_name if new_name is not None else _stamped(backed_up, "restored", now)
    old_name = _stamped(swap, "before", now) if swap is not None else None
    server = look(target, entry.manifest, swap=swap)
    refusals = [*server.lacking, *name_refusals(new_name, server)]
    if swap is not None and old_name is not None:
        refusals += swap_refusals(swap, backed_up=backed_up, old_name=old_name, server=server)
    if refusals:
        raise refused(refusals, database=database)
    return RecoveryPlan(
        database=database,
        made_at=now,
        entry=entry,
        target=server.dsn,
        new_name=new_name,
        swap=swap,
        old_name=old_name,
        server=server,
        points=points(
            entry,
            others=catalog.entries,
            server=server,
            new_name=new_name,
            swap=swap,
            old_name=old_name,
            now=now,
        ),
    )


def _choose(catalog: Catalog, backup: BackupId | None, *, database: str, url: str, now: datetime) -> CatalogEntry:
    """The named backup, or the newest proved one."""
    if backup is None:
        proved = [entry for entry in catalog.entries if entry.proved]
        if proved:
            return max(proved, key=lambda entry: entry.manifest.created_at)
        refusal = Refusal(
            f"no backup in {url} is proved. There is: {listing(catalog.entries, now)}",
            "prove one (`python -m include.cli prove`), or name a verified one yourself",
        )
        raise refused([refusal], database=database)
    entry = next((entry for entry in catalog.entries if entry.backup_id == backup), None)
    if entry is None:
        raise NoSuchBackupError(
            f"there is no backup {backup} in {url}. There is: {listing(catalog.entries, now)}",
            database=database,
            untouched=UNTOUCHED,
            remedy="name one of those",
        )
    if entry.good:
        return entry
    failed = entry.verdict == "failed" or (entry.verification is not None and entry.verification.failure is not None)
    if failed:
        remedy = "choose another; what can be saved of this one is saved by hand, with stock tools (docs/restore.md)"
    else:
        remedy = f"verify it first: `python -m include.cli verify {backup}`"
    raise refused([Refusal(f"backup {backup}: {state(entry)}", remedy)], database=database)


def refused(refusals: Sequence[Refusal], *, database: str) -> RecoveryRefusedError:
    """All reasons in one error."""
    return RecoveryRefusedError(
        "; ".join(refusal.reason for refusal in refusals),
        database=database,
        untouched=UNTOUCHED,
        remedy="; ".join(refusal.remedy for refusal in refusals),
    )


def _stamped(name: str, what: str, now: datetime) -> str:
    """`<name>_<what>_<stamp>`, with the name cut where the whole would be too long."""
    suffix = f"_{what}_{now.astimezone(UTC):%Y%m%d_%H%M%S}"
    return name.encode()[: NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix
