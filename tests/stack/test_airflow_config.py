"""What an embedded Airflow is told, without starting one."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import TYPE_CHECKING

from include.stack.airflow_config import environment, new_secrets, render_config

if TYPE_CHECKING:
    import pytest


def test_a_per_cent_sign_in_a_path_survives_the_configuration_file() -> None:
    text = render_config(Path("/srv/50% off"), root=Path("/srv/root"), port=8081, keys=new_secrets())
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert parser["database"]["sql_alchemy_conn"] == "sqlite:////srv/50% off/airflow.db"


def test_airflow_listens_on_this_machine_only_and_finds_itself_there() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(render_config(Path("/h"), root=Path("/r"), port=8081, keys=new_secrets()))
    assert parser["api"]["host"] == "127.0.0.1"
    assert parser["api"]["base_url"] == "http://127.0.0.1:8081"
    assert parser["core"]["execution_api_server_url"] == "http://127.0.0.1:8081/execution/"


def test_no_two_stacks_share_a_key() -> None:
    one, other = new_secrets(), new_secrets()
    assert all(one[name] != other[name] for name in one)


def test_airflow_inherits_no_setting_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "stray")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stray")
    monkeypatch.setenv("PGPASSWORD", "stray")
    assert "stray" not in environment(Path("/h"), root=Path("/r"), config_file=Path("/c.yaml")).values()


def test_workers_never_ask_a_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    made = environment(Path("/h"), root=Path("/r"), config_file=Path("/c.yaml"))
    assert made["https_proxy"] == "http://proxy.example:3128"
    assert "127.0.0.1" in made["no_proxy"].split(",")
