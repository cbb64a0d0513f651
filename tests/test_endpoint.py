from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Authority, Request, closed_port, full_port, scripted

from registry_service.cancel import Cancellation
from registry_service.constants import (
    DEFAULT_API_VERSION,
    INDEXSERVER,
    REGISTRYSERVER,
    APIVersion,
    TimeoutType,
    index_server_address,
)
from registry_service.endpoint import Endpoint, RegistryInfo
from registry_service.errors import (
    InvalidReferenceError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    TLSError,
    UnreachableRegistryError,
)
from registry_service.hostrules import HostRules, HostTable
from registry_service.settings import RegistrySettings
from registry_service.transport import Transport

V2 = {"Docker-Distribution-Api-Version": "registry/2.0"}


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    with Transport(RegistrySettings(retries=0, certs_dirs=(tmp_path,))) as transport:
        yield transport


def test_the_fixed_names() -> None:
    assert [str(one) for one in APIVersion] == ["v1", "v2"]
    assert DEFAULT_API_VERSION is APIVersion.V1
    assert [int(one) for one in TimeoutType] == [0, 1, 2]
    assert index_server_address() == INDEXSERVER == "https://index.docker.io/v1/"
    assert index_server_address("https://i.example/v1/") == "https://i.example/v1/"
    assert REGISTRYSERVER == "https://registry-1.docker.io/v1/"


def test_plain_http_is_found_on_loopback(transport: Transport) -> None:
    with scripted(lambda request: request.answer(headers=V2)) as server:
        found = Endpoint.discover(server.host, transport=transport)
    assert (found.url, found.version) == (f"{server.url}/", APIVersion.V2)
    assert str(found) == f"{server.url}/v2/"
    assert found.version_string(APIVersion.V1) == f"{server.url}/v1/"
    assert found.host == server.host


def test_https_is_tried_first(transport: Transport, tmp_path: Path) -> None:
    with scripted(lambda request: request.answer(headers=V2), Authority(tmp_path)) as server:
        found = Endpoint.discover(server.host, transport=transport)
    assert found.url == f"{server.url}/" and found.url.startswith("https:")


def test_a_401_is_a_registry_and_its_challenge_is_kept(transport: Transport) -> None:
    headers = {**V2, "WWW-Authenticate": ["Negotiate", 'Bearer realm="http://a/t",service="s"']}
    with scripted(lambda request: request.answer(401, headers=headers)) as server:
        found = Endpoint.discover(server.host, transport=transport)
    assert [one.scheme for one in found.challenges] == ["negotiate", "bearer"]
    assert found.challenges[1].service == "s"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, "{}", {}),
        (401, "<html>", {"WWW-Authenticate": "Basic realm=/"}),
        (401, '{"errors": []}', {}),
        (200, "", V2),
        (403, "", V2),
    ],
)
def test_answers_that_are_a_v2_registrys(
    transport: Transport, status: int, body: str, headers: dict[str, Any]
) -> None:
    with scripted(lambda request: request.answer(status, body, headers)) as server:
        found = Endpoint.discover(server.host, transport=transport)
    assert found.version is APIVersion.V2


def test_v1_is_the_fallback_and_its_ping_is_read(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.path == "/v1/_ping":
            request.answer(
                body={"version": "0.6", "standalone": True},
                headers={
                    "X-Docker-Registry-Version": "0.9.1",
                    "X-Docker-Registry-Standalone": "False",
                },
            )
        else:
            request.answer(404)

    with scripted(handler) as server:
        found = Endpoint.discover(server.host, transport=transport)
        assert found.version is APIVersion.V1
        assert found.info == RegistryInfo(version="0.9.1", standalone=False)
        assert found.ping() == found.info


@pytest.mark.parametrize(
    ("value", "standalone"),
    [("1", True), ("TRUE", True), ("0", False), ("false", False), ("mirror", False), ("", True)],
)
def test_standalone_by_its_header(transport: Transport, value: str, standalone: bool) -> None:
    headers = {"X-Docker-Registry-Standalone": value}
    with scripted(lambda request: request.answer(body="true", headers=headers)) as server:
        found = Endpoint.discover(f"{server.host}/v1/", transport=transport)
    assert found.info.standalone is standalone


def test_standalone_defaults_to_true(transport: Transport) -> None:
    with scripted(lambda request: request.answer(body="{}")) as server:
        found = Endpoint.discover(f"{server.host}/v1", transport=transport)
    assert found.info == RegistryInfo(version="", standalone=True)


@pytest.mark.parametrize(
    ("body", "headers", "info"),
    [
        ("true", {}, RegistryInfo(standalone=True)),
        (
            '{"standalone": false, "version": "0.5"}',
            {},
            RegistryInfo(version="0.5", standalone=False),
        ),
        (
            '{"standalone": false}',
            {"x-docker-registry-standalone": "1"},
            RegistryInfo(version="", standalone=True),
        ),
        (
            "no JSON",
            {"x-docker-registry-version": "0.7"},
            RegistryInfo(version="0.7", standalone=True),
        ),
    ],
)
def test_what_a_ping_says_and_what_it_leaves_out(
    transport: Transport, body: str, headers: dict[str, Any], info: RegistryInfo
) -> None:
    with scripted(lambda request: request.answer(body=body, headers=headers)) as server:
        assert Endpoint.discover(f"{server.host}/v1/", transport=transport).info == info


BASIC = {"WWW-Authenticate": 'Basic realm="r"'}


def old(request: Request, otherwise: Callable[[Request], None]) -> None:
    """A V1 registry that does something to what is no path of its own."""
    if request.path == "/v1/_ping":
        request.answer(body="{}", headers={"X-Docker-Registry-Version": "0.9.1"})
    else:
        otherwise(request)


@pytest.mark.parametrize(
    "otherwise",
    [
        lambda request: request.answer(404),
        lambda request: request.answer(200, "<html>"),
        lambda request: request.answer(401, "<html>", BASIC),  # a proxy that asks everybody
    ],
    ids=["404", "html", "401"],
)
def test_a_v1_registry_is_found_whatever_it_does_to_v2_s_ping(
    otherwise: Callable[[Request], None], tmp_path: Path
) -> None:
    settings = RegistrySettings(retries=0, ping_timeout=1, certs_dirs=(tmp_path,))
    with (
        Transport(settings) as transport,
        scripted(lambda request: old(request, otherwise)) as server,
    ):
        found = Endpoint.discover(f"http://{server.host}", transport=transport)
    assert (found.version, found.info.version) == (APIVersion.V1, "0.9.1")


@pytest.mark.parametrize("does", [Request.drop, Request.hang])
def test_a_registry_in_trouble_is_not_taken_for_one_of_v1(
    does: Callable[[Request], None], tmp_path: Path
) -> None:
    """Registries of V2 answer V1's ping too, many of them."""
    settings = RegistrySettings(retries=0, ping_timeout=1, certs_dirs=(tmp_path,))
    with (
        Transport(settings) as transport,
        scripted(lambda request: old(request, does)) as server,
    ):
        with pytest.raises(RegistryError) as caught:
            Endpoint.discover(f"http://{server.host}", transport=transport)
        assert caught.value.retryable
        hinted = 'version = "v1" in its section of registries.toml' in str(caught.value)
        assert hinted is (does is Request.drop)
        # and what says that it is one of V1 is asked for nothing else
        rules = HostTable(hosts={server.host: HostRules(version=APIVersion.V1)})
        with Transport(dataclasses.replace(settings, hosts=rules)) as told:
            found = Endpoint.discover(f"http://{server.host}", transport=told)
    assert found.version is APIVersion.V1


def test_a_v2_registry_behind_a_login_for_everything_is_one_of_v2(transport: Transport) -> None:
    with scripted(lambda request: request.answer(401, "<html>", BASIC)) as server:
        found = Endpoint.discover(server.host, transport=transport)
        assert found.version is APIVersion.V2 and server.paths()[-1] == "/v1/_ping"
        # of which the address says otherwise
        found = Endpoint.discover(f"{server.host}/v1/", transport=transport)
    assert (found.version, found.info.standalone) == (APIVersion.V1, True)
    assert [one.scheme for one in found.challenges] == ["basic"]


@pytest.mark.parametrize(
    "headers", [V2, {"WWW-Authenticate": 'Bearer realm="https://auth.example/token"'}]
)
def test_a_registry_that_says_v2_is_asked_for_nothing_else(
    transport: Transport, headers: dict[str, str]
) -> None:
    def handler(request: Request) -> None:
        old(request, lambda one: one.answer(401, headers=headers))

    with scripted(handler) as server:
        found = Endpoint.discover(f"http://{server.host}", transport=transport)
    assert found.version is APIVersion.V2 and server.paths() == ["/v2/"]


@pytest.mark.parametrize("version", list(APIVersion))
def test_the_configuration_says_the_version_of_a_host(
    version: APIVersion, transport: Transport
) -> None:
    """Of one that speaks both; an address that has a version is more than that."""
    with scripted(lambda request: old(request, lambda one: one.answer(headers=V2))) as server:
        rules = HostTable(hosts={server.host: HostRules(version=version)})
        with Transport(RegistrySettings(retries=0, hosts=rules)) as told:
            found = Endpoint.discover(f"http://{server.host}", transport=told)
            assert found.version is version
            assert server.paths() == ["/v2/" if version is APIVersion.V2 else "/v1/_ping"]
            for one in APIVersion:
                found = Endpoint.discover(f"http://{server.host}/{one}/", transport=told)
                assert found.version is one


@pytest.mark.parametrize("version", list(APIVersion))
def test_what_the_configuration_says_needs_no_answer_that_shows_it(version: APIVersion) -> None:
    """Files behind a web server have no ping. One in trouble is none all the same."""
    with scripted(lambda request: request.answer(404, "<html>")) as server:
        rules = HostTable(hosts={server.host: HostRules(version=version)})
        with Transport(RegistrySettings(retries=0, hosts=rules)) as told:
            found = Endpoint.discover(f"http://{server.host}", transport=told)
            assert (found.version, found.info) == (version, RegistryInfo())
            other = APIVersion.V1 if version is APIVersion.V2 else APIVersion.V2
            with pytest.raises(ProtocolError, match=f"no V{other.value} registry"):
                Endpoint.discover(f"http://{server.host}/{other}/", transport=told)
            server.handler = lambda request: request.answer(502)
            with pytest.raises(RegistryHTTPError, match="502"):
                Endpoint.discover(f"http://{server.host}", transport=told)


def test_the_public_registry_may_be_said_to_be_of_v1() -> None:
    rules = HostTable(hosts={"registry-1.docker.io": HostRules(version=APIVersion.V1)})
    with Transport(RegistrySettings(hosts=rules)) as transport:
        assert Endpoint.discover("docker.io", transport=transport).url == "https://index.docker.io/"


def test_a_version_in_the_path_fixes_it(transport: Transport) -> None:
    with scripted(lambda request: request.answer(headers=V2)) as server:
        found = Endpoint.discover(f"{server.url}/v2/", transport=transport)
        assert found.version is APIVersion.V2
        with pytest.raises(ProtocolError, match="no V1 registry"):
            Endpoint.discover(f"{server.url}/v1/", transport=transport)
    assert server.paths() == ["/v2/", "/v1/_ping"]


def test_the_public_index_is_not_pinged(transport: Transport) -> None:
    for name in ("https://index.docker.io/v1/", "docker.io/v1/"):
        found = Endpoint.discover(name, transport=transport)
        assert found.url == "https://index.docker.io/"
        assert found.info == RegistryInfo(standalone=False)


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_the_public_registry_has_one_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def request(self: Transport, method: str, url: str, **options: Any) -> Any:
        asked.append(url)
        raise UnreachableRegistryError("no network here")

    monkeypatch.setattr(Transport, "request", request)
    with Transport() as transport, pytest.raises(UnreachableRegistryError):
        Endpoint.discover(name, transport=transport)
    assert asked == ["https://registry-1.docker.io/v2/"]


def test_a_host_that_does_not_answer_is_named_with_each_try(transport: Transport) -> None:
    host = f"127.0.0.1:{closed_port()}"
    with pytest.raises(UnreachableRegistryError, match=f"no registry answers at {host}") as caught:
        Endpoint.discover(host, transport=transport)
    assert [tried.split(": ")[0] for tried in caught.value.tried] == [
        f"https://{host}/",
        f"http://{host}/",
    ]
    assert str(caught.value).count("Connection refused") == 2
    assert caught.value.status == 1 and caught.value.retryable


def test_a_certificate_that_is_not_trusted_is_the_reason_that_is_given(
    transport: Transport, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, trusted=False)
    with (
        scripted(lambda request: request.answer(headers=V2), authority) as server,
        pytest.raises(TLSError, match="unknown authority") as caught,
    ):
        Endpoint.discover(server.host, transport=transport)
    assert caught.value.reason == "unknown-ca"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, "Client sent an HTTP request to an HTTPS server.\n"),
        (400, "<center>The plain HTTP request was sent to HTTPS port</center>"),
        (497, "The plain HTTP request was sent to HTTPS port"),
        (400, "You're speaking plain HTTP to an SSL-enabled server port."),
    ],
)
def test_plain_http_spoken_to_a_server_of_tls(transport: Transport, status: int, body: str) -> None:
    with scripted(lambda request: request.answer(status, body)) as server:
        with pytest.raises(
            TLSError, match="speaks TLS, and refuses plain http; use https"
        ) as caught:
            Endpoint.discover(server.url, transport=transport)
        assert (caught.value.reason, caught.value.retryable) == ("plain-https", False)
        assert len(server.requests) == 1


def test_what_is_no_registry_says_so(transport: Transport) -> None:
    with (
        scripted(lambda request: request.answer(body="<html>hello</html>")) as server,
        pytest.raises((ProtocolError, UnreachableRegistryError), match="no V1 registry"),
    ):
        Endpoint.discover(server.host, transport=transport)


def test_a_server_in_trouble_says_what_it_says(transport: Transport) -> None:
    body = {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}
    with (
        scripted(lambda request: request.answer(429, body, {"Retry-After": "900"})) as server,
        pytest.raises(RegistryHTTPError, match="slow down") as caught,
    ):
        Endpoint.discover(f"{server.url}/v2/", transport=transport)
    assert caught.value.retry_after == 900


def test_plain_http_needs_leave(transport: Transport) -> None:
    with pytest.raises(UnreachableRegistryError, match="insecure_hosts"):
        Endpoint.discover("http://registry.example", transport=transport)


@pytest.mark.parametrize(
    ("host", "schemes"),
    [
        ("registry.example", ["https"]),
        ("registry.example:5000", ["https", "http"]),
        ("plain.example:1234", ["https", "http"]),
        ("127.9.9.9", ["https", "http"]),
        ("[::1]:5000", ["https", "http"]),
        ("localhost:5000", ["https", "http"]),
        ("192.168.0.1", ["https"]),
        ("https://127.0.0.1", ["https"]),
    ],
)
def test_which_schemes_are_tried(
    host: str, schemes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def request(self: Transport, method: str, url: str, **options: Any) -> Any:
        asked.append(url.partition(":")[0])
        raise UnreachableRegistryError("nobody")

    monkeypatch.setattr(Transport, "request", request)
    settings = RegistrySettings(insecure_hosts=("registry.example:5000", "Plain.example"))
    with pytest.raises(UnreachableRegistryError):
        Endpoint.discover(host, settings=settings)
    assert asked == schemes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "ftp://h",
        "h:port",
        "h:99999",
        "h/some/path",
        "[::1",
        "a b",
        "h:0",
        "me@h",
        "h/v3/",
    ],
)
def test_addresses_that_are_none(text: str, transport: Transport) -> None:
    with pytest.raises(InvalidReferenceError, match="registry"):
        Endpoint.discover(text, transport=transport)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:pl4nted@h/v1/",
        "https://me:pl4nted@h:99999/v1/",
        "https://me:x/pl4nted@h/v1/",
        "https://me:x?pl4nted@h/v1/",
        "https://me:x://pl4nted@h/v1/",
        "ftp://me:pl4nted@h",
        "me:pl4nted@h:5000",
        "h/v1/?password=pl4nted",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(text: str, transport: Transport) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        Endpoint.discover(text, transport=transport)
    assert "pl4nted" not in str(caught.value)


def test_an_endpoint_without_a_transport_makes_its_own() -> None:
    with scripted(lambda request: request.answer(headers=V2)) as server:
        with Endpoint.discover(server.host, settings=RegistrySettings()) as found:
            assert found.ping().version == "registry/2.0"
        with pytest.raises(Exception, match="closed"):
            found.ping()


def test_discovery_has_a_limit_in_all_and_can_be_cancelled() -> None:
    settings = RegistrySettings(retries=0, connect_timeout=0.1, ping_timeout=0.2)

    def trickle(request: Request) -> None:
        while not request.server.owner.over.wait(0.02):
            request.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])

    cancel = Cancellation()
    cancel.cancel()
    with Transport(settings) as transport, scripted(trickle) as server, full_port() as port:
        for host in (server.host, f"127.0.0.1:{port}"):
            with pytest.raises(UnreachableRegistryError):
                Endpoint.discover(host, transport=transport)
        with pytest.raises(Exception, match="cancelled"):
            Endpoint.discover(server.host, transport=transport, cancel=cancel)


# settings


def test_settings_from_a_mapping() -> None:
    found = RegistrySettings.from_mapping(
        json.loads(
            '{"insecure_hosts": ["H:5000"], "retries": 0, "certs_dirs": ["/c"], '
            '"index_server": "https://i.example/v1", "read_timeout": 5}'
        )
    )
    assert found.insecure_hosts == ("h:5000",)
    assert found.certs_dirs == (Path("/c"),)
    assert found.index_server == "https://i.example/v1/"
    assert found.read_timeout == 5.0
    assert RegistrySettings.from_mapping({}) == RegistrySettings()
    assert RegistrySettings.from_mapping({}, certs_dirs=(Path("/x"),)).certs_dirs == (Path("/x"),)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"insecure": []}, "insecure: no such key; there are insecure_hosts"),
        ({"insecure_hosts": "h"}, "insecure_hosts: a list"),
        ({"insecure_hosts": ["http://h"]}, "insecure_hosts: .*host"),
        ({"retries": True}, "retries: an integer"),
        ({"retries": -1}, "retries: -1 is not between"),
        ({"read_timeout": "5"}, "read_timeout: a number"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"connect_timeout": float("nan")}, "connect_timeout"),
        ({"index_server": "index"}, "index_server"),
        ({"user_agent": ["a\r\nb"]}, "user_agent"),
        ({"manifest_limit": 0}, "manifest_limit"),
    ],
)
def test_settings_that_cannot_be_used_name_the_key(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        RegistrySettings.from_mapping(mapping)
    assert getattr(caught.value, "code", "") == "configuration"
