"""The form of a manual backup, filled in by a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selenium.webdriver.support.ui import WebDriverWait

from tests.dags.browsing import open_form, send_form

if TYPE_CHECKING:
    from selenium import webdriver

    from tests.dags.conftest import Night


def test_a_person_starts_a_backup_from_the_ui_with_the_form_as_it_comes(
    night: Night, browser: webdriver.Chrome
) -> None:
    page = open_form(browser, night.airflow, "backup_weekly", shown="Which of the configured databases")
    for words in (
        "Databases",
        "Keep for ever",
        "Pruning never removes this backup",
        "Reason",
        "Needed where it is kept",
    ):
        assert words in page
    for name in night.databases:
        assert name in page
    before = len(night.backups("beta"))
    send_form(browser)
    WebDriverWait(browser, 90).until(lambda _: len(night.backups("beta")) == before + 1)
    newest = night.backups("beta")[-1].manifest
    assert newest.tier == "weekly"
    assert newest.run_id.startswith("manual__")
    assert not newest.keep_forever
