"""The form of a manual backup, filled in by a real browser."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as found
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.dags.conftest import Night

# As root Chromium has no sandbox; the rest keeps it from looking for its makers' servers.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1400",
)
WAIT_SECONDS = 40


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("NOT RUN: chromium and chromedriver are not installed on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        yield chrome


def _wait(browser: webdriver.Chrome, xpath: str) -> Any:
    return WebDriverWait(browser, WAIT_SECONDS).until(found.element_to_be_clickable((By.XPATH, xpath)))


def test_a_person_starts_a_backup_from_the_ui_with_the_form_as_it_comes(
    night: Night, browser: webdriver.Chrome
) -> None:
    browser.get(night.airflow.url)
    _wait(browser, "//input[@name='username']").send_keys(night.airflow.username)
    browser.find_element(By.NAME, "password").send_keys(night.airflow.password)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    _wait(browser, "//*[normalize-space()='Dags']")
    browser.get(f"{night.airflow.url}/dags/backup_weekly")
    _wait(browser, "//button[normalize-space()='Trigger']").click()
    _wait(browser, "//*[contains(., 'Which of the configured databases')]")
    page = browser.find_element(By.TAG_NAME, "body").text
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
    # The second of that name is the form's own, enabled only while every field is valid.
    _wait(browser, "(//button[normalize-space()='Trigger'])[last()]").click()
    WebDriverWait(browser, 90).until(lambda _: len(night.backups("beta")) == before + 1)
    newest = night.backups("beta")[-1].manifest
    assert newest.tier == "weekly"
    assert newest.run_id.startswith("manual__")
    assert not newest.keep_forever
