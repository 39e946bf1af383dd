"""An upload in parts that overlaps with the making of the data, in bounded memory."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from io import BytesIO
from typing import TYPE_CHECKING

from include.backup.stores.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

logger = logging.getLogger(__name__)


class PartedUpload(ABC):
    """Cuts what is written into parts and sends them from background threads.

    There are `senders` + 1 buffers, used again and again. A part is sent only when a byte beyond it has come, so an
    object of one part or less goes through `_put_whole`, and the last part of a longer one is never empty.
    """

    def __init__(self, *, part_bytes: Callable[[int], int], senders: int) -> None:
        self._part_bytes = part_bytes
        self._senders = senders
        self._threads = ThreadPoolExecutor(senders, thread_name_prefix="upload")
        self._running: dict[Future[None], BytesIO] = {}
        self._free: list[BytesIO] = []
        self._buffer = BytesIO()
        self._room = part_bytes(1)
        self._number = 1
        self._sent_bytes = 0
        self._closed = False

    @abstractmethod
    def _put_whole(self, body: BytesIO) -> None:
        """Create the object from one body, unless the key is taken."""

    @abstractmethod
    def _start(self) -> None:
        """Open the service's upload; called once, before the first part."""

    @abstractmethod
    def _send(self, number: int, start: int, body: BytesIO) -> None:
        """Send one part; called from a background thread."""

    @abstractmethod
    def _finish(self, number: int, start: int, body: BytesIO) -> None:
        """Send the last part, all others being there, and make the object visible unless the key is taken."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove whatever the service holds of this upload, if it holds anything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        committed = self._closed
        self._closed = True
        # A part that is still on its way when the upload is removed could stay behind in the service.
        self._threads.shutdown(wait=True, cancel_futures=True)
        if committed:
            return
        try:
            self._discard()
        except StoreError as failure:
            logger.warning("An unfinished upload stays in the store until the next clearing: %s", failure)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes; blocks while all buffers are on their way.

        Raises:
            StoreError: a part could not be sent; nothing of this upload can be committed any more.
        """
        if self._closed:
            raise ValueError("an upload takes bytes inside its `with` block and before its commit only")
        self._collect()
        view = memoryview(data).cast("B")
        taken = 0
        while taken < len(view):
            if self._buffer.tell() == self._room:
                self._send_buffer()
            free = self._room - self._buffer.tell()
            taken += self._buffer.write(view[taken : taken + free])
        return taken

    def commit(self) -> None:
        """Send the rest and make the object visible, whole.

        Raises:
            AlreadyExistsError: the key is taken; what is there was left as it is.
            StoreError: the service refused or went away.
        """
        if self._closed:
            raise ValueError("an upload is committed once, inside its `with` block")
        self._buffer.truncate()
        self._buffer.seek(0)
        if self._number == 1:
            self._put_whole(self._buffer)
        else:
            wait(self._running)
            self._collect()
            self._finish(self._number, self._sent_bytes, self._buffer)
        self._closed = True

    def _send_buffer(self) -> None:
        if self._number == 1:
            self._start()
        while len(self._running) == self._senders:
            wait(self._running, return_when=FIRST_COMPLETED)
            self._collect()
        body, number, start = self._buffer, self._number, self._sent_bytes
        body.truncate()
        body.seek(0)
        self._running[self._threads.submit(self._send, number, start, body)] = body
        self._buffer = self._free.pop() if self._free else BytesIO()
        self._buffer.seek(0)
        self._number += 1
        self._sent_bytes += self._room
        self._room = self._part_bytes(self._number)

    def _collect(self) -> None:
        """Take back the buffers of parts that are done; a failed one stays, so that it fails every later call."""
        for future in [future for future in self._running if future.done()]:
            future.result()
            self._free.append(self._running.pop(future))
