"""Who may do what at the test registry: basic, tokens, grants, htpasswd files, search."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_registry_http import Answer, basic, bearer, call

from registry_service.testing import Registry
from registry_service.testing.access import AccessPolicy, Grant, Scope
from registry_service.testing.images import push_image, random_image
from registry_service.testing.passwords import Passwords
from registry_service.testing.tokens import InvalidTokenError, TokenSigner

USERS = {"ann": "secret", "bob": "other"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def token(registry: Registry, *scopes: str, user: str | None = "ann", **query: str) -> Answer:
    words = [("scope", scope) for scope in scopes] + list(query.items())
    headers = basic(user, USERS[user]) if user else {}
    return call(registry, "GET", f"/token?{urllib.parse.urlencode(words)}", headers=headers)


def form(registry: Registry, **fields: str) -> Answer:
    fields = {"service": "registry.test", "client_id": "tests", **fields}
    return call(registry, "POST", "/token", urllib.parse.urlencode(fields).encode(), FORM)


def parameters(challenge: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', challenge))


# basic


def test_basic_lets_in_who_has_the_password_only() -> None:
    with Registry(users=USERS) as registry:
        refused = call(registry, "GET", "/v2/")
        assert (refused.status, refused.codes) == (401, ["UNAUTHORIZED"])
        assert refused.header("WWW-Authenticate") == 'Basic realm="registry.test"'
        assert refused.header("Docker-Distribution-Api-Version") == "registry/2.0"
        for user, password in (("ann", "other"), ("nobody", "secret"), ("", ""), ("ann", "")):
            assert call(registry, "GET", "/v2/", headers=basic(user, password)).status == 401
        assert call(registry, "GET", "/v2/", headers={"Authorization": "Basic !"}).status == 401
        assert call(registry, "GET", "/v2/", headers=basic("ann", "secret")).status == 200
        assert [entry.user for entry in registry.requests][-1] == "ann"


def test_the_log_shows_no_credentials() -> None:
    with Registry(users=USERS) as registry:
        call(registry, "GET", "/v2/", headers={**basic("ann", "secret"), "Cookie": "secret"})
        entry = registry.requests[0]
        assert entry.scheme == "Basic"
        text = repr(entry) + str(entry)
        assert "secret" not in text
        assert basic("ann", "secret")["Authorization"].split()[1] not in text


def test_a_user_is_denied_what_is_not_granted() -> None:
    with Registry(users=USERS, access={"bob": ["pull:public/*", "bob/*"]}) as registry:
        for name in ("public/app", "bob/app", "secret/app"):
            push_image(registry, name, "1", random_image(1, layers=0))
        bob, ann = basic("bob", "other"), basic("ann", "secret")

        def got(method: str, name: str, headers: dict[str, str]) -> int:
            path = f"/v2/{name}/blobs/uploads/" if method == "POST" else f"/v2/{name}/manifests/1"
            return call(registry, method, path, headers=headers).status

        assert got("GET", "public/app", bob) == 200
        assert got("POST", "public/app", bob) == 403
        assert got("POST", "bob/app", bob) == 202
        assert got("GET", "secret/app", bob) == 403
        assert got("GET", "secret/app", ann) == 200
        assert got("DELETE", "public/app", bob) == 403
        assert got("DELETE", "bob/app", bob) == 202
        denied = call(registry, "GET", "/v2/secret/app/manifests/1", headers=bob)
        assert denied.codes == ["DENIED"]
        seen = call(registry, "GET", "/v2/_catalog", headers=bob).json["repositories"]
        assert seen == ["bob/app", "public/app"]


def test_a_blob_of_a_repository_that_is_not_seen_is_not_mounted() -> None:
    with Registry(users=USERS, access={"bob": ["bob/*"]}) as registry:
        of = registry.put_blob("secret/app", b"data")
        path = f"/v2/bob/app/blobs/uploads/?mount={of}&from=secret/app"
        assert call(registry, "POST", path, headers=basic("bob", "other")).status == 202
        assert not registry.has_blob("bob/app", of)


def test_anonymous_pull() -> None:
    with Registry(users=USERS, anonymous_pull=True) as registry:
        push_image(registry, "test/app", "1", random_image(1, layers=0))
        assert call(registry, "GET", "/v2/test/app/manifests/1").status == 200
        assert call(registry, "POST", "/v2/test/app/blobs/uploads/").status == 401
        assert call(registry, "GET", "/v2/").status == 401
        assert call(registry, "GET", "/v2/_catalog").status == 401
        wrong = basic("ann", "wrong")
        assert call(registry, "GET", "/v2/test/app/manifests/1", headers=wrong).status == 401


# tokens


def test_the_challenge_names_realm_service_and_scope() -> None:
    with Registry(users=USERS, auth="token") as registry:
        ping = call(registry, "GET", "/v2/").header("WWW-Authenticate")
        assert ping.startswith("Bearer ")
        realm = f"{registry.url}/token"
        assert parameters(ping) == {"realm": realm, "service": "registry.test"}
        push = call(registry, "POST", "/v2/test/app/blobs/uploads/").header("WWW-Authenticate")
        assert parameters(push)["scope"] == "repository:test/app:pull,push"
        gone = call(registry, "DELETE", "/v2/test/app/manifests/1").header("WWW-Authenticate")
        assert parameters(gone)["scope"] == "repository:test/app:delete"
        catalog = call(registry, "GET", "/v2/_catalog").header("WWW-Authenticate")
        assert parameters(catalog)["scope"] == "registry:catalog:*"
        query = "mount=sha256:" + "0" * 64 + "&from=b"
        mount = call(registry, "POST", f"/v2/a/blobs/uploads/?{query}").header("WWW-Authenticate")
        assert parameters(mount)["scope"] == "repository:a:pull,push repository:b:pull"


def test_a_token_opens_what_its_scopes_say() -> None:
    with Registry(users=USERS, auth="token") as registry:
        push_image(registry, "test/app", "1", random_image(1, layers=0))
        answer = token(registry, "repository:test/app:pull", service="registry.test")
        assert answer.status == 200
        assert answer.json["token"] == answer.json["access_token"]
        assert answer.json["expires_in"] == 300
        assert answer.json["issued_at"].endswith("Z")
        assert "refresh_token" not in answer.json
        headers = bearer(answer.json["token"])
        assert call(registry, "GET", "/v2/", headers=headers).status == 200
        assert call(registry, "GET", "/v2/test/app/tags/list", headers=headers).status == 200
        for method, path in [
            ("POST", "/v2/test/app/blobs/uploads/"),
            ("GET", "/v2/test/other/tags/list"),
            ("DELETE", "/v2/test/app/manifests/1"),
            ("GET", "/v2/_catalog"),
        ]:
            refused = call(registry, method, path, headers=headers)
            assert refused.status == 401
            challenge = parameters(refused.header("WWW-Authenticate"))
            assert challenge["error"] == "insufficient_scope"
        assert registry.requests[-1].user == ""
        assert registry.requests[1].user == "ann"


def test_several_scopes_and_the_catalog() -> None:
    with Registry(users=USERS, auth="token") as registry:
        registry.put_blob("a", b"")
        registry.put_blob("b", b"")
        scopes = "repository:a:pull,push repository:b:pull"
        got = token(registry, scopes, "registry:catalog:*").json["token"]
        headers = bearer(got)
        assert call(registry, "POST", "/v2/a/blobs/uploads/", headers=headers).status == 202
        assert call(registry, "GET", "/v2/b/tags/list", headers=headers).status == 200
        catalog = call(registry, "GET", "/v2/_catalog", headers=headers)
        assert catalog.json == {"repositories": ["a", "b"]}


def test_tokens_run_out_by_the_clock_and_at_once() -> None:
    clock = Clock()
    with Registry(users=USERS, auth="token", token_lifetime=60, clock=clock) as registry:
        first = bearer(token(registry).json["token"])
        assert call(registry, "GET", "/v2/", headers=first).status == 200
        clock.now += 60
        refused = call(registry, "GET", "/v2/", headers=first)
        assert parameters(refused.header("WWW-Authenticate"))["error"] == "invalid_token"
        second = bearer(token(registry).json["token"])
        assert call(registry, "GET", "/v2/", headers=second).status == 200
        registry.expire_tokens()
        assert call(registry, "GET", "/v2/", headers=second).status == 401
        assert call(registry, "GET", "/v2/", headers=bearer("forged")).status == 401


def test_the_token_endpoint_refuses_wrong_credentials_services_and_scopes() -> None:
    with Registry(users=USERS, auth="token") as registry:
        assert call(registry, "GET", "/token", headers=basic("ann", "x")).status == 401
        anonymous = token(registry, user=None)
        assert anonymous.status == 401
        assert anonymous.header("WWW-Authenticate").startswith("Basic ")
        assert token(registry, service="elsewhere").status == 400
        assert token(registry, "nonsense").status == 400
        assert call(registry, "PUT", "/token").status == 405
        # Basic authentication is for the token endpoint alone.
        assert call(registry, "GET", "/v2/", headers=basic("ann", "secret")).status == 401


def test_anonymous_tokens_pull_and_no_more() -> None:
    with Registry(users=USERS, auth="token", anonymous_pull=True) as registry:
        registry.put_blob("a", b"")
        headers = bearer(token(registry, "repository:a:pull,push", user=None).json["token"])
        assert call(registry, "GET", "/v2/a/tags/list", headers=headers).status == 200
        assert call(registry, "POST", "/v2/a/blobs/uploads/", headers=headers).status == 401


def test_tokens_carry_what_the_user_may_do_only() -> None:
    with Registry(users=USERS, auth="token", access={"bob": ["pull:a"]}) as registry:
        registry.put_blob("a", b"")
        registry.put_blob("b", b"")
        answer = token(registry, "repository:a:pull,push", "repository:b:pull", user="bob")
        headers = bearer(answer.json["token"])
        assert call(registry, "GET", "/v2/a/tags/list", headers=headers).status == 200
        assert call(registry, "POST", "/v2/a/blobs/uploads/", headers=headers).status == 401
        assert call(registry, "GET", "/v2/b/tags/list", headers=headers).status == 401


def test_tokens_by_password_form_and_by_refresh_token() -> None:
    with Registry(users=USERS, auth="token") as registry:
        registry.put_blob("a", b"")
        scope = "repository:a:pull"
        first = form(
            registry,
            grant_type="password",
            username="ann",
            password="secret",
            access_type="offline",
            scope=scope,
        )
        assert first.status == 200
        assert "token" not in first.json
        assert first.json["scope"] == scope
        headers = bearer(first.json["access_token"])
        assert call(registry, "GET", "/v2/a/tags/list", headers=headers).status == 200
        refresh = first.json["refresh_token"]
        assert call(registry, "GET", "/v2/", headers=bearer(refresh)).status == 401
        second = form(registry, grant_type="refresh_token", refresh_token=refresh, scope=scope)
        headers = bearer(second.json["access_token"])
        assert call(registry, "GET", "/v2/a/tags/list", headers=headers).status == 200
        registry.expire_tokens(refresh=True)
        third = form(registry, grant_type="refresh_token", refresh_token=refresh)
        assert (third.status, third.json["error"]) == (401, "invalid_grant")
        offline = token(registry, offline_token="true").json["refresh_token"]
        again = form(registry, grant_type="refresh_token", refresh_token=offline)
        assert again.status == 200


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"grant_type": "password", "username": "ann", "password": "x"}, 401, "invalid_grant"),
        ({"grant_type": "password"}, 401, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 401, "invalid_grant"),
        ({"grant_type": "magic"}, 400, "unsupported_grant_type"),
        ({"grant_type": "password", "client_id": ""}, 400, "invalid_request"),
        ({"grant_type": "password", "service": "x"}, 400, "invalid_request"),
        (
            {"grant_type": "password", "username": "ann", "password": "secret", "scope": "x"},
            400,
            "invalid_scope",
        ),
        ({}, 400, "invalid_request"),
    ],
)
def test_forms_that_are_refused(fields: dict[str, str], status: int, error: str) -> None:
    with Registry(users=USERS, auth="token") as registry:
        answer = form(registry, **fields)
        assert (answer.status, answer.json["error"]) == (status, error)


@given(st.binary(max_size=60), st.integers(0, 40))
def test_a_token_that_was_changed_is_not_taken(noise: bytes, place: int) -> None:
    signer = TokenSigner(Clock())
    made, claims = signer.issue("access", "ann", (Scope.repository("a", "pull"),), 60)
    assert signer.read("access", made) == claims
    text = base64.urlsafe_b64encode(noise).decode()
    for wrong in (text, f"{text}.{text}", made[:place] + "A" + made[place:], made + "é"):
        with pytest.raises(InvalidTokenError):
            signer.read("access", wrong)
    with pytest.raises(InvalidTokenError, match="no refresh token"):
        signer.read("refresh", made)


# grants and passwords


def test_scopes_are_read_and_written() -> None:
    scope = Scope.parse("repository:127.0.0.1:5000/app:push,pull")
    assert scope.name == "127.0.0.1:5000/app"
    assert str(scope) == "repository:127.0.0.1:5000/app:pull,push"
    assert Scope.parse("repository(plugin):a:pull").type == "repository"
    for text in ("", "repository", "repository:a", ":a:pull"):
        with pytest.raises(ValueError, match="type:name:actions"):
            Scope.parse(text)


def test_grants_are_read_and_bad_ones_refused() -> None:
    assert Grant.parse("a/*") == Grant(pattern="a/*")
    assert Grant.parse("pull,push:a").actions == {"pull", "push"}
    for text in ("", "pull:", "read:a", "pull,:a"):
        with pytest.raises(ValueError, match="ACTIONS:PATTERN"):
            Grant.parse(text)


def test_an_empty_list_of_grants_allows_nothing() -> None:
    policy = AccessPolicy({"bob": []})
    scope = Scope.repository("a", "pull")
    assert not policy.allows("bob", [scope])
    assert policy.allows("ann", [scope])
    assert not policy.allows("", [scope])


def test_grants_narrow_what_anybody_may_pull() -> None:
    policy = AccessPolicy({"": ["public/*"]}, anonymous_pull=True)
    assert policy.allows("", [Scope.repository("public/a", "pull")])
    assert not policy.allows("", [Scope.repository("public/a", "push")])
    assert not policy.allows("", [Scope.repository("a", "pull")])


def test_htpasswd_files_with_bcrypt_and_sha(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    sha = base64.b64encode(hashlib.sha1(b"other", usedforsecurity=False).digest()).decode()
    path = tmp_path / "htpasswd"
    # htpasswd writes bcrypt hashes with the letter y, the library with b: they are the same.
    lines = ["# users", "", f"ann:{hashed.replace('$2b$', '$2y$')}", f"bob:{{SHA}}{sha}"]
    path.write_text("\n".join(lines) + "\n")
    passwords = Passwords()
    passwords.read_htpasswd(path)
    assert passwords.names == {"ann", "bob"}
    for _ in range(2):
        assert passwords.check("ann", "secret")
        assert passwords.check("bob", "other")
        assert not passwords.check("ann", "other")
        assert not passwords.check("bob", "")
    assert not passwords.check("ann", "secret\0" + "x" * 100)


def test_passwords_beyond_what_bcrypt_reads(tmp_path: Path) -> None:
    long = "x" * 100
    hashed = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    path = tmp_path / "htpasswd"
    path.write_text(f"ann:{hashed}\n")
    passwords = Passwords()
    passwords.read_htpasswd(path)
    assert passwords.check("ann", long)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bob", "user:hash"),
        ("bob:$apr1$x$y", "neither bcrypt"),
        ("bob:plain", "neither bcrypt"),
        ("bob:{SHA}short", "20 bytes"),
        (":{SHA}" + "A" * 27 + "=", "cannot be a user's name"),
        ("ann:{SHA}" + "A" * 27 + "=", "given twice"),
    ],
)
def test_an_htpasswd_line_that_cannot_be_read_is_named(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "htpasswd"
    path.write_text("ann:{SHA}" + "A" * 27 + f"=\n{line}\n")
    with pytest.raises(ValueError, match=rf"htpasswd, line 2: .*{re.escape(message)}") as caught:
        Registry(htpasswd=path)
    assert "plain" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auth": "digest", "users": USERS}, "auth is"),
        ({"auth": "basic"}, "needs users"),
        ({"anonymous_pull": True}, "need users"),
        ({"users": USERS, "access": {"eve": ["*"]}}, "eve"),
        ({"users": USERS, "access": {"": ["a"]}}, "needs anonymous_pull"),
        ({"users": {"a:b": "x"}}, "colon"),
        ({"page_size": 0}, "page_size"),
        ({"faults": ["nonsense"]}, "nonsense"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Registry(**options)


# search


def test_search_by_name_and_description_most_stars_first(tmp_path: Path) -> None:
    known = {
        "library/alpine": {"description": "small", "star_count": 9, "is_official": True},
        "me/tool": {"description": "built on Alpine", "star_count": 2, "is_automated": True},
    }
    (tmp_path / "search.json").write_text(json.dumps(known))
    with Registry(tmp_path) as registry:
        registry.put_blob("me/alpine", b"")
        registry.put_blob("me/other", b"")
        registry.describe("you/alpine", star_count=5)
        answer = call(registry, "GET", "/v1/search?q=alpine").json
        assert (answer["query"], answer["num_results"], answer["num_pages"]) == ("alpine", 4, 1)
        names = [one["name"] for one in answer["results"]]
        assert names == ["library/alpine", "you/alpine", "me/tool", "me/alpine"]
        assert answer["results"][2] == {
            "name": "me/tool",
            "description": "built on Alpine",
            "star_count": 2,
            "is_official": False,
            "is_automated": True,
            "is_trusted": True,
        }
        pages = [
            [
                one["name"]
                for one in call(registry, "GET", f"/v1/search?q=alpine&n=3&page={page}").json[
                    "results"
                ]
            ]
            for page in (1, 2, 3)
        ]
        assert pages == [names[:3], names[3:], []]
        assert call(registry, "GET", "/v1/search?q=none").json["results"] == []
        assert call(registry, "GET", "/v1/search?q=a&n=0").status == 400


def test_search_shows_what_the_user_sees() -> None:
    with Registry(users=USERS, auth="token", access={"bob": ["public/*"]}) as registry:
        registry.put_blob("public/app", b"")
        registry.put_blob("secret/app", b"")

        def found(headers: dict[str, str]) -> list[str]:
            answer = call(registry, "GET", "/v1/search?q=app", headers=headers)
            return [one["name"] for one in answer.json["results"]]

        assert found(basic("bob", "other")) == ["public/app"]
        assert found(basic("ann", "secret")) == ["public/app", "secret/app"]
        assert call(registry, "GET", "/v1/search?q=app").status == 401


def test_the_ping_of_v1() -> None:
    with Registry() as registry:
        answer = call(registry, "GET", "/v1/_ping")
        assert answer.json is True
        assert answer.header("X-Docker-Registry-Standalone") == "true"
        assert call(registry, "GET", "/v1/users/").status == 404


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "an object"),
        ('{"a": 1}', "'a'"),
        ('{"a": {"stars": 1}}', "star_count"),
        ('{"a": {"star_count": "1"}}', "of type int"),
        ('{"a": {"star_count": -1}}', "0 or more"),
    ],
)
def test_a_search_file_that_cannot_be_read_is_named(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(ValueError, match=rf"search\.json.*{message}"):
        Registry(tmp_path)
