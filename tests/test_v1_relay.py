"""A layer of V1 on its way, however its source breaks and whoever reads it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_service.cancel import Cancellation
from registry_service.compression import gzipped
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    DoesNotExistError,
    LayerError,
    RegistryError,
)
from registry_service.observe import Observer
from registry_service.operations.v1.relay import LayerRelay
from registry_service.session.blob import RemoteBlob
from registry_service.testing.v1.images import random_archive
from registry_service.transport import BodyError
from registry_service.transport.retry import RetryPolicy
from registry_service.v1.layer import StatedLayer

IMAGE = "ab" * 32
QUICK = RetryPolicy(retries=3, longest=0.0)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda data: gzip.compress(data, 1, mtime=3),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


class Source:
    """Gives a layer in pieces, and breaks off at places, each once."""

    def __init__(self, data: bytes, breaks: list[int] = [], *, ranges: bool = True) -> None:  # noqa: B006 - read only
        self.data = data
        self.breaks = sorted(breaks)
        self.ranges = ranges
        self.opened: list[int] = []

    def open(self, offset: int) -> RemoteBlob:
        self.opened.append(offset)
        return cast(RemoteBlob, _Stream(self, offset if self.ranges else 0))


class _Stream:
    def __init__(self, source: Source, offset: int) -> None:
        self.offset = offset
        self.length = len(source.data) - offset
        self._source = source
        self._place = offset
        self._dice = random.Random(len(source.opened))

    def readinto(self, buffer: memoryview, /) -> int:
        source = self._source
        end = min(len(source.data), self._place + min(len(buffer), self._dice.randint(1, 40_000)))
        if source.breaks and source.breaks[0] <= end and self._place <= source.breaks[0]:
            end = source.breaks[0]
            if end == self._place:
                source.breaks.pop(0)
                raise ConnectionBrokenError("gone")
        count = end - self._place
        buffer[:count] = source.data[self._place : end]
        self._place = end
        return count

    def close(self) -> None:
        return None


def relay(source: Source, stated: StatedLayer | None = None, **options: Any) -> LayerRelay:
    return LayerRelay(
        stated or StatedLayer(image_id=IMAGE, json=b"{}", size=len(source.data)),
        source.open,
        policy=QUICK,
        cancel=options.pop("cancel", Cancellation()),
        observer=Observer(),
    )


def read(one: LayerRelay, size: int = 10_000, most: int | None = None) -> bytes:
    """All that is given out, or about so many bytes of it."""
    found = bytearray()
    buffer = memoryview(bytearray(size))
    while (count := one.readinto(buffer)) and (most is None or len(found) < most):
        found += buffer[:count]
    return bytes(found)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 5),
    st.sampled_from(sorted(PACK)),
    st.integers(100, 300_000),
    st.lists(st.integers(0, 200_000), max_size=3),
    st.booleans(),
    st.booleans(),
    st.integers(0, 200_000),
)
def test_what_is_given_out_is_the_layer_in_gzip(
    seed: int,
    kind: str,
    size: int,
    breaks: list[int],
    ranges: bool,
    said: bool,
    again: int,
) -> None:
    archive = random_archive(seed, file_size=60_000)
    data = PACK[kind](archive)
    source = Source(data, breaks, ranges=ranges)
    stated = StatedLayer(image_id=IMAGE, json=b"{}", size=len(data) if said else -1)
    with relay(source, stated) as one:
        begun = read(one, size, again)  # and then from its start, as an upload may want it
        assert one.seek(0) == 0
        given_out = read(one, size)
        assert one.found is not None
        checked, length = one.found
    assert given_out == (data if kind == "gzip" else b"".join(gzipped(iter([archive]))))
    assert given_out.startswith(begun[: len(given_out)])
    assert length == len(given_out)
    assert gzip.decompress(given_out) == archive
    assert (checked.diff_id, checked.compression) == (Digest.of(archive), kind)


@pytest.mark.parametrize("kind", sorted(PACK))
def test_the_last_bytes_of_what_is_wrong_are_not_given_out(kind: str) -> None:
    archive = random_archive(1)
    data = PACK[kind](archive)
    whole = data if kind == "gzip" else b"".join(gzipped(iter([archive])))
    stated = StatedLayer(
        image_id=IMAGE, json=b"{}", size=len(data), checksum_payload=f"sha256:{'0' * 64}"
    )
    with relay(Source(data), stated) as one:
        found = bytearray()
        buffer = memoryview(bytearray(100))
        with pytest.raises(DigestMismatchError):
            while count := one.readinto(buffer):
                found += buffer[:count]
        assert len(found) < len(whole) and one.found is None


@pytest.mark.parametrize("data", [b"text" * 1000, gzip.compress(b"text" * 1000)])
def test_what_is_no_layer_is_told(data: bytes) -> None:
    with relay(Source(data)) as one, pytest.raises(LayerError, match=f"the layer of image {IMAGE}"):
        read(one)


def test_a_source_that_gives_nothing_is_given_up() -> None:
    source = Source(random_archive(1), [0] * 10)
    with relay(source) as one, pytest.raises(BodyError, match="cannot be read from its source"):
        read(one)
    assert len(source.opened) == QUICK.retries + 1


def test_what_the_source_says_for_good_is_what_is_raised() -> None:
    def opener(offset: int) -> RemoteBlob:
        raise DoesNotExistError("layer")

    stated = StatedLayer(image_id=IMAGE, json=b"{}")
    one = LayerRelay(stated, opener, policy=QUICK, cancel=Cancellation(), observer=Observer())
    with one, pytest.raises(DoesNotExistError):
        read(one)


def test_a_cancellation_ends_it_and_only_the_start_can_be_gone_to() -> None:
    cancel = Cancellation()
    source = Source(random_archive(1, file_size=600_000))
    with relay(source, cancel=cancel) as one:
        with pytest.raises(ValueError, match="anew"):
            one.seek(1)
        assert one.readinto(memoryview(bytearray(10)))
        cancel.cancel()
        with pytest.raises((CancelledError, RegistryError)):
            read(one)
