"""What is wrong with one database's backups: decided from what the store holds, the options and the clock. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from include.backup import anomaly, halt
from include.monitor import upkeep
from include.monitor.finding import NOTHING_AT_ALL, Finding, some_of, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from include.backup.catalog import Catalog
    from include.backup.certificate import Proof
    from include.backup.model import CatalogEntry
    from include.backup.options import MonitorOptions
    from include.monitor.upkeep import StoreFacts
    from include.proving.options import ProofOptions

# What stops pruning, by how the finding's key begins.
_HALTS = {
    "clock": "a clock is or was wrong",
    "proof:failed": "the newest proof failed",
    "anomaly:": "a loss is unexplained",
}


def findings(
    database: str,
    catalog: Catalog,
    facts: StoreFacts,
    *,
    monitor: MonitorOptions,
    proof: ProofOptions,
    now: datetime,
    last_look: datetime | None = None,
) -> tuple[Finding, ...]:
    """Everything that is not as it should be, the critical first.

    Args:
        database: the configured name.
        catalog: its backups.
        facts: what else its store says.
        monitor: what is expected.
        proof: how its backups are proved.
        now: UTC.
        last_look: when the monitor last looked, UTC, or None where that is not known.
    """
    entries = catalog.entries
    odd = anomaly.anomalies(entries, monitor)
    found = [
        *clock(database, entries, last_look=last_look, now=now),
        *verified(database, entries, hours=monitor.rpo_hours, now=now),
        *(proved(database, entries, hours=monitor.proof_rpo_hours, now=now) if proof.tiers else ()),
        *newest_proof(database, entries, rto_minutes=proof.rto_minutes),
        *damaged(database, entries),
        *anomalies(database, odd),
        *unreadable(database, catalog.unreadable),
        *upkeep.room(database, facts),
        *upkeep.leftovers(database, facts, now=now),
    ]
    found += retention_stopped(database, found, halt.why_halted(entries, odd, now=now))
    return tuple(sorted(found, key=lambda finding: finding.severity != "critical"))


def clock(
    database: str, entries: Iterable[CatalogEntry], *, last_look: datetime | None, now: datetime
) -> Iterator[Finding]:
    """A date in the future: then no age means anything."""
    dated = [(moment, str(entry.backup_id)) for entry in entries for moment in _moments(entry)]
    if last_look is not None:
        dated.append((last_look, "the monitor's last look"))
    latest, what = max(dated, default=(now, ""))
    if latest > now + halt.CLOCK_SKEW:
        yield Finding(
            key="clock",
            database=database,
            severity="critical",
            sentence=f"{what} is dated {latest:%Y-%m-%d %H:%M} UTC, which is {written(latest - now)} from now: a clock "
            "is or was wrong, and no age of a backup can be trusted",
            remedy="compare the clocks of all machines that run tasks with the right time, and set the wrong one; "
            "this is over when that time has come",
        )


def verified(database: str, entries: Sequence[CatalogEntry], *, hours: float, now: datetime) -> Iterator[Finding]:
    """The age of the newest backup that was read back whole, and that no restore has shown to be wrong."""
    return _overdue(
        database,
        entries,
        lambda entry: entry.good,
        what="verified",
        hours=hours,
        now=now,
        remedy="look at the last runs of backup_daily, mend what failed, then trigger backup_daily",
    )


def proved(database: str, entries: Sequence[CatalogEntry], *, hours: float, now: datetime) -> Iterator[Finding]:
    """The age of the newest backup that has been a database again."""
    return _overdue(
        database,
        entries,
        lambda entry: entry.proved,
        what="proved",
        hours=hours,
        now=now,
        remedy="look at the last runs of backup_prove and at the proving ground, mend what failed, then trigger "
        "backup_prove",
    )


def _overdue(
    database: str,
    entries: Sequence[CatalogEntry],
    fits: Callable[[CatalogEntry], bool],
    *,
    what: str,
    hours: float,
    now: datetime,
    remedy: str,
) -> Iterator[Finding]:
    fitting = [entry.manifest for entry in entries if fits(entry)]
    newest = max(fitting, key=lambda manifest: manifest.created_at, default=None)
    if newest is None:
        sentence = f"there is no {what} backup; the newest may be {hours:g} hours old"
        magnitude = NOTHING_AT_ALL
    else:
        age = now - newest.created_at
        if age <= timedelta(hours=hours):
            return
        sentence = f"the newest {what} backup is {written(age)} old, {hours:g} hours are allowed: {newest.id}"
        magnitude = round(age / timedelta(hours=hours), 3)
    yield Finding(
        key=f"rpo:{what}",
        database=database,
        severity="critical",
        sentence=sentence,
        remedy=remedy,
        magnitude=magnitude,
    )


def newest_proof(database: str, entries: Sequence[CatalogEntry], *, rto_minutes: float | None) -> Iterator[Finding]:
    """What the newest proofs showed, and how long the newest restore took.

    As for pruning (`include.backup.halt`), an incomplete proof does not answer a failed one.
    """
    tried = sorted(
        (entry.proof.proved_at, entry.manifest.id, entry.proof)
        for entry in entries
        if entry.proof is not None and entry.verdict is not None
    )
    concluded = [proof for _, _, proof in tried if proof.verdict != "incomplete"]
    if concluded and concluded[-1].verdict == "failed":
        yield Finding(
            key="proof:failed",
            database=database,
            severity="critical",
            sentence=f"{concluded[-1].backup} was restored and is not what was dumped: {_doubts(concluded[-1])}",
            remedy="read its certificate, then trigger backup_daily: the new backup is proved by itself. Until then "
            "restore from an older, proved one",
        )
    if not tried:
        return
    newest = tried[-1][2]
    if newest.verdict == "incomplete":
        yield Finding(
            key="proof:incomplete",
            database=database,
            severity="warning",
            sentence=f"{newest.backup} was restored, but not all of it could be compared: {_doubts(newest)}",
            remedy="supply what its certificate says was missing, then trigger backup_prove for it",
        )
    if rto_minutes is not None and newest.rto_seconds > rto_minutes * 60:
        yield Finding(
            key="rto",
            database=database,
            severity="warning",
            sentence=f"bringing back {newest.backup} took {written(timedelta(seconds=newest.rto_seconds))} (fetch and "
            f"restore), {rto_minutes:g} minutes are allowed",
            remedy="give the restore more jobs or the proving ground faster disks, or allow more under "
            "`proof.rto_minutes`",
            magnitude=round(newest.rto_seconds / (rto_minutes * 60), 3),
        )


def _doubts(proof: Proof) -> str:
    return some_of(
        [
            f"{check.name} ({some_of(check.findings)})" if check.findings else check.name
            for check in proof.checks
            if check.outcome in {"differs", "not checked"}
        ]
    )


def damaged(database: str, entries: Iterable[CatalogEntry]) -> Iterator[Finding]:
    """Backups whose last reading showed something else than was written."""
    for entry in entries:
        reading, manifest = entry.verification, entry.manifest
        if (
            reading is not None
            and reading.failure is not None
            and (reading.backup, reading.sha256) == (manifest.id, manifest.sha256)
        ):
            yield Finding(
                key=f"damaged:{manifest.id}",
                database=database,
                severity="critical",
                sentence=f"{manifest.id} is damaged, its reading of {reading.verified_at:%Y-%m-%d %H:%M} UTC showed: "
                f"{reading.failure}",
                remedy="find out what the store did to it; if it was the newest, trigger backup_daily now. "
                f"`python -m include.cli verify {manifest.id}` reads it once more",
            )


def anomalies(database: str, odd: Iterable[anomaly.Anomaly]) -> Iterator[Finding]:
    """Losses that nobody has explained."""
    for each in odd:
        yield Finding(
            key=f"anomaly:{each.subject}",
            database=database,
            severity="critical",
            sentence=each.sentence,
            remedy=each.remedy,
            magnitude=round(each.before / max(each.after, 1), 3),
        )


def unreadable(database: str, manifests: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Manifests that cannot be understood."""
    for key, reason in manifests:
        yield Finding(
            key=f"unreadable:{key}",
            database=database,
            severity="warning",
            sentence=f"{reason}; its backup counts for nothing",
            remedy="if a newer version wrote it, update this one; else docs/restore.md shows how to use the archive "
            "beside it by hand",
        )


def retention_stopped(database: str, found: Sequence[Finding], reasons: str | None) -> Iterator[Finding]:
    """Pruning that stopped itself: nothing is lost by it, but the store fills up.

    Args:
        database: the configured name.
        found: what else was found: a reason that stands there is not told at length again.
        reasons: as `include.backup.halt.why_halted` gives them.
    """
    if reasons is not None:
        keys = [finding.key for finding in found]
        known = [cause for begin, cause in _HALTS.items() if any(key.startswith(begin) for key in keys)]
        yield Finding(
            key="retention",
            database=database,
            severity="warning",
            sentence=f"pruning of this database has stopped itself: {', '.join(known) or reasons}",
            remedy="settle that; until then mind the room in the store",
        )


def _moments(entry: CatalogEntry) -> Iterator[datetime]:
    yield from (entry.manifest.created_at, entry.manifest.finished_at)
    if entry.verification is not None:
        yield entry.verification.verified_at
    if entry.proof is not None:
        yield entry.proof.proved_at
