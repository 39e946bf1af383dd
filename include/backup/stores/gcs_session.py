"""The resumable upload protocol of Google Cloud Storage, as far as a stream of unknown length needs it.

The client library's own writer commits what it has when its block is left through an exception in some versions,
keeps 40 MiB a chunk and gives up on the first chunk that is refused; its machinery beneath is private.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import requests

from include.backup.stores.gcs_errors import BUSY, cause_without_address, refusal, unreachable

if TYPE_CHECKING:
    from io import BytesIO

PERMISSION = "storage.objects.create"
_TIMEOUT_SECONDS = (10, 120)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0
_RANGE = re.compile(r"bytes=0-(\d+)\Z")


class ResumableSession:
    """One upload that the service has opened.

    Args:
        address: of the session, as `create_resumable_upload_session` gave it. Whoever has it can write the object,
            so it is never shown.
        name: what messages call the object.
        patience_seconds: how long to go on asking a service that makes no progress.
    """

    def __init__(self, address: str, *, name: str, patience_seconds: float) -> None:
        self._address = address
        self._name = name
        self._patience_seconds = patience_seconds
        self._http = requests.Session()

    def send(self, body: BytesIO, *, start: int, crc32c: str | None = None) -> dict[str, Any]:
        """Send one chunk until the service has all of it.

        Args:
            body: the chunk; unless it is the last, a multiple of 256 KiB.
            start: its place in the object, in bytes.
            crc32c: of the whole object, base64; given with the last chunk, which makes the object visible. The
                service refuses to commit bytes with another checksum.

        Returns:
            The new object's description after the last chunk, else nothing.

        Raises:
            AlreadyExistsError: the key was taken meanwhile.
            StoreError: refused, or not reachable for too long.
        """
        doing = f"writing {self._name} from byte {start} on"
        last = crc32c is not None
        end = start + len(body.getbuffer())
        total = str(end) if last else "*"
        common = {"X-Goog-Hash": f"crc32c={crc32c}"} if last else {}
        sent, pause, progress = start, _FIRST_PAUSE_SECONDS, time.monotonic()
        while True:
            body.seek(sent - start)
            answer, cause = self._put({**common, "Content-Range": f"bytes {sent}-{end - 1}/{total}"}, body)
            if answer is None:
                time.sleep(pause)
                answer, _ = self._put({**common, "Content-Range": f"bytes */{total}"}, None)
            if answer is not None:
                if answer.status_code in {200, 201} and last:
                    described: dict[str, Any] = answer.json()
                    return described
                arrived = _RANGE.match(answer.headers.get("Range", ""))
                has = int(arrived[1]) + 1 if arrived else 0
                if answer.status_code != 308 or not start <= has <= end:
                    reason = f"{answer.reason}, {has:,} bytes arrived" if answer.status_code == 308 else answer.reason
                    raise refusal(doing, status=answer.status_code, cause=reason, permission=PERMISSION)
                if has == end and not last:
                    return {}
                if has > sent:
                    # The last byte is sent again if need be: without it nothing would tell the object's end.
                    sent, pause, progress = min(has, end - 1), _FIRST_PAUSE_SECONDS, time.monotonic()
                    continue
            if time.monotonic() - progress > self._patience_seconds:
                raise unreachable(doing, cause or "the service takes no more bytes")
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def cancel(self) -> None:
        """Give the session up; the service forgets what it was sent.

        Raises:
            StoreError: refused or unreachable.
        """
        doing = f"cancelling {self._name}"
        try:
            answer = self._http.delete(self._address, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            # The original would show the address.
            raise unreachable(doing, cause_without_address(error)) from None
        if answer.status_code not in {200, 204, 404, 410, 499}:
            raise refusal(doing, status=answer.status_code, cause=answer.reason, permission=PERMISSION)

    def _put(self, headers: dict[str, str], body: BytesIO | None) -> tuple[requests.Response | None, str]:
        """The answer, or None and the cause where the same request may succeed later."""
        try:
            answer = self._http.put(
                self._address, data=body, headers=headers, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            return None, cause_without_address(error)
        if answer.status_code in BUSY:
            return None, f"{answer.status_code} {answer.reason}"
        return answer, ""
