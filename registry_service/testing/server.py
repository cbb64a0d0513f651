"""A server as tests use it: started and ended, watched, disturbed. What it says is another's."""

from __future__ import annotations

import abc
import dataclasses
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from .connection import Services
from .exchange import Responder
from .faults import Fault, FaultSet, FaultSwitch
from .holds import Hold, HoldSet
from .listener import Listener
from .requestlog import LoggedRequest, RequestLog

__all__ = ["Server", "TLSFiles"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """PEM files: the server's certificate chain and key, and the CA of client certificates.

    With ``client_ca`` every client must show a certificate that this CA signed.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ValueError that names the files when they cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise ValueError(f"certificate {self.cert} with key {self.key}: {error}") from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                raise ValueError(f"client CA {self.client_ca}: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Server(abc.ABC):
    """Listens at an address and lets ``responder`` answer. A context manager.

    ``host``, ``port``: where to listen; port 0: any free one. Only a loopback address, unless
    ``allow_remote``. ``on_request`` is called with each request that has ended, in its
    connection's thread. What a kind of server holds it lets go of in ``_release``.

    Thread-safe once started.
    """

    def __init__(
        self,
        *,
        tls: TLSFiles | None,
        faults: Iterable[Fault | str],
        host: str,
        port: int,
        allow_remote: bool,
        on_request: Callable[[LoggedRequest], object] | None,
    ) -> None:
        self._bind = (host, port, allow_remote)
        self._tls = tls.context() if tls is not None else None
        self._faults = FaultSet(faults)
        self._holds = HoldSet()
        self._log = RequestLog(on_request)
        self._listener: Listener | None = None
        self._stopped = False
        self.host = ""
        self.port = 0

    @abc.abstractmethod
    def _responder(self) -> Responder:
        """What answers its requests."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Let go of what is held, once nobody is served any more."""

    # starting and ending

    def start(self) -> None:
        """Listen. A server is started once. Raises OSError if the address is taken."""
        if self._listener is not None or self._stopped:
            raise RuntimeError("a server is started once")
        sock = _bound(*self._bind)
        address = sock.getsockname()
        self.port = address[1]
        name = f"[{address[0]}]" if sock.family == socket.AF_INET6 else address[0]
        self.host = f"{name}:{self.port}"
        services = Services(
            responder=self._responder(),
            faults=self._faults,
            holds=self._holds,
            log=self._log,
            host=self.host,
            tls=self._tls,
            draining=threading.Event(),
            stopping=threading.Event(),
        )
        self._listener = Listener(sock, services)
        self._listener.start()

    def stop(self, grace: float = 0.0) -> None:
        """End: requests under way have ``grace`` seconds. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        try:
            if self._listener is not None:
                self._listener.close(grace)
        finally:
            self._release()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``http(s)://HOST:PORT``, without a slash at the end. ``host`` is HOST:PORT."""
        return f"{'https' if self._tls is not None else 'http'}://{self.host}"

    # watching and disturbing

    @property
    def requests(self) -> list[LoggedRequest]:
        """The requests so far, each from before its answer's first byte was sent."""
        return self._log.entries()

    def clear_requests(self) -> None:
        self._log.clear()

    def wait_for(
        self, predicate: Callable[[list[LoggedRequest]], object], timeout: float = 10.0
    ) -> list[LoggedRequest]:
        """Wait until ``predicate`` of the requests is true. Raises TimeoutError."""
        return self._log.wait_for(predicate, timeout)

    def add_fault(self, fault: Fault | str) -> FaultSwitch:
        """Switch a fault on: a `Fault`, or one in writing. The answer switches it off again."""
        return self._faults.add(fault)

    def clear_faults(self) -> None:
        self._faults.clear()

    def hold(
        self,
        *,
        path: str | None = None,
        method: str | None = None,
        after: int | None = None,
        times: int | None = None,
    ) -> Hold:
        """Hold requests until released; see `HoldSet.add`."""
        return self._holds.add(path=path, method=method, after=after, times=times)


def _bound(host: str, port: int, allow_remote: bool) -> socket.socket:
    """A socket bound to an address. Raises ValueError for one that is not on loopback."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback and not allow_remote:
        raise ValueError(f"{host} is not a loopback address; serving others is to be allowed first")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return sock
