"""A plain HTTP client for the tests of the registry: one connection a call, nothing clever."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from typing import Any

from registry_service.testing.server import Server

__all__ = ["Answer", "basic", "bearer", "call", "connected", "exchange"]

TIMEOUT = 20.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The codes of an error's body."""
        return [error["code"] for error in self.json["errors"]]

    def header(self, name: str) -> str:
        value = self.headers[name]
        assert value is not None, f"no header {name} in {self.headers.items()}"
        return str(value)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextlib.contextmanager
def connected(
    registry: Server, context: ssl.SSLContext | None = None
) -> Iterator[http.client.HTTPConnection]:
    """An HTTP connection to a registry."""
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", registry.port, timeout=TIMEOUT, context=context
        )
    with contextlib.closing(connection):
        yield connection


def call(
    registry: Server,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own. An iterable body goes in chunks."""
    chunked = body is not None and not isinstance(body, bytes)
    with connected(registry, context) as connection:
        connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
        response = connection.getresponse()
        return Answer(status=response.status, headers=response.headers, body=response.read())


def exchange(registry: Server, raw: bytes) -> bytes:
    """Send bytes as they are, end the sending side, and read until the other side ends."""
    with socket.create_connection(("127.0.0.1", registry.port), TIMEOUT) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer
