"""A strict S3-compatible service: below a path, path-style only, its own region, none of boto3's newer checksums."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError

from include.backup.stores.base import AlreadyExistsError, StoreError
from include.backup.stores.s3 import S3Store
from tests.backup.stores.conftest import BUCKET, SMALL_PART_BYTES
from tests.backup.stores.proxies import SUPABASE_PATH, SUPABASE_REGION, Proxy, running, supabase_like
from tests.objectstores import ACCESS_KEY, SECRET_KEY, s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.objectstores import ObjectServer

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture
def supabase(moto: ObjectServer) -> Iterator[Proxy]:
    with running(supabase_like(moto.endpoint.removeprefix("http://"))) as proxy:
        yield proxy


def test_our_client_makes_the_whole_round(supabase: Proxy) -> None:
    client = s3_client(f"{supabase.endpoint}{SUPABASE_PATH}", region=SUPABASE_REGION)
    store = S3Store(client, bucket=BUCKET, prefix=f"t{uuid4().hex}/app")
    store.check_writable()
    data = os.urandom(2 * SMALL_PART_BYTES + 11)
    with store.upload("daily/x.dump") as upload:
        upload.write(data)
        upload.commit()
    store.put("daily/x.json", b"{}")
    store.put("daily/x.json", b"[]", replace=True)
    with pytest.raises(AlreadyExistsError):
        store.put("daily/x.json", b"{}")
    assert hashlib.sha256(b"".join(store.read("daily/x.dump"))).digest() == hashlib.sha256(data).digest()
    assert [(entry.key, entry.size) for entry in store.list("daily/")] == [
        ("daily/x.dump", len(data)),
        ("daily/x.json", 2),
    ]
    with store.upload("daily/y.dump") as upload:
        upload.write(bytes(SMALL_PART_BYTES + 1))
        (open_upload,) = store.unfinished()
    assert open_upload.key == "daily/y.dump"
    assert list(store.unfinished()) == []
    store.delete("daily/x.dump")
    assert [entry.key for entry in store.list()] == ["daily/x.json"]


def test_boto3s_own_defaults_are_refused(supabase: Proxy) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=f"{supabase.endpoint}{SUPABASE_PATH}",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=SUPABASE_REGION,
    )
    with pytest.raises(ClientError, match=r"x-amz-checksum-crc32|x-amz-sdk-checksum-algorithm|x-amz-trailer"):
        client.put_object(Bucket=BUCKET, Key="x", Body=b"x")


def test_another_region_is_refused_and_the_remedy_names_the_region(supabase: Proxy) -> None:
    client = s3_client(f"{supabase.endpoint}{SUPABASE_PATH}", region="us-east-1")
    with pytest.raises(StoreError) as refused:
        S3Store(client, bucket=BUCKET, prefix="x").check_writable()
    assert "region_name" in refused.value.remedy
    assert not refused.value.transient
