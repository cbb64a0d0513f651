"""Servers that do what no specification has: what is made of it, and that it ends."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Request, scripted
from support_manifests import Step, descriptor, layer, old_image
from support_referrers import client, put_artifact
from support_service import Bench

from engine import Status
from registry_service.auth import Authenticator
from registry_service.capabilities import CapabilityTable
from registry_service.constants import APIVersion
from registry_service.credentials import AuthConfig
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import (
    DigestMismatchError,
    ManifestError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
)
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST
from registry_service.media import OCI_LAYER, SCHEMA1_UNSIGNED
from registry_service.observe import Observer
from registry_service.session.streaming import LostUploadError
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image
from registry_service.transport import Transport

NAME = "test/app"
IMAGE = random_image(1, layers=2)
BLOB = bytes(range(256)) * 64
LAYER = Descriptor(media_type="a/b", digest=Digest.of(BLOB), size=len(BLOB))
MANY = "9" * 5000


@pytest.fixture
def transport() -> Iterator[Transport]:
    settings = RegistrySettings(retries=2)
    with Transport(settings, sleep=lambda seconds, cancel: None, dice=lambda: 0.0) as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state", retries=2, retry_wait_max=0.05)
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def sent(transport: Transport, host: str, **options: Any) -> Digest:
    with client(transport, host, **options) as one:
        return one.put_blob("a", LAYER, lambda: io.BytesIO(BLOB))


# what is there


@pytest.mark.parametrize("verb", ["push", "copy"])
def test_403_may_be_how_a_server_says_that_there_is_nothing(
    bench: Bench, registry: Registry, verb: str
) -> None:
    push_image(registry, NAME, "1", IMAGE)
    place = f"{registry.host}/{NAME}:1"
    bench.run("pull", place)
    refusals = [
        f"status:code=403,method={method},path=/{kind}/"
        for kind in ("manifests", "blobs")
        for method in ("HEAD", "GET")
    ]
    with Registry(faults=refusals) as target:
        name = f"{target.host}/new:1"
        if verb == "push":
            bench.run("tag", place, name)
            bench.run("push", name)
        else:
            bench.run("copy", place, name)
        found = target.manifest("new", "1")
        assert found is not None
        assert found.raw == IMAGE.manifest


def test_who_may_nothing_is_told_so(bench: Bench, registry: Registry) -> None:
    push_image(registry, NAME, "1", IMAGE)
    with Registry(faults=["status:code=403,path=/v2/new/"]) as target:
        _, message = bench.fail("copy", f"{registry.host}/{NAME}:1", f"{target.host}/new:1")
        assert "403" in message


def test_a_blob_that_was_cut_off_over_there_is_sent_again(bench: Bench, registry: Registry) -> None:
    """A registry whose disk was full has a file of no bytes, and says that it is there."""
    push_image(registry, NAME, "1", IMAGE)
    place = f"{registry.host}/{NAME}:1"
    bench.run("pull", place)
    bench.run("push", place)
    registry.clear_requests()
    (first, *_) = IMAGE.layers

    def empty(request: Request) -> None:
        request.answer(200, b"")

    with scripted(empty) as server:
        digest = Digest.of(first)
        fault = f"redirect:to=http://{server.host},method=HEAD,path=/blobs/{digest}"
        registry.add_fault(fault)
        rows = bench.run("push", place)
    states = {row["digest"]: row["state"] for row in rows}
    assert states.pop(str(digest)) == "pushed"
    assert "pushed" not in {states[one] for one in IMAGE.blobs if one != str(digest)}


# manifests


@pytest.mark.parametrize("kind", [SCHEMA1_UNSIGNED, "application/json"])
def test_a_part_of_an_index_is_what_the_index_says(
    bench: Bench, registry: Registry, kind: str
) -> None:
    old = old_image([Step(command="one", blob=layer("f", b"x"))])
    for blob in old.blobs:
        registry.put_blob(NAME, blob)
    registry.put_manifest(NAME, None, old.raw, kind)
    part = descriptor(OCI_MANIFEST, old.raw)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [part]}
    registry.put_manifest(NAME, "1", json.dumps(index).encode(), OCI_INDEX)
    _, message = bench.fail("pull", f"{registry.host}/{NAME}:1", platform="all")
    assert part["digest"] in message
    assert bench.names == []


def test_indexes_that_nest_without_an_end_are_refused(bench: Bench, registry: Registry) -> None:
    inner = put_artifact(registry, NAME, None).descriptor
    for depth in range(12):
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.to_json()] * 3}
        raw = json.dumps(index).encode()
        registry.put_manifest(NAME, f"deep{depth}", raw, OCI_INDEX)
        inner = Descriptor(media_type=OCI_INDEX, digest=Digest.of(raw), size=len(raw))
    place = f"{registry.host}/{NAME}"
    with Registry() as target:
        for verb, args in (("pull", ()), ("copy", (f"{target.host}/a:1",)), ("inspect", ())):
            more = {} if verb == "copy" else {"platform": "all"}
            _, message = bench.fail(verb, f"{place}:deep11", *args, **more)
            assert "nest more than 8 deep" in message
        bench.run("pull", f"{place}:deep5", platform="all")
        bench.run("copy", f"{place}:deep5", f"{target.host}/a:1")


def test_ten_thousand_layers(bench: Bench, registry: Registry) -> None:
    registry.put_blob(NAME, BLOB)
    registry.put_blob(NAME, b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/x", b"{}"),
        "layers": [descriptor(OCI_LAYER, BLOB)] * 10_000,
    }
    raw = json.dumps(document).encode()
    registry.put_manifest(NAME, "1", raw, OCI_MANIFEST)
    place = f"{registry.host}/{NAME}:1"
    assert len(bench.run("pull", place)) == 3
    assert [row["complete"] for row in bench.run("images")] == [True]
    with Registry() as target:
        assert len(bench.run("copy", place, f"{target.host}/{NAME}")) == 3
    (shown,) = bench.run("inspect", place)
    assert shown["size"] == len(raw) + 2 + 10_000 * len(BLOB)


@pytest.mark.parametrize(
    ("field", "value"), [("annotations", {"note": "x" * 2_000_000}), ("kind", "a/" + "b" * 200)]
)
def test_annotations_of_megabytes(bench: Bench, registry: Registry, field: str, value: Any) -> None:
    push_image(registry, NAME, "1", IMAGE)
    made = put_artifact(registry, NAME, IMAGE, tag="big", **{field: value})
    place = f"{registry.host}/{NAME}"
    job = bench.job("referrers", f"{place}:1")
    assert job.run() is Status.OK
    (row,) = job.stdout.table().to_dicts()
    assert row["digest"] == str(made.digest)
    heavy = field == "annotations"
    assert ("cannot show 'annotations'" in job.stderr.text()) == heavy
    assert (row["annotations"] == {}, row["artifact_type"] == value) == (True, not heavy)
    bench.run("pull", f"{place}:big")
    bench.run("inspect", f"{place}:big")
    with Registry(referrers=False) as target:
        bench.run("copy", f"{place}:big", f"{target.host}/a")
        rows = bench.run("referrers", f"{target.host}/a@{IMAGE.digest}")
        assert [row["digest"] for row in rows] == [str(made.digest)]


# uploads


def opened(request: Request, **headers: str) -> bool:
    """Answer the POST; whether it was one."""
    request.read_body()
    if request.command == "POST":
        request.answer(202, headers={"Location": "/v2/a/blobs/uploads/1", **headers})
    return request.command == "POST"


def test_of_another_digest_than_sha256_the_registry_is_told_at_once(
    transport: Transport, registry: Registry
) -> None:
    digest = Digest.of(BLOB, "sha512")
    other = Descriptor(media_type="a/b", digest=digest, size=len(BLOB))
    with client(transport, registry.host) as one:
        one.put_blob("a", other, lambda: io.BytesIO(BLOB))
        one.put_blob("a", LAYER, lambda: io.BytesIO(BLOB))
        one.put_stream("a", io.BytesIO(b"x" * 5_000_000), algorithm="sha512")
    asked = [request.query for request in registry.requests if request.method == "POST"]
    assert [dict(query) for query in asked] == [
        {"digest-algorithm": ("sha512",)},
        {},
        {"digest-algorithm": ("sha512",)},
    ]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("size", [len(BLOB), 5_000_000])
def test_all_that_was_taken_and_answered_with_202_is_asked_for(
    transport: Transport, there: bool, size: int
) -> None:
    def handler(request: Request) -> None:
        if opened(request):
            return
        if request.command == "HEAD":
            request.answer(200 if there else 404, length=size if there else 0)
        elif request.command == "GET":
            request.answer(404)
        else:
            request.answer(202)

    data = bytes(size)
    with scripted(handler) as server, client(transport, server.host) as one:
        if there:
            assert one.put_stream("a", io.BytesIO(data)) == Digest.of(data)
        else:
            with pytest.raises(RegistryError, match=r"took all of .* and does not have it"):
                one.put_stream("a", io.BytesIO(data))


@pytest.mark.parametrize("status", [201, 416, 413, 404])
@pytest.mark.parametrize(
    "has", ["0-0", "bytes=0-4095", f"0-{MANY}", "nonsense", "5-1", "0-99999999"]
)
def test_a_server_that_never_takes_a_part_is_not_asked_for_ever(
    transport: Transport, status: int, has: str
) -> None:
    """416s in a loop, an upload that is forgotten, 201 to a part, and a Range that lies."""

    def handler(request: Request) -> None:
        if opened(request):
            return
        if request.command == "GET":
            request.answer(204, headers={"Range": has, "Location": "/v2/a/blobs/uploads/2"})
        elif request.command == "PATCH":
            request.answer(status, headers={"Range": has})
        else:
            request.answer(400 if request.command == "PUT" else 202)

    table = CapabilityTable()
    with scripted(handler) as server:
        table.learn(server.host, chunk_limit=4096)
        with pytest.raises((RegistryHTTPError, LostUploadError)):
            sent(transport, server.host, capabilities=table)
        assert len(server.requests) < 60
        table.learn(server.host, chunk_limit=4096, chunks=None)
        stream = io.BytesIO(bytes(5_000_000))
        with (
            client(transport, server.host, capabilities=table) as one,
            pytest.raises(RegistryError),
        ):
            one.put_stream("a", stream)
        assert len(server.requests) < 200


@pytest.mark.parametrize("least", [MANY, "-1", "x", "", "99999999999"])
def test_least_parts_that_are_none(transport: Transport, least: str) -> None:
    def handler(request: Request) -> None:
        if not opened(request, **{"OCI-Chunk-Min-Length": least}):
            request.answer(201)

    with scripted(handler) as server:
        assert sent(transport, server.host) == LAYER.digest


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_an_upload_that_moved_to_another_server_and_is_gone_there_begins_anew(
    transport: Transport, status: int
) -> None:
    """What that server says of who asks is no word of the registry's."""
    puts: list[str] = []

    def store(request: Request) -> None:
        assert "Authorization" not in request.headers
        request.read_body()
        first = request.command != "PUT" or not puts
        if request.command == "PUT":
            puts.append(request.path)
            if first:
                request.drop()
                return
        request.answer(status if request.command == "GET" else 201)

    with scripted(store) as other:

        def handler(request: Request) -> None:
            request.read_body()
            request.answer(202, headers={"Location": f"http://{other.host}/up?state=1"})

        with scripted(handler) as server:
            own = {"Authorization": ["Basic c2VjcmV0"]}
            assert sent(transport, server.host, headers=own) == LAYER.digest
            assert len(puts) == 2
            assert all(path.startswith("/up?state=1&digest=sha256:") for path in puts)


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher"])
def test_an_upload_that_moves_to_another_kind_of_server_is_refused(
    transport: Transport, scheme: str
) -> None:
    def handler(request: Request) -> None:
        request.read_body()
        request.answer(202, headers={"Location": f"{scheme}://h/up"})

    with scripted(handler) as server, pytest.raises(ProtocolError, match="no http or https URL"):
        sent(transport, server.host)


def test_a_mount_of_something_else_is_no_mount(bench: Bench, registry: Registry) -> None:
    made = put_artifact(registry, NAME, None, b"{}", tag="1")  # all of it is one blob

    def lie(request: Request) -> None:
        request.read_body()
        request.answer(201, headers={"Docker-Content-Digest": str(Digest.of(b"other"))})

    with scripted(lie) as server:
        registry.add_fault(f"redirect:to=http://{server.host},times=1,method=POST,path=/uploads")
        place = registry.host
        job = bench.job("copy", f"{place}/{NAME}:1", f"{place}/other:1")
        assert job.run() is Status.OK, job.stderr.text()
    assert {row["state"] for row in job.stdout.table().to_dicts()} == {"copied"}
    assert "could not be mounted" in job.stderr.text()
    found = registry.manifest("other", "1")
    assert found is not None
    assert found.raw == made.raw


# numbers, warnings, encodings


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": f"bytes 0-{MANY}/*"},
        {"Content-Range": f"bytes {MANY}-5/6"},
        {"RateLimit-Remaining": MANY, "RateLimit-Limit": "-1"},
        {"Docker-Content-Digest": "sha256:" + MANY},
        {"Warning": '299 - "'},
    ],
)
@pytest.mark.parametrize("status", [200, 206, 416, 503])
def test_numbers_that_are_none(transport: Transport, status: int, headers: dict[str, str]) -> None:
    def handler(request: Request) -> None:
        request.answer(status, BLOB, headers)

    with scripted(handler) as server:
        one = client(transport, server.host, capabilities=CapabilityTable())
        for work in _reading(one):
            try:
                work()
            except (RegistryHTTPError, ProtocolError, DigestMismatchError, ManifestError):
                continue


def _reading(one: Any) -> Iterator[Callable[[], object]]:
    yield lambda: one.read_blob("a", LAYER, limit=100_000)
    yield lambda: one.open_blob("a", LAYER.digest, 5).close()
    yield lambda: one.blob_size("a", LAYER.digest)
    yield lambda: one.head_manifest("a", LAYER.digest)


def test_several_warnings_in_one_header_are_passed_on(transport: Transport) -> None:
    told: list[str] = []

    def handler(request: Request) -> None:
        request.answer(200, {"tags": []}, {"Warning": '299 - "one", 299 - "two", 199 - "three"'})

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(text)

    observer = Observer(log=log)
    with scripted(handler) as server:
        list(client(transport, server.host, observer=observer).tags("a"))
        assert told == [f"{server.host} warns: one", f"{server.host} warns: two"]


def test_a_page_of_a_proxy_is_no_manifest(transport: Transport) -> None:
    page = b"<html>Log in to the network</html>"

    def handler(request: Request) -> None:
        request.answer(200, page, {"Content-Type": "text/html"})

    with scripted(handler) as server:
        one = client(transport, server.host)
        with pytest.raises(RegistryError):
            one.head_manifest("a", Digest.of(b"x"))
        with pytest.raises(RegistryError):
            one.get_manifest("a", "1")


def test_a_companion_of_no_known_kind_is_no_companion(bench: Bench) -> None:
    with Registry(any_type=True) as registry:
        push_image(registry, NAME, "1", IMAGE)
        tag = f"{IMAGE.digest.replace(':', '-')}.sig"
        registry.put_manifest(NAME, tag, b"no manifest", "application/x.odd")
        place = f"{registry.host}/{NAME}:1"
        with Registry() as target:
            for verb, args in (("pull", ()), ("copy", (f"{target.host}/a:1",))):
                job = bench.job(verb, place, *args, referrers=True)
                assert job.run() is Status.OK, job.stderr.text()
                assert "is passed over" in job.stderr.text()


def test_what_comes_with_the_second_answer_is_noted_too(transport: Transport) -> None:
    """The first one asks who it is; the limits and the warnings come with the second."""
    told: list[str] = []

    def handler(request: Request) -> None:
        if "Authorization" not in request.headers:
            request.answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return
        warned = {"Warning": '299 - "soon"', "RateLimit-Remaining": "7;w=60"}
        request.answer(200, {"tags": []}, warned)

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(text)

    table = CapabilityTable()
    with scripted(handler) as server:
        endpoint = Endpoint(url=f"{server.url}/", version=APIVersion.V2, transport=transport)
        auth = Authenticator(endpoint, transport, AuthConfig(username="a", password="b"))
        one = V2Client(endpoint, transport, auth, capabilities=table, observer=Observer(log=log))
        assert list(one.tags("a")) == []
        assert [text for text in told if "soon" in text] == [f"{server.host} warns: soon"]
        assert table.of(server.host).rate_remaining == 7


@pytest.mark.parametrize("cut", [0, 1])
def test_a_blob_that_is_encoded_on_its_way_is_the_blob(
    bench: Bench, registry: Registry, cut: int
) -> None:
    """Ranges and lengths are those of the encoded bytes then, and of no use here."""
    push_image(registry, NAME, "1", IMAGE)
    (first, *_) = IMAGE.layers
    packed = gzip.compress(first)
    times = 0

    def encode(request: Request) -> None:
        nonlocal times
        times += 1
        begin = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        part = packed[begin:]
        headers = {"Content-Encoding": "gzip"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(packed) - 1}/{len(packed)}"
        if times <= cut:
            request.answer(200, part[: len(part) // 2], headers, length=len(part))
            request.drop()
        else:
            request.answer(206 if begin else 200, part, headers)

    digest = str(Digest.of(first))
    with scripted(encode) as server, Registry() as target:
        registry.add_fault(f"redirect:to=http://{server.host},path=/blobs/{digest}")
        place = f"{registry.host}/{NAME}:1"
        bench.run("pull", place)
        assert bench.broken() == []
        times = 0
        bench.run("copy", place, f"{target.host}/{NAME}")
        assert target.blob(NAME, digest) == first


@pytest.mark.parametrize("by", [-1, 1])
def test_a_size_that_lies_is_said_and_names_nothing(
    bench: Bench, registry: Registry, by: int
) -> None:
    registry.put_blob(NAME, BLOB)
    registry.put_blob(NAME, b"{}")
    lying = {**descriptor(OCI_LAYER, BLOB), "size": len(BLOB) + by}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/x", b"{}"),
        "layers": [lying],
    }
    registry.put_manifest(NAME, "1", json.dumps(document).encode(), OCI_MANIFEST)
    place = f"{registry.host}/{NAME}:1"
    with Registry() as target:
        for verb, args in (("pull", ()), ("copy", (f"{target.host}/{NAME}",))):
            _, message = bench.fail(verb, place, *args)
            assert lying["digest"] in message
        assert target.tags(NAME) == []
    assert bench.names == []
