"""Backups that lost suspiciously much of what the one before them held: the rule, as a pure function.

A backup may be restorable to the last row and yet be of a database that a bad script emptied an hour before. So each
good backup of a database is compared, table by table, with the newest earlier one whose figure was as it should be.
What is found stands until a later backup is as before again, or until a person accepts it. Nothing of such a
database is pruned meanwhile (`include.backup.retention`), so what was lost stays in the older backups.

The comparison begins at the oldest backup of the tier that is made most often. Older ones stand apart by weeks that
pruning took out, and across such a gap slow change would look like a sudden loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple

from humanize import intcomma, naturalsize

from include.backup.catalog import read_manifest
from include.backup.model import Acceptance, Tier
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from include.backup.model import BackupId, CatalogEntry, Manifest
    from include.backup.options import MonitorOptions
    from include.backup.stores.base import Store

_OFTEN_FIRST = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.PRE_MIGRATION)
_KINDS: dict[str, Literal["rows lost", "archive shrunk"]] = {"table": "rows lost", "archive": "archive shrunk"}


@dataclass(frozen=True)
class Anomaly:
    """One loss that nobody has explained.

    Args:
        backup: the newest backup that shows it.
        reference: the newest earlier one in which the same was as it should be.
        kind: what happened.
        subject: the table as `schema.name` (of partitions by hash: their root), or the archives that can be compared
            with each other, e.g. `archive custom zstd:1`. Together with the database it identifies the anomaly
            from night to night.
        before: rows, or the archive's bytes, in the reference.
        after: the same in the backup.
    """

    backup: BackupId
    reference: BackupId
    kind: Literal["table vanished", "rows lost", "archive shrunk"]
    subject: str
    before: int
    after: int

    @property
    def sentence(self) -> str:
        """What a person should read of it, without a full stop."""
        if self.kind == "table vanished":
            return (
                f"{self.subject} had {intcomma(self.before)} rows in {self.reference} and is missing in {self.backup}"
            )
        percent = int((self.before - self.after) / self.before * 100)
        if self.kind == "rows lost":
            return (
                f"{self.subject} had {intcomma(self.before)} rows in {self.reference} and has "
                f"{intcomma(self.after)} in {self.backup}, {percent} % fewer"
            )
        before, after = naturalsize(self.before, binary=True), naturalsize(self.after, binary=True)
        return f"the archive had {before} in {self.reference} and has {after} in {self.backup}, {percent} % less"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return (
            f"If the data is to be like that: `python -m include.cli monitor --accept {self.backup} --reason …`. "
            f"If not, {self.reference} still has it"
        )


class _Subject(NamedTuple):
    what: Literal["archive", "table"]
    name: str


def anomalies(entries: Iterable[CatalogEntry], options: MonitorOptions) -> tuple[Anomaly, ...]:
    """The losses in one database's good backups that neither a later backup nor a person has put right. Pure.

    What a backup cannot tell (rows that were not counted; an archive written in another format, with another
    compression, or encrypted where the ones before were not) neither makes nor ends an anomaly.

    Args:
        entries: the whole catalog of one database, in any order.
        options: how much is too much.

    Returns:
        One for each table or kind of archive, in their order.
    """
    normal: dict[_Subject, tuple[BackupId, int]] = {}
    unexplained: dict[_Subject, Anomaly] = {}
    for entry in _comparable([entry for entry in entries if entry.good]):
        if entry.accepted:
            normal.clear()
            unexplained.clear()
        figures = _figures(entry.manifest, options)
        vanished = {subject for subject in normal if subject.what == "table" and subject not in figures}
        for subject, after in (figures | dict.fromkeys(vanished, 0)).items():
            if after is None:
                continue
            reference, before = normal.get(subject, (entry.backup_id, after))
            if _lost(subject, before, after, options):
                unexplained[subject] = Anomaly(
                    backup=entry.backup_id,
                    reference=reference,
                    kind="table vanished" if subject in vanished else _KINDS[subject.what],
                    subject=subject.name,
                    before=before,
                    after=after,
                )
            else:
                normal[subject] = (entry.backup_id, after)
                unexplained.pop(subject, None)
    return tuple(unexplained[subject] for subject in sorted(unexplained))


def accept(store: Store, backup: BackupId, reason: str, now: datetime) -> Acceptance:
    """Write down a person's word that what a backup holds is what it should hold. An earlier word is replaced.

    Args:
        store: that has the backup.
        backup: which.
        reason: why it is right, for whoever reads it later.
        now: UTC.

    Returns:
        The acceptance as written.

    Raises:
        MaintenanceError: there is no reason.
        NoSuchBackupError: there is no such backup.
        UnreadableManifestError: its manifest cannot be understood.
        StoreError: the store refused.
    """
    if not reason.strip():
        raise MaintenanceError(
            f"{backup} cannot be accepted without a reason",
            database=backup.database,
            untouched="nothing was written",
            remedy="say in `reason` why the database is to hold so much less than before",
        )
    manifest = read_manifest(store, backup)
    acceptance = Acceptance(backup=manifest.id, sha256=manifest.sha256, accepted_at=now, reason=reason.strip())
    store.put(backup.acceptance_key, acceptance.model_dump_json(indent=2).encode(), replace=True)
    return acceptance


def _comparable(good: Sequence[CatalogEntry]) -> list[CatalogEntry]:
    """By time, from the oldest of the tier that is made most often; pinned ones may be much older."""
    for tier in _OFTEN_FIRST:
        of_tier = [
            entry.manifest.created_at
            for entry in good
            if entry.manifest.tier == tier and not entry.manifest.keep_forever
        ]
        if of_tier:
            since = min(of_tier)
            return sorted(
                (entry for entry in good if entry.manifest.created_at >= since),
                key=lambda entry: (entry.manifest.created_at, entry.manifest.id),
            )
    return []


def _figures(manifest: Manifest, options: MonitorOptions) -> dict[_Subject, int | None]:
    """Rows by table and the archive's bytes; None where they are not known."""
    encrypted = " encrypted" if manifest.encryption_recipients else ""
    archive = _Subject("archive", f"archive {manifest.archive_format} {manifest.compression}{encrypted}")
    figures: dict[_Subject, int | None] = {archive: manifest.bytes}
    for table in manifest.tables:
        name = f"{table.schema_name}.{table.name}"
        root = table.hash_partition_of or name
        if any(fnmatchcase(one, pattern) for one in (name, root) for pattern in options.volatile_tables):
            continue
        subject = _Subject("table", root)
        others = figures.get(subject, 0)
        figures[subject] = None if table.rows is None or others is None else others + table.rows
    return figures


def _lost(subject: _Subject, before: int, after: int, options: MonitorOptions) -> bool:
    if subject.what == "table":
        limit, minimum = options.table_rows_lost_percent, options.table_rows_minimum
    else:
        limit, minimum = options.dump_shrunk_percent, 1
    return before >= minimum and (before - after) * 100 >= limit * before
