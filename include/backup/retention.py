"""Which backups may go: the rule, decided as a pure function over the catalog.

The rule, for one database, each tier by itself:

1. A backup is *good* when its newest verification succeeded and was of this very archive (sha256). Only good
   backups count for anything below.
2. The newest good backup of a day (daily), ISO week (weekly) or month (monthly), in UTC, fills that period's slot.
   The newest N filled periods are kept. Only periods that hold a good backup are counted, so a month of failures
   costs nothing. Every good pre-migration backup is a period of its own.
3. An earlier good backup of the same period is kept until the period is over, then goes: the newest one is the
   state that the period ended with, and while the period lasts somebody may just have made an extra one for a
   purpose and still want what was before.
4. A backup that is not good fills no slot. It is kept for a day in any case (its verification may be under way, or a
   person may want to look), for as long as no newer good one is in its tier, and for as long as the tier has
   fewer filled slots than promised.
5. A backup marked `keep_forever` is kept and fills no slot.
6. Where any date lies in the future, some clock is or was wrong, and nothing of this database goes.

Since every N is at least 1, the newest good backup of a tier, and so of a database, can never be dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Literal

from include.backup.model import STAMP_FORMAT, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from include.backup.model import BackupId, CatalogEntry

GRACE = timedelta(hours=24)
CLOCK_SKEW = timedelta(minutes=5)  # two workers' clocks may differ by this much without anything being wrong

# What a period is called and how it is written; the written forms sort in time's order.
_PERIODS = {
    Tier.DAILY: ("day", "%Y-%m-%d"),
    Tier.WEEKLY: ("week", "%G-W%V"),
    Tier.MONTHLY: ("month", "%Y-%m"),
    Tier.PRE_MIGRATION: ("migration", STAMP_FORMAT),
}


@dataclass(frozen=True)
class Policy:
    """How many periods of each tier keep a good backup; pre-migration backups are counted one by one.

    Args:
        daily: days.
        weekly: ISO weeks.
        monthly: months.
        pre_migration: backups.

    Raises:
        ValueError: a number is below 1.
    """

    daily: int = 7
    weekly: int = 4
    monthly: int = 6
    pre_migration: int = 5

    def __post_init__(self) -> None:
        for tier in Tier:
            if self.slots(tier) < 1:
                raise ValueError(f"retention of {tier} backups is {self.slots(tier)}; allowed is 1 or more")

    def slots(self, tier: Tier) -> int:
        """The number of periods that keep a good backup in `tier`."""
        return {
            Tier.DAILY: self.daily,
            Tier.WEEKLY: self.weekly,
            Tier.MONTHLY: self.monthly,
            Tier.PRE_MIGRATION: self.pre_migration,
        }[tier]


@dataclass(frozen=True)
class Decision:
    """What becomes of one backup.

    Args:
        backup: which.
        action: `keep` or `drop`.
        reason: why, in words.
        slot: the slot it fills, e.g. `daily 3 of 7`, or None.
        sha256: of the archive this was decided for.
        bytes: size of the archive.
    """

    backup: BackupId
    action: Literal["keep", "drop"]
    reason: str
    slot: str | None
    sha256: str
    bytes: int


@dataclass(frozen=True)
class RetentionPlan:
    """A decision for every backup of one database.

    Args:
        decisions: by tier, the newest first.
        stopped: why nothing at all may go although the rule might allow it, or None.
    """

    decisions: tuple[Decision, ...]
    stopped: str | None = None

    @property
    def drops(self) -> tuple[Decision, ...]:
        """The backups to remove."""
        return tuple(decision for decision in self.decisions if decision.action == "drop")

    @property
    def keeps(self) -> tuple[Decision, ...]:
        """The backups to keep."""
        return tuple(decision for decision in self.decisions if decision.action == "keep")


def plan(entries: Sequence[CatalogEntry], policy: Policy, *, now: datetime) -> RetentionPlan:
    """Decide what becomes of each backup of one database. Pure: reads no clock and no store.

    Args:
        entries: the whole catalog of one database, in any order.
        policy: how much to keep.
        now: timezone-aware.

    Returns:
        A decision for every entry.

    Raises:
        ValueError: entries of several databases, one backup twice, or a `now` without time zone.
    """
    if now.utcoffset() is None:
        raise ValueError("now has no time zone")
    databases = sorted({entry.manifest.database for entry in entries})
    if len(databases) > 1:
        raise ValueError(f"a retention plan is for one database, not {', '.join(databases)}")
    if len({entry.backup_id for entry in entries}) < len(entries):
        raise ValueError("a backup is listed twice; one of them would seem superseded by the other")

    newest_first = sorted(entries, key=lambda entry: (entry.manifest.created_at, entry.manifest.id), reverse=True)
    stopped = _why_stopped(newest_first, now)
    decisions: list[Decision] = []
    for tier in Tier:
        of_tier = [entry for entry in newest_first if entry.manifest.tier == tier]
        if stopped is None:
            decisions += _plan_tier(of_tier, tier, slots=policy.slots(tier), now=now)
        else:
            decisions += [_decision(entry, "keep", "nothing of this database is dropped now") for entry in of_tier]
    return RetentionPlan(decisions=tuple(decisions), stopped=stopped)


def _why_stopped(entries: Sequence[CatalogEntry], now: datetime) -> str | None:
    for entry in entries:
        times = [entry.manifest.created_at, entry.manifest.finished_at]
        if entry.verification is not None:
            times.append(entry.verification.verified_at)
        latest = max(times)
        if latest > now + CLOCK_SKEW:
            return (
                f"{entry.backup_id} or its verification is dated {_written(latest)}, but now it is {_written(now)}: "
                "a clock is or was wrong, so ages mean nothing, and nothing is dropped until that time has come"
            )
    return None


def _plan_tier(entries: Sequence[CatalogEntry], tier: Tier, *, slots: int, now: datetime) -> list[Decision]:
    newest_good: dict[str, CatalogEntry] = {}
    for entry in entries:
        if entry.good and not entry.manifest.keep_forever:
            newest_good.setdefault(_period(tier, entry.manifest.created_at), entry)
    fillers = {period: newest_good[period] for period in sorted(newest_good, reverse=True)[:slots]}
    decisions: list[Decision] = []
    for entry in entries:
        if entry.manifest.keep_forever:
            decisions.append(_decision(entry, "keep", "it is marked to be kept for ever; it fills no slot"))
        elif entry.good:
            decisions.append(_decide_good(entry, fillers, slots=slots, now=now))
        else:
            decisions.append(_decide_doubtful(entry, fillers, slots=slots, now=now))
    return decisions


def _decide_good(entry: CatalogEntry, fillers: Mapping[str, CatalogEntry], *, slots: int, now: datetime) -> Decision:
    tier = entry.manifest.tier
    unit, _ = _PERIODS[tier]
    period = _period(tier, entry.manifest.created_at)
    if period not in fillers:
        return _decision(
            entry, "drop", f"good, but {slots} newer {unit}s have a good backup each, which is all that is promised"
        )
    if fillers[period] is entry:
        slot = f"{tier} {list(fillers).index(period) + 1} of {slots}"
        return _decision(entry, "keep", f"the newest good backup of {unit} {period}", slot)
    newer = _written(fillers[period].manifest.created_at)
    if period >= _period(tier, now):
        return _decision(entry, "keep", f"good; the one of {newer} is newer, but {unit} {period} is not over yet")
    return _decision(entry, "drop", f"good, but {unit} {period} is over and keeps its newest good backup, of {newer}")


def _decide_doubtful(
    entry: CatalogEntry, fillers: Mapping[str, CatalogEntry], *, slots: int, now: datetime
) -> Decision:
    unit, _ = _PERIODS[entry.manifest.tier]
    verification = entry.verification
    if verification is None or (verification.backup, verification.sha256) != (entry.manifest.id, entry.manifest.sha256):
        state = "not verified"
    else:
        state = f"its verification failed ({verification.failure})"
    if now - entry.manifest.finished_at < GRACE:
        return _decision(entry, "keep", f"{state}, but made less than {GRACE // timedelta(hours=1)} hours ago")
    if len(fillers) < slots:
        return _decision(
            entry, "keep", f"{state}, but only {len(fillers)} of {slots} promised {unit}s have a good backup"
        )
    newest = next(iter(fillers.values()))
    if newest.manifest.created_at < entry.manifest.created_at:
        return _decision(entry, "keep", f"{state}, but there is no newer good backup in this tier")
    return _decision(
        entry, "drop", f"{state}, a newer one is good, and all {slots} promised {unit}s have a good backup"
    )


def _decision(entry: CatalogEntry, action: Literal["keep", "drop"], reason: str, slot: str | None = None) -> Decision:
    return Decision(
        backup=entry.backup_id,
        action=action,
        reason=reason,
        slot=slot,
        sha256=entry.manifest.sha256,
        bytes=entry.manifest.bytes,
    )


def _period(tier: Tier, moment: datetime) -> str:
    _, form = _PERIODS[tier]
    return moment.astimezone(UTC).strftime(form)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
