"""An answer whose body is read as a stream, and what its error bodies say."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import urllib3
import urllib3.exceptions

from ..errors import (
    ConnectionBrokenError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    RegistryTimeoutError,
    ServerError,
    show_url,
)
from ..hosts import origin
from ..tls import tls_error
from .exchange import Exchange
from .floor import TooSlowError
from .gate import Lease
from .retry import parse_retry_after, parse_retry_at
from .veil import Veil

__all__ = ["Response", "translate"]

ERROR_BODY_LIMIT = 64 * 1024
_SHOWN = 400  # characters of a server's text that an error shows
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_FAILURES = (
    OSError,
    http.client.HTTPException,
    urllib3.exceptions.HTTPError,
    ValueError,  # http.client's, for a chunk length that is none
)


class Response:
    """An answer. One thread at a time reads it; a cancellation from any thread ends the read.

    ``length`` is the number of bytes that the body has, or None where the server does not
    say. ``url`` is the one that answered in the end. The connection goes back to its pool
    when the body was read to its end, and is closed by `close` otherwise.
    """

    def __init__(
        self,
        raw: urllib3.HTTPResponse,
        *,
        method: str,
        url: str,
        exchange: Exchange,
        veil: Veil | None = None,
    ) -> None:
        self._raw = raw
        self._exchange = exchange
        self._veil = veil or Veil()
        self.method = method
        self.url = url
        self.status = raw.status
        self.reason = _clean(raw.reason or "")
        if self.status >= 400:
            self.reason = self.hide(self.reason)
        self.headers = raw.headers
        self.count = 0  # bytes of the body seen so far
        self._loaded: bytes | None = None
        encoding = raw.headers.get("Content-Encoding", "").strip().lower()
        self._encoded = encoding not in ("", "identity")
        bodyless = method == "HEAD" or self.status in (204, 304)
        self.length = None if self._encoded or bodyless else _content_length(raw)
        # http.client's own response reads straight into the caller's buffer, framing undone;
        # urllib3's way makes three copies. Anything else than that goes urllib3's way.
        wire = getattr(raw, "_original_response", None)
        self._wire = wire if isinstance(wire, http.client.HTTPResponse) else None
        if self._encoded:
            self._wire = None
            if not bodyless and encoding not in _ENCODINGS:
                self.close()
                raise ProtocolError(
                    f"{method} {show_url(url)}: the body has the Content-Encoding "
                    f"{self.hide(encoding)!r}, which was not asked for and cannot be undone"
                )
        if bodyless or self.length == 0:
            self._drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, where the server says."""
        now = time.time()
        value = self.headers.get("Retry-After")
        if value is None and self.status == 429:  # else it says when a quota begins anew
            return parse_retry_at(self.headers.get("X-Retry-After"), now)
        return parse_retry_after(value, now)

    def header_values(self, name: str) -> list[str]:
        """The value of each header of this name, in order."""
        return list(self.headers.getlist(name))

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` as far as the body goes; 0 at its end.

        Raises `ConnectionBrokenError` for a body shorter than was announced,
        `RegistryTimeoutError` and `CancelledError`.
        """
        if self._exchange.ended or not len(buffer):
            return 0
        lease = self._exchange.lease
        if lease is not None:
            buffer = self._granted(lease, buffer)
        try:
            count = self._read(buffer)
        except _FAILURES as error:
            failure = translate(error, self._exchange, self.method, self.url, self.hide)
            self.close()
            raise failure from error
        self.count += count
        wire = self._wire
        ended = count == 0 if wire is None else wire.isclosed()
        if lease is not None and count:
            self._pay(lease, count)
        if ended or count == 0:
            self._finish()
        return count

    def read(self, limit: int) -> bytes:
        """The whole body. Raises `ProtocolError` if it has more than ``limit`` bytes."""
        if self._loaded is not None:
            return self._loaded
        buffer = memoryview(bytearray(min(limit + 1, max(self.length or 0, 16 * 1024) + 1)))
        parts: list[bytes] = []
        total = 0
        while count := self.readinto(buffer):
            total += count
            if total > limit:
                self.close()
                raise ProtocolError(
                    f"{self.method} {show_url(self.url)}: the answer has more than the "
                    f"{limit} bytes that are allowed"
                )
            parts.append(bytes(buffer[:count]))
        return b"".join(parts)

    def load(self, limit: int) -> None:
        """Read the whole body now, for `read`. Raises what that raises."""
        self._loaded = self.read(limit)

    def close(self) -> None:
        """Be done with the answer, read or not. Can be called twice."""
        if self._exchange.ended:
            return
        self._exchange.end()
        self._raw.close()
        self._raw.release_conn()

    def error(self, hint: str = "", *, words: bool = False) -> RegistryHTTPError:
        """This answer as an error, with what its body says: `errors`. Reads and closes it."""
        return RegistryHTTPError(
            http_status=self.status,
            method=self.method,
            url=self.url,
            errors=self.errors(words=words),
            reason=self.reason,
            retry_after=self.retry_after,
            hint=hint,
        )

    def errors(self, *, words: bool = False) -> tuple[ServerError, ...]:
        """What the body says of the error; nothing where there is none. Reads and closes it.
        ``words``: that of an answer of 2xx, too, is no content, but says something.

        Raises `CancelledError` only: a body that cannot be read says nothing.
        """
        if 200 <= self.status < 300 and not words:
            self.close()
            return ()
        try:
            return _server_errors(self.read(ERROR_BODY_LIMIT), self.hide)
        except (ConnectionBrokenError, ProtocolError):
            return ()
        finally:
            self.close()

    def says(self, *phrases: str) -> bool:
        """Whether the body has one of these phrases, in whatever case. It is looked at as it
        came: in `errors`, a secret of the request that is one of the words is hidden.

        Raises `CancelledError` only: a body that cannot be read says nothing.
        """
        try:
            self.load(ERROR_BODY_LIMIT)
        except (ConnectionBrokenError, ProtocolError):
            return False
        said = self.read(ERROR_BODY_LIMIT).decode("utf-8", "replace").lower()
        return any(phrase.lower() in said for phrase in phrases)

    def hide(self, text: str) -> str:
        """The server's ``text`` without the secrets that the request carried to it."""
        return self._veil.hide(text)

    def _granted(self, lease: Lease, buffer: memoryview) -> memoryview:
        """As much of the buffer as may be filled now, after a wait for that."""
        try:
            return buffer[: lease.before(self._exchange.cancel)]
        except BaseException:  # what a job that has ended says to a remark, too
            self.close()
            raise

    def _pay(self, lease: Lease, count: int) -> None:
        try:
            lease.after(count, self._exchange.cancel)
        except BaseException:  # what a job that has ended says to a remark, too
            self.close()
            raise

    def _read(self, buffer: memoryview) -> int:
        if self._wire is not None:
            return self._wire.readinto(buffer)
        data = self._raw.read(len(buffer), decode_content=True)
        buffer[: len(data)] = data
        return len(data)

    def _finish(self) -> None:
        try:
            self._exchange.check()
        except RegistryError:
            self.close()
            raise
        if self.length is not None and self.count < self.length:
            self.close()
            raise ConnectionBrokenError(
                f"{self.method} {show_url(self.url)}: the connection ended after "
                f"{self.count} of {self.length} bytes"
            )
        self._exchange.end()  # before the connection can serve another request
        self._raw.release_conn()

    def _drain(self) -> None:
        self._exchange.end()
        if self._wire is not None:
            self._wire.read()
        self._raw.release_conn()


def translate(
    error: Exception, exchange: Exchange, method: str, url: str, hide: Callable[[str], str]
) -> RegistryError:
    """Our own error for one of urllib3, http.client or the system. ``hide`` takes secrets out of
    what the server sent."""
    try:
        exchange.check()
    except RegistryError as stopped:
        return stopped
    what = f"{method} {show_url(url)}"
    chain = _chain(error)
    for inner in chain:
        if isinstance(inner, RegistryError):
            return inner
    for inner in chain:
        if isinstance(inner, ssl.SSLError) and not isinstance(inner, ssl.SSLEOFError):
            _, host, port = origin(url)
            return tls_error(inner, host, port, exchange.certificates)
    for inner in chain:
        if isinstance(inner, TooSlowError):
            return RegistryTimeoutError(f"{what}: the server is too slow: {inner}", code="too-slow")
    for inner in chain:
        if isinstance(inner, (TimeoutError, urllib3.exceptions.TimeoutError)):
            return RegistryTimeoutError(f"{what}: the server was silent for too long")
    for inner in chain:
        if isinstance(inner, http.client.HTTPException) and not isinstance(
            inner, (http.client.RemoteDisconnected, http.client.IncompleteRead)
        ):
            return ProtocolError(f"{what}: what came back is not HTTP ({_words(inner, hide)})")
        if isinstance(inner, (urllib3.exceptions.DecodeError, ValueError)):
            return ProtocolError(f"{what}: the body cannot be decoded ({_words(inner, hide)})")
    return ConnectionBrokenError(f"{what}: the connection was lost ({_words(chain[-1], hide)})")


def _chain(error: BaseException) -> list[BaseException]:
    """The error and everything that it wraps, outermost first."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(found) < 32:
        inner = waiting.pop(0)
        if isinstance(inner, BaseException) and not any(inner is known for known in found):
            found.append(inner)
            waiting += [*inner.args, getattr(inner, "reason", None), inner.__cause__]
            if not inner.__suppress_context__:
                waiting.append(inner.__context__)
    return found


def _words(error: BaseException, hide: Callable[[str], str]) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _clean(hide(str(error))) or type(error).__name__


def _content_length(raw: urllib3.HTTPResponse) -> int | None:
    if raw.headers.get("Transfer-Encoding", "").lower() == "chunked":
        return None
    text = raw.headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _server_errors(body: bytes, hide: Callable[[str], str]) -> tuple[ServerError, ...]:
    """The distribution's ``{"errors": [{code, message, detail}]}``, the token servers'
    ``{"details": …}`` or ``{"error": …}``, or else the text as it is. ``hide`` takes secrets
    out of a text."""
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return ()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return () if text.startswith("<") else (ServerError(message=_clean(hide(text))),)
    if isinstance(document, dict):
        entries = document.get("errors")
        if isinstance(entries, list):
            return tuple(_entry(entry, hide) for entry in entries[:16])
        for key in ("details", "error_description", "message", "error"):
            if isinstance(document.get(key), str):
                return (ServerError(message=_clean(hide(document[key]))),)
    return (ServerError(message=_clean(hide(text))),)


def _entry(entry: Any, hide: Callable[[str], str]) -> ServerError:
    if not isinstance(entry, dict):
        return ServerError(message=_clean(hide(str(entry))))
    detail = entry.get("detail")
    if detail is not None and not isinstance(detail, str):
        detail = json.dumps(detail, ensure_ascii=False)
    return ServerError(
        code=_clean(hide(str(entry.get("code") or ""))),
        message=_clean(hide(str(entry.get("message") or ""))),
        detail=_clean(hide(detail or "")),
    )


def _clean(text: str) -> str:
    """A server's text as one line of bounded length, with nothing a terminal would obey."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN])
    line = " ".join(line.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
