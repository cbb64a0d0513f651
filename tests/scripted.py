"""A server on loopback that does what a test tells it: every answer, and every misbehaviour."""

from __future__ import annotations

import datetime
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme


class Request(http.server.BaseHTTPRequestHandler):
    """One request at the server. A test's function answers it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart
    server: _Server
    body: bytes

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def answer(
        self,
        status: int = 200,
        body: bytes | str | dict[str, Any] = b"",
        headers: Mapping[str, Any] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        """Send an answer; ``length`` is announced in place of the body's own."""
        if isinstance(body, dict):
            body = json.dumps(body)
        raw = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        given = {name.lower() for name in headers or {}}
        for name, value in (headers or {}).items():
            for one in [value] if isinstance(value, str) else value:
                self.send_header(name, one)
        if not {"content-length", "transfer-encoding"} & given:
            self.send_header("Content-Length", str(len(raw) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)
        self.wfile.flush()

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def hang(self) -> None:
        """Do nothing until the test is over."""
        self.server.owner.over.wait(30)
        self.close_connection = True

    def drop(self) -> None:
        """End the connection without a word."""
        self.close_connection = True

    def _serve(self) -> None:
        self.server.owner.saw(self)
        self.server.owner.handler(self)

    def __getattr__(self, name: str) -> Any:
        # do_GET and the like, which http.server looks up for each method
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    owner: Scripted

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # a client that went away is what many tests are about


class Authority:
    """An authority of its own, which issues servers' certificates.

    ``certs`` is the certs.d directory of the client. Unless told otherwise a server's
    certificate is for 127.0.0.1 and good, and the client trusts the authority.
    """

    def __init__(
        self,
        certs: Path,
        *,
        name: str = "127.0.0.1",
        trusted: bool = True,
        expired: bool = False,
        wants_client: bool = False,
    ) -> None:
        self.certs = certs
        self.ca = trustme.CA()
        self._name, self._trusted, self._wants_client = name, trusted, wants_client
        self._until = datetime.datetime(2020, 1, 1) if expired else None

    def server_context(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(self._name, not_after=self._until).configure_cert(context)
        if self._wants_client:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        if self._trusted:
            place = self.certs / host
            place.mkdir(parents=True, exist_ok=True)
            self.ca.cert_pem.write_to_path(str(place / "ca.crt"))
        return context


class Scripted:
    """``requests`` lists what came: (method, path, headers)."""

    def __init__(
        self, handler: Callable[[Request], None], authority: Authority | None = None
    ) -> None:
        self.handler = handler
        self.over = threading.Event()
        self.started = time.time()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.owner = self
        if authority is not None:
            context = authority.server_context(f"127.0.0.1:{self._server.server_port}")
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.scheme = "http" if authority is None else "https"
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.port = self._server.server_port
        self.url = f"{self.scheme}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def saw(self, request: Request) -> None:
        with self._lock:
            self.requests.append((request.command, request.path, dict(request.headers)))

    def paths(self, method: str | None = None) -> list[str]:
        with self._lock:
            return [path for verb, path, _ in self.requests if method in (None, verb)]

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@contextmanager
def scripted(
    handler: Callable[[Request], None], authority: Authority | None = None
) -> Iterator[Scripted]:
    server = Scripted(handler, authority)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


@contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue is full, so that a connection to it is never made."""
    waiting: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            waiting.append(client)
        try:
            yield listener.getsockname()[1]
        finally:
            for client in waiting:
                client.close()


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
