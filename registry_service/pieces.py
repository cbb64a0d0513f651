"""What comes in pieces, read as a file is."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Pieces"]


class Pieces:
    """The bytes of an iterator, one piece after the other. Belongs to one thread."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def begin(self) -> None:
        """Take the next piece that is not empty, unless one is at hand."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return
            self._rest = memoryview(piece).cast("B")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as a piece goes; 0 at the end. Raises what the iterator does."""
        self.begin()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
