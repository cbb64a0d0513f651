"""Where a server sends its clients, and what goes along."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from scripted import Authority, Request, scripted

from registry_service.auth import Authenticator
from registry_service.cancel import Cancellation
from registry_service.constants import APIVersion
from registry_service.credentials import AuthConfig
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import (
    CredentialsError,
    InvalidReferenceError,
    LoginRequiredError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
)
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.operations.login import LoginResult, login
from registry_service.session.sender import Sender
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.testing.registry import TLSFiles
from registry_service.transport import Transport
from registry_service.urls import follow

BLOB = b"content" * 1000
V2 = {"Docker-Distribution-Api-Version": "registry/2.0"}
LAYER = Descriptor(media_type="a/b", digest=Digest.of(BLOB), size=len(BLOB))


@pytest.fixture
def transport() -> Iterator[Transport]:
    settings = RegistrySettings(retries=1)
    with Transport(settings, sleep=lambda seconds, cancel: None, dice=lambda: 0.0) as made:
        yield made


def client(transport: Transport, host: str, auth: AuthConfig | None = None) -> V2Client:
    endpoint = Endpoint.discover(host, transport=transport)
    return V2Client(endpoint, transport, Authenticator(endpoint, transport, auth))


# decisions


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/b?x=1", "https://h/b?x=1"),
        ("b", "https://h/v2/b"),
        ("//other/b", "https://other/b"),
        ("https://other:5/b#part", "https://other:5/b"),
    ],
)
def test_where_a_server_points(target: str, url: str) -> None:
    assert follow("https://h/v2/a", target, "it") == url


def test_a_name_and_a_path_without_end_are_cut_off() -> None:
    with pytest.raises(ProtocolError) as caught:
        follow("https://h/", f"https://{'a' * 300}/", "it")
    assert "no http or https URL" in str(caught.value)
    with pytest.raises(ProtocolError) as caught:
        follow("https://h/", f"http://other/{'a' * 60_000}", "it")
    assert "plain http after https" in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("target", ["http://[::1", "ftp://h/", "http://", "http://h:x/"])
def test_what_is_no_url_is_a_clear_error(target: str) -> None:
    with pytest.raises(ProtocolError, match=r"^it: the server names"):
        follow("https://h/v2/a", target, "it")


@given(st.text(max_size=40))
def test_whatever_is_named_gives_a_url_or_a_protocol_error(target: str) -> None:
    with contextlib.suppress(ProtocolError):
        assert follow("https://h/v2/a", target, "it").startswith(("https://", "http://"))


def test_plain_http_after_https_is_refused_unless_the_host_may_be_insecure() -> None:
    with pytest.raises(ProtocolError, match="plain http after https"):
        follow("https://h/", "http://other:80/", "it")
    asked = []

    def may(host: str, port: int | None) -> bool:
        asked.append((host, port))
        return True

    url = follow("https://h/", "http://other:81/x", "it", may_be_insecure=may)
    assert (url, asked) == ("http://other:81/x", [("other", 81)])
    assert follow("http://h/", "http://other/", "it") == "http://other/"


@pytest.mark.parametrize(
    "target", ["https://169.254.169.254/x", "https://127.1/", "https://[::1]/", "https://0.0.0.0/"]
)
def test_nothing_goes_to_this_machine_or_link_for_a_server_elsewhere(target: str) -> None:
    with pytest.raises(ProtocolError, match="of this machine or its link"):
        follow("https://h/v2/a", target, "it")
    assert follow("https://127.0.0.1:5000/v2/a", target, "it") == target
    assert follow("https://h/v2/a", "https://10.1.2.3/store", "it") == "https://10.1.2.3/store"


@pytest.mark.parametrize("host", ["h", "10.0.0.1", "8.8.8.8"])
def test_an_upload_does_not_move_into_a_private_network(transport: Transport, host: str) -> None:
    endpoint = Endpoint(url=f"https://{host}/", version=APIVersion.V2, transport=transport)
    sender = Sender(endpoint, transport, Authenticator(endpoint, transport))

    class Answer:
        method, url = "POST", f"https://{host}/v2/a/blobs/uploads/"

    answer: Any = Answer()
    if host == "10.0.0.1":  # is on this side of a router itself
        assert sender.follow(answer, "https://10.1.2.3/x") == "https://10.1.2.3/x"
        return
    for target in ("https://10.1.2.3/x", "//192.168.0.1/x", "https://172.16.0.9:5000/x"):
        with pytest.raises(ProtocolError, match="of a private network"):
            sender.follow(answer, target)
    assert sender.follow(answer, "https://store.example/x") == "https://store.example/x"


def test_what_an_error_shows_of_a_url_is_no_secret() -> None:
    with pytest.raises(ProtocolError) as caught:
        follow("https://h/", "http://me:pw@other/?X-Amz-Signature=secret", "it")
    assert "secret" not in str(caught.value)


# credentials stay at home


def test_an_identity_token_does_not_follow_a_redirect_to_another_server(
    transport: Transport,
) -> None:
    def take(request: Request) -> None:
        request.read_body()
        request.answer(body={"access_token": "t"})

    with scripted(take) as thief:

        def handler(request: Request) -> None:
            request.read_body()
            if request.path.startswith("/token"):
                request.answer(307, headers={"Location": f"{thief.url}/steal"})
            else:
                request.answer(401, headers={**V2, "WWW-Authenticate": 'Bearer realm="/token"'})

        with scripted(handler) as server:
            auth = AuthConfig(identity_token="identity-secret")
            with pytest.raises(ProtocolError, match="another server") as caught:
                client(transport, server.host, auth).ping()
    assert thief.requests == []
    assert "identity-secret" not in str(caught.value)


def test_a_redirected_ping_shows_no_secret_of_its_url(transport: Transport) -> None:
    with scripted(lambda request: request.answer(404)) as far:
        location = f"http://u:password1@{far.host}/x?X-Amz-Signature=signature1"
        with (
            scripted(lambda request: request.answer(302, headers={"Location": location})) as server,
            pytest.raises(RegistryError) as caught,
        ):
            Endpoint.discover(server.host, transport=transport)
    assert far.host in str(caught.value)
    assert "password1" not in str(caught.value)
    assert "signature1" not in str(caught.value)


@pytest.mark.parametrize("kind", ["manifest", "upload"])
def test_nothing_goes_on_in_clear_after_tls(tmp_path: Path, kind: str) -> None:
    """The address is no loopback one: 192.0.2.0/24 is kept for documentation."""
    authority = Authority(tmp_path)
    elsewhere = "http://192.0.2.2:5000/up"

    def handler(request: Request) -> None:
        request.read_body()
        if request.path == "/v2/":
            request.answer(headers=V2, body="{}")
        elif request.command == "POST":
            request.answer(202, headers={"Location": elsewhere})
        else:
            request.answer(307, headers={"Location": elsewhere})

    with scripted(handler, authority) as server:
        settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,))
        with Transport(settings) as transport:
            one = client(transport, f"https://{server.host}")
            with pytest.raises(ProtocolError, match="plain http after https"):
                if kind == "manifest":
                    one.get_manifest("a/b", "t")
                else:
                    one.put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))


@pytest.mark.parametrize("where", ["redirect", "upload", "link", "realm"])
def test_a_malformed_url_of_a_server_is_an_error_of_the_registry(
    transport: Transport, where: str
) -> None:
    broken = "http://[::1"

    def handler(request: Request) -> None:
        request.read_body()
        if request.path == "/v2/" and where == "realm":
            request.answer(401, headers={**V2, "WWW-Authenticate": f'Bearer realm="{broken}"'})
        elif request.path == "/v2/":
            request.answer(headers=V2, body="{}")
        elif where == "link":
            link = f'<{broken}>; rel="next"'
            request.answer(headers={"Link": link}, body={"tags": ["a"]})
        else:
            status = 202 if request.command == "POST" else 307
            request.answer(status, headers={"Location": broken})

    with scripted(handler) as server:
        one = client(transport, server.host)
        with pytest.raises(ProtocolError, match="no http or https URL"):
            if where == "upload":
                one.put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))
            else:
                list(one.tags("a/b"))


# what else was not as a person expects


def test_a_registry_that_moves_to_tls_is_found_by_the_next_job(tmp_path: Path) -> None:
    authority = trustme.CA()
    registries = Registries(RegistrySettings(retries=0, certs_dirs=(tmp_path,)))

    def ping(host: str) -> None:
        access, cancel, observer = Access(), Cancellation(), Observer()
        found = registries.client(host, access, cancel=cancel, observer=observer)
        assert isinstance(found, V2Client)
        found.ping()

    try:
        with Registry() as registry:
            host = registry.host
            ping(host)
        (tmp_path / host).mkdir()
        authority.cert_pem.write_to_path(str(tmp_path / host / "ca.crt"))
        issued = authority.issue_cert("127.0.0.1")
        files = TLSFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(str(files.cert))
        issued.private_key_pem.write_to_path(str(files.key))
        with Registry(port=int(host.rpartition(":")[2]), tls=files):
            with pytest.raises(RegistryError):
                ping(host)
            ping(host)
    finally:
        registries.close()


def test_what_was_tried_is_told_for_both_versions(transport: Transport) -> None:
    with (
        scripted(lambda request: request.answer(404)) as server,
        pytest.raises(RegistryError) as caught,
    ):
        Endpoint.discover(server.host, transport=transport)
    assert "there is no V2 registry" in str(caught.value)
    assert "there is no V1 registry" in str(caught.value)


def test_a_part_that_is_the_whole_is_taken(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.path == "/v2/":
            request.answer(headers=V2, body="{}")
        else:
            span = f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"
            request.answer(206, body=BLOB, headers={"Content-Range": span})

    with scripted(handler) as server:
        got = client(transport, server.host).read_blob("a/b", LAYER, limit=10**6)
        with client(transport, server.host).open_blob("a/b", LAYER.digest) as blob:
            buffer = memoryview(bytearray(len(BLOB)))
            count = blob.readinto(buffer)
    assert bytes(buffer[:count]) == BLOB[:count]
    assert got == BLOB


def test_a_body_of_content_is_no_reason(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.path == "/v2/":
            request.answer(headers=V2, body="{}")
        else:
            headers = {"Content-Range": "bytes 5-9/7000"}
            request.answer(206, body="secret content", headers=headers)

    with scripted(handler) as server, pytest.raises(RegistryError) as caught:
        client(transport, server.host).open_blob("a/b", LAYER.digest)
    assert "secret" not in str(caught.value)


def test_a_byte_that_changed_on_its_way_up_is_sent_again(transport: Transport) -> None:
    with Registry() as registry:
        registry.add_fault("corrupt:method=PUT,times=1")
        client(transport, registry.host).put_blob("a/b", LAYER, lambda: io.BytesIO(BLOB))
        assert registry.blob("a/b", str(LAYER.digest)) == BLOB


def test_a_header_of_the_callers_own_that_is_refused(transport: Transport) -> None:
    challenge = {**V2, "WWW-Authenticate": "Basic realm=x"}
    with scripted(lambda request: request.answer(401, headers=challenge)) as server:
        endpoint = Endpoint.discover(server.host, transport=transport)
        one = V2Client(
            endpoint,
            transport,
            Authenticator(endpoint, transport),
            headers={"Authorization": ["Bearer secret1"]},
        )
        with pytest.raises(LoginRequiredError, match="refuses the Authorization header") as caught:
            one.ping()
    assert "secret1" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"password": "x\ud800"},
        {"registrytoken": "a\r\nb"},
        {"username": "\udfff"},
    ],
)
def test_credentials_that_cannot_be_sent_are_wrong_usage(values: dict[str, str]) -> None:
    with pytest.raises(CredentialsError) as caught:
        AuthConfig.from_mapping(values)
    assert str(caught.value).startswith(next(iter(values)))
    assert next(iter(values.values())) not in str(caught.value)


@pytest.mark.parametrize("path", ["/foo", "/v3/", "/v2/x"])
def test_an_address_with_another_path_is_no_registry(path: str) -> None:
    with Registry() as registry:
        registries = Registries()
        auth = AuthConfig(username="u", password="p", server_address=f"{registry.url}{path}")
        try:
            with pytest.raises(InvalidReferenceError, match="comes nothing"):
                login(
                    auth,
                    registries=registries,
                    cancel=Cancellation(),
                    observer=Observer(),
                )
        finally:
            registries.close()
        assert registry.requests == []


@pytest.mark.parametrize("path", ["", "/", "/v2", "/v2/"])
def test_the_path_of_an_address_may_say_what_is_spoken(path: str) -> None:
    with Registry(auth="basic", users={"ann": "pw"}) as registry:
        assert logged_in(f"http://{registry.host}{path}").status == "Login Succeeded"


def test_an_address_of_v1_is_one_of_v1_whatever_else_the_host_speaks() -> None:
    with (
        Registry(auth="basic", users={"ann": "pw"}) as registry,
        pytest.raises(RegistryHTTPError, match="without /v1/ in its address") as caught,
    ):
        logged_in(f"http://{registry.host}/v1/")
    assert caught.value.http_status == 405


def logged_in(address: str) -> LoginResult:
    with contextlib.closing(Registries()) as registries:
        auth = AuthConfig(username="ann", password="pw", server_address=address)
        return login(auth, registries=registries)
