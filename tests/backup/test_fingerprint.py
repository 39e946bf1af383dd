"""A fingerprint changes with every row that is changed, missing or doubled, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from include.backup import source
from include.backup.fingerprint import SESSION_SETTINGS, fingerprint
from tests.backup.dump_world import fingerprints, run_sql

if TYPE_CHECKING:
    from include.backup.model import TableFingerprint
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

COLUMNS = {
    "hash_record": "id int, note text, at timestamptz",
    "text": "id int, note json, at timestamptz",
}
ROWS = "INSERT INTO t SELECT i, '\"' || i || '\"', '2026-01-01'::timestamptz + i * interval '1 h'"


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    return fresh_database(pg17)


def of_t(dsn: Dsn) -> TableFingerprint:
    (found,) = (table for table in fingerprints(dsn) if table.name == "t")
    return found


def make(dsn: Dsn, method: str) -> TableFingerprint:
    numbers = " FROM generate_series(1, 100) i"
    ordered = ROWS.replace("'\"' || i || '\"'", "to_json(i)") if method == "text" else ROWS
    run_sql(dsn, f"CREATE TABLE t ({COLUMNS[method]})", ordered + numbers)
    return of_t(dsn)


@pytest.mark.parametrize("method", COLUMNS)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET id = 1000 WHERE id = 50",
        "UPDATE t SET note = NULL WHERE id = 50",
        "UPDATE t SET at = at + interval '1 microsecond' WHERE id = 50",
        "DELETE FROM t WHERE id = 50",
        "INSERT INTO t SELECT * FROM t WHERE id = 50",
        "UPDATE t SET id = 101 - id WHERE id IN (50, 51)",
        "TRUNCATE t",
    ],
)
def test_a_row_that_is_changed_missing_or_doubled_changes_it(dsn: Dsn, method: str, change: str) -> None:
    before = make(dsn, method)
    assert (before.rows, before.method) == (100, method)
    run_sql(dsn, change)
    assert of_t(dsn).row_hash != before.row_hash


@pytest.mark.parametrize("method", COLUMNS)
def test_the_order_of_rows_and_their_place_on_disk_do_not_change_it(dsn: Dsn, method: str) -> None:
    before = make(dsn, method)
    run_sql(
        dsn,
        "CREATE TABLE other AS SELECT * FROM t",
        "TRUNCATE t",
        "INSERT INTO t SELECT * FROM other ORDER BY id DESC",
        "VACUUM FULL t",
        "CREATE INDEX ON t (id)",
        "ANALYZE t",
    )
    assert of_t(dsn) == before


@pytest.mark.parametrize("method", COLUMNS)
def test_a_databases_and_roles_own_settings_do_not_change_it(dsn: Dsn, pg17: PostgresServer, method: str) -> None:
    before = make(dsn, method)
    admin = pg17.superuser()
    for name, value in {
        "TimeZone": "'Asia/Tokyo'",
        "DateStyle": "'German, DMY'",
        "IntervalStyle": "iso_8601",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "search_path": "nowhere",
    }.items():
        run_sql(admin, f"ALTER DATABASE {dsn.dbname} SET {name} = {value}")
    assert of_t(dsn) == before


def test_null_an_empty_text_and_no_row_at_all_are_three_things(dsn: Dsn) -> None:
    run_sql(dsn, "CREATE TYPE mood AS ENUM ('', 'x')", "CREATE TABLE t (a text, b mood)")
    hashes = [of_t(dsn).row_hash]
    for values in ("('', '')", "(NULL, '')", "('', NULL)", "(NULL, NULL)"):
        run_sql(dsn, "TRUNCATE t", f"INSERT INTO t VALUES {values}")
        hashes.append(of_t(dsn).row_hash)
    assert len(set(hashes)) == 5


def test_a_value_that_moves_to_another_column_changes_it(dsn: Dsn) -> None:
    run_sql(dsn, "CREATE TABLE t (a int, b int)", "INSERT INTO t VALUES (1, 2)")
    before = of_t(dsn)
    run_sql(dsn, "UPDATE t SET a = b, b = a")
    assert of_t(dsn).row_hash != before.row_hash


def test_an_empty_table_has_the_hash_zero(dsn: Dsn) -> None:
    run_sql(dsn, "CREATE TABLE t (a int)", "CREATE TABLE j (a json)")
    assert [(table.rows, table.row_hash) for table in fingerprints(dsn)] == [(0, "0"), (0, "0")]


def test_rows_of_children_are_not_counted_with_their_parents(dsn: Dsn) -> None:
    run_sql(dsn, "CREATE TABLE t (a int)", "CREATE TABLE child () INHERITS (t)", "INSERT INTO child VALUES (1)")
    assert {table.name: table.rows for table in fingerprints(dsn)} == {"child": 1, "t": 0}


def test_no_code_of_the_databases_users_runs_with_the_rights_of_the_backup(dsn: Dsn, pg17: PostgresServer) -> None:
    run_sql(
        dsn,
        "CREATE TYPE trap AS (a int)",
        "CREATE TABLE caught (who text)",
        "CREATE FUNCTION catch(trap) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'caught %', current_user; END $$",
        "CREATE CAST (trap AS text) WITH FUNCTION catch(trap) AS IMPLICIT",
        "CREATE TABLE t (a trap, j json)",
        "INSERT INTO t VALUES ('(1)', '1')",
    )
    with pg17.superuser(dsn.dbname).connect() as admin, pytest.raises(psycopg.errors.RaiseException, match="caught"):
        admin.execute("SELECT a::text FROM t")
    assert {table.name: table.rows for table in fingerprints(pg17.superuser(dsn.dbname))} == {"caught": 0, "t": 1}


def test_rows_that_row_level_security_hides_are_an_error_and_not_a_smaller_count(
    dsn: Dsn, pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    reader = replace(fresh_database(pg17, "reader"), dbname=dsn.dbname)
    run_sql(
        dsn,
        "CREATE TABLE t (a int)",
        "INSERT INTO t VALUES (1), (2)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY one ON t USING (a = 1)",
        f"GRANT SELECT ON t TO {reader.user}",
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        fingerprints(reader)


def test_each_table_is_told_when_it_is_done(dsn: Dsn) -> None:
    run_sql(dsn, "CREATE TABLE a (x int)", "CREATE TABLE b (x json)", "INSERT INTO b VALUES ('1')")
    told: list[str] = []
    with dsn.connect() as session, session.transaction():
        for setting in SESSION_SETTINGS:
            session.execute(setting.encode())
        tables = source.contents(session, revision_table="dbmaint.schema_revision").tables
        fingerprint(session, tables, hashes=True, progress=lambda table: told.append(table.name))
    assert told == ["a", "b"]


def test_text_whose_collation_takes_other_text_for_equal_is_compared_to_the_letter(
    pg15: PostgresServer, fresh_database: FreshDatabase
) -> None:
    dsn = fresh_database(pg15)  # the one of these servers that has ICU
    run_sql(
        dsn,
        "CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE t (name text COLLATE anycase)",
        "INSERT INTO t VALUES ('guest')",
    )
    before = of_t(dsn)
    assert before.method == "hash_record"
    run_sql(dsn, "UPDATE t SET name = 'GUEST'")
    assert of_t(dsn).row_hash != before.row_hash
