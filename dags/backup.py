"""### Backups of every configured database

**What.** Each database is dumped by `pg_dump` in one snapshot straight into the store, read back and verified, and
then what the retention policy no longer keeps is removed: 7 daily, 4 weekly and 6 monthly backups by default. Each
verified backup is an event of the asset `backup/<database>`, which starts its proof.

**When.** `backup_daily` at 02:00 UTC, `backup_weekly` on Sundays at 03:00, `backup_monthly` on the 1st at 04:00; by
hand at any time with *Trigger*, where the form asks for which databases, whether the backup is to be kept for ever,
and why. A run that was missed is not made up for: a backup of last week cannot be made today.

**If it fails.** Slack (connection `slack_maintenance`) hears of each failure once: what happened, to which database,
what was left untouched, what to do. A database that fails never stops another, nothing half-done is listed as a
backup, and no earlier backup is removed for it. Mend the cause, then *Trigger* the same DAG.

**Settings.** `include/config/maintenance.yaml`, or the file that `NIGHT_PORTER_CONFIG` names; connections `hotel_db`
(and what else the file names) and `backup_store`. How to restore: docs/restore.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, Param, dag, task, task_group

from include.backup.model import Tier
from include.config.settings import load
from include.runtime.alerts import run_timed_out
from include.runtime.dags import DATABASE_NAME, DEFAULT_ARGS, VERIFIED_BACKUPS, databases_field, optional_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import DAG

# Tier: schedule in UTC, and the same in words for the list of DAGs.
SCHEDULES = {
    Tier.DAILY: ("0 2 * * *", "every night at 02:00 UTC"),
    Tier.WEEKLY: ("0 3 * * 0", "Sundays at 03:00 UTC"),
    Tier.MONTHLY: ("0 4 1 * *", "on the 1st at 04:00 UTC"),
}


def form(databases: Sequence[str]) -> dict[str, Param]:
    """What the UI asks for when a backup is started by hand; a scheduled run takes the defaults."""
    return {
        "databases": databases_field(
            databases, "Which of the configured databases to back up. All of them by default."
        ),
        "keep_forever": Param(
            False,
            type="boolean",
            title="Keep for ever",
            description="Pruning never removes this backup, and it takes no place from the regular ones.",
        ),
        "reason": optional_text(
            "Reason", "Why this backup is made; stands in its manifest. Needed where it is kept for ever."
        ),
    }


def backup_dag(tier: Tier, databases: Sequence[str]) -> DAG:
    """One tier's DAG."""
    schedule, when = SCHEDULES[tier]

    @dag(
        dag_id=f"backup_{tier}",
        dag_display_name=f"Backup, {tier}",
        description=f"Dumps, verifies and prunes every database, {when}.",
        doc_md=__doc__,
        # Without the 0 a DAG seen for the first time soon after its hour would start at once.
        schedule=CronTriggerTimetable(schedule, timezone="UTC", run_immediately=timedelta(0)),
        catchup=False,
        max_active_runs=1,
        max_active_tasks=2,
        dagrun_timeout=timedelta(hours=12),
        default_args=DEFAULT_ARGS,
        on_failure_callback=run_timed_out,
        params=form(databases),
        tags=["backup", tier.value],
    )
    def build() -> None:
        @task(map_index_template=DATABASE_NAME)
        def preflight(name: str, params: dict[str, Any] | None = None) -> None:
            from include.runtime import backup

            backup.preflight(name, params or {})

        @task(map_index_template=DATABASE_NAME)
        def dump(name: str, run_id: str | None = None, params: dict[str, Any] | None = None) -> dict[str, Any]:
            from include.runtime import backup

            return dict(backup.back_up(name, tier, run_id or "", params or {}))

        @task(map_index_template=DATABASE_NAME, outlets=[VERIFIED_BACKUPS])
        def verify(name: str, dumped: dict[str, Any], outlet_events: Any = None) -> dict[str, Any]:
            from include.runtime import backup

            return dict(backup.verify(dumped["backup"], name, outlet_events))

        @task(map_index_template=DATABASE_NAME)
        def prune(name: str) -> dict[str, Any]:
            from include.runtime import backup

            return dict(backup.prune_backups(name))

        @task_group
        def database(name: str) -> None:
            # By keyword: the UI's names of the mapped rows are rendered from these.
            checked, dumped = preflight(name=name), dump(name=name)
            checked >> dumped
            verify(name=name, dumped=dumped) >> prune(name=name)  # type: ignore[arg-type] # it becomes the dictionary at run time

        @task(trigger_rule="all_done", retries=0)
        def report(ti: Any = None) -> dict[str, dict[str, Any]]:
            from include.runtime import backup

            return backup.report(tier, databases, ti)

        database.expand(name=list(databases)) >> report()

    return build()


settings = load()
for each in SCHEDULES:
    if members := settings.in_tier(each):
        globals()[f"backup_{each}"] = backup_dag(each, members)
