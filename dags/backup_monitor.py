"""### Is every database covered by a recent, proved backup?

**What.** For each database: the age of its newest verified and newest proved backup, the outcome of its newest
proof and how long the restore took, losses from one backup to the next, damaged backups, what killed runs left, the
room in the store. Each run also reads a few old backups again, so that each is read again within a month.

**When.** Every hour. Slack (connection `slack_maintenance`) hears only of what is new, what got worse and what is
over. If nothing critical was found in any database, a heartbeat goes to the address of connection `heartbeat`: who
watches there learns from its absence that something is wrong, even if all of Airflow is down.

**If it fails.** Slack hears of it once, not every hour, and no heartbeat is sent. Each message says what to do; what
each finding means is in docs/operations.md.

**By hand.** *Trigger* looks at once. If a backup holds much less than the one before and that is as it should be,
name it in the form under *Accept*, with the reason: it is then the new measure, and pruning goes on.

**Settings.** `databases.<name>.monitor` and `.proof` in `include/config/maintenance.yaml`, or in the file that
`NIGHT_PORTER_CONFIG` names.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, dag, task

from include.config.settings import load
from include.runtime.alerts import hourly_task_failed, run_timed_out
from include.runtime.dags import DATABASE_NAME, DEFAULT_ARGS, optional_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import DAG

FORM = {
    "accept": optional_text(
        "Accept", "Id of a backup that holds much less than the one before, and rightly so. Empty: only look."
    ),
    "reason": optional_text("Reason", "Why it is right; stands beside the backup. Needed where one is accepted."),
}


def monitor_dag(databases: Sequence[str]) -> DAG:
    """The monitor of these databases."""

    @dag(
        dag_id="backup_monitor",
        dag_display_name="Backup monitor",
        description="Looks every hour whether each database has a recent, proved backup.",
        doc_md=__doc__,
        # Without the 0 a DAG seen for the first time soon after its hour would start at once.
        schedule=CronTriggerTimetable("0 * * * *", timezone="UTC", run_immediately=timedelta(0)),
        catchup=False,
        max_active_runs=1,
        max_active_tasks=2,
        dagrun_timeout=timedelta(hours=12),
        default_args={**DEFAULT_ARGS, "on_failure_callback": hourly_task_failed},
        on_failure_callback=run_timed_out,
        params=FORM,
        tags=["backup", "monitor"],
    )
    def build() -> None:
        @task
        def accept(params: dict[str, Any] | None = None) -> None:
            from include.runtime import monitor

            monitor.accept_anomaly(params or {})

        # Whatever became of the form: the databases are looked at.
        @task(map_index_template=DATABASE_NAME, trigger_rule="all_done", execution_timeout=timedelta(minutes=20))
        def look(name: str, ti: Any = None) -> dict[str, Any]:
            from include.runtime import monitor

            return dict(monitor.look_at(name, ti))

        # After all looks, and behind the heartbeat: neither waits for a large archive to be read.
        @task(map_index_template=DATABASE_NAME, trigger_rule="all_done", priority_weight=0)
        def reread(name: str) -> dict[str, Any]:
            from include.runtime import monitor

            return dict(monitor.read_again(name))

        @task
        def heartbeat(looks: Any) -> None:
            from include.runtime import monitor

            monitor.beat(list(looks))

        looks = look.expand(name=list(databases))
        accept() >> looks
        heartbeat(looks)
        looks >> reread.expand(name=list(databases))

    return build()


backup_monitor = monitor_dag(list(load().databases))
