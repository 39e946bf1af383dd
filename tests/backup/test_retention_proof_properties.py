"""Retention with proofs, against chance; the rule is written down a second time here, from docs/retention.md."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from include.backup.anomaly import anomalies
from include.backup.model import Tier
from include.backup.options import MonitorOptions
from include.backup.retention import Policy, plan
from tests.backup.retention_world import NOW, State, entry, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.backup.certificate import Verdict
    from include.backup.model import CatalogEntry

DAY = timedelta(days=1)
STATES: tuple[State, ...] = ("good", "good", "good", "good", "unverified", "failed")
VERDICTS: tuple[Verdict | None, ...] = (None, None, None, "proved", "proved", "failed", "incomplete")

policies = st.builds(Policy, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def period(made: CatalogEntry) -> tuple[int, ...]:
    created = made.manifest.created_at
    return {
        Tier.DAILY: (created.toordinal(),),
        Tier.WEEKLY: tuple(created.isocalendar())[:2],
        Tier.MONTHLY: (created.year, created.month),
        Tier.PRE_MIGRATION: (int(created.timestamp()),),
    }[made.manifest.tier]


@st.composite
def catalogs(draw: st.DrawFn, verdicts: tuple[Verdict | None, ...] = VERDICTS) -> list[CatalogEntry]:
    """Up to 24 backups of the last 30 days, mostly daily ones, proved in any order."""
    names = draw(
        st.lists(
            st.tuples(st.sampled_from([Tier.DAILY] * 6 + list(Tier)), st.integers(1, 3 * 30)),
            unique=True,
            min_size=1,
            max_size=24,
        )
    )
    entries = []
    for tier, third in names:
        created = NOW - third * DAY / 3
        proved = draw(st.integers(0, third)) * DAY / 3
        entries.append(
            entry(
                created,
                tier,
                state=draw(st.sampled_from(STATES)),
                pinned=draw(st.sampled_from([False] * 7 + [True])),
                proof=draw(st.sampled_from(verdicts)),
                proved=created + proved,
            )
        )
    return entries


def must_stop(entries: Iterable[CatalogEntry]) -> bool:
    concluded = [one for one in entries if one.verdict in {"proved", "failed"}]
    latest = max((one.proof.proved_at for one in concluded if one.proof), default=None)
    return any(one.verdict == "failed" and one.proof is not None and one.proof.proved_at == latest for one in concluded)


def must_stay(one: CatalogEntry, entries: Iterable[CatalogEntry], policy: Policy) -> bool:
    if one.manifest.keep_forever:
        return True
    promised = policy.slots(one.manifest.tier)
    good = [
        other
        for other in entries
        if other.good and not other.manifest.keep_forever and other.manifest.tier == one.manifest.tier
    ]
    newer = [other for other in good if other.manifest.created_at > one.manifest.created_at]
    young = NOW - one.manifest.finished_at < DAY
    if not one.good:
        return young or not newer or len({period(other) for other in good}) < promised
    mine = [other for other in good if period(other) == period(one)]
    if not newer:
        return True
    good_periods = {period(other) for other in newer} - {period(one)}
    proved_periods = {period(other) for other in newer if other.proved} - {period(one)}
    wanted = len(good_periods) < promised
    if any(other.proved for other in mine):
        wanted = wanted or len(proved_periods) < promised
    best = max(mine, key=lambda other: (other.proved, other.manifest.created_at))
    current = one.manifest.tier != Tier.PRE_MIGRATION and period(one) == period(entry(NOW, one.manifest.tier))
    awaited = young and best.manifest.created_at < one.manifest.created_at
    return wanted and (best is one or current or awaited)


@settings(deadline=None, max_examples=200)
@given(catalogs(), policies)
def test_whatever_was_proved_the_rule_decides_it_to_the_letter(entries: list[CatalogEntry], policy: Policy) -> None:
    decided = plan(entries, policy, now=NOW)
    assert (decided.stopped is not None) == must_stop(entries)
    stay = {one.backup_id for one in entries if must_stop(entries) or must_stay(one, entries, policy)}
    assert {one.backup for one in decided.keeps} == stay
    assert len(decided.decisions) == len(entries)
    assert plan(entries[::-1], policy, now=NOW) == decided


@settings(deadline=None, max_examples=100)
@given(catalogs((None, None, "proved", "incomplete")), policies)
def test_whatever_was_proved_the_newest_good_and_the_newest_proved_stay_and_twice_the_promise_is_the_most(
    entries: list[CatalogEntry], policy: Policy
) -> None:
    kept = {one.backup for one in plan(entries, policy, now=NOW).keeps}
    good = sorted((one for one in entries if one.good), key=lambda one: one.manifest.created_at)
    for newest in (good[-1:], [one for one in good if one.proved][-1:]):
        assert {one.backup_id for one in newest} <= kept
    for tier in Tier:
        of_tier = [one for one in good if one.manifest.tier == tier and not one.manifest.keep_forever]
        for newest in (of_tier[-1:], [one for one in of_tier if one.proved][-1:]):
            assert {one.backup_id for one in newest} <= kept
        excepted = [
            one for one in of_tier if NOW - one.manifest.finished_at < DAY or period(one) == period(entry(NOW, tier))
        ]
        count = len([one for one in of_tier if one.backup_id in kept and one not in excepted])
        assert count <= 2 * policy.slots(tier)


@settings(deadline=None, max_examples=100)
@given(catalogs((None, None, "incomplete", "proved")), policies)
def test_a_proof_that_comes_in_never_makes_another_periods_good_backup_go(
    entries: list[CatalogEntry], policy: Policy
) -> None:
    """So a proof costs nothing: it may take the slot of its own period, and let older proofs go, nothing else."""
    bare = [one.model_copy(update={"proof": None}) for one in entries]
    without = {one.backup for one in plan(bare, policy, now=NOW).keeps}
    kept = {
        (one.backup.tier, period(entry(one.backup.created_at, one.backup.tier)))
        for one in plan(entries, policy, now=NOW).keeps
    }
    for one in entries:
        if one.good and one.backup_id in without:
            assert (one.manifest.tier, period(one)) in kept


@settings(deadline=None, max_examples=100)
@given(catalogs((None,)), policies, st.sampled_from(list(Tier)), st.booleans())
def test_whatever_the_catalog_holds_a_failed_proof_or_an_unexplained_loss_keeps_all_of_it(
    entries: list[CatalogEntry], policy: Policy, tier: Tier, by_loss: bool
) -> None:
    if by_loss:
        before = entry(NOW - 40 * DAY, tables=(table(1000),))
        others = [
            one.model_copy(update={"manifest": one.manifest.model_copy(update={"tables": (table(1000),)})})
            for one in entries
        ]
        entries = [before, *others, entry(NOW - DAY / 24, tier, tables=(table(10),))]
    else:
        entries = [*entries, entry(NOW - DAY / 24, tier, proof="failed")]
    decided = plan(entries, policy, now=NOW, anomalies=anomalies(entries, MonitorOptions()))
    assert decided.drops == ()
    assert decided.stopped is not None


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([None, None, "incomplete", "proved", "failed"]), min_size=10, max_size=60),
    st.integers(1, 4),
)
def test_night_after_night_the_last_proved_backups_are_kept_whatever_the_proofs_do(
    verdicts: list[Verdict | None], promised: int
) -> None:
    entries: list[CatalogEntry] = []
    ever_proved = 0
    conclusion = None
    for day, verdict in enumerate(verdicts):
        made = NOW + day * DAY
        entries.append(entry(made, proof=verdict))
        decided = plan(entries, Policy(daily=promised), now=made + DAY / 2)
        kept = {one.backup for one in decided.keeps}
        entries = [one for one in entries if one.backup_id in kept]
        ever_proved += verdict == "proved"
        conclusion = verdict if verdict in {"proved", "failed"} else conclusion
        assert (decided.stopped is not None) == (conclusion == "failed")
        assert len([one for one in entries if one.proved]) >= min(promised, ever_proved)
        if decided.stopped is None:
            assert len([one for one in entries if one.good]) <= 2 * promised


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([1000, 900, 500, 300, 100]), st.integers(0, 5)), min_size=15, max_size=45),
    st.integers(1, 4),
)
def test_night_after_night_pruning_neither_hides_a_loss_nor_invents_one(
    nights: list[tuple[int, int]], promised: int
) -> None:
    """What is found among the backups that are left is what somebody would have found who had looked each night."""
    entries: list[CatalogEntry] = []
    normal = 0
    for day, (rows, chance) in enumerate(nights):
        made = NOW + day * DAY
        tiers = [Tier.DAILY] + [Tier.WEEKLY] * (made.weekday() == 6) + [Tier.MONTHLY] * (made.day == 1)
        accepted = made + DAY / 24 if chance == 0 else None
        entries += [entry(made, tier, tables=(table(rows),), accepted=accepted) for tier in tiers]
        lost = not accepted and normal >= 100 and (normal - rows) / normal >= 0.4
        normal = normal if lost else rows
        found = anomalies(entries, MonitorOptions())
        assert [one.before for one in found] == ([normal] if lost else [])
        decided = plan(entries, Policy(promised, 2, 2, 1), now=made + DAY / 2, anomalies=found)
        assert (decided.stopped is not None) == lost
        kept = {one.backup for one in decided.keeps}
        entries = [one for one in entries if one.backup_id in kept]
