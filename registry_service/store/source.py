"""Where content comes from: the one interface between the store and the world; and what it has
in common with whatever else keeps content by its digest.

`MemorySource` of `store.memory` is the source's in-memory implementation; a registry's is in
`session`. An archive is both a `Source` and `Content`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..referrers import Companion

__all__ = ["BlobStream", "Content", "Readable", "Source"]


class Readable(Protocol):
    """Any binary file object is one."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...
    def close(self) -> None: ...


class Content(Protocol):
    """What is kept by digest: a store, an archive."""

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the content is here; with ``size``, and has that many bytes."""

    def open(self, digest: Digest) -> Readable:
        """The content, from its start. Raises `DoesNotExistError`."""

    def read(self, digest: Digest, limit: int = ...) -> bytes:
        """The content of a document, verified. Raises `DoesNotExistError`, and an error for
        more than ``limit`` bytes or other bytes than the digest says."""

    def companions(self) -> Sequence[Companion]:
        """What is kept because it belongs to a manifest, such as signatures."""


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
    """One place that can be asked for content, or several in turn. Used by several threads at a
    time. Who can always be asked, and has one place only, inherits that from here."""

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        """The content that ``descriptor`` names, from ``offset`` on.

        Raises an error whose ``retryable`` says whether asking again can help. ``cancel``
        ends the call, and later each read, within a second.
        """

    def ready(self, descriptor: Descriptor, /) -> float:
        """Seconds after which it is worth while to call `open`, 0 for now. Earlier, the call
        would wait, and hold up a thread that others have work for."""
        return 0.0

    def elsewhere(self, descriptor: Descriptor, error: Exception, /) -> bool:
        """The content could not be had, or not rightly, from where `open` found it last.
        Whether the next call asks another place: then it does not count as a failure."""
        return False
