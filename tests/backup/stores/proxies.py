"""Proxies that stand between a store and its server and make trouble, or make the server as strict as a real one."""

from __future__ import annotations

import http.client
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "expect"}


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)


@dataclass
class Answer:
    """One answer as it goes out.

    Args:
        cut_after: close the connection after so many bytes of the body, or before the first line where it is -1.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None


CLOSE = Answer(0, cut_after=-1)


@dataclass
class Proxy:
    """A forwarding proxy.

    Args:
        upstream: `host:port` of the server.
        before: sees each request; what it returns goes out instead of the server's answer.
        after: sees the server's answer and returns the one that goes out.
        seen: every request that came, without bodies.
        name: of the server behind.
    """

    upstream: str
    before: Callable[[Request], Answer | None] = lambda _: None
    after: Callable[[Request, Answer], Answer] = lambda _, answer: answer
    seen: list[Request] = field(default_factory=list)
    endpoint: str = ""
    name: str = ""

    def forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            if request.body or request.method in {"PUT", "POST"}:
                headers["Content-Length"] = str(len(request.body))
            connection.request(request.method, request.path, body=request.body or None, headers=headers)
            response = connection.getresponse()
            body = response.read()
            length = response.getheader("Content-Length")
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
            if request.method == "HEAD" and length is not None:
                kept["Content-Length"] = length
            # The server names itself in what it answers; the client must stay on this side.
            upstream = f"http://{self.upstream}"
            kept = {name: value.replace(upstream, self.endpoint) for name, value in kept.items()}
            if kept.get("Content-Type", "").startswith("application/json"):
                body = body.replace(upstream.encode(), self.endpoint.encode())
            return Answer(response.status, body, kept)
        finally:
            connection.close()


@contextmanager
def running(proxy: Proxy) -> Iterator[Proxy]:
    """Serve a proxy on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers.items()), body)
            proxy.seen.append(Request(request.method, request.path, request.headers, b""))
            answer = proxy.before(request) or proxy.after(request, proxy.forward(request))
            if answer.cut_after == -1:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            with suppress(ConnectionError):
                if self.command != "HEAD":
                    self.wfile.write(answer.body[: answer.cut_after])
            if answer.cut_after is not None:
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


SUPABASE_PATH = "/storage/v1/s3"
SUPABASE_REGION = "eu-west-9"


def supabase_like(upstream: str) -> Proxy:
    """A service below a path, with path-style addresses, a region of its own and none of boto3's newer checksums."""
    proxy = Proxy(upstream)

    def refuse(code: str, message: str, status: int = 400) -> Answer:
        document = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return Answer(status, document.encode(), {"Content-Type": "application/xml"})

    def check(request: Request) -> Answer | None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if headers["host"] != proxy.endpoint.removeprefix("http://"):
            return refuse("InvalidRequest", "virtual-hosted addresses are not known here")
        if not request.path.startswith(f"{SUPABASE_PATH}/"):
            return refuse("NoSuchKey", "nothing is served here", 404)
        refused = [
            name
            for name in headers
            if name.startswith("x-amz-checksum-") or name in {"x-amz-sdk-checksum-algorithm", "x-amz-trailer"}
        ]
        if refused or "aws-chunked" in headers.get("content-encoding", ""):
            return refuse("NotImplemented", f"not implemented: {', '.join(refused)}", 501)
        if headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            return refuse("NotImplemented", "streaming signatures are not implemented", 501)
        scope = re.search(r"Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request", headers.get("authorization", ""))
        if scope is None or scope[1] != SUPABASE_REGION:
            return refuse("AuthorizationHeaderMalformed", f"the region is {SUPABASE_REGION}")
        request.path = request.path.removeprefix(SUPABASE_PATH)
        return None

    proxy.before = check
    return proxy


@dataclass
class Session:
    """One resumable upload, as the service knows it."""

    name: str
    create_only: bool
    state: str = "open"
    arrived: int = 0
    answer: Answer | None = None


class GcsFront(Proxy):
    """Adds to fake-gcs-server what it lacks of the documented resumable protocol.

    These are: `ifGenerationMatch=0` (it overwrites), the question `bytes */…` how much arrived (it commits), DELETE
    (it forgets nothing), and `X-Goog-Hash` on the last chunk (it looks at nothing).
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.sessions: dict[str, Session] = {}
        self.trouble: Callable[[Request], Answer | None] = lambda _: None
        self.before = self._before
        self.after = self._after

    def _before(self, request: Request) -> Answer | None:
        if (trouble := self.trouble(request)) is not None:
            return trouble
        if request.method == "POST" and request.query.get("uploadType") == ["resumable"]:
            return None
        session = self.sessions.get(request.query.get("upload_id", [""])[0])
        if session is None:
            return None
        if request.method == "DELETE":
            session.state = "cancelled"
        if session.state == "cancelled":
            return Answer(499)
        return session.answer or self._check_chunk(request, session)

    def _check_chunk(self, request: Request, session: Session) -> Answer | None:
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", request.headers["Content-Range"])
        if given is None:
            return Answer(308, b"", {"Range": f"bytes=0-{session.arrived - 1}"} if session.arrived else {})
        first, last, total = given.groups()
        if int(first) != session.arrived or len(request.body) != int(last) - session.arrived + 1:
            return Answer(400)
        if total != "*" and session.create_only and self._exists(session.name):
            return Answer(412)
        return None

    def _after(self, request: Request, answer: Answer) -> Answer:
        if request.method == "POST" and request.query.get("uploadType") == ["resumable"] and answer.status == 200:
            name = json.loads(request.body or b"{}").get("name") or request.query["name"][0]
            bucket = re.search(r"/b/([^/]+)/o", request.path)[1]  # type: ignore[index] # all uploads have this shape
            create_only = request.query.get("ifGenerationMatch") == ["0"]
            if create_only and self._exists(f"{bucket}/{name}"):
                return Answer(412, b'{"error":{"code":412,"message":"Precondition Failed"}}')
            token = parse_qs(urlsplit(answer.headers["Location"]).query)["upload_id"][0]
            self.sessions[token] = Session(f"{bucket}/{name}", create_only)
        session = self.sessions.get(request.query.get("upload_id", [""])[0])
        if session is not None and request.method == "PUT":
            if answer.status in {200, 201}:
                session.state, session.answer = "done", answer
            elif answer.status == 308:
                session.arrived += len(request.body)
        return answer

    def _exists(self, name: str) -> bool:
        bucket, _, key = name.partition("/")
        path = f"/storage/v1/b/{bucket}/o/{key.replace('/', '%2F')}"
        return self.forward(Request("GET", path, {}, b"")).status == 200
