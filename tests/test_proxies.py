"""Proxies: which one a request goes through, and the way through a real one."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Authority, Request, closed_port, scripted
from support_proxy import forward_proxy, socks_proxy
from support_services import require

from registry_service.cancel import Cancellation
from registry_service.errors import CancelledError, ProxyError, SettingsError, TLSError
from registry_service.hostrules import HostRules, HostTable
from registry_service.proxies import Proxies, Proxy
from registry_service.settings import RegistrySettings
from registry_service.transport import Transport
from registry_service.transport.socks import connect_request, greeting

SECRET = "hunter2"


# which one


def environ(**values: str) -> Proxies:
    return Proxies.from_environ(values)


def test_one_for_http_and_one_for_https() -> None:
    proxies = environ(HTTP_PROXY="http://one:3128", HTTPS_PROXY="two:8080")
    assert proxies.choose("http", "r.example", 80) == Proxy(host="one", port=3128)
    assert proxies.choose("https", "r.example", 443) == Proxy(host="two", port=8080)
    assert environ(HTTP_PROXY="http://one").choose("https", "r.example", 443) is None
    assert Proxies.from_environ({}).choose("https", "r.example", 443) is None


def test_lower_case_counts_first() -> None:
    proxies = environ(HTTPS_PROXY="http://upper", https_proxy="http://lower")
    assert proxies.https == Proxy(host="lower", port=80)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "x.localhost"])
def test_the_loopback_range_is_reached_directly(host: str) -> None:
    assert (
        environ(HTTP_PROXY="http://one", HTTPS_PROXY="http://one").choose("http", host, 80) is None
    )


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("*", "r.example", 443, True),
        ("r.example", "r.example", 443, True),
        ("r.example", "R.Example.", 443, True),
        ("example", "r.example", 443, True),
        (".example", "r.example", 443, True),
        ("*.example", "r.example", 443, True),
        ("r.example", "xr.example", 443, False),
        ("a, r.example ,b", "r.example", 443, True),
        ("a r.example", "r.example", 443, True),
        ("r.example:5000", "r.example", 5000, True),
        ("r.example:5000", "r.example", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "r.example", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("fd00::1", "fd00::1", 443, True),
        ("[fd00::1]:80", "fd00::1", 443, False),
        ("[fd00::1]", "fd00::1", 443, True),
        ("", "r.example", 443, False),
        ("1.2.3.4/99,x/y", "r.example", 443, False),
    ],
)
def test_whom_no_proxy_is_for(no_proxy: str, host: str, port: int, direct: bool) -> None:
    proxies = environ(HTTPS_PROXY="http://one", NO_PROXY=no_proxy)
    assert (proxies.choose("https", host, port) is None) is direct


@given(st.text(max_size=40), st.text(st.characters(codec="ascii"), max_size=20))
def test_whatever_the_environment_says_there_is_an_answer(no_proxy: str, host: str) -> None:
    Proxies.from_environ({"https_proxy": "http://p", "NO_PROXY": no_proxy}).choose(
        "https", host, 443
    )


@given(st.text(max_size=60))
def test_whatever_a_proxy_is_called_there_is_one_or_an_error(text: str) -> None:
    try:
        proxy = Proxy.parse(text)
    except SettingsError as error:
        assert error.key == "proxy"
    else:
        assert proxy.host and 0 < proxy.port < 65536


@pytest.mark.parametrize(
    "text",
    [
        f"http://u:{SECRET}@",
        f"socks4://u:{SECRET}@p",
        f"u:{SECRET}://p",
        f"socks5://:{SECRET}@p",
        f"socks5://{'u' * 256}:{SECRET}@p",
        f"http://u:{SECRET}@p:x",
        f"http://u:{SECRET}@p/path",
        f"http://u:{SECRET}@p p",
    ],
)
def test_an_error_of_the_environment_names_the_variable_and_no_secret(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        environ(HTTPS_PROXY=text)
    assert str(caught.value).startswith("environment: HTTPS_PROXY: ")
    assert SECRET not in str(caught.value)


def test_a_scheme_that_is_not_spoken_is_named_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"http://, https://, socks5://, socks5h://, not over"):
        Proxy.parse("socks4://p")


@pytest.mark.parametrize(
    ("text", "port"),
    [("http://p", 80), ("https://p", 443), ("socks5://p", 1080), ("SOCKS5H://p:9", 9)],
)
def test_a_proxy_has_a_scheme_and_its_usual_port(text: str, port: int) -> None:
    scheme = text.partition(":")[0].lower()
    assert str(Proxy.parse(text)) == f"{scheme}://p:{port}"


def test_one_for_all_where_there_is_no_other() -> None:
    proxies = environ(ALL_PROXY="socks5h://all", HTTPS_PROXY="http://own", NO_PROXY="x.example")
    assert proxies.choose("http", "r.example", 80) == Proxy(scheme="socks5h", host="all", port=1080)
    assert proxies.choose("https", "r.example", 443) == Proxy(host="own", port=80)
    assert proxies.choose("http", "x.example", 80) is None
    with pytest.raises(SettingsError, match=r"^environment: all_proxy: "):
        environ(all_proxy="http://")


def test_the_credentials_of_a_proxy_are_not_shown() -> None:
    proxy = Proxy.parse(f"http://ann:{SECRET}%40@p.example:3128/")
    assert proxy.password == f"{SECRET}@"
    assert str(proxy) == "http://p.example:3128"
    assert SECRET not in repr(proxy) + repr(Proxies(http=proxy)) + repr(HostRules(proxy=proxy))


@pytest.mark.parametrize(("said", "found"), [("", "env"), ("none", None), ("own", "own")])
def test_what_is_said_of_a_host_counts_before_the_environment(said: str, found: str | None) -> None:
    rules = HostRules(proxy=Proxy(host="own", port=80) if said == "own" else said)  # type: ignore[arg-type]
    settings = RegistrySettings(
        hosts=HostTable(hosts={"r.example": rules}), proxies=environ(HTTPS_PROXY="http://env")
    )
    proxy = settings.proxy("https", "r.example", 443)
    assert (None if proxy is None else proxy.host) == found
    other = settings.proxy("https", "other.example", 443)
    assert other is not None and other.host == "env"


# the way through


def through(proxy: str, **options: Any) -> Transport:
    rules = HostRules(proxy=Proxy.parse(proxy))
    return Transport(RegistrySettings(hosts=HostTable(default=rules), retries=0, **options))


def greet(request: Request) -> None:
    request.answer(200, request.read_body() or b"hello")


def test_plain_http_goes_in_absolute_form() -> None:
    with scripted(greet) as server, forward_proxy() as proxy, through(proxy.url) as transport:
        for _ in range(2):
            with transport.request("GET", f"{server.url}/a?b=1") as response:
                assert response.read(100) == b"hello"
        with transport.request("PUT", f"{server.url}/c", body=b"sent") as response:
            assert response.read(100) == b"sent"
        assert proxy.targets("GET") == [f"{server.url}/a?b=1"] * 2
        assert proxy.targets("PUT") == [f"{server.url}/c"]
        assert {one.headers["host"] for one in proxy.seen} == {server.host}
        assert server.paths() == ["/a?b=1", "/a?b=1", "/c"]


def test_https_goes_through_a_tunnel_in_which_the_proxy_sees_nothing(tmp_path: Path) -> None:
    with (
        scripted(greet, Authority(tmp_path)) as server,
        forward_proxy() as proxy,
        through(proxy.url, certs_dirs=(tmp_path,)) as transport,
    ):
        for _ in range(2):
            with transport.request(
                "GET", f"{server.url}/a", headers={"Authorization": SECRET}
            ) as response:
                assert response.read(100) == b"hello"
        ((seen),) = proxy.seen  # the connection is kept
        assert (seen.method, seen.target) == ("CONNECT", server.host)
        assert seen.headers["host"] == server.host
        assert SECRET not in str(seen)
        assert server.paths() == ["/a", "/a"]


@pytest.mark.parametrize("secure", [False, True])
def test_the_proxy_gets_its_credentials_and_the_server_does_not(
    tmp_path: Path, secure: bool
) -> None:
    authority = Authority(tmp_path) if secure else None
    with (
        scripted(greet, authority) as server,
        forward_proxy(login="ann:a b") as proxy,
        through(f"http://ann:a%20b@{proxy.host}", certs_dirs=(tmp_path,)) as transport,
    ):
        with transport.request("GET", f"{server.url}/a") as response:
            assert response.status == 200
        assert all("proxy-authorization" in one.headers for one in proxy.seen)
        ((_, _, headers),) = server.requests
        assert "proxy-authorization" not in {name.lower() for name in headers}


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_asks_for_a_login_is_said_in_words(tmp_path: Path, secure: bool) -> None:
    authority = Authority(tmp_path) if secure else None
    with (
        scripted(greet, authority) as server,
        forward_proxy(login="ann:right") as proxy,
        through(f"http://ann:{SECRET}@{proxy.host}", certs_dirs=(tmp_path,)) as transport,
    ):
        with pytest.raises(ProxyError, match=r"the proxy .* \(407") as caught:
            transport.request("GET", f"{server.url}/a")
        assert SECRET not in str(caught.value)
        assert not caught.value.retryable
        assert server.paths() == []


def test_a_tunnel_that_is_refused_and_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    with (
        scripted(greet, Authority(tmp_path)) as server,
        forward_proxy(refuse=403) as proxy,
        through(proxy.url) as transport,
        pytest.raises(ProxyError, match=rf"{server.host}: the proxy {proxy.host} makes no conn"),
    ):
        transport.request("GET", server.url)
    with (
        through(f"http://127.0.0.1:{closed_port()}") as transport,
        pytest.raises(ProxyError, match="the proxy cannot be reached"),
    ):
        transport.request("GET", "https://r.example/")


def test_an_error_of_tls_behind_a_proxy_names_the_server(tmp_path: Path) -> None:
    with (
        scripted(greet, Authority(tmp_path, trusted=False)) as server,
        forward_proxy() as proxy,
        through(proxy.url, certs_dirs=(tmp_path,)) as transport,
    ):
        with pytest.raises(TLSError) as caught:
            transport.request("GET", server.url)
        assert server.host in str(caught.value)
        assert caught.value.reason == "unknown-ca"


def test_a_name_that_only_the_proxy_knows() -> None:
    with (
        scripted(greet) as server,
        forward_proxy(names={"inside.example": ("127.0.0.1", server.port)}) as proxy,
        Transport(
            RegistrySettings(proxies=Proxies.from_environ({"http_proxy": proxy.url}))
        ) as transport,
        transport.request("GET", "http://inside.example/x") as response,
    ):
        assert response.status == 200
        assert proxy.targets("GET") == ["http://inside.example/x"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_wait_for_a_proxy_ends_with_the_cancellation(scheme: str) -> None:
    with forward_proxy(silent=True) as proxy, through(proxy.url) as transport:
        cancel = Cancellation()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                transport.request("GET", f"{scheme}://r.example/", cancel=cancel)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert proxy.entered.wait(10)
        begun = time.monotonic()
        cancel.cancel()
        thread.join(10)
        assert [type(error) for error in errors] == [CancelledError]
        assert time.monotonic() - begun < 1


# TLS with the proxy


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_is_spoken_to_over_tls(tmp_path: Path, secure: bool) -> None:
    authority = Authority(tmp_path)
    with (
        scripted(greet, authority if secure else None) as server,
        forward_proxy(authority=Authority(tmp_path), login="ann:right") as proxy,
        through(f"https://ann:right@{proxy.host}", certs_dirs=(tmp_path,)) as transport,
    ):
        sent = bytes(range(256)) * 4096
        for _ in range(2):
            with transport.request("PUT", f"{server.url}/a", body=sent) as response:
                assert response.read(len(sent)) == sent
        assert server.paths() == ["/a", "/a"]
        if secure:
            assert proxy.targets("CONNECT") == [server.host]  # the connection is kept
        else:
            assert proxy.targets("PUT") == [f"{server.url}/a"] * 2
        assert not any("Proxy-Authorization" in headers for _, _, headers in server.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_whose_certificate_is_not_trusted_gets_nothing(tmp_path: Path, scheme: str) -> None:
    with (
        forward_proxy(authority=Authority(tmp_path, trusted=False)) as proxy,
        through(f"https://ann:{SECRET}@{proxy.host}", certs_dirs=(tmp_path,)) as transport,
    ):
        with pytest.raises(ProxyError, match="unknown authority") as caught:
            transport.request("GET", f"{scheme}://r.example/")
        assert str(caught.value).startswith(f"the proxy cannot be reached: {proxy.host}: ")
        assert str(tmp_path / proxy.host) in str(caught.value)  # where the authority's belongs
        assert SECRET not in str(caught.value)
        assert not caught.value.retryable
        assert proxy.seen == []


def test_a_proxy_that_speaks_no_tls(tmp_path: Path) -> None:
    def drop(request: Request) -> None:
        request.answer(400)

    with (
        scripted(drop) as server,
        through(f"https://{server.host}", certs_dirs=(tmp_path,)) as transport,
        pytest.raises(ProxyError, match="does not speak TLS; write http:// in its URL"),
    ):
        transport.request("GET", "https://r.example/")


def test_a_proxy_s_authority_that_was_put_in_place_counts_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path, trusted=False)
    with (
        scripted(greet) as server,
        forward_proxy(authority=authority) as proxy,
        through(proxy.url, certs_dirs=(tmp_path,)) as transport,
    ):
        with pytest.raises(ProxyError):
            transport.request("GET", server.url)
        (tmp_path / proxy.host).mkdir()
        authority.ca.cert_pem.write_to_path(str(tmp_path / proxy.host / "ca.crt"))
        with transport.request("GET", server.url) as response:
            assert response.status == 200


def test_an_error_of_tls_inside_of_tls_names_the_server(tmp_path: Path) -> None:
    with (
        scripted(greet, Authority(tmp_path, trusted=False)) as server,
        forward_proxy(authority=Authority(tmp_path)) as proxy,
        through(proxy.url, certs_dirs=(tmp_path,)) as transport,
    ):
        with pytest.raises(TLSError) as caught:
            transport.request("GET", server.url)
        assert str(caught.value).startswith(f"{server.host}: ")
        assert caught.value.reason == "unknown-ca"


# SOCKS


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("login", ["", "ann:a b"])
def test_a_socks_proxy_connects_on(tmp_path: Path, secure: bool, login: str) -> None:
    authority = Authority(tmp_path) if secure else None
    own = "ann:a%20b@" if login else ""
    with (
        scripted(greet, authority) as server,
        socks_proxy(login=login) as proxy,
        through(f"socks5h://{own}{proxy.host}", certs_dirs=(tmp_path,)) as transport,
    ):
        for _ in range(2):
            with transport.request("PUT", f"{server.url}/a", body=b"sent") as response:
                assert response.read(100) == b"sent"
        assert proxy.targets("ipv4") == [server.host]  # the connection is kept
        assert server.paths() == ["/a", "/a"]  # not in absolute form
        assert server.requests[0][2]["Host"] == server.host
        assert not any("Proxy-Authorization" in headers for _, _, headers in server.requests)


@pytest.mark.parametrize(("scheme", "kind"), [("socks5", "ipv"), ("socks5h", "name")])
def test_who_looks_a_name_up(scheme: str, kind: str) -> None:
    with (
        scripted(greet) as server,
        socks_proxy() as proxy,
        through(f"{scheme}://{proxy.host}") as transport,
    ):
        with transport.request("GET", f"http://localhost:{server.port}/") as response:
            assert response.status == 200
        assert all(one.method.startswith(kind) for one in proxy.seen)
        assert proxy.seen


def test_a_name_that_only_the_socks_proxy_knows() -> None:
    with (
        scripted(greet) as server,
        socks_proxy(names={"inside.example": ("127.0.0.1", server.port)}) as proxy,
        Transport(
            RegistrySettings(proxies=Proxies.from_environ({"all_proxy": proxy.url}))
        ) as transport,
        transport.request("GET", "http://inside.example/x") as response,
    ):
        assert response.status == 200
        assert proxy.targets("name") == ["inside.example:80"]


@pytest.mark.parametrize(
    ("own", "login", "words"),
    [
        (f"ann:{SECRET}@", "ann:right", "refuses the credentials"),
        ("", "ann:right", "asks for credentials"),
    ],
)
def test_a_socks_proxy_that_wants_another_login(own: str, login: str, words: str) -> None:
    with (
        socks_proxy(login=login) as proxy,
        through(f"socks5h://{own}{proxy.host}") as transport,
    ):
        with pytest.raises(ProxyError, match=f"the proxy {proxy.url} {words}.*URL") as caught:
            transport.request("GET", "https://r.example/")
        assert SECRET not in str(caught.value)
        assert not caught.value.retryable
        assert proxy.seen == []


@pytest.mark.parametrize(
    ("code", "words", "retryable"),
    [(2, "not allowed", False), (5, "refused", True), (77, "code 77", False)],
)
def test_what_a_socks_proxy_refuses(code: int, words: str, retryable: bool) -> None:
    with socks_proxy(refuse=code) as proxy, through(proxy.url) as transport:
        with pytest.raises(ProxyError, match=rf"^r\.example:443: the proxy .*{words}") as caught:
            transport.request("GET", "https://r.example/")
        assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("said", "words"),
    [(b"HTTP/1.1 400 Bad Request", "does not speak SOCKS5"), (b"\x05", "hung up")],
)
def test_a_proxy_that_speaks_no_socks(said: bytes, words: str) -> None:
    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            assert client.recv(3) == greeting(Proxy(host="p", port=1))
            client.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve, listener)
        with (
            through(f"socks5h://127.0.0.1:{listener.getsockname()[1]}") as transport,
            pytest.raises(ProxyError, match=words),
        ):
            transport.request("GET", "https://r.example/")
        serving.result(30)


def test_a_socks_proxy_that_is_silent_and_one_that_is_not_there() -> None:
    with (
        socks_proxy(silent=True) as proxy,
        through(proxy.url, connect_timeout=0.2) as transport,
        pytest.raises(ProxyError, match="silent for too long"),
    ):
        transport.request("GET", "https://r.example/")
    with (
        through(f"socks5h://127.0.0.1:{closed_port()}") as transport,
        pytest.raises(ProxyError, match="the proxy cannot be reached"),
    ):
        transport.request("GET", "https://r.example/")


@pytest.mark.parametrize("scheme", ["socks5h", "https"])
def test_a_wait_for_what_a_proxy_says_ends_with_the_cancellation(
    tmp_path: Path, scheme: str
) -> None:
    authority = Authority(tmp_path)
    with (
        socks_proxy(silent=True)
        if scheme == "socks5h"
        else forward_proxy(silent=True, authority=authority) as proxy,
        through(proxy.url, certs_dirs=(tmp_path,)) as transport,
        ThreadPoolExecutor(1) as pool,
    ):
        cancel = Cancellation()
        waiting = pool.submit(transport.request, "GET", "https://r.example/", cancel=cancel)
        assert proxy.entered.wait(30)
        cancel.cancel()
        with pytest.raises(CancelledError):
            waiting.result(30)


@given(st.text(max_size=300), st.integers(0, 65535))
def test_whatever_is_asked_for_is_a_message_of_socks_or_an_error(host: str, port: int) -> None:
    try:
        message = connect_request(host, port)
    except ProxyError:
        return
    assert message[:3] == bytes((5, 1, 0))
    length = {1: 4, 4: 16}.get(message[3]) or 1 + message[4]
    assert message[4 + length :] == port.to_bytes(2, "big")


def test_through_a_socks_proxy_of_others(tmp_path: Path) -> None:
    port = closed_port()
    command = [require("microsocks"), "-i", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen([*command, "-u", "ann", "-P", "right"], stderr=subprocess.DEVNULL) as run:
        try:
            listening("127.0.0.1", port)
            with scripted(greet, Authority(tmp_path)) as server:
                for scheme in ("socks5", "socks5h"):
                    url = f"{scheme}://ann:right@127.0.0.1:{port}"
                    with (
                        through(url, certs_dirs=(tmp_path,)) as transport,
                        transport.request("PUT", f"{server.url}/a", body=b"sent") as response,
                    ):
                        assert response.read(100) == b"sent"
            with (
                through(f"socks5h://ann:wrong@127.0.0.1:{port}") as transport,
                pytest.raises(ProxyError, match="refuses the credentials"),
            ):
                transport.request("GET", "https://r.example/")
        finally:
            run.terminate()


def listening(host: str, port: int) -> None:
    """Wait until somebody takes connections there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens at {host}:{port}"
            threading.Event().wait(0.02)


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".netrc"
    path.write_text(f"machine 127.0.0.1 login ann password {SECRET}\n")
    path.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.usefixtures("netrc")
def test_netrc_is_not_read_and_the_process_s_environment_names_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    with scripted(greet) as server, Transport() as transport:
        with transport.request("GET", f"{server.url}/") as response:
            assert response.status == 200
        ((_, _, headers),) = server.requests
        assert "Authorization" not in headers
