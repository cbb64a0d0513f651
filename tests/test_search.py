from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted import Request, scripted

from registry_service.auth import Authenticator
from registry_service.constants import APIVersion
from registry_service.credentials import AuthConfig
from registry_service.endpoint import Endpoint
from registry_service.errors import LoginRequiredError, ProtocolError, RegistryError
from registry_service.manifest import OCI_MANIFEST
from registry_service.operations.search import Query
from registry_service.session.search import SearchClient, SearchResult, SearchResults
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.transport import Transport


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(RegistrySettings(retries=0)) as transport:
        yield transport


def client(
    transport: Transport,
    host: str,
    version: APIVersion = APIVersion.V2,
    credentials: AuthConfig | None = None,
) -> SearchClient:
    endpoint = Endpoint(url=f"http://{host}/", version=version, transport=transport)
    return SearchClient(endpoint, transport, Authenticator(endpoint, transport, credentials))


def result(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": "", "star_count": 0, **fields}


def test_the_v1_search_of_the_registry(transport: Transport) -> None:
    with Registry() as registry:
        registry.describe("team/alpine", description="small", star_count=7, is_official=True)
        registry.describe("team/alpine-git", is_automated=True)
        registry.describe("team/debian")
        found = {one.name: one for one in client(transport, registry.host).search("alpine")}
    assert set(found) == {"team/alpine", "team/alpine-git"}
    assert found["team/alpine"] == SearchResult(
        name="team/alpine", description="small", star_count=7, is_official=True
    )
    assert found["team/alpine-git"].is_trusted


def test_pages_are_asked_for_as_they_are_needed(transport: Transport) -> None:
    with Registry() as registry:
        for number in range(250):
            registry.describe(f"team/app{number:03}")
        one = client(transport, registry.host)
        assert len(list(one.search("app"))) == 250
        assert len(registry.requests) == 3
        registry.clear_requests()
        assert len(list(one.search("app", limit=5))) == 5
        assert registry.requests[0].query["n"] == ("5",)
        assert len(registry.requests) == 1
        assert len(list(one.search("app", limit=120))) == 120
        assert list(one.search("app", limit=0)) == []


def test_without_a_search_the_catalog_is_searched_by_name(transport: Transport) -> None:
    with Registry(page_size=2) as registry:
        for name in ("team/alpine", "Other".lower() + "/alpine-git", "team/debian"):
            registry.put_manifest(name, "1", b"{}", OCI_MANIFEST)
        registry.add_fault("status:code=404,path=/v1/search")
        found = list(client(transport, registry.host).search("ALPINE"))
    assert sorted(one.name for one in found) == ["other/alpine-git", "team/alpine"]
    assert {(one.star_count, one.description, one.is_official) for one in found} == {(0, "", False)}


def test_a_page_for_people_is_no_search(transport: Transport) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/v2/_catalog"):
            request.answer(body={"repositories": ["a/alpine"]})
        else:
            request.answer(body="<html>welcome</html>")

    with scripted(handler) as server:
        assert [one.name for one in client(transport, server.host).search("alp")] == ["a/alpine"]


def test_neither_search_nor_catalog(transport: Transport) -> None:
    with (
        scripted(lambda request: request.answer(404)) as server,
        pytest.raises(RegistryError, match="neither a search nor a catalog") as caught,
    ):
        list(client(transport, server.host).search("x"))
    assert caught.value.code == "search-unsupported"


def test_an_index_has_no_catalog_to_fall_back_to(transport: Transport) -> None:
    with (
        scripted(lambda request: request.answer(404)) as server,
        pytest.raises(RegistryError, match="it has no search") as caught,
    ):
        list(client(transport, server.host, APIVersion.V1).search("x"))
    assert caught.value.code == "search-unsupported"
    assert len(server.requests) == 1


def test_the_term_is_escaped_and_credentials_go_along(transport: Transport) -> None:
    with scripted(lambda request: request.answer(body={"results": None})) as server:
        credentials = AuthConfig(username="me", password="pw")
        one = client(transport, server.host, APIVersion.V1, credentials)
        assert list(one.search("a b&n=1/ü")) == []
        assert list(client(transport, server.host, APIVersion.V1).search("x")) == []
    _, path, headers = server.requests[0]
    assert path == "/v1/search?q=a+b%26n%3D1%2F%C3%BC&n=100&page=1"
    assert headers["Authorization"] == credentials.basic
    assert headers["X-Docker-Token"] == "true"
    assert "Authorization" not in server.requests[1][2]


@pytest.mark.parametrize("version", list(APIVersion))
@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_an_authorization_of_the_caller_s_own_is_the_only_one(
    transport: Transport, version: APIVersion, name: str
) -> None:
    sent: list[Any] = []

    def handler(request: Request) -> None:
        sent.append(request.headers.get_all("Authorization"))
        request.answer(body={"results": []})

    credentials = AuthConfig(username="me", password="pw")
    with scripted(handler) as server:
        endpoint = Endpoint(url=f"{server.url}/", version=version, transport=transport)
        authenticator = Authenticator(endpoint, transport, credentials)
        one = SearchClient(endpoint, transport, authenticator, headers={name: ("Own x",)})
        assert list(one.search("x")) == []
    assert sent == [["Own x"]]


def test_wrong_credentials_at_an_index(transport: Transport) -> None:
    headers = {"WWW-Authenticate": "Basic realm=/"}
    with (
        scripted(lambda request: request.answer(401, headers=headers)) as server,
        pytest.raises(LoginRequiredError, match="'me'"),
    ):
        credentials = AuthConfig(username="me", password="pw")
        list(client(transport, server.host, APIVersion.V1, credentials).search("x"))


def test_the_public_registry_is_searched_at_its_index() -> None:
    with scripted(lambda request: request.answer(body={"results": [result("alpine")]})) as server:
        settings = RegistrySettings(index_server=f"{server.url}/v1/")
        with Transport(settings) as transport:
            endpoint = Endpoint(
                url="https://registry-1.docker.io/", version=APIVersion.V2, transport=transport
            )
            one = SearchClient(endpoint, transport, Authenticator(endpoint, transport))
            assert [found.name for found in one.search("alpine")] == ["alpine"]
    assert server.paths() == ["/v1/search?q=alpine&n=100&page=1"]


@pytest.mark.parametrize("version", list(APIVersion))
@pytest.mark.parametrize(("names", "pages"), [([], 1), (["a", "b", "a"], 2)])
def test_a_server_that_turns_the_same_page_out_for_ever_is_left(
    transport: Transport, version: APIVersion, names: list[str], pages: int
) -> None:
    results = [result(name) for name in names]
    body = {"num_pages": 10**9, "num_results": 10**9, "results": results}
    with scripted(lambda request: request.answer(body=body)) as server:
        found = [one.name for one in client(transport, server.host, version).search("x")]
    assert found == sorted(set(names))
    assert len(server.requests) == pages


def test_pages_that_never_end_are_an_error(transport: Transport) -> None:
    def handler(request: Request) -> None:
        page = int(request.path.rpartition("=")[2])
        results = [result(f"{page}/{number}") for number in range(20_000)]
        request.answer(body={"num_pages": 10**9, "num_results": 10**9, "results": results})

    with (
        scripted(handler) as server,
        pytest.raises(ProtocolError, match="more than 100000 results"),
    ):
        list(client(transport, server.host, APIVersion.V1).search("x"))
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("value", "trusted"),
    [
        ({"is_automated": True}, True),
        ({"is_trusted": True}, True),
        ({"is_trusted": None}, False),
        ({"is_automated": False, "is_trusted": True}, True),
        ({}, False),
    ],
)
def test_trusted_and_automated_are_the_same(value: dict[str, Any], trusted: bool) -> None:
    assert SearchResult.from_json(result("a", **value)).is_trusted is trusted


@pytest.mark.parametrize(
    "value", [5, {"results": 5}, {"results": [5]}, {"results": [{"name": ""}]}]
)
def test_answers_that_are_no_results(value: Any) -> None:
    with pytest.raises(ProtocolError):
        SearchResults.from_json(value)


@pytest.mark.parametrize(
    ("said", "stars"), [(2**63 - 1, 2**63 - 1), (2**80, 2**63 - 1), (-(2**80), 0), (-1, 0)]
)
def test_no_number_of_stars_is_too_large(said: int, stars: int) -> None:
    assert SearchResult.from_json({"name": "a", "star_count": said}).star_count == stars


def test_odd_fields_do_not_hurt() -> None:
    found = SearchResult.from_json({"name": "a", "description": None, "star_count": "many"})
    assert found == SearchResult(name="a")


@pytest.mark.parametrize(
    ("term", "host", "text"),
    [
        ("library/alpine", "", "alpine"),
        ("docker.io/library/alpine", "docker.io", "alpine"),
        ("team/library/alpine", "", "team/library/alpine"),
        ("r.example/library/alpine", "r.example", "library/alpine"),
    ],
)
def test_the_public_index_calls_its_own_by_one_component(term: str, host: str, text: str) -> None:
    query = Query.parse(term)
    assert (query.host, query.text) == (host, text)
