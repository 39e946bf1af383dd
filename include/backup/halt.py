"""When nothing of a database may be removed although the rule of retention would allow it."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from include.backup.anomaly import Anomaly
    from include.backup.model import CatalogEntry

CLOCK_SKEW = timedelta(minutes=5)  # two workers' clocks may differ by this much without anything being wrong


def why_halted(entries: Sequence[CatalogEntry], anomalies: Sequence[Anomaly], *, now: datetime) -> str | None:
    """Every reason not to prune this database now, each on a line of its own with its remedy, or None. Pure.

    Args:
        entries: its catalog; of several dates in the future the first one's is named.
        anomalies: those of its losses that nobody has explained.
        now: timezone-aware.
    """
    reasons = [_clock(entries, now), _failed_proof(entries), *map(_unexplained, anomalies)]
    return "\n".join(reason for reason in reasons if reason is not None) or None


def differing(entry: CatalogEntry) -> str:
    """The names of the checks that a failed proof found to differ."""
    checks = entry.proof.checks if entry.proof is not None else ()
    return ", ".join(check.name for check in checks if check.outcome == "differs")


def written(moment: datetime) -> str:
    """A moment as it stands in reasons."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock(entries: Sequence[CatalogEntry], now: datetime) -> str | None:
    for entry in entries:
        times = [entry.manifest.created_at, entry.manifest.finished_at]
        if entry.verification is not None:
            times.append(entry.verification.verified_at)
        if entry.proof is not None:
            times.append(entry.proof.proved_at)
        if entry.acceptance is not None:
            times.append(entry.acceptance.accepted_at)
        latest = max(times)
        if latest > now + CLOCK_SKEW:
            return (
                f"{entry.backup_id} or a record of it is dated {written(latest)}, but now it is {written(now)}: a "
                "clock is or was wrong, so ages mean nothing, and nothing is dropped until that time has come"
            )
    return None


def _failed_proof(entries: Sequence[CatalogEntry]) -> str | None:
    """An incomplete proof shows nothing to the contrary, so it neither stops pruning nor answers a failed one."""
    concluded = [
        (entry.proof.proved_at, entry.verdict == "failed", entry.manifest.id, entry)
        for entry in entries
        if entry.proof is not None and entry.verdict in {"proved", "failed"}
    ]
    if not concluded:
        return None
    proved_at, failed, backup, entry = max(concluded, key=lambda proof: proof[:3])
    if not failed:
        return None
    return (
        f"the newest proof of this database failed, that of {backup} on {written(proved_at)} ({differing(entry)}). "
        f"Nothing is dropped until a backup has been proved again: read {entry.backup_id.proof_key}, mend the cause, "
        f"then `python -m include.cli prove {backup}`, or prove a newer one"
    )


def _unexplained(anomaly: Anomaly) -> str:
    return f"{anomaly.sentence}, and nobody has explained it, so nothing is dropped. {anomaly.remedy}"
