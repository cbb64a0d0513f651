"""Compressed streams: whatever their pieces, the bytes that went in come out, within bounds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.compression import CHUNK, Unpacker, compression_of, decompressed
from registry_service.errors import ArchiveError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
KINDS = st.sampled_from(sorted(COMPRESS))


def split(data: bytes, size: int) -> Iterator[bytes]:
    return (data[place : place + size] for place in range(0, len(data), size))


@given(KINDS, st.lists(st.binary(max_size=2000), min_size=1, max_size=3), st.integers(1, 300))
def test_what_went_in_comes_out_however_it_is_cut(kind: str, parts: list[bytes], size: int) -> None:
    packed = b"".join(map(COMPRESS[kind], parts))
    assert compression_of(packed[:6]) == kind
    assert b"".join(decompressed(split(packed, size), kind)) == b"".join(parts)


@given(KINDS, st.binary(min_size=1, max_size=500), st.data())
def test_a_stream_that_is_cut_off_is_refused(kind: str, data: bytes, draw: st.DataObject) -> None:
    packed = COMPRESS[kind](data)
    kept = draw.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(ArchiveError, match=r"cut off|damaged"):
        list(decompressed(split(packed[:kept], 100), kind))


@given(KINDS, st.binary(min_size=1, max_size=500), st.data())
def test_a_damaged_stream_gives_an_error_or_the_rest(
    kind: str, data: bytes, draw: st.DataObject
) -> None:
    packed = bytearray(COMPRESS[kind](data))
    packed[draw.draw(st.integers(0, len(packed) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        list(decompressed(iter([bytes(packed)]), kind))
    except ArchiveError as error:
        assert kind in str(error)


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_little_that_becomes_much_comes_in_small_pieces(kind: str) -> None:
    size = 20 * CHUNK + 7
    packed = COMPRESS[kind](bytes(size))
    assert len(packed) < size / 100
    lengths = [len(piece) for piece in decompressed(iter([packed]), kind)]
    assert sum(lengths) == size
    assert max(lengths) <= CHUNK


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_an_empty_stream_has_nothing(kind: str) -> None:
    assert list(decompressed(iter([COMPRESS[kind](b"")]), kind)) == []


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2"])
def test_zeros_that_fill_a_tape_are_passed_over(kind: str) -> None:
    packed = COMPRESS[kind](b"data") + bytes(1000)
    assert b"".join(decompressed(split(packed, 64), kind)) == b"data"
    for size in (64, len(packed), 5000):
        with pytest.raises(ArchiveError):
            list(decompressed(split(packed + b"more", size), kind))


def test_frames_of_zstd_without_content_are_passed_over() -> None:
    note = b"\x5e\x2a\x4d\x18\x04\x00\x00\x00note"
    packed = note + zstd.compress(b"data") + note
    assert compression_of(packed[:6]) == "zstd"
    assert b"".join(decompressed(split(packed, 3), "zstd")) == b"data"


@pytest.mark.parametrize("start", [b"", b"\x1f", b"ustar", b"P*M", bytes(6)])
def test_what_is_not_compressed_is_not_taken_for_it(start: bytes) -> None:
    assert compression_of(start) == ""


@given(KINDS, st.lists(st.binary(max_size=500), min_size=1, max_size=3), st.integers(1, 100))
def test_all_that_is_in_what_came_has_come_out(kind: str, parts: list[bytes], size: int) -> None:
    """Nothing is held back until there is more: what is looked at has come."""
    unpacker = Unpacker(kind)
    out = b""
    for part in parts:
        for piece in split(COMPRESS[kind](part), size):
            out += b"".join(unpacker.feed(memoryview(piece)))
        assert out.endswith(part)
    unpacker.end()
    assert out == b"".join(parts)
