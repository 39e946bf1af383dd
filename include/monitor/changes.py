"""What of the findings is news: a person is told of each once, again when it got worse, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, ValidationError

from include.backup.record import Record
from include.backup.stores.base import MissingObjectError
from include.monitor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from include.backup.stores.base import Store

# A figure that only grows with time (an age) is then told after 1, 2, 4, 8 … times what is allowed, not every hour.
WORSE_FACTOR = 2


class Told(Record):
    """A finding as it was last told, and when it was first found, UTC."""

    finding: Finding
    since: AwareDatetime


class State(Record):
    """What the monitor last told about one database; `<database>/monitor.json` in the store.

    Args:
        looked_at: when, UTC.
        told: what has been told and is not over.
    """

    schema_version: Literal[1] = 1
    looked_at: AwareDatetime
    told: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Changes:
    """What is news and what is not.

    Args:
        new: not told before.
        worse: more severe than told, or twice the figure.
        over: told, and no longer so.
        same: told, and still so.
    """

    new: tuple[Finding, ...]
    worse: tuple[Finding, ...]
    over: tuple[Told, ...]
    same: tuple[Finding, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.new or self.worse or self.over)


def changes(previous: State | None, found: Sequence[Finding]) -> Changes:
    """Compare what is found now with what was told; pure.

    Args:
        previous: what was told, or None where nothing was or it is not known any more.
        found: what is so now.
    """
    told = {each.finding.key: each for each in previous.told} if previous is not None else {}
    new, worse, same = [], [], []
    for finding in found:
        if finding.key not in told:
            new.append(finding)
        elif _is_worse(finding, told[finding.key].finding):
            worse.append(finding)
        else:
            same.append(finding)
    still = {finding.key for finding in found}
    over = tuple(each for key, each in told.items() if key not in still)
    return Changes(new=tuple(new), worse=tuple(worse), over=over, same=tuple(same))


def after_telling(previous: State | None, news: Changes, *, now: datetime) -> State:
    """What to remember once the news has been told; pure.

    What is the same is remembered as it was told: so slow worsening adds up, and what eased and returned is no news.

    Args:
        previous: what was told before.
        news: what has been told now.
        now: UTC.
    """
    told = {each.finding.key: each for each in previous.told} if previous is not None else {}
    return State(
        looked_at=now,
        told=(
            *(told[finding.key] for finding in news.same),
            *(Told(finding=finding, since=told[finding.key].since) for finding in news.worse),
            *(Told(finding=finding, since=now) for finding in news.new),
        ),
    )


def state_key(database: str) -> str:
    """Where in the store it stands."""
    return f"{database}/monitor.json"


def read_state(store: Store, database: str) -> tuple[State | None, bool]:
    """What was told about a database, and whether it could be understood; None and True where nothing was yet.

    Raises:
        StoreError: the store cannot be read.
    """
    try:
        return State.model_validate_json(store.get(state_key(database))), True
    except MissingObjectError:
        return None, True
    except ValidationError:
        return None, False


def remember(store: Store, database: str, state: State) -> None:
    """Keep what has been told.

    Raises:
        StoreError: the store refused.
    """
    store.put(state_key(database), state.model_dump_json(indent=2).encode(), replace=True)


def _is_worse(now: Finding, told: Finding) -> bool:
    rose = now.severity == "critical" and told.severity == "warning"
    return rose or 0 < told.magnitude * WORSE_FACTOR <= now.magnitude
