"""Content that is held in memory, as a source. For tests, and for documents made on the spot."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DoesNotExistError
from .source import BlobStream, Source

__all__ = ["MemorySource"]


class MemorySource(Source):
    """A source of blobs that it was given. Thread-safe.

    ``opened`` lists what was asked for, in order: the digest and the offset.
    """

    def __init__(self, blobs: Iterable[bytes] = ()) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[Digest, bytes] = {}
        self.opened: list[tuple[Digest, int]] = []
        for blob in blobs:
            self.add(blob)

    def add(
        self,
        content: bytes,
        media_type: str = "application/octet-stream",
        *,
        algorithm: str = "sha256",
    ) -> Descriptor:
        """Hold ``content`` and return what names it."""
        digest = Digest.of(content, algorithm)
        with self._lock:
            self._blobs[digest] = bytes(content)
        return Descriptor(media_type=media_type, digest=digest, size=len(content))

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        """The blob from ``offset`` on. Raises `DoesNotExistError`, `CancelledError`."""
        cancel.check()
        with self._lock:
            self.opened.append((descriptor.digest, offset))
            content = self._blobs.get(descriptor.digest)
        if content is None:
            raise DoesNotExistError(f"blob {descriptor.digest}")
        return MemoryStream(content, offset, cancel)


class MemoryStream:
    """The bytes of ``content`` from ``offset`` on."""

    def __init__(self, content: bytes, offset: int, cancel: Cancellation) -> None:
        self.offset = min(offset, len(content))
        self.length: int | None = len(content) - self.offset
        self._rest = memoryview(content)[self.offset :]
        self._cancel = cancel

    def readinto(self, buffer: memoryview, /) -> int:
        self._cancel.check()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._rest = self._rest[:0]
