"""The runbook for the worst night at the head of docs/restore.md: its commands, followed from the first to the last."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from include.backup.stores.local import LocalStore
from include.backup.verify import verify
from tests.deploy.test_restore_by_hand import Desk, commands, dumped, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.backup.model import Manifest
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Night:
    """A person with the page, on a machine without Airflow and without a configuration.

    Args:
        desk: the shell.
        live: what the database is called here; on the page it is `hotel`.
        known: the variables that were set by earlier commands.
    """

    desk: Desk
    live: str
    known: dict[str, str]

    def follow(self, script: str, server: PostgresServer) -> str:
        script = "".join(f"{name}={value}\n" for name, value in self.known.items()) + script
        script = re.sub(r"( --(?:to|swap) \S+)", r"\1 --yes", script)  # at a terminal it would ask
        script = re.sub(r"hotel(_before)?\b(?![/_-])", rf"{self.live}\1", script)
        result = self.desk.run(
            script,
            PGPASSWORD=server.superuser().password or "",
            PYTHONPATH=str(ROOT),
            NIGHT_PORTER_CONFIG="/nowhere/maintenance.yaml",
            AIRFLOW_HOME="/nowhere",
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


@pytest.fixture
def hotel(pg17: PostgresServer, fresh_database: FreshDatabase) -> Iterator[Dsn]:
    from include.hotel.data import generate
    from include.hotel.migrate import upgrade

    dsn = fresh_database(pg17, "hotel")
    upgrade(dsn)
    generate(dsn, scale=0.02)
    yield dsn
    with pg17.superuser().connect() as session:
        for (name,) in session.execute("SELECT datname FROM pg_database").fetchall():
            if name.startswith(dsn.dbname) and name != dsn.dbname:
                session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def manifest(hotel: Dsn, store: LocalStore) -> Manifest:
    made = dumped(hotel, store)
    verify(store, made.backup_id)
    return made


@pytest.fixture
def night(pg17: PostgresServer, hotel: Dsn, store: LocalStore, manifest: Manifest, tmp_path: Path) -> Night:
    if shutil.which("jq") is None:
        pytest.skip("NOT RUN: jq is not installed here")
    with hotel.connect() as session:
        session.execute("TRUNCATE bookings CASCADE")  # what happened that night
    known = {"store": store.url, "id": manifest.id, "folder": str(tmp_path / "store"), "server": address(pg17)}
    return Night(Desk(pg17, pg17.bin_dir, tmp_path, f"{hotel.dbname}_restored"), hotel.dbname, known)


def address(server: PostgresServer) -> str:
    return f"postgresql://postgres@127.0.0.1:{server.port}/postgres"


def bookings(server: PostgresServer, name: str) -> int:
    with server.superuser(name).connect() as session:
        row = session.execute("SELECT count(*) FROM bookings").fetchone()
    assert row is not None
    return int(row[0])


def test_a_backup_is_chosen_proved_and_its_time_read(
    night: Night, hotel: Dsn, manifest: Manifest, pg17: PostgresServer, ground17: PostgresServer, tmp_path: Path
) -> None:
    listed = night.follow(commands("### Break glass", store=night.known["store"]), pg17)
    assert manifest.id.rsplit("/", 1)[1] in listed
    assert commands("### Choose the backup", id=manifest.id) == f"id={manifest.id}\n"
    owner = sql.Identifier(hotel.user)
    with ground17.superuser().connect() as session:
        session.execute(sql.SQL("CREATE ROLE {}").format(owner))
    try:
        proved = night.follow(commands("### Prove it first", ground=address(ground17)), ground17)
    finally:
        with ground17.superuser().connect() as session:
            session.execute(sql.SQL("DROP ROLE {}").format(owner))
    assert f"{manifest.id}: PROVED" in proved
    took = night.follow(commands("### How long will it take?", folder=str(tmp_path / "store")), pg17)
    assert re.fullmatch(r"proved: fetch [\d.]+ s, restore [\d.]+ s, compare [\d.]+ s\n", took)


def test_the_database_is_restored_looked_at_and_swapped_by_hand(
    night: Night, hotel: Dsn, manifest: Manifest, pg17: PostgresServer
) -> None:
    shown = night.follow(commands("### Restore", server=address(pg17)), pg17)
    assert "LOST is everything that was written after" in shown
    assert bookings(pg17, night.desk.target) == rows(manifest) > 0
    assert bookings(pg17, hotel.dbname) == 0
    by_hand, _ = swaps()
    night.follow(by_hand, pg17)
    assert bookings(pg17, hotel.dbname) == rows(manifest)
    assert bookings(pg17, f"{hotel.dbname}_before") == 0


def test_the_database_is_restored_and_swapped_in_one_go(
    night: Night, hotel: Dsn, manifest: Manifest, pg17: PostgresServer
) -> None:
    _, in_one_go = swaps()
    assert "to go back:" in night.follow(in_one_go, pg17)
    assert bookings(pg17, hotel.dbname) == rows(manifest) > 0


def swaps() -> tuple[str, str]:
    both = commands("### Swap")
    by_hand, marker, in_one_go = both.partition("python -m")
    return by_hand, marker + in_one_go
