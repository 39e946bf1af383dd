"""A recovery says what it will do before it does anything, and does not begin where it could not end well."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.model import BackupId, Tier
from include.errors import MaintenanceError
from include.proving import recover
from include.proving.recover import RecoveryPlan, RecoveryRefusedError
from include.proving.recover_words import points
from tests.backup.dump_world import dump, run_sql
from tests.proving.recover_world import certify, names, porter, shop

if TYPE_CHECKING:
    from pathlib import Path

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase
    from tests.proving.recover_world import Shop

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=5)


@pytest.fixture
def backed_up(pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path) -> Shop:
    return shop(fresh_database(pg17), tmp_path / "store")


@pytest.fixture
def role(pg17: PostgresServer, backed_up: Shop) -> Dsn:
    return porter(pg17, backed_up.dsn.user)


def planned(shop: Shop, role: Dsn, **how: object) -> RecoveryPlan:
    return recover.plan(shop.store, **{"database": "app", "target": role, "now": SOON, **how})  # type: ignore[arg-type]  # as the caller says


def refusal(shop: Shop, role: Dsn, **how: object) -> RecoveryRefusedError:
    with pytest.raises(RecoveryRefusedError) as refused:
        planned(shop, role, **how)
    return refused.value


def test_a_plan_tells_what_is_restored_what_is_lost_and_how_long_it_took_last_time(backed_up: Shop, role: Dsn) -> None:
    plan = planned(backed_up, role)
    told = "\n".join(plan.points)
    assert plan.new_name == f"{backed_up.name}_restored_{SOON:%Y%m%d_%H%M%S}"
    assert f"Backup {backed_up.manifest.id}: daily, 4,500 rows in 2 tables" in told
    assert "proved on" in told
    assert "LOST is everything that was written after" in told
    assert "Measured recovery time of this backup: 12.0 s (fetch 2.0 s, restore 10.0 s)" in told
    assert "This is the very server that the backup was taken from." in told
    assert "Nothing else is changed" in told
    assert "roles and their passwords" in told


def test_a_plan_changes_nothing(pg17: PostgresServer, backed_up: Shop, role: Dsn) -> None:
    before = names(pg17)
    planned(backed_up, role, swap=backed_up.name)
    assert names(pg17) == before


def test_the_newest_proved_backup_is_chosen_and_newer_ones_are_mentioned(backed_up: Shop, role: Dsn) -> None:
    from include.backup.verify import verify

    newer = dump(backed_up.dsn, backed_up.store)
    verify(backed_up.store, newer.backup_id)
    plan = planned(backed_up, role)
    assert plan.entry.backup_id == backed_up.backup
    (caution,) = [point for point in plan.points if point.startswith("CAUTION: there are newer backups")]
    assert newer.id in caution
    certify(backed_up.store, newer)
    assert planned(backed_up, role).entry.backup_id == newer.backup_id


def test_without_a_proved_backup_nothing_is_chosen_and_what_there_is_is_listed(
    pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    unproved = shop(fresh_database(pg17), tmp_path / "store", verdict=None)
    error = refusal(unproved, porter(pg17, unproved.name))
    assert f"{unproved.manifest.id} (verified, not proved, " in error.what


def test_a_merely_verified_backup_is_restored_where_it_is_named_and_that_is_said_loudly(
    pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    unproved = shop(fresh_database(pg17), tmp_path / "store", verdict=None)
    plan = planned(unproved, porter(pg17, unproved.name), backup=unproved.backup)
    assert any(point.startswith("CAUTION: this backup is not proved (verified, not proved)") for point in plan.points)
    assert any("How long it will take is not known" in point for point in plan.points)


def test_a_backup_whose_proof_failed_is_refused_even_by_name(backed_up: Shop, role: Dsn) -> None:
    certify(backed_up.store, backed_up.manifest, "failed")
    error = refusal(backed_up, role, backup=backed_up.backup)
    assert "its proof FAILED" in error.what
    assert "docs/restore.md" in error.remedy


def test_a_backup_that_nobody_verified_is_refused_until_it_is(backed_up: Shop, role: Dsn) -> None:
    unverified = dump(backed_up.dsn, backed_up.store)
    error = refusal(backed_up, role, backup=unverified.backup_id)
    assert "not verified" in error.what
    assert f"verify {unverified.id}" in error.remedy


def test_a_backup_that_does_not_exist_is_answered_with_those_that_do(backed_up: Shop, role: Dsn) -> None:
    none = BackupId(database="app", tier=Tier.DAILY, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(MaintenanceError, match=backed_up.manifest.id):
        planned(backed_up, role, backup=none)


@pytest.mark.parametrize("name", ["", " padded", "line\nbreak", "x" * 64, "ä" * 32, "np_mine"])
def test_a_name_that_cannot_be_or_would_be_cleaned_away_is_refused(backed_up: Shop, role: Dsn, name: str) -> None:
    refusal(backed_up, role, new_name=name)


def test_an_existing_database_is_never_restored_into(backed_up: Shop, role: Dsn) -> None:
    for taken in (backed_up.name, "postgres"):
        assert "exists on the target server already" in refusal(backed_up, role, new_name=taken).what


def test_the_longest_allowed_names_are_cut_so_that_their_stamps_stay(
    pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    dsn = fresh_database(pg17, "l" * 40)  # and eleven more
    long = shop(dsn, tmp_path / "store")
    plan = planned(long, porter(pg17, dsn.user), swap=dsn.dbname)
    assert plan.old_name is not None
    for name in (plan.new_name, plan.old_name):
        assert len(name.encode()) == 63
        assert name.endswith(f"_{SOON:%Y%m%d_%H%M%S}")


@pytest.mark.parametrize(
    "typed", ["{name} ", " {name}", "{upper}", "{name}_staging", "{short}", "postgres", "template1", ""]
)
def test_a_typed_name_that_is_not_the_live_database_to_the_letter_stops_the_swap(
    pg17: PostgresServer, backed_up: Shop, role: Dsn, typed: str
) -> None:
    name = backed_up.name
    word = typed.format(name=name, upper=name.upper(), short=name[:-1])
    run_sql(role, f'CREATE DATABASE "{name}_staging"')
    try:
        assert f"the name typed for the swap is {word!r}" in refusal(backed_up, role, swap=word).what
    finally:
        run_sql(role, f'DROP DATABASE "{name}_staging"')


def test_a_swap_without_a_live_database_is_refused(pg17: PostgresServer, backed_up: Shop, role: Dsn) -> None:
    run_sql(pg17.superuser(), f'ALTER DATABASE "{backed_up.name}" RENAME TO "{backed_up.name}_elsewhere"')
    try:
        assert "no database" in refusal(backed_up, role, swap=backed_up.name).what
    finally:
        run_sql(pg17.superuser(), f'ALTER DATABASE "{backed_up.name}_elsewhere" RENAME TO "{backed_up.name}"')


def test_airflows_own_metadata_database_is_never_swapped(backed_up: Shop, role: Dsn) -> None:
    run_sql(backed_up.dsn, "CREATE TABLE shop.dag_run ()")
    planned(backed_up, role, swap=backed_up.name)
    run_sql(backed_up.dsn, "CREATE TABLE shop.alembic_version ()")
    assert "Airflow's own metadata database" in refusal(backed_up, role, swap=backed_up.name).what


def test_a_template_database_is_never_swapped(pg17: PostgresServer, backed_up: Shop, role: Dsn) -> None:
    run_sql(pg17.superuser(), f'ALTER DATABASE "{backed_up.name}" IS_TEMPLATE true')
    try:
        assert "is a template database" in refusal(backed_up, role, swap=backed_up.name).what
    finally:
        run_sql(pg17.superuser(), f'ALTER DATABASE "{backed_up.name}" IS_TEMPLATE false')


def test_everything_that_stands_against_a_recovery_is_named_at_once(ground17: PostgresServer, backed_up: Shop) -> None:
    weak = porter(ground17, rights="")
    error = refusal(backed_up, weak, new_name="postgres", swap="wrong")
    assert "may not create databases" in error.what
    assert f'role "{backed_up.name}"' in error.what
    assert "exists on the target server already" in error.what
    assert "the name typed for the swap" in error.what
    assert f'ALTER ROLE "{weak.user}" CREATEDB' in error.remedy
    assert f'CREATE ROLE "{backed_up.name}"' in error.remedy


def test_a_role_without_the_owners_rights_may_not_swap(
    pg17: PostgresServer, backed_up: Shop, fresh_database: FreshDatabase
) -> None:
    other = fresh_database(pg17)
    role = porter(pg17, backed_up.name)
    run_sql(pg17.superuser(), f'ALTER DATABASE "{backed_up.name}" OWNER TO "{other.user}"')
    try:
        error = refusal(backed_up, role, swap=backed_up.name)
    finally:
        run_sql(pg17.superuser(), f'ALTER DATABASE "{backed_up.name}" OWNER TO "{backed_up.name}"')
    assert f"may not rename {backed_up.name!r}, which belongs to {other.user}" in error.what


def test_what_a_swap_will_end_keep_and_fail_over_is_said_beforehand(
    pg17: PostgresServer, backed_up: Shop, role: Dsn
) -> None:
    with pg17.superuser(backed_up.name).connect(), backed_up.dsn.connect():
        told = "\n".join(planned(backed_up, role, swap=backed_up.name).points)
    old = f"{backed_up.name}_before_{SOON:%Y%m%d_%H%M%S}"
    assert "2 sessions" in told
    assert f'ALTER DATABASE "{old}" RENAME TO "{backed_up.name}";' in told
    assert "CAUTION: the role may not end the sessions of postgres (1)" in told
    assert f"will belong to {backed_up.name}, as it does now" in told


def test_what_may_stop_or_outlive_a_swap_is_a_caution_each(backed_up: Shop, role: Dsn) -> None:
    server = planned(backed_up, role, swap=backed_up.name).server
    assert server.live is not None
    live = replace(server.live, prepared=("tx 1",), slots=("reader",), is_airflows=None)
    told = points(
        planned(backed_up, role).entry,
        others=(),
        server=replace(server, live=live),
        new_name="new",
        swap=backed_up.name,
        old_name="old",
        now=SOON,
    )
    cautions = [point for point in told if point.startswith("CAUTION: ")]
    assert len(cautions) == 3
    for caution, word in zip(cautions, ("(tx 1)", "slots reader stay", "could not be looked into"), strict=True):
        assert word in caution


def test_a_lost_database_of_the_connection_does_not_stand_in_the_way(ground17: PostgresServer, backed_up: Shop) -> None:
    role = porter(ground17, backed_up.dsn.user)
    plan = planned(backed_up, replace(role, dbname=backed_up.name))
    assert plan.target.dbname == "postgres"
    assert any("another server than the one that the backup was taken from" in point for point in plan.points)


def test_a_server_that_is_not_there_is_an_error_in_words(backed_up: Shop, role: Dsn) -> None:
    with pytest.raises(MaintenanceError, match="cannot sign in to the target server") as failure:
        planned(backed_up, replace(role, port=1))
    assert role.password is not None
    assert role.password not in str(failure.value)


def test_a_pooler_in_the_servers_place_is_refused(backed_up: Shop, role: Dsn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.backup.source.behind_pooler", lambda connection: True)
    assert "a connection pooler answers" in refusal(backed_up, role).what


def test_a_machine_without_fitting_tools_is_known_before_anything_is_fetched(
    backed_up: Shop, role: Dsn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.postgres.tools.installed", lambda: ())
    assert "no pg_dump fits" in refusal(backed_up, role).what


def test_a_plan_made_again_with_other_figures_is_still_the_same_plan(
    pg17: PostgresServer, backed_up: Shop, role: Dsn
) -> None:
    first = planned(backed_up, role, swap=backed_up.name)
    with backed_up.dsn.connect():
        second = planned(backed_up, role, swap=backed_up.name, new_name=first.new_name, backup=backed_up.backup)
    assert first.points != second.points
    assert first.digest == second.digest
    assert first.digest != planned(backed_up, role).digest
