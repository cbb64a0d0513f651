"""Tokens: how one is asked for, kept and shared; no network here."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.auth import (
    Token,
    TokenAnswer,
    TokenCache,
    TokenKey,
    TokenRequest,
    check_realm,
    token_flow,
)
from registry_service.auth.scope import merge, repository
from registry_service.cancel import Cancellation
from registry_service.challenge import Challenge
from registry_service.credentials import AuthConfig
from registry_service.errors import CancelledError, LoginRequiredError, ProtocolError, RegistryError

URL = "https://auth.example/token"
CHALLENGE = Challenge(scheme="bearer", parameters={"realm": URL, "service": "reg"})
SCOPES = ("repository:a:pull,push", "repository:b:pull")
PASSWORD = AuthConfig(username="me", password="s3cr3t")
IDENTITY = AuthConfig(identity_token="1d3nt1ty")


def converse(
    credentials: AuthConfig, answers: list[TokenAnswer], url: str = URL, *, offline: bool = False
) -> tuple[Token, list[TokenRequest]]:
    """Run the flow against answers in order; the token and the requests."""
    flow = token_flow(url, CHALLENGE, credentials, SCOPES, offline=offline)
    requests = [next(flow)]
    for answer in answers:
        try:
            requests.append(flow.send(answer))
        except StopIteration as done:
            return done.value, requests
    raise AssertionError("the flow wants another answer")


def good(**fields: Any) -> TokenAnswer:
    return TokenAnswer(status=200, body=json.dumps({"token": "t", **fields}).encode())


# the conversation


def test_a_password_goes_by_get_with_each_scope_of_its_own() -> None:
    token, (request,) = converse(PASSWORD, [good(expires_in=300)])
    parts = urlsplit(request.url)
    query = parse_qs(parts.query)
    assert (token.value, token.life) == ("t", 300.0)
    assert (request.method, request.body) == ("GET", None)
    assert (query["service"], query["scope"]) == (["reg"], list(SCOPES))
    assert request.headers["Authorization"] == PASSWORD.basic
    assert "s3cr3t" not in repr(request)


def test_nobody_asks_for_an_anonymous_token() -> None:
    _, (request,) = converse(AuthConfig(), [good()])
    assert request.headers == {} and "account" not in request.url


def test_an_identity_token_goes_by_post() -> None:
    token, (request,) = converse(
        IDENTITY, [TokenAnswer(status=200, body=b'{"access_token": "a", "refresh_token": "r"}')]
    )
    form = parse_qs((request.body or b"").decode())
    assert (token.value, token.identity) == ("a", "r")
    assert request.method == "POST"
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["1d3nt1ty"]
    assert form["scope"] == [" ".join(SCOPES)]
    assert "1d3nt1ty" not in repr(request)


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_servers_that_know_no_post_are_asked_by_get(status: int) -> None:
    token, (_, request) = converse(IDENTITY, [TokenAnswer(status=status), good()])
    pair = base64.b64decode(request.headers["Authorization"].removeprefix("Basic "))
    assert token.value == "t"
    assert (request.method, pair) == ("GET", b":1d3nt1ty")


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("offline", [False, True])
def test_a_password_goes_by_post_where_get_is_not_known(status: int, offline: bool) -> None:
    token, (get, post) = converse(
        PASSWORD, [TokenAnswer(status=status), good(refresh_token="r")], offline=offline
    )
    form = parse_qs((post.body or b"").decode())
    assert (token.value, get.method, post.method, post.headers.get("Authorization")) == (
        "t",
        "GET",
        "POST",
        None,
    )
    assert (form["grant_type"], form["username"], form["password"]) == (
        ["password"],
        ["me"],
        ["s3cr3t"],
    )
    assert form.get("access_type") == (["offline"] if offline else None)
    assert "s3cr3t" not in repr(post) and "s3cr3t" not in post.url
    for nothing_to_post in (AuthConfig(), IDENTITY):
        answers = [TokenAnswer(status=405)] * 2
        with pytest.raises(RegistryError):
            converse(nothing_to_post, answers)


def test_an_identity_token_has_its_user_s_name_where_it_goes_as_a_password() -> None:
    credentials = AuthConfig(username="me", identity_token="1d3nt1ty")
    assert credentials.basic == ""
    _, (post, get) = converse(credentials, [TokenAnswer(status=404), good()])
    assert post.method == "POST"
    assert get.headers == {"Authorization": AuthConfig(username="me", password="1d3nt1ty").basic}
    _, requests = converse(AuthConfig(username="me", password="pw"), [good()])
    assert len(requests) == 1


def test_an_identity_token_is_asked_for_only_when_it_is_wanted() -> None:
    for offline in (False, True):
        token, (request,) = converse(PASSWORD, [good(refresh_token="r")], offline=offline)
        query = parse_qs(urlsplit(request.url).query)
        assert query.get("offline_token") == (["true"] if offline else None)
        assert token.identity == "r"
        assert "'r'" not in repr(token)


def test_a_realm_with_a_query_keeps_it() -> None:
    _, (request,) = converse(AuthConfig(), [good()], f"{URL}?tenant=x")
    assert request.url.startswith(f"{URL}?tenant=x&service=reg&")


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (PASSWORD, "user name 'me' or its password was refused"),
        (AuthConfig(), "credentials are needed"),
    ],
)
def test_a_refusal_says_who_and_where(credentials: AuthConfig, words: str) -> None:
    with pytest.raises(LoginRequiredError, match=words) as caught:
        converse(credentials, [TokenAnswer(status=401)])
    assert caught.value.host == "auth.example"
    assert caught.value.username == credentials.username
    assert "s3cr3t" not in str(caught.value)


def test_an_identity_token_that_is_refused_says_so() -> None:
    with pytest.raises(LoginRequiredError, match="identity token was refused"):
        converse(IDENTITY, [TokenAnswer(status=401), TokenAnswer(status=401)])


def test_other_failures_are_the_servers_own() -> None:
    failure = RegistryError("busy", retryable=True)
    with pytest.raises(RegistryError, match="busy"):
        converse(PASSWORD, [TokenAnswer(status=503, error=failure)])
    with pytest.raises(RegistryError, match="busy"):
        converse(IDENTITY, [TokenAnswer(status=503, error=failure)])


@pytest.mark.parametrize(
    ("document", "value", "life"),
    [
        ({"token": "t"}, "t", 60.0),
        ({"token": "t", "access_token": "a"}, "a", 60.0),
        ({"access_token": "a", "expires_in": 3600}, "a", 3600.0),
        ({"token": "t", "expires_in": 5}, "t", 60.0),
        ({"token": "t", "expires_in": "soon", "issued_at": "yesterday"}, "t", 60.0),
        ({"token": "t", "expires_in": 1e300}, "t", 86400.0),
        ({"token": "t", "expires_in": 10**400}, "t", 86400.0),
        ({"token": "t", "expires_in": -(10**400)}, "t", 60.0),
        ({"token": "t", "expires_in": float("nan")}, "t", 60.0),
        ({"token": "t", "expires_in": float("inf")}, "t", 86400.0),
        ({"token": "t", "expires_in": None, "issued_at": "2001-01-01T00:00:00Z"}, "t", 60.0),
    ],
)
def test_what_servers_call_a_token(document: dict[str, Any], value: str, life: float) -> None:
    token = Token.parse(json.dumps(document).encode(), URL)
    assert (token.value, token.life) == (value, life)
    assert value not in repr(token).replace("Token(life", "")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"token": ""}', b'{"token": 5}', b'{"token": "a\\r\\nb: c"}']
)
def test_answers_without_a_token(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"auth\.example/token"):
        Token.parse(body, URL)


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than 32768 characters") as caught:
        Token.parse(json.dumps({"token": "t" * 40_000}).encode(), URL)
    assert len(str(caught.value)) < 200


# realms


@pytest.mark.parametrize(
    ("realm", "endpoint", "url"),
    [
        ("https://a.example/t", "https://r.example/v2/", "https://a.example/t"),
        ("/token", "https://r.example/v2/", "https://r.example/token"),
        ("token", "https://r.example/v2/", "https://r.example/v2/token"),
        ("http://r.example:1/t", "http://r.example:5000/v2/", "http://r.example:1/t"),
        ("https://10.0.0.7/t", "https://10.0.0.5/v2/", "https://10.0.0.7/t"),
        ("http://127.0.0.1:2/t", "http://127.0.0.1:1/v2/", "http://127.0.0.1:2/t"),
        ("http://ok.example/t", "http://127.0.0.1:1/v2/", "http://ok.example/t"),
    ],
)
def test_realms_that_are_followed(realm: str, endpoint: str, url: str) -> None:
    assert check_realm(realm, endpoint, may_be_insecure=lambda h, p: h == "ok.example") == url


@pytest.mark.parametrize(
    ("realm", "endpoint", "words"),
    [
        ("http://a.example/t", "https://r.example/v2/", "clear text"),
        ("http://r.example/t", "https://r.example/v2/", "clear text"),
        ("http://evil.example/t", "http://127.0.0.1:1/v2/", "clear text"),
        ("https://127.0.0.1/t", "https://r.example/v2/", "this machine or its link"),
        ("https://169.254.169.254/t", "https://r.example/v2/", "this machine or its link"),
        ("https://10.0.0.1/t", "https://r.example/v2/", "private network"),
        ("https://[::ffff:10.0.0.1]/t", "https://r.example/v2/", "private network"),
        ("https://localhost/t", "https://r.example/v2/", "this machine or its link"),
        ("https://me:pw@a.example/t", "https://r.example/v2/", "credentials in its URL"),
        ("file:///etc/passwd", "https://r.example/v2/", "no http or https URL"),
        ("", "https://r.example/v2/", "no realm"),
    ],
)
def test_realms_that_are_refused(realm: str, endpoint: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words) as caught:
        check_realm(realm, endpoint)
    assert "pw" not in str(caught.value)


# scopes


def test_scopes_are_put_together_in_order() -> None:
    assert merge(["repository:a:push,pull"], ["repository:b:pull", "repository:a:pull"]) == (
        "repository:a:push,pull",
        "repository:b:pull",
    )
    assert merge(["registry:catalog:*"], ["odd"]) == ("registry:catalog:*", "odd")
    assert repository("host:5000/a", "pull") == "repository:host:5000/a:pull"


_SCOPE = st.builds(
    lambda name, actions: f"repository:{name}:{','.join(actions)}",
    st.sampled_from("abc"),
    st.lists(st.sampled_from(["pull", "push", "delete"]), min_size=1, max_size=3),
)


@given(st.lists(_SCOPE), st.lists(_SCOPE))
def test_merging_again_changes_nothing(one: list[str], other: list[str]) -> None:
    merged = merge(one, other)
    assert merge(merged) == merged == merge(merged, one, other)


# the cache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(*scopes: str, credentials: AuthConfig = PASSWORD) -> TokenKey:
    return TokenKey(realm=URL, service="reg", credentials=credentials, scopes=scopes)


def token(value: str, life: float = 300.0) -> Callable[[], Token]:
    return lambda: Token(value=value, life=life)


def refuse() -> Token:
    raise AssertionError("a token is there already")


def test_a_token_serves_until_it_expires() -> None:
    clock = Clock()
    cache = TokenCache(clock=clock)
    never = Cancellation()
    assert cache.get(key("repository:a:pull"), token("one"), never).value == "one"
    clock.now = 280
    assert cache.get(key("repository:a:pull"), refuse, never).value == "one"
    clock.now = 291
    assert cache.get(key("repository:a:pull"), token("two"), never).value == "two"


def test_a_token_for_more_serves_less_and_nobody_else() -> None:
    cache, never = TokenCache(), Cancellation()
    cache.get(key("repository:a:pull,push", "repository:b:pull"), token("wide"), never)
    assert cache.get(key("repository:a:pull"), refuse, never).value == "wide"
    assert cache.get(key("repository:a:push,pull"), refuse, never).value == "wide"
    assert cache.get(key(), refuse, never).value == "wide"
    for other in (
        key("repository:b:push"),
        key("repository:a:pull", credentials=AuthConfig()),
        key("repository:a:pull", credentials=AuthConfig(username="me", password="other")),
    ):
        assert cache.get(other, token("own"), never).value == "own"


def test_only_the_token_that_was_refused_is_forgotten() -> None:
    cache, never = TokenCache(), Cancellation()
    wanted = key("repository:a:pull")
    cache.get(wanted, token("one"), never)
    cache.forget(wanted, "an older one")
    assert cache.get(wanted, refuse, never).value == "one"
    cache.forget(wanted, "one")
    assert cache.get(wanted, token("two"), never).value == "two"


def _in_threads(count: int, act: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []
    lock = threading.Lock()

    def run() -> None:
        try:
            result = act()
        except Exception as error:
            result = error
        with lock:
            results.append(result)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


class Gate:
    """A fetch that waits until as many others wait for it as the test wants."""

    def __init__(self, cache: TokenCache, others: int, outcome: Callable[[], Token]) -> None:
        self.cache, self.others, self.outcome = cache, others, outcome
        self.calls = 0

    def __call__(self) -> Token:
        self.calls += 1
        poll = threading.Event()
        while sum(len(one.takers) for one in self.cache._fetches.values()) < self.others:
            poll.wait(0.002)
        return self.outcome()


def test_many_threads_share_one_fetch() -> None:
    cache, never = TokenCache(), Cancellation()
    gate = Gate(cache, 7, token("shared"))
    results = _in_threads(8, lambda: cache.get(key("repository:a:pull"), gate, never))
    assert [result.value for result in results] == ["shared"] * 8
    assert gate.calls == 1


def test_a_refusal_is_shared_too() -> None:
    cache, never = TokenCache(), Cancellation()

    def refused() -> Token:
        raise LoginRequiredError("no")

    gate = Gate(cache, 3, refused)
    results = _in_threads(4, lambda: cache.get(key("repository:a:pull"), gate, never))
    assert [type(result) for result in results] == [LoginRequiredError] * 4
    assert gate.calls == 1


def test_when_the_fetching_one_is_cancelled_another_fetches() -> None:
    cache, never = TokenCache(), Cancellation()
    outcomes = [CancelledError(), None]

    def outcome() -> Token:
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return Token(value="second")

    first = Gate(cache, 2, outcome)

    def fetch() -> Token:
        return first() if not first.calls else outcome()

    results = _in_threads(3, lambda: cache.get(key("repository:a:pull"), fetch, never))
    assert sorted(type(result).__name__ for result in results) == [
        "CancelledError",
        "Token",
        "Token",
    ]


def test_who_waits_can_be_cancelled_alone() -> None:
    cache, never, mine = TokenCache(), Cancellation(), Cancellation()
    gone = threading.Event()

    def outcome() -> Token:
        mine.cancel()
        gone.wait(10)
        return Token(value="t")

    gate = Gate(cache, 1, outcome)
    leader = threading.Thread(target=lambda: cache.get(key(), gate, never))
    leader.start()
    poll = threading.Event()
    while not gate.calls:
        poll.wait(0.002)
    with pytest.raises(CancelledError):
        cache.get(key(), refuse, mine)
    gone.set()
    leader.join(10)
    assert cache.get(key(), refuse, never).value == "t"
