"""SOCKS5 (RFC 1928), with a user name and a password (RFC 1929): to be connected on by a proxy.

The messages are small and few, and the socket has to stay the exchange's own, which a cancellation
shuts down; hence no library.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import Final

from ..errors import ProxyError
from ..hosts import join_host_port
from ..proxies import Proxy
from .exchange import Exchange

__all__ = ["connect", "connect_request", "greeting"]

_VERSION: Final = 5
_NO_LOGIN, _PASSWORD = 0, 2  # of the ways to log in
_SPENT: Final = "was silent for too long"
# RFC 1928, section 6: what the codes of a refusal mean, and whether another time may help
_REFUSALS: Final = {
    1: ("it failed", True),
    2: ("it is not allowed", False),
    3: ("the network cannot be reached", True),
    4: ("the host cannot be reached", True),
    5: ("the connection was refused", True),
    6: ("it took too many hops", True),
    7: ("the proxy does not know how", False),
    8: ("the proxy knows no addresses of this kind", False),
}


def connect(
    exchange: Exchange, proxy: Proxy, host: str, port: int, timeout: float
) -> socket.socket:
    """A socket that ``proxy`` connected to ``host``, with what is left of ``timeout`` (seconds)
    set on it. With ``socks5`` the name is looked up here, with ``socks5h`` by the proxy.

    Raises `CancelledError`, `RegistryTimeoutError` and `UnreachableRegistryError`, of which
    `ProxyError` is what the proxy is to blame for.
    """
    host = host.strip("[]")
    deadline = time.monotonic() + timeout
    way = _Way(exchange, proxy, join_host_port(host, port), port, deadline=deadline)
    places = [host]
    if proxy.scheme == "socks5":
        found = exchange.resolve(host, port, timeout)
        places = list(dict.fromkeys(str(target[0]) for _, target in found))
    failure: ProxyError | None = None
    for place in places:
        try:
            return way.to(place)
        except _RefusedError as error:
            failure = error
    assert failure is not None  # what is resolved has an address
    raise failure


class _RefusedError(ProxyError):
    """Of this address; another one may do."""


class _Way:
    """A way through a proxy: the messages on one connection at a time."""

    def __init__(
        self, exchange: Exchange, proxy: Proxy, where: str, port: int, *, deadline: float
    ) -> None:
        self._exchange = exchange
        self._proxy = proxy
        self._where = where  # for errors
        self._port = port
        self._deadline = deadline

    def to(self, place: str) -> socket.socket:
        """Ask for a connection to ``place``, a name or an address."""
        proxy = self._proxy
        self._sock = self._exchange.reach_proxy(proxy.host, proxy.port, self._left())
        try:
            self._connect(place)
            self._sock.settimeout(self._left())
        except BaseException:
            self._sock.close()
            raise
        return self._sock

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def _connect(self, place: str) -> None:
        self._log_in()
        self._send(connect_request(place, self._port))
        version, code, _, kind = self._receive(4)
        if version != _VERSION:
            raise self._error("does not speak SOCKS5")
        if code:
            said, retryable = _REFUSALS.get(code, (f"code {code}", False))
            refused = _RefusedError(
                f"{self._where}: the proxy {self._proxy} makes no connection: {said}",
                host=self._where,
            )
            refused.retryable = retryable
            raise refused
        # the address that the proxy speaks from, which is of no use here
        length = {1: 4, 4: 16}.get(kind) or self._receive(1)[0]
        self._receive(length + 2)

    def _log_in(self) -> None:
        proxy = self._proxy
        self._send(greeting(proxy))
        version, method = self._receive(2)
        if version != _VERSION:
            raise self._error("does not speak SOCKS5")
        if method == _PASSWORD and proxy.has_login:
            name, password = proxy.username.encode(), proxy.password.encode()
            self._send(bytes((1, len(name))) + name + bytes((len(password),)) + password)
            _, status = self._receive(2)
            if status:
                raise self._error(
                    "refuses the credentials that it was given; they stand in the proxy's URL"
                )
        elif method != _NO_LOGIN:
            wanted = "asks for credentials; they stand in the proxy's URL"
            other = "takes no user name and password, and wants a login of another kind"
            raise self._error(other if proxy.has_login else wanted)

    def _send(self, data: bytes) -> None:
        try:
            self._sock.settimeout(self._left())
            self._sock.sendall(data)
        except OSError as error:
            raise self._broken(error) from error

    def _receive(self, count: int) -> bytes:
        """Just ``count`` bytes: what follows the last message is the server's."""
        found = b""
        try:
            while len(found) < count:
                self._sock.settimeout(self._left())
                more = self._sock.recv(count - len(found))
                if not more:
                    raise ConnectionResetError("closed")
                found += more
        except OSError as error:
            raise self._broken(error) from error
        return found

    def _broken(self, error: OSError) -> ProxyError:
        self._exchange.check()
        failure = self._error(_SPENT if isinstance(error, TimeoutError) else "hung up")
        failure.retryable = True
        return failure

    def _error(self, said: str) -> ProxyError:
        error = ProxyError(f"{self._where}: the proxy {self._proxy} {said}", host=self._where)
        error.retryable = False
        return error


def greeting(proxy: Proxy) -> bytes:
    """The first message: the ways to log in that can be gone (RFC 1928, section 3)."""
    methods = (_NO_LOGIN, _PASSWORD) if proxy.has_login else (_NO_LOGIN,)
    return bytes((_VERSION, len(methods), *methods))


def connect_request(host: str, port: int) -> bytes:
    """To be connected to ``host``, a name or an address without brackets (section 4). Raises
    `ProxyError` for a name that the message has no room for."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            name = host.encode("ascii") if host.isascii() else host.encode("idna")
        except UnicodeError:
            name = b""
        if not 0 < len(name) < 256:
            error = ProxyError(f"{host[:80]}: no name that SOCKS has room for", host=host)
            error.retryable = False
            raise error from None
        place = bytes((3, len(name))) + name
    else:
        place = bytes((1 if address.version == 4 else 4,)) + address.packed
    return bytes((_VERSION, 1, 0)) + place + port.to_bytes(2, "big")
