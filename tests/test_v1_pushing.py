"""What the V1 client sends: against the shipped V1 registry, and against a server that does what
a test tells it."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted import Request, scripted
from support_v1_client import ANN, IDS, TOKEN, client, v1

from registry_service.cancel import Cancellation
from registry_service.errors import (
    AlreadyExistsError,
    ArchiveError,
    CancelledError,
    ConnectionBrokenError,
    DoesNotExistError,
    InvalidReferenceError,
    LoginRequiredError,
    ProtocolError,
    RegistryHTTPError,
    TarError,
)
from registry_service.headers import HTTPRequestFactory
from registry_service.session.v1.client import V1Client
from registry_service.settings import RegistrySettings
from registry_service.tarsums import tarsum
from registry_service.testing.v1 import V1Registry, images
from registry_service.transport import BodyError
from registry_service.v1.values import ImgData

CHAIN = images.random_chain(seed=4, length=2, files=20, file_size=20_000)
BASE, TOP = CHAIN.images
PLAIN = BASE.archive


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    with V1Registry() as started:
        yield started


@pytest.fixture
def at(registry: V1Registry) -> Iterator[V1Client]:
    with client(registry.url) as made:
        yield made


def img(image: images.V1Image) -> ImgData:
    return ImgData(id=image.id)


def opener(data: bytes) -> Callable[[], io.BytesIO]:
    return lambda: io.BytesIO(data)


def put(made: V1Client, registry: V1Registry, image: images.V1Image, layer: bytes) -> ImgData:
    """All of an image; returns what was said of it."""
    where, token = registry.endpoint, TOKEN
    made.put_json(img(image), image.raw, where, token)
    sums = made.put_layer(image.id, opener(layer), where, token, image.raw)
    said = ImgData(id=image.id, checksum=sums.checksum, checksum_payload=sums.checksum_payload)
    made.put_checksum(said, where, token)
    return said


class Large(io.RawIOBase):
    """A tar archive of one file of zeros, which compresses to little; at its second megabyte it
    does what a test asks."""

    def __init__(self, size: int, *, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        info = tarfile.TarInfo("zeros")
        info.size = size
        self._head = io.BytesIO(info.tobuf(tarfile.GNU_FORMAT))
        self._left = size + 1024
        self._given = 0
        self._then = then

    def readinto(self, buffer: Any, /) -> int:
        count = self._head.readinto(buffer)
        if count:
            return count
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        self._given += count
        if self._given >= 2 * 1024 * 1024:
            self._then()
        return count


# an image


def test_an_image_is_pushed_and_comes_back(registry: V1Registry, at: V1Client) -> None:
    granted = at.put_index("test/app", [img(BASE), img(TOP)], False)
    assert granted.endpoints == (registry.endpoint,)
    said = [put(at, registry, image, image.layer) for image in (BASE, TOP)]
    at.put_tag("test/app", TOP.id, "1.0", registry.endpoint, granted.tokens)
    at.put_index("test/app", said, True, granted.endpoints)
    assert registry.tags("test/app") == {"1.0": TOP.id}
    assert registry.index_images("test/app") is not None
    for image in (BASE, TOP):
        kept = registry.image(image.id)
        assert kept is not None
        assert (kept.raw, kept.layer_bytes, kept.complete) == (image.raw, image.layer, True)
        found = at.image_json(image.id, registry.endpoint, TOKEN)
        assert (found.raw, found.size) == (image.raw, len(image.layer))
        assert found.checksum_payload == image.checksum
        with at.read_layer(image.id, registry.endpoint, TOKEN, found.size) as layer:
            assert layer.read() == image.layer
    assert at.ancestry(TOP.id, registry.endpoint, TOKEN) == [TOP.id, BASE.id]
    assert list(at.tags("test/app")) == ["1.0"]


def test_what_is_said_of_a_layer(registry: V1Registry, at: V1Client) -> None:
    said = put(at, registry, BASE, BASE.layer)
    assert said.checksum == tarsum(PLAIN, json=BASE.raw) == BASE.tarsum
    payload = hashlib.sha256(BASE.raw + b"\n" + BASE.layer).hexdigest()
    assert said.checksum_payload == f"sha256:{payload}" == BASE.checksum


def test_a_plain_layer_is_compressed_on_the_way_to_the_same_bytes(registry: V1Registry) -> None:
    sent = []
    for _ in range(2):
        with V1Registry() as fresh, client(fresh.url) as made:
            said = put(made, fresh, BASE, PLAIN)
            kept = fresh.image(BASE.id)
            assert kept is not None and kept.layer_bytes is not None
            sent.append(kept.layer_bytes)
            assert said.checksum == BASE.tarsum
            payload = hashlib.sha256(BASE.raw + b"\n" + kept.layer_bytes).hexdigest()
            assert said.checksum_payload == f"sha256:{payload}"
    assert sent[0] == sent[1]
    assert gzip.decompress(sent[0]) == PLAIN
    assert sent[0][4:8] == bytes(4)  # no time


def test_an_empty_archive_is_a_layer(registry: V1Registry, at: V1Client) -> None:
    put(at, registry, BASE, bytes(1024))
    kept = registry.image(BASE.id)
    assert kept is not None and gzip.decompress(kept.layer_bytes or b"") == bytes(1024)


class Trickle(io.BytesIO):
    """Gives a few bytes at a time."""

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[:7])


def test_a_source_may_give_few_bytes_at_a_time(registry: V1Registry, at: V1Client) -> None:
    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    sums = at.put_layer(BASE.id, lambda: Trickle(BASE.layer), registry.endpoint, TOKEN, BASE.raw)
    assert (sums.checksum, sums.checksum_payload) == (BASE.tarsum, BASE.checksum)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"", BodyError, "empty"),
        (b"no archive" * 1000, TarError, "no tar archive"),
        (bz2.compress(PLAIN), BodyError, "compressed with bzip2"),
        (b"\xfd7zXZ\0" + bytes(1000), BodyError, "compressed with xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(1000), BodyError, "compressed with zstd"),
        (gzip.compress(b"no archive" * 1000), TarError, "no tar archive"),
    ],
)
def test_what_is_no_layer_is_refused_before_anything_is_sent(
    registry: V1Registry, at: V1Client, data: bytes, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        at.put_layer(BASE.id, opener(data), registry.endpoint, TOKEN, BASE.raw)
    assert registry.requests == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (PLAIN[: len(PLAIN) // 2 + 100], TarError),
        (BASE.layer[: len(BASE.layer) // 2], ArchiveError),
        (BASE.layer[:-9] + bytes(9), ArchiveError),
    ],
)
def test_a_damaged_layer_does_not_become_a_whole_one(
    registry: V1Registry, at: V1Client, data: bytes, error: type[Exception]
) -> None:
    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    with pytest.raises(error):
        at.put_layer(BASE.id, opener(data), registry.endpoint, TOKEN, BASE.raw)
    kept = registry.image(BASE.id)
    assert kept is not None
    assert (kept.layer, kept.complete) == (None, False)


def test_a_source_that_cannot_be_read_is_told_as_such(registry: V1Registry, at: V1Client) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().readinto(memoryview(buffer)[:2000])

    def absent() -> io.BytesIO:
        raise FileNotFoundError(2, "No such file or directory", "layer")

    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    with pytest.raises(BodyError, match="cannot be opened"):
        at.put_layer(BASE.id, absent, registry.endpoint, TOKEN, BASE.raw)
    with pytest.raises(BodyError, match="cannot be read"):
        at.put_layer(BASE.id, lambda: Broken(PLAIN), registry.endpoint, TOKEN, BASE.raw)


def test_every_source_is_closed(registry: V1Registry, at: V1Client) -> None:
    sources: list[io.BytesIO] = []

    def remembered(data: bytes) -> Callable[[], io.BytesIO]:
        def opened() -> io.BytesIO:
            sources.append(io.BytesIO(data))
            return sources[-1]

        return opened

    registry.add_fault("drop:path=*/layer,after=1000,times=1")
    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    at.put_layer(BASE.id, remembered(BASE.layer), registry.endpoint, TOKEN, BASE.raw)
    for wrong in (b"x" * 1000, PLAIN[:1000]):
        with pytest.raises(TarError):
            at.put_layer(BASE.id, remembered(wrong), registry.endpoint, TOKEN, BASE.raw)
    with pytest.raises(InvalidReferenceError):
        at.put_layer("no id", remembered(PLAIN), registry.endpoint, TOKEN, BASE.raw)
    assert all(source.closed for source in sources)


# what a registry says


def test_an_image_that_is_there_already(registry: V1Registry, at: V1Client) -> None:
    registry.put_image(BASE.raw, BASE.layer)
    with pytest.raises(AlreadyExistsError, match="409"):
        at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    with pytest.raises(AlreadyExistsError):
        at.put_layer(BASE.id, opener(BASE.layer), registry.endpoint, TOKEN, BASE.raw)


@pytest.mark.parametrize("secret", ["already", "exists", "Image already exists"])
def test_a_secret_that_is_a_word_of_the_answer_does_not_hide_it(secret: str) -> None:
    def handler(request: Request) -> None:
        request.read_body()
        request.answer(409, {"error": "Image already exists"})

    factory = HTTPRequestFactory({"X-Meta-Key": [secret]})
    with scripted(handler) as server, client(server.url, factory=factory) as made:
        with pytest.raises(AlreadyExistsError) as caught:
            made.put_json(img(BASE), BASE.raw, v1(server), TOKEN)
        assert secret not in str(caught.value)


@pytest.mark.parametrize("secret", ["checksum", "Checksum mismatch"])
def test_what_a_registry_did_not_get_is_told_by_its_code(secret: str) -> None:
    def handler(request: Request) -> None:
        request.read_body()
        request.answer(400, {"error": "Checksum mismatch, ignoring the layer"})

    factory = HTTPRequestFactory({"X-Meta-Key": [secret]})
    with (
        scripted(handler) as server,
        client(server.url, factory=factory) as made,
        pytest.raises(RegistryHTTPError) as caught,
    ):
        made.put_checksum(img(BASE), v1(server), TOKEN)
    assert (caught.value.code, caught.value.http_status) == ("checksum-mismatch", 400)
    assert secret not in str(caught.value).partition(": ")[2]


def test_a_large_layer_that_is_there_already(registry: V1Registry, at: V1Client) -> None:
    """The registry says so before it has read all of it."""
    registry.put_image(BASE.raw, BASE.layer)
    large = Large(64 * 1024 * 1024)
    with pytest.raises(AlreadyExistsError):
        at.put_layer(BASE.id, lambda: large, registry.endpoint, TOKEN, BASE.raw)


def test_a_checksum_that_is_wrong(registry: V1Registry, at: V1Client) -> None:
    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    sums = at.put_layer(BASE.id, opener(BASE.layer), registry.endpoint, TOKEN, BASE.raw)
    wrong = ImgData(id=BASE.id, checksum=sums.checksum, checksum_payload=f"sha256:{'0' * 64}")
    with pytest.raises(RegistryHTTPError, match="Checksum mismatch"):
        at.put_checksum(wrong, registry.endpoint, TOKEN)
    wrong = ImgData(
        id=BASE.id,
        checksum=f"tarsum+sha256:{'0' * 64}",
        checksum_payload=sums.checksum_payload,
    )
    with pytest.raises(RegistryHTTPError, match="Checksum mismatch"):
        at.put_checksum(wrong, registry.endpoint, TOKEN)


def test_a_checksum_of_an_image_that_is_whole(registry: V1Registry, at: V1Client) -> None:
    said = put(at, registry, BASE, BASE.layer)
    with pytest.raises(AlreadyExistsError):
        at.put_checksum(said, registry.endpoint, TOKEN)


def test_an_image_without_its_parent(registry: V1Registry, at: V1Client) -> None:
    with pytest.raises(RegistryHTTPError, match="non existing parent"):
        at.put_json(img(TOP), TOP.raw, registry.endpoint, TOKEN)


def test_a_layer_without_its_json(registry: V1Registry, at: V1Client) -> None:
    with pytest.raises(RegistryHTTPError, match="404"):
        at.put_layer(BASE.id, opener(BASE.layer), registry.endpoint, TOKEN, BASE.raw)


def test_tags_are_put_and_deleted(registry: V1Registry, at: V1Client) -> None:
    registry.put_image(BASE.raw, BASE.layer)
    where = registry.endpoint
    with pytest.raises(RegistryHTTPError, match="404"):
        at.put_tag("test/app", IDS[0], "1", where, TOKEN)
    at.put_tag("test/app", BASE.id, "1", where, TOKEN)
    at.put_tag("app", BASE.id, "1", where, TOKEN)
    assert registry.repositories() == ["library/app", "test/app"]
    at.delete_tag("test/app", "1", where, TOKEN)
    assert registry.tags("test/app") == {}
    with pytest.raises(DoesNotExistError, match="test/app:1"):
        at.delete_tag("test/app", "1", where, TOKEN)


@pytest.mark.parametrize("tag", ["", ".", "..", "x" * 300])
def test_a_tag_that_is_none_reaches_no_url(registry: V1Registry, at: V1Client, tag: str) -> None:
    with pytest.raises(InvalidReferenceError):
        at.put_tag("app", BASE.id, tag, registry.endpoint, TOKEN)
    with pytest.raises(InvalidReferenceError):
        at.put_tag("app", "no id", "1", registry.endpoint, TOKEN)
    assert registry.requests == []


@pytest.mark.parametrize("verb", ["json", "layer", "checksum", "tag"])
def test_over_http_credentials_stay_here(verb: str) -> None:
    with V1Registry(users={"ann": "open sesame"}) as registry, client(registry.url, ANN) as made:
        calls: dict[str, Callable[[], object]] = {
            "json": lambda: made.put_json(img(BASE), BASE.raw, registry.endpoint, ()),
            "layer": lambda: made.put_layer(
                BASE.id, opener(BASE.layer), registry.endpoint, (), BASE.raw
            ),
            "checksum": lambda: made.put_checksum(img(BASE), registry.endpoint, ()),
            "tag": lambda: made.put_tag("app", BASE.id, "1", registry.endpoint, ()),
        }
        with pytest.raises(LoginRequiredError, match="do not travel over http"):
            calls[verb]()


# faults


@pytest.mark.parametrize("fault", ["drop:after=0", "status:code=503", "lost-answer:"])
@pytest.mark.parametrize("verb", ["json", "layer", "checksum", "tag"])
def test_each_request_is_made_again(
    registry: V1Registry, at: V1Client, fault: str, verb: str
) -> None:
    paths = {"json": "*/json", "layer": "*/layer", "checksum": "*/checksum", "tag": "*/tags/*"}
    kind, colon, rest = fault.partition(":")
    keys = ",".join(filter(None, (rest, f"path={paths[verb]}", "method=PUT,times=1")))
    switch = registry.add_fault(f"{kind}{colon}{keys}")
    made_whole = verb == "checksum" and kind != "status"  # before the answer was lost
    with pytest.raises(AlreadyExistsError) if made_whole else contextlib.nullcontext():
        put(at, registry, BASE, BASE.layer)
    at.put_tag("app", BASE.id, "1", registry.endpoint, TOKEN)
    assert switch.hits == 1
    assert registry.tags("app") == {"1": BASE.id}
    kept = registry.image(BASE.id)
    assert kept is not None and kept.complete


def test_a_source_that_can_be_read_once_is_not_sent_again(
    registry: V1Registry, at: V1Client
) -> None:
    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    opened: list[int] = []

    def once() -> io.BytesIO:
        opened.append(1)
        return io.BytesIO(BASE.layer)

    registry.add_fault("drop:path=*/layer,after=1000,times=1")
    with pytest.raises(ConnectionBrokenError):
        at.put_layer(BASE.id, once, registry.endpoint, TOKEN, BASE.raw, again=False)
    assert opened == [1]
    registry.add_fault("status:code=503,path=*/layer,times=1")
    with pytest.raises(RegistryHTTPError, match="503"):
        at.put_layer(BASE.id, once, registry.endpoint, TOKEN, BASE.raw, again=False)
    at.put_layer(BASE.id, once, registry.endpoint, TOKEN, BASE.raw, again=False)
    assert opened == [1, 1, 1]


def test_a_cancellation_ends_the_sending(registry: V1Registry) -> None:
    cancel = Cancellation()
    registry.add_fault("stall:seconds=60,path=*/layer,method=PUT")
    with client(registry.url, cancel=cancel) as made:
        made.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
        large = Large(1 << 40, then=cancel.cancel)
        with pytest.raises(CancelledError):
            made.put_layer(BASE.id, lambda: large, registry.endpoint, TOKEN, BASE.raw)


# size


def test_memory_stays_bounded_for_a_large_layer(registry: V1Registry, at: V1Client) -> None:
    at.put_json(img(BASE), BASE.raw, registry.endpoint, TOKEN)
    tracemalloc.start()
    try:
        at.put_layer(BASE.id, lambda: Large(64 * 1024 * 1024), registry.endpoint, TOKEN, BASE.raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * 1024 * 1024


# a server that does what a test tells it


def test_a_layer_goes_in_chunks_with_its_token() -> None:
    bodies: list[bytes] = []

    def take(request: Request) -> None:
        bodies.append(request.read_body())
        request.answer(200, "true")

    with scripted(take) as server, client(server.url) as made:
        made.put_layer(BASE.id, opener(BASE.layer), f"{server.url}/v1/", TOKEN, BASE.raw)
        made.put_json(img(BASE), BASE.raw, f"{server.url}/v1/", TOKEN)
        made.put_tag("app", BASE.id, "a b", f"{server.url}/v1/", TOKEN)
        made.put_checksum(
            ImgData(id=BASE.id, checksum="tarsum+sha256:1", checksum_payload="sha256:2"),
            f"{server.url}/v1/",
            TOKEN,
        )
    assert bodies == [BASE.layer, BASE.raw, json.dumps(BASE.id).encode(), b""]
    layer, raw, tag, sums = server.requests
    assert layer[:2] == ("PUT", f"/v1/images/{BASE.id}/layer")
    assert layer[2]["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in layer[2]
    assert raw[:2] == ("PUT", f"/v1/images/{BASE.id}/json")
    assert tag[:2] == ("PUT", "/v1/repositories/library/app/tags/a%20b")
    assert (sums[2]["X-Docker-Checksum"], sums[2]["X-Docker-Checksum-Payload"]) == (
        "tarsum+sha256:1",
        "sha256:2",
    )
    for _, _, headers in server.requests:
        assert headers["Authorization"] == f"Token {TOKEN[0]}"


@pytest.mark.parametrize("status", [307, 308, 301, 302])
def test_a_layer_follows_a_redirect_and_its_token_does_not(status: int) -> None:
    bodies: list[bytes] = []

    def take(request: Request) -> None:
        bodies.append(request.read_body())
        request.answer(200, "true")

    with scripted(take) as other:

        def moved(request: Request) -> None:
            request.read_body()
            request.answer(status, b"", {"Location": f"{other.url}/upload"})

        with scripted(moved) as server, client(server.url) as made:
            made.put_layer(BASE.id, opener(PLAIN), f"{server.url}/v1/", TOKEN, BASE.raw)
    assert gzip.decompress(bodies[0]) == PLAIN
    assert "Authorization" not in other.requests[0][2]


def test_what_is_at_another_address_says_nothing_of_what_was_sent() -> None:
    def portal(request: Request) -> None:
        request.read_body()
        if request.path == "/login":
            request.answer(200, "<html>Welcome</html>")
        else:
            request.answer(303, b"", {"Location": "/login"})

    with scripted(portal) as server, client(server.url) as made:
        where, image = v1(server), img(BASE)
        for verb in (
            lambda: made.put_json(image, BASE.raw, where, TOKEN),
            lambda: made.put_layer(BASE.id, opener(PLAIN), where, TOKEN, BASE.raw),
            lambda: made.put_checksum(image, where, TOKEN),
            lambda: made.put_tag("app", BASE.id, "1.0", where, TOKEN),
            lambda: made.delete_tag("app", "1.0", where, TOKEN),
        ):
            with pytest.raises(RegistryHTTPError, match="303 See Other"):
                verb()
    assert "/login" not in server.paths()


def test_a_registry_that_takes_what_it_did_not_get() -> None:
    def hasty(request: Request) -> None:
        request.answer(200, "true")
        request.drop()

    settings = RegistrySettings(retries=0)
    with (
        scripted(hasty) as server,
        client(server.url, settings=settings) as made,
        pytest.raises(ProtocolError, match="before all of it was sent"),
    ):
        made.put_layer(BASE.id, lambda: Large(1 << 40), f"{server.url}/v1/", TOKEN, BASE.raw)
