"""Failures brought to Slack: one message for each, whichever way it came about.

Airflow calls a task's failure callback in the worker, where the exception is at hand; that is the usual way. It calls
none when the task's process was killed: the run's last task, `report`, finds those and tells them. A run that takes
too long is told by the DAG's own callback, which Airflow calls for a task's failure too: that was told already.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk.configuration import conf

from include.alerts.messages import Alert
from include.errors import MaintenanceError
from include.runtime.connections import find

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from include.alerts.messages import Message

SLACK_CONNECTION = "slack_maintenance"
TOLD = "told"
_SLACK_TIMEOUT_SECONDS = 15

log = logging.getLogger(__name__)


class RunFailedError(Exception):
    """Raised by a run's last task so that the run counts as failed; each failure in it was told before."""


def send(alert: Message) -> bool:
    """Post to Slack, or to the log where no connection is configured.

    A Slack that does not answer must not hide the failure that was to be told: the text goes to the log then.

    Returns:
        Whether it is told: False where there is a Slack and it did not take the message.
    """
    if find(SLACK_CONNECTION) is None:
        log.error("no connection `%s`: told here only\n%s", SLACK_CONNECTION, alert.text())
        return True
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
    from airflow.sdk.exceptions import AirflowException

    hook = SlackWebhookHook(slack_webhook_conn_id=SLACK_CONNECTION, timeout=_SLACK_TIMEOUT_SECONDS)
    try:
        hook.send(text=alert.text(), blocks=alert.blocks())
    except (AirflowException, OSError) as error:
        # Without the traceback: it may hold the webhook's address, which is a secret.
        log.error("Slack did not take this message (%s)\n%s", type(error).__name__, alert.text())  # noqa: TRY400
        return False
    return True


def task_failed(context: Context) -> None:
    """`on_failure_callback` of every task."""
    exception = context.get("exception")
    if not isinstance(exception, BaseException) or isinstance(exception, RunFailedError):
        return
    instance: Any = context["ti"]
    if instance.get_dagrun_state(instance.dag_id, instance.run_id) == "failed":
        # A run is failed before its tasks are stopped only where it took too long: `run_timed_out` tells that.
        log.warning("not told: this task failed because its run was stopped")
        return
    database = exception.database if isinstance(exception, MaintenanceError) else None
    send(_alert(exception, instance.dag_id, instance.task_id, instance.log_url, database or _mapped_name(instance)))
    instance.xcom_push(key=TOLD, value=True)


def hourly_task_failed(context: Context) -> None:
    """`on_failure_callback` of the tasks of an hourly run: what failed in the run before as well is not told again."""
    instance: Any = context["ti"]
    before = instance.get_previous_ti(map_index=instance.map_index)
    if before is not None and before.state == "failed":
        log.error("not told again: this task failed in the run before, too")
        return
    task_failed(context)


def run_timed_out(context: Context) -> None:
    """`on_failure_callback` of every DAG."""
    if context.get("reason") != "timed_out":
        return
    run: Any = context["dag_run"]
    base = conf.get("api", "base_url", fallback="http://localhost:8080/").rstrip("/")
    send(
        Alert(
            title=f"{run.dag_id}: run timed out",
            database=None,
            what=f"the run {run.run_id} took longer than its time limit and was stopped",
            untouched="backups that had their manifest are complete; what was being written is not listed",
            remedy="see which task was still running and why (a lock, a slow store, more data?), then run it again",
            log_url=f"{base}/dags/{run.dag_id}/runs/{quote(run.run_id)}",
        )
    )


def task_states(instance: Any) -> dict[tuple[str, int], str]:
    """The states of the tasks in a running task instance's run, by task id and map index."""
    crumbs = instance.get_task_breadcrumbs(dag_id=instance.dag_id, run_id=instance.run_id)
    return {(crumb["task_id"], crumb["map_index"]): crumb["state"] for crumb in crumbs}


def broken_task(
    instance: Any,
    states: Mapping[tuple[str, int], str],
    task_ids: Sequence[str],
    *,
    map_index: int,
    database: str | None,
    untouched: str,
) -> str | None:
    """The first of a run's tasks that failed, by its id; told here where its process was killed without a word.

    Args:
        instance: the running task instance, of the same run.
        states: as `task_states` gives them.
        task_ids: in the order they ran.
        map_index: their place among mapped siblings, -1 where they are not mapped.
        database: the configured name of the database they are about.
        untouched: what a killed task left as it was.
    """
    broken = next((task_id for task_id in task_ids if states.get((task_id, map_index)) == "failed"), None)
    if broken is not None and not instance.xcom_pull(task_ids=broken, key=TOLD, map_indexes=map_index):
        base = conf.get("api", "base_url", fallback="http://localhost:8080/").rstrip("/")
        mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
        send(
            Alert(
                title=f"{instance.dag_id}: {_short(broken)} was killed",
                database=database,
                what="the task's process ended without telling why: killed by an operator, by the kernel for want of "
                "memory, or with its machine",
                untouched=untouched,
                remedy="look at that machine's memory and kernel log, then run the DAG again",
                log_url=f"{base}/dags/{instance.dag_id}/runs/{quote(instance.run_id)}/tasks/{broken}{mapped}",
            )
        )
    return broken


def _short(task_id: str) -> str:
    return task_id.rpartition(".")[2]


def _alert(exception: BaseException, dag_id: str, task_id: str, log_url: str, database: str | None) -> Alert:
    title = f"{dag_id}: {_short(task_id)} failed"
    if isinstance(exception, MaintenanceError):
        return Alert(
            title=title,
            database=database,
            what=exception.what,
            untouched=exception.untouched,
            remedy=exception.remedy,
            log_url=log_url,
        )
    # The text of an error nobody foresaw may hold anything, a password too: it stays in the log, which masks secrets.
    return Alert(
        title=title,
        database=database,
        what=f"an error that was not foreseen ({type(exception).__name__})",
        untouched="backups that have their manifest; nothing half-done is listed",
        remedy="read the log; if the cause is not clear from it, it is a defect worth reporting",
        log_url=log_url,
    )


def _mapped_name(instance: Any) -> str | None:
    name = getattr(instance, "rendered_map_index", None)
    return str(name) if name else None
