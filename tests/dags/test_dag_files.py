"""Promises about every DAG file, kept without a scheduler."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from airflow.sdk.definitions.asset import BaseAsset

from benchmarks.dag_import import LIMIT_SECONDS, seconds
from tests.dags.dags_page import PAGE, render

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "dags").glob("*.py"))
KNOWN = {
    "backup.py": {"backup_daily": "0 2 * * *", "backup_weekly": "0 3 * * 0", "backup_monthly": "0 4 1 * *"},
    "backup_monitor.py": {"backup_monitor": "0 * * * *"},
    "backup_prove.py": {"backup_prove": "backup/hotel"},
    "backup_restore.py": {"backup_restore": None},
}
TAGS = {"backup", "daily", "weekly", "monthly", "proof", "restore", "monitor"}


def _load(file: Path, name: str = "dag_file") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _dags(module: ModuleType) -> dict[str, Any]:
    from airflow.sdk import DAG

    return {value.dag_id: value for value in vars(module).values() if isinstance(value, DAG)}


def _starts(dag: Any) -> str | None:
    """A DAG's cron expression, or the names of its assets, or None where a person starts it."""
    if isinstance(dag.schedule, BaseAsset):
        return ", ".join(asset.name for asset in dag.schedule.objects)
    return getattr(dag.timetable, "expression", None)


def test_no_dag_file_is_unknown_here() -> None:
    assert {file.name for file in FILES} == set(KNOWN)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_holds_the_dags_it_is_known_for_on_their_schedules(file: Path) -> None:
    dags = _dags(_load(file))
    assert {dag_id: _starts(dag) for dag_id, dag in dags.items()} == KNOWN[file.name]
    for dag in dags.values():
        assert str(getattr(dag.timetable, "timezone", dag.timezone)) == "UTC"
        assert dag.catchup is False
        # A restore that waits for its approval keeps no other one waiting.
        assert dag.max_active_runs == (5 if dag.dag_id == "backup_restore" else 1)
        assert dag.dagrun_timeout is not None
        assert dag.max_consecutive_failed_dag_runs == 0  # more would pause backups silently
        assert dag.doc_md.strip().startswith("###")
        assert dag.tags <= TAGS
        for task in dag.tasks:
            assert task.owner == "night-porter"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_is_wiring_only(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imported = {
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not any(name.split(".")[0] in {"boto3", "psycopg", "sqlalchemy", "google"} for name in imported)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_adds_little_to_the_import_of_airflow(file: Path) -> None:
    _, processor = seconds(file)
    assert processor < LIMIT_SECONDS


def test_only_one_room_of_include_imports_airflow() -> None:
    for file in sorted((ROOT / "include").rglob("*.py")):
        if file.is_relative_to(ROOT / "include" / "runtime"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "airflow" for name in names), file


ARROWS = {
    "errors": set(),
    "postgres": {"errors"},
    "backup": {"errors", "postgres"},
    "hotel": {"errors", "postgres"},
    "alerts": set(),
    "proving": {"errors", "postgres", "backup"},
    "monitor": {"errors", "backup", "proving"},
    "config": {"errors", "postgres", "backup", "proving"},
    "runtime": {"errors", "postgres", "backup", "proving", "monitor", "config", "alerts"},
    "stack": {"errors", "postgres", "hotel", "config"},
    "cli": {"errors", "postgres", "backup", "proving", "monitor", "config", "runtime"},
}


def test_arrows_between_the_rooms_point_one_way() -> None:
    for file in sorted((ROOT / "include").rglob("*.py")):
        room = file.relative_to(ROOT / "include").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("include."):
                target = str(node.module).split(".")[1]
                assert target == room or target in ARROWS[room], f"{file} imports {node.module}"


def test_a_database_that_takes_no_part_in_a_tier_is_not_in_its_dag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "maintenance.yaml"
    databases = {
        "often": {"connection": "a"},
        "rarely": {"connection": "b", "tiers": ["monthly"]},
    }
    config.write_text(yaml.safe_dump({"store": {"url": "file:///tmp/x"}, "databases": databases}), encoding="utf-8")
    monkeypatch.setenv("NIGHT_PORTER_CONFIG", str(config))
    dags = _dags(_load(ROOT / "dags" / "backup.py"))
    assert dags["backup_daily"].params["databases"] == ["often"]
    assert dags["backup_monthly"].params["databases"] == ["often", "rarely"]


def test_a_wrong_setting_is_an_import_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "maintenance.yaml"
    config.write_text("store: {url: 'file:///tmp/x'}\nretention: {dayly: 7}\ndatabases: {a: {connection: b}}\n")
    monkeypatch.setenv("NIGHT_PORTER_CONFIG", str(config))
    with pytest.raises(ValueError, match=r"retention\.dayly: unknown key; allowed here: daily, weekly"):
        _load(ROOT / "dags" / "backup.py")


def test_the_page_about_the_dags_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `make docs`"


def test_the_bundle_ignores_all_but_the_dags() -> None:
    ignored = (ROOT / ".airflowignore").read_text(encoding="utf-8").split()
    folders = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders - set(ignored) == {"dags/"}
