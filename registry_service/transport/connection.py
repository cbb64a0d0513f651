"""The sockets under requests: connections that the exchange in hand can interrupt.

urllib3 chooses and keeps the connections; these classes make them, attach each to the
exchange for the time of its request, and say in our own errors why one cannot be made.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool
from urllib3.util import parse_url

from ..errors import TLSError, UnreachableRegistryError
from ..hosts import join_host_port
from ..settings import RegistrySettings
from ..tls import TLSContexts, tls_error
from .exchange import current_exchange
from .head import framing, read_head

__all__ = ["BLOCK", "Adapter"]

BLOCK = 256 * 1024  # bytes handed to a socket at once
# RFC 9110, section 5; refused before there is a connection, and a folded value too.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PORTS = {"http": 80, "https": 443}
_ONCE = urllib3.Retry(False, redirect=False)  # when to try again is for `retry`


class _Answer(http.client.HTTPResponse):
    """http.client's answer, with the head as `head` reads it."""

    fields: urllib3.HTTPHeaderDict

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str = "GET", url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.method = method

    def begin(self) -> None:
        head = read_head(self.fp)
        framed = framing(head, self.method)
        self.fields = head.fields
        self.version, self.reason = head.version, head.reason
        self.code = self.status = head.status
        self.chunked, self.chunk_left = framed.chunked, None
        self.length, self.will_close = framed.length, framed.closes


class _Attached(urllib3.connection.HTTPConnection):
    """The part that is the same with and without TLS."""

    response_class = _Answer

    def _new_conn(self) -> Any:  # the type is urllib3's business
        return current_exchange.get().connect(
            self._dns_host, self.port, _seconds(self.timeout, 60.0)
        )

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = current_exchange.get()
        if self.sock is None:
            self.connect()
        else:
            exchange.attach(self.sock)
        # urllib3 would leave the time to connect in force while the body is sent.
        self.timeout = exchange.send_timeout
        super().request(*args, **kwargs)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        self.sock.settimeout(self.timeout)  # the time to read, which urllib3 has set by now
        # Not urllib3's own, which wants the head as mail, and logs the URL of a malformed one.
        answer = http.client.HTTPConnection.getresponse(self)
        assert isinstance(answer, _Answer)  # it is made by the class above
        return urllib3.HTTPResponse(
            body=answer,
            headers=answer.fields,
            status=answer.status,
            version=answer.version,
            reason=answer.reason,
            preload_content=False,
            decode_content=False,
            original_response=answer,
            request_method=answer.method,
        )


class _HTTPConnection(_Attached):
    pass


class _HTTPSConnection(_Attached, urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLError as error:
            exchange = current_exchange.get()
            exchange.check()
            raise tls_error(
                error, host=self.host, port=self.port, dirs=exchange.certs_dirs
            ) from error
        except OSError as error:
            current_exchange.get().check()
            where = join_host_port(self.host, self.port)
            raise _handshake_failure(where, error) from error


def _handshake_failure(where: str, error: OSError) -> UnreachableRegistryError:
    if isinstance(error, TimeoutError):
        return UnreachableRegistryError(
            f"{where}: the TLS handshake was not done in time", host=where
        )
    said = error.strerror or str(error) or type(error).__name__
    failure = TLSError(f"{where}: the TLS handshake was broken off ({said})", host=where)
    failure.retryable = True
    return failure


class _HTTPPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter with our connections and one TLS context for each host.

    Its pools are requests'. Of the way that a request takes through requests only the choice
    of the pool is used: cookies, proxies, hooks and a second form of the answer are not wanted
    here, and cost as much as all the rest where blobs are small and many.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._contexts = TLSContexts(settings.certs_dirs)
        super().__init__(pool_connections=64, pool_maxsize=settings.connections_per_host)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=BLOCK, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def prepare(self) -> None:
        """Load what TLS needs ahead of its first use; it does not wait for that."""
        self._contexts.prepare()

    def close(self) -> None:
        self._contexts.close()
        super().close()

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any,
        *,
        connect: float,
        read: float,
    ) -> urllib3.HTTPResponse:
        """Send one request on the exchange that is current; the answer's body is unread.

        Nothing is tried again and no redirect followed. User information in ``url`` is left
        out. Raises what urllib3 raises, ValueError for what no request can have, and our own
        errors.
        """
        for name, value in headers.items():
            if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
                raise ValueError(f"the header {name!r} cannot be sent")
        target = parse_url(url)
        scheme, host = target.scheme or "", (target.host or "").strip("[]")
        if scheme not in _PORTS or not host:
            raise ValueError("not an http or https URL")
        port = target.port or _PORTS[scheme]
        tls = {"ssl_context": self._contexts.get(host, port)} if scheme == "https" else {}
        pool = self.poolmanager.connection_from_host(host, port, scheme, pool_kwargs=tls)
        response = pool.urlopen(
            method,
            target.request_uri,
            body=body,
            headers=headers,
            retries=_ONCE,
            redirect=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(connect=connect, read=read),
            preload_content=False,
            decode_content=False,
        )
        if not isinstance(response, urllib3.HTTPResponse):
            raise TypeError("urllib3 gave a response of another kind")
        return response


def _seconds(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default
