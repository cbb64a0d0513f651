"""The V1 test index with its registries, over raw HTTP."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support_registry_http import Answer, basic, call

from registry_service.testing import TLSFiles
from registry_service.testing.server import Server
from registry_service.testing.v1 import Account, V1Index, V1Registry, images

CHAIN = images.random_chain(seed=5, length=2)
TOP = CHAIN.images[-1]
BASE = CHAIN.images[0]
APP = "/v1/repositories/anna/app"
WANTED = {"X-Docker-Token": "true"}
ANNA = basic("anna", "secret")


class Pair:
    """An index and its registry."""

    def __init__(self, index: V1Index, registry: V1Registry) -> None:
        self.index = index
        self.registry = registry

    def token(self, access: str = "read", headers: dict[str, str] | None = None) -> str:
        """A token of the index for anna/app."""
        given = {**ANNA, **WANTED} if headers is None else headers
        if access == "read":
            answer = call(self.index, "GET", f"{APP}/images", headers=given)
        elif access == "write":
            answer = call(self.index, "PUT", f"{APP}/", listed(), given)
        else:
            answer = call(self.index, "DELETE", f"{APP}/", headers=given)
        assert answer.status in (200, 202), answer.body
        token = answer.header("X-Docker-Token")
        assert token.startswith("signature=")
        assert token.endswith(f',repository="anna/app",access={access}')
        return token


@contextlib.contextmanager
def pair(*, one_use: bool = False, cookies: bool = True, strict: bool = False) -> Iterator[Pair]:
    accounts = [
        Account(name="anna", password="secret", email="anna@example.com"),
        Account(name="bert", password="secret", email="bert@example.com", active=False),
        Account(name="carl", password="secret", grants=("pull:anna/*", "library/*")),
        Account(name="dora", password="secret"),
    ]
    with (
        V1Registry(role="registry", cookies=cookies, strict_access=strict) as registry,
        V1Index(registries=[registry], accounts=accounts, one_use=one_use) as index,
    ):
        yield Pair(index, registry)


@pytest.fixture
def both() -> Iterator[Pair]:
    with pair() as one:
        yield one


@pytest.fixture
def filled(both: Pair) -> Pair:
    images.push_chain(both.registry, "anna/app", "latest", CHAIN)
    return both


def listed(*, checksums: bool = False) -> bytes:
    found = [
        {"id": one.id, **({"checksum": one.tarsum} if checksums else {})} for one in CHAIN.images
    ]
    return json.dumps(found).encode()


def sent(*tokens: str) -> dict[str, str]:
    return {"Authorization": f"Token {','.join(tokens)}"}


def where(image: images.V1Image, part: str) -> str:
    return f"/v1/images/{image.id}/{part}"


def refused(answer: Answer, status: int) -> str:
    assert answer.status == status, answer.body
    return str(answer.json["error"])


# who they are


def test_neither_stands_alone(both: Pair) -> None:
    for server in (both.index, both.registry):
        answer = call(server, "GET", "/v1/_ping")
        assert (answer.status, answer.header("X-Docker-Registry-Standalone")) == (200, "false")


def test_each_answers_only_what_is_its_own(both: Pair) -> None:
    assert call(both.index, "GET", where(TOP, "json")).status == 404
    assert call(both.index, "GET", f"{APP}/tags").status == 404
    for headers in ({}, sent(both.token("write"))):
        for method, path in (
            ("PUT", f"{APP}/"),
            ("GET", f"{APP}/images"),
            ("PUT", f"{APP}/auth"),
            ("GET", "/v1/users/"),
            ("GET", "/v1/search?q=app"),
        ):
            assert call(both.registry, method, path, b"[]", headers).status == 404


# a pull


def test_a_pull_goes_from_the_index_to_the_registry(filled: Pair) -> None:
    answer = call(filled.index, "GET", f"{APP}/images", headers=WANTED)
    assert answer.status == 200
    assert {one["id"]: one["checksum"] for one in answer.json} == {
        one.id: one.checksum for one in CHAIN.images
    }
    assert answer.header("X-Docker-Endpoints") == filled.registry.host
    token = answer.header("X-Docker-Token")
    assert answer.header("WWW-Authenticate") == f"Token {token}"
    found = call(filled.registry, "GET", f"{APP}/tags", headers=sent(token))
    assert found.json == {"latest": TOP.id}
    for part, body in (("json", TOP.raw), ("layer", TOP.layer)):
        assert call(filled.registry, "GET", where(TOP, part), headers=sent(token)).body == body


def test_a_token_is_only_given_where_it_is_asked_for(filled: Pair) -> None:
    for headers in ({}, ANNA, {"X-Docker-Token": "false"}):
        answer = call(filled.index, "GET", f"{APP}/images", headers=headers)
        assert answer.status == 200
        assert answer.headers["X-Docker-Token"] is None
        assert answer.headers["WWW-Authenticate"] is None
        assert answer.header("X-Docker-Endpoints") == filled.registry.host


def test_a_repository_that_is_not_there(both: Pair) -> None:
    answer = call(both.index, "GET", f"{APP}/images", headers=ANNA)
    assert refused(answer, 404) == "images not found"


def test_a_name_alone_is_of_the_library(both: Pair) -> None:
    images.push_chain(both.registry, "base", "latest", CHAIN)
    for name in ("base", "library/base"):
        answer = call(both.index, "GET", f"/v1/repositories/{name}/images", headers=WANTED)
        assert 'repository="library/base"' in answer.header("X-Docker-Token")
    token = sent(answer.header("X-Docker-Token"))
    assert call(both.registry, "GET", "/v1/repositories/base/tags", headers=token).status == 200


def test_there_may_be_several_endpoints() -> None:
    for repeated, lines in ((False, ["a.test:1, b.test"]), (True, ["a.test:1", "b.test"])):
        with V1Index(registries=["a.test:1", "b.test"], repeated=repeated) as index:
            index.add_images("anna/app", [{"id": TOP.id}])
            answer = call(index, "GET", f"{APP}/images")
            assert answer.headers.get_all("X-Docker-Endpoints") == lines
    with V1Index() as index:
        index.add_images("anna/app", [{"id": TOP.id}])
        answer = call(index, "GET", f"{APP}/images")
        assert answer.headers["X-Docker-Endpoints"] is None


# a push


def test_a_push_goes_from_the_index_to_the_registry_and_back(both: Pair) -> None:
    token = sent(both.token("write"))
    for image in CHAIN.images:
        assert call(both.registry, "GET", where(image, "json"), headers=token).status == 404
        sums = {"X-Docker-Checksum": image.tarsum, "X-Docker-Checksum-Payload": image.checksum}
        statuses = [
            call(both.registry, "PUT", where(image, "json"), image.raw, token).status,
            call(both.registry, "PUT", where(image, "layer"), [image.layer], token).status,
            call(both.registry, "PUT", where(image, "checksum"), None, {**token, **sums}).status,
        ]
        assert statuses == [200, 200, 200]
    tag = f'"{TOP.id}"'.encode()
    assert call(both.registry, "PUT", f"{APP}/tags/1", tag, token).status == 200
    answer = call(both.index, "PUT", f"{APP}/images", listed(checksums=True), {**ANNA, **WANTED})
    assert (answer.status, answer.body) == (204, b"")
    known = both.index.images("anna/app")
    assert known is not None
    assert {one["id"]: one["checksum"] for one in known} == {
        one.id: one.tarsum for one in CHAIN.images
    }
    assert both.registry.tags("anna/app") == {"1": TOP.id}


def test_an_image_that_was_not_announced_is_refused(both: Pair) -> None:
    other = images.random_chain(seed=6, length=1).images[0]
    token = sent(both.token("write"))
    answer = call(both.registry, "PUT", where(other, "json"), other.raw, token)
    assert refused(answer, 400) == "This image does not belong to the repository"


def test_a_parent_of_a_private_repository_is_not_built_on(both: Pair) -> None:
    base = images.random_chain(seed=6, length=1).images[0]
    raw = json.dumps({"id": TOP.id, "parent": base.id}).encode()
    images.push_chain(both.registry, "dora/secret", "latest", images.Chain(images=(base,)))
    both.index.set_private("dora/secret")
    token = sent(both.token("write"))
    answer = call(both.registry, "PUT", where(TOP, "json"), raw, token)
    assert refused(answer, 400) == "Image depends on an unauthorized parent"
    both.index.set_private("dora/secret", False)
    assert call(both.registry, "PUT", where(TOP, "json"), raw, token).status == 200


def test_only_who_may_pushes(both: Pair) -> None:
    for headers, status in (
        ({}, 401),
        (basic("anna", "wrong"), 401),
        (basic("nobody", "secret"), 401),
        (basic("bert", "secret"), 403),
        (basic("dora", "secret"), 403),
        (basic("carl", "secret"), 403),
    ):
        for method, path in (("PUT", f"{APP}/"), ("PUT", f"{APP}/images"), ("DELETE", f"{APP}/")):
            answer = call(both.index, method, path, listed(), {**headers, **WANTED})
            assert answer.status == status, (headers, method)
            if status == 401:
                challenge = answer.header("WWW-Authenticate")
                assert challenge == 'Basic realm="auth required",Token'
    assert both.index.repositories() == []
    carl = basic("carl", "secret")
    assert call(both.index, "PUT", "/v1/repositories/base/", listed(), carl).status == 200
    assert both.index.repositories() == ["library/base"]


@pytest.mark.parametrize("body", [b"{", b"{}", b'[{"checksum":"x"}]'])
def test_a_list_that_is_none_is_refused(both: Pair, body: bytes) -> None:
    refused(call(both.index, "PUT", f"{APP}/", body, ANNA), 400)
    assert both.index.images("anna/app") is None


# private repositories


def test_a_private_repository_is_seen_by_its_own(filled: Pair) -> None:
    filled.index.set_private("anna/app")
    statuses = {
        name: call(filled.index, "GET", f"{APP}/images", headers=basic(name, "secret")).status
        for name in ("anna", "bert", "carl", "dora")
    }
    assert statuses == {"anna": 200, "bert": 403, "carl": 200, "dora": 404}
    assert call(filled.index, "GET", f"{APP}/images").status == 401
    assert call(filled.index, "GET", f"{APP}/images", headers=basic("anna", "no")).status == 401
    for name, found in (("anna", ["anna/app"]), ("dora", [])):
        answer = call(filled.index, "GET", "/v1/search?q=app", headers=basic(name, "secret"))
        assert [one["name"] for one in answer.json["results"]] == found
    assert call(filled.index, "GET", "/v1/search?q=app").json["num_results"] == 0


def test_the_search_names_the_library_without_its_namespace(filled: Pair) -> None:
    images.push_chain(filled.registry, "app-base", "latest", CHAIN)
    filled.index.describe("app-base", description="to build on", star_count=9, is_official=True)
    found = call(filled.index, "GET", "/v1/search?q=app").json
    assert [one["name"] for one in found["results"]] == ["app-base", "anna/app"]


# tokens and sessions


@pytest.mark.parametrize(
    "headers",
    [
        {},
        ANNA,
        sent(""),
        sent('signature=0,repository="anna/app",access=read'),
        {"Authorization": "Token"},
        {"Cookie": "session=unknown"},
        {"Cookie": "session"},
    ],
)
def test_nobody_is_let_in_without_a_good_token(filled: Pair, headers: dict[str, str]) -> None:
    for path in (where(TOP, "json"), where(TOP, "layer"), f"{APP}/tags"):
        answer = call(filled.registry, "GET", path, headers=headers)
        assert answer.header("WWW-Authenticate") == "Token"
        assert refused(answer, 401) == "Requires authorization"


def test_a_token_is_good_for_what_it_says(filled: Pair) -> None:
    read = filled.token("read")
    assert call(filled.registry, "PUT", where(TOP, "json"), TOP.raw, sent(read)).status == 401
    assert call(filled.registry, "DELETE", f"{APP}/tags/latest", None, sent(read)).status == 401
    other = "/v1/repositories/anna/other/tags"
    assert call(filled.registry, "GET", other, headers=sent(read)).status == 401
    for changed in (
        read.replace("access=read", "access=write"),
        read.replace("anna/app", "anna/other"),
        read.partition(",")[0],
    ):
        assert call(filled.registry, "GET", where(TOP, "json"), headers=sent(changed)).status == 401


def test_a_token_may_come_with_the_word_twice(filled: Pair) -> None:
    token = filled.token("read")
    answer = call(filled.registry, "GET", where(TOP, "json"), headers=sent(f"Token {token}"))
    assert answer.status == 200


def test_a_repository_without_tags_is_known_to_whoever_has_a_token(both: Pair) -> None:
    both.index.add_images("anna/app", [{"id": TOP.id}])
    answer = call(both.registry, "GET", f"{APP}/tags", headers=sent(both.token("read")))
    assert (answer.status, answer.json) == (200, {})


@pytest.mark.parametrize("strict", [False, True])
def test_a_token_to_write_reads_unless_it_is_as_in_the_original(strict: bool) -> None:
    with pair(strict=strict) as both:
        token = sent(both.token("write"))
        status = call(both.registry, "GET", where(TOP, "json"), headers=token).status
        assert status == (401 if strict else 404)
        assert call(both.registry, "PUT", where(BASE, "json"), BASE.raw, token).status == 200
        token = sent(both.token("read"))
        for method in ("GET", "HEAD"):
            status = call(both.registry, method, f"{APP}/tags", headers=token).status
            assert status == (401 if strict and method == "HEAD" else 200)


def test_tokens_run_out(filled: Pair) -> None:
    token = sent(filled.token("read"))
    assert call(filled.registry, "GET", where(TOP, "json"), headers=token).status == 200
    filled.index.expire_tokens()
    assert call(filled.registry, "GET", where(TOP, "json"), headers=token).status == 401


def test_a_token_ends_by_the_clock() -> None:
    now = [1000.0]
    registry = V1Registry(role="registry")
    with registry, V1Index(registries=[registry], token_lifetime=60, clock=lambda: now[0]) as index:
        images.push_chain(registry, "anna/app", "latest", CHAIN)
        token = call(index, "GET", f"{APP}/images", headers=WANTED).header("X-Docker-Token")
        for later, status in ((59.9, 200), (60, 401)):
            now[0] = 1000 + later
            answer = call(registry, "GET", where(TOP, "json"), headers=sent(token))
            assert answer.status == status


def test_a_token_that_does_not_fit_is_not_used_up() -> None:
    """As with the original, whose clients ask for an image with the token to send it with."""
    with pair(one_use=True, strict=True) as both:
        token = sent(both.token("write"))
        assert call(both.registry, "GET", where(BASE, "json"), headers=token).status == 401
        assert call(both.registry, "PUT", where(BASE, "json"), BASE.raw, token).status == 200


def test_a_token_of_one_use_opens_a_session() -> None:
    with pair(one_use=True) as both:
        images.push_chain(both.registry, "anna/app", "latest", CHAIN)
        token = sent(both.token("read"))
        answer = call(both.registry, "GET", where(TOP, "json"), headers=token)
        cookie, _, attributes = answer.header("Set-Cookie").partition(";")
        assert (answer.status, attributes) == (200, " Path=/; HttpOnly")
        assert call(both.registry, "GET", where(TOP, "layer"), headers=token).status == 401
        session = {"Cookie": f"other=1; {cookie}"}
        for headers in (session, {**session, **token}):
            answer = call(both.registry, "GET", where(TOP, "layer"), headers=headers)
            assert (answer.status, answer.headers["Set-Cookie"]) == (200, None)
            assert both.registry.requests[-1].user == "anna"
        answer = call(both.registry, "PUT", where(TOP, "json"), TOP.raw, session)
        assert answer.status == 401
        both.registry.end_sessions()
        assert call(both.registry, "GET", where(TOP, "layer"), headers=session).status == 401


def test_a_session_is_opened_by_an_error_too() -> None:
    with pair(one_use=True) as both:
        token = sent(both.token("write"))
        answer = call(both.registry, "GET", where(BASE, "json"), headers=token)
        assert answer.status == 404
        session = {"Cookie": answer.header("Set-Cookie").partition(";")[0]}
        answer = call(both.registry, "PUT", where(BASE, "json"), BASE.raw, session)
        assert answer.status == 200


def test_a_session_is_of_one_repository_and_another_token_opens_another(filled: Pair) -> None:
    images.push_chain(filled.registry, "anna/other", "latest", CHAIN)
    answer = call(filled.registry, "GET", f"{APP}/tags", headers=sent(filled.token("read")))
    session = {"Cookie": answer.header("Set-Cookie").partition(";")[0]}
    other = "/v1/repositories/anna/other"
    assert call(filled.registry, "GET", f"{other}/tags", headers=session).status == 401
    token = call(filled.index, "GET", f"{other}/images", headers=WANTED).header("X-Docker-Token")
    answer = call(filled.registry, "GET", f"{other}/tags", headers={**session, **sent(token)})
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] is not None


def test_without_cookies_there_are_no_sessions() -> None:
    with pair(cookies=False) as both:
        images.push_chain(both.registry, "anna/app", "latest", CHAIN)
        answer = call(both.registry, "GET", f"{APP}/tags", headers=sent(both.token("read")))
        assert (answer.status, answer.headers["Set-Cookie"]) == (200, None)


def test_a_registry_of_another_program_asks_over_http(filled: Pair) -> None:
    token = sent(filled.token("read"))
    answer = call(filled.index, "GET", f"{APP}/images", headers=token)
    assert (answer.status, {one["id"] for one in answer.json}) == (200, set(CHAIN.ancestry))
    other = "/v1/repositories/anna/other"
    assert call(filled.index, "GET", f"{other}/images", headers=token).status == 401
    assert call(filled.index, "PUT", f"{APP}/auth", headers=token).json == "OK"
    assert refused(call(filled.index, "PUT", f"{APP}/auth", headers=sent("x")), 403)
    assert call(filled.index, "PUT", f"{other}/auth", headers=token).status == 404
    for image_id, access in ((TOP.id, True), ("f" * 64, False)):
        path = f"{APP}/layer/{image_id}/access"
        assert call(filled.index, "GET", path, headers=token).json == {"access": access}
    assert call(filled.index, "GET", f"{APP}/layer/{TOP.id}/access").status == 401


def test_a_token_of_one_use_is_used_by_the_question_about_it() -> None:
    with pair(one_use=True) as both:
        images.push_chain(both.registry, "anna/app", "latest", CHAIN)
        token = sent(both.token("read"))
        assert call(both.index, "PUT", f"{APP}/auth", headers=token).status == 200
        assert call(both.index, "PUT", f"{APP}/auth", headers=token).status == 403


# taking a repository away


def test_a_repository_goes_in_two_steps(filled: Pair) -> None:
    token = filled.token("delete")
    assert call(filled.registry, "DELETE", f"{APP}/", headers=sent(token)).status == 200
    assert filled.registry.tags("anna/app") == {}
    assert filled.index.repositories() == ["anna/app"]
    assert call(filled.index, "DELETE", f"{APP}/", headers=ANNA).status == 200
    assert filled.index.repositories() == []
    assert call(filled.index, "DELETE", f"{APP}/", headers=ANNA).status == 404


# accounts


def account(
    name: str = "emma_1", email: str = "emma@example.com", password: str = "pass5"
) -> bytes:
    return json.dumps({"username": name, "email": email, "password": password}).encode()


def test_an_account_is_made_and_then_confirmed(both: Pair) -> None:
    answer = call(both.index, "POST", "/v1/users/", account())
    assert (answer.status, answer.json) == (201, "User Created")
    emma = basic("emma_1", "pass5")
    answer = call(both.index, "GET", "/v1/users/", headers=emma)
    assert refused(answer, 403) == "Account is not Active"
    both.index.activate("emma_1")
    answer = call(both.index, "GET", "/v1/users/", headers=emma)
    assert (answer.status, answer.json) == (200, "OK")
    path = "/v1/repositories/emma_1/app/"
    assert call(both.index, "PUT", path, b"[]", emma).status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (account("anna"), "Username or email already exists"),
        (account(email="anna@example.com"), "Username or email already exists"),
        (account("Emma!"), "Username is to be 4 to 30 characters of [a-z0-9_]"),
        (account(password="abcd"), "Password is too short, or email is none"),
        (account(email="nowhere"), "Password is too short, or email is none"),
        (b'{"username":"emma"}', "Missing field: username, password and email are wanted"),
        (b"{", "Error Decoding JSON"),
    ],
)
def test_an_account_that_is_not_made(both: Pair, body: bytes, message: str) -> None:
    answer = call(both.index, "POST", "/v1/users/", body)
    assert (answer.status, answer.body.strip()) == (400, json.dumps(message).encode())


def test_where_accounts_are_protected_nobody_makes_one() -> None:
    with V1Index(accounts={"anna": "secret"}, protected=True) as index:
        assert call(index, "POST", "/v1/users/", account()).status == 401
        assert call(index, "GET", "/v1/users/", headers=ANNA).status == 200
        assert call(index, "GET", "/v1/users/", headers=basic("anna", "no")).status == 401
        assert call(index, "GET", "/v1/users/").status == 401


def test_an_account_may_be_active_at_once() -> None:
    with V1Index(activated=True) as index:
        assert call(index, "POST", "/v1/users/", account()).status == 201
        answer = call(index, "GET", "/v1/users/", headers=basic("emma_1", "pass5"))
        assert answer.status == 200


def test_an_account_is_changed_by_its_own(both: Pair) -> None:
    change = json.dumps({"password": "other", "email": "new@example.com"}).encode()
    answer = call(both.index, "PUT", "/v1/users/anna/", change, ANNA)
    assert (answer.status, answer.body) == (204, b"")
    assert call(both.index, "GET", "/v1/users/", headers=ANNA).status == 401
    anna = basic("anna", "other")
    assert call(both.index, "GET", "/v1/users/", headers=anna).status == 200
    found = both.index.account("anna")
    assert found is not None
    assert found.email == "new@example.com"
    assert "other" not in repr(found)
    assert call(both.index, "PUT", "/v1/users/anna/", b"{}", anna).status == 400
    assert call(both.index, "PUT", "/v1/users/dora/", change, anna).status == 403
    assert call(both.index, "PUT", "/v1/users/nobody/", change, anna).status == 404


def test_whoever_comes_for_a_private_repository_has_what_he_sees(filled: Pair) -> None:
    other = images.random_chain(seed=9, length=1)
    images.push_chain(filled.registry, "dora/secret", "latest", other)
    filled.index.set_private("dora/secret")
    private = json.dumps({"access": "private"}).encode()
    token = sent(filled.token("write"))
    assert call(filled.registry, "PUT", f"{APP}/properties", private, token).status == 200
    token = sent(filled.token("read"))
    for image, status in ((TOP, 200), (other.images[0], 404)):
        assert call(filled.registry, "GET", where(image, "json"), headers=token).status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{APP}/images"),
        ("GET", f"{APP}/auth"),
        ("GET", f"{APP}/"),
        ("DELETE", "/v1/users/"),
        ("GET", "/v1/users/anna/"),
    ],
)
def test_methods_that_are_not_known(filled: Pair, method: str, path: str) -> None:
    assert refused(call(filled.index, method, path, headers=ANNA), 405) == "Method not allowed"


def test_accounts_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
    with V1Index(htpasswd=tmp_path / "users") as index:
        assert call(index, "GET", "/v1/users/", headers=ANNA).status == 200
        assert call(index, "PUT", f"{APP}/", b"[]", ANNA).status == 200
        index.activate("anna", False)
        assert call(index, "GET", "/v1/users/", headers=ANNA).status == 403


def test_a_fault_of_an_index_speaks_v1(filled: Pair) -> None:
    filled.index.add_fault("status:code=500,times=1")
    assert "switched on" in refused(call(filled.index, "GET", f"{APP}/images"), 500)


# layers elsewhere


def test_layers_may_be_at_another_origin() -> None:
    with V1Registry(redirect_layers=True) as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        answer = call(registry, "GET", where(TOP, "layer"))
        assert (answer.status, answer.body) == (302, b"")
        location = answer.header("Location")
        assert location.startswith(f"{registry.origin.url}/layers/{TOP.id}?signature=")
        assert registry.origin.port != registry.port
        path = location.removeprefix(registry.origin.url)
        origin: Server = registry.origin
        assert call(origin, "GET", path).body == TOP.layer
        answer = call(origin, "GET", path, headers={"Range": "bytes=7-"})
        assert (answer.status, answer.body) == (206, TOP.layer[7:])
        assert call(origin, "GET", path, headers={"Range": "bytes=99999-"}).status == 416
        for headers in (ANNA, {"Cookie": "session=1"}, WANTED):
            assert call(origin, "GET", path, headers=headers).status == 400
        assert call(origin, "GET", path[:-1]).status == 403
        assert len(registry.origin.requests) == 7


# what cannot be


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="standalone registry has no index"):
        V1Index(registries=[V1Registry()])
    with pytest.raises(ValueError, match="has no users"):
        V1Registry(role="registry", users={"anna": "secret"})
    with pytest.raises(ValueError, match="anonymous_pull needs users"):
        V1Registry(anonymous_pull=True)
    with pytest.raises(ValueError, match="twice"):
        V1Index(accounts=[Account(name="a", password="b"), Account(name="a", password="c")])
    with pytest.raises(ValueError, match="see redirect_layers"):
        _ = V1Registry().origin
    with pytest.raises(ValueError, match="token_lifetime"):
        V1Index(token_lifetime=0)
    (tmp_path / "users").write_text("anna:plain\n")
    with pytest.raises(ValueError, match="line 1"):
        V1Index(htpasswd=tmp_path / "users")


def test_the_lists_of_an_index_outlive_it_in_a_directory(tmp_path: Path) -> None:
    with V1Index(tmp_path, accounts={"anna": "secret"}) as index:
        assert call(index, "PUT", f"{APP}/", listed(), ANNA).status == 200
        index.set_private("anna/app")
    with V1Index(tmp_path, accounts={"anna": "secret"}) as index:
        assert call(index, "GET", f"{APP}/images").status == 401
        assert len(call(index, "GET", f"{APP}/images", headers=ANNA).json) == 2


def test_it_is_spoken_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = TLSFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    registry = V1Registry(role="registry", tls=tls)
    with registry, V1Index(registries=[registry], tls=tls) as index:
        images.push_chain(registry, "anna/app", "latest", CHAIN)
        answer = call(index, "GET", f"{APP}/images", headers=WANTED, context=context)
        token = sent(answer.header("X-Docker-Token"))
        answer = call(registry, "GET", where(TOP, "layer"), headers=token, context=context)
        assert answer.body == TOP.layer
        assert registry.endpoint.startswith("https://")
