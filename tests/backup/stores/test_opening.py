"""A store opened by its address alone, with what the machine itself offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.backup.stores.opening import open_url
from tests.backup.stores.conftest import BUCKET
from tests.objectstores import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from tests.objectstores import ObjectServer


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without credentials of any kind."""
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "STORAGE_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def keys(monkeypatch: pytest.MonkeyPatch, secret: str = SECRET_KEY) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)


def works(url: str) -> None:
    store = open_url(url)
    assert store.url == url
    store.put("hotel/note", b"here")
    assert store.get("hotel/note") == b"here"
    assert [item.key for item in store.list("hotel/")] == ["hotel/note"]


def test_a_folder_is_opened_by_its_address(tmp_path: Path) -> None:
    works((tmp_path / "with space").as_uri())
    assert LocalStore(tmp_path / "with space").get("hotel/note") == b"here"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_s3_service_is_found_by_the_environment_and_addressed_by_path(
    rclone: ObjectServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    keys(monkeypatch)
    # By its name: an address could not have the bucket put in front of it anyway.
    monkeypatch.setenv(variable, rclone.endpoint.replace("127.0.0.1", "localhost"))
    works(f"s3://{BUCKET}/t{uuid4().hex}")


def test_an_s3_service_is_found_by_a_profile(
    rclone: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f"[profile night]\nregion = {REGION}\nservices = here\naws_access_key_id = {ACCESS_KEY}\n"
        f"aws_secret_access_key = {SECRET_KEY}\n[services here]\ns3 =\n  endpoint_url = "
        f"{rclone.endpoint.replace('127.0.0.1', 'localhost')}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "night")
    works(f"s3://{BUCKET}/t{uuid4().hex}")


def test_google_cloud_storage_is_opened_with_the_machines_own_settings(
    fake_gcs: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs.endpoint)
    works(f"gs://{BUCKET}/t{uuid4().hex}")


def test_missing_credentials_are_a_stores_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError):
        next(open_url("s3://bucket/prefix").list())
    with pytest.raises(StoreError):
        open_url("gs://bucket/prefix")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="nobody"):
        open_url("s3://bucket/prefix")


def test_a_wrong_secret_is_refused_by_the_service_and_not_shown(
    rclone: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(monkeypatch, secret="n0t-the-secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", rclone.endpoint)
    with pytest.raises(StoreError) as caught:
        next(open_url(f"s3://{BUCKET}").list())
    assert "n0t-the-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["/var/backups", "http://host/x", "s3://key:secret@bucket"])
def test_what_is_no_stores_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|given as|belong"):
        open_url(url)


def test_a_folder_is_opened_without_airflow_and_without_the_libraries_of_the_others(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['airflow'] = None\n"
        "from include.backup.stores.opening import open_url\n"
        f"open_url({tmp_path.as_uri()!r})\n"
        "assert not {'boto3', 'botocore', 'google.cloud.storage'} & set(sys.modules)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
