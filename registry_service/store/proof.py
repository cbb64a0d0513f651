"""How a repository shows that it has what the store has already; see `store.origins`."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BufferedReader

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

__all__ = ["Question", "compare", "missing"]


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


def compare(
    layout: Layout,
    descriptor: Descriptor,
    stream: BlobStream,
    buffer: memoryview,
    begin: int,
    cancel: Cancellation,
    told: Callable[[int], object],
) -> bool:
    """Whether ``stream`` brings what the store has, from ``begin`` on; ``told`` hears how far
    it does. Nothing is written.

    False where the content of the store turned out to be damaged, or went away; damaged content
    is moved aside. Raises what the stream raises, `ConnectionBrokenError` for one that ends
    early, and `DigestMismatchError` for other bytes.
    """
    half = len(buffer) // 2
    position = stream.offset
    if position not in (0, begin):
        raise ProtocolError(
            f"blob {descriptor.digest}: asked for the bytes from {begin} on, the source gives "
            f"those from {position} on"
        )
    try:
        file = layout.open(descriptor.digest)
    except DoesNotExistError:
        return False
    with file:
        file.seek(position)
        while position < descriptor.size:
            cancel.check()
            count = stream.readinto(buffer[: min(half, descriptor.size - position)])
            if not count:
                raise ConnectionBrokenError(
                    f"blob {descriptor.digest}: the source ended after {position} of "
                    f"{descriptor.size} bytes"
                )
            own = buffer[half : half + count]
            if file.readinto(own) != count or own != buffer[:count]:
                return _blame(layout, descriptor, file, buffer, cancel)
            position += count
            told(position)
    return True


def _blame(
    layout: Layout,
    descriptor: Descriptor,
    file: BufferedReader,
    buffer: memoryview,
    cancel: Cancellation,
) -> bool:
    """The store and the source differ: which of them is wrong?"""
    hasher = descriptor.digest.hasher()
    found = os.fstat(file.fileno())
    file.seek(0)
    while count := file.readinto(buffer):
        cancel.check()
        hasher.update(buffer[:count])
    if descriptor.digest.matches(hasher):
        raise DigestMismatchError(
            f"blob {descriptor.digest}: the source has other bytes", expected=str(descriptor.digest)
        )
    layout.set_aside(descriptor.digest, found, cancel)
    return False
