"""One blob on its way in: a partial file that outlives whoever began it.

A partial file holds the first bytes of one blob, as one registry sent them: no other one, and no
descriptor of another size, can spoil what was fetched, or get what it did not send. It stays when
a transfer is cancelled, fails or is killed, and the next one goes on from its end, having hashed
again what is there. It goes away in three cases: it became the blob; its bytes are known to be
wrong; it filled the disk, when space matters more to everything else on it than a resumed transfer
does. Where there is no room for what it lacks, it is not gone on with, and stays.
"""

from __future__ import annotations

import hashlib

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import DigestMismatchError
from .layout import Layout
from .partial import Opened, PartialFile, Report, open_partial

__all__ = ["Partial", "Report", "partial_name"]


class Partial(PartialFile):
    """The partial file of one descriptor, open and locked, and the hash of what is in it."""

    def __init__(self, layout: Layout, descriptor: Descriptor, opened: Opened) -> None:
        super().__init__(layout, opened, f"blob {descriptor.digest}", descriptor.size)
        self._digest = descriptor.digest
        self._hasher = descriptor.digest.hasher()

    @classmethod
    def claim(cls, layout: Layout, descriptor: Descriptor, host: str = "") -> Partial | None:
        """The partial file of the registry ``host``, made where there is none; None while another
        has it.

        Raises `InvalidDigestError` for a digest that cannot be verified, `StoreError`.
        """
        descriptor.digest.hasher()
        opened = open_partial(layout, partial_name(descriptor, host))
        return None if opened is None else cls(layout, descriptor, opened)

    @property
    def complete(self) -> bool:
        return self.position == self._size

    def verify(self) -> None:
        """See that it is what the digest says. Raises `DigestMismatchError`, and nothing is
        kept."""
        if not self._digest.matches(self._hasher):
            actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
            size = self.position
            self.discard()
            raise self._mismatch(
                f"the {size} bytes that came have the digest {actual}", actual=actual, size=size
            )

    def commit(self) -> None:
        """Make what was verified the blob. It is closed then, whatever comes of it. Raises
        `StoreError`."""
        self.settle_as(self._digest)

    def _take(self, data: memoryview, cancel: Cancellation) -> None:
        self._hasher.update(data)

    def _mismatch(self, text: str, *, actual: str = "", size: int | None = None) -> Exception:
        return DigestMismatchError(
            f"{self._what}: {text}", expected=str(self._digest), actual=actual, size=size
        )


def partial_name(descriptor: Descriptor, host: str) -> str:
    """The name of a partial file, which is a file's name everywhere."""
    digest = descriptor.digest
    whose = hashlib.sha256(f"{descriptor.size} {host}".encode()).hexdigest()[:16]
    return f"{digest.algorithm}-{digest.hex}-{whose}.partial"
