"""Airflow's own web UI in a real browser."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as found
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.stack.airflow import AirflowServer

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
    "--window-size=1400,1800",
)
WAIT_SECONDS = 40


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("NOT RUN: chromium and chromedriver are not installed on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        yield chrome


def clickable(browser: webdriver.Chrome, xpath: str) -> Any:
    return WebDriverWait(browser, WAIT_SECONDS).until(found.element_to_be_clickable((By.XPATH, xpath)))


def open_form(browser: webdriver.Chrome, airflow: AirflowServer, dag_id: str, *, shown: str) -> str:
    """Sign in and open a DAG's form; the text of the page when `shown` is in it."""
    browser.get(airflow.url)
    clickable(browser, "//input[@name='username']").send_keys(airflow.username)
    browser.find_element(By.NAME, "password").send_keys(airflow.password)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    clickable(browser, "//*[normalize-space()='Dags']")
    browser.get(f"{airflow.url}/dags/{dag_id}")
    clickable(browser, "//button[normalize-space()='Trigger']").click()
    clickable(browser, f"//*[contains(., '{shown}')]")
    return str(browser.find_element(By.TAG_NAME, "body").text)


def send_form(browser: webdriver.Chrome) -> None:
    # The last of that name is the form's own, enabled only while every field is valid.
    clickable(browser, "(//button[normalize-space()='Trigger'])[last()]").click()
