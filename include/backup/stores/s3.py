"""Backups in Amazon S3 or any service that speaks its protocol."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError
from botocore.exceptions import ReadTimeoutError as BodyTimeoutError
from urllib3.exceptions import HTTPError

from include.backup.stores.base import CHUNK_BYTES, StoredObject, StoreError, UnfinishedUpload
from include.backup.stores.keys import check_key, is_key, probe
from include.backup.stores.s3_errors import UNTOUCHED, error_code, is_taken, s3_errors
from include.backup.stores.s3_upload import S3Target, S3Upload, abort

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

RESUMES = 4


def client_config(*, path_style: bool) -> Config:
    """What every client that is given to `S3Store` must be made with.

    boto3 adds checksums that many S3-compatible services refuse, unless told to send only those that an operation
    requires. Nor is the body's SHA-256 put into each request's signature: every object is read back and compared with
    its own SHA-256, so that hashing all bytes a second time would show nothing more.

    Args:
        path_style: the bucket goes into the path and not into the host's name; True wherever an endpoint is given.
    """
    return Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=10,
        read_timeout=120,
        s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": False},
    )


class S3Store:
    """A prefix of a bucket.

    Args:
        client: made with `client_config`; may be shared.
        bucket: its name.
        prefix: below it, without `/` at either end; may be empty. Nothing outside it is seen or touched.
        max_parts: how many parts of one upload the service takes.
    """

    def __init__(self, client: S3Client, *, bucket: str, prefix: str, max_parts: int = 10_000) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._max_parts = max_parts

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def upload(self, key: str, *, expected_bytes: int | None = None) -> S3Upload:
        """Start an object; nothing is sent before the first part is full."""
        return S3Upload(self._target(key), expected_bytes=expected_bytes, max_parts=self._max_parts)

    def read(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The object's bytes, streamed; a connection that breaks is taken up again where it broke, a few times.

        Raises:
            MissingObjectError: nothing is there.
            StoreError: the object changed meanwhile, or the connection broke too often (transient).
        """
        target = self._target(key)
        with s3_errors(f"reading {target}", action="s3:GetObject"):
            answer = self._client.get_object(Bucket=target.bucket, Key=target.key)
        size, etag = answer["ContentLength"], answer["ETag"]
        done, resumes = 0, 0
        while True:
            try:
                while chunk := answer["Body"].read(chunk_bytes):
                    done += len(chunk)
                    yield chunk
            except (ResponseStreamingError, IncompleteReadError, BodyTimeoutError, HTTPError) as error:
                broken: Exception | None = error
            else:
                broken = None
            finally:
                answer["Body"].close()
            if done == size and broken is None:
                return
            resumes += 1
            if resumes > RESUMES or done >= size:
                raise StoreError(
                    f"reading {target} failed after {done:,} of {size:,} bytes: {broken or 'the body ended early'}",
                    untouched=UNTOUCHED,
                    remedy="Check the connection to the store, then run again.",
                    transient=True,
                ) from broken
            answer = self._resume(target, etag=etag, start=done)

    def get(self, key: str) -> bytes:
        """A small object, whole."""
        return b"".join(self.read(key))

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """A small object, in one request."""
        target = self._target(key)
        if replace:
            with s3_errors(f"writing {target}", action="s3:PutObject"):
                self._client.put_object(Bucket=target.bucket, Key=target.key, Body=data)
        else:
            target.put(BytesIO(data))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every committed object whose key starts with `prefix`, in key order."""
        pages = self._client.get_paginator("list_objects_v2")
        with s3_errors(f"listing {self.url}", action="s3:ListBucket"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield StoredObject(key, entry["Size"], entry["LastModified"])

    def delete(self, key: str) -> None:
        """Remove one object. A bucket that keeps versions keeps the old one."""
        target = self._target(key)
        with s3_errors(f"deleting {target}", action="s3:DeleteObject"):
            self._client.delete_object(Bucket=target.bucket, Key=target.key)

    def unfinished(self, prefix: str = "") -> Iterator[UnfinishedUpload]:
        """Multipart uploads below `prefix` that were neither completed nor aborted; their parts cost money."""
        pages = self._client.get_paginator("list_multipart_uploads")
        with s3_errors(f"listing unfinished uploads of {self.url}", action="s3:ListBucketMultipartUploads"):
            try:
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                    for entry in page.get("Uploads", []):
                        # Not every service heeds the prefix here.
                        if entry["Key"].startswith(self._prefix + prefix):
                            key = entry["Key"].removeprefix(self._prefix)
                            yield UnfinishedUpload(key, entry["Initiated"], entry["UploadId"])
            except ClientError as error:
                # What rclone says of a bucket that never had one.
                if error_code(error) != "NoSuchUpload":
                    raise

    def abort(self, upload: UnfinishedUpload) -> None:
        """Remove the parts of an unfinished upload."""
        abort(self._target(upload.key), upload.token)

    def free_bytes(self) -> int | None:
        """None: a bucket tells no limit."""
        return None

    def check_writable(self) -> None:
        """Write, read back and remove a tiny probe."""
        probe(self)

    def _target(self, key: str) -> S3Target:
        return S3Target(self._client, self._bucket, self._prefix + check_key(key))

    def _resume(self, target: S3Target, *, etag: str, start: int) -> GetObjectOutputTypeDef:
        """The rest of an object that was half read, if it still is the same one."""
        changed = StoreError(
            f"reading {target} failed after {start:,} bytes: another object took its place meanwhile",
            untouched=UNTOUCHED,
            remedy="Find out what else writes to this bucket; Night Porter never changes a backup.",
        )
        with s3_errors(f"reading {target} from byte {start} on", action="s3:GetObject"):
            try:
                answer = self._client.get_object(
                    Bucket=target.bucket, Key=target.key, Range=f"bytes={start}-", IfMatch=etag
                )
            except ClientError as error:
                if not is_taken(error):
                    raise
                raise changed from error
        if answer["ETag"] == etag and answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            return answer
        answer["Body"].close()
        # Some services do not heed If-Match, and some no Range.
        if answer["ETag"] != etag:
            raise changed
        raise StoreError(
            f"reading {target} failed after {start:,} bytes, and the service cannot go on from there",
            untouched=UNTOUCHED,
            remedy="Check the connection to the store, then run again.",
            transient=True,
        )
