"""What a caller hands over to be sent, as the uploads read it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, TypeAlias

from ..pieces import Pieces

__all__ = ["FileSource", "IteratedSource", "Source", "source_of"]

#: A binary file, an iterable of bytes, or bytes.
Source: TypeAlias = "IO[bytes] | io.RawIOBase | io.BufferedIOBase | Iterable[bytes] | bytes"

_BLOCK: Final = 256 * 1024


class FileSource:
    """A binary file that can seek, from where it stands on. Closing this leaves it open."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._begin: int = file.tell()
        self.size: int | None = file.seek(0, io.SEEK_END) - self._begin
        file.seek(self._begin)

    def readinto(self, buffer: memoryview, /) -> int:
        return _readinto(self._file, buffer)

    def seek(self, offset: int, /) -> int:
        return int(self._file.seek(self._begin + offset)) - self._begin

    def again(self) -> FileSource:
        """The same from its start."""
        self.seek(0)
        return self

    def close(self) -> None:
        """The file is the caller's."""


class IteratedSource(Pieces):
    """What comes once: from an iterable of bytes, or from a file that cannot seek."""

    size: int | None = None

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__(blocks)
        self._begun = False

    def again(self) -> IteratedSource:
        """The same, the first time. Raises `io.UnsupportedOperation`, an OSError, after that."""
        if self._begun:
            raise io.UnsupportedOperation("it can be read only once")
        self._begun = True
        return self

    def close(self) -> None:
        """What is iterated is the caller's."""


def source_of(given: Source) -> FileSource | IteratedSource:
    """``given`` as a source. Raises TypeError for what is none."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        return FileSource(io.BytesIO(given))
    if hasattr(given, "read") or hasattr(given, "readinto"):
        seekable = getattr(given, "seekable", None)
        if seekable is not None and seekable():
            return FileSource(given)
        return IteratedSource(_blocks(given))
    anything: object = given  # a caller is not always type-checked
    if isinstance(anything, str) or not isinstance(given, Iterable):
        raise TypeError(
            f"a binary file or an iterable of bytes is sent, not {type(given).__name__}"
        )
    return IteratedSource(iter(given))


def _blocks(file: Any) -> Iterator[bytes]:
    if hasattr(file, "read"):
        while block := file.read(_BLOCK):
            yield block
        return
    buffer = memoryview(bytearray(_BLOCK))
    while count := file.readinto(buffer):
        yield bytes(buffer[:count])


def _readinto(file: Any, buffer: memoryview) -> int:
    if hasattr(file, "readinto"):
        return file.readinto(buffer) or 0
    block = file.read(len(buffer))
    buffer[: len(block)] = block
    return len(block)
