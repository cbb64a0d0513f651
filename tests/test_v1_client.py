"""The V1 client against a server that does what a test tells it."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scripted import Authority, Request, Scripted, closed_port, scripted

from registry_service.cancel import Cancellation
from registry_service.constants import APIVersion
from registry_service.credentials import AuthConfig
from registry_service.endpoint import Endpoint, RegistryInfo
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DoesNotExistError,
    InvalidReferenceError,
    InvalidRepositoryNameError,
    LoginRequiredError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    UnreachableRegistryError,
)
from registry_service.headers import HTTPRequestFactory
from registry_service.observe import Observer
from registry_service.session.v1.client import V1Client
from registry_service.session.v1.names import endpoints_of
from registry_service.settings import RegistrySettings
from registry_service.transport import Response, Transport
from registry_service.v1.values import ImgData

LAYER = random.Random(1).randbytes(600_000)
IDS = [f"{number:064x}" for number in range(1, 6)]
TOKEN = ('signature=abc,repository="library/app",access=read',)
ANN = AuthConfig(username="ann", password="open sesame")
FAST = RegistrySettings(retries=2, retry_wait_max=0.01)

Handler = Callable[[Request], None]
Answers = Mapping[str, Any]


@contextmanager
def client(
    url: str,
    auth: AuthConfig | None = None,
    *,
    standalone: bool = True,
    settings: RegistrySettings = FAST,
    sleeps: list[float] | None = None,
    **options: Any,
) -> Iterator[V1Client]:
    """A client of the server at ``url``, which writes down how long it would have slept."""
    waits = sleeps if sleeps is not None else []
    with Transport(settings, sleep=lambda seconds, cancel: waits.append(seconds)) as transport:
        endpoint = Endpoint(
            url=f"{url}/",
            version=APIVersion.V1,
            transport=transport,
            info=RegistryInfo(standalone=standalone),
        )
        with V1Client(endpoint, transport, auth, **options) as made:
            yield made


@contextmanager
def serving(answers: Answers, authority: Authority | None = None) -> Iterator[Scripted]:
    """A server with an answer for each path: a body, (status, body, headers), or a handler."""

    def handler(request: Request) -> None:
        answer = answers.get(request.path)
        if answer is None:
            request.answer(404, {"error": "Not found"})
        elif callable(answer):
            answer(request)
        else:
            status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
            if isinstance(body, list):
                body = json.dumps(body)
            request.answer(status, body, headers)

    with scripted(handler, authority) as server:
        yield server


def headers_of(server: Scripted, path: str) -> list[dict[str, str]]:
    return [headers for _, where, headers in server.requests if where == path]


def v1(server: Scripted) -> str:
    return f"{server.url}/v1/"


def image(which: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": IDS[which], **more}


def said_by(host: str, *fields: str) -> Response:
    """An answer with these endpoints, of which nothing else is asked."""
    answer = SimpleNamespace(url=f"https://{host}/v1/", header_values=lambda name: list(fields))
    return cast(Response, answer)


def anything(host: str, port: int | None) -> bool:
    return True


LIST = "/v1/repositories/library/app/images"
TAGS = "/v1/repositories/library/app/tags"
JSON = f"/v1/images/{IDS[0]}/json"
ANCESTRY = f"/v1/images/{IDS[0]}/ancestry"
LAYER_PATH = f"/v1/images/{IDS[0]}/layer"


# the index


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


GRANTED = {"X-Docker-Token": list(TOKEN), "X-Docker-Endpoints": "127.0.0.1:5"}


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


# who asks


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
    factory = HTTPRequestFactory({"X-Meta": ["a", "b"], "Authorization": ["Custom x"]})
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
    sent = headers_of(registry, TAGS)[0]
    assert (sent["X-Meta"], sent["Authorization"]) == ("a, b", f"Token {TOKEN[0]}")


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
        pytest.raises(UnreachableRegistryError, match="insecure_hosts only"),
    ):
        made.ancestry(IDS[0], "http://other.example/v1/", TOKEN)


def test_a_redirect_within_the_origin_takes_all_along() -> None:
    moved = (307, b"", {"Location": "/elsewhere", "Set-Cookie": "a=b; Path=/"})
    with serving({TAGS: moved, "/elsewhere": {"1": IDS[0]}}) as server, client(server.url) as made:
        assert made.remote_tags([v1(server)], "app", TOKEN) == {"1": IDS[0]}
    sent = headers_of(server, "/elsewhere")[0]
    assert sent["Authorization"] == f"Token {TOKEN[0]}"
    assert sent["Cookie"] == "a=b"


def test_redirects_have_an_end() -> None:
    with (
        serving({TAGS: (302, b"", {"Location": TAGS})}) as server,
        client(server.url) as made,
        pytest.raises(ProtocolError, match="more than 10 redirects"),
    ):
        made.remote_tags([v1(server)], "app", TOKEN)
    assert len(server.requests) == 11


# tags


def test_the_tags_come_from_the_first_registry_that_says() -> None:
    broken: Any = (500, "out of order", {})
    with serving({TAGS: {"1": IDS[0]}}) as good, serving({TAGS: broken}) as bad:
        down = f"http://127.0.0.1:{closed_port()}/v1/"
        with client(good.url) as made:
            assert made.remote_tags([down, v1(bad), v1(good)], "app", TOKEN) == {"1": IDS[0]}
            with pytest.raises(UnreachableRegistryError) as caught:
                made.remote_tags([down, v1(bad)], "app", TOKEN)
            with pytest.raises(RegistryHTTPError, match="out of order"):
                made.remote_tags([v1(bad)], "app", TOKEN)
            with pytest.raises(UnreachableRegistryError, match="names none"):
                made.remote_tags([], "app", TOKEN)
    assert down in str(caught.value)
    assert "out of order" in str(caught.value)
    assert len(caught.value.tried) == 2


def test_a_registry_that_is_down_is_not_waited_for_while_there_is_another() -> None:
    sleeps: list[float] = []
    with (
        socket.socket() as one,
        socket.socket() as another,
        serving({TAGS: {"1": IDS[0]}}) as good,
        client(good.url, sleeps=sleeps) as made,
    ):
        for refusing in (one, another):  # which nobody else gets the port of meanwhile
            refusing.bind(("127.0.0.1", 0))
        down, other = (f"http://127.0.0.1:{s.getsockname()[1]}/v1/" for s in (one, another))
        made.remote_tags([down, v1(good)], "app", TOKEN)
        with pytest.raises(UnreachableRegistryError):
            made.ancestry(IDS[0], down, TOKEN)
        assert sleeps == []
        with pytest.raises(UnreachableRegistryError):
            made.ancestry(IDS[0], other, TOKEN)
        assert len(sleeps) == FAST.retries
        with pytest.raises(UnreachableRegistryError):
            made.ancestry(IDS[0], other, TOKEN)
        assert len(sleeps) == FAST.retries


def test_registries_that_all_want_a_login_say_so() -> None:
    refused: Any = (401, {"error": "Requires authorization"}, {})
    with (
        serving({TAGS: refused}) as first,
        serving({TAGS: refused}) as second,
        client(first.url) as made,
        pytest.raises(LoginRequiredError, match="no registry has the tags") as caught,
    ):
        made.remote_tags([v1(first), v1(second)], "app", TOKEN)
    assert first.host in str(caught.value)
    assert second.host in str(caught.value)


def test_a_registry_without_the_repository_has_the_last_word() -> None:
    with (
        serving({}) as first,
        serving({TAGS: {"1": IDS[0]}}) as second,
        client(first.url) as made,
        pytest.raises(DoesNotExistError, match="repository not found"),
    ):
        made.remote_tags([v1(first), v1(second)], "app", TOKEN)
    assert second.requests == []


@pytest.mark.parametrize("body", [[], "null", {"1": "no id"}, {"1": 5}, {"": IDS[0]}, "{"])
def test_tags_that_are_none_are_an_error(body: Any) -> None:
    with serving({TAGS: body}) as server, client(server.url) as made, pytest.raises(ProtocolError):
        made.remote_tags([v1(server)], "app", TOKEN)


# images


def test_the_ancestry_begins_with_the_image() -> None:
    with serving({ANCESTRY: IDS}) as server, client(server.url) as made:
        assert made.ancestry(IDS[0], v1(server), TOKEN) == IDS
        with pytest.raises(DoesNotExistError, match=IDS[1]):
            made.ancestry(IDS[1], v1(server), TOKEN)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "a list of image ids"),
        ([], "is empty"),
        (IDS[1:], "begins with the image"),
        ([*IDS, IDS[2]], "more than once"),
        ([IDS[0], "latest"], "entry 1: 64 lower-case"),
        ([IDS[0], None], "entry 1: 64 lower-case"),
        ([IDS[0], *(f"{n:064x}" for n in range(100, 10_100))], "10000 are allowed"),
        ("[" * 200_000, "not JSON"),
        (b" " * 10 * 1024 * 1024, "more than the"),
    ],
)
def test_an_ancestry_that_is_none_is_an_error(body: Any, said: str) -> None:
    with (
        serving({ANCESTRY: body}) as server,
        client(server.url) as made,
        pytest.raises(ProtocolError, match=said),
    ):
        made.ancestry(IDS[0], v1(server), TOKEN)


def test_whether_a_registry_has_an_image() -> None:
    half = f"/v1/images/{IDS[2]}/json"
    answers: Answers = {
        JSON: image(),
        half: (400, {"error": "Image is being uploaded, retry later"}, {}),
    }
    with serving(answers) as server, client(server.url) as made:
        assert made.has_image(IDS[0], v1(server), TOKEN) is True
        assert made.has_image(IDS[1], v1(server), TOKEN) is False
        with pytest.raises(RegistryHTTPError, match="being uploaded") as caught:
            made.has_image(IDS[2], v1(server), TOKEN)
    assert caught.value.http_status == 400


PAYLOAD = f"sha256:{'ab' * 32}"
TARSUM = f"tarsum+sha256:{'cd' * 32}"


@pytest.mark.parametrize(
    ("fields", "size", "payload", "tarsum"),
    [
        ({}, -1, "", ""),
        ({"X-Docker-Size": "0"}, 0, "", ""),
        ({"X-Docker-Size": "-5"}, -1, "", ""),
        ({"X-Docker-Size": "12", "X-Docker-Checksum-Payload": PAYLOAD}, 12, PAYLOAD, ""),
        ({"X-Docker-Checksum": TARSUM}, -1, "", TARSUM),
        ({"X-Docker-Checksum-Payload": [TARSUM, PAYLOAD]}, -1, PAYLOAD, TARSUM),
        ({"X-Docker-Checksum-Payload": f'["{TARSUM}", "{PAYLOAD}"]'}, -1, PAYLOAD, TARSUM),
        ({"X-Docker-Checksum": "b486531f9a779a0c17e3ed29dae8f12c4f9e89cc"}, -1, "", ""),
    ],
)
def test_what_the_headers_say_of_an_image(
    fields: dict[str, Any], size: int, payload: str, tarsum: str
) -> None:
    raw = json.dumps(image(), indent=7)
    with serving({JSON: (200, raw, fields)}) as server, client(server.url) as made:
        found = made.image_json(IDS[0], v1(server), TOKEN)
    assert found.raw == raw.encode()
    assert (found.size, found.checksum_payload, found.checksum) == (size, payload, tarsum)


@pytest.mark.parametrize(
    "body", ["{", [], image(1), {"id": 5}, '{"a":' * 100_000, b" " * (10 * 1024 * 1024)]
)
def test_json_that_is_not_the_image_s_is_an_error(body: Any) -> None:
    with serving({JSON: body}) as server, client(server.url) as made, pytest.raises(ProtocolError):
        made.image_json(IDS[0], v1(server), TOKEN)


@pytest.mark.parametrize(
    "wrong", ["", "latest", IDS[0][1:], "A" * 64, f"{IDS[0][:-3]}/..", "x" * 64]
)
def test_what_is_no_id_reaches_no_url(wrong: str) -> None:
    with serving({}) as server, client(server.url) as made:
        for verb in (made.ancestry, made.has_image, made.image_json, made.open_layer):
            with pytest.raises(InvalidReferenceError, match="no image id"):
                verb(wrong, v1(server), TOKEN)
    assert server.requests == []


@pytest.mark.parametrize("wrong", ["", "127.0.0.1/v1/", "ftp://h/v1/", "http://h/", "http://h/v1"])
def test_what_is_no_endpoint_is_refused(wrong: str) -> None:
    with (
        client("http://127.0.0.1:1") as made,
        pytest.raises(InvalidReferenceError, match="no endpoint"),
    ):
        made.ancestry(IDS[0], wrong, TOKEN)


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    tries: list[int] = []

    def broken(request: Request) -> None:
        tries.append(1)
        raw = json.dumps(image())
        if len(tries) < 2:
            request.answer(200, raw[:20], length=len(raw))
            request.drop()
        else:
            request.answer(200, raw)

    with serving({JSON: broken}) as server, client(server.url) as made:
        assert json.loads(made.image_json(IDS[0], v1(server), TOKEN).raw) == image()
    assert len(tries) == 2


# layers


class Shelf:
    """A server's layer, which it can send in parts, and break off."""

    def __init__(
        self,
        *,
        ranges: bool = True,
        overstates: bool = False,
        breaks: int = 0,
        after: int = 100_000,
        refuses: int = 0,
    ) -> None:
        self.ranges = ranges
        self.overstates = overstates  # as the original registry does
        self.breaks = breaks
        self.after = after
        self.refuses = refuses
        self.asked: list[str] = []

    def __call__(self, request: Request) -> None:
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        if self.refuses:
            self.refuses -= 1
            request.drop()
            return
        fields = {"Accept-Ranges": "bytes"} if self.ranges else {}
        start, end, status = 0, len(LAYER) - 1, 200
        if wanted and self.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, start = 206, int(first)
            end = int(last) if last else end + self.overstates
            if self.overstates and end - start + 1 < 2:
                request.answer(416)
                return
            fields["Content-Range"] = f"{start}-{end}/{len(LAYER)}"
        body = LAYER[start : end + 1]
        if self.breaks:
            self.breaks -= 1
            request.answer(status, body[: self.after], fields, length=end - start + 1)
            request.drop()
        else:
            request.answer(status, body, fields, length=end - start + 1)


def test_a_layer_is_opened_from_some_place_on() -> None:
    with serving({LAYER_PATH: Shelf()}) as server, client(server.url) as made:
        with made.open_layer(IDS[0], v1(server), TOKEN) as blob:
            assert (blob.offset, blob.length) == (0, len(LAYER))
            assert blob.read(len(LAYER)) == LAYER
        with made.open_layer(IDS[0], v1(server), TOKEN, 1000) as blob:
            assert (blob.offset, blob.length) == (1000, len(LAYER) - 1000)
            assert blob.read(len(LAYER)) == LAYER[1000:]


def test_a_registry_that_sends_no_parts_begins_anew() -> None:
    with (
        serving({LAYER_PATH: Shelf(ranges=False)}) as server,
        client(server.url) as made,
        made.open_layer(IDS[0], v1(server), TOKEN, 1000) as blob,
    ):
        assert (blob.offset, blob.read(len(LAYER))) == (0, LAYER)


@pytest.mark.parametrize("size", [-1, len(LAYER)])
@pytest.mark.parametrize("offset", [1, 1000, len(LAYER) - 2])
def test_the_original_registry_announces_one_byte_too_many(offset: int, size: int) -> None:
    shelf = Shelf(overstates=True)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.open_layer(IDS[0], v1(server), TOKEN, offset, size=size) as blob,
    ):
        assert (blob.offset, blob.length) == (offset, len(LAYER) - offset)
        got = memoryview(bytearray(len(LAYER) + 10))
        count = 0
        while more := blob.readinto(got[count:]):
            count += more
    assert got[:count] == LAYER[offset:]


def test_the_last_byte_alone_is_asked_for_together_with_the_one_before() -> None:
    shelf = Shelf(overstates=True)
    offset = len(LAYER) - 1
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.open_layer(IDS[0], v1(server), TOKEN, offset, size=len(LAYER)) as blob,
    ):
        assert (blob.offset, blob.length, blob.read(10)) == (offset, 1, LAYER[-1:])
    assert shelf.asked == [f"bytes={offset - 1}-{offset}"]


def test_a_layer_that_is_not_there() -> None:
    with serving({}) as server, client(server.url) as made:
        with pytest.raises(DoesNotExistError, match="layer of the image"):
            made.open_layer(IDS[0], v1(server), TOKEN)
        with pytest.raises(DoesNotExistError):
            made.read_layer(IDS[0], v1(server), TOKEN)


def test_a_layer_that_breaks_is_gone_on_with() -> None:
    shelf = Shelf(breaks=3)
    sleeps: list[float] = []
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url, sleeps=sleeps) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER)) as layer,
    ):
        assert layer.length == len(LAYER)
        assert layer.read() == LAYER
    last = len(LAYER) - 1
    assert shelf.asked == ["", *(f"bytes={place}-{last}" for place in (100_000, 200_000, 300_000))]
    assert len(sleeps) == 3


@pytest.mark.parametrize(("ranges", "size"), [(False, len(LAYER)), (True, -1)])
def test_a_layer_that_cannot_be_gone_on_with_breaks(ranges: bool, size: int) -> None:
    shelf = Shelf(ranges=ranges, breaks=1)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, size) as layer,
        pytest.raises(ConnectionBrokenError),
    ):
        layer.read()
    assert shelf.asked == [""]


def test_a_layer_is_asked_for_five_times_with_growing_pauses() -> None:
    sleeps: list[float] = []
    slow = RegistrySettings(retry_wait_max=30)
    shelf = Shelf(refuses=100)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url, settings=slow, sleeps=sleeps) as made,
        pytest.raises(ConnectionBrokenError),
    ):
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER))
    assert sleeps == [5.0, 10.0, 15.0, 20.0]
    assert len(shelf.asked) == 5


def test_a_layer_that_comes_at_the_fifth_time() -> None:
    shelf = Shelf(refuses=4)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER)) as layer,
    ):
        assert layer.read() == LAYER


def test_a_layer_of_another_size_than_was_said() -> None:
    with (
        serving({LAYER_PATH: Shelf()}) as server,
        client(server.url) as made,
        pytest.raises(ProtocolError, match="said 5 bytes, and sends 600000"),
    ):
        made.read_layer(IDS[0], v1(server), TOKEN, 5)


def test_what_will_not_be_better_is_not_tried_again() -> None:
    answers: Answers = {LAYER_PATH: (403, {"error": "no"}, {})}
    with (
        serving(answers) as server,
        client(server.url) as made,
        pytest.raises(RegistryHTTPError, match="403"),
    ):
        made.read_layer(IDS[0], v1(server), TOKEN)
    assert len(server.requests) == 1


def test_a_cancellation_ends_the_wait_for_a_layer() -> None:
    cancel = Cancellation()
    sending = threading.Event()

    def stalling(request: Request) -> None:
        request.answer(200, LAYER[:1000], {"Accept-Ranges": "bytes"}, length=len(LAYER))
        sending.set()
        request.hang()

    def then_cancel() -> None:
        sending.wait(30)
        cancel.cancel()

    with (
        serving({LAYER_PATH: stalling}) as server,
        client(server.url, cancel=cancel) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER)) as layer,
    ):
        stopper = threading.Thread(target=then_cancel)
        stopper.start()
        with pytest.raises(CancelledError):
            layer.read()
        stopper.join(30)


def test_a_lost_registry_is_told_of() -> None:
    lost: list[int] = []
    with (
        client(f"http://127.0.0.1:{closed_port()}", on_lost=lambda: lost.append(1)) as made,
        pytest.raises(UnreachableRegistryError),
    ):
        made.repository_data("app")
    assert lost == [1]


def test_tries_that_failed_are_told() -> None:
    told: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(text)

    observer = Observer(log=log)
    with (
        serving({LAYER_PATH: Shelf(refuses=1)}) as server,
        client(server.url, observer=observer) as made,
    ):
        made.read_layer(IDS[0], v1(server), TOKEN).close()
    assert any("trying again" in text for text in told)
    assert issubclass(ConnectionBrokenError, RegistryError)
