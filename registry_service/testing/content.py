"""Content that can be served: bytes in memory, a file, or a pattern that nobody holds."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

__all__ = [
    "BytesContent",
    "Content",
    "FileContent",
    "PatternContent",
    "Reader",
    "digest_content",
    "pieces",
    "read_all",
]

CHUNK: Final = 1 << 20


class Reader(Protocol):
    """Content opened by one thread."""

    @property
    def file(self) -> BinaryIO | None:
        """The file, where there is one that can be sent by the kernel."""

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """At least one byte and at most ``length`` bytes, from ``offset``, which is inside."""


class Content(Protocol):
    """Bytes of a known size that can be opened often, and by many threads at once."""

    @property
    def size(self) -> int: ...

    def open(self) -> contextlib.AbstractContextManager[Reader]: ...


class _ViewReader:
    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def file(self) -> BinaryIO | None:
        return None

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        return self._view[offset : offset + length]


class BytesContent:
    """Content in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def open(self) -> contextlib.AbstractContextManager[Reader]:
        return contextlib.nullcontext(_ViewReader(memoryview(self._data)))


class _FileReader:
    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    @property
    def file(self) -> BinaryIO | None:
        return self._file

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        self._file.seek(offset)
        data = self._file.read(length)
        if not data:
            raise OSError(f"{self._file.name} has become shorter than it was")
        return data


class FileContent:
    """Content of a file that is never written again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size

    @property
    def size(self) -> int:
        return self._size

    @contextlib.contextmanager
    def open(self) -> Iterator[Reader]:
        with self._path.open("rb") as file:
            yield _FileReader(file)


class PatternContent:
    """``size`` bytes of a pattern that repeats, made when they are read.

    Zeros, the default, are a valid empty tar archive from 1024 bytes on.
    """

    def __init__(self, size: int, pattern: bytes = b"\0") -> None:
        if size < 0:
            raise ValueError(f"a size of {size} bytes is below 0")
        if not pattern:
            raise ValueError("a pattern has one byte at least")
        self._size = size
        self._period = len(pattern)
        # One block serves every offset: it holds a chunk beginning at any place of the pattern.
        self._block = memoryview(pattern * (CHUNK // len(pattern) + 2))

    @property
    def size(self) -> int:
        return self._size

    @property
    def file(self) -> BinaryIO | None:
        return None

    def open(self) -> contextlib.AbstractContextManager[Reader]:
        return contextlib.nullcontext(self)

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        start = offset % self._period
        return self._block[start : start + min(length, CHUNK, self._size - offset)]


def pieces(content: Content) -> Iterator[bytes | memoryview]:
    """All of some content, a chunk at a time."""
    with content.open() as reader:
        position = 0
        while position < content.size:
            data = reader.read_at(position, CHUNK)
            yield data
            position += len(data)


def read_all(content: Content) -> bytes:
    """All of some content, in memory."""
    return b"".join(map(bytes, pieces(content)))


def digest_content(content: Content, algorithm: str = "sha256") -> str:
    """The digest of some content, reading a chunk at a time."""
    digest = hashlib.new(algorithm)
    for data in pieces(content):
        digest.update(data)
    return f"{algorithm}:{digest.hexdigest()}"
