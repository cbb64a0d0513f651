"""The V1 client at registries: tags and images."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from scripted import Request, closed_port
from support_v1_client import (
    ANCESTRY,
    FAST,
    IDS,
    JSON,
    TAGS,
    TOKEN,
    Answers,
    client,
    image,
    serving,
    v1,
)

from registry_service.errors import (
    DoesNotExistError,
    InvalidReferenceError,
    LoginRequiredError,
    ProtocolError,
    RegistryHTTPError,
    UnreachableRegistryError,
)

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


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "", "true", image(1), image(parent="x")])
def test_a_server_that_says_yes_to_everything_has_no_image(body: Any) -> None:
    with serving({JSON: body}) as server, client(server.url) as made, pytest.raises(ProtocolError):
        made.has_image(IDS[0], v1(server), TOKEN)


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


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "127.0.0.1/v1/",
        "ftp://h/v1/",
        "http://h/",
        "http://h/v1",
        "http://h:99999/v1/",
        "http://me:pl4nted@h/v1/",
        "me:pl4nted@h/v1/",
        "ftp://me:pl4nted@h/v1/",
        "http://h/?key=pl4nted/v1/",
        "http://h/#/v1/",
        "http://h/\n/v1/",
    ],
)
def test_what_is_no_endpoint_is_refused(wrong: str) -> None:
    with client("http://127.0.0.1:1") as made:
        for verb in (
            lambda: made.ancestry(IDS[0], wrong, TOKEN),
            lambda: made.remote_tags([wrong], "app", TOKEN),
            lambda: made.put_index("app", [], True, [wrong]),
        ):
            with pytest.raises(InvalidReferenceError, match="no endpoint") as caught:
                verb()
            assert "pl4nted" not in str(caught.value)


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
