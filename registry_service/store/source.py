"""Where content comes from: the one interface between the store and the world.

`MemorySource` of `store.memory` is its in-memory implementation; a registry's is in `session`.
"""

from __future__ import annotations

from typing import Protocol

from ..cancel import Cancellation
from ..descriptor import Descriptor

__all__ = ["BlobStream", "Source"]


class BlobStream(Protocol):
    """The bytes of one blob from ``offset`` to its end. Used by one thread."""

    @property
    def offset(self) -> int:
        """The place in the blob of the first byte that is read: what was asked for, or 0
        where the source cannot begin elsewhere."""

    @property
    def length(self) -> int | None:
        """The bytes that follow, as far as the source knows. From the start of a blob they are
        its size: where the descriptor says another one, nothing is read."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as one read goes, and return how many bytes that was; 0 at
        the end. Raises when the source fails, and soon after the cancellation that `open`
        was given."""

    def close(self) -> None:
        """Free what the stream holds, whether it was read to its end or not."""


class Source(Protocol):
    """One place that can be asked for content. Used by several threads at a time."""

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        """The content that ``descriptor`` names, from ``offset`` on.

        Raises an error whose ``retryable`` says whether asking again can help. ``cancel``
        ends the call, and later each read, within a second.
        """
