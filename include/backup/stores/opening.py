"""A store opened by its address alone, with the machine's own credentials: neither Airflow nor a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.backup.stores.url import parse_url

if TYPE_CHECKING:
    from google.cloud import storage
    from mypy_boto3_s3 import S3Client

    from include.backup.stores.base import Store
    from include.backup.stores.url import StoreUrl

CREDENTIALS = (
    "no Airflow connection is used; the credentials are the machine's own: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the instance's role, AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL where it is "
    "not Amazon's; for gs:// GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`"
)


def open_url(url: str) -> Store:
    """The store at an address.

    Args:
        url: `file:///…`, `s3://bucket/prefix` or `gs://bucket/prefix`.

    Raises:
        ValueError: it names no store that is known here; the message says what is allowed.
        StoreError: the machine's own settings or credentials cannot be used.
    """
    found = parse_url(url)
    if found.scheme == "file":
        from include.backup.stores.local import LocalStore

        return LocalStore(found.path)
    if found.scheme == "gs":
        from include.backup.stores.gcs import GcsStore

        return GcsStore(_gcs_client(found), bucket=found.bucket, prefix=found.prefix)
    from include.backup.stores.s3 import S3Store

    return S3Store(_s3_client(found), bucket=found.bucket, prefix=found.prefix)


def _gcs_client(url: StoreUrl) -> storage.Client:
    from google.cloud import storage

    from include.backup.stores.gcs_errors import gcs_errors

    with gcs_errors(f"opening {url}", permission="storage.objects.list"):
        return storage.Client()


def _s3_client(url: StoreUrl) -> S3Client:
    import boto3

    from include.backup.stores.s3 import client_config
    from include.backup.stores.s3_errors import s3_errors

    with s3_errors(f"opening {url}", action="s3:ListBucket"):
        # Environment or profile may give an endpoint, which boto3 then addresses by path of its own accord.
        return boto3.Session().client("s3", config=client_config(path_style=False))
