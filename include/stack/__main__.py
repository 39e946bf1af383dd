"""`python -m include.stack`: the embedded stack from a shell; `make` calls it."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from include.errors import MaintenanceError
from include.stack.embedded import EmbeddedStack
from include.stack.steps import Step, Steps

if TYPE_CHECKING:
    from include.stack.airflow_api import AirflowApi, TaskInstance

ROOT = Path(__file__).resolve().parents[2]
DEMO_DAG, PROOF_DAG = "backup_daily", "backup_prove"
DEMO_SECONDS = 900.0
START_SECONDS = 60.0
_LOG_LINES = 25
_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status is 0 only for success."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    errors = Console(stderr=True, highlight=False)
    try:
        return _run(options, console)
    except MaintenanceError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except FileNotFoundError as error:
        # State files are missing before the first start only.
        errors.print(
            f"Nothing was started here yet ({error.filename} is missing): run `make up`.",
            markup=False,
            soft_wrap=True,
        )
        return 1
    except KeyboardInterrupt:
        errors.print("Interrupted. What was started still runs; `make down` stops it.")
        return 130


def _run(options: argparse.Namespace, console: Console) -> int:
    stack = EmbeddedStack(options.home, root=ROOT)
    match options.command:
        case "up":
            _up(stack, console, scale=options.scale)
        case "demo":
            _up(stack, console, scale=options.scale)
            return _demo(stack, console)
        case "status":
            return _status(stack, console)
        case "password":
            print(stack.airflow.password)
        case "env":
            for name, value in _environment(stack).items():
                print(f"export {name}={shlex.quote(value)}")
        case "down":
            with Steps(console) as steps:
                stack.down(steps)
        case "clean":
            with Steps(console) as steps:
                stack.remove(steps)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "up": "start the servers and Airflow",
        "down": "stop them; the data stays",
        "status": "what runs; exit status 0 only where everything does",
        "demo": f"up, then run {DEMO_DAG} once, wait for its proof and show the backups",
        "password": "print the password of Airflow's user",
        "env": "print the environment for python -m include.cli",
        "clean": "stop everything and delete all that was made",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--home", type=Path, default=ROOT / ".night-porter", help="folder for all state")
        if name in {"up", "demo"}:
            command.add_argument(
                "--scale", type=float, default=1.0, help="size of the hotel's data: 1 is 10,000 bookings"
            )
    return parser


def _up(stack: EmbeddedStack, console: Console, *, scale: float) -> None:
    with Steps(console) as steps:
        stack.up(steps, scale=scale)
    airflow = stack.airflow
    console.print(
        f"\nAirflow: {airflow.url}\nSign in as {airflow.username}; `make password` prints the password.",
        markup=False,
    )


def _demo(stack: EmbeddedStack, console: Console) -> int:
    with stack.airflow.api() as api:
        for dag_id in (DEMO_DAG, PROOF_DAG):
            api.wait_for_dag(dag_id)
        console.print(f"\n{DEMO_DAG}, started over Airflow's API:", markup=False)
        backup_run = api.trigger(DEMO_DAG)
        if not _watched(api, DEMO_DAG, backup_run, console):
            return 1
        console.print(f"\n{PROOF_DAG}, started by the backup:", markup=False)
        proof_run = api.wait_for_started_run(PROOF_DAG, by=DEMO_DAG, by_run=backup_run, seconds=START_SECONDS)
        if not _watched(api, PROOF_DAG, proof_run, console):
            return 1
    console.print()
    backups = subprocess.run(
        [sys.executable, "-m", "include.cli", "backups"],
        check=False,
        cwd=ROOT,
        env={**os.environ, **_environment(stack)},
    )
    console.print()
    for dag_id, run_id in ((DEMO_DAG, backup_run), (PROOF_DAG, proof_run)):
        console.print(f"In Airflow: {stack.airflow.url}/dags/{dag_id}/runs/{run_id}", markup=False, soft_wrap=True)
    return backups.returncode


def _watched(api: AirflowApi, dag_id: str, run_id: str, console: Console) -> bool:
    """Show a run until its end; whether it succeeded. Where it did not, the logs of what failed are shown."""
    with Steps(console) as steps:
        state = api.wait_for_run(dag_id, run_id, seconds=DEMO_SECONDS, watch=_Watcher(steps))
    if state != "success":
        _print_failures(api, dag_id, run_id, console)
    return state == "success"


def _environment(stack: EmbeddedStack) -> dict[str, str]:
    """What the command line needs to look at this stack."""
    return {
        "NIGHT_PORTER_CONFIG": str(stack.config_file),
        "AIRFLOW_HOME": str(stack.airflow.home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


class _Watcher:
    """Shows each task of a run as a step."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._shown: dict[tuple[str, int], Step] = {}
        self._ended: set[tuple[str, int]] = set()
        self._retried: set[tuple[str, int, int]] = set()

    def __call__(self, tasks: list[TaskInstance]) -> None:
        for task in tasks:
            key = (task.task_id, task.map_index)
            if key in self._ended or task.state is None:
                continue
            if key not in self._shown:
                # A mapped task has its name from its first end on; before, only a number.
                name = "" if task.name.isdigit() else task.name
                self._shown[key] = self._steps.begin(f"{task.task_id.rpartition('.')[2]} {name}".rstrip())
            if task.state in _ENDED:
                self._ended.add(key)
                self._shown[key].done(succeeded=task.state in {"success", "skipped"}, seconds=task.seconds or 0.0)
            else:
                self._shown[key].detail(task.state)
                if task.state == "up_for_retry" and (*key, task.try_number) not in self._retried:
                    self._retried.add((*key, task.try_number))
                    self._shown[key].note(f"try {task.try_number} failed and will be repeated")


def _print_failures(api: AirflowApi, dag_id: str, run_id: str, console: Console) -> None:
    console.print(f"\nThe run {run_id} failed.", style="bold red", markup=False)
    for task in api.task_instances(dag_id, run_id):
        if task.state == "failed" and task.try_number > 0:
            log = api.log(dag_id, run_id, task).splitlines()
            lines = [line for line in log if "::group::" not in line and "::endgroup::" not in line]
            first = next((i for i, line in enumerate(lines) if line.startswith("ERROR")), 0)
            console.print(f"\n{task.task_id} {task.name}".rstrip(), style="bold", markup=False)
            console.print("\n".join(lines[first : first + _LOG_LINES]), markup=False, soft_wrap=True)


def _status(stack: EmbeddedStack, console: Console) -> int:
    table = Table(box=None, pad_edge=False)
    for column in ("what", "state", "address"):
        table.add_column(column)
    states = []
    for name, server in stack.servers.items():
        running = server.is_running()
        states.append(running)
        table.add_row(f"PostgreSQL {name}", _word(running), f"127.0.0.1:{server.port}" if running else "")
    started = (stack.home / "airflow").exists()
    parts = stack.airflow.components() if started else {"": False}
    for name, running in parts.items():
        states.append(running)
        url = stack.airflow.url if running and name == "api-server" else ""
        table.add_row(f"Airflow {name}", _word(running), url)
    console.print(table)
    return 0 if all(states) else 1


def _word(running: bool) -> str:
    return "[green]running[/]" if running else "[red]stopped[/]"


if __name__ == "__main__":
    sys.exit(main())
