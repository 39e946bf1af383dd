"""Writers at the source while it is dumped: each proof still matches exactly."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.backup.dump_world import dump, run_sql
from tests.proving.proof_world import problems, proof_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.proving.ground import Ground
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase
    from tests.proving.conftest import ReadyFor

    Writer = Callable[[psycopg.Connection[tuple[object, ...]], random.Random], None]

SCHEMA = (
    "CREATE TABLE account (id serial PRIMARY KEY, balance numeric NOT NULL DEFAULT 100 CHECK (balance > -1000000))",
    "CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int REFERENCES account, "
    "note text)",
    "CREATE TABLE unrelated (a int)",
    "CREATE SEQUENCE ticket INCREMENT 3",
    "CREATE SEQUENCE countdown INCREMENT -1 MAXVALUE 1000000000 MINVALUE 1 START 1000000000",
    "CREATE SEQUENCE wheel MAXVALUE 7 CYCLE",
    "INSERT INTO account SELECT FROM generate_series(1, 200)",
    "INSERT INTO entry (account, note) SELECT 1 + i % 200, md5(i::text) FROM generate_series(1, 2000) i",
)


def insert(session: psycopg.Connection[tuple[object, ...]], dice: random.Random) -> None:
    session.execute("INSERT INTO entry (account, note) VALUES (%s, %s)", (dice.randint(1, 200), str(dice.random())))


def transfer(session: psycopg.Connection[tuple[object, ...]], dice: random.Random) -> None:
    with session.transaction():
        session.execute("UPDATE account SET balance = balance - 1 WHERE id = %s", (dice.randint(1, 100),))
        session.execute("UPDATE account SET balance = balance + 1 WHERE id = %s", (dice.randint(101, 200),))


def delete(session: psycopg.Connection[tuple[object, ...]], dice: random.Random) -> None:
    session.execute("DELETE FROM entry WHERE id = (SELECT id FROM entry OFFSET %s LIMIT 1)", (dice.randint(0, 500),))


def count(session: psycopg.Connection[tuple[object, ...]], dice: random.Random) -> None:
    session.execute("SELECT nextval('ticket'), nextval('countdown'), nextval('wheel')")


def redefine(session: psycopg.Connection[tuple[object, ...]], dice: random.Random) -> None:
    session.execute(f"ALTER TABLE unrelated ADD COLUMN c{dice.getrandbits(60)} int".encode())
    session.execute(f"COMMENT ON TABLE unrelated IS '{dice.random()}'".encode())
    session.execute(f"CREATE TABLE another_{dice.getrandbits(60)} (a int)".encode())


@pytest.fixture
def hammered(pg17: PostgresServer, fresh_database: FreshDatabase) -> Iterator[Dsn]:
    """A database that is written to until the test ends."""
    dsn = fresh_database(pg17, "hammered")
    run_sql(dsn, *SCHEMA)
    stop = threading.Event()
    failures: list[BaseException] = []

    def write(writer: Writer, seed: int) -> None:
        dice = random.Random(seed)
        try:
            with dsn.connect() as session:
                # Paced, so that the writers leave the machine something and the database stays small.
                while not stop.wait(0.5 if writer is redefine else 0.01):
                    writer(session, dice)
        except psycopg.Error as error:
            failures.append(error)

    threads = [
        threading.Thread(target=write, args=(writer, seed))
        for seed, writer in enumerate((insert, transfer, delete, count, redefine))
    ]
    for thread in threads:
        thread.start()
    yield dsn
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.timeout(600)
def test_twenty_backups_in_a_row_of_a_database_under_fire_are_proved(
    hammered: Dsn, folder_store: LocalStore, ground: Ground, ready_for: ReadyFor
) -> None:
    hashes = set()
    for night in range(20):
        manifest = dump(hammered, folder_store, now=_nights_later(night))
        ready_for(manifest)
        proof = proof_of(ground, folder_store, manifest)
        assert problems(proof) == {}, night
        assert proof.verdict == "proved"
        hashes.update(table.row_hash for table in manifest.tables if table.name in {"account", "entry"})
    assert len(hashes) == 40  # the writers were at work all the time


def _nights_later(night: int) -> Callable[[], datetime]:
    return lambda: datetime(2026, 5, 1, 2, 0, tzinfo=UTC) + timedelta(days=night)
