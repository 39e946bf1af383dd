"""One thing that is not as it should be, and how its figures are written."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from include.backup.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

Severity = Literal["warning", "critical"]

# Worse than any age: there is not one backup of the kind that was promised.
NOTHING_AT_ALL = 1e9


class Finding(Record):
    """Something that a person should know about one database's backups.

    Args:
        key: what it is about, the same in every run while it lasts, e.g. `rpo:verified`.
        database: the configured name.
        severity: `critical` where a restore may fail or lose more than was promised; such a finding also holds back
            the heartbeat. `warning` otherwise.
        sentence: what is so, with the figures.
        remedy: what to do.
        magnitude: how bad, in a measure of its own; twice the figure that was told counts as worse.
    """

    key: str
    database: str
    severity: Severity
    sentence: str
    remedy: str
    magnitude: float = 0


def written(span: timedelta) -> str:
    """A span of time in the largest unit of which it has two, with one decimal: `26.5 hours`."""
    for unit, length in (("days", timedelta(days=1)), ("hours", timedelta(hours=1)), ("minutes", timedelta(minutes=1))):
        if span >= 2 * length:
            return f"{span / length:.1f} {unit}"
    return f"{span.total_seconds():.0f} seconds"


def some_of(names: Sequence[str], *, shown: int = 3) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"
