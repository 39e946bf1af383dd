"""Creating an object in an S3 service: whole or in parts, but never over another one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from include.backup.stores.base import AlreadyExistsError, StoreError
from include.backup.stores.part_sizes import base_part_bytes, part_bytes
from include.backup.stores.parted import PartedUpload
from include.backup.stores.s3_errors import (
    UNTOUCHED,
    error_code,
    is_missing,
    is_taken,
    refuses_condition,
    s3_error,
    s3_errors,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BytesIO

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, HeadObjectOutputTypeDef

logger = logging.getLogger(__name__)

# Two parts on their way and one being filled: more gave no speed on loopback and costs memory.
SENDERS = 2
_MARKER = "night-porter-upload"


@dataclass(frozen=True)
class S3Target:
    """One full key of a bucket."""

    client: S3Client
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def head(self) -> HeadObjectOutputTypeDef | None:
        """The object's headers, or None where there is none."""
        with s3_errors(f"looking at {self}", action="s3:GetObject"):
            try:
                return self.client.head_object(Bucket=self.bucket, Key=self.key)
            except ClientError as error:
                if is_missing(error):
                    return None
                # The answer to HEAD has no body that could tell wrong keys from a missing permission.
                self.client.get_object(Bucket=self.bucket, Key=self.key, Range="bytes=0-0")["Body"].close()
                raise

    def put(self, body: BytesIO) -> None:
        """Create the object in one request, unless the key is taken."""
        marker = uuid4().hex

        def commit(condition: dict[str, Any]) -> None:
            body.seek(0)
            self.client.put_object(Bucket=self.bucket, Key=self.key, Body=body, Metadata={_MARKER: marker}, **condition)

        self.create(commit, size=len(body.getbuffer()), marker=marker)

    def create(self, commit: Callable[[dict[str, Any]], None], *, size: int, marker: str) -> None:
        """Make an object visible by `commit`, unless the key is taken, and see that it is there whole.

        Some services ignore `If-None-Match` on what is written and some refuse it, so the key is looked up first in
        any case; with such a service two runs that commit the same key within the same few milliseconds are not
        kept apart. An answer may be lost and the request repeated, which then fails although
        the object is there: the marker in the object's metadata tells ours from another's.

        Args:
            commit: the request, given the arguments that make it conditional.
            size: bytes that the object must have afterwards.
            marker: this upload's own mark.

        Raises:
            AlreadyExistsError: the key is taken.
            StoreError: refused, or not whole afterwards.
        """
        doing = f"writing {self}"
        if self.head() is not None:
            raise self._taken()
        failure: ClientError | BotoCoreError | None = None
        try:
            try:
                commit({"IfNoneMatch": "*"})
            except ClientError as error:
                if not refuses_condition(error):
                    raise
                logger.info("%s does not know If-None-Match; written without it", self)
                commit({})
        except (ClientError, BotoCoreError) as error:
            failure = error
        if failure is not None:
            refusal = s3_error(failure, doing=doing, action="s3:PutObject")
            try:
                found = self.head()
            except StoreError:
                raise refusal from failure
            if found is None or not _is_ours(found, marker=marker, size=size, failure=failure):
                raise (self._taken() if found is not None and is_taken(failure) else refusal) from failure
            return
        found = self.head()
        if found is None or found["ContentLength"] != size:
            self.client.delete_object(Bucket=self.bucket, Key=self.key)
            raise StoreError(
                f"{doing} failed: the service accepted {size:,} bytes and then showed "
                f"{'nothing' if found is None else format(found['ContentLength'], ',')}; the object was deleted again",
                untouched=UNTOUCHED,
                remedy="Run the backup again; if it happens twice, this service loses data: use another.",
            )

    def _taken(self) -> AlreadyExistsError:
        return AlreadyExistsError(
            f"writing {self} failed: something is there already",
            untouched=f"{self} as it was",
            remedy="Nothing, if another run made this backup; else look at the object's date.",
        )


class S3Upload(PartedUpload):
    """A multipart upload whose length nobody knows beforehand."""

    def __init__(self, target: S3Target, *, expected_bytes: int | None, max_parts: int) -> None:
        base = base_part_bytes(expected_bytes=expected_bytes, max_parts=max_parts)
        super().__init__(part_bytes=partial(part_bytes, base=base, max_parts=max_parts), senders=SENDERS)
        self._target = target
        self._max_parts = max_parts
        self._marker = uuid4().hex
        self._names = {"Bucket": target.bucket, "Key": target.key}
        self._upload_id: str | None = None
        self._parts: dict[int, CompletedPartTypeDef] = {}

    def _put_whole(self, body: BytesIO) -> None:
        self._target.put(body)

    def _start(self) -> None:
        with s3_errors(f"starting to write {self._target}", action="s3:PutObject"):
            started = self._target.client.create_multipart_upload(
                Bucket=self._target.bucket, Key=self._target.key, Metadata={_MARKER: self._marker}
            )
        self._upload_id = started["UploadId"]

    def _send(self, number: int, start: int, body: BytesIO) -> None:  # noqa: ARG002 - S3 numbers its parts
        if number > self._max_parts:
            raise StoreError(
                f"writing {self._target} failed: {self._max_parts} parts, all that the service takes, are used up",
                untouched=UNTOUCHED,
                remedy="Tell Night Porter how large the database really is: the estimate was far too small.",
            )
        with s3_errors(f"writing part {number} of {self._target}", action="s3:PutObject"):
            sent = self._target.client.upload_part(
                Bucket=self._target.bucket,
                Key=self._target.key,
                UploadId=self._open_upload(),
                PartNumber=number,
                Body=body,
            )
        self._parts[number] = {"PartNumber": number, "ETag": sent["ETag"]}

    def _finish(self, number: int, start: int, body: BytesIO) -> None:
        size = start + len(body.getbuffer())
        self._send(number, start, body)

        def commit(condition: dict[str, Any]) -> None:
            self._target.client.complete_multipart_upload(
                Bucket=self._target.bucket,
                Key=self._target.key,
                UploadId=self._open_upload(),
                MultipartUpload={"Parts": [self._parts[part] for part in sorted(self._parts)]},
                **condition,
            )

        self._target.create(commit, size=size, marker=self._marker)

    def _discard(self) -> None:
        if self._upload_id is not None:
            abort(self._target, self._upload_id)

    def _open_upload(self) -> str:
        if self._upload_id is None:
            raise ValueError("no part is sent before the upload is started")
        return self._upload_id


def abort(target: S3Target, upload_id: str) -> None:
    """Remove the parts of an upload; none is there any more is as good.

    Raises:
        StoreError: refused.
    """
    with s3_errors(f"removing the unfinished upload of {target}", action="s3:AbortMultipartUpload"):
        try:
            target.client.abort_multipart_upload(Bucket=target.bucket, Key=target.key, UploadId=upload_id)
        except ClientError as error:
            if error_code(error) not in {"NoSuchUpload", "404"}:
                raise


def _is_ours(found: HeadObjectOutputTypeDef, *, marker: str, size: int, failure: ClientError | BotoCoreError) -> bool:
    """Whether the object that is there now is the one whose commit seemed to fail."""
    if found["ContentLength"] != size:
        return False
    theirs = found["Metadata"].get(_MARKER)
    if theirs is not None:
        return theirs == marker
    # The service keeps no metadata. Nothing was at the key just before, and our upload is used up.
    return isinstance(failure, ClientError) and error_code(failure) == "NoSuchUpload"
