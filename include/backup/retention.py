"""Which backups may go: the rule, decided as a pure function over the catalog.

The rule, for one database, each tier by itself:

1. A backup is *good* when its newest verification succeeded and was of this very archive (sha256), and no proof of
   it has failed. It is *proved* when it has been restored to exactly what was dumped. Only good backups count for
   anything below.
2. The newest proved backup of a day (daily), ISO week (weekly) or month (monthly), in UTC, fills that period's slot;
   where none is proved, the newest good one stands in. Every good pre-migration backup is a period of its own. Two
   sets of periods are kept: the newest N that hold a good backup, and the newest N that hold a proved one. Mostly
   these are the same; while proofs fail to come, the second keeps what was proved last. Periods that hold
   neither are not counted, so a month of failures costs nothing.
3. Another good backup of such a period is kept until the period is over, then goes: the one that stays is the state
   that the period ended with, and while the period lasts somebody may just have made an extra one for a purpose
   and still want what was before. One that is newer than the proved one is kept for a day besides, since its
   proof may be under way, and for as long as its tier has no newer good one.
4. A backup that is not good fills no slot. It is kept for a day in any case (its verification may be under way, or a
   person may want to look), for as long as no newer good one is in its tier, and for as long as the tier has
   fewer filled slots than promised.
5. A backup marked `keep_forever` is kept and fills no slot.
6. Nothing of this database goes while the newest proof that came to a conclusion is a failed one, while a loss of
   data is unexplained (`include.backup.anomaly`), or where any date lies in the future (`include.backup.halt`).

Since every N is at least 1, neither the newest good backup of a tier nor its newest proved one can ever be dropped,
and so neither can those of a database. A tier without proofs loses and keeps what it would if there were none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Literal

from include.backup.halt import differing, why_halted, written
from include.backup.model import STAMP_FORMAT, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from include.backup.anomaly import Anomaly
    from include.backup.certificate import Verdict
    from include.backup.model import BackupId, CatalogEntry

GRACE = timedelta(hours=24)

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
        slot: the slot it fills, or None: `daily 3 of 7`; in a tier that has proofs `daily 3 of 7, proved` or
            `daily 3 of 7, verified`, and `daily, proved 3 of 7` for one that is kept for its proof alone.
        verdict: of its proof when this was decided.
        sha256: of the archive this was decided for.
        bytes: size of the archive.
    """

    backup: BackupId
    action: Literal["keep", "drop"]
    reason: str
    slot: str | None
    verdict: Verdict | None
    sha256: str
    bytes: int


@dataclass(frozen=True)
class RetentionPlan:
    """A decision for every backup of one database.

    Args:
        decisions: by tier, the newest first.
        stopped: why nothing at all may go although the rule might allow it, a line for each reason, or None.
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


def plan(
    entries: Sequence[CatalogEntry], policy: Policy, *, now: datetime, anomalies: Sequence[Anomaly] = ()
) -> RetentionPlan:
    """Decide what becomes of each backup of one database. Pure: reads no clock and no store.

    Args:
        entries: the whole catalog of one database, in any order.
        policy: how much to keep.
        now: timezone-aware.
        anomalies: what `include.backup.anomaly.anomalies` found in these entries.

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
    stopped = why_halted(newest_first, anomalies, now=now)
    decisions: list[Decision] = []
    for tier in Tier:
        of_tier = [entry for entry in newest_first if entry.manifest.tier == tier]
        if stopped is None:
            decisions += _plan_tier(of_tier, tier, promised=policy.slots(tier), now=now)
        else:
            decisions += [_decision(entry, "keep", "nothing of this database is dropped now") for entry in of_tier]
    return RetentionPlan(decisions=tuple(decisions), stopped=stopped)


@dataclass(frozen=True)
class _Slots:
    """Who fills which slot of one tier; periods are in order, the newest first.

    Args:
        tier: which.
        promised: N of the policy.
        fillers: by period, of every period that is kept.
        good: the newest N periods that hold a good backup.
        proved: the newest N periods that hold a proved one.
        newest: the newest good backup of the tier.
    """

    tier: Tier
    promised: int
    fillers: dict[str, CatalogEntry]
    good: list[str]
    proved: list[str]
    newest: CatalogEntry | None

    @property
    def unit(self) -> str:
        return _PERIODS[self.tier][0]


def _fill(entries: Sequence[CatalogEntry], tier: Tier, promised: int) -> _Slots:
    newest_good: dict[str, CatalogEntry] = {}
    newest_proved: dict[str, CatalogEntry] = {}
    for entry in entries:
        if entry.good and not entry.manifest.keep_forever:
            period = _period(tier, entry.manifest.created_at)
            newest_good.setdefault(period, entry)
            if entry.proved:
                newest_proved.setdefault(period, entry)
    good = sorted(newest_good, reverse=True)[:promised]
    proved = sorted(newest_proved, reverse=True)[:promised]
    return _Slots(
        tier=tier,
        promised=promised,
        fillers={
            period: newest_proved.get(period, newest_good[period]) for period in sorted({*good, *proved}, reverse=True)
        },
        good=good,
        proved=proved,
        newest=newest_good[good[0]] if good else None,
    )


def _plan_tier(entries: Sequence[CatalogEntry], tier: Tier, *, promised: int, now: datetime) -> list[Decision]:
    slots = _fill(entries, tier, promised)
    decisions: list[Decision] = []
    for entry in entries:
        if entry.manifest.keep_forever:
            decisions.append(_decision(entry, "keep", "it is marked to be kept for ever; it fills no slot"))
        elif not entry.good:
            decisions.append(_decide_doubtful(entry, slots, now=now))
        elif slots.fillers.get(_period(tier, entry.manifest.created_at)) is entry:
            decisions.append(_keep_filler(entry, slots))
        else:
            decisions.append(_decide_other_good(entry, slots, now=now))
    return decisions


def _keep_filler(entry: CatalogEntry, slots: _Slots) -> Decision:
    tier, unit, promised = slots.tier, slots.unit, slots.promised
    period = _period(tier, entry.manifest.created_at)
    if period not in slots.good:
        number = slots.proved.index(period) + 1
        return _decision(
            entry,
            "keep",
            f"the newest proved backup of {unit} {period}; it stays until {promised} newer {unit}s have a proved one",
            f"{tier}, proved {number} of {promised}",
        )
    slot = f"{tier} {slots.good.index(period) + 1} of {promised}"
    if entry.proved:
        return _decision(entry, "keep", f"the newest proved backup of {unit} {period}", f"{slot}, proved")
    reason = f"the newest good backup of {unit} {period}"
    if slots.proved:
        return _decision(entry, "keep", f"{reason}; verified, it stands in until a proof", f"{slot}, verified")
    return _decision(entry, "keep", reason, slot)


def _decide_other_good(entry: CatalogEntry, slots: _Slots, *, now: datetime) -> Decision:
    unit = slots.unit
    period = _period(slots.tier, entry.manifest.created_at)
    if period not in slots.fillers:
        state = "proved" if entry.proved else "good"
        return _decision(
            entry,
            "drop",
            f"{state}, but {slots.promised} newer {unit}s have a {state} backup each, which is all that is promised",
        )
    filler = slots.fillers[period]
    of = written(filler.manifest.created_at)
    if period >= _period(slots.tier, now):
        other = f"the proved one of {of} fills the slot" if filler.proved else f"the one of {of} is newer"
        return _decision(entry, "keep", f"good; {other}, but {unit} {period} is not over yet")
    if filler.manifest.created_at < entry.manifest.created_at:
        if entry is slots.newest:
            return _decision(entry, "keep", f"the newest good backup of this tier, though only that of {of} is proved")
        if now - entry.manifest.finished_at < GRACE:
            return _decision(
                entry, "keep", f"good; the proved one of {of} fills the slot, but the proof of this may be under way"
            )
    best = "proved" if filler.proved else "good"
    return _decision(entry, "drop", f"good, but {unit} {period} is over and keeps its newest {best} backup, of {of}")


def _decide_doubtful(entry: CatalogEntry, slots: _Slots, *, now: datetime) -> Decision:
    unit, promised = slots.unit, slots.promised
    verification = entry.verification
    if verification is None or (verification.backup, verification.sha256) != (entry.manifest.id, entry.manifest.sha256):
        state = "not verified"
    elif verification.failure is not None:
        state = f"its verification failed ({verification.failure})"
    else:
        state = f"its restore failed ({differing(entry)})"
    if now - entry.manifest.finished_at < GRACE:
        return _decision(entry, "keep", f"{state}, but made less than {GRACE // timedelta(hours=1)} hours ago")
    if slots.newest is None or len(slots.good) < promised:
        return _decision(
            entry, "keep", f"{state}, but only {len(slots.good)} of {promised} promised {unit}s have a good backup"
        )
    if slots.newest.manifest.created_at < entry.manifest.created_at:
        return _decision(entry, "keep", f"{state}, but there is no newer good backup in this tier")
    return _decision(
        entry, "drop", f"{state}, a newer one is good, and all {promised} promised {unit}s have a good backup"
    )


def _decision(entry: CatalogEntry, action: Literal["keep", "drop"], reason: str, slot: str | None = None) -> Decision:
    return Decision(
        backup=entry.backup_id,
        action=action,
        reason=reason,
        slot=slot,
        verdict=entry.verdict,
        sha256=entry.manifest.sha256,
        bytes=entry.manifest.bytes,
    )


def _period(tier: Tier, moment: datetime) -> str:
    _, form = _PERIODS[tier]
    return moment.astimezone(UTC).strftime(form)
