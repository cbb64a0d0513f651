"""What both sides of a connection share: versions, signs of life, errors."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConnectionLostError
from ..status import Status
from .messages import Error, Ping

__all__ = ["SHORTEST_HEARTBEAT", "VERSIONS", "Pulse", "common_version", "error_of"]

#: The versions that this package speaks, the newest minor one of each major one.
VERSIONS: tuple[tuple[int, int], ...] = ((1, 0),)
#: Seconds; a heartbeat below it would be all that a peer does.
SHORTEST_HEARTBEAT = 0.01


class Pulse:
    """Decides when to ask the other side for a sign of life, and when it is dead.

    Any message is a sign. After ``interval`` seconds of silence a ping is due; the other side
    is dead when ``misses`` pings, an interval apart, had no answer. Pings are counted, not
    seconds, so that a process that was itself stopped does not bury everyone when it wakes.
    """

    __slots__ = ("_asked", "_next", "interval", "misses", "number")

    def __init__(self, interval: float, misses: int, now: float) -> None:
        self.interval = interval
        self.misses = misses
        self.number = 0
        self._asked = 0
        self._next = now + interval

    @property
    def due(self) -> float:
        """When `tick` has something to do, unless a sign comes first."""
        return self._next

    def heard(self, now: float) -> None:
        self._asked = 0
        self._next = now + self.interval

    def tick(self, now: float) -> Ping | None:
        """The ping that is due, if one is. Raises `ConnectionLostError` for a dead peer."""
        if now < self._next:
            return None
        if self._asked >= self.misses:
            silent = self._asked * self.interval
            raise ConnectionLostError(f"the other side was silent for {silent:g} seconds")
        self._asked += 1
        self.number += 1
        self._next = now + self.interval
        return Ping(number=self.number)


def common_version(versions: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The newest version that both sides speak."""
    ours = dict(VERSIONS)
    both = [(major, min(minor, ours[major])) for major, minor in versions if major in ours]
    return max(both, default=None)


def error_of(error: Exception, *, request: int | None = None, job: str | None = None) -> Error:
    """The ERROR that says ``error``: its code, status and whether a retry can help."""
    status = getattr(error, "status", Status.ERROR)
    first = getattr(error, "first", None)
    return Error(
        code=str(getattr(error, "code", "") or "error")[:256],
        status=int(status),
        retryable=bool(getattr(error, "retryable", False)),
        request=request,
        job=job,
        first=first if type(first) is int else None,
        message=str(error),
    )
