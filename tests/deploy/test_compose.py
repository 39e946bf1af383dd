"""What can be known of docker-compose.yaml, .env.example and the Dockerfile without a Docker engine."""

from __future__ import annotations

import base64
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from include.backup.stores.url import parse_url
from include.config.settings import read
from tests.deploy import composefile
from tests.deploy.composefile import COMPOSE, DOCKERFILE, EXAMPLE, ROOT, VARIABLE

SECRET = re.compile(r"PASSWORD|SECRET|_KEY\b")
TEXT = COMPOSE.read_text(encoding="utf-8")
SERVICES = composefile.raw()["services"]
ONE_SHOT = {
    needed
    for service in SERVICES.values()
    for needed, how in service.get("depends_on", {}).items()
    if how["condition"] == "service_completed_successfully"
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .env file made by the very command that .env.example gives."""
    folder = tmp_path_factory.mktemp("env")
    shutil.copy(EXAMPLE, folder)
    (command,) = re.findall(r"^# +(\(umask .*\))$", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    subprocess.run(["/bin/sh", "-c", command], check=True, cwd=folder)
    return folder / ".env"


@pytest.fixture(scope="module")
def values(env: Path) -> dict[str, str]:
    return composefile.env_file(env.read_text(encoding="utf-8"))


def test_the_command_in_the_example_makes_every_secret_anew_and_for_this_user_only(
    env: Path, values: dict[str, str]
) -> None:
    empty = {name for name, value in composefile.env_file(EXAMPLE.read_text(encoding="utf-8")).items() if not value}
    made = [values[name] for name in empty]
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert len(set(made)) == len(empty) >= 9
    assert all(len(base64.urlsafe_b64decode(value)) == 32 for value in made)


def test_the_example_explains_every_variable_and_no_other() -> None:
    used = {match["name"] for match in VARIABLE.finditer(TEXT)}
    handed_on = {
        name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None
    }
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    optional = {line[1:].split("=")[0] for line in lines if re.match(r"#[A-Z_]+=", line)}
    assert used == composefile.env_file("\n".join(lines)).keys()
    assert handed_on == optional
    for number, line in enumerate(lines):
        if re.match(r"#?[A-Z_]+=", line):
            assert lines[number - 1].startswith("# "), f"{line} has no explanation above it"


def test_no_secret_has_a_default() -> None:
    defaults = {match["name"] for match in VARIABLE.finditer(TEXT) if match["kind"] == "-"}
    assert defaults == {"AIRFLOW_PORT", "HOTEL_DEMO_SCALE"}
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name) and not name.endswith("_FILE"):
                assert "${" in value, f"{name} is written into the file"
    assert not re.findall(r"\$(?!\{[A-Z_]+:[?-])", TEXT), "a variable in another form than ${NAME:?…} or ${NAME:-…}"


def test_no_secret_is_in_an_argument_list() -> None:
    for service in SERVICES.values():
        for text in composefile.strings([service.get("command", []), service.get("healthcheck", {})]):
            names = [match["name"] for match in VARIABLE.finditer(text)]
            assert names == []


def test_every_port_is_for_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("network_mode" in service for service in SERVICES.values())


def test_every_service_that_stays_has_a_health_check_and_starts_again() -> None:
    assert len(ONE_SHOT) == 1
    for name, service in SERVICES.items():
        assert ("healthcheck" in service) == (name not in ONE_SHOT), name
        assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped"), name
        assert "memory" in service["deploy"]["resources"]["limits"], name


def test_what_is_waited_for_can_come_about() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert how == {"condition": expected}, f"{name} needs {needed}"
            assert needed in SERVICES


def test_no_container_can_change_the_code_or_see_the_secrets_file() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert mode == ["ro"], f"{name}: {volume}"
                assert (ROOT / source).exists(), f"{name}: {volume}"
                assert source != ".", f"{name} sees .env"
            else:
                assert source in composefile.raw()["volumes"], f"{name}: {volume}"
            assert target.startswith("/")


def test_every_image_has_an_exact_version() -> None:
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"]), name


def test_what_the_containers_look_after_is_valid_and_goes_to_an_s3_store() -> None:
    settings = read(ROOT / "deploy" / "maintenance.yaml")
    airflow = SERVICES["scheduler"]["environment"]
    assert parse_url(settings.store.url).scheme == "s3"
    for connection in (settings.store.connection, *(each.connection for each in settings.databases.values())):
        assert f"AIRFLOW_CONN_{connection.upper()}" in airflow


def test_every_connection_is_json(values: dict[str, str]) -> None:
    for service in composefile.services(values).values():
        for name, value in composefile.environment(service, values).items():
            if name.startswith("AIRFLOW_CONN_"):
                assert json.loads(value)["conn_type"] in {"postgres", "aws"}


def test_compose_itself_accepts_the_file_and_reads_it_as_these_tests_do(env: Path, values: dict[str, str]) -> None:
    command = composefile.compose_command()
    if command is None:
        pytest.skip("NOT RUN: Docker Compose is not installed here")
    result = subprocess.run(
        [*command, "--env-file", env, "--file", COMPOSE, "config", "--format=json"],
        check=False,
        capture_output=True,
        text=True,
        cwd=env.parent,
    )
    # Not the exit status: the wheel's wrapper around Compose gives 0 for everything.
    assert result.stderr == ""
    theirs = json.loads(result.stdout)["services"]
    ours = composefile.services(values)
    assert theirs.keys() == ours.keys()
    for name, service in ours.items():
        # Compose writes `$` as `$$` and a name that was handed on without a value as null.
        resolved = {key: value for key, value in theirs[name]["environment"].items() if value is not None}
        assert resolved == composefile.environment(service, values)
        assert theirs[name]["command"] == service.get("command")


def test_compose_refuses_to_start_without_secrets(env: Path) -> None:
    command = composefile.compose_command()
    if command is None:
        pytest.skip("NOT RUN: Docker Compose is not installed here")
    empty = env.with_name("empty")
    empty.touch()
    result = subprocess.run(
        [*command, "--env-file", empty, "--file", COMPOSE, "config"], check=False, capture_output=True, text=True
    )
    assert result.stdout == ""
    assert "see .env.example" in result.stderr


def test_the_image_is_the_airflow_that_is_locked_and_runs_as_no_root() -> None:
    lines = composefile.instructions()
    (base,) = [rest for name, rest in lines if name == "FROM"]
    locked = re.search(r"^apache-airflow==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked is not None
    assert re.fullmatch(rf"apache/airflow:slim-{re.escape(locked[1])}-python3\.11", base)
    assert [rest for name, rest in lines if name == "USER"][-1] == "50000"


def test_the_image_names_no_host() -> None:
    assert re.findall(r"https?://([^/\s\"]+)", DOCKERFILE.read_text(encoding="utf-8")) == []


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, rest in composefile.instructions():
        if name == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_the_linter_for_dockerfiles_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("NOT RUN: hadolint is not installed here")
    result = subprocess.run([hadolint, "--no-color", DOCKERFILE], check=False, capture_output=True, text=True)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0
