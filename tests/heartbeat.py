"""A small HTTP receiver that plays the outside watch: it notes each heartbeat and knows when one is missing."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET_PATH = "ping/0b5c4f3e-not-a-real-token"


@dataclass
class Watch:
    """Where it listens, when it heard something, and how long it waits before it raises its alarm."""

    port: int
    silence: timedelta = timedelta(hours=2)
    beats: list[datetime] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    status: int = 200
    answers: threading.Event = field(default_factory=threading.Event)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.base}/{SECRET_PATH}"

    def connection(self) -> dict[str, object]:
        """The Airflow connection `heartbeat` that leads here."""
        return {"conn_type": "http", "host": self.base, "password": SECRET_PATH}

    def alarmed(self, now: datetime) -> bool:
        """Whether it raises its alarm."""
        return not self.beats or now - self.beats[-1] > self.silence


@contextmanager
def heartbeat_receiver() -> Iterator[Watch]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            watch.paths.append(self.path)
            watch.answers.wait(30)
            if self.path == f"/{SECRET_PATH}" and watch.status == 200:
                watch.beats.append(datetime.now(UTC))
            self.send_response(watch.status if self.path == f"/{SECRET_PATH}" else 404)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        watch = Watch(port=server.server_address[1])
        watch.answers.set()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            watch.answers.set()
            server.shutdown()
            thread.join()
