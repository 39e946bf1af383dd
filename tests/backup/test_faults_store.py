"""Whatever goes wrong in the store while a backup is made: nothing is listed, and earlier backups are as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyrage
import pytest

from include.backup.catalog import read_catalog
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.backup.sweep import sweep
from include.errors import MaintenanceError
from tests.backup.dump_world import WatchedStore, contents_of, dump, once, options, pg_dumps, run_sql

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.options import DumpOptions
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

MIB = 1024 * 1024
KEY = str(pyrage.x25519.Identity.generate().to_public())


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    made = fresh_database(pg17, "app")
    run_sql(made, "CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 32) AS f FROM generate_series(1, 4000) i")
    return made


def refuse() -> None:
    raise StoreError("the store refused", untouched="the earlier objects", remedy="look into the store", transient=True)


def how(archive_format: str, tmp_path: Path) -> DumpOptions:
    if archive_format == "directory":
        (tmp_path / "staging").mkdir()
        return options("none", staging=tmp_path / "staging")
    return options("none", encryption_recipients=(KEY,) if archive_format == "encrypted" else ())


@pytest.mark.parametrize("archive_format", ["custom", "encrypted", "directory"])
@pytest.mark.parametrize(("step", "after"), [("upload", 0), ("write", 1), ("write", 2 * MIB), ("commit", 0)])
def test_a_store_that_fails_before_the_manifest_leaves_the_catalog_as_it_was(
    dsn: Dsn, tmp_path: Path, step: str, after: int, archive_format: str
) -> None:
    root = tmp_path / "store"
    dump(dsn, LocalStore(root))
    before = contents_of(root)
    with pytest.raises(StoreError, match="the store refused") as raised:
        dump(dsn, WatchedStore(root, once(step, refuse, after=after)), how(archive_format, tmp_path))
    assert raised.value.transient
    assert raised.value.remedy == "look into the store"
    assert contents_of(root) == before
    assert pg_dumps(dsn) == []
    assert list(tmp_path.glob("staging/*")) == []


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
def test_an_archive_whose_manifest_could_not_be_written_is_no_backup_and_is_swept_later(
    dsn: Dsn, tmp_path: Path, archive_format: str
) -> None:
    root = tmp_path / "store"
    store = WatchedStore(root, once("put", refuse))
    with pytest.raises(StoreError, match="the store refused"):
        dump(dsn, store, how(archive_format, tmp_path))
    left = {item.key for item in store.list()}
    assert left
    assert all(".dump" in key for key in left)
    assert read_catalog(store, "app").entries == ()
    now = datetime.now(UTC)
    assert sweep(store, "app", now=now + timedelta(days=1), dry_run=False).objects == ()
    swept = sweep(store, "app", now=now + timedelta(days=8), dry_run=False)
    assert {item.key for item in swept.objects} == left
    assert contents_of(root) == {}


def test_the_manifest_is_put_last_of_all(dsn: Dsn, tmp_path: Path) -> None:
    steps: list[str] = []
    for archive_format in ("custom", "directory"):
        dump(dsn, WatchedStore(tmp_path / "store", lambda step, _: steps.append(step)), how(archive_format, tmp_path))
        assert steps[-1] == "put"
        assert steps.count("put") == 2  # the inventory is the other one
        steps.clear()


def test_a_disk_that_runs_full_in_the_middle_is_told_and_left_clean(dsn: Dsn, small_disk: Path) -> None:
    run_sql(dsn, "INSERT INTO wide SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 2000) i")
    store = LocalStore(small_disk / "store")
    with pytest.raises(StoreError, match="No space left on device"):
        dump(dsn, store, options("none"))
    assert contents_of(small_disk) == {}


def test_a_staging_folder_that_runs_full_is_told_and_left_clean(dsn: Dsn, small_disk: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(MaintenanceError, match="No space left on device"):
        dump(dsn, store, options("none", staging=small_disk))
    assert contents_of(small_disk) == {}
    assert list(store.list()) == []


def test_a_staging_folder_that_is_not_there_is_told_by_name(dsn: Dsn, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(MaintenanceError, match=r"staging folder .*nowhere") as raised:
        dump(dsn, store, options(staging=tmp_path / "nowhere"))
    assert raised.value.database == "app"
    assert list(store.list()) == []


def test_only_our_own_old_leftovers_are_removed_from_the_staging_folder(dsn: Dsn, tmp_path: Path) -> None:
    import os

    staging = tmp_path / "staging"
    long_ago = datetime.now(UTC).timestamp() - 3 * 24 * 3600
    for name in ("night-porter-staging-old", "night-porter-staging-new", "somebody-elses"):
        (staging / name).mkdir(parents=True)
        (staging / name / "file").write_text("x")
        if name != "night-porter-staging-new":
            os.utime(staging / name, (long_ago, long_ago))
    dump(dsn, LocalStore(tmp_path / "store"), options(staging=staging))
    assert {path.name for path in staging.iterdir()} == {"night-porter-staging-new", "somebody-elses"}


@pytest.mark.parametrize("archive_format", ["custom", "encrypted", "directory"])
def test_an_operator_who_interrupts_leaves_nothing(dsn: Dsn, tmp_path: Path, archive_format: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    root = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        dump(dsn, WatchedStore(root, once("write", interrupt)), how(archive_format, tmp_path))
    assert contents_of(root) == {}
    assert pg_dumps(dsn) == []
    assert list(tmp_path.glob("staging/*")) == []


def test_a_store_that_cannot_be_listed_stops_the_backup_before_pg_dump_starts(dsn: Dsn, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        dump(dsn, LocalStore(tmp_path / "store"))
    assert pg_dumps(dsn) == []
