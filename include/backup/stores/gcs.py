"""Backups in Google Cloud Storage."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import google_crc32c
from google.api_core.exceptions import NotFound
from google.cloud.storage.retry import DEFAULT_RETRY

from include.backup.stores.base import (
    CHUNK_BYTES,
    AlreadyExistsError,
    MissingObjectError,
    StoredObject,
    StoreError,
    UnfinishedUpload,
)
from include.backup.stores.gcs_errors import UNTOUCHED, gcs_errors
from include.backup.stores.gcs_session import PERMISSION, ResumableSession
from include.backup.stores.keys import check_key, is_key, probe
from include.backup.stores.parted import PartedUpload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.cloud import storage

# The service takes chunks of any multiple of 256 KiB, one after the other, and any number of them.
CHUNK_BYTES_SENT = 16 * 1024 * 1024
_RANGE_BYTES = 8 * 1024 * 1024
_MARKER = "night-porter-upload"
_BINARY = "application/octet-stream"


class GcsStore:
    """A prefix of a bucket.

    Args:
        client: may be shared.
        bucket: its name.
        prefix: below it, without `/` at either end; may be empty. Nothing outside it is seen or touched.
        patience_seconds: how long to go on asking a service that does not answer.
    """

    def __init__(self, client: storage.Client, *, bucket: str, prefix: str, patience_seconds: float = 60) -> None:
        self._client = client
        self._bucket = client.bucket(bucket)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._patience_seconds = patience_seconds
        self._retry = DEFAULT_RETRY.with_timeout(patience_seconds)

    @property
    def url(self) -> str:
        """`gs://bucket/prefix`."""
        return f"gs://{self._bucket.name}/{self._prefix}".rstrip("/")

    def upload(self, key: str, *, expected_bytes: int | None = None) -> GcsUpload:  # noqa: ARG002 - no limit of chunks
        """Start an object; nothing is sent before the first chunk is full."""
        return GcsUpload(self, check_key(key))

    def read(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The object's bytes, fetched in ranges of 8 MiB and checked against its CRC32C at the end.

        Raises:
            MissingObjectError: nothing is there.
            StoreError: the object changed meanwhile, is damaged, or the service went away (transient).
        """
        name = self.name(key)
        with gcs_errors(f"reading {name}", permission="storage.objects.get"):
            blob = self._bucket.get_blob(self._prefix + check_key(key), retry=self._retry)
        if blob is None:
            raise MissingObjectError(
                f"reading {name} failed: there is no such object",
                untouched=UNTOUCHED,
                remedy="List the backups again: this object was deleted, or never was.",
            )
        checksum = 0
        for start in range(0, blob.size, _RANGE_BYTES):
            end = min(start + _RANGE_BYTES, blob.size)
            with gcs_errors(f"reading {name}", permission="storage.objects.get"):
                data = blob.download_as_bytes(
                    start=start,
                    end=end - 1,
                    raw_download=True,
                    checksum=None,
                    if_generation_match=blob.generation,
                    retry=self._retry,
                )
            checksum = google_crc32c.extend(checksum, data)
            if len(data) != end - start:
                raise self.damaged(f"reading {name}", f"{len(data):,} bytes came instead of {end - start:,}")
            for offset in range(0, len(data), chunk_bytes):
                yield data[offset : offset + chunk_bytes]
        if blob.crc32c != _encoded(checksum):
            raise self.damaged(f"reading {name}", "the bytes do not have the checksum that the service recorded")

    def get(self, key: str) -> bytes:
        """A small object, whole."""
        return b"".join(self.read(key))

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """A small object, in one request."""
        self.create(check_key(key), BytesIO(data), replace=replace)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every committed object whose key starts with `prefix`, in key order."""
        with gcs_errors(f"listing {self.url}", permission="storage.objects.list"):
            blobs = self._client.list_blobs(
                self._bucket,
                prefix=self._prefix + prefix,
                fields="items(name,size,timeCreated),nextPageToken",
                retry=self._retry,
            )
            for blob in blobs:
                key = blob.name.removeprefix(self._prefix)
                if is_key(key):
                    yield StoredObject(key, blob.size, blob.time_created)

    def delete(self, key: str) -> None:
        """Remove one object."""
        with gcs_errors(f"deleting {self.name(key)}", permission="storage.objects.delete"):
            try:
                self._bucket.delete_blob(self._prefix + check_key(key), retry=self._retry)
            except NotFound:
                return

    def unfinished(self, prefix: str = "") -> Iterator[UnfinishedUpload]:  # noqa: ARG002 - there never are any
        """Nothing: the service shows nobody an upload that is not finished, and forgets it after a week."""
        return iter(())

    def abort(self, upload: UnfinishedUpload) -> None:
        """Nothing is to be done, since `unfinished` never finds any."""

    def free_bytes(self) -> int | None:
        """None: a bucket tells no limit."""
        return None

    def check_writable(self) -> None:
        """Write, read back and remove a tiny probe."""
        probe(self)

    def name(self, key: str) -> str:
        """What messages call an object."""
        return f"gs://{self._bucket.name}/{self._prefix}{key}"

    def create(self, key: str, body: BytesIO, *, replace: bool = False) -> None:
        """Write an object in one request.

        Raises:
            AlreadyExistsError: the key is taken and `replace` is False.
        """
        blob = self._bucket.blob(self._prefix + key)
        marker = uuid4().hex
        blob.metadata = {_MARKER: marker}
        try:
            with gcs_errors(f"writing {self.name(key)}", permission=PERMISSION):
                blob.upload_from_file(
                    body,
                    size=len(body.getbuffer()),
                    content_type=_BINARY,
                    checksum="crc32c",
                    if_generation_match=None if replace else 0,
                    retry=self._retry,
                )
            described = {"size": blob.size, "crc32c": blob.crc32c, "generation": blob.generation}
        except AlreadyExistsError:
            # The answer may have been lost and the request repeated: then it is our own object.
            found = self.marked(key, marker)
            if found is None:
                raise
            described = found
        self.check_arrived(
            key, described, size=len(body.getbuffer()), crc32c=_encoded(google_crc32c.extend(0, body.getvalue()))
        )

    def start(self, key: str, marker: str) -> ResumableSession:
        """Open an upload of unknown length that only ever creates."""
        blob = self._bucket.blob(self._prefix + key)
        blob.metadata = {_MARKER: marker}
        with gcs_errors(f"starting to write {self.name(key)}", permission=PERMISSION):
            address = blob.create_resumable_upload_session(
                content_type=_BINARY, checksum=None, if_generation_match=0, retry=self._retry
            )
        return ResumableSession(address, name=self.name(key), patience_seconds=self._patience_seconds)

    def marked(self, key: str, marker: str) -> dict[str, Any] | None:
        """The description of the object at `key`, if it bears this upload's mark."""
        with gcs_errors(f"looking at {self.name(key)}", permission="storage.objects.get"):
            blob = self._bucket.get_blob(self._prefix + key, retry=self._retry)
        if blob is None or (blob.metadata or {}).get(_MARKER) != marker:
            return None
        return {"size": blob.size, "crc32c": blob.crc32c, "generation": blob.generation}

    def check_arrived(self, key: str, described: dict[str, Any], *, size: int, crc32c: str) -> None:
        """See that the new object holds what was sent; remove it if not.

        Raises:
            StoreError: it does not.
        """
        if int(described["size"]) == size and described["crc32c"] == crc32c:
            return
        with gcs_errors(f"deleting {self.name(key)}", permission="storage.objects.delete"):
            blob = self._bucket.blob(self._prefix + key)
            blob.delete(if_generation_match=int(described["generation"]), retry=self._retry)
        raise self.damaged(f"writing {self.name(key)}", "other bytes arrived than were sent; they were deleted again")

    @staticmethod
    def damaged(doing: str, how: str) -> StoreError:
        """The error for bytes that are not those that were written."""
        return StoreError(
            f"{doing} failed: {how}",
            untouched=UNTOUCHED,
            remedy="Run again; if it happens twice, suspect this machine's memory or a proxy on the way.",
        )


class GcsUpload(PartedUpload):
    """A resumable upload whose length nobody knows beforehand; one chunk is on its way while the next is filled."""

    def __init__(self, store: GcsStore, key: str) -> None:
        super().__init__(part_bytes=lambda _: CHUNK_BYTES_SENT, senders=1)
        self._store = store
        self._key = key
        self._marker = uuid4().hex
        self._session: ResumableSession | None = None
        self._checksum = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes."""
        taken = super().write(data)
        self._checksum = google_crc32c.extend(self._checksum, bytes(data))
        return taken

    def _put_whole(self, body: BytesIO) -> None:
        self._store.create(self._key, body)

    def _start(self) -> None:
        self._session = self._store.start(self._key, self._marker)

    def _send(self, number: int, start: int, body: BytesIO) -> None:  # noqa: ARG002 - chunks are known by their place
        self._open_session().send(body, start=start)

    def _finish(self, number: int, start: int, body: BytesIO) -> None:  # noqa: ARG002 - chunks are known by their place
        size, crc32c = start + len(body.getbuffer()), _encoded(self._checksum)
        try:
            described = self._open_session().send(body, start=start, crc32c=crc32c)
        except AlreadyExistsError:
            # The answer may have been lost and the request repeated: then it is our own object.
            found = self._store.marked(self._key, self._marker)
            if found is None:
                raise
            described = found
        self._store.check_arrived(self._key, described, size=size, crc32c=crc32c)

    def _discard(self) -> None:
        if self._session is not None:
            self._session.cancel()

    def _open_session(self) -> ResumableSession:
        if self._session is None:
            raise ValueError("no chunk is sent before the upload is started")
        return self._session


def _encoded(checksum: int) -> str:
    return b64encode(checksum.to_bytes(4, "big")).decode()
