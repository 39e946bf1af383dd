"""`prove`, `restore`, `monitor` and `prune` with a configuration and Airflow's connections."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml

from include.backup.catalog import read_catalog
from include.backup.model import Tier
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from tests.backup.dump_world import run_sql
from tests.backup.retention_world import days_ago, entry, write
from tests.cli.cli_world import as_json, configure, connection, run
from tests.cli.conftest import ROOMS, databases_of

if TYPE_CHECKING:
    from pathlib import Path

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer


@pytest.fixture
def proving_ground(ground: Dsn, monkeypatch: pytest.MonkeyPatch) -> Dsn:
    monkeypatch.setenv("AIRFLOW_CONN_PROVING_GROUND", connection(ground))
    return ground


def change(home: Path, **options: object) -> None:
    """Change what is configured of the database."""
    document = yaml.safe_load((home / "maintenance.yaml").read_text())
    document["databases"]["hotel"] |= options
    (home / "maintenance.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def test_the_newest_backup_is_proved_on_the_configured_ground(hotel: Dsn, home: Path, proving_ground: Dsn) -> None:
    nothing = run("prove")
    assert nothing.exit_code == 1
    assert "there is no backup of hotel" in nothing.stderr
    (made,) = as_json(run("backup", "--json"))
    many = {"name": "many rooms", "sql": "SELECT count(*) > 5 FROM rooms"}
    change(home, proof={"rto_minutes": 90, "smoke_queries": [many]})
    result = run("prove", "--json")
    assert result.exit_code == 0, result.stderr
    (proof,) = as_json(result)
    assert (proof["backup"], proof["verdict"], proof["rto_limit_seconds"]) == (made["id"], "proved", 5400)
    (smoke,) = (check for check in proof["checks"] if check["name"] == "smoke queries")
    assert smoke["outcome"] == "held"
    assert "none" not in smoke["detail"]
    (entry,) = read_catalog(LocalStore(home / "store"), "hotel").entries
    assert entry.proved


def test_a_proof_that_is_not_given_is_no_success(hotel: Dsn, home: Path, proving_ground: Dsn) -> None:
    run("backup")
    change(home, proof={"smoke_queries": [{"name": "never so", "sql": "SELECT false"}]})
    result = run("prove")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "never so" in result.stdout
    assert "FAILED" in run("backups").stdout


def test_production_is_refused_as_the_ground(
    hotel: Dsn, home: Path, pg17: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("backup")
    production = pg17.superuser()
    before = databases_of(production)
    monkeypatch.setenv("AIRFLOW_CONN_PROVING_GROUND", connection(production))
    result = run("prove")
    assert result.exit_code == 1
    assert "hotel" in result.stderr
    assert databases_of(production) == before


def test_a_database_comes_back_on_its_own_server(
    hotel: Dsn, home: Path, pg17: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("backup")
    unproved = run("restore", "hotel", "--to", "hotel_back", "--yes")
    assert unproved.exit_code == 1
    assert "no backup" in unproved.stderr
    assert "prove" in unproved.stderr
    (newest,) = read_catalog(LocalStore(home / "store"), "hotel").entries
    server = pg17.superuser(hotel.dbname)
    monkeypatch.setenv("AIRFLOW_CONN_HOTEL_DB", connection(server))
    name = f"{hotel.dbname}_back"
    unasked = run("restore", "--backup", newest.manifest.id, "--to", name)
    assert unasked.exit_code == 2
    assert name in unasked.stdout
    assert name not in databases_of(server)
    done = run("restore", "--backup", newest.manifest.id, "--to", name, "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    assert as_json(done)["name"] == name
    assert name in done.stderr
    with server.with_dbname(name).connect() as session:
        assert session.execute("SELECT count(*) FROM rooms").fetchone() == (ROOMS,)
    run_sql(server, f"DROP DATABASE {name}")


def test_a_restore_needs_a_database_that_is_configured_or_a_server(hotel: Dsn, home: Path) -> None:
    configure(home, hotel="hotel_db", spa="spa_db")
    which = run("restore")
    assert which.exit_code == 2
    assert "hotel, spa" in re.sub(r"[\s│]+", " ", which.stderr)
    assert run("restore", "gym").exit_code == 2
    mixed = run("restore", "spa", "--backup", "hotel/daily/hotel_2026-01-01T020000Z")
    assert mixed.exit_code == 2


def test_the_monitor_says_what_is_missing_and_what_is_well(hotel: Dsn, home: Path, proving_ground: Dsn) -> None:
    nothing = run("monitor", "--json")
    assert nothing.exit_code == 1
    seen = as_json(nothing)["hotel"]
    assert seen["critical"] is True
    assert seen["newest_verified"] == {"age_seconds": None, "allowed_seconds": 26 * 3600}
    assert {finding["key"] for finding in seen["findings"]} >= {"rpo:verified", "rpo:proved"}
    run("backup")
    assert run("prove").exit_code == 0
    well = run("monitor")
    assert well.exit_code == 0, well.output
    assert "hotel: all as it should be" in well.stdout
    assert as_json(run("monitor", "--json"))["hotel"]["newest_proved"]["age_seconds"] >= 0


def test_a_loss_is_critical_stops_pruning_and_can_be_accepted_with_a_reason(hotel: Dsn, home: Path) -> None:
    change(home, proof={"tiers": []})
    store = LocalStore(home / "store")
    now = datetime.now(UTC).replace(microsecond=0)
    for days in range(30, 1, -1):
        write(store, entry(days_ago(days, now=now)))
    run("backup")
    run_sql(hotel, "DELETE FROM rooms WHERE number > 100")
    run("backup", "--tier", "weekly")
    (lossy,) = (each for each in read_catalog(store, "hotel").entries if each.manifest.tier == Tier.WEEKLY)
    critical = run("monitor")
    assert critical.exit_code == 1
    assert "critical" in critical.stdout
    assert "public.rooms" in critical.stdout
    stopped = as_json(run("prune", "--json"))["hotel"]
    assert "public.rooms" in stopped["stopped"]
    assert stopped["removed"] == []
    assert run("monitor", "--accept", lossy.manifest.id).exit_code == 2
    accepted = run("monitor", "--accept", lossy.manifest.id, "--reason", "the annex was sold")
    assert accepted.exit_code == 0, accepted.output
    acceptance = json.loads(store.get(lossy.backup_id.acceptance_key))
    assert acceptance["reason"] == "the annex was sold"
    assert as_json(run("prune", "--json"))["hotel"]["removed"]


def test_what_dead_runs_left_is_swept_even_where_the_plan_cannot_be_carried_out(
    hotel: Dsn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(home / "store")
    now = datetime.now(UTC).replace(microsecond=0)
    for days in range(30, 0, -1):
        write(store, entry(days_ago(days, now=now)))
    leftover = home / "store" / f"{entry(days_ago(60, now=now)).manifest.id}.dump"
    leftover.write_bytes(b"half a dump")
    month_ago = (now - timedelta(days=30)).timestamp()
    os.utime(leftover, (month_ago, month_ago))
    plan = as_json(run("prune", "--dry-run", "--json"))["hotel"]
    oldest = next(each["backup"] for each in reversed(plan["decisions"]) if each["action"] == "drop")
    before_it_goes = LocalStore.delete

    def refusing(self: LocalStore, key: str) -> None:
        if key.startswith(oldest):
            raise StoreError("the disk says no", untouched="all", remedy="Mend the disk.")
        before_it_goes(self, key)

    monkeypatch.setattr(LocalStore, "delete", refusing)
    result = run("prune", "--json")
    assert result.exit_code == 1
    assert "the disk says no" in result.stderr
    assert as_json(result)["hotel"]["removed"] == []
    assert as_json(result)["hotel"]["leftovers"] == [leftover.relative_to(home / "store").as_posix()]
    assert not leftover.exists()
