"""What comes in pieces, read as a file is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.pieces import Pieces


@given(st.lists(st.binary(max_size=9)), st.lists(st.integers(0, 12)), st.booleans())
def test_the_bytes_are_those_of_the_pieces_however_they_are_read(
    parts: list[bytes], sizes: list[int], begun: bool
) -> None:
    pieces, found = Pieces(iter(parts)), b""
    if begun:
        pieces.begin()
    for size in [*sizes, *[5] * (len(b"".join(parts)) + 1)]:
        buffer = bytearray(size)
        count = pieces.readinto(memoryview(buffer))
        assert count <= size
        found += buffer[:count]
    assert found == b"".join(parts)
    assert pieces.readinto(memoryview(bytearray(5))) == 0


def test_what_the_pieces_raise_is_raised_where_it_comes() -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise OSError("gone")

    pieces, buffer = Pieces(broken()), bytearray(5)
    pieces.begin()
    assert pieces.readinto(memoryview(buffer)) == 3
    with pytest.raises(OSError, match="gone"):
        pieces.readinto(memoryview(buffer))
