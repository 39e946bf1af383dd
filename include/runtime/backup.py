"""The bodies of the backup DAGs' tasks: settings and connections looked up, then the work handed to `include.backup`.

What passes between tasks is a small dictionary with the backup's id in it, never a file and never a secret.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException
from humanize import naturalsize, precisedelta

from include.backup import catalog, dump, prune, retention, sweep
from include.backup import preflight as checks
from include.backup import verify as verification
from include.backup.anomaly import anomalies
from include.backup.model import BackupId, Tier
from include.config import settings as configuration
from include.errors import MaintenanceError
from include.runtime import alerts
from include.runtime.connections import open_store, postgres_dsn
from include.runtime.dags import VERIFIED_BACKUPS, backups_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from include.config.settings import DatabaseSettings, Settings

PROGRESS_EVERY_SECONDS = 10.0
STEPS = ("preflight", "dump", "verify", "prune")

log = logging.getLogger(__name__)


class BackupResult(TypedDict):
    """What the dump task hands on."""

    backup: str
    bytes: int
    tables: int
    dump_seconds: float


class VerifyResult(TypedDict):
    """What the verify task hands on."""

    level: str
    seconds: float


class PruneResult(TypedDict):
    """What the prune task hands on: ids of backups, keys of leftovers."""

    removed: list[str]
    swept: list[str]
    stopped: str | None


def preflight(database: str, params: Mapping[str, Any]) -> None:
    """Skip a database that was not chosen; find out in a second what would stop its dump in an hour.

    Raises:
        AirflowSkipException: the run is for other databases.
        MaintenanceError: what stands in the way.
    """
    chosen = params.get("databases") or []
    if database not in chosen:
        raise AirflowSkipException(f"{database} was not chosen for this run")
    if params.get("keep_forever") and not str(params.get("reason") or "").strip():
        raise MaintenanceError(
            "keep_forever was asked for without a reason",
            database=database,
            untouched="nothing was written",
            remedy="start the run again and say in `reason` why this backup is to be kept for ever",
        )
    settings, options = _settings(database)
    found = checks.preflight(
        postgres_dsn(options.connection, database=database),
        open_store(settings.store),
        database=database,
        options=options,
    )
    for warning in found.warnings:
        log.warning(warning)
    log.info(
        "%s: PostgreSQL %s, pg_dump %s, about %s to store",
        database,
        found.server,
        found.pg_dump,
        naturalsize(found.expected_bytes, binary=True),
    )


def back_up(database: str, tier: Tier, run_id: str, params: Mapping[str, Any]) -> BackupResult:
    """Dump one database into the store.

    Raises:
        MaintenanceError: see `include.backup.dump.back_up`.
    """
    settings, options = _settings(database)
    with _progress(f"{database}: dumped") as progress:
        manifest = dump.back_up(
            postgres_dsn(options.connection, database=database),
            open_store(settings.store),
            database=database,
            tier=tier,
            options=options,
            run_id=run_id,
            keep_forever=bool(params.get("keep_forever")),
            reason=str(params.get("reason") or "").strip(),
            progress=progress,
        )
    return BackupResult(
        backup=manifest.id, bytes=manifest.bytes, tables=len(manifest.tables), dump_seconds=manifest.dump_seconds
    )


def verify(backup: str, database: str, outlet_events: Any) -> VerifyResult:
    """Read the backup back from the store and judge it; a good one becomes an event of its database's asset.

    Args:
        backup: its id.
        database: its configured name.
        outlet_events: Airflow's collector of asset events.

    Raises:
        MaintenanceError: see `include.backup.verify.verify`.
    """
    settings, options = _settings(database)
    identifier = BackupId.parse(backup)
    staging = options.archive.staging
    with _progress(f"{database}: read back") as progress:
        outcome = verification.verify(
            open_store(settings.store),
            identifier,
            staging=Path(staging) if staging else None,
            progress=progress,
        )
    outlet_events[VERIFIED_BACKUPS].add(backups_of(database), extra={"backup": backup, "tier": identifier.tier.value})
    return VerifyResult(level=outcome.level, seconds=outcome.seconds)


def prune_backups(database: str) -> PruneResult:
    """Remove what the retention policy no longer keeps, and what killed runs left behind long ago.

    A plan that is stopped is no failure of this task, which would be repeated every night: the backup itself is good.
    The monitor tells Slack of it, once, and when it is over.

    Raises:
        MaintenanceError: the store refused, or is not as planned.
    """
    settings, options = _settings(database)
    store = open_store(settings.store)
    now = datetime.now(UTC)
    found = catalog.read_catalog(store, database)
    for key, reason in found.unreadable:
        log.warning("%s is left alone: %s", key, reason)
    plan = retention.plan(
        found.entries,
        retention.Policy(**settings.retention.model_dump()),
        now=now,
        anomalies=anomalies(found.entries, options.monitor),
    )
    if plan.stopped:
        log.warning("nothing of %s is pruned: %s", database, plan.stopped)
    for decision in plan.decisions:
        log.info("%s %s: %s", decision.action, decision.backup, decision.reason)
    removals = prune.apply(plan, store)
    swept = sweep.sweep(store, database, now=now, dry_run=False)
    leftovers = [item.key for item in swept.objects] + [upload.key for upload in swept.uploads]
    return PruneResult(removed=[str(removal.backup) for removal in removals], swept=leftovers, stopped=plan.stopped)


def report(tier: Tier, databases: Sequence[str], instance: Any) -> dict[str, dict[str, Any]]:
    """Sum up a run, tell Slack of tasks that were killed without a word, and fail the run where anything failed.

    Args:
        tier: of the run.
        databases: as they were mapped.
        instance: the running task instance.

    Returns:
        For each database that took part: the backup, its size, what happened.

    Raises:
        RunFailedError: a database's backup failed.
    """
    states = alerts.task_states(instance)
    summary: dict[str, dict[str, Any]] = {}
    failed = []
    for index, database in enumerate(databases):
        if states.get(("database.preflight", index)) == "skipped":
            continue
        dumped: BackupResult | None = instance.xcom_pull(task_ids="database.dump", map_indexes=index)
        broken = alerts.broken_task(
            instance,
            states,
            [f"database.{step}" for step in STEPS],
            map_index=index,
            database=database,
            untouched="nothing is listed as a backup that is not whole; earlier backups are as they were",
        )
        # A person may have marked a task as skipped: only what was verified is called so.
        verified = "verified" if states.get(("database.verify", index)) == "success" else "not verified"
        summary[database] = {
            "outcome": f"{broken.removeprefix('database.')} failed" if broken else verified,
            "backup": dumped["backup"] if dumped else None,
            "size": naturalsize(dumped["bytes"], binary=True) if dumped else None,
        }
        log.info("%s %s: %s", tier, database, summary[database])
        if broken:
            failed.append(database)
    if failed:
        raise alerts.RunFailedError(f"failed: {', '.join(failed)}; the other databases were finished")
    return summary


def _settings(database: str) -> tuple[Settings, DatabaseSettings]:
    settings = configuration.load()
    return settings, settings.databases[database]


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """Log the bytes moved, every few seconds and at the end."""
    started = time.monotonic()
    last = started
    moved = 0

    def tell(done: int) -> None:
        nonlocal last, moved
        moved = done
        if time.monotonic() - last >= PROGRESS_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s %s so far", what, naturalsize(done, binary=True))

    yield tell
    seconds = time.monotonic() - started
    log.info("%s %s in %s", what, naturalsize(moved, binary=True), precisedelta(timedelta(seconds=seconds)))
