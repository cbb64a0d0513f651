"""The V1 client at an index: what it is told, and what it tells."""

from __future__ import annotations

import base64
import json
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scripted import Request
from support_v1_client import (
    ANN,
    GRANTED,
    IDS,
    LIST,
    TOKEN,
    Answers,
    Handler,
    client,
    headers_of,
    image,
    serving,
)

from registry_service.errors import (
    DoesNotExistError,
    InvalidRepositoryNameError,
    ProtocolError,
    RegistryHTTPError,
)
from registry_service.session.v1.names import endpoints_of
from registry_service.transport import Response
from registry_service.v1.values import ImgData


def said_by(host: str, *fields: str) -> Response:
    """An answer with these endpoints, of which nothing else is asked."""
    answer = SimpleNamespace(
        url=f"https://{host}/v1/", header_values=lambda name: list(fields), hide=str
    )
    return cast(Response, answer)


def anything(host: str, port: int | None) -> bool:
    return True


def test_the_index_gives_images_endpoints_and_tokens() -> None:
    images = [{"id": IDS[0], "checksum": "tarsum+sha256:0", "Tag": "latest"}, {"id": IDS[1]}]
    fields = {
        "X-Docker-Token": ["signature=a", "signature=b"],
        "X-Docker-Endpoints": ["127.0.0.1:1234, 127.0.0.1:5", "127.0.0.1:1234"],
    }
    with serving({LIST: (200, images, fields)}) as server, client(server.url, ANN) as made:
        data = made.repository_data("app")
    assert set(data.img_list) == {IDS[0], IDS[1]}
    assert data.img_list[IDS[0]].checksum == "tarsum+sha256:0"
    assert data.img_list[IDS[0]].tag == "latest"
    assert data.endpoints == ("http://127.0.0.1:1234/v1/", "http://127.0.0.1:5/v1/")
    assert data.tokens == ("signature=a", "signature=b")
    assert "signature" not in repr(data)
    sent = headers_of(server, LIST)[0]
    assert sent["X-Docker-Token"] == "true"
    pair = base64.b64decode(sent["Authorization"].removeprefix("Basic ")).decode()
    assert pair == "ann:open sesame"


def test_an_index_without_endpoints_is_the_registry_itself() -> None:
    with serving({LIST: []}) as server, client(server.url) as made:
        data = made.repository_data("app")
        assert "Authorization" not in headers_of(server, LIST)[0]
    assert data.endpoints == (f"{server.url}/v1/",)
    assert data.tokens == ()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("https://127.0.0.1:5", "another scheme"),
        ("ftp://127.0.0.1:5", "another scheme"),
        ("127.0.0.1:5/path", "no host"),
        ("user@127.0.0.1", "no host"),
        ("127.0.0.1:99999", "no host"),
        ("registry.example", "plain http is not spoken"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(named: str, said: str) -> None:
    answer: Any = (200, [], {"X-Docker-Endpoints": named})
    with (
        serving({LIST: answer}) as server,
        client(server.url) as made,
        pytest.raises(ProtocolError, match=said),
    ):
        made.repository_data("app")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("127.0.0.1:5000", "this machine"),
        ("localhost:80", "this machine"),
        ("169.254.169.254", "this machine"),
        ("2130706433", "this machine"),
        ("10.0.0.1", "a private net"),
        ("[fd00::1]:443", "a private net"),
    ],
)
def test_an_index_elsewhere_names_no_address_of_this_side(named: str, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        endpoints_of(said_by("index.example", named), "https://index.example/v1/", anything)


def test_an_index_names_registries_by_its_own_scheme() -> None:
    found = endpoints_of(
        said_by("index.example", "one.example, , two.example:5000", "https://Three.example/v1/"),
        "https://index.example/v1/",
        anything,
    )
    names = ("one.example", "two.example:5000", "three.example")
    assert found == tuple(f"https://{name}/v1/" for name in names)


def test_an_index_on_a_private_network_names_its_neighbours() -> None:
    answer = said_by("10.0.0.1", "10.0.0.2:5000")
    assert endpoints_of(answer, "http://10.0.0.1/v1/", anything) == ("http://10.0.0.2:5000/v1/",)
    with pytest.raises(ProtocolError, match="plain http is not spoken"):
        endpoints_of(answer, "http://10.0.0.1/v1/", lambda host, port: False)
    with pytest.raises(ProtocolError, match="this machine"):
        endpoints_of(said_by("10.0.0.1", "127.0.0.1"), "http://10.0.0.1/v1/", anything)


def test_an_index_names_some_registries_and_no_crowd() -> None:
    crowd = ",".join(f"h{number}.example" for number in range(65))
    with pytest.raises(ProtocolError, match="names 65 registries"):
        endpoints_of(said_by("index.example", crowd), "https://index.example/v1/", anything)


@pytest.mark.parametrize(
    "body",
    [
        "nonsense",
        {"id": IDS[0]},
        [1],
        [{"checksum": "x"}],
        [{"id": "short"}],
        [{"id": IDS[0].upper().replace("0", "A")}],
        [{"id": "../" + IDS[0]}],
        "[" * 100_000,
    ],
)
def test_a_list_of_images_that_is_none_is_an_error(body: Any) -> None:
    with serving({LIST: body}) as server, client(server.url) as made, pytest.raises(ProtocolError):
        made.repository_data("app")


def test_a_repository_that_the_index_does_not_have() -> None:
    with (
        serving({}) as server,
        client(server.url) as made,
        pytest.raises(DoesNotExistError, match="app"),
    ):
        made.repository_data("app")


def test_a_grant_is_asked_for_once() -> None:
    with serving({LIST: [image()]}) as server, client(server.url) as made:
        asked = [threading.Thread(target=made.grant, args=(name,)) for name in ["app"] * 4]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join(30)
        assert made.grant("library/app").img_list.keys() == {IDS[0]}
    assert server.paths() == [LIST]


@pytest.mark.parametrize("name", ["a/b/c", "", "..", "a/..", "a b", "/a", "a/", "x?y", "é"])
def test_a_repository_that_v1_cannot_name(name: str) -> None:
    with (
        serving({}) as server,
        client(server.url) as made,
        pytest.raises(InvalidRepositoryNameError),
    ):
        made.repository_data(name)
    assert server.requests == []


def test_an_index_is_told_what_will_come_and_what_has_come() -> None:
    images = [
        ImgData(id=IDS[0], checksum="tarsum+sha256:0", checksum_payload="sha256:1", tag="1"),
        ImgData(id=IDS[1]),
    ]
    bodies: list[Any] = []

    def take(status: int) -> Handler:
        def handler(request: Request) -> None:
            bodies.append(json.loads(request.read_body()))
            request.answer(status, b"", GRANTED)

        return handler

    answers = {"/v1/repositories/library/app/": take(200), LIST: take(204)}
    with serving(answers) as server, client(server.url, ANN) as made:
        granted = made.put_index("app", images, False)
        assert (granted.endpoints, granted.tokens) == (("http://127.0.0.1:5/v1/",), TOKEN)
        made.put_index("app", images, True, ["https://a/v1/", "https://b/v1/"])
    first = {"id": IDS[0], "checksum": "tarsum+sha256:0", "Tag": "1"}
    assert bodies == [[first, {"id": IDS[1]}], [first]]
    for (method, _, sent), validate in zip(server.requests, (False, True), strict=True):
        assert method == "PUT"
        assert sent["X-Docker-Token"] == "true"
        assert sent["Authorization"].startswith("Basic ")
        assert sent["Content-Type"] == "application/json"
        assert ("X-Docker-Endpoints" in sent) is validate
    assert server.requests[1][2]["X-Docker-Endpoints"] == "https://a/v1/, https://b/v1/"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_an_index_is_told_follows_its_redirects(status: int) -> None:
    bodies: list[bytes] = []

    def moved(request: Request) -> None:
        request.read_body()
        request.answer(status, b"", {"Location": "/v1/moved"})

    def take(request: Request) -> None:
        bodies.append(request.read_body())
        request.answer(201, b"", GRANTED)

    answers = {"/v1/repositories/library/app/": moved, "/v1/moved": take}
    with serving(answers) as server, client(server.url, ANN) as made:
        made.put_index("app", [ImgData(id=IDS[0])], False)
    assert bodies == [b'[{"id":"%s"}]' % IDS[0].encode()]
    assert server.requests[-1][0] == "PUT"
    assert server.requests[-1][2]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("missing", sorted(GRANTED))
def test_an_index_that_gives_nothing_to_send_with(missing: str) -> None:
    fields = {name: value for name, value in GRANTED.items() if name != missing}
    answers: Answers = {"/v1/repositories/library/app/": (200, b"", fields)}
    with (
        serving(answers) as server,
        client(server.url, ANN) as made,
        pytest.raises(ProtocolError, match="the index gives no"),
    ):
        made.put_index("app", [], False)


@pytest.mark.parametrize(("validate", "status"), [(False, 204), (True, 200), (True, 400)])
def test_an_index_that_answers_something_else(validate: bool, status: int) -> None:
    answer: Any = (status, b"", GRANTED)
    answers: Answers = {"/v1/repositories/library/app/": answer, LIST: answer}
    with (
        serving(answers) as server,
        client(server.url, ANN) as made,
        pytest.raises(RegistryHTTPError) as caught,
    ):
        made.put_index("app", [], validate)
    assert caught.value.http_status == status
