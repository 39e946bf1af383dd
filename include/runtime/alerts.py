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
    from airflow.sdk import Context

SLACK_CONNECTION = "slack_maintenance"
TOLD = "told"
_SLACK_TIMEOUT_SECONDS = 15

log = logging.getLogger(__name__)


class RunFailedError(Exception):
    """Raised by a run's last task so that the run counts as failed; each failure in it was told before."""


def send(alert: Alert) -> None:
    """Post to Slack, or to the log where no connection is configured.

    A Slack that does not answer must not hide the failure that was to be told: the text goes to the log then.
    """
    if find(SLACK_CONNECTION) is None:
        log.error("no connection `%s`: told here only\n%s", SLACK_CONNECTION, alert.text())
        return
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
    from airflow.sdk.exceptions import AirflowException

    hook = SlackWebhookHook(slack_webhook_conn_id=SLACK_CONNECTION, timeout=_SLACK_TIMEOUT_SECONDS)
    try:
        hook.send(text=alert.text(), blocks=alert.blocks())
    except (AirflowException, OSError) as error:
        # Without the traceback: it may hold the webhook's address, which is a secret.
        log.error("Slack did not take this message (%s)\n%s", type(error).__name__, alert.text())  # noqa: TRY400


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


def killed(*, dag_id: str, run_id: str, task_id: str, map_index: int, database: str) -> Alert:
    """The message for a task that ended without a word: its process was killed."""
    base = conf.get("api", "base_url", fallback="http://localhost:8080/").rstrip("/")
    return Alert(
        title=f"{dag_id}: {task_id.removeprefix('database.')} was killed",
        database=database,
        what="the task's process ended without telling why: killed by an operator, by the kernel for want of memory, "
        "or with its machine",
        untouched="nothing is listed as a backup that is not whole; earlier backups are as they were",
        remedy="look at that machine's memory and kernel log, then run the DAG again",
        log_url=f"{base}/dags/{dag_id}/runs/{quote(run_id)}/tasks/{task_id}/mapped/{map_index}",
    )


def _alert(exception: BaseException, dag_id: str, task_id: str, log_url: str, database: str | None) -> Alert:
    title = f"{dag_id}: {task_id.removeprefix('database.')} failed"
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
