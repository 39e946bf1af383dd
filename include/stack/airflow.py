"""Airflow of our own on 127.0.0.1: API server, scheduler, DAG processor and triggerer as one service.

The parts are started one by one rather than by `airflow standalone`, whose scheduler and triggerer open
log servers on every network address; here they share one disk, so that nobody needs those.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from include.errors import MaintenanceError
from include.stack import airflow_config
from include.stack.airflow_api import AirflowApi
from include.stack.files import write_private
from include.stack.ports import free_port
from include.stack.processes import began_at, death_signal, is_same, members, seconds_after_boot, wait_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFERRED_PORT = 8080
START_SECONDS = 180.0
GRACE_SECONDS = 5.0
COMPONENTS: Mapping[str, list[str]] = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
_AIRFLOW = Path(sys.executable).parent / "airflow"


class AirflowServer:
    """Airflow with all its files in `home`/airflow.

    Args:
        home: the stack's folder.
        root: root of the DAG bundle, with `dags/` and `plugins/`.
        config_file: the list of databases that the DAGs look after (`NIGHT_PORTER_CONFIG`).
    """

    def __init__(self, home: Path, *, root: Path, config_file: Path) -> None:
        self.home = home.absolute() / "airflow"
        self.root = root.absolute()
        self.config_file = config_file.absolute()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Address of the web UI and the API."""
        return f"http://127.0.0.1:{self._state()['port']}"

    @property
    def username(self) -> str:
        """The one user."""
        return airflow_config.USERNAME

    @property
    def password(self) -> str:
        """That user's password."""
        return str(self._state()["keys"]["password"])

    def api(self) -> AirflowApi:
        """A signed-in session with the REST API; the caller closes it.

        Raises:
            MaintenanceError: Airflow does not answer.
        """
        return AirflowApi(self.url, username=self.username, password=self.password)

    def components(self) -> dict[str, bool]:
        """Each part and whether it runs."""
        recorded = self._recorded()
        return {name: name in recorded and _runs(recorded[name]) for name in COMPONENTS}

    def is_running(self) -> bool:
        """Whether all parts run."""
        return all(self.components().values())

    def start(
        self,
        progress: Callable[[str], None] = lambda _: None,
        *,
        connections: Mapping[str, Mapping[str, object]],
        die_with_parent: bool = False,
    ) -> None:
        """Start all parts and wait until they work. Running already: nothing happens.

        Args:
            progress: told what is being waited for.
            connections: connection id -> its fields, as Airflow's connection files have them.
            die_with_parent: for tests: the parts end with the thread that calls this, even by SIGKILL
                (on Linux; elsewhere a killed test run leaves them).

        Raises:
            MaintenanceError: a part ended or is not healthy in time; the text has the end of its log.
        """
        if self.is_running():
            return
        self.stop()  # what is left of a half dead one
        self._write_files(connections)
        environment = airflow_config.environment(self.home, root=self.root, config_file=self.config_file)
        self._migrate(environment, progress)
        began = datetime.now(UTC)
        progress("starting its four parts")
        for name, arguments in COMPONENTS.items():
            self._spawn(name, arguments, environment, die_with_parent=die_with_parent)
        self._wait_until_healthy(began, progress)

    def stop(self) -> None:
        """End all parts and whatever they started, also what a killed part left behind.

        Raises:
            MaintenanceError: a process survived SIGKILL.
        """
        sessions = [entry["pid"] for entry in self._recorded().values() if not _was_reused(entry)]
        processes = members(self.home, sessions)
        for process in processes:
            _send(process, signal.SIGTERM)
        wait_gone(processes, seconds=GRACE_SECONDS)
        # Asked anew: a part may have started another process in its last seconds.
        left = members(self.home, sessions)
        for process in left:
            _send(process, signal.SIGKILL)
        left = wait_gone(left, seconds=GRACE_SECONDS)
        if left:
            raise MaintenanceError(
                f"Airflow's processes {', '.join(str(process.pid) for process in left)} do not end",
                untouched="all files",
                remedy="End them by hand.",
            )
        for child in self._children.values():
            child.wait(GRACE_SECONDS)  # reaped, where it is our own child; its threads may end after it
        if self._state_file.exists():
            self._save(processes={})

    @property
    def _state_file(self) -> Path:
        return self.home / "state.json"

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._state_file.read_text(encoding="utf-8"))
        return state

    def _save(self, **changes: object) -> None:
        write_private(self._state_file, json.dumps({**self._state(), **changes}, indent=1))

    def _recorded(self) -> dict[str, Any]:
        return self._state()["processes"] if self._state_file.exists() else {}

    def _write_files(self, connections: Mapping[str, Mapping[str, object]]) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        if not self._state_file.exists():
            fresh = {"port": PREFERRED_PORT, "keys": airflow_config.new_secrets(), "migrated": "", "processes": {}}
            write_private(self._state_file, json.dumps(fresh))
        self._save(port=free_port(self._state()["port"]))
        state = self._state()
        config = airflow_config.render_config(self.home, root=self.root, port=state["port"], keys=state["keys"])
        write_private(self.home / "airflow.cfg", config)
        write_private(self.home / "passwords.json", json.dumps({self.username: self.password}))
        write_private(self.home / "connections.json", json.dumps(connections))

    def _migrate(self, environment: Mapping[str, str], progress: Callable[[str], None]) -> None:
        version = importlib.metadata.version("apache-airflow-core")
        if self._state()["migrated"] == version:
            return
        progress("making its database")
        log = self.home / "migrate.log"
        with log.open("wb") as stream:
            result = subprocess.run(
                [_AIRFLOW, "db", "migrate"],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=self.home,
                env=environment,
                umask=0o077,
            )
        if result.returncode != 0:
            raise MaintenanceError(
                f"Airflow's database could not be made: {_tail(log)}",
                untouched="the databases and backups that Airflow looks after",
                remedy=f"Read {log}.",
            )
        self._save(migrated=version)

    def _spawn(self, name: str, arguments: list[str], environment: Mapping[str, str], *, die_with_parent: bool) -> None:
        with (self.home / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                [_AIRFLOW, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=environment,
                umask=0o077,
                start_new_session=True,
                # It calls one preloaded C function: nothing that another thread could hold a lock on.
                preexec_fn=death_signal(signal.SIGTERM) if die_with_parent else None,  # noqa: PLW1509 - above
            )
        self._children[name] = child
        entry = {"pid": child.pid, "started": seconds_after_boot(psutil.Process(child.pid))}
        self._save(processes={**self._recorded(), name: entry})

    def _wait_until_healthy(self, began: datetime, progress: Callable[[str], None]) -> None:
        deadline = time.monotonic() + START_SECONDS
        missing = list(COMPONENTS)
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as client:
            while missing:
                for name, child in self._children.items():
                    if child.poll() is not None:
                        log = self.home / f"{name}.log"
                        self.stop()
                        raise MaintenanceError(
                            f"Airflow's {name} ended with status {child.returncode}: {_tail(log)}",
                            untouched="the databases and backups that Airflow looks after",
                            remedy=f"Read {log}.",
                        )
                if time.monotonic() > deadline:
                    self.stop()
                    raise MaintenanceError(
                        f"Airflow is not healthy after {START_SECONDS:.0f} s: no {' and no '.join(missing)}",
                        untouched="the databases and backups that Airflow looks after",
                        remedy=f"Read the logs in {self.home}.",
                    )
                time.sleep(0.2)
                missing = _missing(client, began)
                progress(f"waiting for {', '.join(missing)}")
            # The execution API is built at its first request, which takes seconds: not during the first task.
            client.get("/execution/health")
        try:
            self.api().close()
        except MaintenanceError:
            self.stop()  # another server took the port between our look and our start, and answered in our place
            raise


def _missing(client: httpx.Client, began: datetime) -> list[str]:
    """The parts that have not reported since `began`."""
    try:
        health = client.get("/api/v2/monitor/health").json()
    except httpx.TransportError:
        return list(COMPONENTS)
    missing = []
    for name in ("scheduler", "dag_processor", "triggerer"):
        part = health[name]
        beat = part[f"latest_{name}_heartbeat"]
        # A heartbeat from before is of the last start.
        if part["status"] != "healthy" or beat is None or datetime.fromisoformat(beat) < began:
            missing.append(name.replace("_", "-"))
    return missing


def _runs(entry: Mapping[str, Any]) -> bool:
    try:
        return is_same(psutil.Process(entry["pid"]), entry["started"])
    except psutil.NoSuchProcess:
        return False


def _was_reused(entry: Mapping[str, Any]) -> bool:
    """Whether another process has a recorded id now, so that its session is not ours."""
    try:
        return not began_at(psutil.Process(entry["pid"]), entry["started"])
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, sent: signal.Signals) -> None:
    try:
        process.send_signal(sent)
    except psutil.NoSuchProcess:
        return


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(line for line in lines[-8:] if line.strip())
