"""Getting a database back: from a backup in the store to a database that people use, under a name they chose."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from humanize import naturalsize

from include.backup.certificate import conclude
from include.backup.inventory import read_inventory
from include.errors import MaintenanceError
from include.proving.checks import checks_of
from include.proving.copies import empty_database, restored
from include.proving.ground import Ground
from include.proving.options import ProofOptions
from include.proving.recover_name import give_name
from include.proving.recover_plan import RecoveryPlan, RecoveryRefusedError, plan, refused
from include.proving.recover_swap import SwapFailedError
from include.proving.recover_swap import swap as swap_names
from include.proving.recover_target import Refusal
from include.proving.recover_words import go_back_sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.backup.certificate import Check, Verdict
    from include.backup.model import Manifest
    from include.backup.stores.base import Store

__all__ = [
    "Recovery",
    "RecoveryPlan",
    "RecoveryRefusedError",
    "RestoredDifferentlyError",
    "SwapFailedError",
    "execute",
    "plan",
]

Step = Literal["fetch", "restore", "compare", "name", "swap"]
Progress = Callable[[Step, str], None]


_SHOWN = 5
_NO_SMOKE_QUERIES = ProofOptions()


class RestoredDifferentlyError(MaintenanceError):
    """What was restored is not what was dumped; it was dropped again."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """A database that is back.

    Args:
        backup: the backup's id.
        name: what the restored database is called now.
        old_name: what the replaced database is called now, or None without a swap.
        verdict: what the comparison with the backup's own records showed: `proved` or `incomplete`.
        checks: each comparison.
        seconds: of each step, in order.
        go_back: SQL that undoes the swap, to be run by hand in another database of the server; () without a swap.
        by_hand: SQL of settings and grants that the role was not allowed to make.
    """

    backup: str
    name: str
    old_name: str | None
    verdict: Verdict
    checks: tuple[Check, ...]
    seconds: dict[Step, float]
    go_back: tuple[str, ...]
    by_hand: tuple[str, ...]

    @property
    def total_seconds(self) -> float:
        """From the first byte fetched to a database that can be used."""
        return sum(self.seconds.values())


def execute(
    approved: RecoveryPlan,
    store: Store,
    *,
    jobs: int = 2,
    staging: Path | None = None,
    identity: str | None = None,
    options: ProofOptions = _NO_SMOKE_QUERIES,
    progress: Progress = lambda _step, _words: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Recovery:
    """Carry out a plan. What killed recoveries left on the server is dropped first.

    Args:
        approved: the plan. It is made again first, and must come out the same.
        store: where the backups are.
        jobs: parallel workers of pg_restore.
        staging: folder with room for the archive; the system's temporary one by default.
        identity: age private key (`AGE-SECRET-KEY-1…`) of an encrypted backup.
        options: its smoke queries are asked of the restored database.
        progress: told each step as it begins, and each tenth of it, in words.
        now: clock, UTC.

    Raises:
        RecoveryRefusedError: something has changed since the plan was made.
        BackupDamagedError: the archive is not what was written; nothing appeared on the server.
        RestoredDifferentlyError: what was restored is not what was dumped; nothing has the wanted name.
        SwapFailedError: the restored database is complete under `new_name`, the live one as it was.
        MaintenanceError: anything else, with what was left untouched.
    """
    _require_unchanged(approved, store)
    entry, server = approved.entry, approved.server
    manifest = entry.manifest
    inventory = read_inventory(store, manifest, identity=identity) if manifest.inventory is not None else None
    seconds: dict[Step, float] = {}
    progress("fetch", f"{naturalsize(manifest.bytes, binary=True)} from {store.url}")
    with restored(
        # Its rule that no copy is made on the backup's own server is for proofs; a recovery is what that server is for.
        Ground(
            dsn=server.dsn,
            role=server.dsn.user,
            version=server.identity.version,
            major=server.identity.major,
            system_identifier=server.identity.system_identifier or "",
        ),
        store,
        manifest,
        purpose="restoring_",
        jobs=jobs,
        staging=staging,
        identity=identity,
        for_plans=True,
        keep_for=None,
        progress=_tenths(progress),
        now=now,
    ) as copy:
        seconds["fetch"], seconds["restore"] = copy.fetch_seconds, copy.restore_seconds
        progress("compare", f"{copy.dsn.dbname} with the backup's own records")
        with _timed("compare", seconds):
            checks = checks_of(
                copy,
                inventory,
                empty_database=lambda: empty_database(server.dsn, manifest, now=now),
                options=options,
                jobs=jobs,
            )
            _require_the_same(checks, manifest)
        progress("name", f"{copy.dsn.dbname} becomes {approved.new_name}")
        with _timed("name", seconds):
            by_hand = give_name(
                server.dsn,
                copy.dsn.dbname,
                approved.new_name,
                owner=server.live.owner if server.live is not None else None,
                inventory=inventory,
                final_name=approved.swap or approved.new_name,
                database=manifest.database,
            )
        for statement in by_hand:
            progress("name", f"left to be run by hand: {statement}")
    if approved.swap is not None and approved.old_name is not None:
        progress("swap", f"{approved.swap} becomes {approved.old_name}, {approved.new_name} becomes {approved.swap}")
        with _timed("swap", seconds):
            swap_names(
                server.dsn,
                live=approved.swap,
                old_name=approved.old_name,
                restored=approved.new_name,
                database=manifest.database,
            )
    return Recovery(
        backup=manifest.id,
        name=approved.swap or approved.new_name,
        old_name=approved.old_name,
        verdict=conclude(checks),
        checks=checks,
        seconds=seconds,
        go_back=go_back_sql(approved.swap, old_name=approved.old_name, set_aside=approved.new_name)
        if approved.swap is not None and approved.old_name is not None
        else (),
        by_hand=by_hand,
    )


def _require_unchanged(approved: RecoveryPlan, store: Store) -> None:
    again = plan(
        store,
        database=approved.database,
        target=approved.target,
        backup=approved.entry.backup_id,
        new_name=approved.new_name,
        swap=approved.swap,
        now=approved.made_at,
    )
    if again.digest != approved.digest:
        refusal = Refusal(
            "what was approved is no longer what would be done: the backup, the server or the live database is another",
            "make a new plan and look at it",
        )
        raise refused([refusal], database=approved.database)


def _require_the_same(checks: tuple[Check, ...], manifest: Manifest) -> None:
    if conclude(checks) != "failed":
        return
    differences = [
        f"{check.name}: {'; '.join(check.findings[:_SHOWN]) or check.detail}"
        for check in checks
        if check.outcome == "differs"
    ]
    raise RestoredDifferentlyError(
        f"what was restored from {manifest.id} is not what was dumped: {' / '.join(differences)}",
        database=manifest.database,
        # Kept, it would fill a server that is needed, and might be taken for a database that is back.
        untouched="every database on the target server; what was restored was dropped again",
        remedy="choose another backup and prove this one to see whose fault it is. To have its data in spite of the "
        "difference, restore it by hand (docs/restore.md)",
    )


def _tenths(progress: Progress) -> Callable[[str, int, int], None]:
    """What a restore counts, in words, ten times each."""
    told: dict[str, int] = {}

    def count(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if told.setdefault(what, 0) < tenth:
            told[what] = tenth
            if what == "bytes":
                words = f"{naturalsize(done, binary=True)} of {naturalsize(total, binary=True)}"
            else:
                words = f"{done} of {total} {what}"
            progress("fetch" if what == "bytes" else "restore", words)

    return count


@contextmanager
def _timed(step: Step, seconds: dict[Step, float]) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - started, 3)
