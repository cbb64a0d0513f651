"""HTTP/1.1 on one connection: requests in, answers out, faults and holds applied.

A connection is served by one thread, which owns its socket; only `Connection.interrupt` may be
called from another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import http
import http.client
import io
import logging
import re
import socket
import ssl
import struct
import threading
import time
import traceback
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final

from .body import StreamBody
from .content import CHUNK, BytesContent
from .exchange import BodyTruncated, Exchange, Responder
from .faults import Fault, FaultKind, FaultSet, RequestFaults
from .flow import ConnectionDropped, Flow
from .holds import Hold, HoldSet
from .message import Request, Response, Span
from .requestlog import LoggedRequest, RequestLog

__all__ = ["Connection", "Services"]

_LOG: Final = logging.getLogger(__name__)
# A peer that neither sends nor takes anything for so many seconds is given up.
_SILENCE: Final = 300.0
_LINE: Final = 65536
_DRAIN: Final = 1 << 20
_LINGER: Final = 2.0
_SENDFILE: Final = 4 << 20
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET: Final = ("authorization", "cookie", "proxy-authorization")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What connections share, each part thread-safe.

    ``draining``: no further request is to be read. ``stopping``: every wait is to end.
    """

    responder: Responder
    faults: FaultSet
    holds: HoldSet
    log: RequestLog
    host: str
    tls: ssl.SSLContext | None
    draining: threading.Event
    stopping: threading.Event


class _BadRequest(Exception):  # noqa: N818 - becomes an answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """Serves one accepted socket until either side ends it."""

    def __init__(self, sock: socket.socket, number: int, services: Services) -> None:
        self._sock = sock
        self._number = number
        self._services = services
        self._idle = False
        self._sent = 0

    @property
    def idle(self) -> bool:
        """It waits for a request, and none has begun."""
        return self._idle

    def interrupt(self) -> None:
        """End every read and write of the connection's thread. From any thread."""
        with contextlib.suppress(OSError):
            # The plain socket's shutdown, below TLS: its own would change state that is in use.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until the end, and close the socket."""
        reset = False
        try:
            self._prepare()
            with self._sock.makefile("rb") as stream:
                while self._serve_one(stream):
                    continue
        except ConnectionDropped as dropped:
            reset = dropped.reset
        except OSError:
            # The peer broke off, or TLS could not be agreed on: nobody is there to tell.
            pass
        finally:
            if reset:
                linger = struct.pack("ii", 1, 0)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._sock.close()

    def _prepare(self) -> None:
        self._sock.settimeout(_SILENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._services.tls is not None:
            wrapped = self._services.tls.wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
            self._sock = wrapped
            wrapped.do_handshake()

    def _serve_one(self, stream: io.BufferedReader) -> bool:
        """Read and answer one request. Whether the connection goes on."""
        self._idle = True
        # Read after `idle` is set: whoever drains sets it first and looks at `idle` then.
        if self._services.draining.is_set():
            return False
        line = stream.readline(_LINE + 1)
        self._idle = False
        if line in (b"\r\n", b"\n"):
            return True
        if not line:
            return False
        self._sent = 0
        try:
            request, length, keep = self._parse(line, stream)
        except (_BadRequest, http.client.HTTPException, ValueError) as error:
            status = error.status if isinstance(error, _BadRequest) else 400
            refused = self._services.responder.refusal(status, f"not a request: {error}")
            self._send(refused, head=False, keep=False, flow=self._calm())
            self._linger()
            return False
        return self._answer(request, length, keep, stream)

    def _parse(self, line: bytes, stream: io.BufferedReader) -> tuple[Request, int | None, bool]:
        """The request, its body's length (None: chunked), and whether to keep the connection."""
        words = line.decode("latin-1").split()
        if len(line) > _LINE or len(words) != 3 or not _TOKEN.fullmatch(words[0]):
            raise _BadRequest(400, "the request line is malformed or too long")
        method, target, version = words
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise _BadRequest(505, f"{version} is not spoken here")
        message = http.client.parse_headers(stream)
        headers = {
            name.lower(): ", ".join(value.strip() for value in message.get_all(name, []))
            for name in set(message.keys())
        }
        url = urllib.parse.urlsplit(target)
        if not url.path.startswith("/"):
            raise _BadRequest(400, "the target is no path")
        host = headers.get("host", "")
        request = Request(
            method=method,
            target=target,
            path=urllib.parse.unquote(url.path),
            query=_query(url.query),
            headers=headers,
            secure=self._services.tls is not None,
            host=host if _HOST.fullmatch(host) else self._services.host,
        )
        options = {word.strip().lower() for word in headers.get("connection", "").split(",")}
        keep = "close" not in options if version == "HTTP/1.1" else "keep-alive" in options
        return request, _body_length(headers), keep

    def _answer(
        self, request: Request, length: int | None, keep: bool, stream: io.BufferedReader
    ) -> bool:
        services = self._services
        faults, holds = services.faults.of(request), services.holds.of(request)
        on_body = length != 0
        guarded = Flow(faults=faults, holds=holds, stopping=services.stopping)
        expects = request.headers.get("expect", "").lower() == "100-continue"
        body = StreamBody(
            stream,
            length=length,
            flow=guarded if on_body else self._calm(),
            begin=self._continue if expects else _nothing,
        )
        exchange = Exchange(request=request, body=body, faults=faults)
        entry = self._entry(request, services.log.number())
        head, status, complete = request.method == "HEAD", None, False
        try:
            response = self._decide(exchange, holds)
            if faults.strikes(FaultKind.LOST_ANSWER):
                raise ConnectionDropped()
            response = _shortened(response, request, faults)
            if not body.ended:
                # What is not read would be taken for the next request, or, on closing, make
                # the system reset the connection under the answer.
                keep = keep and not (expects and not body.begun) and body.drain(_DRAIN)
            keep = keep and not services.draining.is_set()
            flow = self._calm()
            if not on_body and 200 <= response.status < 300:
                offset = response.body.offset if isinstance(response.body, Span) else 0
                flow = Flow(faults=faults, holds=holds, stopping=services.stopping, offset=offset)
            status = response.status
            services.log.record(self._state(entry, exchange, status))
            self._send(response, head=head, keep=keep, flow=flow)
            complete = True
        except BodyTruncated:
            keep = False
        finally:
            final = self._state(entry, exchange, status)
            services.log.record(dataclasses.replace(final, complete=complete, done=True))
        if complete and not keep:
            self._linger()
        return keep

    def _decide(self, exchange: Exchange, holds: Sequence[Hold]) -> Response:
        """The answer, after what is to befall the request before anything is done."""
        for hold in holds:
            if hold.after is None:
                hold.wait()
        stall = exchange.faults.strikes(FaultKind.STALL, at_once=True)
        if stall is not None:
            self._services.stopping.wait(stall.seconds)
        if self._services.stopping.is_set():
            raise ConnectionDropped()
        drop = exchange.faults.strikes(FaultKind.DROP, at_once=True)
        if drop is not None:
            raise ConnectionDropped(reset=drop.reset)
        fault = exchange.faults.strikes(FaultKind.STATUS)
        if fault is not None:
            return self._status_fault(fault)
        fault = exchange.faults.strikes(FaultKind.REDIRECT)
        if fault is not None:
            where = (fault.to or "").rstrip("/") + exchange.request.target
            return Response(status=fault.code or 307, headers=(("Location", where),))
        try:
            return self._services.responder.respond(exchange)
        except (BodyTruncated, ConnectionDropped):
            raise
        except Exception as error:
            _LOG.error("%s", traceback.format_exc())
            message = f"the registry failed: {type(error).__name__}: {error}"
            return self._services.responder.refusal(500, message)

    def _status_fault(self, fault: Fault) -> Response:
        status = fault.code or 503
        headers: tuple[tuple[str, str], ...] = ()
        if fault.retry_after is not None:
            value = str(fault.retry_after)
            if fault.form == "date":
                value = email.utils.formatdate(time.time() + fault.retry_after, usegmt=True)
            headers = (("Retry-After", value),)
        message = f"switched on for a test: {status}"
        return self._services.responder.refusal(status, message, headers)

    def _send(self, response: Response, *, head: bool, keep: bool, flow: Flow) -> None:
        status = response.status
        lines = [
            f"HTTP/1.1 {status} {_phrase(status)}",
            f"Date: {email.utils.formatdate(usegmt=True)}",
        ]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if status != 204:
            lines.append(f"Content-Length: {response.length}")
        if not keep:
            lines.append("Connection: close")
        raw = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        if head or response.length == 0:
            self._sock.sendall(raw)
        elif isinstance(response.body, bytes) and flow.idle:
            self._sock.sendall(raw + response.body)
            self._sent = len(response.body)
        else:
            self._sock.sendall(raw)
            self._send_body(response.body, flow)

    def _send_body(self, body: bytes | Span, flow: Flow) -> None:
        span = body
        if isinstance(span, bytes):
            span = Span(content=BytesContent(span), offset=0, length=len(span))
        with span.content.open() as reader:
            while self._sent < span.length:
                flow.reach(self._sent)
                left, place = span.length - self._sent, span.offset + self._sent
                if flow.idle and reader.file is not None and self._services.tls is None:
                    count = self._sock.sendfile(reader.file, place, min(left, _SENDFILE))
                    if count == 0:
                        raise OSError("the content has become shorter than it was")
                else:
                    data = reader.read_at(place, flow.room(self._sent, min(left, CHUNK)))
                    count = len(data)
                    flow.pace(count)
                    self._sock.sendall(flow.alter(self._sent, data))
                self._sent += count

    def _continue(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _linger(self) -> None:
        """Let the peer read the answer: what it still sends is taken and thrown away."""
        deadline = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not socket.socket.recv(self._sock, CHUNK):
                    break

    def _calm(self) -> Flow:
        """A flow in which nothing happens."""
        return Flow(faults=RequestFaults(), holds=(), stopping=self._services.stopping)

    def _entry(self, request: Request, number: int) -> LoggedRequest:
        return LoggedRequest(
            number=number,
            connection=self._number,
            method=request.method,
            path=request.path,
            query=request.query,
            headers={k: v for k, v in request.headers.items() if k not in _SECRET},
            scheme=request.headers.get("authorization", "").partition(" ")[0],
            range=request.headers.get("range", ""),
            user="",
            status=None,
            received=0,
            sent=0,
            faults=(),
            complete=False,
            done=False,
        )

    def _state(self, entry: LoggedRequest, exchange: Exchange, status: int | None) -> LoggedRequest:
        body = exchange.body
        return dataclasses.replace(
            entry,
            user=exchange.user,
            status=status,
            received=body.received,
            sent=self._sent,
            faults=tuple(exchange.faults.struck),
        )


def _nothing() -> None:
    return None


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _query(text: str) -> Mapping[str, tuple[str, ...]]:
    found = urllib.parse.parse_qs(text, keep_blank_values=True, max_num_fields=100)
    return {name: tuple(values) for name, values in found.items()}


def _body_length(headers: Mapping[str, str]) -> int | None:
    """The length of a request's body; None for a chunked one. Raises `_BadRequest`."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise _BadRequest(400, "both Content-Length and Transfer-Encoding are given")
        if coding.lower() != "chunked":
            raise _BadRequest(501, f"transfer coding {coding!r} is not known here")
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise _BadRequest(400, f"Content-Length {length!r} is no number")
    return int(length)


def _shortened(response: Response, request: Request, faults: RequestFaults) -> Response:
    length = response.length
    if request.method != "GET" or not 200 <= response.status < 300 or length == 0:
        return response
    fault = faults.strikes(FaultKind.SHORT)
    if fault is None:
        return response
    kept = min(length, length // 2 if fault.after is None else fault.after)
    if isinstance(response.body, bytes):
        return dataclasses.replace(response, body=response.body[:kept])
    return dataclasses.replace(response, body=dataclasses.replace(response.body, length=kept))
