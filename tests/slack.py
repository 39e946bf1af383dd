"""A small HTTP receiver that plays Slack's side of an incoming webhook."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "T0001/B0001/not-a-real-token"


@dataclass
class SlackReceiver:
    """Where it listens, and what it was told so far."""

    port: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200

    def connection(self) -> dict[str, object]:
        """The Airflow connection `slack_maintenance` that leads here."""
        return {
            "conn_type": "slackwebhook",
            "host": f"http://127.0.0.1:{self.port}/services",
            "password": TOKEN,
        }

    def about(self, *words: str) -> list[str]:
        """The texts of the messages in which all these words stand."""
        texts = [str(message["text"]) for message in self.messages]
        return [text for text in texts if all(word in text for word in words)]


@contextmanager
def slack_receiver() -> Iterator[SlackReceiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            expected = self.path == f"/services/{TOKEN}"
            if expected and receiver.status == 200:
                receiver.messages.append(json.loads(body))
            self.send_response(receiver.status if expected else 404)
            self.end_headers()
            self.wfile.write(b"ok" if expected and receiver.status == 200 else b"invalid_token")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = SlackReceiver(port=server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
