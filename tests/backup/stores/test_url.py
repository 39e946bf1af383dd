"""How a store is named, and what is refused."""

from __future__ import annotations

import pytest

from include.backup.stores.url import StoreUrl, parse_url


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("s3://bucket", StoreUrl("s3", "bucket", "")),
        ("s3://bucket/", StoreUrl("s3", "bucket", "")),
        ("s3://bucket/a/b//", StoreUrl("s3", "bucket", "a/b")),
        ("gs://my_bucket.example/night", StoreUrl("gs", "my_bucket.example", "night")),
        ("file:///var/backups/", StoreUrl("file", "", "/var/backups")),
        ("file:///with%20space", StoreUrl("file", "", "/with space")),
    ],
)
def test_each_kind_of_store_is_understood_with_or_without_slashes_at_the_end(url: str, parsed: StoreUrl) -> None:
    assert parse_url(url) == parsed
    assert parse_url(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "file:///absolute/path, s3://bucket/prefix or gs://bucket/prefix"),
        ("/var/backups", "file:///absolute/path"),
        ("S3://bucket", "s3://bucket/prefix"),
        ("ftp://host/x", "ftp:// is no store"),
        ("azure://host/x", "allowed is file:///absolute/path"),
        ("s3://", "needs a bucket"),
        ("s3:///prefix", "needs a bucket"),
        ("s3://bucket/../other", "prefix"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/.hidden", "prefix"),
        ("file://relative/path", "three slashes"),
        ("file:///", "not the root itself"),
        ("file:///var/../etc", r"no '\.\.'"),
        ("s3://bucket/x?region=eu", "Airflow connection `backup_store`"),
        ("s3://bucket:9000/x", "Airflow connection `backup_store`"),
    ],
)
def test_an_address_that_is_refused_is_told_what_is_allowed(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/x",
        "s3://AKIA:hun/ter2@bucket/x",
        "gs://hunter2@bucket",
        "file://u:hunter2@/x",
        "s3://bucket/x?secret=hunter2",
        "s3://bucket/x#hunter2",
        "https://u:hunter2@host/",
        "hunter2:s3://b",
    ],
)
def test_a_secret_in_an_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="store") as refused:
        parse_url(url)
    assert "hunter2" not in str(refused.value)
    assert "AKIA" not in str(refused.value)
