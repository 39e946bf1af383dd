"""What a backup store must be able to do, and nothing more.

A key is a relative path with `/` between its parts, below the store's own prefix. No key outside that prefix
can be named, so nothing outside it can be listed or deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from types import TracebackType

CHUNK_BYTES = 1024 * 1024


class StoreError(MaintenanceError):
    """A store refused, vanished or ran out of space."""


class AlreadyExistsError(StoreError):
    """Something is at this key already; it was left as it is."""


class MissingObjectError(StoreError):
    """Nothing is at this key."""


@dataclass(frozen=True)
class StoredObject:
    """One committed object as a listing shows it.

    Args:
        key: relative to the store's prefix.
        size: bytes.
        modified: when it was committed, UTC.
    """

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class UnfinishedUpload:
    """What a killed run left behind: never visible at a committed key."""

    key: str
    started: datetime
    token: str


class Upload(Protocol):
    """An object being written. It exists only after `commit`; leaving the block otherwise removes it."""

    def __enter__(self) -> Upload: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes; the caller may reuse the buffer at once. Returns their number."""
        ...

    def commit(self) -> None:
        """Make the object visible, whole.

        Raises:
            AlreadyExistsError: another object took the key meanwhile; it was left as it is.
        """
        ...


class Store(Protocol):
    """A place for backups. All failures are `StoreError`."""

    @property
    def url(self) -> str:
        """`file:///…`, `s3://bucket/prefix` or `gs://bucket/prefix`."""
        ...

    def upload(self, key: str, *, expected_bytes: int | None = None) -> Upload:
        """Start an object; `expected_bytes` is an estimate that helps to choose part sizes."""
        ...

    def read(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The object's bytes, streamed."""
        ...

    def get(self, key: str) -> bytes:
        """A small object, whole."""
        ...

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """A small object, atomically.

        Raises:
            AlreadyExistsError: the key is taken and `replace` is False.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every committed object whose key starts with `prefix`, in key order, however many."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object. Removing what is not there is not an error."""
        ...

    def unfinished(self, prefix: str = "") -> Iterator[UnfinishedUpload]:
        """Uploads below `prefix` that never were committed."""
        ...

    def abort(self, upload: UnfinishedUpload) -> None:
        """Remove what an unfinished upload holds."""
        ...

    def free_bytes(self) -> int | None:
        """Room left in bytes, or None where the store knows no limit."""
        ...

    def check_writable(self) -> None:
        """Write, read back and remove a tiny probe, so that a refusal is known before a dump starts."""
        ...
