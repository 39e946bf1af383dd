"""Bringing an archive from the store to disk: hashed as it is stored, decrypted on the way, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from humanize import naturalsize

from include.backup.model import whole_sha256
from include.backup.private_keys import private_keys
from include.backup.stores.base import MissingObjectError
from include.backup.verify import BackupDamagedError
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.model import Manifest, StoredFile
    from include.backup.stores.base import Store

    Progress = Callable[[int], None]

UNTOUCHED = "the backup stays as it is in the store; nothing was created on any server"
_PARALLEL_FILES = 4


class _StoppedError(Exception):
    """Another file of the same archive has failed."""


def fetch(
    store: Store,
    manifest: Manifest,
    folder: Path,
    *,
    identity: str | None,
    progress: Progress = lambda _: None,
) -> Path:
    """Bring one archive into a folder, ready for pg_restore.

    Args:
        store: where it is.
        manifest: of the backup.
        folder: for nobody but us, with room for the archive.
        identity: age private key(s), as `age-keygen` writes them; needed for encrypted backups only.
        progress: told the stored bytes read so far; called from several threads, one at a time.

    Returns:
        The archive: a file, or for directory format a folder.

    Raises:
        BackupDamagedError: what is stored is not what was written; nothing of it may be used.
        MaintenanceError: the store or the folder cannot be used, or the key is missing or another one.
    """
    files = manifest.files
    if manifest.bytes != sum(file.bytes for file in files) or manifest.sha256 != whole_sha256(files):
        raise _damaged(manifest, "the manifest contradicts itself: bytes and sha256 are not those of its files")
    if manifest.archive_format == "custom" and len(files) != 1:
        raise _damaged(manifest, "the manifest contradicts itself: a custom archive is one file")
    keys = private_keys(manifest, identity) if manifest.encryption_recipients else []
    try:
        _require_room(folder, manifest)
        archive = folder / "archive"
        if manifest.archive_format == "directory":
            archive.mkdir(mode=0o700)
        _Fetching(store, manifest, keys, progress).all_into(archive)
    except OSError as error:
        raise MaintenanceError(
            f"the staging folder {folder.parent} cannot be used: {error}",
            database=manifest.database,
            untouched=UNTOUCHED,
            remedy="name a folder that is writable and has room for the whole archive (proving_ground: {staging: …})",
        ) from error
    return archive


class _Fetching:
    """All files of one archive; the first failure stops the others."""

    def __init__(self, store: Store, manifest: Manifest, keys: list[Any], progress: Progress) -> None:
        self._store = store
        self._manifest = manifest
        self._keys = keys
        self._progress = progress
        self._counting = threading.Lock()
        self._read = 0
        self._stopped = threading.Event()

    def all_into(self, archive: Path) -> None:
        if self._manifest.archive_format == "custom":
            (file,) = self._manifest.files
            self._one(file, archive)
            return
        # Large files first, so that no thread is left alone with the largest at the end.
        files = sorted(self._manifest.files, key=lambda file: file.bytes, reverse=True)
        with ThreadPoolExecutor(max_workers=_PARALLEL_FILES, thread_name_prefix="fetch") as pool:
            try:
                futures = [pool.submit(self._one, file, archive / Path(file.suffix).name) for file in files]
                for future in futures:
                    future.result()
            except BaseException:
                self._stopped.set()
                raise

    def _one(self, file: StoredFile, path: Path) -> None:
        try:
            source = _Stored(self._chunks(file))
            problem = None
            with _private(path) as target:
                if self._keys:
                    problem = _decrypt(source, target, self._keys)
                else:
                    target.writelines(source)
            # The bytes' own hash says more than a decoder that stumbled over them.
            problem = source.difference_from(file) or problem
        except MissingObjectError as error:
            problem = f"an object is missing from the store: {error.what}"
        if problem:
            raise _damaged(self._manifest, problem)

    def _chunks(self, file: StoredFile) -> Iterator[bytes]:
        for chunk in self._store.read(f"{self._manifest.backup_id.stem}{file.suffix}"):
            if self._stopped.is_set():
                raise _StoppedError
            with self._counting:
                self._read += len(chunk)
                self._progress(self._read)
            yield chunk


class _Stored:
    """The stored bytes of one object, hashed as they pass; a file to read from for age's library."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._sha256 = hashlib.sha256()
        self._held = memoryview(b"")
        self._size = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._sha256.update(chunk)
            self._size += len(chunk)
            yield chunk

    def read(self, size: int) -> bytes:
        """At most so many of the next bytes. An error is remembered, because age's library flattens it to text."""
        try:
            while not self._held:
                chunk = next(iter(self), None)
                if chunk is None:
                    return b""
                self._held = memoryview(chunk)
        except BaseException as error:
            self.error = error
            raise
        taken, self._held = self._held[:size], self._held[size:]
        return bytes(taken)

    def difference_from(self, file: StoredFile) -> str | None:
        """What differs from what was written, of the whole object: the rest of it is read for that."""
        for _ in self:
            pass
        if self._size != file.bytes:
            return f"{file.suffix}: {self._size} bytes are stored, {file.bytes} were written"
        if (found := self._sha256.hexdigest()) != file.sha256:
            return f"{file.suffix}: sha256 is {found}, {file.sha256} was written"
        return None


class _Target:
    """A file to write to for age's library, which flattens errors to text: they are remembered."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Closing the file does it."""


def _decrypt(source: _Stored, target: IO[bytes], keys: list[Any]) -> str | None:
    """Decrypt to the end; what is wrong with the encryption, or None."""
    import pyrage

    sink = _Target(target)
    try:
        pyrage.decrypt_io(source, sink, keys)
    except (pyrage.DecryptError, OSError) as error:
        if (cause := source.error or sink.error) is not None:
            raise cause from None
        return f"the archive cannot be decrypted to its end: {error}"
    return None


def _private(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "wb", buffering=1024 * 1024)


def _require_room(folder: Path, manifest: Manifest) -> None:
    free = shutil.disk_usage(folder).free
    if free < manifest.bytes:
        raise MaintenanceError(
            f"{folder.parent} has {naturalsize(free, binary=True)} free, the archive of {manifest.id} takes "
            f"{naturalsize(manifest.bytes, binary=True)}",
            database=manifest.database,
            untouched=UNTOUCHED,
            remedy="make room there, or name another folder (proving_ground: {staging: …})",
        )


def _damaged(manifest: Manifest, problem: str) -> BackupDamagedError:
    return BackupDamagedError(
        f"backup {manifest.id} is damaged: {problem}",
        database=manifest.database,
        untouched="it stays where it is, and nothing of it was restored; other backups are as they were",
        remedy="run the backup again now, then look into the store that holds it",
    )
