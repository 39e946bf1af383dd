"""Backups in a folder of this machine, or of a network file system mounted on it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from include.backup.stores.base import (
    CHUNK_BYTES,
    AlreadyExistsError,
    MissingObjectError,
    StoredObject,
    StoreError,
    UnfinishedUpload,
)
from include.backup.stores.keys import check_key, is_key, probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_TEMPORARY = ".night-porter-upload-"
_TOKEN_CHARACTERS = 32
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class LocalStore:
    """A folder. Objects are files of mode 0600 in folders of mode 0700.

    Args:
        root: the folder; it is made when the first object is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        """`file:///…`."""
        return self._root.as_uri()

    def upload(self, key: str, *, expected_bytes: int | None = None) -> LocalUpload:  # noqa: ARG002 - files need no plan
        """Start an object in a hidden temporary file beside its final place."""
        return LocalUpload(self._path(key), root=self._root)

    def read(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The object's bytes, streamed."""
        path = self._path(key)
        with os_errors(f"reading {path}", path), path.open("rb", buffering=0) as file:
            left = os.fstat(file.fileno()).st_size
            while left and (chunk := file.read(min(chunk_bytes, left))):
                left -= len(chunk)
                yield chunk
        if left:
            raise StoreError(
                f"{path} became {left} bytes shorter while it was read",
                untouched="the file itself",
                remedy="Find out what else writes to this folder; backups are never changed by Night Porter.",
            )

    def get(self, key: str) -> bytes:
        """A small object, whole."""
        return b"".join(self.read(key))

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """A small object, atomically."""
        with LocalUpload(self._path(key), root=self._root) as upload:
            upload.write(data)
            upload.commit(replace=replace)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every committed object whose key starts with `prefix`, in key order."""
        for key, path in self._files(prefix):
            if not is_key(key):
                continue
            with suppress(FileNotFoundError):
                status = path.stat()
                yield StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def delete(self, key: str) -> None:
        """Remove one object, and the folders that this leaves empty."""
        path = self._path(key)
        with os_errors(f"deleting {path}", path):
            with suppress(IsADirectoryError):
                path.unlink(missing_ok=True)
            _remove_empty_folders(path.parent, self._root)

    def unfinished(self, prefix: str = "") -> Iterator[UnfinishedUpload]:
        """Temporary files of uploads below `prefix`, told by their names alone.

        `started` is when such a file was last written to, so one that is still growing looks young.
        """
        for hidden, path in self._files(""):
            folder, _, name = hidden.rpartition("/")
            if not name.startswith(_TEMPORARY):
                continue
            target = name[len(_TEMPORARY) + _TOKEN_CHARACTERS + 1 :]
            key = f"{folder}/{target}" if folder else target
            if is_key(key) and key.startswith(prefix):
                with suppress(FileNotFoundError):
                    started = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    yield UnfinishedUpload(key, started, name)

    def abort(self, upload: UnfinishedUpload) -> None:
        """Remove an unfinished upload's temporary file."""
        path = self._path(upload.key).with_name(upload.token)
        if not upload.token.startswith(_TEMPORARY):
            raise ValueError(f"{upload.token!r} is not the name of a temporary file of this store")
        with os_errors(f"deleting {path}", path):
            path.unlink(missing_ok=True)
            _remove_empty_folders(path.parent, self._root)

    def free_bytes(self) -> int | None:
        """Room left on the folder's file system, for this user."""
        return _free_bytes(self._root)

    def check_writable(self) -> None:
        """Write, read back and remove a tiny probe."""
        probe(self)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _files(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """Relative names, in the byte order of whole keys, of all files whose folder can hold `prefix`."""
        found: list[str] = []

        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        with os_errors(f"listing {self._root}", self._root):
            top = self._root / prefix.rpartition("/")[0]
            for folder, _, names in os.walk(top, onerror=failed):
                relative = os.path.relpath(folder, self._root)
                start = "" if relative == "." else f"{relative}/"
                found += [start + name for name in names if (start + name).startswith(prefix)]
        for name in sorted(found, key=os.fsencode):
            yield name, self._root / name


class LocalUpload:
    """A file being written beside its final place; it takes that place on `commit`."""

    def __init__(self, path: Path, *, root: Path) -> None:
        self._path = path
        self._root = root
        self._temporary = path.with_name(f"{_TEMPORARY}{uuid4().hex}-{path.name}")
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        with os_errors(f"writing {self._path}", self._path):
            try:
                self._descriptor = self._create()
            except FileNotFoundError:
                # A deletion beside us took the folder while it was still empty.
                self._descriptor = self._create()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with os_errors(f"deleting {self._temporary}", self._path):
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            if self._temporary.exists():
                self._temporary.unlink()
                _remove_empty_folders(self._path.parent, self._root)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes.

        Raises:
            StoreError: the disk is full, or refuses.
        """
        view = memoryview(data).cast("B")
        written = 0
        with os_errors(f"writing {self._path}", self._path):
            while written < len(view):
                written += os.write(self._open_descriptor(), view[written:])
        return written

    def commit(self, *, replace: bool = False) -> None:
        """Bring the bytes to the disk, then give the file its name.

        The name is taken by a hard link, which fails where something has it already. A file system without hard
        links is renamed upon under a lock on the folder, which holds among the processes of one machine only.

        Args:
            replace: take the place of what is there.

        Raises:
            AlreadyExistsError: something is there; it was left as it is.
        """
        descriptor = self._open_descriptor()
        with os_errors(f"writing {self._path}", self._path):
            os.fsync(descriptor)
            self._descriptor = None
            os.close(descriptor)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if replace:
                    self._temporary.replace(self._path)
                else:
                    self._take_name(folder)
                os.fsync(folder)
            finally:
                os.close(folder)

    def _create(self) -> int:
        _make_folders(self._path.parent)
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("an upload takes bytes inside its `with` block and before its commit only")
        return self._descriptor

    def _take_name(self, folder: int) -> None:
        try:
            os.link(self._temporary, self._path, follow_symlinks=False)
            self._temporary.unlink()
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            fcntl.flock(folder, fcntl.LOCK_EX)
            if os.path.lexists(self._path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._path)) from None
            self._temporary.rename(self._path)


@contextmanager
def os_errors(doing: str, path: Path) -> Iterator[None]:
    """Tell an operating system's refusal in an operator's words.

    Raises:
        StoreError: in the place of an OSError.
    """
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExistsError(
            f"{doing} failed: something is there already",
            untouched=f"{path} as it was",
            remedy="Nothing, if another run made this backup; else look at the file's date and owner.",
        ) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingObjectError(
            f"{doing} failed: there is no such file",
            untouched="every other file in the folder",
            remedy="List the backups again: this one was deleted, or its name is mistyped.",
        ) from error
    except OSError as error:
        full = error.errno in _FULL
        room = f" ({_free_bytes(path):,} bytes are left there)" if full else ""
        raise StoreError(
            f"{doing} failed: {error.strerror or error}{room}",
            untouched="every backup already in the folder",
            remedy=(
                "Make room on that disk (`prune` shows what the retention rules would remove), then run again."
                if full
                else "Check that the folder is mounted and belongs to the user that Night Porter runs as."
            ),
        ) from error


def _free_bytes(path: Path) -> int:
    """Room on the file system of the nearest folder that exists."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _make_folders(folder: Path) -> None:
    """Make what is missing, each part on disk and for this user only before the next."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty_folders(folder: Path, root: Path) -> None:
    """Remove `folder` and its parents below `root` as far as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
