"""The sockets under requests: connections that the exchange in hand can interrupt.

urllib3 chooses and keeps the connections; these classes make them, attach each to the
exchange for the time of its request, and say in our own errors why one cannot be made.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast

import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool
from urllib3.util import parse_url

from ..errors import ProxyError, TLSError, UnreachableRegistryError
from ..hosts import join_host_port
from ..proxies import Proxy
from ..settings import RegistrySettings
from ..tls import CertificatePlaces, TLSContexts, tls_error
from . import heeding, socks
from .exchange import Exchange, current_exchange
from .floor import FlooredSocket
from .head import Head, framing, read_chunk_size, read_head

__all__ = ["BLOCK", "Adapter"]

BLOCK = 256 * 1024  # bytes handed to a socket at once
# RFC 9110, section 5; refused before there is a connection, and a folded value too.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_MOMENT = 1.0  # seconds for an answer that should be here already
_PORTS = {"http": 80, "https": 443}
_ONCE = urllib3.Retry(False, redirect=False)  # when to try again is for `retry`


class _Answer(http.client.HTTPResponse):
    """http.client's answer, with the head and the sizes of chunks as `head` reads them."""

    fields: urllib3.HTTPHeaderDict

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str = "GET", url: str | None = None
    ) -> None:
        self._floored = FlooredSocket(sock, current_exchange.get().floor)
        super().__init__(cast(socket.socket, self._floored), debuglevel, method, url)
        self.method = method

    def begin(self) -> None:
        head = read_head(self.fp)
        framed = framing(head, self.method)
        self.fields = head.fields
        self.version, self.reason = head.version, head.reason
        self.code = self.status = head.status
        self.chunked, self.chunk_left = framed.chunked, None
        self.length = framed.length
        self.will_close = framed.closes or current_exchange.get().cut
        self._floored.begin()

    def _read_next_chunk_size(self) -> int:
        return read_chunk_size(self.fp)


class _Attached(urllib3.connection.HTTPConnection):
    """The part that is the same with and without TLS."""

    response_class = _Answer
    _heeds = False  # while what is sent has no end that a server could wait for
    _spent = False  # the server took no more of what was sent, for as long as it may

    def _new_conn(self) -> Any:  # the type is urllib3's business
        exchange, seconds = current_exchange.get(), _seconds(self.timeout, 60.0)
        if exchange.socks is not None:
            return socks.connect(exchange, exchange.socks, self._dns_host, self.port, seconds)
        if self.proxy is not None:
            return exchange.reach_proxy(self._dns_host, self.port, seconds)
        return exchange.connect(self._dns_host, self.port, seconds)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request. A server may answer before it has read all of the body, and read no
        more of it: that is no failure, and the answer is the one that `getresponse` gives."""
        exchange = current_exchange.get()
        if self.sock is None:
            self.connect()
        else:
            exchange.attach(self.sock)
        # urllib3 would leave the time to connect in force while the body is sent.
        self.timeout = exchange.send_timeout
        framed = {name.lower() for name in kwargs.get("headers") or ()}
        with self._sending(exchange, chunked="transfer-encoding" in framed):
            super().request(*args, **kwargs)

    @contextlib.contextmanager
    def _sending(self, exchange: Exchange, *, chunked: bool) -> Iterator[None]:
        """While a request is sent. What keeps the server from reading it is no failure yet."""
        self._heeds, self._spent = chunked and _sees_answers(self.sock), False
        try:
            yield
        except heeding.AnsweredError:
            exchange.cut = True
        except (BrokenPipeError, ConnectionResetError):  # which urllib3 looks past
            exchange.cut = True
            raise
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            exchange.cut = True
            raise BrokenPipeError(*error.args) from error
        except TimeoutError as error:
            if not chunked:
                raise
            # It may have answered, and be waiting for an end that it will not read.
            exchange.cut = self._spent = True
            raise BrokenPipeError(*error.args) from error
        finally:
            self._heeds = False

    def send(self, data: Any) -> None:
        if self._heeds:
            heeding.send(self.sock, data, _seconds(self.timeout, 60.0))
        else:
            super().send(data)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        # the time to read, which urllib3 has set by now
        self.sock.settimeout(_MOMENT if self._spent else self.timeout)
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


def _sees_answers(sock: Any) -> bool:
    return isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket)


class _HTTPConnection(_Attached):
    pass


class _HTTPSConnection(_Attached, urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLError as error:
            exchange = current_exchange.get()
            exchange.check()
            host, port = self._server()
            raise tls_error(error, host, port, exchange.certificates) from error
        except OSError as error:
            current_exchange.get().check()
            raise _handshake_failure(join_host_port(*self._server()), error) from error

    def _connect_tls_proxy(self, hostname: str, sock: Any) -> Any:
        """TLS with the proxy itself; what is spoken with the server goes through it."""
        try:
            return super()._connect_tls_proxy(hostname, sock)
        except OSError as error:
            exchange = current_exchange.get()
            exchange.check()
            raise _proxy_untrusted(error, self.host, self.port, exchange.certificates) from error

    def _server(self) -> tuple[str, int]:
        """Whom TLS is spoken with, whether through a proxy or not."""
        if self._tunnel_host is None:
            return self.host, self.port
        return self._tunnel_host.strip("[]"), self._tunnel_port or _PORTS["https"]

    def _tunnel(self) -> None:
        """Have the proxy connect us on (RFC 9110, section 9.3.6).

        Not http.client's own, which speaks HTTP/1.0 and has one error for everything.
        """
        proxy, where = join_host_port(self.host, self.port), join_host_port(*self._server())
        own: Mapping[str, str] = getattr(self, "_tunnel_headers", {})
        fields = {"Host": where, **own}
        lines = [f"CONNECT {where} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
        try:
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            with self.sock.makefile("rb") as answer:
                head = read_head(answer)
        except (OSError, http.client.HTTPException) as error:
            current_exchange.get().check()
            said = "was silent for too long" if isinstance(error, TimeoutError) else "hung up"
            raise ProxyError(
                f"{where}: the proxy {proxy} {said} when asked for a connection", host=where
            ) from error
        if not 200 <= head.status < 300:
            raise _tunnel_refused(head, proxy, where)


def _tunnel_refused(head: Head, proxy: str, where: str) -> ProxyError:
    reason = "".join(c for c in head.reason[:80] if c.isprintable())
    hint = "; its credentials stand in the proxy's URL" if head.status == 407 else ""
    error = ProxyError(
        f"{where}: the proxy {proxy} makes no connection ({head.status} {reason}){hint}",
        host=where,
    )
    error.retryable = head.status in (429, 502, 503, 504)
    return error


def _proxy_untrusted(
    error: OSError, host: str, port: int, certificates: CertificatePlaces
) -> ProxyError:
    cause: UnreachableRegistryError
    if isinstance(error, ssl.SSLError):
        cause = tls_error(error, host, port, certificates)
    else:
        cause = _handshake_failure(join_host_port(host, port), error)
    said = str(cause)
    if isinstance(cause, TLSError) and cause.reason == "plain-http":
        said = f"{cause.host}: it does not speak TLS; write http:// in its URL if that is wanted"
    failure = ProxyError(f"the proxy cannot be reached: {said}", host=cause.host)
    failure.retryable = cause.retryable
    return failure


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
        self._settings = settings
        self.certificates = CertificatePlaces(
            roots=settings.certs_dirs, own=settings.own_certs_dirs
        )
        self._contexts = TLSContexts(self.certificates)
        self._lock = threading.Lock()  # guards the table of what goes through proxies
        self._proxied: dict[Proxy, tuple[ssl.SSLContext | None, urllib3.PoolManager]] = {}
        super().__init__(pool_connections=64, pool_maxsize=settings.connections_per_host)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=BLOCK, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def prepare(self) -> None:
        """Load what TLS needs ahead of its first use; it does not wait for that."""
        self._contexts.prepare()

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
        exchange, tls = current_exchange.get(), {}
        if scheme == "https":
            tls["ssl_context"] = self._contexts.get(host, port, exchange.showing)
        proxy = self._settings.proxy(scheme, host, port)
        pools: urllib3.PoolManager = self.poolmanager if proxy is None else self._through(proxy)
        where = target.request_uri
        if proxy is not None and proxy.is_socks:
            exchange.socks = proxy
        elif proxy is not None and scheme == "http":
            where = f"http://{join_host_port(host, target.port)}{where}"
            headers = {"Host": join_host_port(host, target.port), **headers}
        pool = pools.connection_from_host(host, port, scheme, pool_kwargs=tls)
        response = pool.urlopen(
            method,
            where,
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
        self._contexts.answered(host, port, exchange.showing, response.status)
        return response

    def clear(self) -> None:
        """Close the connections that no request is on, and the others when theirs is over."""
        with self._lock:
            proxied = list(self._proxied.values())
        for _, manager in proxied:
            manager.clear()
        self.poolmanager.clear()

    def close(self) -> None:
        self.clear()
        self._contexts.close()
        super().close()

    def _through(self, proxy: Proxy) -> urllib3.PoolManager:
        """The pools of what goes through ``proxy``."""
        context = None
        if proxy.scheme == "https":
            context = self._contexts.get(proxy.host, proxy.port)
        with self._lock:
            kept = self._proxied.get(proxy)
            if kept is not None and kept[0] is context:
                return kept[1]
            manager = self._pools_of(proxy, context)
            self._proxied[proxy] = context, manager
        if kept is not None:
            kept[1].clear()  # made with certificates that have changed
        return manager

    def _pools_of(self, proxy: Proxy, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 64,
            "maxsize": self._settings.connections_per_host,
            "blocksize": BLOCK,
        }
        manager = (
            urllib3.PoolManager(**options)
            if proxy.is_socks
            else urllib3.ProxyManager(
                str(proxy), proxy_headers=proxy.headers, proxy_ssl_context=context, **options
            )
        )
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


def _seconds(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default
