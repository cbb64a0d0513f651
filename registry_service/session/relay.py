"""A blob on its way from one registry to another, without a place in between."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Final, Self

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

__all__ = ["Relay", "RelayFile", "Resumed"]

_FAILURES: Final = 32  # in all, of one reading
_TRICKLE: Final = 1024 * 1024  # bytes that are no gain of a source that is too slow


class Resumed:
    """What a source sends, from any place on: a connection that breaks is gone on with.

    ``opener`` opens the source from a place on, or before that; ``what`` names its content in
    errors, ``size`` is how many bytes it has, None where nobody knows. A source that breaks is
    asked again for what is missing, as often as ``policy`` says without a byte gained. Used by
    one thread.
    """

    def __init__(
        self,
        what: str,
        size: int | None,
        opener: Callable[[int], RemoteBlob],
        *,
        policy: RetryPolicy,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._what = what
        self._size = size
        self._opener = opener
        self._policy = policy
        self._cancel = cancel
        self._observer = observer
        self._stream: RemoteBlob | None = None
        self._fruitless = 0
        self._failures = 0
        self._gained = 0  # bytes since the source was asked last
        self._tries = 0
        #: Where the next byte is read.
        self.position = 0

    def go_to(self, offset: int) -> None:
        """Read from there on."""
        if offset != self.position:
            self.close()
            self.position = offset

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as one read goes; 0 at the end. Raises `BodyError` where the
        source gives no more, `CancelledError`."""
        if self._size is not None:
            buffer = buffer[: max(0, self._size - self.position)]
            if not buffer:
                return 0
        while True:
            try:
                count = self._read(buffer)
            except CancelledError:
                raise
            except RegistryError as error:
                self.close()
                self._pause(error)
            else:
                break
        self._fruitless = 0
        self._gained += count
        self.position += count
        return count

    def close(self) -> None:
        """Let go of the source."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(RegistryError):
                stream.close()

    def _read(self, part: memoryview) -> int:
        if self._stream is None:
            self._stream = self._opener(self.position)
            self._skip(self._stream, part)
        count = self._stream.readinto(part)
        if not count and self._size is not None:
            raise ConnectionBrokenError(
                f"{self._what}: the source ended after {self.position} of {self._size} bytes"
            )
        return count

    def _skip(self, stream: RemoteBlob, buffer: memoryview) -> None:
        """Read past what is known already, from a source that cannot begin after it."""
        left = self.position - stream.offset
        while left > 0:
            self._cancel.check()
            count = stream.readinto(buffer[: min(len(buffer), left)])
            if not count:
                raise ConnectionBrokenError(
                    f"{self._what}: the source ended {left} bytes before byte {self.position}"
                )
            left -= count

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
            raise BodyError(f"{self._what} cannot be read from its source: {error}") from error
        trickled = error.code == "too-slow" and self._gained <= _TRICKLE
        self._fruitless += 1
        self._failures += _FAILURES // 4 if trickled else 1
        self._gained = 0
        self._tries += 1
        self._observer.log(
            "warning",
            f"{error}; asking the source again",
            wait=round(wait, 2),
            attempt=self._tries,
        )
        self._cancel.wait(wait)
        self._cancel.check()


class Relay:
    """The bytes of one blob as files that an upload reads, verified while they come.

    ``opener`` opens the source from a place on. An upload in several parts, or one that is
    tried again, opens a file for each: all of them read the one stream, which is opened anew
    only where the next one does not begin where the last one ended. A source that breaks is
    gone on with (see `Resumed`).

    The last bytes are given out only when the whole is what its digest names: what is not never
    becomes a whole upload. Used by one thread.
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
        self._source = Resumed(
            f"blob {descriptor.digest}",
            descriptor.size,
            opener,
            policy=policy,
            cancel=cancel,
            observer=observer,
        )
        self._hasher = descriptor.digest.hasher()
        self._hashed: int | None = 0  # bytes in the hash; None: some were never read here

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def open(self) -> RelayFile:
        """The blob from its start, as a file."""
        return RelayFile(self)

    def read(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on, as far as one read goes; 0 at the end.

        What lies before the first byte that is ever read is not verified here, but by the
        registry that has it already. Raises `DigestMismatchError` for other bytes, `BodyError`
        where the source gives no more, `CancelledError`.
        """
        self._go_to(offset)
        if offset >= self._descriptor.size:
            return 0
        count = self._source.readinto(buffer)
        self._count(buffer[:count], offset)
        if self._source.position == self._descriptor.size:
            self._verify()
        return count

    def _go_to(self, offset: int) -> None:
        self._source.go_to(offset)
        if self._hashed is None and not offset:
            self._begin()
        elif self._hashed is not None and offset > self._hashed:
            self._hashed = None

    def _begin(self) -> None:
        self._hasher = self._descriptor.digest.hasher()
        self._hashed = 0

    def _count(self, data: memoryview, offset: int) -> None:
        if self._hashed is not None:
            known = self._hashed - offset  # after a seek back, these are hashed already
            if known < len(data):
                self._hasher.update(data[known:])
                self._hashed += len(data) - known

    def _verify(self) -> None:
        digest = self._descriptor.digest
        if self._hashed is None or digest.matches(self._hasher):
            return
        actual = f"{digest.algorithm}:{self._hasher.hexdigest()}"
        size = self._hashed
        self._source.close()
        self._begin()  # for another try
        raise DigestMismatchError(
            f"blob {digest}: the {size} bytes that came have the digest {actual}",
            expected=str(digest),
            actual=actual,
            size=size,
        )


class RelayFile:
    """A blob that is relayed, as a file of its own place. Closing it closes nothing: the next
    one may go on where it ended."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._position = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as `Relay.read` does."""
        count = self._relay.read(self._position, buffer)
        self._position += count
        return count

    def seek(self, offset: int, /) -> int:
        self._position = offset
        return offset

    def close(self) -> None:
        """The stream is the relay's."""
