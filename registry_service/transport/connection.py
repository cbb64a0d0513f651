"""The sockets under requests: connections that the exchange in hand can interrupt.

urllib3 chooses and keeps the connections; these classes make them, attach each to the
exchange for the time of its request, and say in our own errors why one cannot be made.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool

from ..errors import TLSError, UnreachableRegistryError
from ..hosts import join_host_port, origin
from ..settings import RegistrySettings
from ..tls import TLSContexts, tls_error
from .exchange import current_exchange

__all__ = ["BLOCK", "Adapter"]

BLOCK = 256 * 1024  # bytes handed to a socket at once


class _Attached(urllib3.connection.HTTPConnection):
    """The part that is the same with and without TLS."""

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

    Proxies: `send` takes them as requests does, but no setting names one yet; the proxy
    managers would get the same pool classes.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._contexts = TLSContexts(settings.certs_dirs)
        super().__init__(pool_connections=64, pool_maxsize=settings.connections_per_host)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=BLOCK, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:  # requests' own types for the two maps are private
        scheme, host, port = origin(request.url or "")
        tls = {"ssl_context": self._contexts.get(host, port)} if scheme == "https" else {}
        return {"scheme": scheme, "host": host, "port": port}, tls

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the context of the pool says all about certificates."""

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
        """Send one request on the exchange that is current; the answer's body is unread."""
        request = requests.Request(method, url, headers=dict(headers)).prepare()
        if body is not None:
            request.body = body
        response = self.send(request, stream=True, timeout=(connect, read))
        raw = response.raw
        if not isinstance(raw, urllib3.HTTPResponse):
            raise TypeError("requests gave a response that is not urllib3's")
        return raw


def _seconds(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default
