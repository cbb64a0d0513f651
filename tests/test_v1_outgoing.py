"""Layers on their way to a V1 registry: in gzip, and verified while they are sent."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_manifests import layer

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import CancelledError, ManifestError, RegistryError, StoreError
from registry_service.media import OCI_LAYER
from registry_service.v1.outgoing import OutgoingLayer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN = layer("file", b"content " * 500, compressed=False)
KINDS = {
    "gzip": gzip.compress(PLAIN, mtime=7),
    "two members": gzip.compress(PLAIN[:100]) + gzip.compress(PLAIN[100:]) + bytes(20),
    "plain": PLAIN,
    "zstd": zstd.compress(PLAIN),
    "xz": lzma.compress(PLAIN),
    "bzip2": bz2.compress(PLAIN),
}


class Slow(io.BytesIO):
    """Gives a few bytes at a time."""

    step = 2

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[: self.step])


def outgoing(blob: bytes, plain: bytes = PLAIN) -> OutgoingLayer:
    descriptor = Descriptor(media_type=OCI_LAYER, digest=Digest.of(blob), size=len(blob))
    return OutgoingLayer(io.BytesIO(blob), descriptor, Digest.of(plain), Cancellation())


def read(source: OutgoingLayer, size: int = 1000) -> bytes:
    found = bytearray()
    buffer = memoryview(bytearray(size))
    while count := source.readinto(buffer):
        found += buffer[:count]
    assert source.readinto(buffer) == 0
    source.close()
    return bytes(found)


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_in_gzip(kind: str) -> None:
    sent = read(outgoing(KINDS[kind]))
    assert gzip.decompress(sent) == PLAIN
    if kind in ("gzip", "two members"):
        assert sent == KINDS[kind]


def test_what_is_compressed_on_the_way_is_the_same_each_time() -> None:
    sent = {read(outgoing(KINDS[kind])) for kind in ("plain", "zstd", "xz", "bzip2")}
    assert len({gzip.decompress(one) for one in sent}) == 1
    for kind in ("plain", "xz"):
        assert read(outgoing(KINDS[kind]), 7) == read(outgoing(KINDS[kind]), 100_000)
    assert read(outgoing(PLAIN))[4:8] == bytes(4)  # no time


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_may_give_few_bytes_at_a_time(kind: str) -> None:
    blob = KINDS[kind]
    descriptor = Descriptor(media_type=OCI_LAYER, digest=Digest.of(blob), size=len(blob))
    told: list[int] = []
    source = OutgoingLayer(
        Slow(blob), descriptor, Digest.of(PLAIN), Cancellation(), report=told.append
    )
    assert gzip.decompress(read(source)) == PLAIN
    assert told[-1] == len(blob)
    assert told == sorted(told)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digests_are_of_any_algorithm(algorithm: str) -> None:
    blob = KINDS["gzip"]
    digest = Digest.of(blob, algorithm)
    descriptor = Descriptor(media_type=OCI_LAYER, digest=digest, size=len(blob))
    source = OutgoingLayer(
        io.BytesIO(blob), descriptor, Digest.of(PLAIN, algorithm), Cancellation()
    )
    assert read(source) == blob


@pytest.mark.parametrize("kind", KINDS)
def test_other_bytes_than_the_digest_names_have_no_end(kind: str) -> None:
    blob = KINDS[kind]
    descriptor = Descriptor(media_type=OCI_LAYER, digest=Digest.of(b"other"), size=len(blob))
    source = OutgoingLayer(io.BytesIO(blob), descriptor, Digest.of(PLAIN), Cancellation())
    with pytest.raises(StoreError, match="are other bytes"):
        read(source)


@pytest.mark.parametrize("kind", KINDS)
def test_another_diff_id_has_no_end(kind: str) -> None:
    with pytest.raises(ManifestError, match=f"its diff id is {Digest.of(PLAIN)}, the image's"):
        read(outgoing(KINDS[kind], b"another"))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_a_stream_that_is_damaged_has_no_end(kind: str) -> None:
    blob = KINDS[kind]
    with pytest.raises(ManifestError, match=f"{kind} stream is cut off"):
        read(outgoing(blob[: len(blob) // 2]))
    with pytest.raises(ManifestError, match=f"{kind} stream is (damaged|cut off)"):
        read(outgoing(blob[:12] + bytes(b ^ 0xFF for b in blob[12:])))


@given(st.binary(max_size=300) | st.sampled_from(list(KINDS.values())), st.integers(1, 400))
def test_any_bytes_are_sent_whole_or_not_to_the_end(blob: bytes, size: int) -> None:
    try:
        sent = read(outgoing(blob, blob), size)
    except RegistryError:
        return
    assert gzip.decompress(sent) == blob if sent[:2] == b"\x1f\x8b" else sent == blob


def test_a_cancel_ends_it() -> None:
    cancel = Cancellation()
    descriptor = Descriptor(media_type=OCI_LAYER, digest=Digest.of(PLAIN), size=len(PLAIN))
    source = OutgoingLayer(io.BytesIO(PLAIN), descriptor, Digest.of(PLAIN), cancel)
    cancel.cancel()
    with pytest.raises(CancelledError):
        read(source)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd.compress])
def test_what_inflates_to_much_takes_little_memory(pack: Callable[[bytes], bytes]) -> None:
    plain = bytes(64 * 1024 * 1024)
    source = outgoing(pack(plain), plain)
    buffer = memoryview(bytearray(64 * 1024))
    tracemalloc.start()
    try:
        while source.readinto(buffer):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024  # of which xz has a dictionary of 8
