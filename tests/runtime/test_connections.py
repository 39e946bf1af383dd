"""Airflow connections turned into DSNs and stores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from include.backup.stores.gcs import GcsStore
from include.backup.stores.local import LocalStore
from include.backup.stores.s3 import S3Store
from include.config.settings import StoreSettings
from include.errors import MaintenanceError
from include.runtime.connections import open_store, postgres_dsn
from tests.objectstores import ACCESS_KEY, REGION, SECRET_KEY, moto_server, s3_client

if TYPE_CHECKING:
    from pathlib import Path

POSTGRES = {"conn_type": "postgres", "host": "db", "schema": "hotel", "login": "porter", "password": "s3cret word"}


@pytest.fixture(autouse=True)
def _airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


def _connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, **fields: object) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


def test_a_postgres_connection_becomes_a_dsn_with_its_tls_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    _connect(monkeypatch, "hotel_db", **POSTGRES, extra={"sslmode": "verify-full", "sslrootcert": "/ca.pem"})
    dsn = postgres_dsn("hotel_db")
    assert (dsn.host, dsn.port, dsn.dbname, dsn.user, dsn.password) == ("db", 5432, "hotel", "porter", "s3cret word")
    assert dsn.options == {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}
    assert "s3cret" not in repr(dsn)


@pytest.mark.parametrize("extra", [{"sslpassword": "hush hush"}, {"passfile": "/x"}, {"sslmod": "require"}])
def test_an_extra_that_is_unknown_or_would_show_a_secret_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, str]
) -> None:
    _connect(monkeypatch, "hotel_db", **POSTGRES, extra=extra)
    with pytest.raises(MaintenanceError) as caught:
        postgres_dsn("hotel_db", database="hotel")
    assert next(iter(extra)) in str(caught.value)
    assert "hush hush" not in str(caught.value)
    assert not caught.value.transient


def test_a_missing_or_incomplete_connection_is_named_with_the_place_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MaintenanceError, match="`nowhere_db` does not exist") as caught:
        postgres_dsn("nowhere_db")
    assert "AIRFLOW_CONN_NOWHERE_DB" in caught.value.remedy
    _connect(monkeypatch, "half_db", conn_type="postgres", host="db")
    with pytest.raises(MaintenanceError, match=r"login \(the role\), schema \(the database's name\)"):
        postgres_dsn("half_db")


def test_a_folder_needs_no_connection(tmp_path: Path) -> None:
    store = open_store(StoreSettings(url=(tmp_path / "store").as_uri()))
    assert isinstance(store, LocalStore)
    store.put("a/b.json", b"{}")
    assert store.get("a/b.json") == b"{}"


def test_an_s3_store_works_through_the_amazon_connection_with_its_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto_server(tmp_path / "moto.log") as server:
        s3_client(server.endpoint).create_bucket(
            Bucket="nights", CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        _connect(
            monkeypatch,
            "backup_store",
            conn_type="aws",
            login=ACCESS_KEY,
            password=SECRET_KEY,
            extra={"endpoint_url": server.endpoint, "region_name": REGION, "config_kwargs": {"read_timeout": 7}},
        )
        store = open_store(StoreSettings(url="s3://nights/hotel"))
        assert isinstance(store, S3Store)
        store.put("a/b.json", b"{}")
        assert [item.key for item in store.list()] == ["a/b.json"]
        config = store._client.meta.config
        assert config.read_timeout == 7  # the operator's own setting stands
        assert config.request_checksum_calculation == "when_required"
        assert config.s3["addressing_style"] == "path"


def test_a_gcs_store_works_through_the_google_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.objectstores import gcs_server

    (tmp_path / "gcs" / "nights").mkdir(parents=True)
    with gcs_server(tmp_path / "gcs", tmp_path / "gcs.log") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        extra = {"is_anonymous": True, "project": "test"}
        _connect(monkeypatch, "backup_store", conn_type="google_cloud_platform", extra=extra)
        store = open_store(StoreSettings(url="gs://nights/hotel"))
        assert isinstance(store, GcsStore)
        store.put("a/b.json", b"{}")
        assert store.get("a/b.json") == b"{}"
