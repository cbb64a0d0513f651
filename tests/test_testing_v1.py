"""The V1 test registry that stands alone, over raw HTTP."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import itertools
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_registry_http import Answer, basic, call, connected

from registry_service import tarsum
from registry_service.testing.v1 import V1Registry, images

CHAIN = images.random_chain(seed=1, length=3)
TOP = CHAIN.images[-1]
BASE = CHAIN.images[0]


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    with V1Registry() as one:
        yield one


@pytest.fixture
def filled(registry: V1Registry) -> V1Registry:
    images.push_chain(registry, "test/app", "latest", CHAIN)
    return registry


def path(image: images.V1Image, part: str) -> str:
    return f"/v1/images/{image.id}/{part}"


def sums(image: images.V1Image) -> dict[str, str]:
    return {"X-Docker-Checksum": image.tarsum, "X-Docker-Checksum-Payload": image.checksum}


def push(registry: V1Registry, image: images.V1Image) -> list[int]:
    """Push one image as a client does. The statuses of what it did."""
    return [
        call(registry, "PUT", path(image, "json"), image.raw).status,
        call(registry, "PUT", path(image, "layer"), [image.layer[:100], image.layer[100:]]).status,
        call(registry, "PUT", path(image, "checksum"), headers=sums(image)).status,
    ]


def refused(answer: Answer, status: int) -> str:
    """The message of an answer that is an error with this status."""
    assert answer.status == status, answer.body
    assert answer.header("X-Docker-Registry-Version") == "0.9.1"
    assert set(answer.json) == {"error"}
    return str(answer.json["error"])


# the ping


def test_the_ping_says_that_it_stands_alone(registry: V1Registry) -> None:
    answer = call(registry, "GET", "/v1/_ping")
    assert (answer.status, answer.json) == (200, {})
    assert answer.header("X-Docker-Registry-Standalone") == "true"
    assert answer.header("X-Docker-Registry-Version") == "0.9.1"
    assert registry.endpoint == f"http://{registry.host}/v1/"


@pytest.mark.parametrize("said", ["True", "1", "false", None])
def test_the_ping_says_what_it_is_told_to(said: str | None) -> None:
    with V1Registry(standalone=said, version="0.6.0") as registry:
        assert call(registry, "POST", "/_ping").status == 405
        answer = call(registry, "GET", "/_ping")
        assert answer.headers["X-Docker-Registry-Standalone"] == said
        assert answer.header("X-Docker-Registry-Version") == "0.6.0"


# pull


def test_an_image_is_had_in_its_parts(filled: V1Registry) -> None:
    answer = call(filled, "GET", path(TOP, "json"))
    assert (answer.status, answer.body) == (200, TOP.raw)
    assert answer.header("X-Docker-Size") == str(len(TOP.layer))
    expected = hashlib.sha256(TOP.raw + b"\n" + TOP.layer).hexdigest()
    assert answer.header("X-Docker-Checksum-Payload") == f"sha256:{expected}"
    assert answer.header("Cache-Control") == "public, max-age=31536000"
    assert call(filled, "GET", path(TOP, "ancestry")).json == CHAIN.ancestry
    layer = call(filled, "GET", path(TOP, "layer"))
    assert (layer.status, layer.body) == (200, TOP.layer)
    assert layer.header("Accept-Ranges") == "bytes"
    assert call(filled, "GET", "/v1/repositories/test/app/tags").json == {"latest": CHAIN.id}
    assert call(filled, "GET", "/v1/repositories/test/app/tags/latest").json == CHAIN.id


def test_the_index_of_one_that_stands_alone_names_its_own_host(filled: V1Registry) -> None:
    answer = call(filled, "GET", "/v1/repositories/test/app/images")
    assert answer.status == 200
    assert {one["id"]: one["checksum"] for one in answer.json} == {
        image.id: image.checksum for image in CHAIN.images
    }
    assert answer.header("X-Docker-Endpoints") == filled.host
    token = answer.header("X-Docker-Token")
    assert token.startswith("Token signature=")
    assert token.endswith(',repository="test/app",access=read')


def test_a_name_alone_is_of_the_library(registry: V1Registry) -> None:
    images.push_chain(registry, "app", "1", CHAIN)
    for name in ("app", "library/app"):
        assert call(registry, "GET", f"/v1/repositories/{name}/tags").json == {"1": CHAIN.id}
    assert registry.repositories() == ["library/app"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (f"/v1/images/{'0' * 64}/json", "Image not found"),
        (f"/v1/images/{'0' * 64}/layer", "Image not found"),
        (f"/v1/images/{'0' * 64}/ancestry", "Image not found"),
        ("/v1/images/latest/json", "Invalid image ID"),
        ("/v1/repositories/test/none/tags", "Repository not found"),
        ("/v1/repositories/test/app/tags/none", "Tag not found"),
        ("/v1/repositories/test/none/images", "images not found"),
        ("/v1/nowhere", "Not found"),
    ],
)
def test_what_is_not_there(filled: V1Registry, where: str, message: str) -> None:
    assert refused(call(filled, "GET", where), 404) == message


def test_what_may_be_kept_is_not_sent_again(filled: V1Registry) -> None:
    since = {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}
    answer = call(filled, "GET", path(TOP, "layer"), headers=since)
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("part", ["json", "layer", "ancestry"])
def test_head_says_what_get_would(filled: V1Registry, part: str) -> None:
    expected = call(filled, "GET", path(TOP, part))
    answer = call(filled, "HEAD", path(TOP, part))
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("Content-Length") == str(len(expected.body))


def test_an_empty_layer_has_no_range(registry: V1Registry) -> None:
    registry.put_image(TOP.raw, b"")
    answer = call(registry, "GET", path(TOP, "layer"))
    assert (answer.status, answer.body) == (416, b"")


# ranges


def test_a_layer_is_had_from_where_it_broke_off(filled: V1Registry) -> None:
    answer = call(filled, "GET", path(TOP, "layer"), headers={"Range": "bytes=100-"})
    size = len(TOP.layer)
    assert (answer.status, answer.body) == (206, TOP.layer[100:])
    assert answer.header("Content-Range") == f"bytes 100-{size - 1}/{size}"


def test_a_range_outside_is_416(filled: V1Registry) -> None:
    answer = call(filled, "GET", path(TOP, "layer"), headers={"Range": "bytes=999999-"})
    assert (answer.status, answer.body) == (416, b"")
    assert answer.header("Content-Range") == f"bytes */{len(TOP.layer)}"


def test_a_registry_without_ranges_sends_it_all() -> None:
    with V1Registry(ranges="none") as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        answer = call(registry, "GET", path(TOP, "layer"), headers={"Range": "bytes=100-"})
        assert (answer.status, answer.body) == (200, TOP.layer)
        assert answer.headers["Accept-Ranges"] is None


def test_ranges_as_the_original_gives_them() -> None:
    size = len(TOP.layer)
    with V1Registry(ranges="original") as registry, connected(registry) as connection:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        answer = call(registry, "GET", path(TOP, "layer"), headers={"Range": "bytes=10-19"})
        assert (answer.status, answer.body) == (206, TOP.layer[10:20])
        assert answer.header("Content-Range") == f"10-19/{size}"
        connection.request("GET", path(TOP, "layer"), headers={"Range": "bytes=10-"})
        response = connection.getresponse()
        assert response.headers["Content-Range"] == f"10-{size}/{size}"
        assert response.headers["Content-Length"] == str(size - 9)
        assert response.read(size - 10) == TOP.layer[10:]
        with pytest.raises(http.client.IncompleteRead):
            response.read()


@pytest.mark.parametrize("beyond", [0, 100])
def test_the_original_counts_what_was_asked_for_past_the_end(beyond: int) -> None:
    size = len(TOP.layer)
    with V1Registry(ranges="original") as registry, connected(registry) as connection:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        wanted = f"bytes=10-{size + beyond}"
        connection.request("GET", path(TOP, "layer"), headers={"Range": wanted})
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Range"]) == (206, f"{wanted[6:]}/{size}")
        assert response.headers["Content-Length"] == str(size + beyond - 9)
        assert response.read(size - 10) == TOP.layer[10:]
        with pytest.raises(http.client.IncompleteRead):
            response.read()


@pytest.mark.parametrize("wanted", ["0-0", "5-5", "5-2", "{end}-{end}", "{size}-", "{beyond}-"])
def test_the_original_refuses_less_than_two_bytes(wanted: str) -> None:
    size = len(TOP.layer)
    part = wanted.format(end=size - 1, size=size, beyond=size + 7)
    with V1Registry(ranges="original") as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        headers = {"Range": f"bytes={part}"}
        answer = call(registry, "GET", path(TOP, "layer"), headers=headers)
        assert (answer.status, answer.body) == (416, b"")
        assert answer.header("Accept-Ranges") == "bytes"


@pytest.mark.parametrize("wanted", ["bytes=-5", "bytes=3", "bytes=0-3,5-9", "bytes=x-", "items=0-"])
def test_the_original_gives_the_whole_for_what_it_does_not_understand(wanted: str) -> None:
    with V1Registry(ranges="original") as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        answer = call(registry, "GET", path(TOP, "layer"), headers={"Range": wanted})
        assert (answer.status, answer.body) == (200, TOP.layer)


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 3000), last=st.none() | st.integers(0, 3000))
def test_every_range_is_that_part(first: int, last: int | None) -> None:
    with V1Registry() as registry:
        data = images.random_archive(7, 2)[:2500]
        registry.put_image(TOP.raw, data)
        wanted = f"bytes={first}-{'' if last is None else last}"
        answer = call(registry, "GET", path(TOP, "layer"), headers={"Range": wanted})
        if last is not None and last < first:
            assert (answer.status, answer.body) == (200, data)
        elif first >= len(data):
            assert answer.status == 416
        else:
            end = len(data) if last is None else min(last + 1, len(data))
            assert (answer.status, answer.body) == (206, data[first:end])


# push


def test_a_chain_is_pushed_from_the_bottom(registry: V1Registry) -> None:
    for image in CHAIN.images:
        assert call(registry, "GET", path(image, "json")).status == 404
        assert push(registry, image) == [200, 200, 200]
    answer = call(registry, "PUT", "/v1/repositories/test/app/tags/1.0", f'"{CHAIN.id}"'.encode())
    assert (answer.status, answer.json) == (200, True)
    assert registry.tags("test/app") == {"1.0": CHAIN.id}
    stored = registry.image(CHAIN.id)
    assert stored is not None
    assert (stored.raw, stored.layer_bytes, stored.complete) == (TOP.raw, TOP.layer, True)
    assert stored.chain == CHAIN.ancestry
    assert stored.checksums == (TOP.checksum,)


def test_what_is_there_already_is_not_taken_again(filled: V1Registry) -> None:
    assert refused(call(filled, "PUT", path(TOP, "json"), TOP.raw), 409) == "Image already exists"
    assert refused(call(filled, "PUT", path(TOP, "layer"), b"x"), 409) == "Image already exists"
    answer = call(filled, "PUT", path(TOP, "checksum"), headers=sums(TOP))
    assert refused(answer, 409) == "Cannot set this image checksum"


def test_an_image_half_pushed_is_not_to_be_had_and_is_pushed_again(registry: V1Registry) -> None:
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    for part in ("json", "layer", "ancestry"):
        message = refused(call(registry, "GET", path(BASE, part)), 400)
        assert message == "Image is being uploaded, retry later"
    assert push(registry, BASE) == [200, 200, 200]
    assert call(registry, "GET", path(BASE, "json")).status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Invalid JSON"),
        (b"[1]", "Invalid JSON"),
        (b"{}", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b'{"a":1}', "Missing key `id' in JSON"),
        (json.dumps({"id": "f" * 64}).encode(), "JSON data contains invalid id"),
        (
            json.dumps({"id": BASE.id, "parent": "f" * 64}).encode(),
            "Image depends on a non existing parent",
        ),
        (
            json.dumps({"id": BASE.id, "parent": ["../../x"]}).encode(),
            "Image depends on a non existing parent",
        ),
    ],
)
def test_json_that_is_refused(registry: V1Registry, body: bytes, message: str) -> None:
    assert refused(call(registry, "PUT", path(BASE, "json"), body), 400) == message
    assert registry.image_ids() == []


def test_a_layer_needs_its_json_first(registry: V1Registry) -> None:
    assert refused(call(registry, "PUT", path(BASE, "layer"), b"x"), 404) == "Image not found"


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({}, 412, "X-Docker-Checksum-Payload not set."),
        ({"X-Docker-Checksum-Payload": ""}, 400, "Missing Image's checksum"),
        ({"X-Docker-Checksum-Payload": f"sha256:{'0' * 64}"}, 400, "Checksum mismatch"),
        (
            {**sums(BASE), "X-Docker-Checksum": f"tarsum+sha256:{'0' * 64}"},
            400,
            "Checksum mismatch",
        ),
    ],
)
def test_checksums_are_checked(
    registry: V1Registry, headers: dict[str, str], status: int, message: str
) -> None:
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    call(registry, "PUT", path(BASE, "layer"), BASE.layer)
    answer = call(registry, "PUT", path(BASE, "checksum"), headers=headers)
    assert refused(answer, status).startswith(message)
    stored = registry.image(BASE.id)
    assert stored is not None
    assert not stored.complete


def test_clients_sort_the_sums_of_a_name_that_is_there_twice_as_they_like(
    registry: V1Registry,
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.REGTYPE):
            info = tarfile.TarInfo("./name")
            info.type = kind
            tar.addfile(info)
    data = made.getvalue()
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    call(registry, "PUT", path(BASE, "layer"), data)
    payload = "sha256:" + hashlib.sha256(BASE.raw + b"\n" + data).hexdigest()
    headers = {"X-Docker-Checksum-Payload": payload, "X-Docker-Checksum": BASE.tarsum}
    assert call(registry, "PUT", path(BASE, "checksum"), headers=headers).status == 200


def test_a_header_for_all_files_is_one_of_them_to_some_clients(registry: V1Registry) -> None:
    made = io.BytesIO()
    headers = {"comment": "to all of them"}
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as t:
        t.addfile(tarfile.TarInfo("name"))
    data = made.getvalue()
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    call(registry, "PUT", path(BASE, "layer"), data)
    sent = {
        "X-Docker-Checksum-Payload": "sha256:"
        + hashlib.sha256(BASE.raw + b"\n" + data).hexdigest(),
        "X-Docker-Checksum": str(tarsum(data, json=BASE.raw)),  # as Docker's: it is one
    }
    assert call(registry, "PUT", path(BASE, "checksum"), headers=sent).status == 200


def test_a_layer_that_is_no_tar_has_no_tarsum(registry: V1Registry) -> None:
    data = b"not a tar archive" * 100
    payload = "sha256:" + hashlib.sha256(BASE.raw + b"\n" + data).hexdigest()
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    call(registry, "PUT", path(BASE, "layer"), data)
    headers = {"X-Docker-Checksum-Payload": payload, "X-Docker-Checksum": BASE.tarsum}
    answer = call(registry, "PUT", path(BASE, "checksum"), headers=headers)
    assert refused(answer, 400) == "Layer format not supported"


def test_a_checksum_without_a_layer_does_not_match(registry: V1Registry) -> None:
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    answer = call(registry, "PUT", path(BASE, "checksum"), headers=sums(BASE))
    assert refused(answer, 400) == "Checksum mismatch"


@pytest.mark.parametrize(
    ("tag", "body", "status", "message"),
    [
        ("x", b'"' + b"f" * 64 + b'"', 404, "Image not found"),
        ("x", b'"../../etc"', 404, "Image not found"),
        ("x", b"{}", 400, "Invalid data"),
        ("x", b"", 400, "Invalid data"),
        (".x", f'"{TOP.id}"'.encode(), 400, "Invalid tag name"),
    ],
)
def test_tags_that_are_refused(
    filled: V1Registry, tag: str, body: bytes, status: int, message: str
) -> None:
    answer = call(filled, "PUT", f"/v1/repositories/test/app/tags/{tag}", body)
    assert refused(answer, status).startswith(message)
    assert filled.tags("test/app") == {"latest": CHAIN.id}


def test_a_tag_knows_who_set_it(filled: V1Registry) -> None:
    agent = {"User-Agent": "docker/1.3.0 go/go1.3 os/Linux arch/amd64 kernel/3.16"}
    base = "/v1/repositories/test/app"
    call(filled, "PUT", f"{base}/tags/latest", f'"{BASE.id}"'.encode(), agent)
    for where in ("tags/latest/json", "json"):
        found = call(filled, "GET", f"{base}/{where}").json
        assert isinstance(found.pop("last_update"), int)
        assert found == {
            "docker_version": "1.3.0",
            "docker_go_version": "go1.3",
            "os": "linux",
            "arch": "amd64",
            "kernel": "3.16",
        }


def test_the_list_of_images_grows_with_each_push(registry: V1Registry) -> None:
    base = "/v1/repositories/test/app"
    first = json.dumps([{"id": BASE.id}, {"id": TOP.id, "Tag": "1"}]).encode()
    answer = call(registry, "PUT", f"{base}/", first)
    assert (answer.status, answer.json) == (200, "")
    assert answer.header("X-Docker-Endpoints") == registry.host
    assert answer.header("X-Docker-Token").endswith('repository="test/app",access=write')
    assert call(registry, "GET", f"{base}/images").json == json.loads(first)
    second = json.dumps([{"id": BASE.id, "checksum": BASE.checksum}]).encode()
    answer = call(registry, "PUT", f"{base}/images", second)
    assert (answer.status, answer.body) == (204, b"")
    listed = call(registry, "GET", f"{base}/images").json
    assert {one["id"]: one.get("checksum") for one in listed} == {
        BASE.id: BASE.checksum,
        TOP.id: None,
    }


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"checksum":"x"}]'])
def test_a_list_of_images_that_is_none(registry: V1Registry, body: bytes) -> None:
    refused(call(registry, "PUT", "/v1/repositories/test/app/", body), 400)
    assert registry.index_images("test/app") is None


def test_a_repository_says_whether_it_is_private(filled: V1Registry) -> None:
    where = "/v1/repositories/test/app/properties"
    assert call(filled, "GET", where).json == {"access": "public"}
    for access in ("private", "public"):
        assert call(filled, "PUT", where, json.dumps({"access": access}).encode()).status == 200
        assert call(filled, "GET", where).json == {"access": access}
    assert refused(call(filled, "PUT", where, b'{"access":"secret"}'), 400) == "Invalid data"


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("POST", f"/v1/images/{TOP.id}/json"),
        ("GET", f"/v1/images/{TOP.id}/checksum"),
        ("DELETE", f"/v1/images/{TOP.id}/layer"),
        ("PUT", "/v1/repositories/test/app/tags"),
        ("POST", "/v1/repositories/test/app/tags/latest"),
        ("PUT", "/v1/repositories/test/app/json"),
        ("POST", "/v1/repositories/test/app/properties"),
        ("POST", "/v1/repositories/test/app/images"),
        ("GET", "/v1/repositories/test/app/auth"),
        ("GET", "/v1/repositories/test/app/"),
        ("DELETE", "/v1/users/"),
        ("GET", "/v1/users/ann/"),
    ],
)
def test_methods_that_are_not_known(filled: V1Registry, method: str, where: str) -> None:
    assert refused(call(filled, method, where), 405) == "Method not allowed"
    assert filled.tags("test/app") == {"latest": CHAIN.id}


def test_what_the_index_of_one_that_stands_alone_takes_and_forgets(filled: V1Registry) -> None:
    base = "/v1/repositories/test/app"
    answer = call(filled, "DELETE", f"{base}/images")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("X-Docker-Token").endswith("access=delete")
    assert len(filled.index_images("test/app") or ()) == 3
    assert call(filled, "PUT", f"{base}/auth").json == "OK"
    answer = call(filled, "PUT", "/v1/users/ann/", b'{"password":"x"}')
    assert (answer.status, answer.body) == (204, b"")


def test_taking_away(filled: V1Registry) -> None:
    filled.put_tag("test/app", "old", BASE.id)
    assert call(filled, "DELETE", "/v1/repositories/test/app/tags/old").status == 200
    message = refused(call(filled, "DELETE", "/v1/repositories/test/app/tags/old"), 404)
    assert message == "Tag not found: old"
    assert filled.tags("test/app") == {"latest": CHAIN.id}
    assert call(filled, "DELETE", "/v1/repositories/test/app/").status == 200
    assert filled.repositories() == []
    message = refused(call(filled, "DELETE", "/v1/repositories/test/app/"), 404)
    assert message == "Repository not found"
    assert call(filled, "GET", path(TOP, "json")).status == 200


@pytest.mark.parametrize(
    "where", ["/v1/repositories/../../tags", "/v1/repositories/a/%2e%2e/tags", "/v1/images/../json"]
)
def test_no_name_leads_out_of_the_directory(tmp_path: Path, where: str) -> None:
    with V1Registry(tmp_path / "root") as registry:
        assert call(registry, "GET", where).status in (400, 404)
        assert call(registry, "PUT", where, b"[]").status in (400, 404, 405)
    assert [one.name for one in tmp_path.iterdir()] == ["root"]


# users


def test_any_login_is_good_where_there_are_no_users(registry: V1Registry) -> None:
    answer = call(registry, "POST", "/v1/users/", b'{"username":"ann"}')
    assert (answer.status, answer.json) == (201, "User Created")
    answer = call(registry, "GET", "/v1/users/", headers=basic("ann", "secret"))
    assert (answer.status, answer.json) == (200, "OK")
    assert refused(call(registry, "POST", "/v1/users/", b"{"), 400) == "Error Decoding JSON"


def test_with_users_all_but_the_ping_takes_a_password() -> None:
    with V1Registry(users={"ann": "secret"}) as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        assert call(registry, "GET", "/v1/_ping").status == 200
        places = [
            ("GET", "/v1/users/"),
            ("POST", "/v1/users/"),
            ("GET", path(TOP, "json")),
            ("PUT", path(TOP, "json")),
            ("GET", "/v1/repositories/test/app/tags"),
            ("GET", "/v1/repositories/test/app/images"),
            ("GET", "/v1/search?q=app"),
        ]
        for method, where in places:
            answer = call(registry, method, where)
            assert answer.header("WWW-Authenticate").startswith("Basic realm=")
            assert refused(answer, 401) == "Requires authorization"
            assert call(registry, method, where, headers=basic("ann", "no")).status == 401
        answer = call(registry, "GET", path(TOP, "json"), headers=basic("ann", "secret"))
        assert (answer.status, answer.body) == (200, TOP.raw)
        assert registry.requests[-1].user == "ann"


def test_with_anonymous_pull_only_writing_takes_a_password() -> None:
    with V1Registry(users={"ann": "secret"}, anonymous_pull=True) as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
        assert call(registry, "GET", path(TOP, "layer")).body == TOP.layer
        assert call(registry, "PUT", path(TOP, "json"), TOP.raw).status == 401


# broken images, and large ones


def test_images_can_be_put_that_are_broken(registry: V1Registry) -> None:
    registry.put_image(b"no json", b"no tar", image_id=TOP.id, ancestry=[TOP.id, TOP.id])
    assert call(registry, "GET", path(TOP, "json")).body == b"no json"
    assert call(registry, "GET", path(TOP, "ancestry")).json == [TOP.id, TOP.id]
    registry.put_image(BASE.raw, None, checksums=["sha256:x"], ancestry=b"[")
    answer = call(registry, "GET", path(BASE, "json"))
    assert answer.headers["X-Docker-Size"] is None
    assert answer.header("X-Docker-Checksum-Payload") == "sha256:x"
    assert call(registry, "GET", path(BASE, "layer")).status == 404
    assert call(registry, "GET", path(BASE, "ancestry")).body == b"["
    registry.put_image(BASE.raw, BASE.layer, complete=False)
    assert call(registry, "GET", path(BASE, "json")).status == 400
    registry.put_image(BASE.raw, BASE.layer)
    registry.put_layer(BASE.id, b"other")
    assert call(registry, "GET", path(BASE, "layer")).body == b"other"
    answer = call(registry, "GET", path(BASE, "json"))
    assert answer.header("X-Docker-Checksum-Payload") == BASE.checksum
    assert registry.delete_image(BASE.id)
    assert call(registry, "GET", path(BASE, "json")).status == 404
    with pytest.raises(ValueError, match="no id of an image"):
        registry.put_image(b"no json", b"")


def test_more_can_be_said_of_an_image_than_is_so(registry: V1Registry) -> None:
    said = {
        "X-Docker-Size": "much",
        "X-Docker-Checksum": BASE.tarsum,
        "X-Docker-Checksum-Payload": None,
    }
    registry.put_image(BASE.raw, BASE.layer, said=said)
    headers = call(registry, "GET", path(BASE, "json")).headers
    assert {name: headers[name] for name in said} == said
    registry.put_image(BASE.raw, BASE.layer)
    headers = call(registry, "GET", path(BASE, "json")).headers
    assert headers["X-Docker-Size"] == str(len(BASE.layer))


@pytest.mark.parametrize("image_id", ["", "latest", "../../repositories", "F" * 64])
def test_a_tag_may_stand_for_what_is_no_image(registry: V1Registry, image_id: str) -> None:
    registry.put_tag("test/app", "odd", image_id)
    assert call(registry, "GET", "/v1/repositories/test/app/tags").json == {"odd": image_id}
    assert registry.index_images("test/app") == [{"id": image_id}]


def test_a_large_layer_takes_no_space(tmp_path: Path) -> None:
    with V1Registry(tmp_path) as registry:
        size = 3 << 20
        registry.put_synthetic(BASE.raw, size)
        answer = call(registry, "GET", path(BASE, "json"))
        expected = hashlib.sha256(BASE.raw + b"\n" + bytes(size)).hexdigest()
        assert answer.header("X-Docker-Checksum-Payload") == f"sha256:{expected}"
        assert answer.header("X-Docker-Size") == str(size)
        assert call(registry, "GET", path(BASE, "layer")).body == bytes(size)
        assert sum(one.stat().st_size for one in tmp_path.rglob("*") if one.is_file()) < 10_000


def test_a_chain_of_large_layers(registry: V1Registry) -> None:
    ids = images.push_synthetic_chain(registry, "test/soak", "1", [1024, 1 << 21])
    assert call(registry, "GET", "/v1/repositories/test/soak/tags").json == {"1": ids[-1]}
    assert call(registry, "GET", f"/v1/images/{ids[1]}/ancestry").json == ids[::-1]
    for image_id, size in zip(ids, (1024, 1 << 21), strict=True):
        stored = registry.image(image_id)
        assert stored is not None
        expected = hashlib.sha256(stored.raw + b"\n" + bytes(size)).hexdigest()
        assert stored.checksums == (f"sha256:{expected}",)
        assert call(registry, "GET", f"/v1/images/{image_id}/layer").body == bytes(size)
    assert images.push_synthetic_chain(registry, "test/soak", "1", [1024, 1 << 21]) == ids


def test_the_checksum_may_come_as_a_list() -> None:
    with V1Registry(listed_checksums=True) as registry:
        registry.put_image(BASE.raw, BASE.layer)
        answer = call(registry, "GET", path(BASE, "json"))
        assert json.loads(answer.header("X-Docker-Checksum-Payload")) == [BASE.checksum]


# what is shared with the other registry


def test_a_list_that_an_index_had_is_made_of_the_tags(tmp_path: Path) -> None:
    where = "/v1/repositories/test/app/images"
    with V1Registry(tmp_path) as registry:
        images.push_chain(registry, "test/app", ["1", "2"], CHAIN)
        registry.put_tag("test/app", "none", "0" * 64)
    (tmp_path / "repositories/test/app/_index_images").unlink()
    (tmp_path / f"images/{BASE.id}/ancestry").unlink()
    with V1Registry(tmp_path) as registry:
        assert refused(call(registry, "GET", where), 404) == "images not found"
    with V1Registry(tmp_path, read_only=True) as registry:
        assert {one["id"]: one.get("checksum") for one in call(registry, "GET", where).json} == {
            **{image.id: image.checksum for image in CHAIN.images},
            "0" * 64: None,
        }
        assert call(registry, "GET", "/v1/repositories/test/none/images").status == 404
        assert refused(call(registry, "GET", path(BASE, "ancestry")), 404) == "Image not found"


def test_content_outlives_the_registry_in_a_directory(tmp_path: Path) -> None:
    with V1Registry(tmp_path) as registry:
        for image in CHAIN.images:
            assert push(registry, image) == [200, 200, 200]
        registry.put_tag("test/app", "latest", CHAIN.id)
        other = images.random_chain(seed=2, length=1)
        images.push_chain(registry, "test/other", "1", other)
        with pytest.raises(BlockingIOError, match="in use"):
            V1Registry(tmp_path)
    with V1Registry(tmp_path) as registry:
        assert registry.tags("test/app") == {"latest": CHAIN.id}
        assert registry.image_ids() == sorted([*CHAIN.ancestry, other.id])
        assert call(registry, "GET", path(other.images[0], "layer")).body == other.images[0].layer
        assert call(registry, "GET", path(TOP, "layer")).body == TOP.layer


def test_a_directory_may_only_be_read(tmp_path: Path) -> None:
    with V1Registry(tmp_path) as registry:
        images.push_chain(registry, "test/app", "latest", CHAIN)
    with V1Registry(tmp_path, read_only=True) as one, V1Registry(tmp_path, read_only=True) as two:
        for registry in (one, two):
            assert call(registry, "GET", path(TOP, "layer")).body == TOP.layer
            message = refused(call(registry, "PUT", path(TOP, "json"), TOP.raw), 405)
            assert message == "This registry is only read"
            with pytest.raises(PermissionError, match="only read"):
                registry.put_tag("test/app", "other", TOP.id)
            with pytest.raises(PermissionError, match="only read"):
                registry.put_image(BASE.raw, b"")
    with pytest.raises(FileNotFoundError):
        V1Registry(tmp_path / "none", read_only=True)
    # one too high or too low, which would seem to be empty
    for wrong in (tmp_path.parent, tmp_path / "images"):
        with pytest.raises(ValueError, match="has no directory 'repositories'"):
            V1Registry(wrong, read_only=True)
    with pytest.raises(ValueError, match="needs a root"):
        V1Registry(read_only=True)


def test_a_directory_of_the_original_is_served(tmp_path: Path) -> None:
    image, repository = tmp_path / "images" / BASE.id, tmp_path / "repositories/library/old"
    image.mkdir(parents=True)
    repository.mkdir(parents=True)
    (image / "json").write_bytes(BASE.raw)
    (image / "layer").write_bytes(BASE.layer)
    (image / "ancestry").write_text(json.dumps([BASE.id]))
    (image / "_checksum").write_text(BASE.checksum)
    (repository / "tag_latest").write_text(BASE.id)
    (repository / "_index_images").write_text(json.dumps([{"id": BASE.id}]))
    odd = tmp_path / "repositories/a/b%252Fc"
    odd.mkdir(parents=True)
    (odd / "tag_latest").write_text(BASE.id)
    with V1Registry(tmp_path) as registry:
        assert registry.repositories() == ["library/old"]
        assert call(registry, "GET", "/v1/search?q=").json["num_results"] == 1
        assert call(registry, "GET", "/v1/repositories/old/tags").json == {"latest": BASE.id}
        assert call(registry, "GET", "/v1/repositories/old/images").json == [{"id": BASE.id}]
        answer = call(registry, "GET", path(BASE, "json"))
        assert answer.header("X-Docker-Checksum-Payload") == BASE.checksum
        assert call(registry, "GET", path(BASE, "layer")).body == BASE.layer


def test_search_and_users_may_be_in_files(tmp_path: Path) -> None:
    root, users = tmp_path / "root", tmp_path / "users"
    root.mkdir()
    (root / "search.json").write_text('{"test/app": {"description": "an app", "star_count": 2}}')
    users.write_text("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
    with V1Registry(root, htpasswd=users) as registry:
        answer = call(registry, "GET", "/v1/search?q=app", headers=basic("ann", "secret"))
        assert [one["description"] for one in answer.json["results"]] == ["an app"]
        assert call(registry, "GET", "/v1/search?q=app").status == 401


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="ranges is"):
        V1Registry(ranges="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="role is"):
        V1Registry(role="mirror")  # type: ignore[arg-type]
    with V1Registry() as registry:
        with pytest.raises(ValueError, match="no id of an image"):
            registry.image("latest")
        with pytest.raises(ValueError, match="no tag"):
            registry.put_tag("test/app", "a/b", CHAIN.id)
        with pytest.raises(ValueError, match="no name of a repository"):
            registry.put_tag("a/b/c", "1", CHAIN.id)
        registry.put_image(BASE.raw, None)
        stored = registry.image(BASE.id)
        assert stored is not None
        with pytest.raises(KeyError, match="has no layer"):
            _ = stored.layer_bytes


def test_faults_strike_and_speak_v1(filled: V1Registry) -> None:
    filled.add_fault("status:code=503,times=1,retry-after=7")
    answer = call(filled, "GET", path(TOP, "json"))
    assert (answer.status, answer.header("Retry-After")) == (503, "7")
    assert set(answer.json) == {"error"}
    filled.add_fault("corrupt:offset=5,path=/layer,times=1")
    body = call(filled, "GET", path(TOP, "layer")).body
    assert [n for n, (a, b) in enumerate(zip(body, TOP.layer, strict=True)) if a != b] == [5]
    filled.add_fault("no-range:times=1")
    answer = call(filled, "GET", path(TOP, "layer"), headers={"Range": "bytes=5-"})
    assert (answer.status, answer.body) == (200, TOP.layer)
    filled.add_fault("drop:after=10,path=/layer,times=1")
    with connected(filled) as connection:
        connection.request("GET", path(TOP, "layer"))
        assert connection.getresponse().read(10) == TOP.layer[:10]
    filled.wait_for(lambda log: log[-1].done and log[-1].faults == ("drop",))
    assert filled.requests[-1].sent == 10


def test_a_layer_that_breaks_off_on_its_way_is_not_kept(registry: V1Registry) -> None:
    call(registry, "PUT", path(BASE, "json"), BASE.raw)
    registry.add_fault("drop:after=50,method=PUT,times=1")
    with pytest.raises(OSError, match=r".*"):
        call(registry, "PUT", path(BASE, "layer"), [BASE.layer[:50], BASE.layer[50:]])
    stored = registry.image(BASE.id)
    assert stored is not None
    assert stored.layer is None
    assert push(registry, BASE) == [200, 200, 200]


def test_a_request_is_held(filled: V1Registry) -> None:
    with filled.hold(path="/layer") as hold, connected(filled) as connection:
        connection.request("GET", path(TOP, "layer"))
        assert hold.entered.wait(30)
        hold.release()
        assert connection.getresponse().read() == TOP.layer


def test_many_clients_push_one_chain_at_once(tmp_path: Path) -> None:
    """Whoever comes late is told that the image is there; nobody sees half of one."""
    allowed = {200, 400, 409}
    begin = threading.Barrier(4)
    with V1Registry(tmp_path) as registry:

        def client() -> list[int]:
            begin.wait(30)
            return [status for image in CHAIN.images for status in push(registry, image)]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(client) for _ in range(4)]
            statuses = [status for future in futures for status in future.result(30)]
        assert set(statuses) <= allowed
        assert not [one for one in registry.requests if one.status == 500]
        for image in CHAIN.images:
            # One that several had begun may be left to be pushed again.
            push(registry, image)
            stored = registry.image(image.id)
            assert stored is not None
            assert (stored.complete, stored.layer_bytes) == (True, image.layer)
        lists = [[{"id": f"{number:064x}"}] for number in range(16)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            body = [json.dumps(one).encode() for one in lists]
            list(
                pool.map(
                    lambda one: call(registry, "PUT", "/v1/repositories/a/b/images", one), body
                )
            )
        known = registry.index_images("a/b")
        assert known is not None
        assert sorted(one["id"] for one in known) == [one[0]["id"] for one in lists]


def test_the_search_is_that_of_the_other(filled: V1Registry) -> None:
    filled.describe("test/app", description="an app", star_count=3)
    filled.describe("test/other", description="also an app", star_count=5)
    found = call(filled, "GET", "/v1/search?q=app&n=1&page=2").json
    assert (found["num_results"], found["num_pages"], found["page"]) == (2, 2, 2)
    assert [one["name"] for one in found["results"]] == ["test/app"]
    refused(call(filled, "GET", "/v1/search?q=app&n=0"), 400)
    with V1Registry(search=False) as registry:
        assert refused(call(registry, "GET", "/v1/search?q=app"), 404) == "Not found"


# chains and sums


def test_chains_are_the_same_again_and_others_for_another_seed() -> None:
    assert images.random_chain(seed=1, length=3) == CHAIN
    assert images.random_chain(seed=2, length=3).ancestry != CHAIN.ancestry
    assert [image.parent for image in CHAIN.images] == [None, *CHAIN.ancestry[:0:-1]]


def test_layers_have_what_a_layer_may_have() -> None:
    kinds: set[bytes] = set()
    names: list[str] = []
    extended = 0
    for image in images.random_chain(seed=3, length=12, files=12).images:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(image.layer))) as tar:
            for member in tar:
                kinds.add(member.type)
                names.append(member.name)
                extended += any("xattr" in key for key in member.pax_headers)
    assert kinds == {tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE}
    assert any(len(name) > 100 for name in names)
    assert any("/.wh." in name for name in names)
    assert extended


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), entries=st.integers(0, 12), packed=st.booleans())
def test_the_tarsum_is_that_of_the_files_whatever_the_packing(
    seed: int, entries: int, packed: bool
) -> None:
    chain = images.random_chain(seed, 1, entries)
    image = chain.images[0]
    other = dataclasses.replace(
        image, layer=gzip.compress(image.archive, 9) if packed else image.archive
    )
    assert other.tarsum == image.tarsum
    assert image.tarsum == f"tarsum+sha256:{_by_hand(image)}"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), entries=st.integers(0, 15), gzipped=st.booleans())
def test_the_tarsum_is_that_of_the_library(seed: int, entries: int, gzipped: bool) -> None:
    image = images.random_chain(seed, 1, entries, gzipped=gzipped).images[0]
    assert image.tarsum == str(tarsum(image.archive, json=image.raw))


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=5000), cuts=st.lists(st.integers(0, 5000), max_size=6))
def test_the_checksum_is_of_the_bytes_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    with V1Registry() as registry:
        places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        body = [data[start:end] for start, end in itertools.pairwise(places) if start < end]
        call(registry, "PUT", path(BASE, "json"), BASE.raw)
        assert call(registry, "PUT", path(BASE, "layer"), body).status == 200
        payload = "sha256:" + hashlib.sha256(BASE.raw + b"\n" + data).hexdigest()
        headers = {"X-Docker-Checksum-Payload": payload}
        assert call(registry, "PUT", path(BASE, "checksum"), headers=headers).status == 200
        stored = registry.image(BASE.id)
        assert stored is not None
        assert stored.layer_bytes == data


def test_what_the_page_shows_works() -> None:
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile("\n".join(blocks), "docs/testing.md", "exec"), names)
    lines = shown.getvalue().splitlines()
    assert lines[1] == "['1.0']"
    assert lines[3].startswith("{'1.0': '")
    assert lines[5] == "3"


def _by_hand(image: images.V1Image) -> str:
    """The TarSum from the parts of the archive's headers, read again without a stream."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(image.archive)) as tar:
        for member in tar.getmembers():
            name = member.name + ("/" if member.isdir() else "")
            header: list[Any] = ["name", name, "mode", member.mode, "uid", member.uid]
            header += ["gid", member.gid, "size", member.size, "mtime", int(member.mtime)]
            header += ["typeflag", member.type.decode(), "linkname", member.linkname]
            header += ["uname", member.uname, "gname", member.gname]
            header += ["devmajor", member.devmajor, "devminor", member.devminor]
            body = tar.extractfile(member) if member.isreg() else None
            data = body.read() if body is not None else b""
            found.append(hashlib.sha256("".join(map(str, header)).encode() + data).hexdigest())
    return hashlib.sha256(image.raw + "".join(sorted(found)).encode()).hexdigest()
