"""A cancelled request ends within a second, whatever it waits for."""

from __future__ import annotations

import gc
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted import Authority, Request, full_port, scripted, silent_port

from registry_service.cancel import Cancellation
from registry_service.errors import CancelledError, RegistryError, RegistryTimeoutError
from registry_service.settings import RegistrySettings
from registry_service.transport import Body, Transport


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(RegistrySettings(retries=0)) as transport:
        yield transport


def cancelled_while(
    act: Callable[[Cancellation], object], begun: Callable[[], object] = lambda: None
) -> float:
    """Seconds from the cancellation to the CancelledError of ``act``; ``begun`` returns when
    ``act`` waits."""
    cancel = Cancellation()
    ends: list[float] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act(cancel)
        except BaseException as error:
            errors.append(error)
        ends.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    begun()
    cancelled = time.monotonic()
    cancel.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [CancelledError]
    return ends[0] - cancelled


def test_before_it_began(transport: Transport) -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        transport.request("GET", "http://127.0.0.1:1/", cancel=cancel)


def test_while_the_name_is_resolved(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def stuck(host: str, *args: object, **kwargs: object) -> object:
        if kwargs.get("flags"):
            return real(host, *args, **kwargs)  # type: ignore[arg-type]
        asked.set()
        over.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    took = cancelled_while(
        lambda cancel: transport.request("GET", "http://stuck.example/", cancel=cancel),
        lambda: asked.wait(10),
    )
    over.set()
    assert took < 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_while_it_connects(transport: Transport, scheme: str) -> None:
    with full_port() as port:
        waiting = _when_blocked_on(port)
        took = cancelled_while(
            lambda cancel: transport.request("GET", f"{scheme}://127.0.0.1:{port}/", cancel=cancel),
            waiting,
        )
    assert took < 1


def _when_blocked_on(port: int) -> Callable[[], None]:
    """Waits until this process has one more connection under way to ``port`` (SYN_SENT)."""
    mark = f":{port:04X} 02 "
    table = Path("/proc/net/tcp")

    def count() -> int:
        return sum(mark in line for line in table.read_text("ascii").splitlines())

    before = count() if table.exists() else 0

    def wait() -> None:
        until = time.monotonic() + 3
        while time.monotonic() < until and table.exists():
            if count() > before:
                return
            threading.Event().wait(0.01)

    return wait


def test_in_the_tls_handshake(transport: Transport) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        accepted: list[socket.socket] = []

        def hello() -> None:
            peer, _ = listener.accept()
            accepted.append(peer)
            peer.recv(1)  # the client has begun, and waits for the answer now

        took = cancelled_while(
            lambda cancel: transport.request("GET", f"https://127.0.0.1:{port}/", cancel=cancel),
            hello,
        )
        accepted[0].close()
    assert took < 1


@pytest.mark.parametrize("tls", [False, True])
def test_while_it_waits_for_the_headers(tls: bool, tmp_path: Path) -> None:
    came = threading.Event()

    def handler(request: Request) -> None:
        came.set()
        request.hang()

    authority = Authority(tmp_path) if tls else None
    settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,))
    with scripted(handler, authority) as server, Transport(settings) as transport:
        took = cancelled_while(
            lambda cancel: transport.request("GET", server.url, cancel=cancel),
            lambda: came.wait(10),
        )
    assert took < 1


@pytest.mark.parametrize("tls", [False, True])
def test_while_it_reads_the_body(tls: bool, tmp_path: Path) -> None:
    def handler(request: Request) -> None:
        request.answer(body=b"a" * 10, length=100)
        request.hang()

    authority = Authority(tmp_path) if tls else None
    settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,))
    with scripted(handler, authority) as server, Transport(settings) as transport:
        got = threading.Event()

        def read(cancel: Cancellation) -> None:
            with transport.request("GET", server.url, cancel=cancel) as response:
                got.set()
                while response.readinto(memoryview(bytearray(100))):
                    pass

        took = cancelled_while(read, lambda: got.wait(10))
    assert took < 1


@pytest.mark.parametrize("length", [1 << 40, None])
@pytest.mark.parametrize("tls", [False, True])
def test_while_it_sends_a_body(tls: bool, length: int | None, tmp_path: Path) -> None:
    came = threading.Event()

    def handler(request: Request) -> None:
        came.set()
        request.hang()

    authority = Authority(tmp_path) if tls else None
    settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,))
    body = Body(opener=_Zeros, length=length)
    with scripted(handler, authority) as server, Transport(settings) as transport:
        took = cancelled_while(
            lambda cancel: transport.request("PUT", server.url, body=body, cancel=cancel),
            lambda: came.wait(10),
        )
    assert took < 1


def test_on_a_connection_that_served_before(transport: Transport) -> None:
    came = threading.Event()

    def handler(request: Request) -> None:
        if request.path == "/hang":
            came.set()
            request.hang()
        else:
            request.answer(body=str(request.client_address[1]))

    with scripted(handler) as server:
        first, second = (transport.request("GET", server.url).read(100) for _ in range(2))
        assert first == second, "the connection is kept"
        took = cancelled_while(
            lambda cancel: transport.request("GET", f"{server.url}/hang", cancel=cancel),
            lambda: came.wait(10),
        )
        assert took < 1
        assert transport.request("GET", server.url).read(100) != first


def test_while_it_waits_for_another_try() -> None:
    slept = threading.Event()

    def sleep(seconds: float, cancel: Cancellation) -> None:
        slept.set()
        cancel.wait(seconds)

    settings = RegistrySettings(retries=1)
    with (
        scripted(lambda request: request.answer(503, headers={"Retry-After": "30"})) as server,
        Transport(settings, sleep=sleep) as transport,
    ):
        took = cancelled_while(
            lambda cancel: transport.request("GET", server.url, cancel=cancel),
            lambda: slept.wait(10),
        )
    assert took < 1


def test_a_cancellation_after_the_end_hurts_nobody(transport: Transport) -> None:
    """The connection has gone back to the pool: it belongs to the next request."""
    with scripted(lambda request: request.answer(body=b"whole")) as server:
        cancel = Cancellation()
        transport.request("GET", server.url, cancel=cancel).read(100)
        other = transport.request("GET", server.url)
        cancel.cancel()
        assert other.read(100) == b"whole"


def test_close_ends_what_is_under_way() -> None:
    came = threading.Event()
    errors: list[Exception] = []

    def handler(request: Request) -> None:
        came.set()
        request.hang()

    transport = Transport(RegistrySettings(retries=0))
    with scripted(handler) as server:

        def run() -> None:
            try:
                transport.request("GET", server.url)
            except RegistryError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert came.wait(10)
        transport.close()
        thread.join(5)
        assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(RegistryError, match="closed"):
        transport.request("GET", server.url)


def test_a_silent_server_is_left_after_the_read_timeout() -> None:
    settings = RegistrySettings(retries=0, read_timeout=0.1)
    with (
        scripted(lambda request: request.hang()) as server,
        Transport(settings) as transport,
        pytest.raises(RegistryTimeoutError),
    ):
        transport.request("GET", server.url)


def test_connecting_has_its_own_limit() -> None:
    settings = RegistrySettings(retries=0, connect_timeout=0.1)
    with (
        Transport(settings) as transport,
        full_port() as full,
        silent_port() as silent,
    ):
        for url, words in (
            (f"http://127.0.0.1:{full}/", "no connection .*no answer within"),
            (f"https://127.0.0.1:{silent}/", "handshake was not done in time"),
        ):
            with pytest.raises(RegistryError, match=words) as caught:
                transport.request("GET", url)
            assert caught.value.retryable


def test_nothing_is_left_open() -> None:
    def handler(request: Request) -> None:
        request.answer(body=b"a" * 10, length=100)
        request.drop()

    before = len(list(Path("/proc/self/fd").iterdir()))
    with scripted(handler) as server, Transport(RegistrySettings(retries=0)) as transport:
        for _ in range(5):
            response = transport.request("GET", server.url)
            with pytest.raises(RegistryError):
                response.read(1000)
            transport.request("GET", server.url).close()
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert not [one for one in threading.enumerate() if one.name.startswith("resolve-")]


class _Zeros(io.RawIOBase):
    def readinto(self, buffer: object) -> int:
        return len(memoryview(buffer))  # type: ignore[arg-type]
