"""Getting a database back through the real UI: the form, the plan, a person's word, and what happens then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import DumpOptions
from include.backup.verify import verify
from tests.dags.browsing import clickable, open_form, send_form
from tests.dags.conftest import RUN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium import webdriver

    from include.stack.airflow_api import TaskInstance
    from tests.dags.conftest import Night

pytestmark = pytest.mark.timeout(400)
READING_SECONDS = 6.0


@pytest.fixture
def backup(night: Night) -> Iterator[str]:
    """A backup of beta, not proved yet."""
    manifest = back_up(
        night.databases["beta"],
        night.store,
        database="beta",
        tier=Tier.DAILY,
        options=DumpOptions(),
        run_id="by the test",
    )
    verify(night.store, manifest.backup_id)
    yield manifest.id
    with night.server.superuser().connect() as session:
        for name in _databases(night):
            if name.startswith("beta_"):
                session.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_a_person_fills_in_the_form_reads_the_plan_approves_and_has_the_database_back(
    night: Night, browser: webdriver.Chrome, backup: str
) -> None:
    page = open_form(browser, night.airflow, "backup_restore", shown="typed in full")
    for words in ("Database", "the newest proved one", "Connection", "New name", "Swap"):
        assert words in page
    # The form's first database is another one.
    browser.find_element(By.CSS_SELECTOR, "#element_database input[role=combobox]").send_keys("beta", Keys.ENTER)
    assert browser.find_element(By.NAME, "element_database").get_attribute("value") == "beta"
    for name, text in {"backup": backup, "new_name": "beta_again"}.items():
        browser.find_element(By.NAME, f"element_{name}").send_keys(text)
    send_form(browser)
    run_id = _newest_run(night)
    _wait_for(lambda: _tasks(night, run_id)["approve"].state == "awaiting_input")
    assert "beta_again" not in _databases(night)

    browser.get(f"{night.airflow.url}/dags/backup_restore/runs/{run_id}/tasks/approve/required_actions")
    approve = clickable(browser, "//*[@data-testid='hitl-option-Approve']")
    plan = browser.find_element(By.TAG_NAME, "body").text
    for words in (f"Restore {backup} as beta_again", "5,000 rows in 1 tables", "LOST is everything", "Nothing else is"):
        assert words in plan
    approve.click()
    assert night.api.wait_for_run("backup_restore", run_id, seconds=RUN_SECONDS) == "success"
    with night.databases["beta"].with_dbname("beta_again").connect() as session:
        assert session.execute("SELECT count(*), min(name) FROM guests").fetchone() == (5000, "guest 1")
    outcome = night.api.result("backup_restore", run_id, _tasks(night, run_id)["report"])
    assert (outcome["outcome"], outcome["approved_by"]) == ("restored", night.airflow.username)
    assert outcome["verdict"] == "proved"


def test_a_swap_takes_the_live_databases_place_and_keeps_the_old_one(night: Night, backup: str) -> None:
    with night.databases["beta"].connect() as session:
        session.execute("INSERT INTO guests VALUES (5001, 'written after the backup')")
    run_id = night.api.trigger("backup_restore", conf={"database": "beta", "backup": backup, "swap": "beta"})
    _answer(night, run_id, "Approve")
    assert night.api.wait_for_run("backup_restore", run_id, seconds=RUN_SECONDS) == "success"
    outcome = night.api.result("backup_restore", run_id, _tasks(night, run_id)["report"])
    assert outcome["name"] == "beta"
    assert any("RENAME" in statement for statement in outcome["go_back"])
    for name, rows in {"beta": 5000, outcome["old_name"]: 5001}.items():
        with night.databases["beta"].with_dbname(name).connect() as session:
            assert session.execute("SELECT count(*) FROM guests").fetchone() == (rows,)


def test_a_rejected_plan_leaves_everything_as_it_was_and_tells_nobody(night: Night, backup: str) -> None:
    before, told = _databases(night), len(night.slack.messages)
    run_id = night.api.trigger("backup_restore", conf={"database": "beta", "backup": backup})
    _answer(night, run_id, "Reject")
    assert night.api.wait_for_run("backup_restore", run_id, seconds=RUN_SECONDS) == "success"
    tasks = _tasks(night, run_id)
    assert tasks["restore"].state == "skipped"
    outcome = night.api.result("backup_restore", run_id, tasks["report"])
    assert outcome == {"outcome": "nothing was restored", "rejected_by": night.airflow.username}
    assert _databases(night) == before
    assert len(night.slack.messages) == told


def test_a_mistyped_name_of_the_live_database_is_refused_before_anybody_is_asked(night: Night, backup: str) -> None:
    before, told = _databases(night), len(night.slack.messages)
    run_id, state = night.run("backup_restore", database="beta", backup=backup, swap="bata")
    assert state == "failed"
    assert _tasks(night, run_id)["approve"].state == "upstream_failed"
    assert _databases(night) == before
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    for words in ("backup_restore: plan failed - beta", "'bata'", "'beta'", "nothing was changed"):
        assert words in message


def _answer(night: Night, run_id: str, choice: str) -> None:
    """As the UI's button does, after a person's time to read: one that comes at once may be lost (see the DAG)."""
    path = f"/api/v2/dags/backup_restore/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"

    asked: list[float] = []

    def answered() -> bool:
        state = _tasks(night, run_id)["approve"].state
        assert state not in {"failed", "upstream_failed"}
        if state != "awaiting_input":
            asked.clear()
        elif not asked:
            asked.append(time.monotonic())
        elif time.monotonic() > asked[0] + READING_SECONDS and not night.api._call("GET", path)["response_received"]:
            night.api._call("PATCH", path, {"chosen_options": [choice], "params_input": {}})
        return state == "success"

    _wait_for(answered)


def _newest_run(night: Night) -> str:
    path = "/api/v2/dags/backup_restore/dagRuns?state=queued&state=running"
    _wait_for(lambda: bool(night.api._call("GET", path)["dag_runs"]))
    return str(night.api._call("GET", path)["dag_runs"][0]["dag_run_id"])


def _tasks(night: Night, run_id: str) -> dict[str, TaskInstance]:
    return {task.task_id: task for task in night.api.task_instances("backup_restore", run_id)}


def _databases(night: Night) -> set[Any]:
    with night.server.superuser().connect() as session:
        return {name for (name,) in session.execute("SELECT datname FROM pg_database")}


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.3)
