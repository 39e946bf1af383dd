"""A backup becomes a database that people use: whole, compared, under the wanted name, or not at all."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pyrage
import pytest

from include.backup.stores.local import LocalStore
from include.backup.verify import BackupDamagedError
from include.errors import MaintenanceError
from include.proving import recover, recover_swap
from include.proving.recover import RecoveryRefusedError, RestoredDifferentlyError, SwapFailedError
from tests.backup.dump_world import contents_of, fingerprints, options, run_sql, soon
from tests.proving.recover_world import ask, names, porter, shop, working

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.postgres.dsn import Dsn
    from include.proving.recover import Recovery, RecoveryPlan
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase
    from tests.proving.recover_world import Shop


@pytest.fixture
def backed_up(pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path) -> Shop:
    return shop(fresh_database(pg17), tmp_path / "store")


@pytest.fixture(autouse=True)
def _nothing_is_left(pg17: PostgresServer, ground17: PostgresServer, fresh_database: FreshDatabase) -> Iterator[None]:
    """Databases that a test made are dropped after it, and before the roles that own them."""
    before = {server.port: names(server) for server in (pg17, ground17)}
    yield
    for server in (pg17, ground17):
        server.start(die_with_parent=True)
        for name in (names(server) - before[server.port]) | working(server):
            run_sql(server.superuser(), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def planned(shop: Shop, role: Dsn, **how: Any) -> RecoveryPlan:
    return recover.plan(shop.store, **{"database": "app", "target": role, **how})


def done(shop: Shop, role: Dsn, *, staging: Path | None = None, identity: str | None = None, **how: Any) -> Recovery:
    return recover.execute(planned(shop, role, **how), shop.store, staging=staging, identity=identity)


def test_a_new_database_appears_with_exactly_what_was_backed_up(
    pg17: PostgresServer, backed_up: Shop, tmp_path: Path
) -> None:
    role = porter(pg17, backed_up.name)
    before, rows = names(pg17), fingerprints(backed_up.dsn)
    run_sql(backed_up.dsn, "DELETE FROM shop.orders")
    staging = tmp_path / "staging"
    staging.mkdir()
    recovery = done(backed_up, role, new_name="Back again", staging=staging)
    assert names(pg17) == before | {"Back again"}
    assert fingerprints(replace(role, dbname="Back again")) == rows
    assert (recovery.name, recovery.old_name, recovery.go_back, recovery.by_hand) == ("Back again", None, (), ())
    assert recovery.verdict == "proved", [check for check in recovery.checks if check.outcome != "held"]
    assert list(recovery.seconds) == ["fetch", "restore", "compare", "name"]
    assert ask(backed_up.dsn, "SELECT count(*) FROM shop.orders") == 0
    assert working(pg17) == set()
    assert (
        ask(role, "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'Back again'") is None
    )
    assert contents_of(staging) == {}


def test_whoever_could_use_the_database_can_use_the_one_that_is_back(
    pg17: PostgresServer, backed_up: Shop, fresh_database: FreshDatabase
) -> None:
    guest = fresh_database(pg17)
    recovery = done(backed_up, porter(pg17, backed_up.name))
    application = replace(backed_up.dsn, dbname=recovery.name)
    run_sql(application, "INSERT INTO shop.customers (name) VALUES ('new')")
    assert ask(application, "SELECT max(id) FROM shop.customers") == 501
    assert ask(application, "SELECT count(*) FROM pg_stats WHERE tablename = 'orders'") == 3  # analyzed
    assert ask(replace(guest, dbname=recovery.name), "SELECT 1") == 1


def test_a_swap_keeps_the_old_database_and_busy_applications_come_back_by_themselves(
    pg17: PostgresServer, backed_up: Shop
) -> None:
    before = names(pg17)
    run_sql(backed_up.dsn, "TRUNCATE shop.orders")
    enough, seen = threading.Event(), [set[int]() for _ in range(5)]

    def application(counts: set[int]) -> None:
        while not enough.is_set():
            try:
                with backed_up.dsn.connect() as session:
                    while not enough.is_set():
                        row = session.execute("SELECT count(*) FROM shop.orders").fetchone()
                        counts.add(row[0] if row else -1)
            except psycopg.OperationalError:
                continue

    busy = [threading.Thread(target=application, args=(counts,)) for counts in seen]
    for thread in busy:
        thread.start()
    try:
        assert soon(lambda: all(0 in counts for counts in seen), seconds=20)
        recovery = done(backed_up, porter(pg17, backed_up.name), swap=backed_up.name)
        assert soon(lambda: all(4000 in counts for counts in seen), seconds=20)
    finally:
        enough.set()
        for thread in busy:
            thread.join()
    assert recovery.name == backed_up.name
    assert recovery.old_name is not None
    assert names(pg17) == before | {recovery.old_name}
    assert ask(replace(backed_up.dsn, dbname=recovery.old_name), "SELECT count(*) FROM shop.orders") == 0
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert ask(backed_up.dsn, owner) == backed_up.dsn.user
    assert list(recovery.seconds)[-1] == "swap"
    run_sql(replace(pg17.superuser()), *recovery.go_back)
    assert ask(backed_up.dsn, "SELECT count(*) FROM shop.orders") == 0


def test_settings_and_grants_of_the_database_itself_come_back(
    pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    dsn, guest = fresh_database(pg17), fresh_database(pg17)
    run_sql(
        pg17.superuser(),
        f'ALTER DATABASE "{dsn.dbname}" SET search_path TO shop, public',
        f'ALTER DATABASE "{dsn.dbname}" SET log_min_duration_statement TO 5000',
        f'ALTER ROLE "{guest.user}" IN DATABASE "{dsn.dbname}" SET work_mem TO \'1MB\'',
        f'REVOKE CONNECT ON DATABASE "{dsn.dbname}" FROM PUBLIC',
    )
    guarded = shop(dsn, tmp_path / "store")
    recovery = done(guarded, porter(pg17, dsn.user), new_name="guarded")
    assert ask(replace(dsn, dbname="guarded"), "SHOW search_path") == "shop, public"
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        replace(guest, dbname="guarded").connect()
    # Only a superuser may set the one, only the role's administrator the other.
    assert recovery.by_hand == (
        "ALTER DATABASE \"guarded\" SET log_min_duration_statement TO '5000';",
        f"ALTER ROLE {guest.user} IN DATABASE \"guarded\" SET work_mem TO '1MB';",
    )
    run_sql(pg17.superuser(), *recovery.by_hand)
    settings = (
        "SELECT setconfig FROM pg_db_role_setting "
        "WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = '{}')"
    )
    with pg17.superuser().connect() as session:
        first, second = (
            sorted(session.execute(settings.format(name).encode()).fetchall()) for name in (dsn.dbname, "guarded")
        )
    assert first == second


def test_a_swap_that_fails_leaves_the_restored_database_and_the_live_one(
    pg17: PostgresServer, backed_up: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover_swap, "ATTEMPTS", 1)
    run_sql(backed_up.dsn, "DELETE FROM shop.orders WHERE id <= 10")
    before, rows = names(pg17), fingerprints(backed_up.dsn)
    plan = planned(backed_up, porter(pg17, backed_up.name), swap=backed_up.name)
    with pg17.superuser(backed_up.name).connect(), pytest.raises(SwapFailedError) as failure:
        recover.execute(plan, backed_up.store)
    assert plan.new_name in failure.value.untouched
    assert names(pg17) == before | {plan.new_name}
    assert fingerprints(backed_up.dsn) == rows
    assert ask(replace(backed_up.dsn, dbname=plan.new_name), "SELECT count(*) FROM shop.orders") == 4000
    assert working(pg17) == set()


def test_the_worst_night_the_source_is_gone_and_another_server_takes_the_database(
    ground17: PostgresServer, pg17: PostgresServer, backed_up: Shop
) -> None:
    rows = fingerprints(backed_up.dsn)
    role = porter(ground17, backed_up.name)
    pg17.kill()
    try:
        recovery = done(backed_up, replace(role, dbname=backed_up.name), new_name=backed_up.name)
        assert fingerprints(replace(role, dbname=backed_up.name)) == rows
        assert recovery.verdict == "proved"
    finally:
        pg17.start(die_with_parent=True)


def test_an_older_servers_backup_comes_back_on_a_newer_one_and_what_was_not_compared_is_said(
    pg15: PostgresServer, ground17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    old = shop(fresh_database(pg15), tmp_path / "store", how=options("gzip:1"))
    role = porter(ground17, old.name)
    plan = planned(old, role)
    assert any(point.startswith("CAUTION: the backup is of PostgreSQL 15, the target is 17") for point in plan.points)
    recovery = recover.execute(plan, old.store)
    assert recovery.verdict == "incomplete"
    assert ask(replace(role, dbname=recovery.name), "SELECT count(*) FROM shop.orders") == 4000


def test_an_encrypted_backup_needs_its_key_and_comes_back_with_it(
    pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    key = pyrage.x25519.Identity.generate()
    locked = shop(fresh_database(pg17), tmp_path / "store", how=options(encryption_recipients=(str(key.to_public()),)))
    role, before = porter(pg17, locked.name), names(pg17)
    plan = planned(locked, role)
    assert "the age private key is needed" in plan.points[0]
    with pytest.raises(MaintenanceError, match="no private key was given"):
        recover.execute(plan, locked.store)
    assert names(pg17) == before
    recovery = recover.execute(plan, locked.store, identity=f"# created by age-keygen\n{key}\n")
    assert recovery.verdict == "proved"


def test_of_an_archive_damaged_in_the_store_nothing_appears(pg17: PostgresServer, backed_up: Shop) -> None:
    role, before = porter(pg17, backed_up.name), names(pg17)
    plan = planned(backed_up, role, swap=backed_up.name)
    flip_a_bit(backed_up)
    with pytest.raises(BackupDamagedError):
        recover.execute(plan, backed_up.store)
    assert (names(pg17), working(pg17)) == (before, set())


def test_a_restored_database_that_differs_never_gets_the_name_and_is_dropped(
    pg17: PostgresServer, backed_up: Shop
) -> None:
    role, before = porter(pg17, backed_up.name), names(pg17)
    plan = planned(backed_up, role, swap=backed_up.name, new_name="differs")

    def spoil(step: str, words: str) -> None:
        if step == "compare":
            (name,) = working(pg17)
            run_sql(pg17.superuser(name), "UPDATE shop.orders SET note = 'another' WHERE id = 7")

    with pytest.raises(RestoredDifferentlyError, match=r"shop\.orders"):
        recover.execute(plan, backed_up.store, progress=spoil)
    assert (names(pg17), working(pg17)) == (before, set())


def test_a_plan_that_no_longer_holds_is_not_carried_out(pg17: PostgresServer, backed_up: Shop) -> None:
    role = porter(pg17, backed_up.name)
    taken = planned(backed_up, role, new_name="taken")
    replaced = planned(backed_up, role, swap=backed_up.name)
    run_sql(
        pg17.superuser(),
        "CREATE DATABASE taken",
        f'ALTER DATABASE "{backed_up.name}" RENAME TO "{backed_up.name}_aside"',
        f'CREATE DATABASE "{backed_up.name}" OWNER "{backed_up.name}"',
    )
    before = names(pg17)
    with pytest.raises(RecoveryRefusedError, match="exists on the target server already"):
        recover.execute(taken, backed_up.store)
    with pytest.raises(RecoveryRefusedError, match="no longer what would be done"):
        recover.execute(replaced, backed_up.store)
    assert (names(pg17), working(pg17)) == (before, set())


def test_a_name_that_is_taken_while_the_database_is_restored_is_left_alone(
    pg17: PostgresServer, backed_up: Shop
) -> None:
    plan = planned(backed_up, porter(pg17, backed_up.name), new_name="late")

    def take(step: str, words: str) -> None:
        if step == "name":
            run_sql(pg17.superuser(), "CREATE DATABASE late", "COMMENT ON DATABASE late IS 'theirs'")

    with pytest.raises(MaintenanceError, match="already exists"):
        recover.execute(plan, backed_up.store, progress=take)
    told = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'late'"
    assert ask(pg17.superuser(), told) == "theirs"
    assert working(pg17) == set()


def test_steps_are_told_in_their_order(pg17: PostgresServer, backed_up: Shop) -> None:
    told: list[str] = []
    plan = planned(backed_up, porter(pg17, backed_up.name), swap=backed_up.name, now=datetime.now(UTC))
    recover.execute(plan, backed_up.store, progress=lambda step, _: told.append(step))
    assert list(dict.fromkeys(told)) == ["fetch", "restore", "compare", "name", "swap"]


def flip_a_bit(shop: Shop) -> None:
    assert isinstance(shop.store, LocalStore)
    path = next(path for path in contents_of(shop.store._root) if path.endswith(".dump"))
    file = shop.store._root / path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
