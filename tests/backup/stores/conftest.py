"""Stores of every kind over real servers; the servers live as long as the test run."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from include.backup.stores import gcs as gcs_store
from include.backup.stores import part_sizes
from include.backup.stores.gcs import GcsStore
from include.backup.stores.local import LocalStore
from include.backup.stores.s3 import S3Store
from tests.backup.stores.proxies import GcsFront, running
from tests.objectstores import gcs_server, moto_server, rclone_server, s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from google.cloud import storage

    from include.backup.stores.base import Store
    from tests.objectstores import ObjectServer

BUCKET = "backups"
# The least that S3 takes for any part but the last: multipart uploads stay quick.
SMALL_PART_BYTES = 5 * 1024 * 1024


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_sizes, "BASE_BYTES", SMALL_PART_BYTES)
    monkeypatch.setattr(gcs_store, "CHUNK_BYTES_SENT", SMALL_PART_BYTES)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        s3_client(server.endpoint).create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "buckets" / BUCKET).mkdir(parents=True)
    with rclone_server(folder / "buckets", folder / "log") as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    folder = tmp_path_factory.mktemp("gcs")
    with gcs_server(folder / "buckets", folder / "log") as server:
        gcs_client(server.endpoint).create_bucket(BUCKET)
        yield server


@pytest.fixture
def gcs_front(fake_gcs: ObjectServer) -> Iterator[GcsFront]:
    front = GcsFront(fake_gcs.endpoint.removeprefix("http://"))
    with running(front):
        yield front


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> S3Store:
    """A fresh prefix on the S3 server that the test names by parametrisation."""
    server: ObjectServer = request.getfixturevalue(request.param)
    return S3Store(s3_client(server.endpoint), bucket=BUCKET, prefix=f"t{uuid4().hex}/app")


@pytest.fixture
def gcs(gcs_front: GcsFront) -> GcsStore:
    return GcsStore(gcs_client(gcs_front.endpoint), bucket=BUCKET, prefix=f"t{uuid4().hex}/app", patience_seconds=5)


@pytest.fixture(params=["local", "moto", "rclone", "gcs"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Store]:
    """Stores of one kind side by side: the argument is the prefix."""
    base = uuid4().hex
    if request.param == "local":
        return lambda prefix: LocalStore(tmp_path / "store" / prefix)
    if request.param == "gcs":
        client = gcs_client(request.getfixturevalue("gcs_front").endpoint)
        return lambda prefix: GcsStore(client, bucket=BUCKET, prefix=f"{base}/{prefix}", patience_seconds=5)
    s3 = s3_client(request.getfixturevalue(request.param).endpoint)
    return lambda prefix: S3Store(s3, bucket=BUCKET, prefix=f"{base}/{prefix}")


@pytest.fixture
def store(make_store: Callable[[str], Store]) -> Store:
    return make_store("app")


def gcs_client(endpoint: str) -> storage.Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    return storage.Client(
        project="night-porter", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint}
    )
