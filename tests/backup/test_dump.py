"""A backup restores with nothing but PostgreSQL's own tools to exactly what its manifest says."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyrage
import pytest

from include.backup.catalog import read_catalog
from include.backup.model import Tier
from include.backup.verify import verify
from include.errors import MaintenanceError
from tests.backup.dump_world import dump, fetch, fingerprints, options, run_sql, without_oids

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.backup.conftest import RestoreCopy
    from tests.conftest import FreshDatabase

BOOKINGS = (
    "CREATE TABLE bookings (id int PRIMARY KEY, guest text, price numeric(10,2), at timestamptz)",
    "INSERT INTO bookings SELECT i, 'guest ' || i, i * 1.5, '2026-01-01'::timestamptz + i * interval '1 minute' "
    "FROM generate_series(1, 3000) i",
    "CREATE TABLE rooms (number int, beds int)",
    "INSERT INTO rooms SELECT i, i % 3 FROM generate_series(1, 20) i",
)


@pytest.fixture
def app(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    dsn = fresh_database(pg17, "app")
    run_sql(dsn, *BOOKINGS)
    return dsn


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
@pytest.mark.parametrize("compression", ["none", "gzip:1", "zstd:1", "lz4:1"])
def test_a_backup_restores_with_stock_pg_restore_to_the_same_rows(
    app: Dsn,
    pg17: PostgresServer,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
    tmp_path: Path,
    compression: str,
    archive_format: str,
) -> None:
    how = options(compression, staging=tmp_path if archive_format == "directory" else None)
    manifest = dump(app, folder_store, how)
    assert (manifest.archive_format, manifest.compression) == (archive_format, compression)
    assert verify(folder_store, manifest.backup_id).failure is None
    copy = restored_copy(folder_store, manifest, pg17)
    assert fingerprints(copy) == without_oids(manifest.tables)
    assert {table.name: table.rows for table in manifest.tables} == {"bookings": 3000, "rooms": 20}


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
def test_an_encrypted_backup_restores_after_age_decrypts_its_objects(
    app: Dsn,
    pg17: PostgresServer,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
    tmp_path: Path,
    archive_format: str,
) -> None:
    key, second = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    recipients = (str(key.to_public()), str(second.to_public()))
    staging = tmp_path if archive_format == "directory" else None
    manifest = dump(app, folder_store, options(staging=staging, encryption_recipients=recipients))
    assert manifest.encryption_recipients == recipients
    assert verify(folder_store, manifest.backup_id).level == "encrypted bytes"
    for file in manifest.files:
        stored = folder_store.get(f"{manifest.id}{file.suffix}")
        assert stored.startswith(b"age-encryption.org/v1\n")
        assert b"guest" not in stored
    for private_key in (key, second):
        copy = restored_copy(folder_store, manifest, pg17, private_key=str(private_key))
        assert fingerprints(copy) == without_oids(manifest.tables)


def test_an_encrypted_backup_opens_for_nobody_else(app: Dsn, folder_store: LocalStore, tmp_path: Path) -> None:
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    manifest = dump(app, folder_store, options(encryption_recipients=(recipient,)))
    with pytest.raises(pyrage.DecryptError):
        fetch(folder_store, manifest, tmp_path / "x", private_key=str(pyrage.x25519.Identity.generate()))


def test_a_database_of_postgresql_18_is_dumped_by_tools_of_18(
    pg18: PostgresServer,
    tools_of_18: None,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
) -> None:
    source = fresh_database(pg18)
    run_sql(source, *BOOKINGS, "CREATE TABLE area (a int, b int, ab int GENERATED ALWAYS AS (a * b) VIRTUAL)",
            "INSERT INTO area VALUES (2, 3)")  # fmt: skip
    manifest = dump(source, folder_store, options("gzip:1"))
    assert manifest.server.major == 18
    assert manifest.tools["pg_dump"].startswith("18.")
    verify(folder_store, manifest.backup_id)
    assert fingerprints(restored_copy(folder_store, manifest, pg18)) == without_oids(manifest.tables)


def test_a_compression_that_no_fitting_tool_was_built_with_is_refused_by_name(
    pg18: PostgresServer, tools_of_18: None, fresh_database: FreshDatabase, folder_store: LocalStore
) -> None:
    with pytest.raises(MaintenanceError, match=r"PostgreSQL 18 .* zstd:1") as raised:
        dump(fresh_database(pg18), folder_store, options("zstd:1"))
    assert "is older than the server" in raised.value.what
    assert "choose a compression" in raised.value.remedy
    assert not raised.value.transient
    assert list(folder_store.list()) == []


def test_a_server_newer_than_every_tool_is_refused(
    pg18: PostgresServer,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MaintenanceError, match="is older than the server") as raised:
        dump(fresh_database(pg18), folder_store, options("gzip:1"))
    assert "PostgreSQL 18" in raised.value.remedy


@pytest.mark.parametrize("compression", ["gzip:1", "zstd:1"])
def test_a_database_of_postgresql_15_is_dumped_by_the_oldest_tools_that_can(
    pg15: PostgresServer,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    restored_copy: RestoreCopy,
    compression: str,
) -> None:
    source = fresh_database(pg15)
    run_sql(source, *BOOKINGS)
    manifest = dump(source, folder_store, options(compression))
    assert manifest.server.major == 15
    # pg_dump 15 knows no zstd.
    assert manifest.tools["pg_dump"].startswith("15." if compression == "gzip:1" else "17.")
    verify(folder_store, manifest.backup_id)
    if compression == "gzip:1":
        assert fingerprints(restored_copy(folder_store, manifest, pg15)) == without_oids(manifest.tables)


def test_the_manifest_tells_what_a_restore_needs_to_know(
    pg17: PostgresServer, app: Dsn, folder_store: LocalStore
) -> None:
    run_sql(
        app,
        "CREATE SCHEMA dbmaint",
        "CREATE TABLE dbmaint.schema_revision (version_num text)",
        "INSERT INTO dbmaint.schema_revision VALUES ('0042')",
    )
    with pg17.superuser(app.dbname).connect() as session:
        session.execute("CREATE EXTENSION hstore")
    manifest = dump(
        app, folder_store, tier=Tier.PRE_MIGRATION, run_id="manual__7", keep_forever=True, reason="before 0043"
    )
    assert manifest.schema_revision == "0042"
    assert manifest.extensions.keys() == {"hstore", "plpgsql"}
    assert app.user in manifest.roles
    assert (manifest.server.database, manifest.server.major) == (app.dbname, 17)
    assert manifest.created_at <= manifest.finished_at
    assert (manifest.run_id, manifest.keep_forever, manifest.reason) == ("manual__7", True, "before 0043")
    assert manifest.id.startswith("app/pre-migration/app_")
    stored = json.loads(folder_store.get(manifest.backup_id.manifest_key))
    assert next(iter(stored)) == "schema_version"
    assert (stored["bytes"], stored["sha256"]) == (manifest.bytes, manifest.files[0].sha256)


def test_counts_alone_leave_the_hashes_out(app: Dsn, folder_store: LocalStore) -> None:
    manifest = dump(app, folder_store, options(fingerprints="counts"))
    assert [(table.name, table.rows, table.row_hash, table.method) for table in manifest.tables] == [
        ("bookings", 3000, None, None),
        ("rooms", 20, None, None),
    ]


def test_progress_tells_the_bytes_as_they_are_sent_and_ends_at_the_size(app: Dsn, folder_store: LocalStore) -> None:
    told: list[int] = []
    manifest = dump(app, folder_store, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == manifest.bytes


def test_writers_on_the_source_do_not_come_between_the_dump_and_its_fingerprints(
    app: Dsn, pg17: PostgresServer, folder_store: LocalStore, restored_copy: RestoreCopy
) -> None:
    stop = threading.Event()
    written = [0, 0]

    def hammer(number: int) -> None:
        with app.connect() as session:
            while not stop.is_set():
                session.execute(
                    "WITH gone AS (DELETE FROM bookings WHERE id IN (SELECT id FROM bookings ORDER BY random() LIMIT 5)"
                    " RETURNING id) INSERT INTO bookings SELECT %s + g, 'new', random(), now() "
                    "FROM generate_series(1, 7) g",
                    (1_000_000 * (number + 1) + written[number] * 10,),
                )
                session.execute("UPDATE rooms SET beds = beds + 1 WHERE number = %s", (number + 1,))
                written[number] += 1

    writers = [threading.Thread(target=hammer, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        manifests, during = [], []
        for second in range(3):
            before = sum(written)
            how = options(staging=folder_store._root.parent) if second == 2 else options()
            manifests.append(dump(app, folder_store, how))
            during.append(sum(written) - before)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert min(during) > 0, "nothing was written during a dump: the test shows nothing"
    for manifest in manifests:
        copy = restored_copy(folder_store, manifest, pg17)
        assert fingerprints(copy) == without_oids(manifest.tables)


def test_two_backups_in_the_same_second_take_two_names_and_both_are_whole(app: Dsn, folder_store: LocalStore) -> None:
    moment = datetime(2026, 3, 1, 2, 0, 0, 400_000, tzinfo=UTC)
    gate = threading.Barrier(3)
    done, failed = [], []

    def run() -> None:
        gate.wait()
        try:
            done.append(dump(app, folder_store, now=lambda: moment))
        except MaintenanceError as error:
            failed.append(error)
        gate.wait()  # pg_dump ends with the thread that started it

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(manifest.id for manifest in done) == [f"app/daily/app_2026-03-01T02000{n}Z" for n in range(3)]
    for manifest in done:
        assert verify(folder_store, manifest.backup_id).failure is None
    assert len(read_catalog(folder_store, "app").entries) == 3


def test_a_name_that_has_a_leftover_of_a_killed_run_is_not_taken_again(app: Dsn, folder_store: LocalStore) -> None:
    moment = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    folder_store.put("app/daily/app_2026-03-01T020000Z.dump", b"left by a killed run")
    assert dump(app, folder_store, now=lambda: moment).created_at == moment + timedelta(seconds=1)
    assert folder_store.get("app/daily/app_2026-03-01T020000Z.dump") == b"left by a killed run"


def test_a_minute_of_taken_names_is_an_error_and_not_an_endless_search(app: Dsn, folder_store: LocalStore) -> None:
    moment = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    for second in range(60):
        folder_store.put(f"app/daily/app_2026-03-01T0200{second:02}Z.dump", b"")
    with pytest.raises(MaintenanceError, match="no free name for a daily backup"):
        dump(app, folder_store, now=lambda: moment)


def test_databases_whose_names_begin_alike_share_a_store_and_never_see_each_other(
    app: Dsn, folder_store: LocalStore
) -> None:
    names = ("app", "app_staging", "app-2", "ap")
    made = {name: dump(app, folder_store, database=name) for name in names}
    for name in names:
        assert [entry.manifest.id for entry in read_catalog(folder_store, name).entries] == [made[name].id]


def test_the_fifty_first_backup_is_made_and_listed_like_the_first(app: Dsn, folder_store: LocalStore) -> None:
    start = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
    first = dump(app, folder_store, now=lambda: start)
    for day in range(1, 50):
        created = start + timedelta(days=day)
        twin = first.model_copy(
            update={"id": f"app/daily/app_{created:%Y-%m-%dT%H%M%SZ}", "created_at": created, "finished_at": created}
        )
        folder_store.put(f"{twin.id}.dump", folder_store.get(f"{first.id}.dump"))
        folder_store.put(f"{twin.id}.json", twin.model_dump_json().encode())
    started = time.monotonic()
    last = dump(app, folder_store, now=lambda: start + timedelta(days=50))
    catalog = read_catalog(folder_store, "app")
    assert time.monotonic() - started < 10
    assert len(catalog.entries) == 51
    assert catalog.entries[-1].manifest == last
    assert catalog.unreadable == ()


def test_what_pg_dump_leaves_out_with_a_mere_warning_is_in_the_log(
    app: Dsn, pg17: PostgresServer, folder_store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    with pg17.superuser(app.dbname).connect() as session:
        session.execute(
            "CREATE SUBSCRIPTION mirror CONNECTION 'host=127.0.0.1 password=x' PUBLICATION p "
            "WITH (connect = false, slot_name = NONE)"
        )
        dump(app, folder_store, options())
        session.execute("DROP SUBSCRIPTION mirror")
    assert "subscriptions not dumped" in caplog.text
