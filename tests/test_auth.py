"""Authentication against a registry: basic and bearer, right, wrong and none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import Request, scripted

from registry_service.auth import Authenticator, TokenCache
from registry_service.credentials import AuthConfig
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import LoginRequiredError, ProtocolError, RegistryError
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.transport import Transport

USERS = {"ann": "s3cr3t-ann", "bob": "s3cr3t-bob"}
V2 = {"Docker-Distribution-Api-Version": "registry/2.0"}


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(RegistrySettings(retries=0)) as transport:
        yield transport


def client(
    transport: Transport,
    host: str,
    username: str = "",
    password: str = "",
    *,
    cache: TokenCache | None = None,
    headers: Any = None,
    **auth: str,
) -> V2Client:
    endpoint = Endpoint.discover(host, transport=transport)
    credentials = AuthConfig(username=username, password=password, **auth)
    return V2Client(
        endpoint,
        transport,
        Authenticator(endpoint, transport, credentials, cache=cache),
        headers=headers,
    )


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_right_wrong_and_no_credentials(transport: Transport, auth: Any) -> None:
    with Registry(auth=auth, users=USERS) as registry:
        digest = Digest.parse(registry.put_blob("team/app", b"blob"))
        ann = client(transport, registry.host, "ann", "s3cr3t-ann")
        ann.ping()
        assert ann.blob_size("team/app", digest) == 4

        with pytest.raises(LoginRequiredError, match="'ann' or its password was refused") as caught:
            client(transport, registry.host, "ann", "wr0ng").ping()
        assert (caught.value.username, caught.value.status) == ("ann", 1)
        assert registry.host in str(caught.value) and "wr0ng" not in str(caught.value)

        with pytest.raises(LoginRequiredError) as caught:
            client(transport, registry.host).blob_size("team/app", digest)
        assert registry.host in str(caught.value)
        assert caught.value.username == ""


def test_a_user_without_access_is_told_so(transport: Transport) -> None:
    access = {"ann": ["team/*"], "bob": ["other/*"]}
    with Registry(auth="token", users=USERS, access=access) as registry:
        digest = Digest.parse(registry.put_blob("team/app", b"blob"))
        assert client(transport, registry.host, "ann", "s3cr3t-ann").blob_size("team/app", digest)
        bob = client(transport, registry.host, "bob", "s3cr3t-bob")
        with pytest.raises(RegistryError, match=r"'bob'|DENIED") as caught:
            bob.open_blob("team/app", digest)
        assert "s3cr3t" not in str(caught.value)


def test_an_anonymous_token_is_enough_where_anybody_may_pull(transport: Transport) -> None:
    with Registry(auth="token", users=USERS, anonymous_pull=True) as registry:
        digest = Digest.parse(registry.put_blob("team/app", b"blob"))
        nobody = client(transport, registry.host)
        assert nobody.blob_size("team/app", digest) == 4
        with pytest.raises((LoginRequiredError, RegistryError)):
            nobody.mount_blob("team/app", Digest.of(b"x"), "other/app")


def test_the_first_request_has_its_token_already(transport: Transport) -> None:
    with Registry(auth="token", users=USERS) as registry:
        digest = Digest.parse(registry.put_blob("team/app", b"blob"))
        ann = client(transport, registry.host, "ann", "s3cr3t-ann")
        registry.clear_requests()
        for _ in range(3):
            ann.blob_size("team/app", digest)
        paths = [request.path for request in registry.requests]
        assert [path for path in paths if path == "/token"] == ["/token"]
        assert all(request.status == 200 for request in registry.requests)


def test_threads_and_jobs_share_one_token(transport: Transport) -> None:
    with Registry(auth="token", users=USERS) as registry:
        digest = Digest.parse(registry.put_blob("team/app", b"blob"))
        cache = TokenCache()
        clients = [
            client(transport, registry.host, "ann", "s3cr3t-ann", cache=cache) for _ in range(6)
        ]
        sizes: list[int | None] = []
        threads = [
            threading.Thread(target=lambda one=one: sizes.append(one.blob_size("team/app", digest)))
            for one in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sizes == [4] * 6
        assert sum(request.path == "/token" for request in registry.requests) == 1


def test_a_token_that_expired_is_fetched_anew(transport: Transport) -> None:
    with Registry(auth="token", users=USERS) as registry:
        digest = Digest.parse(registry.put_blob("team/app", b"blob"))
        ann = client(transport, registry.host, "ann", "s3cr3t-ann")
        assert ann.blob_size("team/app", digest) == 4
        registry.expire_tokens()
        assert ann.blob_size("team/app", digest) == 4
        assert sum(request.path == "/token" for request in registry.requests) == 2


def test_a_registry_token_goes_as_it_is(transport: Transport) -> None:
    def handler(request: Request) -> None:
        ok = request.headers.get("Authorization") == "Bearer mine"
        headers = {**V2, "WWW-Authenticate": 'Bearer realm="/token"'}
        request.answer(200 if ok else 401, headers=headers)

    with scripted(handler) as server:
        client(transport, server.host, registry_token="mine").ping()
        with pytest.raises(LoginRequiredError):
            client(transport, server.host, registry_token="other").ping()
    assert "/token" not in server.paths()


def test_an_identity_token_falls_back_to_get(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/token"):
            request.read_body()
            if request.command == "POST":
                request.answer(404)
            else:
                request.answer(body={"access_token": "t"})
        elif request.headers.get("Authorization") == "Bearer t":
            request.answer(headers=V2)
        else:
            request.answer(401, headers={**V2, "WWW-Authenticate": 'Bearer realm="/token"'})

    with scripted(handler) as server:
        client(transport, server.host, identity_token="id").ping()
    assert [m for m, p, _ in server.requests if p.startswith("/token")] == ["POST", "GET"]


def test_a_401_without_a_challenge_is_answered_by_the_pings(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.headers.get("Authorization"):
            request.answer(headers={"Content-Length": "5", **V2})
        elif request.path == "/v2/":
            request.answer(401, headers={**V2, "WWW-Authenticate": 'Basic realm="r"'})
        else:
            request.answer(401)

    with scripted(handler) as server:
        assert client(transport, server.host, "me", "pw").blob_size("a", Digest.of(b"")) == 5


def test_the_challenges_scope_widens_what_is_asked(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/token"):
            wide = "repository%3Ab%3Apull" in request.path
            request.answer(body={"token": "wide" if wide else "narrow"})
        elif request.headers.get("Authorization") == "Bearer wide":
            request.answer(201)
        else:
            scope = 'Bearer realm="/token",scope="repository:b:pull"'
            request.answer(401, headers={**V2, "WWW-Authenticate": scope})

    with scripted(handler) as server:
        one = client(transport, server.host, "me", "pw")
        one._uploads.start("a").close()
    asked = [path for path in server.paths() if path.startswith("/token")]
    assert len(asked) == 2
    assert asked[1].index("repository%3Aa%3Apull%2Cpush") < asked[1].index("repository%3Ab%3Apull")


def test_a_challenge_of_no_end_is_asked_for_as_far_as_makes_sense(transport: Transport) -> None:
    scope = " ".join(
        [f"repository:{'x' * 600}:pull", *(f"repository:{n}:pull" for n in range(900))]
    )

    def handler(request: Request) -> None:
        if request.path.startswith("/token"):
            request.answer(body={"token": "t"})
        else:
            challenge = f'Bearer realm="/token",scope="{scope}"'
            request.answer(401, headers={**V2, "WWW-Authenticate": challenge})

    with scripted(handler) as server:
        with pytest.raises(LoginRequiredError):
            client(transport, server.host, "me", "pw").get_manifest("a", "1")
        asked = [path for path in server.paths() if path.startswith("/token")]
        assert len(server.requests) == 5  # the ping, twice a token, twice the manifest
    assert max(map(len, asked)) < 1000


@pytest.mark.parametrize("challenge", ["Negotiate", 'Digest realm="x"'])
def test_a_scheme_that_is_not_supported_is_named(transport: Transport, challenge: str) -> None:
    headers = {**V2, "WWW-Authenticate": challenge}
    with (
        scripted(lambda request: request.answer(401, headers=headers)) as server,
        pytest.raises(LoginRequiredError, match="not supported") as caught,
    ):
        client(transport, server.host, "me", "pw").ping()
    assert challenge.split()[0].lower() in str(caught.value)


def test_credentials_do_not_go_to_a_realm_elsewhere_in_clear(transport: Transport) -> None:
    headers = {**V2, "WWW-Authenticate": 'Bearer realm="http://evil.example/token"'}
    with (
        scripted(lambda request: request.answer(401, headers=headers)) as server,
        pytest.raises(ProtocolError, match="clear text"),
    ):
        client(transport, server.host, "me", "pw").ping()


def test_a_callers_own_authorization_stands(transport: Transport) -> None:
    def handler(request: Request) -> None:
        ok = request.headers.get("Authorization") == "Custom me"
        request.answer(200 if ok else 401, headers={**V2, "WWW-Authenticate": "Basic realm=/"})

    with scripted(handler) as server:
        headers = {"Authorization": ["Custom me"], "X-Two": ["a", "b"]}
        client(transport, server.host, "me", "pw", headers=headers).ping()
        with pytest.raises(LoginRequiredError):
            client(transport, server.host, "me", "pw", headers={"authorization": ["No"]}).ping()
    assert server.requests[1][2]["X-Two"] == "a, b"
    assert len(server.requests) == 4
