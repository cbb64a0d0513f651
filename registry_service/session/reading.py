"""A blob as a file: verified at its end, and gone on with where its connection breaks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DigestMismatchError, RegistryError
from ..observe import Observer
from ..transport import BodyError
from ..transport.retry import RetryPolicy
from .blob import RemoteBlob
from .relay import Relay

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["BlobReader"]

_BINARY: Final = "application/octet-stream"


class BlobReader(io.RawIOBase):
    """The bytes of one blob, in order. Used by one thread; close it, or use it in a ``with``.

    ``length`` is their number, None where the registry does not say it before the end. Where
    it is known, the last of them come only after they were found right, and a connection that
    breaks is made again for what is missing. `readinto` raises `DigestMismatchError`,
    `ConnectionBrokenError` and what else the registry answers.
    """

    def __init__(
        self,
        digest: Digest,
        opener: Callable[[int], RemoteBlob],
        *,
        policy: RetryPolicy,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        digest.hasher()  # what cannot be verified is not asked for
        super().__init__()
        first = opener(0)
        self._first: RemoteBlob | None = first
        self.length = first.length
        self._position = 0
        self._source: Relay | _Unsized
        if not first.length:
            self._source = _Unsized(first, digest)
            return

        def again(offset: int) -> RemoteBlob:
            held, self._first = self._first, None
            return opener(offset) if held is None else held

        whole = Descriptor(media_type=_BINARY, digest=digest, size=first.length)
        self._source = Relay(whole, again, policy=policy, cancel=cancel, observer=observer)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.closed:
            raise ValueError("the blob is closed")
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        try:
            count = self._source.read(self._position, view)
        except BodyError as error:  # the relay's word for a source that gives no more
            cause = error.__cause__
            if isinstance(cause, RegistryError):
                raise cause from None
            raise
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._source.close()
            if self._first is not None:
                self._first.close()
        super().close()


class _Unsized:
    """A blob whose end is where its bytes end. It is not asked for again."""

    def __init__(self, stream: RemoteBlob, digest: Digest) -> None:
        self._stream = stream
        self._digest = digest
        self._hasher = digest.hasher()

    def read(self, offset: int, buffer: memoryview) -> int:
        count = self._stream.readinto(buffer)
        self._hasher.update(buffer[:count])
        if not count and not self._digest.matches(self._hasher):
            actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
            raise DigestMismatchError(
                f"blob {self._digest}: the {offset} bytes that came have the digest {actual}",
                expected=str(self._digest),
                actual=actual,
                size=offset,
            )
        return count

    def close(self) -> None:
        self._stream.close()
