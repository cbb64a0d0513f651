"""Tickets: one taker's part in the movement of a blob."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Literal, Self, TypeVar

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import CancelledError
from ..observe import LogCallback, ProgressCallback
from .origins import Claim
from .retry import Tally
from .source import Source

__all__ = ["Outcome", "Ticket", "Transfer"]

T = TypeVar("T")

#: How a descriptor got into the store: it was there, or it was brought.
Outcome = Literal["exists", "fetched"]


class Ticket(Generic[T]):
    """One taker's part in a movement, whose end is a ``T``. Thread-safe.

    It is settled once: with an outcome, with an error, or by its taker's leaving.
    """

    def __init__(
        self, name: str, progress: ProgressCallback | None, log: LogCallback | None
    ) -> None:
        self.name = name
        self.progress = progress
        self.log = log
        self.tally = Tally()
        self._settled = threading.Event()
        self._mutex = threading.Lock()  # guards what follows; innermost
        self._outcome: T | None = None
        self._error: Exception | None = None
        self._watchers: list[Callable[[Any], object]] = []

    def __repr__(self) -> str:
        state = "moving" if not self.settled else "failed" if self._error else self._outcome
        return f"{type(self).__name__}({self.name}, {state})"

    @property
    def settled(self) -> bool:
        """Whether it is known how it ended."""
        return self._settled.is_set()

    def wait(self, cancel: Cancellation | None = None) -> T:
        """Wait for the end, and return what came of it.

        Raises the error that ended it; `CancelledError` when its taker or ``cancel`` gave up,
        which takes it out of the movement.
        """
        if cancel is None:
            self._settled.wait()
        else:
            with cancel.calling(self.leave):
                self._settled.wait()
        return self.result()

    def result(self) -> T:
        """What `wait` returns or raises, at once. Raises RuntimeError before it is settled."""
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            raise RuntimeError(f"{self!r} is not settled")
        return self._outcome

    def leave(self) -> None:
        """Give up, with `CancelledError` for who waits. Once it is settled, this does nothing."""
        self.settle(None, CancelledError())

    def on_settled(self, watcher: Callable[[Self], object]) -> None:
        """Call ``watcher`` when it is settled, in the thread that settles it; at once if it is.

        It must return at once and not raise.
        """
        with self._mutex:
            if not self._settled.is_set():
                self._watchers.append(watcher)
                return
        watcher(self)

    def settle(self, outcome: T | None, error: Exception | None = None) -> bool:
        """Say how it ended, for the store. False when that was said before."""
        with self._mutex:
            if self._settled.is_set():
                return False
            self._outcome, self._error = outcome, error
            watchers, self._watchers = self._watchers, []
            self._settled.set()
        for watcher in watchers:
            watcher(self)
        return True


class Transfer(Ticket[Outcome]):
    """One taker's ticket for one descriptor: ``exists`` or ``fetched`` is how it ends."""

    def __init__(
        self,
        descriptor: Descriptor,
        source: Source,
        progress: ProgressCallback | None = None,
        log: LogCallback | None = None,
        claim: Claim | None = None,
    ) -> None:
        super().__init__(str(descriptor.digest), progress, log)
        self.descriptor = descriptor
        self.source = source
        self.claim = claim
