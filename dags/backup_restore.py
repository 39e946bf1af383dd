"""### Restore of a database, by hand

**What.** A backup becomes a database again, under a name of your choice: never onto an existing one. It is restored
under a name that nobody uses, compared with what was dumped, analyzed, and only then renamed to the wanted one. With
*Swap* it takes the live database's place by rename, and the old one is kept under another name.

**How.** *Trigger* shows a form. The first task says point by point what will be done, and nothing is done before
somebody has read that and pressed *Approve* under *Required Actions*. *Reject*, or no answer within 12 hours: nothing
is done. If what was approved is no longer what would be done, the restore is refused.

**If it fails.** Slack (connection `slack_maintenance`) hears of it once. Until the last transaction the live database
has not changed; the message and the log say how far it came, and how to go back after a swap.

**Settings.** The role of the target's connection has to be allowed to make databases (`ALTER ROLE … CREATEDB`):
docs/deployment.md. `backup_identity` holds the private key of encrypted backups. Without Airflow: `python -m
include.cli restore`, and docs/restore.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, dag, task

from include.config.settings import load
from include.runtime.alerts import run_timed_out
from include.runtime.dags import DEFAULT_ARGS, optional_text
from include.runtime.recovery import APPROVAL_TIME, Approval

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBJECT = """{% set plan = ti.xcom_pull(task_ids='plan') -%}
Restore {{ plan['backup'] }} as {{ plan['new_name'] }}{% if plan['swap'] %} in place of {{ plan['swap'] }}{% endif %}"""
BODY = """{% for point in ti.xcom_pull(task_ids='plan')['points'] %}
1. {{ point }}
{%- endfor %}"""


def form(databases: Sequence[str]) -> dict[str, Param]:
    """What the UI asks for."""
    return {
        "database": Param(
            databases[0],
            type="string",
            enum=list(databases),
            title="Database",
            description="Which of the configured databases to get back.",
        ),
        "backup": optional_text("Backup", "Its id; the newest proved one where this stays empty."),
        "connection": optional_text(
            "Connection", "Airflow connection of the server to restore to; the database's own where this stays empty."
        ),
        "new_name": optional_text("New name", "Of the restored database; a name with the time where this stays empty."),
        "swap": optional_text(
            "Swap",
            "To replace the live database: its name as PostgreSQL knows it, typed in full. It is kept under another "
            "name. Nothing is replaced where this stays empty.",
        ),
    }


settings = load()


@dag(
    dag_id="backup_restore",
    dag_display_name="Backup, restore",
    description="Turns a chosen backup into a database again, after a person has approved the plan.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    # A plan that waits for its approval keeps no other restore waiting.
    max_active_runs=5,
    dagrun_timeout=APPROVAL_TIME + timedelta(hours=24),
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_timed_out,
    params=form(list(settings.databases)),
    tags=["backup", "restore"],
)
def build() -> None:
    """Wire the tasks."""

    @task
    def plan(params: dict[str, Any] | None = None) -> dict[str, Any]:
        from include.runtime import recovery

        return dict(recovery.plan(params or {}))

    @task
    def restore(planned: Any) -> dict[str, Any]:
        from include.runtime import recovery

        return dict(recovery.restore(planned))

    @task(trigger_rule="all_done", retries=0)
    def report(ti: Any = None) -> dict[str, Any]:
        from include.runtime import recovery

        return recovery.report(ti)

    planned = plan()
    approve = Approval(
        task_id="approve",
        subject=SUBJECT,
        body=BODY,
        response_timeout=APPROVAL_TIME,
        # An answer in the very second of the question can be lost: the scheduler of 3.3 then takes the waiting task
        # for a dead one. It asks again.
        retry_delay=timedelta(seconds=5),
    )
    planned >> approve >> restore(planned) >> report()


backup_restore = build()
