"""The containers of docker-compose.yaml started as local processes: their commands, environment and health checks.

What Docker would do is done by hand: names of services become 127.0.0.1 and a free port, folders of the containers
become folders of the checkout or of this test. The proving ground is a real server of its own, the other two databases
share one; the store is rclone's S3 server, since the image's own has no form that runs here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from psycopg import sql

from include.stack.airflow_api import AirflowApi
from include.stack.processes import MARKER, death_signal, members, wait_gone
from tests.deploy import composefile
from tests.objectstores import ACCESS_KEY, REGION, SECRET_KEY, free_port, rclone_server, s3_client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from include.stack.airflow_api import TaskInstance
    from include.stack.postgres import PostgresServer
    from tests.objectstores import ObjectServer

HEALTHY_SECONDS = 240.0
RUN_SECONDS = 240.0
SUFFIXES = (".dump", ".inventory.json", ".json", ".verify.json", ".proof.json")
STAYING = ("apiserver", "scheduler", "dag-processor", "triggerer")
SECRETS = {
    name: f"{name.lower().replace('_', '-')}-0123456789"
    for name in (
        "AIRFLOW_ADMIN_PASSWORD", "AIRFLOW_SECRET_KEY", "AIRFLOW_JWT_SECRET", "AIRFLOW_DB_PASSWORD",
        "HOTEL_DB_PASSWORD", "HOTEL_DB_SUPERUSER_PASSWORD",
        "PROVING_GROUND_PASSWORD", "PROVING_GROUND_SUPERUSER_PASSWORD",
    )
}  # fmt: skip
VALUES = {
    **SECRETS,
    "AIRFLOW_FERNET_KEY": "bm8gc2VjcmV0LCBvbmx5IGZvciB0aGlzIHRlc3QhIQ==",
    "STORE_ACCESS_KEY": ACCESS_KEY,
    "STORE_SECRET_KEY": SECRET_KEY,
    "HOTEL_DEMO_SCALE": "0.05",
}
SERVICES = composefile.services(VALUES)


@dataclass
class Machine:
    """The one machine on which all the containers are."""

    home: Path
    server: PostgresServer
    ground: PostgresServer
    store: ObjectServer
    api_port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def local(self, text: str) -> str:
        """A text of the compose file with the containers' places replaced by this machine's."""
        for theirs, ours in {
            "/opt/night-porter": str(composefile.ROOT),
            "/opt/deploy": str(composefile.ROOT / "deploy"),
            "/etc/night-porter": str(composefile.ROOT / "deploy"),
            "/opt/airflow": str(self.home),
            "/opt/venv/bin": str(Path(sys.executable).parent),
            "$PATH": os.environ["PATH"],
            "http://apiserver:8080": f"http://127.0.0.1:{self.api_port}",
            "http://127.0.0.1:8080": f"http://127.0.0.1:{self.api_port}",
            "http://127.0.0.1:8974": f"http://127.0.0.1:{self.health_port}",
            "http://store:7070": self.store.endpoint,
            "us-east-1": REGION,
            "airflow-db:5432": f"127.0.0.1:{self.server.port}",
            '"hotel-db", "port": 5432': f'"127.0.0.1", "port": {self.server.port}',
            '"proving-ground", "port": 5432': f'"127.0.0.1", "port": {self.ground.port}',
        }.items():
            text = text.replace(theirs, ours)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """What the image and the compose file give a service, and what stands for the container itself."""
        given = {**composefile.image_environment(), **composefile.environment(SERVICES[service], VALUES)}
        return {
            **{name: self.local(value) for name, value in given.items()},
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home),
            # A container's own loopback is closed to others; this machine's ports have to be.
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.api_port),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self.health_port),
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
            MARKER: str(self.home),
        }

    def log(self, service: str) -> str:
        """What a service wrote."""
        return (self.home / f"{service}.log").read_text(encoding="utf-8", errors="replace")

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service by the words of its `command`; the image's entrypoint puts `airflow` before them."""
        command = [self.local(word) for word in SERVICES[service]["command"]]
        if command[0] != "bash":
            command = ["airflow", *command]
        with (self.home / f"{service}.log").open("wb") as log:
            self.started[service] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self.environment(service),
                start_new_session=True,
                # It calls one preloaded C function: nothing that another thread could hold a lock on.
                preexec_fn=death_signal(signal.SIGTERM),  # noqa: PLW1509 - above
            )
        return self.started[service]

    def wait_healthy(self, service: str) -> None:
        """Run a service's health check until it succeeds."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        while (problem := self.check(service)) is not None:
            assert self.started[service].poll() is None, f"{service} ended:\n{self.log(service)[-3000:]}"
            assert time.monotonic() < deadline, f"{service}: {problem}\n{self.log(service)[-3000:]}"
            time.sleep(0.5)

    def check(self, service: str, **more: str) -> str | None:
        """Run a health check once; None where it succeeds."""
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        result = subprocess.run(
            [self.local(word) for word in command],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.home,
            env={**(self.environment(service) if service in STAYING else dict(os.environ)), **more},
        )
        return None if result.returncode == 0 else f"status {result.returncode}: {result.stdout}{result.stderr}"

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to these services."""
        return members(self.home, [child.pid for child in self.started.values()])

    def stop(self) -> None:
        """End everything, the way `docker compose down` does."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            found = self.processes()
            for process in found:
                try:
                    process.send_signal(how)
                except psutil.NoSuchProcess:
                    continue
            wait_gone(found, seconds=15)
        for child in self.started.values():
            child.wait()


@contextmanager
def databases(server: PostgresServer, ground: PostgresServer) -> Iterator[None]:
    """What the postgres image and the scripts beside the compose file make of three new volumes."""
    with server.superuser().connect() as session:
        session.execute(
            sql.SQL("CREATE ROLE airflow LOGIN PASSWORD {}").format(sql.Literal(VALUES["AIRFLOW_DB_PASSWORD"]))
        )
        session.execute("CREATE DATABASE airflow OWNER airflow")
        session.execute("CREATE DATABASE hotel")
    try:
        _run_script(server, "hotel-db", "hotel")
        _run_script(ground, "proving-ground", "postgres")
        yield
    finally:
        _remove(server, names=("airflow", "hotel"), roles=("airflow", "hotel"))
        _remove(ground, names=(), roles=("proving_ground", "hotel"))


def _remove(server: PostgresServer, *, names: Iterable[str], roles: Iterable[str]) -> None:
    with server.superuser().connect() as session:
        for name in names:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        for role in roles:
            session.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _run_script(server: PostgresServer, service: str, dbname: str) -> None:
    """As the image's entrypoint runs a script: psql, as superuser, stopping at the first error."""
    (script,) = [volume.split(":")[0] for volume in SERVICES[service]["volumes"] if "initdb" in volume]
    superuser = server.superuser()
    subprocess.run(
        [server.bin_dir / "psql", "--variable=ON_ERROR_STOP=1", "--no-psqlrc", "--no-password", "--quiet",
         "--host=127.0.0.1", f"--port={server.port}", f"--username={superuser.user}", f"--dbname={dbname}",
         f"--file={composefile.ROOT / script}"],
        check=True,
        env={"PGPASSWORD": str(superuser.password), **composefile.environment(SERVICES[service], VALUES)},
    )  # fmt: skip


@pytest.fixture
def machine(pg17: PostgresServer, ground17: PostgresServer, tmp_path: Path) -> Iterator[Machine]:
    home, buckets = tmp_path / "airflow", tmp_path / "buckets"
    (home / "auth").mkdir(parents=True)
    (home / "logs").mkdir()
    buckets.mkdir()
    with rclone_server(buckets, tmp_path / "rclone.log") as store, databases(pg17, ground17):
        machine = Machine(home=home, server=pg17, ground=ground17, store=store)
        try:
            yield machine
        finally:
            machine.stop()


@pytest.mark.timeout(900)
def test_the_containers_commands_make_and_prove_a_backup_and_are_healthy(machine: Machine) -> None:
    ports = {"hotel-db": machine.server, "airflow-db": machine.server, "proving-ground": machine.ground}
    for service, port in {service: server.port for service, server in ports.items()}.items():
        path = f"{machine.server.bin_dir}{os.pathsep}{os.environ['PATH']}"
        assert machine.check(service, PATH=path, PGPORT=str(port)) is None

    init = machine.start("init")
    assert init.wait(timeout=HEALTHY_SECONDS) == 0, machine.log("init")[-3000:]
    _started_twice_changes_nothing(machine)

    machine.start("apiserver")
    machine.start("dag-processor")
    machine.wait_healthy("apiserver")
    machine.start("scheduler")
    machine.start("triggerer")
    with ThreadPoolExecutor() as pool:
        list(pool.map(machine.wait_healthy, STAYING))

    logs, backup, seen = _back_up(machine)
    with closing(s3_client(machine.store.endpoint)) as client:
        stored = client.list_objects_v2(Bucket="night-porter")
    expected = {
        f"backups/{backup}{suffix}" for suffix in (".dump", ".inventory.json", ".json", ".verify.json", ".proof.json")
    }
    assert {entry["Key"] for entry in stored["Contents"]} == expected

    _only_for_this_machine(machine.processes())
    _keeps_secrets([*seen, *logs, *(machine.log(service) for service in machine.started)])


def _back_up(machine: Machine) -> tuple[list[str], str, list[str]]:
    """One run of `backup_daily` and the proof that it starts.

    The logs of their tasks, the backup's id, and every argument list seen meanwhile.
    """
    url = f"http://127.0.0.1:{machine.api_port}"
    logs: list[str] = []
    seen: list[str] = []
    with AirflowApi(url, username="admin", password=VALUES["AIRFLOW_ADMIN_PASSWORD"]) as api:

        def succeeds(dag_id: str, run_id: str) -> list[TaskInstance]:
            state = api.wait_for_run(
                dag_id, run_id, seconds=RUN_SECONDS, watch=lambda _: seen.extend(_arguments(machine.processes()))
            )
            tasks = api.task_instances(dag_id, run_id)
            logs.extend(api.log(dag_id, run_id, task) for task in tasks)
            assert state == "success", "\n\n".join(logs)[-6000:]
            return tasks

        for dag_id in ("backup_daily", "backup_prove"):
            api.wait_for_dag(dag_id, seconds=120)
        run_id = api.trigger("backup_daily")
        (dump,) = (task for task in succeeds("backup_daily", run_id) if task.task_id == "database.dump")
        backup = api.result("backup_daily", run_id, dump)["backup"]
        succeeds("backup_prove", api.wait_for_started_run("backup_prove", by="backup_daily", by_run=run_id, seconds=60))
    return logs, backup, seen


def _started_twice_changes_nothing(machine: Machine) -> None:
    password_file = machine.home / "auth" / "passwords.json"
    assert json.loads(password_file.read_text(encoding="utf-8")) == {"admin": VALUES["AIRFLOW_ADMIN_PASSWORD"]}
    assert password_file.stat().st_mode & 0o077 == 0
    assert "demo data loaded" in machine.log("init")
    # The same script without `airflow db migrate` before it, which is Airflow's own and takes its time.
    again = subprocess.run(
        [sys.executable, composefile.ROOT / "deploy" / "init.py"],
        check=False, capture_output=True, text=True, cwd=machine.home, env=machine.environment("init"),
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "created" not in again.stdout
    assert "loaded" not in again.stdout


def _arguments(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        try:
            found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def _only_for_this_machine(processes: list[psutil.Process]) -> None:
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def _keeps_secrets(texts: list[str]) -> None:
    for text in texts:
        for name in [*SECRETS, "AIRFLOW_FERNET_KEY", "STORE_SECRET_KEY"]:
            assert VALUES[name] not in text, f"{name} is shown"
