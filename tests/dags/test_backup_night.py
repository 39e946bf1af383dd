"""The backup DAGs as a real scheduler runs them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.slack import TOKEN

if TYPE_CHECKING:
    from tests.dags.conftest import Night

pytestmark = pytest.mark.timeout(400)


def test_a_night_dumps_verifies_and_prunes_every_database(night: Night) -> None:
    run_id, state = night.run("backup_daily")
    assert state == "success"
    tasks = night.tasks("backup_daily", run_id)
    for database in night.databases:
        for task in ("preflight", "dump", "verify", "prune"):
            assert tasks[task, database].state == "success"
        (entry,) = night.backups(database)
        assert entry.good
        assert entry.manifest.run_id == run_id
        assert [(table.name, table.rows) for table in entry.manifest.tables] == [("guests", 5000)]
    assert night.slack.messages == []


def test_a_manual_run_takes_the_chosen_databases_only_and_keeps_what_it_is_told_to(night: Night) -> None:
    run_id, state = night.run("backup_weekly", databases=["beta"], keep_forever=True, reason="before the new season")
    assert state == "success"
    tasks = night.tasks("backup_weekly", run_id)
    assert tasks["preflight", "alpha"].state == "skipped"
    # What never ran has no name yet, only its number.
    assert tasks["dump", "0"].state == "skipped"
    assert not any(entry.manifest.tier == "weekly" for entry in night.backups("alpha"))
    (kept,) = (entry for entry in night.backups("beta") if entry.manifest.tier == "weekly")
    assert kept.manifest.keep_forever
    assert kept.manifest.reason == "before the new season"


def test_a_wrong_password_fails_one_database_at_once_and_the_others_are_finished(night: Night) -> None:
    before = {database: night.backups(database) for database in night.databases}
    told = len(night.slack.messages)
    with night.connection("alpha_db", password="wrong"):
        run_id, state = night.run("backup_daily")
    assert state == "failed"
    tasks = night.tasks("backup_daily", run_id)
    assert tasks["preflight", "alpha"].state == "failed"
    assert tasks["preflight", "alpha"].try_number == 1
    assert tasks["dump", "0"].state == "upstream_failed"
    for database in ("alpha_2", "beta"):
        assert tasks["prune", database].state == "success"
        # Several good ones of one day: none of them is pruned before the day is over.
        assert len(night.backups(database)) == len(before[database]) + 1
    assert night.backups("alpha") == before["alpha"]
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    for words in ("alpha", "password authentication failed", "nothing was written", "correct the Airflow connection"):
        assert words in message
    assert f"/dags/backup_daily/runs/{run_id.split(':')[0]}" in message
    assert "/mapped/0" in message
    log = night.log("backup_daily", run_id, "preflight", "alpha")
    assert "password authentication failed" in log
    assert "what to do" in log


def test_a_killed_task_is_told_once_and_leaves_no_pg_dump_behind(night: Night) -> None:
    told = len(night.slack.messages)
    listed = [entry.manifest.id for entry in night.backups("alpha")]
    with night.databases["alpha"].connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE guests IN ACCESS EXCLUSIVE MODE")
        run_id = night.api.trigger("backup_daily", conf={"databases": ["alpha", "beta"]})
        dump = _wait_for_pg_dump("alpha")
        task = dump.parent()
        assert task is not None
        task.kill()
        _wait_gone(dump)
    state = night.api.wait_for_run("backup_daily", run_id, seconds=120)
    assert state == "failed"
    assert night.tasks("backup_daily", run_id)["prune", "beta"].state == "success"
    assert [entry.manifest.id for entry in night.backups("alpha")] == listed
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    assert "dump was killed - alpha" in message
    with night.databases["alpha"].connect() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'alpha' AND pid <> pg_backend_pid()"
        assert session.execute(query).fetchone() == (0,)


def test_a_run_that_takes_too_long_is_stopped_and_told_once(night: Night) -> None:
    told = len(night.slack.messages)
    with night.databases["alpha"].connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE guests IN ACCESS EXCLUSIVE MODE")
        run_id, state = night.run("backup_monthly", databases=["alpha"])
        assert state == "failed"
        _wait_until(lambda: len(night.slack.messages) > told, seconds=30)
        _wait_until(lambda: not _pg_dumps("alpha"), seconds=30)
    time.sleep(3)
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    assert "backup_monthly: run timed out" in message
    assert run_id in message
    assert not any(entry.manifest.tier == "monthly" for entry in night.backups("alpha"))


def test_keeping_for_ever_needs_a_reason(night: Night) -> None:
    told = len(night.slack.messages)
    _, state = night.run("backup_weekly", databases=["alpha"], keep_forever=True)
    assert state == "failed"
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    assert "without a reason" in message


def test_no_secret_is_in_a_log_an_xcom_a_manifest_or_an_argument_list(night: Night) -> None:
    passwords = [str(dsn.password) for dsn in night.databases.values()]
    looked_at = 0
    own = {night.airflow.home / name for name in ("connections.json", "airflow.cfg", "passwords.json", "state.json")}
    for path in night.airflow.home.parent.rglob("*"):
        # Airflow's own database is a file of that folder too: XComs and rendered fields are in it.
        if path.is_file() and path not in own:
            looked_at += 1
            data = path.read_bytes()
            for secret in (*passwords, TOKEN):
                assert secret.encode() not in data, f"a secret is in {path}"
    assert looked_at > 20
    for process in psutil.process_iter(["cmdline"]):
        arguments = " ".join(process.info["cmdline"] or [])
        assert not any(password in arguments for password in passwords)


def test_all_dags_import_without_error(night: Night) -> None:
    assert night.api._call("GET", "/api/v2/importErrors")["import_errors"] == []


def _pg_dumps(database: str) -> list[psutil.Process]:
    processes = psutil.process_iter(["name", "cmdline"])
    return [
        process
        for process in processes
        if process.info["name"] == "pg_dump" and f"dbname={database} " in f"{' '.join(process.info['cmdline'] or [])} "
    ]


def _wait_for_pg_dump(database: str) -> psutil.Process:
    _wait_until(lambda: bool(_pg_dumps(database)), seconds=60)
    return _pg_dumps(database)[0]


def _wait_gone(process: psutil.Process) -> None:
    _wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, seconds=5)


def _wait_until(condition: object, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
