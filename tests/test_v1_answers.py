"""What a V1 server may say, and what is sent to it: whatever the bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.cancel import Cancellation
from registry_service.errors import (
    ConnectionBrokenError,
    InvalidReferenceError,
    ProtocolError,
    RegistryError,
)
from registry_service.session.blob import RemoteBlob
from registry_service.session.v1 import answers, names
from registry_service.session.v1.layers import LayerReader
from registry_service.session.v1.pushing import Outgoing
from registry_service.tarsums import tarsum
from registry_service.testing.v1 import images
from registry_service.transport import Response

ID = "0f" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.just(ID),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
DOCUMENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


def answered(raw: bytes = b"", url: str = "https://index.example/v1/", **fields: Any) -> Response:
    """An answer of which nothing but this is asked."""
    lists = {name: [value] if isinstance(value, str) else value for name, value in fields.items()}

    def values(name: str) -> list[str]:
        return lists.get(name.replace("-", "_"), [])

    headers = {name.replace("_", "-"): value[0] for name, value in lists.items() if value}
    answer = SimpleNamespace(
        url=url, headers=headers, header_values=values, read=lambda limit: raw, hide=str
    )
    return cast(Response, answer)


@given(DOCUMENT | st.lists(st.just(ID) | st.text(max_size=3)).map(lambda v: json.dumps(v).encode()))
def test_whatever_a_server_says_is_a_document_or_an_error(raw: bytes) -> None:
    for read in (
        lambda: answers.read_ancestry(answered(raw), ID),
        lambda: answers.read_image(answered(raw), ID),
        lambda: answers.read_tags(answered(raw)),
        lambda: answers.read_images(answered(raw)),
    ):
        try:
            read()
        except ProtocolError as error:
            assert str(error).startswith("https://index.example/v1/: ")


@pytest.mark.parametrize("value", [b"{}", b"[]", b'""', b"0", b'{"":[]}'])
@pytest.mark.parametrize("read", [answers.read_tags, answers.read_images])
def test_a_list_takes_no_more_memory_than_its_text_may(
    value: bytes, read: Callable[[Response], object]
) -> None:
    raw = b"[%b%b]" % ((value + b",") * (answers.LIST_LIMIT // (len(value) + 1) - 1), value)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="values"):
            read(answered(raw))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024


def test_a_list_of_very_many_images_is_read() -> None:
    listed = [{"id": f"{number:064x}", "checksum": "", "Tag": "1"} for number in range(150_000)]
    assert len(answers.read_images(answered(json.dumps(listed).encode()))) == len(listed)


@given(st.text(max_size=90), st.lists(st.text(max_size=90), max_size=3))
def test_whatever_headers_say_of_an_image(size: str, sums: list[str]) -> None:
    raw = json.dumps({"id": ID}).encode()
    found = answers.read_image(
        answered(raw, X_Docker_Size=size, X_Docker_Checksum_Payload=sums), ID
    )
    assert found.size >= -1
    assert re.fullmatch(r"(sha256:[0-9a-f]{64})?", found.checksum_payload)
    assert re.fullmatch(r"(tarsum[.a-z0-9]*\+[a-z0-9]+:[0-9a-f]+)?", found.checksum)


HOSTS = st.sampled_from(
    ["a.example", "a.example:5000", "127.0.0.1", "[::1]:5000", "10.0.0.1", "https://b.example/v1/"]
)


@given(st.lists(st.lists(HOSTS | st.text(max_size=20), max_size=4).map(",".join), max_size=3))
def test_whatever_endpoints_an_index_names(fields: list[str]) -> None:
    home = "https://index.example/v1/"
    try:
        found = names.endpoints_of(
            answered(X_Docker_Endpoints=fields), home, lambda host, port: True
        )
    except ProtocolError:
        return
    assert len(set(found)) == len(found)
    for url in found:
        parts = urlsplit(url)
        assert (parts.scheme, parts.path) == ("https", "/v1/")
        assert parts.hostname and parts.username is None
        assert parts.hostname not in ("127.0.0.1", "10.0.0.1", "::1")


@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_is_named_stays_in_its_place_of_a_url(repository: str, tag: str) -> None:
    registry = "https://registry.example/v1/"
    try:
        url = names.tag_url(registry, repository, tag)
    except InvalidReferenceError:
        return
    parts = urlsplit(url)
    assert (parts.netloc, parts.query, parts.fragment) == ("registry.example", "", "")
    _, v1, repositories, namespace, name, tags, last = parts.path.split("/")
    assert (v1, repositories, tags) == ("v1", "repositories", "tags")
    assert f"{namespace}/{name}" == (repository if "/" in repository else f"library/{repository}")
    assert {namespace, name, last}.isdisjoint({"", ".", ".."})


class Broken:
    """A server's stream of ``data`` from ``offset`` on, in pieces, which breaks after some."""

    def __init__(self, data: bytes, offset: int, pieces: list[int], breaks: bool) -> None:
        self.offset = offset
        self.length = len(data) - offset
        self.ranges = True
        self._data = io.BytesIO(data[offset:])
        self._pieces = pieces
        self._breaks = breaks

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._pieces and self._breaks:
            raise ConnectionBrokenError("broken")
        most = self._pieces.pop(0) if self._pieces else len(buffer)
        return self._data.readinto(buffer[:most])

    def close(self) -> None:
        return None


@given(
    st.binary(min_size=1, max_size=400),
    st.lists(st.lists(st.integers(1, 60), max_size=5), max_size=20),
    st.lists(st.integers(0, 400), max_size=20),
    st.integers(1, 50),
)
def test_a_layer_comes_whole_or_not_at_all(
    data: bytes, streams: list[list[int]], starts: list[int], step: int
) -> None:
    waits: list[int] = []

    def opened(offset: int) -> RemoteBlob:
        start = min(starts.pop(0), offset) if starts else offset
        pieces = streams.pop(0) if streams else []
        return cast(
            RemoteBlob, Broken(data, start if start in (0, offset) else 0, pieces, bool(streams))
        )

    found = bytearray()
    try:
        with LayerReader(
            opened, what="layer", size=len(data), pause=lambda tries, error: waits.append(tries)
        ) as layer:
            buffer = bytearray(step)
            while count := layer.readinto(buffer):
                found += buffer[:count]
    except ConnectionBrokenError:
        assert data.startswith(found)
        assert waits[-4:] == [1, 2, 3, 4] or len(waits) >= 31
    else:
        assert found == data


ARCHIVES = [images.random_archive(seed, 5, 900) for seed in range(4)]


class Pieces:
    """Gives bytes in pieces of some sizes, over and over."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = io.BytesIO(data)
        self._sizes = sizes
        self._count = 0

    def readinto(self, buffer: memoryview, /) -> int:
        size = self._sizes[self._count % len(self._sizes)]
        self._count += 1
        return self._data.readinto(buffer[:size])

    def close(self) -> None:
        self._data.close()


@given(
    st.sampled_from(range(len(ARCHIVES))),
    st.booleans(),
    st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    st.integers(1, 5000),
)
def test_a_layer_is_summed_as_it_is_sent_however_it_is_read(
    which: int, gzipped: bool, sizes: list[int], step: int
) -> None:
    archive = ARCHIVES[which]
    data = gzip.compress(archive) if gzipped else archive
    layer = Outgoing(Pieces(data, sizes), b"{}", Cancellation())
    layer.begin()
    sent = bytearray()
    buffer = memoryview(bytearray(step))
    while count := layer.readinto(buffer):
        sent += buffer[:count]
    layer.close()
    if gzipped:
        assert sent == data
    assert gzip.decompress(sent) == archive
    assert layer.sums.checksum == tarsum(archive, json=b"{}")
    payload = hashlib.sha256(b"{}\n" + sent).hexdigest()
    assert layer.sums.checksum_payload == f"sha256:{payload}"


@given(st.binary(max_size=2000), st.sampled_from(range(len(ARCHIVES))), st.integers(0, 5000))
def test_whatever_is_no_layer_has_no_sums(junk: bytes, which: int, cut: int) -> None:
    archive = ARCHIVES[which]
    for data in (junk, gzip.compress(junk), archive[:cut] + junk, gzip.compress(archive)[:cut]):
        layer = Outgoing(io.BytesIO(data), b"{}", Cancellation())
        try:
            layer.begin()
            while layer.readinto(memoryview(bytearray(4096))):
                pass
        except RegistryError:
            with pytest.raises(ProtocolError):
                _ = layer.sums
