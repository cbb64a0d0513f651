"""The V1 client: who it says that it is, to whom, and through redirects."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import Authority
from support_v1_client import (
    ANN,
    IDS,
    JSON,
    LAYER,
    LAYER_PATH,
    LIST,
    TAGS,
    TOKEN,
    Answers,
    client,
    headers_of,
    image,
    serving,
    v1,
)

from registry_service.errors import (
    LoginRequiredError,
    ProtocolError,
    UnreachableRegistryError,
)
from registry_service.headers import HTTPRequestFactory
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.settings import RegistrySettings


def test_tokens_go_to_registries_and_credentials_do_not() -> None:
    with serving({TAGS: {"1": IDS[0]}}) as registry:
        fields = {"X-Docker-Token": list(TOKEN), "X-Docker-Endpoints": registry.host}
        with (
            serving({LIST: (200, [], fields)}) as index,
            client(index.url, ANN, standalone=False) as made,
        ):
            assert list(made.tags("app")) == ["1"]
    sent = headers_of(registry, TAGS)[0]
    assert sent["Authorization"] == f"Token {TOKEN[0]}"


def test_several_tokens_are_one_header() -> None:
    with serving({TAGS: {}}) as server, client(server.url) as made:
        made.remote_tags([v1(server)], "app", ["a", "b"])
    assert headers_of(server, TAGS)[0]["Authorization"] == "Token a,b"


def test_a_registry_without_an_index_gets_credentials_over_https_with_each_request(
    tmp_path: Path,
) -> None:
    settings = RegistrySettings(retries=2, retry_wait_max=0.01, certs_dirs=(tmp_path,))
    with serving({TAGS: {"1": IDS[0]}}, Authority(tmp_path)) as server:
        with client(server.url, ANN, settings=settings) as made:
            made.remote_tags([v1(server)], "app", TOKEN)
        with client(server.url, ANN, settings=settings, standalone=False) as made:
            made.remote_tags([v1(server)], "app", TOKEN)
    first, second = headers_of(server, TAGS)
    assert first["Authorization"].startswith("Basic ")
    assert second["Authorization"].startswith("Token ")


def test_over_http_credentials_stay_here() -> None:
    answers: Answers = {TAGS: (401, {"error": "Requires authorization"}, {})}
    with (
        serving(answers) as server,
        client(server.url, ANN) as made,
        pytest.raises(LoginRequiredError, match="do not travel over http"),
    ):
        made.remote_tags([v1(server)], "app", ())
    assert "Authorization" not in headers_of(server, TAGS)[0]


def test_an_index_that_refuses_the_credentials() -> None:
    with serving({LIST: (401, {"error": "no open sesame"}, {})}) as server:
        with (
            client(server.url, ANN) as made,
            pytest.raises(LoginRequiredError, match="'ann' or its password") as caught,
        ):
            made.repository_data("app")
        with (
            client(server.url) as made,
            pytest.raises(LoginRequiredError, match="asks for a login"),
        ):
            made.repository_data("app")
        with (
            client(server.url, ANN, own=True) as made,
            pytest.raises(LoginRequiredError, match="daemon's own") as own,
        ):
            made.repository_data("app")
    assert caught.value.username == "ann"
    assert "sesame" not in str(caught.value).removeprefix("no ***")
    assert "ann" not in str(own.value)


def test_what_the_caller_adds_goes_along_and_its_authorization_to_the_endpoint_only() -> None:
    own = {"Cookie": ["mine=two"], "Proxy-Authorization": ["Custom y"]}
    meta = {"X-Meta": ["a", "b"], "Authorization": ["Custom x"], **own}
    factory = HTTPRequestFactory(meta)
    with (
        serving({TAGS: {}}) as registry,
        serving({LIST: [], TAGS: {}}) as index,
        client(index.url, ANN, factory=factory) as made,
    ):
        made.repository_data("app")
        made.remote_tags([v1(index)], "app", TOKEN)
        made.remote_tags([v1(registry)], "app", TOKEN)
    for path in (LIST, TAGS):
        sent = headers_of(index, path)[0]
        assert (sent["X-Meta"], sent["Authorization"]) == ("a, b", "Custom x")
        assert [sent[name] for name in own] == ["mine=two", "Custom y"]
    sent = headers_of(registry, TAGS)[0]
    assert (sent["X-Meta"], sent["Authorization"]) == ("a, b", f"Token {TOKEN[0]}")
    assert not own.keys() & sent.keys()


def test_cookies_are_kept_for_the_session_and_for_their_origin() -> None:
    set_cookie = {"Set-Cookie": ["session=one; Path=/; HttpOnly", "other=two; Path=/v1/images"]}
    with (
        serving({TAGS: (200, {}, set_cookie), JSON: image()}) as server,
        serving({TAGS: {}}) as elsewhere,
        client(server.url) as made,
    ):
        made.remote_tags([v1(server)], "app", TOKEN)
        made.remote_tags([v1(server)], "app", TOKEN)
        made.image_json(IDS[0], v1(server), TOKEN)
        made.remote_tags([v1(elsewhere)], "app", TOKEN)
    first, second = headers_of(server, TAGS)
    assert "Cookie" not in first
    assert second["Cookie"] == "session=one"
    assert headers_of(server, JSON)[0]["Cookie"] == "other=two; session=one"
    assert "Cookie" not in headers_of(elsewhere, TAGS)[0]


def test_cookies_of_the_session_go_beside_the_caller_s_own() -> None:
    set_cookie = {"Set-Cookie": "session=one; Path=/"}
    factory = HTTPRequestFactory({"cookie": ["mine=two"]})
    with (
        serving({TAGS: (200, {}, set_cookie)}) as server,
        client(server.url, factory=factory) as made,
    ):
        for _ in range(3):
            made.remote_tags([v1(server)], "app", TOKEN)
    sent = [headers.get("cookie", headers.get("Cookie")) for headers in headers_of(server, TAGS)]
    assert sent == ["mine=two", "mine=two; session=one", "mine=two; session=one"]


def test_a_redirect_to_another_origin_gets_nothing_that_says_who_asks() -> None:
    factory = HTTPRequestFactory({"X-Meta": ["secret"]})
    with serving({"/blob?sig=1": LAYER}) as storage:
        away = (302, b"", {"Location": f"{storage.url}/blob?sig=1", "Set-Cookie": "a=b"})
        with (
            serving({LAYER_PATH: away}) as server,
            client(server.url, ANN, factory=factory) as made,
        ):
            with made.open_layer(IDS[0], v1(server), TOKEN) as blob:
                assert blob.read(len(LAYER)) == LAYER
            made.open_layer(IDS[0], v1(server), TOKEN).close()
    for sent in headers_of(storage, "/blob?sig=1"):
        assert not {"Authorization", "Cookie", "X-Meta"} & sent.keys()
    assert headers_of(server, LAYER_PATH)[1]["Cookie"] == "a=b"


def test_a_server_that_is_redirected_to_and_wants_a_login_of_its_own() -> None:
    with serving({"/blob": (401, {"error": "who are you"}, {})}) as storage:
        away = (302, b"", {"Location": f"{storage.url}/blob"})
        with (
            serving({LAYER_PATH: away}) as server,
            client(server.url, ANN) as made,
            pytest.raises(LoginRequiredError, match="a login of its own") as caught,
        ):
            made.open_layer(IDS[0], v1(server), TOKEN)
    assert f"to which {server.host} redirects" in str(caught.value)


def test_plain_http_is_spoken_with_those_only_who_may_have_it() -> None:
    with (
        client("https://registry.example") as made,
        pytest.raises(
            UnreachableRegistryError, match=r"insecure_hosts only.*registries\.toml"
        ) as caught,
    ):
        made.read_layer(IDS[0], "http://other.example/v1/", TOKEN)
    assert not caught.value.retryable, "nothing was waited for"


def test_a_redirect_within_the_origin_takes_all_along() -> None:
    moved = (307, b"", {"Location": "/elsewhere", "Set-Cookie": "a=b; Path=/"})
    with serving({TAGS: moved, "/elsewhere": {"1": IDS[0]}}) as server, client(server.url) as made:
        assert made.remote_tags([v1(server)], "app", TOKEN) == {"1": IDS[0]}
    sent = headers_of(server, "/elsewhere")[0]
    assert sent["Authorization"] == f"Token {TOKEN[0]}"
    assert sent["Cookie"] == "a=b"


def test_a_redirect_that_is_refused_is_over() -> None:
    """Its connection, and its place among those that its host allows at once, are free again."""
    rules = HostRules(limits=HostLimits(concurrent=1))
    settings = RegistrySettings(retries=0, hosts=HostTable(default=rules))
    away = (302, b"a body", {"Location": "ftp://elsewhere/"})
    with (
        serving({LAYER_PATH: away, TAGS: {}}) as server,
        client(server.url, settings=settings) as made,
    ):
        for _ in range(3):
            with pytest.raises(ProtocolError, match="no http or https URL"):
                made.open_layer(IDS[0], v1(server), TOKEN)
        assert made.remote_tags([v1(server)], "app", TOKEN) == {}


def test_redirects_have_an_end() -> None:
    with (
        serving({TAGS: (302, b"", {"Location": TAGS})}) as server,
        client(server.url) as made,
        pytest.raises(ProtocolError, match="more than 10 redirects"),
    ):
        made.remote_tags([v1(server)], "app", TOKEN)
    assert len(server.requests) == 11
