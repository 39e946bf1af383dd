"""Sequences: no snapshot holds them still, so what a copy shows is held against the moments in which it was read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from include.proving.compare import judged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.backup.certificate import Check
    from include.backup.inventory import SequenceWindow

    Judgement = tuple[Literal["differs", "not checked", "without order", "behind", "held"], str]


@dataclass(frozen=True)
class SequenceReading:
    """A sequence of the copy.

    Args:
        next_value: what it would give next.
        furthest: the largest value in the column that owns it (the smallest, where it counts down), or None where no
            column does or there are no rows.
    """

    next_value: int
    furthest: int | None


def compare_sequences(
    expected: Sequence[SequenceWindow], found: Mapping[tuple[str, str], SequenceReading] | str
) -> Check:
    """Every sequence: pg_dump read it somewhere between the two readings at the source.

    None may stand behind the values that its column holds already, as the next insert would fail.

    Args:
        expected: of the inventory.
        found: of the copy by schema and name, or why they could not be read.
    """
    if isinstance(found, str):
        return judged("sequences", f"{len(expected):,} in the backup", unchecked=[found])
    wanted = {(window.schema_name, window.name): window for window in expected}
    said: dict[str, list[str]] = defaultdict(list)
    for key, window in wanted.items():
        if key not in found:
            said["differs"].append(f"{'.'.join(key)} is not in the copy")
            continue
        outcome, words = _judge(window, found[key])
        said[outcome].append(f"{'.'.join(key)} {words}")
    said["differs"] += [
        f"{'.'.join(key)} is in the copy, but not in the backup" for key in sorted(found.keys() - wanted.keys())
    ]
    detail = f"{len(wanted):,} sequences stand where they stood while the dump ran"
    if count := len(said["without order"]):
        detail += f"; {count} of them cycled or were set back meanwhile: only that they are there was compared"
    if count := len(said["behind"]):
        detail += f"; {count} of them stand behind their column's values at the source as well"
    return judged("sequences", detail, differs=said["differs"], unchecked=said["not checked"])


def _judge(window: SequenceWindow, reading: SequenceReading) -> Judgement:
    """What can be said of one. Nothing is held against a backup that the application itself may have done."""
    before, after, step, upcoming = window.before, window.after, window.increment, reading.next_value
    would_give = f"would give {upcoming} next"
    if window.cycles:
        return ("held" if upcoming == before == after else "without order"), would_give
    if before == after != upcoming:
        return "differs", f"{would_give}, {before} at the source"
    limit = reading.furthest
    behind = limit is not None and not _beyond(upcoming, limit, step)
    if limit is not None and behind and _beyond(after, limit, step):
        moved = "" if _beyond(before, limit, step) else ", unless the application moved it past that after the dump"
        return ("not checked" if moved else "differs"), f"{would_give}, but its column holds {limit} already{moved}"
    if not _in_order(before, after, step):
        return "without order", would_give
    if _in_order(before, upcoming, step) and _in_order(upcoming, after, step):
        return ("behind" if behind else "held"), would_give
    return (
        "not checked",
        f"{would_give}; at the source it was {before} before the dump and {after} after it, so it is another one, "
        "or the application set it back meanwhile",
    )


def _in_order(first: int, second: int, step: int) -> bool:
    return first <= second if step > 0 else first >= second


def _beyond(value: int, limit: int, step: int) -> bool:
    return value > limit if step > 0 else value < limit
