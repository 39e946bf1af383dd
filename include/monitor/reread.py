"""The rolling re-read: each object that was ever verified is read again within a month, a little every hour.

A disk forgets, a bucket's rules change, a hand slips: what was good when it was written need not be good when it is
needed. Only reading it again tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from include.backup.catalog import NoSuchBackupError, read_catalog, read_manifest
from include.backup.verify import BackupDamagedError, verify
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from include.backup.model import BackupId, CatalogEntry
    from include.backup.stores.base import Store

EVERY = timedelta(hours=1)
WINDOW = timedelta(days=30)  # what is promised
TARGET = timedelta(days=25)  # what is aimed at, so that some days without any run break no promise
LAST = timedelta(days=28)  # from here on it is read whatever it costs
# All bytes in less than the target's time: so much an hour is usual, and leaves room to move early what would clump.
_USUAL = timedelta(days=20)
# After days without a run, the backlog is worked off at so many times the usual bytes an hour.
_CATCH_UP = 4


@dataclass(frozen=True)
class Reread:
    """What one run read again.

    Args:
        intact: as they were written.
        damaged: with what is wrong; recorded beside each, so that the monitor finds it.
        gone: removed while they were read, which is no failure.
    """

    intact: tuple[BackupId, ...]
    damaged: tuple[tuple[BackupId, str], ...]
    gone: tuple[BackupId, ...]


def due(entries: Sequence[CatalogEntry], *, now: datetime) -> tuple[BackupId, ...]:
    """The backups to read in this run, the longest unread first; pure, and needs no memory of earlier runs.

    Each should be read again `TARGET` after it was last read. Where many fall due together (they were all copied
    here on one day), some are read early: as few as leave the rest feasible at the usual bytes an hour. What fell
    due while no run came is worked off at a few times that. What was never verified is not taken: its own run does
    that, or a person.

    Args:
        entries: the catalog of one database.
        now: UTC.
    """
    queue = sorted(
        (entry.verification.verified_at, entry.manifest.id, entry)
        for entry in entries
        if entry.verification is not None
    )
    hourly = sum(entry.manifest.bytes for _, _, entry in queue) * (EVERY / _USUAL)
    next_run = now + EVERY
    # For each: the bytes before it that must have been read by the next run for it to be begun in time at that rate.
    needed: list[float] = []
    before = 0
    for read_at, _, entry in queue:
        needed.append(before - hourly * ((read_at + TARGET - next_run) / EVERY))
        before += entry.manifest.bytes
    chosen: list[BackupId] = []
    taken = 0
    for place, (read_at, _, entry) in enumerate(queue):
        if taken >= max(needed[place:]):
            break
        if chosen and taken + entry.manifest.bytes > hourly * _CATCH_UP and now - read_at < LAST:
            break
        chosen.append(entry.backup_id)
        taken += entry.manifest.bytes
    return tuple(chosen)


def reread(
    store: Store,
    database: str,
    *,
    staging: Path | None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int], None] = lambda _: None,
) -> Reread:
    """Read again what is due of one database. Each outcome is recorded beside its backup.

    Args:
        store: where the backups are.
        database: the configured name.
        staging: as for `include.backup.verify.verify`.
        now: clock, UTC.
        progress: told the bytes read so far, over all of them.

    Raises:
        MaintenanceError: the store cannot be read, or a backup could not be judged; the others were read before that.
    """
    intact: list[BackupId] = []
    damaged: list[tuple[BackupId, str]] = []
    gone: list[BackupId] = []
    unjudged: MaintenanceError | None = None
    done = 0
    for backup in due(read_catalog(store, database).entries, now=now()):
        read_before = done

        def tell(read: int, read_before: int = read_before) -> None:
            nonlocal done
            done = read_before + read
            progress(done)

        failure = None
        try:
            verify(store, backup, staging=staging, now=now, progress=tell)
        except NoSuchBackupError:
            gone.append(backup)
            continue
        except BackupDamagedError as error:
            failure = error.what
        except MaintenanceError as error:
            unjudged = error
            continue
        if _was_removed(store, backup):
            gone.append(backup)
        elif failure is not None:
            damaged.append((backup, failure))
        else:
            intact.append(backup)
    if unjudged is not None:
        raise unjudged
    return Reread(intact=tuple(intact), damaged=tuple(damaged), gone=tuple(gone))


def _was_removed(store: Store, backup: BackupId) -> bool:
    """Whether a prune took the backup while it was read; then the record of that reading goes too."""
    try:
        read_manifest(store, backup)
    except NoSuchBackupError:
        store.delete(backup.verification_key)
        return True
    return False
