"""A blob on its way from one registry to another, without a place in between."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    RegistryError,
)
from ..observe import Observer
from ..transport import BodyError
from ..transport.retry import RetryPolicy
from .blob import RemoteBlob

__all__ = ["Relay"]

_FAILURES: Final = 32  # in all, of one reading


class Relay:
    """The bytes of one blob as a file that an upload reads, verified while they come.

    ``opener`` opens the source from a place on. A source that breaks is asked again for what
    is missing, as often as ``policy`` says without a byte gained. The last bytes are given out
    only when the whole is what its digest names: what is not never becomes a whole upload.
    Used by one thread.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        opener: Callable[[int], RemoteBlob],
        *,
        policy: RetryPolicy,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._descriptor = descriptor
        self._opener = opener
        self._policy = policy
        self._cancel = cancel
        self._observer = observer
        self._stream: RemoteBlob | None = None
        self._hasher = descriptor.digest.hasher()
        self._hashed: int | None = 0  # bytes in the hash; None: it cannot be had any more
        self._position = 0
        self._fruitless = 0
        self._failures = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as one read goes; 0 at the end.

        Raises `DigestMismatchError` for other bytes, `BodyError` where the source gives no
        more, `CancelledError`.
        """
        left = self._descriptor.size - self._position
        if not left:
            self._verify()  # of an empty blob; of others it is known already
            return 0
        part = buffer[: min(len(buffer), left)]
        while True:
            try:
                count = self._read(part)
            except CancelledError:
                raise
            except RegistryError as error:
                self._drop()
                self._pause(error)
            else:
                break
        self._fruitless = 0
        self._count(part[:count])
        if self._position == self._descriptor.size:
            self._verify()
        return count

    def seek(self, offset: int, /) -> int:
        """Go on from ``offset``. What was never read here is not verified here, but by the
        registry that has it already."""
        if offset != self._position:
            self._drop()
            self._position = offset
            if self._hashed is not None and offset > self._hashed:
                self._hashed = None
        return offset

    def close(self) -> None:
        self._drop()

    def _read(self, part: memoryview) -> int:
        if self._stream is None:
            self._stream = self._opener(self._position)
            self._skip(self._stream, part)
        count = self._stream.readinto(part)
        if not count:
            raise ConnectionBrokenError(
                f"blob {self._descriptor.digest}: the source ended after {self._position} of "
                f"{self._descriptor.size} bytes"
            )
        return count

    def _skip(self, stream: RemoteBlob, buffer: memoryview) -> None:
        """Read past what is known already, from a source that cannot begin after it."""
        left = self._position - stream.offset
        while left > 0:
            self._cancel.check()
            count = stream.readinto(buffer[: min(len(buffer), left)])
            if not count:
                raise ConnectionBrokenError(
                    f"blob {self._descriptor.digest}: the source ended {left} bytes before "
                    f"byte {self._position}"
                )
            left -= count

    def _count(self, data: memoryview) -> None:
        if self._hashed is not None:
            known = self._hashed - self._position  # after a seek back, these are hashed already
            if known < len(data):
                self._hasher.update(data[known:])
                self._hashed += len(data) - known
        self._position += len(data)

    def _verify(self) -> None:
        digest = self._descriptor.digest
        if self._hashed is None or digest.matches(self._hasher):
            return
        actual = f"{digest.algorithm}:{self._hasher.hexdigest()}"
        raise DigestMismatchError(
            f"blob {digest}: the {self._hashed} bytes that came have the digest {actual}",
            expected=str(digest),
            actual=actual,
            size=self._hashed,
        )

    def _pause(self, error: RegistryError) -> None:
        """Wait before the source is asked again. Raises `BodyError` where that is no use."""
        self._cancel.check()
        wait = None
        if (
            error.retryable
            and self._fruitless < self._policy.retries
            and self._failures < _FAILURES
        ):
            asked = getattr(error, "retry_after", None)
            wait = self._policy.wait(self._fruitless, asked, random.random())
        if wait is None:
            raise BodyError(
                f"{self._descriptor.digest} cannot be read from its source: {error}"
            ) from error
        self._fruitless += 1
        self._failures += 1
        self._observer.log(
            "warning",
            f"{error}; asking the source again",
            wait=round(wait, 2),
            attempt=self._failures,
        )
        self._cancel.wait(wait)
        self._cancel.check()

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(RegistryError):
                stream.close()
