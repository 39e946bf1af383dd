"""A restored copy has the inventory taken beside its dump, but for what PostgreSQL itself writes differently."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from include.backup.inventory import NOT_IN_ARCHIVE, Inventory, read_inventory
from tests.backup.dump_world import WatchedStore, dump, once, options, run_sql
from tests.backup.inventory_world import ONE_OF_EVERYTHING, begin, by_name, difference, schema_of, statements

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.model import Manifest
    from include.backup.stores.base import Store
    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.backup.conftest import RestoreCopy
    from tests.backup.inventory_world import Objects
    from tests.conftest import FreshDatabase


def named(inventory: Inventory) -> Objects:
    """What a restored copy must have again."""
    return {
        (one.kind, one.name): (one.definition, one.flags) for one in inventory.objects if one.kind not in NOT_IN_ARCHIVE
    }


def lost(manifest: Manifest, store: Store, copy: Dsn) -> set[str]:
    """What the copy has otherwise than the snapshot had."""
    there = {key: value for key, value in schema_of(copy).items() if key[0] not in NOT_IN_ARCHIVE}
    return difference(named(read_inventory(store, manifest, identity=None)), there)


@pytest.mark.usefixtures("tools_of_18")
@pytest.mark.parametrize("major", ["pg15", "pg17", "pg18"])
def test_one_of_everything_comes_back_the_same(
    major: str,
    request: pytest.FixtureRequest,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
) -> None:
    server: PostgresServer = request.getfixturevalue(major)
    owner, reader = fresh_database(server, "owner"), fresh_database(server, "reader")
    admin = server.superuser(owner.dbname)
    run_sql(admin, *statements(ONE_OF_EVERYTHING, {"owner": owner.user, "reader": reader.user}))
    manifest = dump(admin, folder_store, options("gzip:1"))
    assert lost(manifest, folder_store, restored_copy(folder_store, manifest, server)) == set()
    assert manifest.owners == (owner.user, "postgres")
    assert reader.user in manifest.roles


def test_an_in_list_over_varchar_is_written_with_other_casts_after_a_restore(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore, restored_copy: RestoreCopy
) -> None:
    source = fresh_database(pg17)
    run_sql(
        source,
        "CREATE TABLE t (code varchar(9) CONSTRAINT known CHECK (code IN ('a', 'b')), "
        "note text CONSTRAINT said CHECK (note IN ('a', 'b')))",
        "CREATE VIEW v AS SELECT code FROM t WHERE code IN ('a', 'b')",
        "CREATE INDEX i ON t (code) WHERE code IN ('a', 'b')",
    )
    manifest = dump(source, folder_store)
    copy = restored_copy(folder_store, manifest, pg17)
    assert lost(manifest, folder_store, copy) == {"constraint public.t.known", "view public.v", "index public.i"}
    before = named(read_inventory(folder_store, manifest, identity=None))
    for key in (("constraint", "public.t.known"), ("view", "public.v"), ("index", "public.i")):
        assert before[key][1] == schema_of(copy)[key][1]
    # A second restore finds the text that the first one made.
    again = dump(copy, folder_store, database="again")
    assert lost(again, folder_store, restored_copy(folder_store, again, pg17)) == set()


def test_what_pg_dump_leaves_out_without_a_word_is_told_and_not_missed_in_the_copy(
    pg17: PostgresServer,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = fresh_database(pg17)
    admin = pg17.superuser(source.dbname)
    run_sql(
        admin,
        "CREATE TABLE rooms (number int PRIMARY KEY, beds int)",
        "CREATE TABLE stays (room int CONSTRAINT room_exists REFERENCES rooms)",
        "CREATE INDEX beds ON rooms (beds)",
        "COMMENT ON INDEX beds IS 'never finished'",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'beds'::regclass",
        "ALTER TABLE stays DISABLE TRIGGER ALL",
        "CREATE TABLE p (a int) PARTITION BY LIST (a)",
        "CREATE TABLE p1 PARTITION OF p DEFAULT",
        "CREATE INDEX unfinished ON ONLY p (a)",  # an invalid one that pg_dump does write
    )
    with caplog.at_level(logging.WARNING):
        manifest = dump(admin, folder_store)
    inventory = read_inventory(folder_store, manifest, identity=None)
    assert [(one.kind, one.name) for one in inventory.left_out] == [
        ("constraint", "public.stays.room_exists"), ("index", "public.beds")]  # fmt: skip
    assert "index public.beds is not dumped as it is: valid=false" in caplog.text
    assert "constraint public.stays.room_exists is not dumped as it is" in caplog.text
    assert ("index", "public.unfinished") in named(inventory)
    assert lost(manifest, folder_store, restored_copy(folder_store, manifest, pg17)) == set()


def test_what_belongs_to_an_extension_is_the_extensions_but_for_changed_grants(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore, restored_copy: RestoreCopy
) -> None:
    source = fresh_database(pg17)
    admin = pg17.superuser(source.dbname)
    bare = schema_of(source)
    run_sql(
        admin,
        "CREATE SCHEMA x",
        "CREATE EXTENSION hstore SCHEMA x",
        "CREATE EXTENSION pg_stat_statements",
        "REVOKE EXECUTE ON FUNCTION x.akeys(x.hstore) FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION pg_stat_statements_reset(oid, oid, bigint, boolean) TO {source.user}",
    )
    assert difference(bare, schema_of(admin)) == {
        "schema x",
        "owner schema x",
        "extension hstore",
        "extension pg_stat_statements",
        "comment extension hstore",
        "comment extension pg_stat_statements",
        "grant function x.akeys(x.hstore) to PUBLIC",
        f"grant function public.pg_stat_statements_reset(oid, oid, bigint, boolean) to {source.user}",
    }
    manifest = dump(admin, folder_store)
    assert lost(manifest, folder_store, restored_copy(folder_store, manifest, pg17)) == set()


CHANGING = (
    "CREATE TABLE t (a int, CONSTRAINT later CHECK (a > 0) NOT VALID)",
    "INSERT INTO t SELECT generate_series(1, 1000)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER watched BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION watch()",
    "CREATE VIEW v AS SELECT a FROM t",
    "CREATE MATERIALIZED VIEW m AS SELECT a FROM t WITH NO DATA",
    "CREATE TYPE mood AS ENUM ('good')",
    "CREATE SEQUENCE q",
    "CREATE SCHEMA s",
)
CHANGES = (
    "ALTER TABLE t VALIDATE CONSTRAINT later",
    "ALTER TABLE t DISABLE TRIGGER watched",
    "ALTER TABLE t SET (fillfactor = 50)",
    "ALTER TABLE t ALTER a SET STATISTICS 7",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "CREATE OR REPLACE VIEW v AS SELECT a FROM t WHERE a > 1",
    "REFRESH MATERIALIZED VIEW m",
    "ALTER TYPE mood ADD VALUE 'bad'",
    "ALTER SEQUENCE q INCREMENT 5",
    "CREATE INDEX i ON t (a)",
    "CREATE TABLE late (a int)",
    "COMMENT ON TABLE t IS 'changed'",
    "GRANT SELECT ON t TO PUBLIC",
    "DROP SCHEMA s",
    "INSERT INTO t VALUES (7)",
)


@pytest.mark.parametrize("major", ["pg15", "pg17", "pg18"])
def test_an_inventory_is_that_of_its_snapshot_whatever_was_changed_since(
    major: str, request: pytest.FixtureRequest, fresh_database: FreshDatabase
) -> None:
    source = fresh_database(request.getfixturevalue(major))
    run_sql(source, *CHANGING)
    before = schema_of(source)
    with source.connect() as session:
        begin(session)
        session.execute("SELECT 1")  # takes the snapshot
        run_sql(source, *CHANGES)
        assert by_name(session) == before
    assert len(difference(before, schema_of(source))) > len(CHANGES)


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
def test_what_is_changed_while_the_dump_runs_is_in_neither_the_archive_nor_the_inventory(
    pg17: PostgresServer,
    fresh_database: FreshDatabase,
    tmp_path: Path,
    restored_copy: RestoreCopy,
    archive_format: str,
) -> None:
    source = fresh_database(pg17)
    run_sql(source, *CHANGING)
    before = schema_of(source)
    # pg_dump has taken its locks by the time that it sends rows.
    step, staging = ("write", None) if archive_format == "custom" else ("upload", tmp_path)
    store = WatchedStore(tmp_path / "store", once(step, lambda: run_sql(source, *CHANGES)))
    manifest = dump(source, store, options("none", staging=staging))
    there = {key: value for key, value in before.items() if key[0] not in NOT_IN_ARCHIVE}
    assert difference(there, named(read_inventory(store, manifest, identity=None))) == set()
    assert lost(manifest, store, restored_copy(store, manifest, pg17)) == set()


def test_another_major_version_shows_the_same_names_and_flags(
    pg15: PostgresServer, pg18: PostgresServer, fresh_database: FreshDatabase
) -> None:
    shown = []
    for server in (pg15, pg18):
        names = {"owner": "owner_of_majors", "reader": "reader_of_majors"}
        run_sql(server.superuser(), *(f"CREATE ROLE {role}" for role in names.values()),
                f"CREATE DATABASE {names['owner']}")  # fmt: skip
        try:
            admin = server.superuser(names["owner"])
            run_sql(admin, *statements(ONE_OF_EVERYTHING, names))
            shown.append({key: (flags, "") for key, (_, flags) in schema_of(admin).items()})
        finally:
            run_sql(server.superuser(), f"DROP DATABASE {names['owner']}",
                    f"DROP ROLE {names['owner']}, {names['reader']}")  # fmt: skip
    assert difference(*shown) == set()


def test_a_role_that_may_read_the_data_can_take_the_inventory(
    pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    owner, reader = fresh_database(pg17, "owner"), fresh_database(pg17, "reader")
    admin = pg17.superuser(owner.dbname)
    run_sql(admin, *statements(ONE_OF_EVERYTHING, {"owner": owner.user, "reader": reader.user}))
    run_sql(admin, f"GRANT pg_read_all_data TO {reader.user}", f"GRANT CONNECT ON DATABASE {owner.dbname} TO PUBLIC")
    assert schema_of(replace(reader, dbname=owner.dbname)) == schema_of(admin)
