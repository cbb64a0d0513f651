"""A blob as it comes from a registry: a stream of bytes from some place in it on."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Self

from ..transport import Response

__all__ = ["RemoteBlob", "range_start"]

# Some servers leave the unit out.
_CONTENT_RANGE = re.compile(
    r"(?:bytes[ =:]*)?([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)", re.IGNORECASE
)


def range_start(value: str | None) -> int | None:
    """Where the bytes of a 206 begin, by its Content-Range; None if that cannot be read."""
    found = _CONTENT_RANGE.fullmatch((value or "").strip())
    return int(found[1]) if found else None


class RemoteBlob:
    """The bytes of a blob from ``offset`` to its end. ``length`` is how many follow, None
    where the server does not say, ``ranges`` whether it says that it sends parts. They are not
    verified. Used by one thread.

    With a ``length`` that is less than what the server announces, they end there."""

    __slots__ = ("_left", "_response", "length", "offset", "ranges")

    def __init__(self, response: Response, offset: int, *, length: int | None = None) -> None:
        self._response = response
        self.offset = offset
        self.length = response.length if length is None else length
        self._left = None if self.length == response.length else length
        self.ranges = response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as the blob goes; 0 at its end.

        Raises `ConnectionBrokenError`, `RegistryTimeoutError` and `CancelledError`.
        """
        if self._left is None:
            return self._response.readinto(buffer)
        count = self._response.readinto(buffer[: self._left])
        self._left -= count
        if not self._left:
            self.close()
        return count

    def read(self, limit: int) -> bytes:
        """All that follows. Raises `ProtocolError` for more than ``limit`` bytes."""
        return self._response.read(limit)

    def close(self) -> None:
        self._response.close()
