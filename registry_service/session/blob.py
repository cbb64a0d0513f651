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
    where the server does not say. They are not verified. Used by one thread."""

    __slots__ = ("_response", "length", "offset")

    def __init__(self, response: Response, offset: int) -> None:
        self._response = response
        self.offset = offset
        self.length = response.length

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
        return self._response.readinto(buffer)

    def read(self, limit: int) -> bytes:
        """All that follows. Raises `ProtocolError` for more than ``limit`` bytes."""
        return self._response.read(limit)

    def close(self) -> None:
        self._response.close()
