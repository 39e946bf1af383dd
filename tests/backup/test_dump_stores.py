"""The same backup in object stores, S3 and Google Cloud Storage: whole, encrypted, in a directory, after a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pyrage
import pytest

from include.backup.catalog import read_catalog
from include.backup.stores.gcs import GcsStore
from include.backup.stores.s3 import S3Store
from include.backup.verify import BackupDamagedError, verify
from include.errors import MaintenanceError
from tests.backup.dump_world import dump, fingerprints, options, pg_dumps, run_sql, without_oids
from tests.objectstores import gcs_server, moto_server, s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.backup.conftest import RestoreCopy
    from tests.conftest import FreshDatabase

BUCKET = "backups"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], Store]]]:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    folder = tmp_path_factory.mktemp("objects")
    with moto_server(folder / "moto.log") as moto, gcs_server(folder / "gcs", folder / "gcs.log") as gcs:
        s3 = s3_client(moto.endpoint)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call] # google-auth has no annotations
        google = storage.Client(
            project="night-porter", credentials=nobody, client_options={"api_endpoint": gcs.endpoint}
        )
        google.create_bucket(BUCKET)
        yield {
            "s3": lambda: S3Store(s3, bucket=BUCKET, prefix=f"{uuid4().hex}/night"),
            "gcs": lambda: GcsStore(google, bucket=BUCKET, prefix=f"{uuid4().hex}/night", patience_seconds=5),
        }


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest, endpoints: dict[str, Callable[[], Store]]) -> Store:
    return endpoints[request.param]()


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    made = fresh_database(pg17, "app")
    run_sql(made, "CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 32) AS f FROM generate_series(1, 20000) i")
    return made


def test_a_backup_of_several_parts_comes_back_whole(
    store: Store, dsn: Dsn, pg17: PostgresServer, restored_copy: RestoreCopy
) -> None:
    manifest = dump(dsn, store, options("none"))
    assert manifest.bytes > 17 * MIB
    assert verify(store, manifest.backup_id).failure is None
    (entry,) = read_catalog(store, "app").entries
    assert entry.good
    assert fingerprints(restored_copy(store, manifest, pg17)) == without_oids(manifest.tables)


def test_an_encrypted_one_and_a_directory_come_back_whole(
    store: Store, dsn: Dsn, pg17: PostgresServer, restored_copy: RestoreCopy, tmp_path: Path
) -> None:
    key = pyrage.x25519.Identity.generate()
    how = options(staging=tmp_path, encryption_recipients=(str(key.to_public()),))
    manifest = dump(dsn, store, how)
    verify(store, manifest.backup_id)
    copy = restored_copy(store, manifest, pg17, private_key=str(key))
    assert fingerprints(copy) == without_oids(manifest.tables)


def test_a_pg_dump_that_is_killed_leaves_no_object_and_no_unfinished_upload(store: Store, dsn: Dsn) -> None:
    def kill(sent: int) -> None:
        if sent > 10 * MIB:
            for process in pg_dumps(dsn):
                process.kill()

    with pytest.raises(MaintenanceError, match="killed by signal 9"):
        dump(dsn, store, options("none"), progress=kill)
    assert list(store.list()) == []
    assert list(store.unfinished()) == []


def test_a_flipped_bit_and_a_missing_object_are_found(store: Store, dsn: Dsn) -> None:
    manifest = dump(dsn, store)
    key = manifest.backup_id.dump_key
    whole = bytearray(store.get(key))
    whole[len(whole) // 2] ^= 1
    store.put(key, bytes(whole), replace=True)
    with pytest.raises(BackupDamagedError, match="sha256 is"):
        verify(store, manifest.backup_id)
    store.delete(key)
    with pytest.raises(BackupDamagedError, match="missing from the store"):
        verify(store, manifest.backup_id)
    (entry,) = read_catalog(store, "app").entries
    assert not entry.good
