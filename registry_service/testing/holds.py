"""Hold points: a request waits where a test tells it to, so that the test need not sleep.

`HoldSet` is shared by all connections: one lock guards its list and all counters. A request
that is held waits in its connection's thread until the hold is released or the server ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .faults import path_matches
from .message import Request

__all__ = ["Hold", "HoldSet"]


class Hold:
    """Where requests wait. Made by `HoldSet.add`; a context manager that releases at its end.

    ``entered`` is set while at least one request has come to the point, and stays set.
    """

    def __init__(
        self,
        *,
        path: str | None,
        method: str | None,
        after: int | None,
        times: int | None,
        lock: threading.Lock,
        remove: Callable[[Hold], None],
    ) -> None:
        self.after = after
        self.entered = threading.Event()
        self._path = path
        self._method = method
        self._left = times
        self._lock = lock
        self._remove = remove
        self._released = threading.Event()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many requests wait here now."""
        with self._lock:
            return self._waiting

    def release(self) -> None:
        """Let everybody go on, and hold nobody any more. A second call does nothing."""
        self._remove(self)
        self._released.set()

    def matches(self, request: Request) -> bool:
        if self._method is not None and self._method.upper() != request.method:
            return False
        return path_matches(self._path, request.path)

    def wait(self) -> None:
        """Wait in the calling thread until released; at once if ``times`` requests have."""
        with self._lock:
            if self._left == 0 or self._released.is_set():
                return
            if self._left is not None:
                self._left -= 1
            self._waiting += 1
        self.entered.set()
        try:
            self._released.wait()
        finally:
            with self._lock:
                self._waiting -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class HoldSet:
    """All hold points. Thread-safe. ``close`` releases them and makes later ones pass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holds: list[Hold] = []
        self._closed = False

    def add(
        self,
        *,
        path: str | None = None,
        method: str | None = None,
        after: int | None = None,
        times: int | None = None,
    ) -> Hold:
        """Hold the requests that match: by path (part or pattern) and method.

        They wait before anything is done, or ``after`` bytes of the body, as faults count them.
        At most ``times`` requests are held; None: all, until the release.
        """
        if (after is not None and after < 0) or (times is not None and times < 1):
            raise ValueError("after= is to be 0 or more, times= 1 or more")
        hold = Hold(
            path=path,
            method=method,
            after=after,
            times=times,
            lock=self._lock,
            remove=self._discard,
        )
        with self._lock:
            closed = self._closed
            if not closed:
                self._holds.append(hold)
        if closed:
            hold.release()
        return hold

    def of(self, request: Request) -> tuple[Hold, ...]:
        with self._lock:
            holds = tuple(self._holds)
        return tuple(hold for hold in holds if hold.matches(request))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            holds = tuple(self._holds)
        for hold in holds:
            hold.release()

    def _discard(self, hold: Hold) -> None:
        with self._lock:
            if hold in self._holds:
                self._holds.remove(hold)
