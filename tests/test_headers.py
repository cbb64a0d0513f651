"""What each request carries, and what of it a redirect takes along."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Authority, Request, Scripted, scripted
from support_proxy import forward_proxy

from registry_service import AuthConfig, HTTPRequestFactory
from registry_service.constants import PRODUCT
from registry_service.errors import ProtocolError
from registry_service.headers import (
    Decorator,
    HTTPRequest,
    add_required_headers_to_redirected_requests,
    basic_auth,
)
from registry_service.proxies import Proxies
from registry_service.settings import RegistrySettings
from registry_service.transport import Transport

SENT = {
    "Accept": "application/json",
    "Authorization": "Token signature=abc",
    "Content-Type": "application/json",
    "Cookie": "session=abc",
    "Range": "bytes=5-",
    "User-Agent": PRODUCT,
    "X-Docker-Token": "true",
    "X-Meta-Team": "blue",
}
META = frozenset({"x-meta-team"})
SECRET = {"Authorization", "Cookie", "X-Meta-Team"}

# a request


def test_a_request_has_the_products_and_every_value_of_each_metaheader() -> None:
    factory = HTTPRequestFactory({"X-Meta": ["a", "b"]}, products=("docker/1.3.0", "go"))
    request = factory.new_request("GET", "https://h.example/v1/")
    assert (request.method, request.url) == ("GET", "https://h.example/v1/")
    assert request.headers == {"User-Agent": f"docker/1.3.0 go {PRODUCT}", "X-Meta": "a, b"}
    assert request.secret == {"x-meta"}


def test_a_metaheader_without_a_value_is_none_and_its_name_has_no_case() -> None:
    given = {"Authorization": [], "X-Meta": ["a"], "x-meta": ("b", "c"), "X-META": "d", "X-No": []}
    factory = HTTPRequestFactory(given)
    assert factory.headers == {"X-Meta": ("a", "b", "c", "d")}
    request = factory.new_request("GET", "https://h.example/v1/")
    assert request.headers == {"User-Agent": PRODUCT, "X-Meta": "a, b, c, d"}
    assert (request.value("x-metA"), request.value("X-No")) == ("a, b, c, d", "")


def test_a_request_without_anything_says_what_sends_it() -> None:
    request = HTTPRequestFactory().new_request("GET", "https://h.example/v1/")
    assert request.headers == {"User-Agent": PRODUCT}
    assert request.secret == frozenset()


def test_a_user_agent_of_the_caller_s_own_comes_before_the_products() -> None:
    factory = HTTPRequestFactory({"user-agent": ["mine/1"]}, products=("builder",))
    request = factory.new_request("GET", "https://h.example/v1/")
    assert request.headers == {"user-agent": "mine/1"}


def test_what_the_protocol_asks_for_comes_before_the_caller_s_own() -> None:
    factory = HTTPRequestFactory({"x-docker-token": ["false"], "X-Meta": ["a"]})
    request = factory.new_request("GET", "https://h/", headers={"X-Docker-Token": "true"})
    assert request.headers == {"User-Agent": PRODUCT, "X-Meta": "a", "X-Docker-Token": "true"}
    assert request.secret == {"x-meta"}


def test_decorators_change_each_request_in_their_order() -> None:
    def append(letter: str) -> Decorator:
        def decorate(request: HTTPRequest) -> HTTPRequest:
            return request.with_headers({"X-Order": request.headers.get("X-Order", "") + letter})

        return decorate

    factory = HTTPRequestFactory(decorators=[append("a")])
    first = factory.new_request("GET", "https://h/")
    factory.add_decorator(append("b"), append("c"))
    second = factory.new_request("GET", "https://h/", append("d"))
    assert (first.headers["X-Order"], second.headers["X-Order"]) == ("a", "abcd")


def test_no_repr_of_a_request_shows_a_value() -> None:
    request = HTTPRequestFactory({"X-Key": ["hush"]}).new_request("GET", "https://h/")
    assert "hush" not in repr(request)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://h.example/v1/images/", True),
        ("https://H.example:443/v1/users/", True),
        ("https://h.example:444/v1/", False),
        ("https://other.example/v1/", False),
        ("http://h.example/v1/", False),
        ("http://h.example:443/v1/", False),
    ],
)
def test_basic_auth_goes_home_over_https_only(url: str, sent: bool) -> None:
    auth = AuthConfig(username="ann", password="secret")
    factory = HTTPRequestFactory(decorators=[basic_auth(auth, "https://h.example/v1/")])
    assert factory.new_request("GET", url).has("authorization") is sent


def test_basic_auth_of_a_registry_without_tls_goes_nowhere() -> None:
    auth = AuthConfig(username="ann", password="secret")
    factory = HTTPRequestFactory(decorators=[basic_auth(auth, "http://h.example/v1/")])
    assert not factory.new_request("GET", "http://h.example/v1/").has("Authorization")


def test_basic_auth_leaves_an_authorization_as_it_is() -> None:
    auth = AuthConfig(username="ann", password="secret")
    decorate = basic_auth(auth, "https://h/")
    factory = HTTPRequestFactory({"authorization": ["mine"]}, decorators=[decorate])
    assert factory.new_request("GET", "https://h/").headers["authorization"] == "mine"
    without = HTTPRequestFactory(decorators=[basic_auth(AuthConfig(), "https://h/")])
    assert not without.new_request("GET", "https://h/").has("Authorization")


# what a redirect takes along

TRUSTED = [
    ("https://docker.io", "https://docker.com"),
    ("https://foo.docker.io:7777", "https://bar.docker.com"),
    ("https://index.docker.io/v1/", "https://Registry-1.Docker.IO/v1/"),
    ("https://test.docker.com:80", "https://docker.io"),
]
UNTRUSTED = [
    ("http://docker.io", "https://docker.com"),
    ("https://foo.docker.io:7777", "http://bar.docker.com"),
    ("https://foo.docker.io", "https://example.com"),
    ("https://docker.io", "https://fakedocker.com"),
    ("https://docker.io", "https://docker.io.example.com"),
    ("https://example.com", "https://docker.io"),
    ("https://example.com:7777", "https://example.com"),
    ("https://example.com", "http://example.com"),
    ("http://example.com", "https://example.com"),
    ("https://a.example.com", "https://b.example.com"),
    ("https://docker.io", "https://user:pw@example.com/docker.io"),
]


@pytest.mark.parametrize(("source", "target"), TRUSTED)
def test_between_trusted_hosts_all_headers_follow(source: str, target: str) -> None:
    kept = add_required_headers_to_redirected_requests(SENT, source, target, secret=META)
    assert kept == SENT


@pytest.mark.parametrize(("source", "target"), UNTRUSTED)
def test_to_another_server_only_what_says_who_asks_stays_behind(source: str, target: str) -> None:
    kept = add_required_headers_to_redirected_requests(SENT, source, target, secret=META)
    assert kept == {name: value for name, value in SENT.items() if name not in SECRET}


@pytest.mark.parametrize("secret", [META, None])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("https://h.example/v1/a", "https://H.example:443/v2/b?c=d"),
        ("http://h.example:5000/", "http://h.example:5000/x"),
    ],
)
def test_within_one_origin_all_headers_follow(
    source: str, target: str, secret: frozenset[str] | None
) -> None:
    kept = add_required_headers_to_redirected_requests(SENT, source, target, secret=secret)
    assert kept == SENT


@pytest.mark.parametrize(("source", "target"), TRUSTED + UNTRUSTED)
def test_on_v2_nobody_is_trusted(source: str, target: str) -> None:
    kept = add_required_headers_to_redirected_requests(SENT, source, target, secret=None)
    assert kept.keys() == {"Accept", "Content-Type", "Range", "User-Agent"}


@pytest.mark.parametrize("name", ["authorization", "AUTHORIZATION", "cookie", "x-meta-TEAM"])
def test_names_of_headers_have_no_case(name: str) -> None:
    headers = {name: "x"}
    assert not add_required_headers_to_redirected_requests(
        headers, "https://a.example", "https://b.example", secret=["X-Meta-Team"]
    )


urls = st.builds(
    "{}://{}{}/".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(
        ["docker.io", "a.docker.com", "h.example", "xdocker.io", "[::1]", "a.h.example"]
    ),
    st.sampled_from(["", ":80", ":443", ":5000"]),
)


@given(urls, urls)
def test_authorization_never_reaches_clear_text_or_a_stranger(source: str, target: str) -> None:
    kept = add_required_headers_to_redirected_requests(SENT, source, target, secret=META)
    if not kept.keys() & SECRET:
        return
    assert kept == SENT
    assert not (source.startswith("https:") and target.startswith("http:"))
    hosts = {urlsplit(url).hostname for url in (source, target)}
    assert len(hosts) == 1 or hosts == {"docker.io", "a.docker.com"}


@given(urls, urls)
def test_v2_takes_along_no_more_than_v1(source: str, target: str) -> None:
    strict = add_required_headers_to_redirected_requests(SENT, source, target, secret=None)
    wide = add_required_headers_to_redirected_requests(SENT, source, target, secret=META)
    assert strict.items() <= wide.items()


# on the wire


@contextlib.contextmanager
def chain(status: int = 302) -> Iterator[tuple[Scripted, Scripted]]:
    """Two servers, of which the first redirects ``/out`` to the second and ``/in`` to itself."""
    with scripted(lambda request: request.answer(body=b"there")) as there:

        def handler(request: Request) -> None:
            request.read_body()
            where = {"/out": f"{there.url}/there", "/in": "/home"}.get(request.path)
            if where is None:
                request.answer()
            else:
                request.answer(status, headers={"Location": where})

        with scripted(handler) as here:
            yield here, there


def sent_by(server: Scripted) -> dict[str, str]:
    """What of `SENT` the newest request at a server had."""
    return {name: value for name, value in server.requests[-1][2].items() if name in SENT}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_to_another_server_a_request_of_v1_leaves_what_says_who_asks(status: int) -> None:
    with chain(status) as (here, there), Transport(RegistrySettings(retries=0)) as transport:
        for path, server in (("out", there), ("in", here)):
            url = f"{here.url}/{path}"
            with transport.request("GET", url, headers=SENT, secret=META) as response:
                assert response.status == 200
            kept = SENT.keys() - SECRET if server is there else SENT.keys()
            assert sent_by(server) == {name: SENT[name] for name in kept}


def test_what_stayed_behind_does_not_come_back() -> None:
    def handler(request: Request) -> None:
        where = f"{far.url}/far" if request.path == "/out" else None
        request.answer(302 if where else 200, headers={"Location": where} if where else {})

    def back(request: Request) -> None:
        request.answer(302, headers={"Location": f"{home.url}/home"})

    with (
        scripted(back) as far,
        scripted(handler) as home,
        Transport(RegistrySettings(retries=0)) as transport,
        transport.request("GET", f"{home.url}/out", headers=SENT, secret=META) as response,
    ):
        assert response.status == 200
        assert home.requests[-1][1] == "/home"
        assert not SECRET & sent_by(home).keys()


def test_a_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, name="secure.example")
    with (
        scripted(lambda request: request.answer()) as plain,
        scripted(
            lambda request: request.answer(
                302, headers={"Location": f"http://plain.example:{plain.port}/"}
            ),
            authority,
        ) as secure,
        named(tmp_path, {"secure.example": (secure, authority)}, plain=plain) as transport,
        pytest.raises(ProtocolError, match="plain http after https; that is refused"),
    ):
        transport.request("GET", "https://secure.example/", headers=SENT, secret=META)
    assert plain.requests == []


@pytest.mark.parametrize(
    ("target", "trusted"), [("cdn.docker.com", True), ("docker.io.example", False)]
)
@pytest.mark.parametrize("secret", [META, None])
def test_authorization_follows_between_trusted_hosts_on_v1_only(
    tmp_path: Path, target: str, trusted: bool, secret: frozenset[str] | None
) -> None:
    def redirect(request: Request) -> None:
        request.answer(302, headers={"Location": f"https://{target}/layer"})

    one, two = Authority(tmp_path, name="index.docker.io"), Authority(tmp_path, name=target)
    with (
        scripted(redirect, one) as index,
        scripted(lambda request: request.answer(), two) as far,
        named(tmp_path, {"index.docker.io": (index, one), target: (far, two)}) as transport,
        transport.request("GET", "https://index.docker.io/v1/", headers=SENT, secret=secret) as got,
    ):
        assert got.url == f"https://{target}/layer"
        kept = sent_by(far).keys()
    if secret is not None:
        assert kept == (SENT.keys() if trusted else SENT.keys() - SECRET)
    else:
        assert not kept & {*SECRET, "X-Docker-Token"}


@contextlib.contextmanager
def named(
    certs: Path, secure: dict[str, tuple[Scripted, Authority]], plain: Scripted | None = None
) -> Iterator[Transport]:
    """A transport to which servers on loopback have names of their own."""
    names = {"plain.example": ("127.0.0.1", plain.port)} if plain else {}
    for name, (server, authority) in secure.items():
        names[name] = ("127.0.0.1", server.port)
        (certs / name).mkdir()
        authority.ca.cert_pem.write_to_path(str(certs / name / "ca.crt"))
    with forward_proxy(names=names) as proxy:
        proxies = Proxies.from_environ({"http_proxy": proxy.url, "https_proxy": proxy.url})
        settings = RegistrySettings(retries=0, certs_dirs=(certs,), proxies=proxies)
        with Transport(settings) as transport:
            yield transport
