"""Retention against chance: any catalog, and hundreds of days of a scheduler to which everything happens.

The expectations are written down a second time here, from the rule and not from the code: `must_stay` for one plan,
and what the store may and must hold for the long run.
"""

from __future__ import annotations

import random
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.backup.model import Tier
from include.backup.prune import apply
from include.backup.retention import Policy, plan
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.backup.sweep import sweep
from tests.backup.retention_world import NOW, MemoryStore, State, catalog, entry, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.backup.model import CatalogEntry

STATES: tuple[State, ...] = ("good", "good", "good", "unverified", "failed", "verified as another object")
DAY = timedelta(days=1)
START = datetime(2025, 11, 20, tzinfo=UTC)

policies = st.builds(Policy, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def period(tier: Tier, created: datetime) -> tuple[int, ...]:
    return {
        Tier.DAILY: (created.toordinal(),),
        Tier.WEEKLY: tuple(created.isocalendar())[:2],
        Tier.MONTHLY: (created.year, created.month),
        Tier.PRE_MIGRATION: (int(created.timestamp()),),
    }[tier]


@st.composite
def catalogs(draw: st.DrawFn) -> list[CatalogEntry]:
    """Up to 24 backups of the last 45 days, two thirds of them in one tier, so that periods collide."""
    names = draw(
        st.lists(
            st.tuples(st.sampled_from([Tier.DAILY, Tier.DAILY, Tier.DAILY, *Tier]), st.integers(1, 24 * 45)),
            unique=True,
            max_size=24,
        )
    )
    return [
        entry(
            NOW - timedelta(hours=hours),
            tier,
            state=draw(st.sampled_from(STATES)),
            pinned=draw(st.sampled_from([False] * 7 + [True])),
        )
        for tier, hours in names
    ]


def must_stay(one: CatalogEntry, entries: Iterable[CatalogEntry], policy: Policy) -> bool:
    tier, created = one.manifest.tier, one.manifest.created_at
    good = {
        other.manifest.created_at
        for other in entries
        if other.good and not other.manifest.keep_forever and other.manifest.tier == tier
    }
    newer = {moment for moment in good if moment > created}
    if one.manifest.keep_forever:
        return True
    if one.good:
        mine = period(tier, created)
        promised = len({period(tier, moment) for moment in newer} - {mine}) < policy.slots(tier)
        superseded = mine in {period(tier, moment) for moment in newer}
        return promised and (not superseded or mine == period(tier, NOW))
    unfulfilled = len({period(tier, moment) for moment in good}) < policy.slots(tier)
    return NOW - one.manifest.finished_at < DAY or unfulfilled or not newer


@settings(deadline=None, max_examples=250)
@given(catalogs(), policies)
def test_whatever_the_catalog_holds_the_rule_decides_it_to_the_letter(
    entries: list[CatalogEntry], policy: Policy
) -> None:
    decided = plan(entries, policy, now=NOW)
    assert {one.backup for one in decided.keeps} == {
        one.backup_id for one in entries if must_stay(one, entries, policy)
    }
    assert len(decided.decisions) == len(entries)
    assert plan(entries[::-1], policy, now=NOW) == decided


@settings(deadline=None, max_examples=80)
@given(catalogs(), policies)
def test_whatever_the_catalog_holds_a_tier_is_decided_as_if_it_were_alone(
    entries: list[CatalogEntry], policy: Policy
) -> None:
    together = plan(entries, policy, now=NOW).decisions
    alone = [
        decision
        for tier in Tier
        for decision in plan([one for one in entries if one.manifest.tier == tier], policy, now=NOW).decisions
    ]
    assert list(together) == alone


@settings(deadline=None, max_examples=80)
@given(catalogs(), policies, st.integers(0, 400))
def test_whatever_the_catalog_holds_one_date_in_the_future_keeps_all_of_it(
    entries: list[CatalogEntry], policy: Policy, hours: int
) -> None:
    ahead = entry(NOW + timedelta(minutes=6, hours=hours), Tier.MONTHLY, state="unverified")
    decided = plan([*entries, ahead], policy, now=NOW)
    assert decided.drops == ()
    assert decided.stopped is not None


@settings(deadline=None, max_examples=10)
@given(catalogs(), policies)
def test_in_a_real_folder_exactly_what_the_plan_shows_is_removed(entries: list[CatalogEntry], policy: Policy) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        objects = {one.backup_id: write(store, one, proof=one.good) for one in entries}
        decided = plan(catalog(store), policy, now=NOW)
        removals = apply(decided, store)
        assert {removal.backup: set(removal.keys) for removal in removals} == {
            drop.backup: objects[drop.backup] for drop in decided.drops
        }
        assert {found.key for found in store.list()} == set().union(*(objects[keep.backup] for keep in decided.keeps))
        assert plan(catalog(store), policy, now=NOW).drops == ()


@dataclass
class Odds:
    """How likely a thing is, a day or a run."""

    missed: float
    not_good: float
    extra: float
    pin: float
    rot: float
    clock: float
    prune: float
    die: float


chances = st.sampled_from([0.0, 0.05, 0.3])
odds = st.builds(
    Odds,
    missed=st.sampled_from([0.0, 0.1, 0.6]),
    not_good=st.sampled_from([0.0, 0.1, 0.6]),
    extra=st.sampled_from([0.0, 0.2, 0.9]),
    pin=st.sampled_from([0.0, 0.03]),
    rot=chances,
    clock=st.sampled_from([0.0, 0.0, 0.05]),
    prune=st.sampled_from([0.1, 0.5, 1.0]),
    die=chances,
)


@dataclass
class World:
    """One database, its scheduler and its store; `known` is the truth that the plan only sees through the store."""

    policy: Policy
    odds: Odds
    chance: random.Random
    skew: timedelta = timedelta()
    exact: bool = False  # good backups stay good and unpinned, so that all periods that ever had one can be counted
    memory: MemoryStore = field(default_factory=MemoryStore)
    known: dict[str, CatalogEntry] = field(default_factory=dict)
    ever_good: dict[Tier, set[tuple[int, ...]]] = field(default_factory=lambda: {tier: set() for tier in Tier})
    prunes: int = 0
    removed: int = 0
    stops: int = 0
    deaths: int = 0

    def happens(self, chance: float) -> bool:
        return self.chance.random() < chance

    def day(self, midnight: datetime) -> None:
        if self.happens(self.odds.clock):
            self.skew = timedelta(hours=self.chance.randint(-80, 80))
        elif self.happens(0.3):
            self.skew = timedelta()
        runs = [(2, Tier.DAILY)]
        runs += [(3, Tier.WEEKLY)] if midnight.weekday() == 6 else []
        runs += [(4, Tier.MONTHLY)] if midnight.day == 1 else []
        runs += [(5, Tier.PRE_MIGRATION)] if midnight.toordinal() % 5 == 0 else []
        for hour, tier in runs:
            if not self.happens(self.odds.missed):
                self.back_up(midnight + timedelta(hours=hour), tier)
        if self.happens(self.odds.extra):
            self.back_up(midnight + timedelta(hours=self.chance.randint(6, 12)), self.chance.choice(list(Tier)))
        if self.happens(self.odds.prune):
            self.prune(midnight + timedelta(hours=self.chance.randint(13, 20)))
        self.change_a_verification()
        if self.happens(0.1):
            self.sweep(midnight + timedelta(hours=21))
        if self.happens(self.odds.prune):
            self.prune(midnight + timedelta(hours=22))

    def back_up(self, moment: datetime, tier: Tier) -> None:
        """A backup; or one that dies before its manifest; or one that is not good."""
        self.memory.now = moment + self.skew
        state = self.chance.choice(STATES[3:]) if self.happens(self.odds.not_good) else "good"
        made = entry(moment + self.skew, tier, state=state, pinned=self.happens(self.odds.pin))
        stem = made.backup_id.stem
        if any(key.startswith(stem) for key in self.memory.objects):
            return  # the store refuses a name that is taken
        if self.happens(self.odds.die):
            self.memory.put(made.backup_id.dump_key, b"part")
            return
        self.known[stem] = made
        write(self.memory.store, made, proof=self.happens(0.3))
        self.note_good()

    def change_a_verification(self) -> None:
        """A late verification, a bit that flipped, or a pin set by hand."""
        for stem, made in list(self.known.items()):
            late = made.verification is None and self.happens(0.2)
            rotten = made.good and self.happens(self.odds.rot / 10)
            pinned = made.manifest.keep_forever or self.happens(self.odds.pin / 30)
            if late or rotten or pinned != made.manifest.keep_forever:
                state: State = "failed" if rotten else "good" if late or made.good else "failed"
                created, tier = made.manifest.created_at, made.manifest.tier
                self.known[stem] = entry(created, tier, state=state, pinned=pinned)
                write(self.memory.store, self.known[stem])
        self.note_good()

    def note_good(self) -> None:
        for tier in Tier:
            self.ever_good[tier] |= self.periods(tier)

    def unpinned_good(self, tier: Tier) -> dict[str, datetime]:
        return {
            stem: made.manifest.created_at
            for stem, made in self.known.items()
            if made.good and made.manifest.tier == tier and not made.manifest.keep_forever
        }

    def periods(self, tier: Tier) -> set[tuple[int, ...]]:
        return {period(tier, created) for created in self.unpinned_good(tier).values()}

    def prune(self, moment: datetime) -> None:
        now = moment + self.skew
        entries = catalog(self.memory.store)
        decided = plan(entries, self.policy, now=now)
        assert plan(list(reversed(entries)), self.policy, now=now) == decided
        drops = {decision.backup.stem for decision in decided.drops}
        newest = {tier: max(self.unpinned_good(tier).values(), default=None) for tier in Tier}
        periods = {tier: self.periods(tier) for tier in Tier}
        pins = {stem for stem, made in self.known.items() if made.manifest.keep_forever}

        if self.happens(self.odds.die):
            self.memory.deletions_left = self.chance.randint(0, 6)
        died = False
        try:
            apply(decided, self.memory.store)
        except StoreError:
            died = True
        self.memory.deletions_left = None

        left = {one.manifest.id for one in catalog(self.memory.store)}
        gone = set(self.known) - left
        assert gone <= drops if died else gone == drops
        self.known = {stem: made for stem, made in self.known.items() if stem in left}
        self.prunes, self.removed = self.prunes + 1, self.removed + len(gone)
        self.stops, self.deaths = self.stops + (decided.stopped is not None), self.deaths + died

        assert pins <= left
        for stem in left:
            assert f"{stem}.dump" in self.memory.objects
        for tier in Tier:
            promised = self.policy.slots(tier)
            assert max(self.unpinned_good(tier).values(), default=None) == newest[tier]
            assert self.periods(tier) >= set(sorted(periods[tier])[-promised:])
            if self.exact:
                assert len(self.periods(tier)) >= min(promised, len(self.ever_good[tier]))
        if max((made.manifest.created_at for made in self.known.values()), default=now) > now + timedelta(minutes=5):
            assert gone == set()
        if not died:
            assert plan(catalog(self.memory.store), self.policy, now=now).drops == ()
            if decided.stopped is None:
                self.check_bounds(now)

    def check_bounds(self, now: datetime) -> None:
        """Beyond what is promised only what is pinned, of a period that is not over, young, or still needed."""
        for tier in Tier:
            good = self.unpinned_good(tier)
            current = [moment for moment in good.values() if period(tier, moment) == period(tier, now)]
            assert len(good) <= self.policy.slots(tier) + max(0, len(current) - 1)
            if len(self.periods(tier)) == self.policy.slots(tier):
                newest = max(good.values())
                for made in self.known.values():
                    if made.manifest.tier == tier and not made.good and not made.manifest.keep_forever:
                        created = made.manifest.created_at
                        assert created > newest or now - made.manifest.finished_at < DAY

    def sweep(self, moment: datetime) -> None:
        before = set(self.known)
        with suppress(StoreError):
            sweep(self.memory.store, "hotel", now=moment + self.skew, dry_run=False)
        assert {one.manifest.id for one in catalog(self.memory.store)} == before
        assert all(f"{stem}.dump" in self.memory.objects for stem in before)


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(policies, odds, st.integers(0, 2**32), st.integers(60, 150))
def test_in_hundreds_of_days_of_mishaps_no_promise_is_broken_and_rubbish_does_not_pile_up(
    policy: Policy, odds: Odds, seed: int, days: int
) -> None:
    world = World(policy, odds, random.Random(seed), exact=odds.rot == odds.pin == 0)
    for day in range(days):
        world.day(START + day * DAY)

    # Then all goes well until every slot can be filled again.
    world.odds, world.skew = Odds(0, 0, 0, 0, 0, 0, 1, 0), timedelta()
    for day in range(days, days + 10 + 31 * policy.monthly):
        world.day(START + day * DAY)
    end = START + (days + 20 + 31 * policy.monthly) * DAY
    world.prune(end)
    world.sweep(end)
    for tier in Tier:
        made = [one for one in world.known.values() if one.manifest.tier == tier and not one.manifest.keep_forever]
        assert len(made) == policy.slots(tier)
        assert all(one.good for one in made)
    assert {key.split(".")[0] for key in world.memory.objects} == set(world.known)


def test_the_mishaps_do_happen() -> None:
    """The test above proves nothing if no prune removes, stops or dies."""
    world = World(Policy(3, 2, 1, 2), Odds(0.1, 0.1, 0.2, 0.03, 0.05, 0.05, 0.5, 0.3), random.Random(1))
    for day in range(120):
        world.day(START + day * DAY)
    assert world.prunes > 100
    assert world.removed > 100
    assert world.stops > 3
    assert world.deaths > 10
