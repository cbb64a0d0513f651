"""How a repository shows that it has what the store has already; see `store.origins`."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    DoesNotExistError,
    ProtocolError,
)
from .layout import Layout
from .origins import Claim
from .source import BlobStream

__all__ = ["Comparison", "Question", "missing"]


class Question:
    """What a registry is asked: whether a repository has a blob. Asked once, by a worker.

    One of ``granted`` and ``refused`` is called, in that worker, unless ``cancel`` came first.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        claim: Claim,
        granted: Callable[[], object],
        refused: Callable[[Exception], object],
    ) -> None:
        self.cancel = Cancellation()
        self._descriptor = descriptor
        self._claim = claim
        self._granted = granted
        self._refused = refused

    def step(self, buffer: memoryview) -> None:
        if self.cancel.cancelled:
            return
        try:
            if not self._claim.probe(self._descriptor, self.cancel):
                raise missing(self._claim, self._descriptor)
            self._granted()
        except CancelledError:
            pass
        except Exception as error:
            self._refused(error)


def missing(claim: Claim, descriptor: Descriptor) -> DoesNotExistError:
    """What its taker is told where a repository has not got it, as far as its registry says."""
    return DoesNotExistError(f"blob {claim.host}/{claim.repository}@{descriptor.digest}")


class Comparison:
    """What a source sends, beside what the store has of that digest. Nothing is written.

    All of it is read, and its digest decides: who was told where he went wrong, or sooner, could
    guess another's content byte by byte. Belongs to one thread at a time.
    """

    def __init__(self, layout: Layout, descriptor: Descriptor) -> None:
        self._layout = layout
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._found: os.stat_result | None = None
        self._begin()

    def take(
        self,
        stream: BlobStream,
        buffer: memoryview,
        cancel: Cancellation,
        told: Callable[[int], object],
    ) -> None:
        """Read the rest; ``told`` hears how far that is. Raises what the stream raises,
        `ConnectionBrokenError` for one that ends early, and then it can be gone on with from
        ``position``; `DoesNotExistError` where the store has the content no more."""
        if stream.offset not in (0, self.position):
            raise ProtocolError(
                f"blob {self._digest}: asked for the bytes from {self.position} on, the source "
                f"gives those from {stream.offset} on"
            )
        if not stream.offset:
            self._begin()
        half = len(buffer) // 2
        with self._layout.open(self._digest) as file:
            self._found = os.fstat(file.fileno())
            file.seek(self.position)
            while self.position < self._size:
                cancel.check()
                count = stream.readinto(buffer[: min(half, self._size - self.position)])
                if not count:
                    raise ConnectionBrokenError(
                        f"blob {self._digest}: the source ended after {self.position} of "
                        f"{self._size} bytes"
                    )
                own = buffer[half : half + count]
                if file.readinto(own) != count or own != buffer[:count]:
                    self._differs = True
                self._hasher.update(buffer[:count])
                self.position += count
                told(self.position)

    def same(self, cancel: Cancellation) -> bool:
        """Whether the store has it rightly; what is damaged is moved aside. Raises
        `DigestMismatchError` where it is the source that is wrong."""
        if not self._digest.matches(self._hasher):
            actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
            raise DigestMismatchError(
                f"blob {self._digest}: the {self._size} bytes that came have the digest {actual}",
                expected=str(self._digest),
                actual=actual,
                size=self._size,
            )
        if self._differs and self._found is not None:
            self._layout.set_aside(self._digest, self._found, cancel)
        return not self._differs

    def _begin(self) -> None:
        self.position = 0
        self._differs = False
        self._hasher = self._digest.hasher()
