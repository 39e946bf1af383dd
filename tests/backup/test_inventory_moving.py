"""Sequences, which no snapshot holds still, and large objects: as the dump's session reads them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from include.backup.inventory import LargeObjects, SequenceWindow, read_inventory, take_large_objects, take_sequences
from tests.backup.dump_world import WatchedStore, dump, once, options, run_sql
from tests.backup.inventory_world import begin

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.backup.conftest import RestoreCopy
    from tests.conftest import FreshDatabase

MIB = 1024 * 1024


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    return fresh_database(pg17)


def sequences(dsn: Dsn) -> dict[str, SequenceWindow]:
    with dsn.connect() as session:
        begin(session)
        return {one.name: one for one in take_sequences(session)}


def large_objects(dsn: Dsn, *, hashes: bool = True) -> LargeObjects:
    with dsn.connect() as session:
        begin(session)
        return take_large_objects(session, hashes=hashes)


def test_the_value_of_a_sequence_is_the_one_it_would_give_next(dsn: Dsn) -> None:
    run_sql(
        dsn,
        "CREATE SEQUENCE untouched START 7",
        "CREATE SEQUENCE called",
        "SELECT nextval('called'), nextval('called')",
        "CREATE SEQUENCE set_back",
        "SELECT setval('set_back', 40, false)",
        'CREATE SEQUENCE "Down %s" INCREMENT -5 MINVALUE -100 MAXVALUE 100 CYCLE',
        "SELECT nextval('\"Down %s\"')",
        "CREATE SEQUENCE at_its_end",
        "SELECT setval('at_its_end', 9223372036854775807)",
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, s serial)",
        "INSERT INTO t DEFAULT VALUES",
    )
    found = sequences(dsn)
    assert {name: one.before for name, one in found.items()} == {
        "untouched": 7, "called": 3, "set_back": 40, "Down %s": 95, "at_its_end": 2**63, "t_id_seq": 2, "t_s_seq": 2,
    }  # fmt: skip
    assert all(one.after == one.before for one in found.values())
    assert (found["Down %s"].increment, found["Down %s"].cycles) == (-5, True)
    assert (found["called"].increment, found["called"].cycles) == (1, False)


def test_more_sequences_than_one_question_holds_are_each_read(dsn: Dsn) -> None:
    run_sql(
        dsn, "DO $$ BEGIN FOR i IN 1..450 LOOP EXECUTE format('CREATE SEQUENCE s%s START %s', i, i); END LOOP; END $$"
    )
    assert {name: one.before for name, one in sequences(dsn).items()} == {f"s{i}": i for i in range(1, 451)}


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
def test_a_sequence_in_use_is_restored_to_a_value_within_its_window(
    dsn: Dsn,
    pg17: PostgresServer,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
    tmp_path: Path,
    archive_format: str,
) -> None:
    run_sql(dsn, "CREATE SEQUENCE up", "CREATE SEQUENCE down INCREMENT -3", "CREATE TABLE t (a int)")
    stop, going = threading.Event(), threading.Event()

    def hammer() -> None:
        with dsn.connect() as session:
            while not stop.is_set():
                session.execute("SELECT nextval('up'), nextval('down')")
                going.set()

    writer = threading.Thread(target=hammer)
    writer.start()
    try:
        assert going.wait(30)
        manifest = dump(dsn, folder_store, options(staging=tmp_path if archive_format == "directory" else None))
    finally:
        stop.set()
        writer.join()
    windows = {one.name: one for one in read_inventory(folder_store, manifest, identity=None).sequences}
    restored = sequences(restored_copy(folder_store, manifest, pg17))
    assert windows["up"].before < windows["up"].after
    assert windows["up"].before <= restored["up"].before <= windows["up"].after
    assert windows["down"].after <= restored["down"].before <= windows["down"].before


def test_a_sequence_cannot_be_dropped_while_its_dump_runs(dsn: Dsn, tmp_path: Path) -> None:
    run_sql(dsn, "CREATE SEQUENCE q", "CREATE TABLE t AS SELECT generate_series(1, 10) i")
    refused: list[str] = []

    def drop() -> None:
        with dsn.connect() as session:
            session.execute("SET lock_timeout = '50ms'")
            try:
                session.execute("DROP SEQUENCE q")
            except Exception as error:  # noqa: BLE001 - whichever it is, the test looks at it
                refused.append(str(error))

    dump(dsn, WatchedStore(tmp_path / "store", once("write", drop)))
    assert "lock timeout" in refused[0]


LARGE = f"SELECT lo_from_bytea(4711, decode(repeat('ab', {2 * MIB + 5}), 'hex')), lo_from_bytea(4712, 'small')"


@pytest.mark.parametrize(
    "change",
    [
        "SELECT lo_put(4711, 0, 'x')",
        f"SELECT lo_put(4711, {MIB}, 'x')",
        f"SELECT lo_put(4711, {2 * MIB + 4}, 'x')",
        "SELECT lo_put(4712, 5, 'x')",
        "SELECT lo_unlink(4712), lo_from_bytea(4712, '')",
        "SELECT lo_unlink(4712)",
        "SELECT lo_unlink(4712), lo_from_bytea(4713, 'small')",
        "SELECT lo_create(4713)",
        "GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC",
        "GRANT UPDATE ON LARGE OBJECT 4712 TO pg_monitor WITH GRANT OPTION",
        "ALTER LARGE OBJECT 4712 OWNER TO postgres",
    ],
)
def test_one_change_of_a_large_object_changes_their_hash(dsn: Dsn, pg17: PostgresServer, change: str) -> None:
    run_sql(dsn, LARGE)
    before = large_objects(dsn)
    assert (before.count, before.bytes) == (2, 2 * MIB + 10)
    assert large_objects(dsn) == before
    assert large_objects(dsn, hashes=False) == LargeObjects(count=2, bytes=before.bytes, hash=None)
    run_sql(pg17.superuser(dsn.dbname), change)
    assert large_objects(pg17.superuser(dsn.dbname)).hash != before.hash


def test_without_large_objects_the_hash_is_zero(dsn: Dsn) -> None:
    assert large_objects(dsn) == LargeObjects(count=0, bytes=0, hash="0")
    assert large_objects(dsn, hashes=False) == LargeObjects(count=0, bytes=0, hash=None)


def test_the_right_to_select_them_is_enough_to_hash_large_objects(
    dsn: Dsn, pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    reader = fresh_database(pg17, "reader")
    run_sql(dsn, LARGE, *(f"GRANT SELECT ON LARGE OBJECT {oid} TO {reader.user}" for oid in (4711, 4712)))
    as_reader = replace(reader, dbname=dsn.dbname)
    assert large_objects(as_reader) == large_objects(dsn)
    assert large_objects(as_reader, hashes=False) == large_objects(dsn, hashes=False)


@pytest.mark.parametrize("other", ["pg15", "pg18"])
def test_every_major_version_gives_large_objects_the_same_hash(
    other: str, request: pytest.FixtureRequest, pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    found = []
    for server in (pg17, request.getfixturevalue(other)):
        admin = server.superuser(fresh_database(server).dbname)
        run_sql(admin, LARGE, "GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC")
        found.append((large_objects(admin), large_objects(admin, hashes=False)))
    assert found[0] == found[1]


def test_large_objects_come_back_the_same_and_counts_alone_hash_none(
    dsn: Dsn, pg17: PostgresServer, folder_store: LocalStore, restored_copy: RestoreCopy
) -> None:
    run_sql(dsn, LARGE, "GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC")
    manifest = dump(dsn, folder_store)
    stored = read_inventory(folder_store, manifest, identity=None).large_objects
    assert stored.hash is not None
    assert large_objects(restored_copy(folder_store, manifest, pg17)) == stored
    counted = dump(dsn, folder_store, options(fingerprints="counts"), database="counted")
    assert read_inventory(folder_store, counted, identity=None).large_objects == stored.model_copy(
        update={"hash": None}
    )
