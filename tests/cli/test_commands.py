"""The command line: an exit status that a script can trust, JSON and nothing else where JSON is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from include.backup.catalog import read_catalog
from include.backup.stores.local import LocalStore
from tests.cli.cli_world import ROOT, as_json, configure, connection, run

if TYPE_CHECKING:
    from pathlib import Path

    from include.postgres.dsn import Dsn

COMMANDS = ("backup", "backups", "verify", "prove", "restore", "prune", "monitor")


def test_every_command_explains_itself() -> None:
    overview = run("--help")
    assert overview.exit_code == 0
    assert "Exit status" in overview.output
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", overview.output)
        page = run(command, "--help")
        assert page.exit_code == 0
        assert "--json" in page.output


def test_a_backup_is_made_verified_and_listed(hotel: Dsn, home: Path) -> None:
    made = run("backup")
    assert made.exit_code == 0, made.output
    assert "1,234" in made.stdout
    assert "yes" in made.stdout
    (entry,) = read_catalog(LocalStore(home / "store"), "hotel").entries
    assert entry.good
    assert entry.manifest.run_id.startswith("cli ")
    listed = as_json(run("backups", "--json"))
    assert listed == [
        {
            "id": entry.manifest.id,
            "database": "hotel",
            "tier": "daily",
            "created_at": entry.manifest.created_at.isoformat(),
            "bytes": entry.manifest.bytes,
            "verified": "yes",
            "proof": None,
            "keep_forever": False,
            "reason": "",
        }
    ]


def test_json_is_all_that_stdout_holds(hotel: Dsn) -> None:
    assert as_json(run("backups", "--json")) == []
    (made,) = as_json(run("backup", "--tier", "monthly", "--keep-forever", "--reason", "before the sale", "--json"))
    assert (made["tier"], made["keep_forever"], made["reason"]) == ("monthly", True, "before the sale")
    (verified,) = as_json(run("verify", "--json"))
    assert verified["verified"] == "yes"
    (report,) = as_json(run("prune", "--json")).values()
    assert report["removed"] == []


def test_one_database_that_fails_does_not_stop_the_others(
    hotel: Dsn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = json.loads(connection(hotel)) | {"password": "n0t-the-password"}
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN_DB", json.dumps(broken))
    configure(home, broken="broken_db", unknown="no_such_connection", hotel="hotel_db")
    result = run("backup", "--json")
    assert result.exit_code == 1
    assert [each["database"] for each in as_json(result)] == ["hotel"]
    assert "password authentication failed" in result.stderr
    assert "no_such_connection" in result.stderr
    assert result.stderr.count("what to do:") == 2
    assert "n0t-the-password" not in result.output
    assert hotel.password is not None
    assert hotel.password not in result.output
    assert "Traceback" not in result.output


def test_only_the_databases_that_are_named_are_backed_up(hotel: Dsn, home: Path) -> None:
    configure(home, other="no_such_connection", hotel="hotel_db")
    assert run("backup", "hotel").exit_code == 0
    unknown = run("backup", "hotl")
    assert unknown.exit_code == 2
    assert "hotl" in unknown.stderr
    assert "allowed: other, hotel" in re.sub(r"[\s│]+", " ", unknown.stderr)


def test_a_damaged_backup_is_a_failure_with_the_word_in_the_list(hotel: Dsn, home: Path) -> None:
    (made,) = as_json(run("backup", "--json"))
    archive = home / "store" / f"{made['id']}.dump"
    archive.write_bytes(archive.read_bytes()[:-1])
    result = run("verify", "--json")
    assert result.exit_code == 1
    assert [each["verified"] for each in as_json(result)] == ["FAILED"]
    assert "is damaged" in result.stderr
    listed = run("backups")
    assert listed.exit_code == 0
    assert "FAILED" in listed.stdout


def test_verify_takes_ids_and_refuses_what_is_none(hotel: Dsn) -> None:
    nothing = run("verify")
    assert nothing.exit_code == 1
    assert "no backup to verify" in nothing.stderr
    (made,) = as_json(run("backup", "--json"))
    assert run("verify", made["id"]).exit_code == 0
    assert run("verify", "not-an-id").exit_code == 2
    assert run("verify", made["id"].replace("daily", "weekly")).exit_code == 1


def test_keep_forever_needs_a_reason(hotel: Dsn, home: Path) -> None:
    for arguments in (["--keep-forever"], ["--keep-forever", "--reason", "  "]):
        assert run("backup", *arguments).exit_code == 2
    assert not (home / "store").exists()


def test_a_wrong_tier_is_wrong_usage(hotel: Dsn) -> None:
    result = run("backup", "--tier", "hourly")
    assert result.exit_code == 2
    assert "pre-migration" in result.stderr


def test_a_dry_run_removes_nothing(hotel: Dsn, home: Path) -> None:
    run("backup")
    before = sorted(path.name for path in (home / "store").rglob("*"))
    result = run("prune", "--dry-run", "--json")
    assert result.exit_code == 0
    assert as_json(result)["hotel"]["dry_run"] is True
    assert sorted(path.name for path in (home / "store").rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_configuration_is_wrong_usage_told_by_key(home: Path, command: str) -> None:
    (home / "maintenance.yaml").write_text("store: {url: 'file:///x'}\ndatabases: {hotel: {conection: x}}\n")
    result = run(command)
    assert result.exit_code == 2
    assert "databases.hotel.conection: unknown key" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_cannot_be_read_is_a_failure_and_not_a_crash(hotel: Dsn, home: Path, command: str) -> None:
    (home / "store").write_text("a file where the folder should be")
    result = run(command)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "what to do:" in result.stderr


def test_as_a_program_it_gives_the_same_statuses_and_clean_output(hotel: Dsn, home: Path) -> None:
    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "include.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "80"},
        )

    made = program("backup", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)[0]["verified"] == "yes"
    (home / "maintenance.yaml").unlink()
    missing = program("backups")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "Traceback" not in missing.stderr
