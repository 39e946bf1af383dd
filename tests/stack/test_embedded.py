"""The embedded stack as a whole, from nothing to a finished DAG run and back to nothing."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from rich.console import Console

from include.stack.__main__ import main
from include.stack.embedded import GROUND_SETTINGS, EmbeddedStack
from include.stack.processes import members
from include.stack.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DAG = '''
"""Counts the hotel's bookings through the connection that the stack wrote."""
from airflow.sdk import Connection, dag, task


@dag(schedule=None)
def count_bookings():
    @task
    def count() -> None:
        import os

        import psycopg

        hotel = Connection.get("hotel_db")
        with psycopg.connect(
            host=hotel.host, port=hotel.port, user=hotel.login, password=hotel.password, dbname=hotel.schema
        ) as session:
            found = session.execute("SELECT count(*) FROM bookings").fetchone()[0]
        print(f"bookings: {found}, settings: {os.environ['NIGHT_PORTER_CONFIG']}")

    @task
    def fail() -> None:
        raise ValueError("meant to fail")

    count() >> fail()


count_bookings()
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle with one DAG, so that this test needs nothing of the real ones."""
    (tmp_path / "root" / "dags").mkdir(parents=True)
    (tmp_path / "root" / "plugins").mkdir()
    (tmp_path / "root" / "dags" / "count_bookings.py").write_text(DAG)
    config = tmp_path / "root" / "include" / "config" / "maintenance.yaml"
    config.parent.mkdir(parents=True)
    config.write_text((ROOT / "include" / "config" / "maintenance.yaml").read_text())
    return tmp_path / "root"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="night-porter-stack-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "home"


def _listening(process: psutil.Process) -> set[str]:
    return {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}


def _assert_hidden(secrets: list[str]) -> None:
    for process in psutil.process_iter():
        try:
            shown = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        assert not any(secret in text for text in shown for secret in secrets), process


def _assert_private(home: Path, secrets: list[str]) -> None:
    for path in home.rglob("*"):
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.timeout(280)
def test_the_stack_runs_a_dag_and_leaves_no_process_even_after_a_crash(home: Path, root: Path) -> None:
    stack = EmbeddedStack(home, root=root)
    output = io.StringIO()
    steps = Steps(Console(file=output))
    try:
        stack.up(steps, scale=0.01, die_with_parent=True)
        airflow = stack.airflow
        assert airflow.is_running()
        assert "hotel's data" in output.getvalue()

        with stack.dsn("hotel").connect() as session:
            role = session.execute(
                "SELECT rolsuper, rolcreatedb, pg_has_role('pg_read_all_stats', 'member'), pg_get_userbyid(datdba)"
                " FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
            ).fetchone()
        assert role == (False, True, True, "hotel")
        with stack.dsn("proving-ground").connect() as session:
            role = session.execute("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
            owner = session.execute(
                "SELECT rolcanlogin, pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'hotel'"
            ).fetchone()
            settings = dict(session.execute("SELECT name, setting FROM pg_settings").fetchall())
        assert role == (False, True)
        assert owner == (False, True), "what the hotel owns cannot be restored there"
        assert {name: settings[name] for name in GROUND_SETTINGS if name != "max_wal_size"} == {
            name: value for name, value in GROUND_SETTINGS.items() if name != "max_wal_size"
        }
        with stack.dsn("hotel").connect() as session:
            assert session.execute("SHOW fsync").fetchone() == ("on",)

        keys = airflow._state()["keys"]
        secrets = [*keys.values(), *(str(stack.dsn(name).password) for name in stack.servers)]
        _assert_hidden(secrets)
        _assert_private(home, secrets)

        with airflow.api() as api:
            api.wait_for_dag("count_bookings")
            run_id = api.trigger("count_bookings")
            watched: list[int] = []
            state = api.wait_for_run(
                "count_bookings", run_id, seconds=120, watch=lambda tasks: watched.append(len(tasks))
            )
            count, fail = api.task_instances("count_bookings", run_id)
            assert (state, count.state, fail.state) == ("failed", "success", "failed")
            assert f"bookings: 100, settings: {stack.config_file}" in api.log("count_bookings", run_id, count)
            assert "ValueError: meant to fail" in api.log("count_bookings", run_id, fail)
            assert set(watched) == {2}

        ours = members(airflow.home, [entry["pid"] for entry in airflow._recorded().values()])
        assert len(ours) > 4, "the workers are not found"
        assert set().union(*map(_listening, ours)) == {"127.0.0.1"}

        bystander = psutil.Popen(["/bin/sleep", "120"], cwd=airflow.home, start_new_session=True)
        # The worst crash: the parts are gone, their workers are not.
        for entry in airflow._recorded().values():
            psutil.Process(entry["pid"]).kill()
        stack.down(steps)
        assert bystander.is_running(), "a process that only works in the same folder was ended"
        bystander.kill()
        bystander.wait()
        assert [p for p in ours if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
        assert not any(server.is_running() for server in stack.servers.values())
    finally:
        stack.remove(steps)
    assert not home.exists()


def test_two_commands_at_once_do_not_start_two_stacks(home: Path, root: Path, capsys) -> None:
    stack = EmbeddedStack(home, root=root)
    home.mkdir()
    with stack._alone():
        assert main(["down", "--home", str(home)]) == 1
    assert "another command" in capsys.readouterr().err


def test_commands_before_the_first_start_say_so(home: Path, capsys) -> None:
    assert main(["status", "--home", str(home)]) == 1
    assert "stopped" in capsys.readouterr().out
    assert main(["password", "--home", str(home)]) == 1
    assert "make up" in capsys.readouterr().err
    assert main(["down", "--home", str(home)]) == 0
    assert main(["clean", "--home", str(home)]) == 0
    assert not home.exists()


def test_output_that_is_no_terminal_gets_plain_lines() -> None:
    output = io.StringIO()
    with Steps(Console(file=output)) as steps:
        with steps.step("one [bold]thing[/]") as step:
            step.detail("half way")
        with pytest.raises(ZeroDivisionError), steps.step("another thing"):
            raise ZeroDivisionError
    lines = output.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "FAILED"]
    assert lines[0].endswith("s  one [bold]thing[/]")
    assert "\x1b" not in output.getvalue()
    assert os.linesep + os.linesep not in output.getvalue()
