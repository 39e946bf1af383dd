"""Whatever a database holds: the archive has each table that the manifest lists, and a restored copy the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.backup.verify import verify
from tests.backup.dump_world import dump, fingerprints, options, run_sql, without_oids

if TYPE_CHECKING:
    from include.backup.model import Manifest
    from include.backup.stores.local import LocalStore
    from include.stack.postgres import PostgresServer
    from tests.backup.conftest import RestoreCopy
    from tests.conftest import FreshDatabase

# What stands in the database -> what the manifest lists, with rows.
CONTENTS: dict[str, tuple[list[str], dict[str, int]]] = {
    "nothing at all": ([], {}),
    "an empty table": (["CREATE TABLE t (a int)"], {"t": 0}),
    "a table without columns": (["CREATE TABLE t ()", "INSERT INTO t DEFAULT VALUES"], {"t": 1}),
    "odd names": (
        [
            'CREATE SCHEMA "Sch ema"',
            'CREATE TABLE "Sch ema"."a ""b"" %s é; TABLE DATA" ("Col \'%x" int, "{brace}" text)',
            'INSERT INTO "Sch ema"."a ""b"" %s é; TABLE DATA" VALUES (1)',
            'CREATE TABLE "Capitals" (a int)',
            'CREATE TABLE "x\n5; 0 4 TABLE DATA y" (a int)',
            'CREATE TABLE "-- dash" (a int)',
        ],
        {'a "b" %s é; TABLE DATA': 1, "Capitals": 0, "x\n5; 0 4 TABLE DATA y": 0, "-- dash": 0},
    ),
    "partitions, of which one has its columns in another order": (
        [
            "CREATE TABLE p (a int, b text) PARTITION BY LIST (b)",
            "CREATE TABLE p1 PARTITION OF p FOR VALUES IN ('x')",
            "CREATE TABLE p2 (b text, a int)",
            "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN ('y')",
            "CREATE TABLE p3 PARTITION OF p DEFAULT PARTITION BY RANGE (a)",
            "CREATE TABLE p3_1 PARTITION OF p3 FOR VALUES FROM (0) TO (10)",
            "INSERT INTO p VALUES (1, 'x'), (2, 'y'), (3, 'z')",
        ],
        {"p1": 1, "p2": 1, "p3_1": 1},
    ),
    "inheritance, with a column that the parent got later": (
        [
            "CREATE TABLE parent (a int)",
            "CREATE TABLE child (b text, c int) INHERITS (parent)",
            "INSERT INTO child VALUES (1, 'x', 2)",
            "ALTER TABLE parent ADD COLUMN d int DEFAULT 5",
            "INSERT INTO parent VALUES (3, 4)",
        ],
        {"child": 1, "parent": 1},
    ),
    "a dropped column": (
        ["CREATE TABLE t (a int, b int, c text)", "INSERT INTO t VALUES (1, 2, 'x')", "ALTER TABLE t DROP COLUMN b"],
        {"t": 1},
    ),
    "an unlogged table": (["CREATE UNLOGGED TABLE t (a int)", "INSERT INTO t VALUES (1)"], {"t": 1}),
    "generated columns": (
        [
            "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED, id int GENERATED ALWAYS AS IDENTITY)",
            "INSERT INTO t (a) SELECT generate_series(1, 10)",
            "CREATE TABLE only_generated (a int GENERATED ALWAYS AS (1) STORED)",
            "INSERT INTO only_generated DEFAULT VALUES",
        ],
        {"t": 10, "only_generated": 1},
    ),
    "types without a hash function": (
        [
            "CREATE TABLE t (a json, m money, p point, v tsvector, b bit(3))",
            """INSERT INTO t VALUES ('{"a": 1}', '1.5', '(0.1,2)', 'a b c', B'101'), (NULL, NULL, NULL, NULL, NULL)""",
        ],
        {"t": 2},
    ),
    "enums, also inside arrays, composites, domains and ranges": (
        [
            "CREATE TYPE mood AS ENUM ('good', 'bad')",
            "CREATE TYPE pair AS (m mood, n int)",
            "CREATE DOMAIN feeling AS mood",
            "CREATE TYPE moods AS RANGE (subtype = mood)",
            "CREATE TABLE t (a mood, b mood[], c pair, d feeling, e moods)",
            "INSERT INTO t VALUES ('good', '{good,bad}', '(bad,1)', 'bad', '[good,bad]')",
        ],
        {"t": 1},
    ),
    "names of objects as values": (
        ["CREATE TABLE t (a regclass, b regtype, c regclass[])", "INSERT INTO t VALUES ('t', 't', '{t}')"],
        {"t": 1},
    ),
    "large objects": (["SELECT lo_from_bytea(0, 'abc')", "CREATE TABLE t (o oid)"], {"t": 0}),
    "views of every kind": (
        [
            "CREATE TABLE t (a int)",
            "INSERT INTO t VALUES (1)",
            "CREATE VIEW v AS SELECT * FROM t",
            "CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
            "CREATE MATERIALIZED VIEW unpopulated AS SELECT * FROM t WITH NO DATA",
        ],
        {"t": 1},
    ),
    "a typed table, identity, sequences and exact numbers": (
        [
            "CREATE TYPE kind AS (a int, b text)",
            "CREATE TABLE t OF kind",
            "INSERT INTO t VALUES (1, 'x')",
            "CREATE TABLE u (id int GENERATED ALWAYS AS IDENTITY, s serial, n numeric, i interval, at timestamptz, "
            "f float8, h float4)",
            "INSERT INTO u (n, i, at, f, h) VALUES (1.10, '1 mon', now(), 0.1::float8 + 0.2, 1e-7), "
            "('NaN', '-1 day', 'infinity', '-0', 'NaN')",
        ],
        {"t": 1, "u": 2},
    ),
    "rules, triggers and a foreign key": (
        [
            "CREATE TABLE a (id int PRIMARY KEY)",
            "CREATE TABLE b (a int REFERENCES a DEFERRABLE)",
            "INSERT INTO a VALUES (1)",
            "INSERT INTO b VALUES (1)",
            "CREATE RULE quiet AS ON DELETE TO a DO INSTEAD NOTHING",
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER no BEFORE INSERT ON b FOR EACH ROW EXECUTE FUNCTION no()",
        ],
        {"a": 1, "b": 1},
    ),
}


def rows(manifest: Manifest) -> dict[str, int | None]:
    return {table.name: table.rows for table in manifest.tables}


@pytest.mark.parametrize("what", CONTENTS)
def test_the_manifest_the_archive_and_the_restored_copy_agree_on(
    what: str,
    pg17: PostgresServer,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
) -> None:
    statements, tables = CONTENTS[what]
    source = fresh_database(pg17)
    run_sql(source, *statements)
    manifest = dump(source, folder_store)
    assert rows(manifest) == tables
    assert verify(folder_store, manifest.backup_id).failure is None
    assert fingerprints(restored_copy(folder_store, manifest, pg17)) == without_oids(manifest.tables)


def test_an_extensions_own_tables_are_left_to_the_extension_and_those_it_wants_dumped_are_in_both(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore
) -> None:
    source = fresh_database(pg17)
    admin = pg17.superuser(source.dbname)
    run_sql(
        admin,
        "CREATE EXTENSION lo",
        "CREATE EXTENSION pg_stat_statements",
        "CREATE SCHEMA inner_things",
        "CREATE TABLE fixed (a int)",
        "CREATE TABLE inner_things.settings (a int)",
        "CREATE TABLE inner_things.ours (a int)",
        "INSERT INTO inner_things.settings VALUES (1)",
        "ALTER EXTENSION lo ADD TABLE fixed",
        "ALTER EXTENSION lo ADD TABLE inner_things.settings",
        "ALTER EXTENSION lo ADD SCHEMA inner_things",
        # What an extension's own script says by pg_extension_config_dump().
        "SET allow_system_table_mods = on",
        "UPDATE pg_extension SET extconfig = ARRAY['inner_things.settings'::regclass::oid], extcondition = ARRAY['']"
        " WHERE extname = 'lo'",
    )
    manifest = dump(admin, folder_store)
    assert rows(manifest) == {"settings": 1, "ours": 0}
    assert verify(folder_store, manifest.backup_id).failure is None


def test_tables_behind_a_foreign_data_wrapper_and_temporary_ones_are_in_neither(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore
) -> None:
    admin = pg17.superuser(fresh_database(pg17).dbname)
    with admin.connect() as session:
        session.execute("CREATE TEMPORARY TABLE passing (a int)")
        session.execute("CREATE EXTENSION postgres_fdw")
        session.execute("CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw")
        session.execute("CREATE FOREIGN TABLE far_away (a int) SERVER far")
        session.execute("CREATE TABLE near (a int)")
        manifest = dump(admin, folder_store)
    assert rows(manifest) == {"near": 0}
    assert verify(folder_store, manifest.backup_id).failure is None


def test_a_table_made_while_the_dump_runs_is_in_neither(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore
) -> None:
    source = fresh_database(pg17)
    run_sql(source, "CREATE TABLE t (a int)")
    first_bytes: list[int] = []

    def progress(sent: int) -> None:
        if not first_bytes:
            first_bytes.append(sent)
            run_sql(source, "CREATE TABLE late (a int)")

    manifest = dump(source, folder_store, options("none"), progress=progress)
    assert first_bytes
    assert rows(manifest) == {"t": 0}
    assert verify(folder_store, manifest.backup_id).failure is None
