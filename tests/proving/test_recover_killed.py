"""Killed at any step, a recovery leaves every database as it was, and the next one clears away what it left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.proving import recover
from tests.backup.dump_world import contents_of, fingerprints, run_sql, soon
from tests.proving.recover_world import ask, names, porter, shop, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.backup.model import TableFingerprint
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase
    from tests.proving.recover_world import Shop

ROOT = Path(__file__).parents[2]
# How often a step is told: when it begins, then with each tenth of what it counts.
EARLY = [
    ("step", "fetch", 1),
    ("step", "fetch", 2),
    ("after", "CREATE DATABASE", 1),
    ("after", "COMMENT ON DATABASE", 1),
    ("step", "restore", 1),
    ("step", "restore", 2),
    ("step", "compare", 1),
    ("before", "ALTER DATABASE RENAME", 1),
    ("after", "ALTER DATABASE RENAME", 1),
]


@pytest.fixture
def backed_up(pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path) -> Iterator[Shop]:
    made = shop(fresh_database(pg17), tmp_path / "store")
    run_sql(made.dsn, "DELETE FROM shop.orders WHERE id > 100")
    before = names(pg17)
    yield made
    for name in (names(pg17) - before) | working(pg17):
        run_sql(pg17.superuser(), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def killed(shop: Shop, role: Dsn, staging: Path, point: tuple[str, str, int]) -> subprocess.Popen[str]:
    """The recovery's process, which ends itself at that point."""
    order: dict[str, Any] = {
        "point": point,
        "store": str(shop.store._root),
        "staging": str(staging),
        "target": {**asdict(role), "options": dict(role.options)},
        "swap": shop.name,
        "new_name": "restored",
        "now": datetime.now(UTC).isoformat(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.proving.recover_killed"], cwd=ROOT, stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    return process


def settled(server: PostgresServer) -> bool:
    """The server has noticed that the process is dead."""
    return soon(lambda: not sessions(server), seconds=30)


def sessions(server: PostgresServer) -> int:
    return int(ask(server.superuser(), "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'porter%'"))


def held(shop: Shop) -> tuple[tuple[TableFingerprint, ...], Any]:
    """What must not change: every row of the live database, and which database it is."""
    return fingerprints(shop.dsn), ask(shop.dsn, "SELECT oid FROM pg_database WHERE datname = current_database()")


@pytest.mark.parametrize("point", EARLY, ids=lambda point: "{} {} {}".format(*point))
def test_killed_before_it_is_complete_nothing_has_changed_and_the_next_recovery_works(
    pg17: PostgresServer, backed_up: Shop, tmp_path: Path, point: tuple[str, str, int]
) -> None:
    role, before, live = porter(pg17, backed_up.name), names(pg17), held(backed_up)
    process = killed(backed_up, role, tmp_path, point)
    assert process.wait() == -signal.SIGKILL
    assert settled(pg17)
    assert (names(pg17), held(backed_up)) == (before, live)

    plan = recover.plan(backed_up.store, database="app", target=role, new_name="restored")
    recovery = recover.execute(plan, backed_up.store, staging=tmp_path)
    assert recovery.verdict == "proved"
    assert names(pg17) == before | {"restored"}
    assert ask(replace(backed_up.dsn, dbname="restored"), "SELECT count(*) FROM shop.orders") == 4000
    assert working(pg17) == set()
    assert not [path for path in contents_of(tmp_path) if path.startswith("night-porter-copy")]
    assert held(backed_up) == live


@pytest.mark.parametrize("point", [("step", "swap", 1), ("after", "SET lock_timeout = '5s'", 1)])
def test_killed_before_the_swap_both_databases_are_complete(
    pg17: PostgresServer, backed_up: Shop, tmp_path: Path, point: tuple[str, str, int]
) -> None:
    role, before, live = porter(pg17, backed_up.name), names(pg17), held(backed_up)
    assert killed(backed_up, role, tmp_path, point).wait() == -signal.SIGKILL
    assert settled(pg17)
    assert (names(pg17), held(backed_up)) == (before | {"restored"}, live)
    assert ask(replace(backed_up.dsn, dbname="restored"), "SELECT count(*) FROM shop.orders") == 4000


def test_killed_within_the_swap_the_live_database_keeps_its_name_and_the_next_swap_works(
    pg17: PostgresServer, backed_up: Shop, tmp_path: Path
) -> None:
    role, before, live = porter(pg17, backed_up.name), names(pg17), held(backed_up)
    waiting = (
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.usename LIKE 'porter%' "
        "AND l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.mode = 'AccessExclusiveLock'"
    )
    # A session that may not be ended holds the rename in its transaction.
    with pg17.superuser(backed_up.name).connect() as stubborn:
        process = killed(backed_up, role, tmp_path, ("step", "never", 1))
        assert soon(lambda: ask(pg17.superuser(), f"{waiting} AND a.query LIKE '%RENAME%_before_%'") == 1, seconds=60)
        process.kill()
        process.wait()
        assert stubborn.execute("SELECT 1").fetchone() == (1,)
        assert settled(pg17)
    assert (names(pg17), held(backed_up)) == (before | {"restored"}, live)
    plan = recover.plan(backed_up.store, database="app", target=role, swap=backed_up.name)
    recovery = recover.execute(plan, backed_up.store)
    assert names(pg17) == before | {"restored", recovery.old_name}
    assert ask(backed_up.dsn, "SELECT count(*) FROM shop.orders") == 4000
    assert recovery.old_name is not None
    assert fingerprints(replace(backed_up.dsn, dbname=recovery.old_name)) == live[0]
