"""One request's hold on its socket, so that a cancellation ends whatever it waits for."""

from __future__ import annotations

import contextlib
import contextvars
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from ..cancel import Cancellation
from ..errors import CancelledError, ProxyError, RegistryTimeoutError, UnreachableRegistryError
from ..hosts import join_host_port
from ..proxies import Proxy
from ..tls import CertificatePlaces, Showing
from .floor import Floor
from .gate import Lease
from .resolver import Address, Resolver

__all__ = ["Exchange", "current_exchange"]

_SLICE = 0.2  # seconds between looks at the cancellation while a connection is made


class Exchange:
    """A request and its response, from the look-up of the name to the last byte.

    The connection in use is attached for just that time: the exchange holds a duplicate of
    its file descriptor and, when it is interrupted, shuts the socket down, upon which every
    blocked call on it returns. The duplicate is the exchange's own, so neither the wrapping
    of the socket in TLS nor its closing elsewhere can make the shut-down hit another file.

    One lock guards the duplicate; `interrupt` comes from any thread, all else from the
    thread of the request.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        cancel: Cancellation,
        send_timeout: float,
        total: float | None = None,
        certificates: CertificatePlaces | None = None,
        showing: Showing | None = None,
        ended: Callable[[Exchange], object] = lambda exchange: None,
        lease: Lease | None = None,
        floor: Floor | None = None,
    ) -> None:
        self.cancel = cancel
        self.send_timeout = send_timeout
        self.lease = lease  # the request's share of its host's limits; None without any
        self.floor = floor  # the least that the answer's body comes at; None for no such thing
        self.socks: Proxy | None = None  # what makes the connections, where that is not we
        # for errors, which say where a certificate belongs
        self.certificates = certificates or CertificatePlaces()
        self.showing = showing or Showing()
        self.expired = False
        self.ended = False
        self.cut = False  # the body was not sent to its end: the connection is of no more use
        self._resolver = resolver
        self._tell = ended
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._broken = False
        self._timer: threading.Timer | None = None
        if total is not None:
            self._timer = threading.Timer(total, self._expire)
            self._timer.name = "request-deadline"
            self._timer.daemon = True
            self._timer.start()
        self._remove = cancel.on_cancel(self.interrupt)

    def check(self) -> None:
        """Raise if the request must not go on."""
        self.cancel.check()
        if self.expired:
            raise RegistryTimeoutError("the request took longer than is allowed in all")
        if self._broken:
            raise CancelledError("the transport was closed")

    def attach(self, sock: socket.socket) -> None:
        """``sock`` is what the request waits on from now."""
        handle = socket.socket(fileno=os.dup(sock.fileno()))
        with self._lock:
            before, self._handle = self._handle, handle
            if self._broken:
                _shut_down(handle)
        if before is not None:
            before.close()
        self.check()

    def interrupt(self) -> None:
        """End every wait of the request, now and from now on."""
        with self._lock:
            self._broken = True
            if self._handle is not None:
                _shut_down(self._handle)

    def end(self) -> None:
        """The request is over, and the connection may serve another. Can be called twice."""
        self._remove()
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            handle, self._handle = self._handle, None
            self.ended = True
        if handle is not None:
            handle.close()
        self._tell(self)

    def resolve(self, host: str, port: int, timeout: float) -> list[Address]:
        """The addresses of ``host``. Raises `CancelledError` and `UnreachableRegistryError`."""
        return self._resolver.resolve(host, port, cancel=self.cancel, timeout=timeout)

    def reach_proxy(self, host: str, port: int, timeout: float) -> socket.socket:
        """As `connect`, where ``host`` is a proxy. Raises `ProxyError`."""
        try:
            return self.connect(host, port, timeout)
        except UnreachableRegistryError as error:
            failure = ProxyError(f"the proxy cannot be reached: {error}", host=error.host)
            failure.retryable = error.retryable
            raise failure from error

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connected socket with what is left of ``timeout`` (seconds) set on it.

        Each address gets an equal part of the time that is left. Raises `CancelledError`,
        `RegistryTimeoutError` and `UnreachableRegistryError`.
        """
        deadline = time.monotonic() + timeout
        self.check()
        addresses = self.resolve(host, port, timeout)
        failures: list[str] = []
        for place, address in enumerate(addresses):
            left = max(deadline - time.monotonic(), 0.001)
            try:
                sock = self._connect(address, left / (len(addresses) - place))
            except OSError as error:
                self.check()
                failures.append(f"{address[1][0]}: {error.strerror or error}")
                continue
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            return sock
        where = join_host_port(host, port)
        raise UnreachableRegistryError(
            f"{where}: no connection ({'; '.join(failures) or 'the name has no address'})",
            host=where,
            tried=failures,
        )

    def _connect(self, address: Address, timeout: float) -> socket.socket:
        family, target = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            self.attach(sock)
            deadline = time.monotonic() + timeout
            with contextlib.suppress(BlockingIOError):
                sock.connect(target)
            _await_connected(sock, self, deadline, timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def _expire(self) -> None:
        with self._lock:
            if self.ended:
                return
            self.expired = True
        self.interrupt()


def _await_connected(
    sock: socket.socket, exchange: Exchange, deadline: float, timeout: float
) -> None:
    # Not every system wakes a connecting socket that is shut down, hence the slices.
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while True:
        left = deadline - time.monotonic()
        ready = poll.poll(max(0.0, min(left, _SLICE)) * 1000)
        exchange.check()
        if ready:
            break
        if left <= 0:
            raise TimeoutError(f"no answer within {timeout:.1f} s")
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # not connected yet, or no more
        sock.shutdown(socket.SHUT_RDWR)


# The exchange of the request that this thread is sending. It passes through requests and
# urllib3, which have no parameter for it, to the connection that they choose.
current_exchange: contextvars.ContextVar[Exchange] = contextvars.ContextVar("current_exchange")
