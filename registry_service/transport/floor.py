"""The least that a body has to come at: a server that trickles is as good as a silent one.

Only the time that is spent waiting for the server counts, so that neither a reader that is slow
itself nor a limit of our own is taken for a slow server. What came before a failure is given out
before that is told, so that it has not to travel again.
"""

from __future__ import annotations

import dataclasses
import io
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Floor", "FlooredSocket", "TooSlowError"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """``rate`` bytes a second over ``seconds`` of waiting."""

    rate: float
    seconds: float


class TooSlowError(TimeoutError):
    """Less came than has to. An OSError, for it passes through http.client and urllib3."""


class _Floored(io.RawIOBase):
    """What comes from a socket. It is measured from `begin` on; judged before it is waited for
    anew, since what has arrived is no reason to give up.

    While it is ``lenient``, a failure is kept for later, and what stands there is that nothing has
    come yet: io.BufferedReader forgets what it has read when a read fails.
    """

    def __init__(self, raw: io.RawIOBase, floor: Floor | None) -> None:
        super().__init__()
        self.lenient = False
        self.failure: OSError | None = None
        self._raw = raw
        self._floor = floor
        self._waited = 0.0  # seconds
        self._came = 0  # bytes
        self._begun = False

    def begin(self) -> None:
        """The head is over: a server may think for long before that."""
        self._begun = True

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        if self.failure is not None:
            raise self.failure
        try:
            return self._measured(buffer)
        except OSError as error:
            if not self.lenient:
                raise
            self.failure = error
            return None

    def _measured(self, buffer: WriteableBuffer) -> int | None:
        floor = self._floor
        if floor is None or not self._begun:
            return self._raw.readinto(buffer)
        if self._waited >= floor.seconds:
            self._judge(floor)
        start = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        self._waited += time.monotonic() - start
        self._came += count or 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def _judge(self, floor: Floor) -> None:
        waited, came = self._waited, self._came
        if came < floor.rate * waited:
            raise TooSlowError(
                f"{came} bytes came in {waited:.0f} s of waiting; {floor.rate:g} a second "
                "are expected"
            )
        self._waited, self._came = 0.0, 0


class _Reader(io.BufferedReader):
    """A buffer that fills another as far as anything came, and fails after that only."""

    def __init__(self, raw: _Floored) -> None:
        super().__init__(raw)
        self._floored = raw

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._floored.lenient = True
        try:
            count: int | None = super().readinto(buffer)
        finally:
            self._floored.lenient = False
        if count is None:
            raise self._floored.failure or BlockingIOError("nothing to read")
        return count


class FlooredSocket:
    """A socket as `http.client.HTTPResponse` takes one: what it reads from is measured, where
    there is a floor."""

    def __init__(self, sock: socket.socket, floor: Floor | None) -> None:
        self._sock = sock
        self._floor = floor
        self._floored: _Floored | None = None

    def makefile(self, mode: str, *_: Any) -> io.BufferedReader:
        self._floored = _Floored(self._sock.makefile("rb", buffering=0), self._floor)
        return _Reader(self._floored)

    def begin(self) -> None:
        """The body begins here."""
        if self._floored is not None:
            self._floored.begin()
