"""The bodies of the tasks that get a database back: a plan in words, a person's approval, exactly that plan done."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.providers.standard.operators.hitl import ApprovalOperator
from humanize import precisedelta

from include.config import settings as configuration
from include.errors import MaintenanceError
from include.runtime import alerts
from include.runtime.connections import open_store, postgres_dsn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from include.backup.stores.base import Store
    from include.config.settings import Settings
    from include.proving.recover_plan import RecoveryPlan

TASKS = ("plan", "approve", "restore")
APPROVAL_TIME = timedelta(hours=12)
ANSWERED_BY = "answered_by"

log = logging.getLogger(__name__)


class Planned(TypedDict):
    """A plan as its approval shows it, and all that is needed to make it again.

    Args:
        digest: what must not have changed between approval and restore, see `RecoveryPlan.digest`.
        points: the plan in words; its figures, such as open sessions, may change.
    """

    database: str
    connection: str
    made_at: str
    backup: str
    new_name: str
    swap: str | None
    digest: str
    points: list[str]


class Recovered(TypedDict):
    """A database that is back."""

    backup: str
    name: str
    old_name: str | None
    verdict: str
    seconds: float
    go_back: list[str]
    by_hand: list[str]


class Approval(ApprovalOperator):
    """A person's word on a plan, with that person's name kept; where nobody gives it, the failure says so in words."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Called by Airflow with the response, or with an error where there was none in time."""
        # A rejected task has no result of its own that could tell who rejected.
        if "error" not in event:
            context["ti"].xcom_push(key=ANSWERED_BY, value=(event["responded_by_user"] or {}).get("name"))
        return super().execute_complete(context, event)

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        """Called by Airflow in place of a response.

        Raises:
            MaintenanceError: nobody answered in time.
        """
        if event["error_type"] == "timeout":
            raise MaintenanceError(
                f"nobody approved or rejected the restore within {precisedelta(APPROVAL_TIME)}",
                untouched="everything: nothing was restored",
                remedy="start the run again, and answer under Required Actions",
            )
        super().process_trigger_event_error(event)


def plan(params: Mapping[str, Any]) -> Planned:
    """Decide what a restore would do and tell it point by point; nothing is changed.

    Raises:
        MaintenanceError: it is refused, with every reason.
    """
    settings = configuration.load()
    database = str(params["database"])
    connection = _text(params, "connection") or settings.databases[database].connection
    now = datetime.now(UTC)
    made = _plan(
        settings,
        open_store(settings.store),
        database=database,
        connection=connection,
        backup=_text(params, "backup"),
        new_name=_text(params, "new_name"),
        swap=params.get("swap") or None,  # to the letter: a blank too many is another name
        now=now,
    )
    for point in made.points:
        log.info(point)
    return Planned(
        database=database,
        connection=connection,
        made_at=now.isoformat(),
        backup=made.entry.manifest.id,
        new_name=made.new_name,
        swap=made.swap,
        digest=made.digest,
        points=list(made.points),
    )


def _text(params: Mapping[str, Any], name: str) -> str | None:
    return str(params.get(name) or "").strip() or None


def _plan(
    settings: Settings,
    store: Store,
    *,
    database: str,
    connection: str,
    backup: str | None,
    new_name: str | None,
    swap: str | None,
    now: datetime,
) -> RecoveryPlan:
    from include.proving import recover
    from include.runtime.proving import parsed

    return recover.plan(
        store,
        database=database,
        target=postgres_dsn(connection, database=database),
        backup=parsed(backup, settings) if backup else None,
        new_name=new_name,
        swap=swap,
        now=now,
    )


def restore(planned: Planned) -> Recovered:
    """Carry out a plan exactly as it was approved.

    Raises:
        MaintenanceError: the plan would be another one now, or a step failed; the text says what was left untouched.
    """
    from include.proving import recover
    from include.runtime.proving import identity

    settings = configuration.load()
    store = open_store(settings.store)
    made = _plan(
        settings,
        store,
        database=planned["database"],
        connection=planned["connection"],
        backup=planned["backup"],
        new_name=planned["new_name"],
        swap=planned["swap"],
        now=datetime.fromisoformat(planned["made_at"]),
    )
    if made.digest != planned["digest"]:
        raise MaintenanceError(
            "what was approved is no longer what would be done: the backup, the server, its role or the database to be "
            "replaced is another",
            database=planned["database"],
            untouched="everything: nothing was restored",
            remedy="start the run again and look at the new plan",
        )
    place, options = settings.proving_ground, settings.databases[planned["database"]]
    done = recover.execute(
        made,
        store,
        jobs=place.jobs,
        staging=Path(place.staging) if place.staging else None,
        identity=identity(settings),
        options=options.proof,
        progress=lambda step, words: log.info("%s: %s", step, words),
    )
    log.info("%s is back as %s after %s", planned["database"], done.name, precisedelta(done.total_seconds))
    for statement in done.by_hand:
        log.warning("to be run by hand, this role may not: %s", statement)
    for statement in done.go_back:
        log.info("to go back: %s", statement)
    return Recovered(
        backup=done.backup,
        name=done.name,
        old_name=done.old_name,
        verdict=done.verdict,
        seconds=done.total_seconds,
        go_back=list(done.go_back),
        by_hand=list(done.by_hand),
    )


def report(instance: Any) -> dict[str, Any]:
    """Say what became of a restore; tell Slack where a task was killed without a word.

    Raises:
        RunFailedError: a task failed.
    """
    broken = alerts.broken_task(
        instance,
        alerts.task_states(instance),
        TASKS,
        map_index=-1,
        database=None,
        untouched="the live database, unless the log says that the swap was done; what was half restored has a name "
        "that begins with np_restoring_",
    )
    if broken:
        raise alerts.RunFailedError(f"failed: {broken}")
    person: str | None = instance.xcom_pull(task_ids="approve", key=ANSWERED_BY)
    recovered: dict[str, Any] | None = instance.xcom_pull(task_ids="restore")
    if recovered is None:
        log.info("nothing was restored: rejected by %s", person)
        return {"outcome": "nothing was restored", "rejected_by": person}
    return {"outcome": "restored", "approved_by": person, **recovered}
