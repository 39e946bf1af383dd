"""What would stop a dump is known before it starts: everything at once, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from include.backup import source
from include.backup.preflight import preflight
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.errors import MaintenanceError
from tests.backup.dump_world import dump, options, run_sql

if TYPE_CHECKING:
    from pathlib import Path

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase


@pytest.fixture
def owner(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    return fresh_database(pg17)


@pytest.fixture
def reader(owner: Dsn, pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    """Another role in the owner's database, which was granted nothing there."""
    return replace(fresh_database(pg17, "reader"), dbname=owner.dbname)


def found(dsn: Dsn) -> set[tuple[str, str, str]]:
    with dsn.connect() as session:
        return {(item.kind, item.name, item.problem) for item in source.unreadable(session)}


class Hidden(NamedTuple):
    statements: tuple[str, ...]
    expected: tuple[str, str, str]


HIDDEN = {
    "a table": Hidden(("CREATE TABLE t (a int)",), ("table", "public.t", "no SELECT")),
    "a table of which it may read one column": Hidden(
        ("CREATE TABLE t (a int, b int)", "GRANT SELECT (a, b) ON t TO {reader}"), ("table", "public.t", "no SELECT")
    ),
    "a partition": Hidden(
        (
            "CREATE TABLE p (a int) PARTITION BY LIST (a)",
            "CREATE TABLE p1 PARTITION OF p DEFAULT",
            "GRANT SELECT ON p TO {reader}",
        ),
        ("table", "public.p1", "no SELECT"),
    ),
    "a partitioned table": Hidden(
        (
            "CREATE TABLE p (a int) PARTITION BY LIST (a)",
            "CREATE TABLE p1 PARTITION OF p DEFAULT",
            "GRANT SELECT ON p1 TO {reader}",
        ),
        ("table", "public.p", "no SELECT"),
    ),
    "a schema": Hidden(
        ("CREATE SCHEMA s", "CREATE TABLE s.t (a int)", "GRANT SELECT ON s.t TO {reader}"),
        ("table", "s.t", "no USAGE on the schema"),
    ),
    "a sequence": Hidden(("CREATE SEQUENCE q",), ("sequence", "public.q", "no SELECT")),
    "an identity's sequence": Hidden(
        ("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY)", "GRANT SELECT ON t TO {reader}"),
        ("sequence", "public.t_id_seq", "no SELECT"),
    ),
    "rows": Hidden(
        (
            "CREATE TABLE t (a int)",
            "INSERT INTO t VALUES (1), (2)",
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY one ON t USING (a = 1)",
            "GRANT SELECT ON t TO {reader}",
        ),
        ("table", "public.t", "row-level security would hide rows"),
    ),
    "a large object": Hidden(("SELECT lo_from_bytea(4711, 'abc')",), ("large object", "4711", "no SELECT")),
    "an odd name": Hidden(('CREATE TABLE "Odd ""t" (a int)',), ("table", 'public."Odd ""t"', "no SELECT")),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_the_preflight_names_what_the_role_may_not_read_and_without_it_the_dump_would_fail(
    what: str, owner: Dsn, reader: Dsn, folder_store: LocalStore
) -> None:
    run_sql(owner, *(statement.format(reader=reader.user) for statement in HIDDEN[what].statements))
    assert HIDDEN[what].expected in found(reader)
    with pytest.raises(MaintenanceError) as raised:
        preflight(reader, folder_store, database="app", options=options())
    kind, name, problem = HIDDEN[what].expected
    assert f"{kind} {name} ({problem})" in raised.value.what
    assert reader.user in raised.value.remedy
    assert not raised.value.transient
    with pytest.raises(MaintenanceError):
        dump(reader, folder_store)
    assert list(folder_store.list()) == []


def test_all_hidden_objects_are_named_at_once(owner: Dsn, reader: Dsn, folder_store: LocalStore) -> None:
    run_sql(
        owner,
        "CREATE TABLE t (a int)",
        "CREATE SCHEMA s",
        "CREATE TABLE s.t (a int)",
        "CREATE SEQUENCE q",
        "SELECT lo_from_bytea(4711, 'abc')",
    )
    with pytest.raises(MaintenanceError, match=r"cannot read 4 object\(s\)") as raised:
        preflight(reader, folder_store, database="app", options=options())
    for name in ("public.t", "s.t", "public.q", "4711"):
        assert name in raised.value.what


def test_a_thousand_hidden_tables_make_a_message_that_can_be_read(
    owner: Dsn, reader: Dsn, folder_store: LocalStore
) -> None:
    run_sql(owner, "DO $$ BEGIN FOR i IN 1..80 LOOP EXECUTE format('CREATE TABLE t%s (a int)', i); END LOOP; END $$")
    with pytest.raises(MaintenanceError, match="and 30 more") as raised:
        preflight(reader, folder_store, database="app", options=options())
    assert len(raised.value.what) < 4000


# What looks closed but does not stand in the way of a dump.
OPEN = {
    "pg_read_all_data": ("CREATE TABLE t (a int)", "CREATE SEQUENCE q", "CREATE SCHEMA s", "CREATE TABLE s.t (a int)"),
    "a grant through another role": ("CREATE TABLE t (a int)", "GRANT SELECT ON t TO PUBLIC"),
    "a materialized view, whose rows are not dumped": ("CREATE MATERIALIZED VIEW m AS SELECT 1 AS a",),
    "row-level security on a partitioned table, whose rows its partitions hold": (
        "CREATE TABLE p (a int) PARTITION BY LIST (a)",
        "CREATE TABLE p1 PARTITION OF p DEFAULT",
        "INSERT INTO p VALUES (1), (2)",
        "ALTER TABLE p ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY one ON p USING (a = 1)",
        "GRANT SELECT ON p, p1 TO {reader}",
    ),
    "a large object that everybody may read": (
        "SELECT lo_from_bytea(4711, 'abc')",
        "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
    ),
}


@pytest.mark.parametrize("what", OPEN)
def test_the_preflight_does_not_refuse_what_can_be_dumped_whole(
    what: str, owner: Dsn, reader: Dsn, pg17: PostgresServer, folder_store: LocalStore
) -> None:
    run_sql(owner, *(statement.format(reader=reader.user) for statement in OPEN[what]))
    if what == "pg_read_all_data":
        run_sql(pg17.superuser(), f"GRANT pg_read_all_data TO {reader.user}")
    manifest = dump(reader, folder_store)  # the proof that nothing is in the way
    assert sum(table.rows or 0 for table in manifest.tables) in {0, 2}
    assert found(reader) == set()
    preflight(reader, folder_store, database="app", options=options())


def test_the_expected_size_is_that_of_the_newest_backup_or_else_guessed_from_the_database(
    owner: Dsn, folder_store: LocalStore
) -> None:
    run_sql(owner, "CREATE TABLE t AS SELECT generate_series(1, 20000) AS a")
    guessed = preflight(owner, folder_store, database="app", options=options())
    assert 1_000_000 < guessed.expected_bytes < 10_000_000
    manifest = dump(owner, folder_store)
    known = preflight(owner, folder_store, database="app", options=options())
    assert known.expected_bytes == manifest.bytes
    assert (known.server, known.pg_dump) == (manifest.server.version, manifest.tools["pg_dump"])
    assert known.warnings == ()
    assert preflight(owner, folder_store, database="app-2", options=options()) == guessed


def test_a_store_with_too_little_room_is_refused_with_both_sizes(
    owner: Dsn, folder_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(owner, "CREATE TABLE t AS SELECT generate_series(1, 20000) AS a")
    monkeypatch.setattr(LocalStore, "free_bytes", lambda self: 1024)
    with pytest.raises(MaintenanceError, match=r"1\.0 KiB free, a backup is expected to take [\d.]+ MiB"):
        preflight(owner, folder_store, database="app", options=options())
    assert list(folder_store.list()) == []


def test_a_full_disk_is_known_before_the_dump(owner: Dsn, small_disk: Path) -> None:
    run_sql(owner, "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 60000) i")
    with pytest.raises(MaintenanceError, match="free, a backup is expected to take"):
        preflight(owner, LocalStore(small_disk / "store"), database="app", options=options())


def test_a_store_that_refuses_is_known_before_the_dump(owner: Dsn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError):
        preflight(owner, LocalStore(tmp_path / "file"), database="app", options=options())


def test_a_missing_staging_folder_is_refused_by_name(owner: Dsn, folder_store: LocalStore, tmp_path: Path) -> None:
    staging = tmp_path / "nowhere"
    with pytest.raises(MaintenanceError, match=r"staging folder .*nowhere does not exist"):
        preflight(owner, folder_store, database="app", options=options(staging=staging))


def test_a_full_staging_folder_is_refused(owner: Dsn, folder_store: LocalStore, small_disk: Path) -> None:
    run_sql(owner, "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 60000) i")
    with pytest.raises(MaintenanceError, match="free, a backup is expected to take") as raised:
        preflight(owner, folder_store, database="app", options=options(staging=small_disk))
    assert str(small_disk) in raised.value.what


def test_a_manifest_that_cannot_be_understood_is_a_warning_and_not_in_the_way(
    owner: Dsn, folder_store: LocalStore
) -> None:
    folder_store.put("app/daily/app_2026-03-01T020000Z.json", b"{")
    (warning,) = preflight(owner, folder_store, database="app", options=options()).warnings
    assert "app/daily/app_2026-03-01T020000Z.json cannot be understood" in warning


def test_a_role_that_owns_everything_passes(owner: Dsn, folder_store: LocalStore) -> None:
    run_sql(owner, "CREATE TABLE t (a int)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    preflight(owner, folder_store, database="app", options=options())
    run_sql(owner, "ALTER TABLE t FORCE ROW LEVEL SECURITY")
    with pytest.raises(MaintenanceError, match="row-level security"):
        preflight(owner, folder_store, database="app", options=options())


def test_a_password_is_not_in_what_the_preflight_says(owner: Dsn, folder_store: LocalStore) -> None:
    wrong = replace(owner, password="s3cret-and-wrong")
    with pytest.raises(MaintenanceError) as raised:
        preflight(wrong, folder_store, database="app", options=options())
    assert "s3cret-and-wrong" not in str(raised.value)
