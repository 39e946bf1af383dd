"""One look at one database's backups: what is found, and what of it is news."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.backup.catalog import read_catalog
from include.monitor.changes import changes, read_state
from include.monitor.coverage import findings
from include.monitor.upkeep import StoreFacts

if TYPE_CHECKING:
    from datetime import datetime

    from include.backup.options import MonitorOptions
    from include.backup.stores.base import Store
    from include.monitor.changes import Changes, State
    from include.monitor.finding import Finding
    from include.proving.options import ProofOptions


@dataclass(frozen=True)
class Look:
    """What one look showed.

    Args:
        database: the configured name.
        findings: all that is so now, the critical ones first.
        changes: what of it is new, worse or the same since it was last told, and what is over.
        previous: what had been told before, or None where nothing was or it cannot be understood.
        memory_lost: True where it cannot be understood: then all that is found counts as new.
    """

    database: str
    findings: tuple[Finding, ...]
    changes: Changes
    previous: State | None
    memory_lost: bool

    @property
    def critical(self) -> bool:
        """Whether anything is critical, which holds back the heartbeat."""
        return any(finding.severity == "critical" for finding in self.findings)


def look(store: Store, database: str, *, monitor: MonitorOptions, proof: ProofOptions, now: datetime) -> Look:
    """Look at one database's backups. Nothing is written and nobody is told.

    Args:
        store: where they are.
        database: the configured name.
        monitor: what is expected of them.
        proof: how they are proved.
        now: UTC.

    Raises:
        StoreError: the store cannot be read.
    """
    # The objects first: a manifest that is written meanwhile is then in the catalog, and nobody's object is a leftover.
    facts = StoreFacts(
        objects=tuple(store.list()),
        uploads=tuple(store.unfinished(f"{database}/")),
        free_bytes=store.free_bytes(),
    )
    previous, understood = read_state(store, database)
    found = findings(
        database,
        read_catalog(store, database),
        facts,
        monitor=monitor,
        proof=proof,
        now=now,
        last_look=previous.looked_at if previous is not None else None,
    )
    return Look(
        database=database,
        findings=found,
        changes=changes(previous, found),
        previous=previous,
        memory_lost=not understood,
    )
