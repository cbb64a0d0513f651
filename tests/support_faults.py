"""A machine in the way: a reverse proxy on loopback that breaks what it is told to.

It stands before a real registry. Each request takes the next fault of a plan; without one it
passes as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import http.client
import http.server
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

__all__ = ["Fault", "FaultyProxy", "Kind", "faulty_proxy"]

_BLOCK: Final = 64 * 1024
_HOP: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding"})


class Kind(enum.Enum):
    """``at`` of a fault is a place in the body, as a share of it: 0.0 is before its first byte."""

    DROP_ANSWER = "the connection ends in the middle of the answer's body"
    RESET_ANSWER = "and is reset"
    STALL_ANSWER = "nothing more comes of the answer's body"
    CORRUPT_ANSWER = "a byte of the answer's body is another"
    SHORT_ANSWER = "the answer's body is cut, and its length says so too"
    DROP_REQUEST = "the connection ends in the middle of the request's body"
    CORRUPT_REQUEST = "a byte of the request's body is another"
    LOST_ANSWER = "the request arrives, and its answer does not"
    UNHEARD = "the connection ends, and the request does not arrive"
    DROP_HEAD = "the connection ends in the middle of the answer's head"
    STATUS = "an answer of the proxy's own, with the status ``code``"
    NO_RANGE = "the request's Range is lost"
    WRONG_RANGE = "an answer to a Range begins somewhere else, and says so"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: Kind
    at: float = 0.5
    code: int = 503
    retry_after: str = ""

    def __str__(self) -> str:
        return f"{self.kind.name}({self.code if self.kind is Kind.STATUS else self.at})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A request that passed, with the bytes of bodies that went each way."""

    method: str
    path: str
    range: str
    fault: Fault | None
    received: int
    sent: int
    status: int | None
    authorization: str


class _CutError(Exception):
    """The connection is to end here; ``reset`` with an RST."""

    def __init__(self, reset: bool = False) -> None:
        self.reset = reset


class FaultyProxy:
    """Thread-safe; one lock guards the plan and the list of what passed.

    ``wanted`` says which requests take a fault of the plan, by method and path.
    """

    def __init__(self, upstream: str, wanted: Callable[[str, str], bool] | None = None) -> None:
        self.upstream = upstream
        self._wanted = wanted or (lambda method, path: True)
        self._lock = threading.Lock()
        self._plan: list[Fault | None] = []
        self._passed: list[Passed] = []
        self._struck = 0
        self.stalls = False
        self.over = threading.Event()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def plan(self, faults: Iterable[Fault | None]) -> None:
        """What the next requests suffer, in this order; then nothing."""
        with self._lock:
            self._plan = list(faults)
            self._passed = []
            self._struck = 0
            kinds = {None if fault is None else fault.kind for fault in self._plan}
            # Whether one of them makes a client wait until it has enough.
            self.stalls = Kind.STALL_ANSWER in kinds

    @property
    def passed(self) -> Sequence[Passed]:
        with self._lock:
            return list(self._passed)

    def next(self, method: str, path: str) -> Fault | None:
        with self._lock:
            fault = self._plan.pop(0) if self._plan and self._wanted(method, path) else None
            self._struck += fault is not None
            return fault

    @property
    def struck(self) -> int:
        """How many faults of the plan were met: `passed` has a request when it is over only,
        which a client that gave it up does not wait for."""
        with self._lock:
            return self._struck

    def note(self, passed: Passed) -> None:
        with self._lock:
            self._passed.append(passed)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart
    owner: FaultyProxy

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        fault = self.owner.next(self.command, self.path)
        self._received = self._sent = 0
        self._status: int | None = None
        try:
            if fault is not None and fault.kind is Kind.STATUS:
                self._refuse(fault)
            elif fault is not None and fault.kind is Kind.UNHEARD:
                raise _CutError()
            else:
                self._relay(fault)
        except _CutError as cut:
            self._cut(cut.reset)
        except (OSError, http.client.HTTPException):
            self._cut(False)
        finally:
            self.owner.note(
                Passed(
                    method=self.command,
                    path=self.path,
                    range=self.headers.get("Range", ""),
                    fault=fault,
                    received=self._received,
                    sent=self._sent,
                    status=self._status,
                    authorization=self.headers.get("Authorization", ""),
                )
            )

    def _cut(self, reset: bool) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            if reset:
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()

    def _refuse(self, fault: Fault) -> None:
        self._status = fault.code
        self.close_connection = True
        self.send_response(fault.code)
        if fault.retry_after:
            self.send_header("Retry-After", fault.retry_after)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self._swallow()

    def _swallow(self) -> None:
        """What is still under way is read, or its sender would not see the answer."""
        left = int(self.headers.get("Content-Length", "0"))
        while left and (data := self.rfile.read(min(left, _BLOCK))):
            left -= len(data)

    def _relay(self, fault: Fault | None) -> None:
        server = http.client.HTTPConnection(self.owner.upstream, timeout=30)
        with contextlib.closing(server):
            self._send(server, fault)
            answer = server.getresponse()
            self._status = answer.status
            if fault is not None and fault.kind is Kind.LOST_ANSWER:
                answer.read()
                raise _CutError()
            self._answer(answer, fault)

    def _send(self, server: http.client.HTTPConnection, fault: Fault | None) -> None:
        kind = None if fault is None else fault.kind
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            lost = kind in (Kind.NO_RANGE, Kind.WRONG_RANGE) and name.lower() == "range"
            if name.lower() not in _HOP and not lost:
                server.putheader(name, value)
        server.endheaders()
        length = int(self.headers.get("Content-Length", "0"))
        cut = _place(fault, length) if kind is Kind.DROP_REQUEST else None
        changed = _place(fault, length) if kind is Kind.CORRUPT_REQUEST else None
        while self._received < length:
            data = self.rfile.read(min(_BLOCK, length - self._received))
            if not data:
                raise _CutError()
            if cut is not None and self._received + len(data) > cut:
                server.send(data[: cut - self._received])
                raise _CutError()
            server.send(_changed(data, self._received, changed))
            self._received += len(data)

    def _answer(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        kind = None if fault is None else fault.kind
        length = int(answer.headers.get("Content-Length") or 0)
        bodyless = self.command == "HEAD" or answer.status in (204, 304) or not length
        status, extra = answer.status, {}
        told = _place(fault, length) if kind is Kind.SHORT_ANSWER and not bodyless else length
        if kind is Kind.WRONG_RANGE and status == 200 and "Range" in self.headers and not bodyless:
            status = 206
            extra["Content-Range"] = f"bytes 0-{length - 1}/{length}"
        self.send_response_only(status, answer.reason if status == answer.status else None)
        for name, value in answer.headers.items():
            if name.lower() not in (*_HOP, "content-length"):
                self.send_header(name, value)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(told))
        if kind is Kind.DROP_HEAD:
            self.flush_headers()  # and no empty line, which would be their end
            raise _CutError()
        self.end_headers()
        if bodyless:
            return
        whole = (Kind.DROP_ANSWER, Kind.RESET_ANSWER, Kind.STALL_ANSWER)
        cut = _place(fault, length) if kind in whole else None
        changed = _place(fault, length) if kind is Kind.CORRUPT_ANSWER else None
        while self._sent < told and (data := answer.read(min(_BLOCK, told - self._sent))):
            if cut is not None and self._sent + len(data) > cut:
                self.wfile.write(data[: cut - self._sent])
                if kind is Kind.STALL_ANSWER:
                    self._stall()
                raise _CutError(kind is Kind.RESET_ANSWER)
            self.wfile.write(_changed(data, self._sent, changed))
            self._sent += len(data)

    def _stall(self) -> None:
        """Until the client has gone, or all is over."""
        self.connection.settimeout(0.05)
        while not self.owner.over.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.connection.recv(1):
                    return


def _place(fault: Fault | None, length: int) -> int:
    """A byte of so many, the last one for 1.0."""
    assert fault is not None
    return min(int(fault.at * length), max(0, length - 1))


def _changed(data: bytes, offset: int, place: int | None) -> bytes:
    if place is None or not offset <= place < offset + len(data):
        return data
    other = bytearray(data)
    other[place - offset] ^= 0x40
    return bytes(other)


@contextlib.contextmanager
def faulty_proxy(
    upstream: str, wanted: Callable[[str, str], bool] | None = None
) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream, wanted)
    try:
        yield proxy
    finally:
        proxy.close()
