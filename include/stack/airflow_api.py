"""The few calls of Airflow's REST API that a demonstration and a test need."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FINISHED = frozenset({"success", "failed"})
_UNTOUCHED = "everything: the call only reads, or was refused"


@dataclass(frozen=True, kw_only=True)
class TaskInstance:
    """One task of one run.

    Args:
        task_id: the task, with its group's name in front.
        map_index: its place among mapped siblings, -1 where it is not mapped.
        name: what the UI calls this mapped instance, else its map index or nothing.
        state: Airflow's word for it; None before it is scheduled.
        try_number: the last try, from 1; 0 before the first.
        seconds: how long the last try took or takes.
    """

    task_id: str
    map_index: int
    name: str
    state: str | None
    try_number: int
    seconds: float | None


class AirflowApi:
    """A signed-in session, closed by the end of a `with` block.

    Args:
        url: Airflow's address.
        username: user to sign in as.
        password: that user's password.

    Raises:
        MaintenanceError: Airflow is not there or refuses the password.
    """

    def __init__(self, url: str, *, username: str, password: str) -> None:
        # Not through a proxy that the environment names: this address is on this machine.
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=30)
        try:
            answer = self._call("POST", "/auth/token", {"username": username, "password": password})
        except MaintenanceError:
            self._client.close()
            raise
        self._client.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def __enter__(self) -> AirflowApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._client.close()

    def wait_for_dag(self, dag_id: str, *, seconds: float = 60) -> None:
        """Wait until Airflow has read a DAG.

        Raises:
            MaintenanceError: it has not within `seconds`; the text has the import error, where there is one.
        """
        deadline = time.monotonic() + seconds
        while self._client.get(f"/api/v2/dags/{dag_id}").status_code == httpx.codes.NOT_FOUND:
            if time.monotonic() > deadline:
                errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
                reasons = [f"{e['filename']}: {e['stack_trace'].strip().splitlines()[-1]}" for e in errors]
                raise MaintenanceError(
                    f"Airflow knows no DAG {dag_id} after {seconds:.0f} s. {' | '.join(reasons) or 'No import error.'}",
                    untouched="everything",
                    remedy="Correct the file that the import error names.",
                )
            time.sleep(0.3)

    def trigger(self, dag_id: str, *, conf: Mapping[str, object] | None = None) -> str:
        """Start a run; its run id.

        Raises:
            MaintenanceError: Airflow refuses, with its reason.
        """
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def wait_for_started_run(self, dag_id: str, *, by: str, by_run: str, seconds: float) -> str:
        """Wait for the run of a DAG that the asset events of another run start; its run id.

        Args:
            dag_id: the DAG that is started.
            by: the DAG whose tasks told the events.
            by_run: the run they were in.
            seconds: how long to wait at most.

        Raises:
            MaintenanceError: there was none in time.
        """
        deadline = time.monotonic() + seconds
        while not (started := self.started_runs(dag_id, by=by, by_run=by_run)):
            if time.monotonic() > deadline:
                raise MaintenanceError(
                    f"{by_run} of {by} started no run of {dag_id} within {seconds:.0f} s",
                    untouched="both DAGs",
                    remedy=f"Look whether {dag_id} is paused, or has a run that does not end.",
                )
            time.sleep(0.5)
        return started[0]

    def started_runs(self, dag_id: str, *, by: str, by_run: str) -> list[str]:
        """Ids of the runs of a DAG that the asset events of another run have started and that have begun, oldest first.

        Asked from the started run's side: Airflow 3.3 answers 500 to whoever asks for an event that has a run which
        is still queued, because such a run has no start.
        """
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        newest = self._call("GET", f"{path}?run_type=asset_triggered&order_by=-run_after&limit=20")["dag_runs"]
        begun = [run["dag_run_id"] for run in reversed(newest) if run["start_date"] is not None]
        return [run for run in begun if (by, by_run) in self._starters(f"{path}/{quote(run)}/upstreamAssetEvents")]

    def _starters(self, path: str) -> set[tuple[str, str]]:
        events = self._call("GET", path)["asset_events"]
        return {(event["source_dag_id"], event["source_run_id"]) for event in events}

    def result(self, dag_id: str, run_id: str, task: TaskInstance) -> Any:
        """What a task handed on."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/xcomEntries/return_value"
        value = self._call("GET", f"{path}?map_index={task.map_index}")["value"]
        return json.loads(value) if isinstance(value, str) else value

    def run_state(self, dag_id: str, run_id: str) -> str:
        """A run's state: queued, running, success or failed."""
        return str(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        seconds: float,
        watch: Callable[[list[TaskInstance]], None] | None = None,
    ) -> str:
        """Wait until a run has ended; its final state, `success` or `failed`.

        Args:
            dag_id: the DAG.
            run_id: the run.
            seconds: how long to wait at most.
            watch: called with the task instances about twice a second, and once after the end.

        Raises:
            MaintenanceError: it has not ended in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            state = self.run_state(dag_id, run_id)
            if watch is not None:
                watch(self.task_instances(dag_id, run_id))
            if state in FINISHED:
                return state
            if time.monotonic() > deadline:
                raise MaintenanceError(
                    f"the run {run_id} of {dag_id} is still {state} after {seconds:.0f} s",
                    untouched="the run: it goes on",
                    remedy="Look at its tasks in Airflow's UI.",
                )
            time.sleep(0.5)

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """The tasks of a run, in the order they started."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100"
        rows = self._call("GET", path)["task_instances"]
        rows.sort(key=lambda row: row["start_date"] or "~")  # digits sort before a tilde: waiting ones come last
        return [
            TaskInstance(
                task_id=row["task_id"],
                map_index=row["map_index"],
                name=row["rendered_map_index"] or (str(row["map_index"]) if row["map_index"] >= 0 else ""),
                state=row["state"],
                try_number=row["try_number"],
                seconds=row["duration"],
            )
            for row in rows
        ]

    def log(self, dag_id: str, run_id: str, task: TaskInstance) -> str:
        """The log of a task's last try: a line an event, exceptions with their type and text below it."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}"
        content = self._call("GET", f"{path}?map_index={task.map_index}&full_content=true")["content"]
        lines = []
        for entry in content:
            level = entry.get("level")
            lines.append(f"{level.upper()} {entry['event']}" if level else entry["event"])
            lines += [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []]
        return "\n".join(lines)

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=body)
            response.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise MaintenanceError(
                f"Airflow answers {error.response.status_code} to {method} {path}: {error.response.text[:500]}",
                untouched=_UNTOUCHED,
                remedy="Its api-server.log tells more.",
            ) from error
        except httpx.TransportError as error:
            raise MaintenanceError(
                f"Airflow does not answer at {self._client.base_url}: {error}",
                untouched=_UNTOUCHED,
                remedy="Start it with `make up`.",
                transient=True,
            ) from error
        answer: dict[str, Any] = response.json()
        return answer
