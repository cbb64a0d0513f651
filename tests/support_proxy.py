"""Real proxies on loopback, for tests, which list what they saw: a forward proxy (CONNECT and
absolute form, with or without TLS) and a SOCKS5 proxy."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO
from urllib.parse import urlsplit

from scripted import Authority

__all__ = ["ForwardProxy", "Seen", "SocksProxy", "forward_proxy", "socks_proxy"]

_HOP = frozenset({"connection", "proxy-connection", "proxy-authorization", "keep-alive"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as the proxy got it. ``headers`` have names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class ForwardProxy:
    """``names`` maps hosts that exist nowhere else to ``(host, port)`` of a server.

    With ``login`` (``user:password``) it refuses who does not give it. With ``refuse`` it
    answers every CONNECT with that status. With ``silent`` it takes requests and never answers.
    With an ``authority`` it is spoken to over TLS.
    """

    scheme = "http"

    def __init__(
        self,
        *,
        names: Mapping[str, tuple[str, int]] | None = None,
        login: str = "",
        refuse: int = 0,
        silent: bool = False,
        authority: Authority | None = None,
    ) -> None:
        self.names = dict(names or {})
        self.login = login
        self.refuse = refuse
        self.silent = silent
        self.entered = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._tls = None if authority is None else authority.server_context(self.host)
        self.url = f"{self.scheme if self._tls is None else 'https'}://{self.host}"
        self._start(self._accept)

    @property
    def seen(self) -> list[Seen]:
        with self._lock:
            return list(self._seen)

    def targets(self, method: str) -> list[str]:
        return [one.target for one in self.seen if one.method == method]

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, threads = list(self._open), list(self._threads)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        for one in sockets:
            one.close()

    def _start(self, target: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._keep(client)
            self._start(self._welcome, client)

    def _welcome(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._keep(client)
            self._serve(client)

    def _keep(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.append(sock)

    def _serve(self, client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            while line := stream.readline(65536):
                if line.count(b" ") < 2:  # no line of HTTP
                    return
                method, target, _ = line.decode("latin-1").split(" ", 2)
                headers = {
                    name.lower(): value for name, value in http.client.parse_headers(stream).items()
                }
                with self._lock:
                    self._seen.append(Seen(method=method, target=target, headers=headers))
                self.entered.set()
                if self.silent:
                    self._over.wait(30)
                    return
                body = stream.read(int(headers.get("content-length", "0")))
                given = headers.get("proxy-authorization", "")
                wanted = f"Basic {base64.b64encode(self.login.encode()).decode()}"
                if self.login and given != wanted:
                    self._answer(client, 407, "Proxy Authentication Required")
                elif method == "CONNECT":
                    self._tunnel(client, target)
                    return
                else:
                    self._forward(client, method, target, headers, body)

    def _answer(self, client: socket.socket, status: int, reason: str) -> None:
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n"
        client.sendall(head.encode("latin-1"))

    def _place(self, host: str, port: int) -> tuple[str, int]:
        return self.names.get(host, (host, port))

    def _tunnel(self, client: socket.socket, target: str) -> None:
        if self.refuse:
            self._answer(client, self.refuse, "Refused")
            return
        host, _, port = target.rpartition(":")
        try:
            server = socket.create_connection(self._place(host, int(port)), timeout=10)
        except OSError:
            self._answer(client, 502, "Bad Gateway")
            return
        self._keep(server)
        client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
        self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        while not self._over.is_set():
            held = isinstance(client, ssl.SSLSocket) and client.pending()
            for ready in [client] if held else select.select([client, server], [], [], 5)[0]:
                data = ready.recv(65536)
                if not data:
                    for one in (client, server):
                        with contextlib.suppress(OSError):
                            one.shutdown(socket.SHUT_RDWR)
                    return
                (server if ready is client else client).sendall(data)

    def _forward(
        self,
        client: socket.socket,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        parts = urlsplit(target)
        host, port = self._place(parts.hostname or "", parts.port or 80)
        sent = {name: value for name, value in headers.items() if name not in _HOP}
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=30)) as server:
            server.request(method, path, body or None, sent)
            response = server.getresponse()
            raw = response.read()
            lines = [f"HTTP/1.1 {response.status} {response.reason}"]
            lines += [
                f"{name}: {value}"
                for name, value in response.getheaders()
                if name.lower() not in (*_HOP, "content-length", "transfer-encoding")
            ]
            length = response.getheader("Content-Length") if method == "HEAD" else str(len(raw))
            lines.append(f"Content-Length: {length or 0}")
            client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + raw)


class SocksProxy(ForwardProxy):
    """SOCKS5. In ``seen``, the method is the kind of address that was asked for (``name``,
    ``ipv4``, ``ipv6``). ``refuse`` is the code of the reply."""

    scheme = "socks5h"

    def _serve(self, client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            ways = stream.read(stream.read(2)[1])
            self.entered.set()
            if self.silent:
                self._over.wait(30)
                return
            way = 2 if self.login else 0
            client.sendall(bytes((5, way if way in ways else 255)))
            if way not in ways or (way and not self._log_in(client, stream)):
                return
            kind, host = stream.read(4)[3], ""
            if kind == 3:
                host = stream.read(stream.read(1)[0]).decode("ascii")
            else:
                family = socket.AF_INET if kind == 1 else socket.AF_INET6
                host = socket.inet_ntop(family, stream.read(4 if kind == 1 else 16))
            port = int.from_bytes(stream.read(2), "big")
            method = {1: "ipv4", 3: "name", 4: "ipv6"}[kind]
            with self._lock:
                self._seen.append(Seen(method=method, target=f"{host}:{port}", headers={}))
            code = self.refuse
            if not code:
                try:
                    server = socket.create_connection(self._place(host, port), timeout=10)
                except OSError:
                    code = 5
            # the address that is spoken from, here as a name, of which few clients think
            client.sendall(bytes((5, code, 0, 3, 4)) + b"here" + bytes(2))
            if not code:
                self._keep(server)
                self._relay(client, server)

    def _log_in(self, client: socket.socket, stream: BinaryIO) -> bool:
        name = stream.read(stream.read(2)[1])
        right = name + b":" + stream.read(stream.read(1)[0]) == self.login.encode()
        client.sendall(bytes((1, not right)))
        return right


@contextlib.contextmanager
def forward_proxy(
    *,
    names: Mapping[str, tuple[str, int]] | None = None,
    login: str = "",
    refuse: int = 0,
    silent: bool = False,
    authority: Authority | None = None,
) -> Iterator[ForwardProxy]:
    with contextlib.closing(
        ForwardProxy(names=names, login=login, refuse=refuse, silent=silent, authority=authority)
    ) as proxy:
        yield proxy


@contextlib.contextmanager
def socks_proxy(
    *,
    names: Mapping[str, tuple[str, int]] | None = None,
    login: str = "",
    refuse: int = 0,
    silent: bool = False,
) -> Iterator[SocksProxy]:
    with contextlib.closing(
        SocksProxy(names=names, login=login, refuse=refuse, silent=silent)
    ) as proxy:
        yield proxy
