"""A backup becomes a running database, for as long as it is wanted, and nothing of it stays behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pyrage
import pytest

from include.backup.stores.local import LocalStore
from include.backup.stores.s3 import S3Store
from include.backup.verify import BackupDamagedError
from include.errors import MaintenanceError
from include.proving import copies
from include.proving.copies import empty_database, restored_copy
from include.proving.ground import GroundRefusedError, clean
from include.proving.marker import Marker
from include.proving.requirements import MissingRequirementsError
from tests.backup.dump_world import dump, fingerprints, options, run_sql, without_oids
from tests.objectstores import moto_server, s3_client
from tests.proving.conftest import SCHEMA, copies_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.backup.model import Manifest
    from include.postgres.dsn import Dsn
    from include.proving.ground import Ground
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase
    from tests.proving.conftest import MakeGround, ReadyFor

NOW = datetime(2026, 5, 1, 4, 0, tzinfo=UTC)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "room"
    folder.mkdir()
    return folder


@pytest.fixture
def backup(source: Dsn, folder_store: LocalStore) -> Manifest:
    return dump(source, folder_store)


def question(dsn: Dsn, query: str) -> Any:
    with dsn.connect() as session:
        row = session.execute(query.encode()).fetchone()
    return row[0] if row else None


@pytest.mark.parametrize("servers", [("pg15", "ground17"), ("pg17", "ground17"), ("pg17", "pg18")])
@pytest.mark.parametrize("archive_format", ["custom", "directory"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_copy_holds_what_was_dumped_and_belongs_to_whom_it_belonged_and_is_gone_afterwards(
    servers: tuple[str, str],
    archive_format: str,
    encrypted: bool,
    request: pytest.FixtureRequest,
    fresh_database: FreshDatabase,
    make_ground: MakeGround,
    ready_for: ReadyFor,
    folder_store: LocalStore,
    staging: Path,
    tmp_path: Path,
) -> None:
    source = fresh_database(request.getfixturevalue(servers[0]), "app")
    run_sql(source, *SCHEMA)
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "dumping").mkdir()
    how = options(
        staging=tmp_path / "dumping" if archive_format == "directory" else None,
        encryption_recipients=(str(identity.to_public()),) if encrypted else (),
    )
    manifest = dump(source, folder_store, how)
    ground = make_ground(request.getfixturevalue(servers[1]))
    ready_for(manifest, ground)
    told: list[tuple[str, int, int]] = []
    with restored_copy(
        ground,
        folder_store,
        manifest,
        staging=staging,
        identity=str(identity) if encrypted else None,
        progress=lambda *step: told.append(step),
    ) as copy:
        assert copies_on(ground) == [copy.dsn.dbname]
        assert copy.archive.is_dir() == (archive_format == "directory")
        assert (copy.fetch_seconds > 0, copy.restore_seconds > 0) == (True, True)
        if manifest.server.major == ground.major:
            assert fingerprints(copy.dsn) == without_oids(manifest.tables)
        else:
            assert {(t.name, t.rows) for t in fingerprints(copy.dsn)} == {(t.name, t.rows) for t in manifest.tables}
        owners = (
            "SELECT array_agg(DISTINCT relowner::regrole::text) FROM pg_class WHERE relname ~ '^(guest|stay|nights)'"
        )
        assert question(copy.dsn, owners) == [source.user]
        assert question(copy.dsn, "SELECT count(*) FROM desk.nights") == 2000
        assert question(copy.dsn, "SELECT relacl::text ~ 'pg_monitor=r' FROM pg_class WHERE relname = 'guest'")
        assert not question(copy.dsn, f"SELECT has_schema_privilege('{source.user}', 'public', 'CREATE')"), "only lent"
        assert question(copy.dsn, "SELECT count(*) FROM pg_largeobject_metadata") == 1
    assert copies_on(ground) == []
    assert list(staging.iterdir()) == []
    assert told[-1] == ("indexes", 4, 4)
    assert ("tables", 2, 2) in told
    assert [step for step in told if step[0] == "bytes"][-1] == ("bytes", manifest.bytes, manifest.bytes)


def test_a_copy_comes_from_an_object_store_too(
    source: Dsn, ground: Ground, ready_for: ReadyFor, tmp_path: Path
) -> None:
    with moto_server(tmp_path / "log") as server:
        client = s3_client(server.endpoint)
        client.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        store = S3Store(client, bucket="backups", prefix="here")
        manifest = dump(source, store)
        ready_for(manifest)
        with restored_copy(ground, store, manifest) as copy:
            assert fingerprints(copy.dsn) == without_oids(manifest.tables)


def test_copies_of_one_backup_made_in_the_same_second_live_side_by_side(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest
) -> None:
    ready_for(backup)
    together = threading.Barrier(3, timeout=60)

    def one(_: int) -> str:
        with restored_copy(ground, folder_store, backup, now=lambda: NOW) as copy:
            together.wait()  # all three are there
            assert clean(ground, now=NOW + timedelta(days=9)) == (), "they are in use"
            together.wait()
            assert question(copy.dsn, "SELECT count(*) FROM guest") == 2000
            return copy.dsn.dbname

    with ThreadPoolExecutor(3) as pool:
        names = list(pool.map(one, range(3)))
    assert len(set(names)) == 3
    assert {name[:-8] for name in names} == {"np_app_20260501t040000z_"}
    assert copies_on(ground) == []


def test_nobody_but_its_owner_may_connect_to_a_copy(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, ground17: PostgresServer
) -> None:
    ready_for(backup)
    with restored_copy(ground, folder_store, backup) as copy:
        run_sql(ground17.superuser(), "CREATE ROLE np_stranger LOGIN PASSWORD 'x'")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                replace(copy.dsn, user="np_stranger", password="x").connect()
        finally:
            run_sql(ground17.superuser(), "DROP ROLE np_stranger")


def test_a_copy_is_gone_after_an_error_in_its_block_and_the_error_stays(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, staging: Path
) -> None:
    ready_for(backup)
    with (
        pytest.raises(ZeroDivisionError),
        restored_copy(ground, folder_store, backup, staging=staging) as copy,
        copy.dsn.connect(),  # even with somebody in it
    ):
        raise ZeroDivisionError
    assert copies_on(ground) == []
    assert list(staging.iterdir()) == []


def test_a_copy_that_cannot_be_dropped_does_not_hide_what_went_wrong_first(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, ground17: PostgresServer
) -> None:
    ready_for(backup)

    def fail() -> None:
        ground17.kill()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised, restored_copy(ground, folder_store, backup) as copy:
        fail()
    assert "the next run drops it" in raised.value.__notes__[0]
    ground17.start(die_with_parent=True)
    assert clean(ground, now=NOW) == (copy.dsn.dbname,)


def test_a_copy_that_cannot_be_dropped_is_an_error_by_itself(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, ground17: PostgresServer
) -> None:
    ready_for(backup)
    with pytest.raises(MaintenanceError) as raised, restored_copy(ground, folder_store, backup):
        ground17.kill()
    assert raised.value.transient
    ground17.start(die_with_parent=True)


def test_a_copy_whose_locking_session_was_ended_is_dropped_all_the_same(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, ground17: PostgresServer
) -> None:
    ready_for(backup)
    with restored_copy(ground, folder_store, backup):
        run_sql(
            ground17.superuser(),
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{ground.role}'",
        )
    assert copies_on(ground) == []


def test_a_copy_can_be_kept_and_is_dropped_when_its_time_is_over(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest
) -> None:
    ready_for(backup)
    clock = iter(NOW + timedelta(hours=hour) for hour in range(99))
    with restored_copy(ground, folder_store, backup, keep_for=timedelta(days=2), now=lambda: next(clock)) as copy:
        name = copy.dsn.dbname
    ended = next(clock) - timedelta(hours=1)
    marker = Marker.model_validate_json(
        question(ground.dsn, f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}'")
    )
    assert (marker.backup, marker.keep_until) == (backup.id, ended + timedelta(days=2))
    assert question(copy.dsn, "SELECT count(*) FROM guest") == 2000
    assert not copy.archive.exists()
    assert clean(ground, now=ended + timedelta(days=2, seconds=-1)) == ()
    assert clean(ground, now=ended + timedelta(days=2)) == (name,)


def test_a_copy_that_is_to_be_kept_is_kept_after_an_error_in_its_block_but_never_half_restored(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_for(backup)
    keep = timedelta(days=2)
    with pytest.raises(ZeroDivisionError), restored_copy(ground, folder_store, backup, keep_for=keep) as copy:
        raise ZeroDivisionError
    assert copies_on(ground) == [copy.dsn.dbname]

    def stop(what: str, *_: int) -> None:
        if what == "tables":
            raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        restored_copy(ground, folder_store, backup, keep_for=keep, progress=stop),
    ):
        pytest.fail("it was not restored whole")
    assert copies_on(ground) == [copy.dsn.dbname]


def test_a_copy_for_plans_has_statistics_and_its_visibility_map(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest
) -> None:
    ready_for(backup)
    with restored_copy(ground, folder_store, backup, for_plans=True) as copy:
        assert question(copy.dsn, "SELECT reltuples FROM pg_class WHERE oid = 'desk.stay'::regclass") == 5000
        assert question(copy.dsn, "SELECT relallvisible > 0 FROM pg_class WHERE oid = 'desk.stay'::regclass")
        assert question(copy.dsn, "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'guest'")


class UnreadStore(LocalStore):
    """A folder that fails the test when an archive is read from it."""

    def read(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        pytest.fail(f"{key} was read")


def test_what_the_server_lacks_is_named_before_anything_is_fetched_or_created(
    ground: Ground, backup: Manifest, source: Dsn, tmp_path: Path
) -> None:
    unhappy = backup.model_copy(update={"extensions": {**backup.extensions, "no_such_extension": "9.1"}})
    with (
        pytest.raises(MissingRequirementsError) as raised,
        restored_copy(ground, UnreadStore(tmp_path / "store"), unhappy),
    ):
        pytest.fail("it cannot be restored")
    assert "no_such_extension" in raised.value.what
    assert f'role "{source.user}"' in raised.value.what
    assert f'CREATE ROLE "{source.user}" NOLOGIN' in raised.value.remedy
    assert copies_on(ground) == []


def test_a_backup_is_never_restored_on_the_server_that_it_came_from(
    make_ground: MakeGround, pg17: PostgresServer, backup: Manifest, tmp_path: Path
) -> None:
    ground = make_ground(pg17)
    with (
        pytest.raises(GroundRefusedError, match="came from this very server"),
        restored_copy(ground, UnreadStore(tmp_path / "store"), backup),
    ):
        pytest.fail("that is production")
    assert copies_on(ground) == []


def test_a_flipped_bit_creates_no_database(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, staging: Path
) -> None:
    ready_for(backup)
    key = backup.backup_id.dump_key
    data = bytearray(folder_store.get(key))
    data[len(data) // 2] ^= 1
    folder_store.put(key, bytes(data), replace=True)
    seen = set()
    with (
        pytest.raises(BackupDamagedError, match="sha256"),
        restored_copy(ground, folder_store, backup, staging=staging, progress=lambda what, *_: seen.add(what)),
    ):
        pytest.fail("it is damaged")
    assert seen == {"bytes"}
    assert copies_on(ground) == []
    assert list(staging.iterdir()) == []


def test_an_empty_database_is_made_like_the_backups_own_and_is_gone_afterwards(
    ground: Ground, backup: Manifest
) -> None:
    with empty_database(ground.dsn, backup) as dsn:
        assert copies_on(ground) == [dsn.dbname]
        assert question(dsn, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
        assert clean(ground, now=NOW + timedelta(days=9)) == ()
    assert copies_on(ground) == []


def test_a_staging_folder_in_use_is_left_alone_and_a_dead_runs_is_removed(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, staging: Path
) -> None:
    ready_for(backup)
    dead = staging / f"{copies.STAGING_PREFIX}dead"
    dead.mkdir()
    (dead / "archive").write_bytes(b"half")
    strangers = staging / "night-porter-staging-other"
    strangers.mkdir()
    with restored_copy(ground, folder_store, backup, staging=staging) as first:
        assert not dead.exists()
        with restored_copy(ground, folder_store, backup, staging=staging) as second:
            assert first.archive.exists()
            assert second.archive.exists()
            assert first.archive.parent.stat().st_mode & 0o777 == 0o700
    assert list(staging.iterdir()) == [strangers]


def test_a_staging_folder_that_does_not_exist_is_told(
    ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, backup: Manifest, tmp_path: Path
) -> None:
    ready_for(backup)
    with (
        pytest.raises(MaintenanceError, match="staging folder"),
        restored_copy(ground, folder_store, backup, staging=tmp_path / "nowhere"),
    ):
        pytest.fail("there is no room")
