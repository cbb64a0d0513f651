"""Tickets: one taker's part in the movement of a blob."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import CancelledError
from ..observe import LogCallback, ProgressCallback
from .origins import Claim
from .retry import Tally
from .source import Source

__all__ = ["Outcome", "Transfer"]

#: How a descriptor got into the store: it was there, or it was brought.
Outcome = Literal["exists", "fetched"]


class Transfer:
    """One taker's ticket for one descriptor. Thread-safe.

    It is settled once: with an outcome, with an error, or by its taker's leaving.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        source: Source,
        progress: ProgressCallback | None = None,
        log: LogCallback | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.descriptor = descriptor
        self.source = source
        self.progress = progress
        self.log = log
        self.claim = claim
        self.tally = Tally()
        self._settled = threading.Event()
        self._mutex = threading.Lock()  # guards what follows; innermost
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        self._watchers: list[Callable[[Transfer], object]] = []

    def __repr__(self) -> str:
        state = "moving" if not self.settled else self._outcome or "failed"
        return f"Transfer({self.descriptor.digest}, {state})"

    @property
    def settled(self) -> bool:
        """Whether it is known how it ended."""
        return self._settled.is_set()

    def wait(self, cancel: Cancellation | None = None) -> Outcome:
        """Wait for the end: ``exists`` or ``fetched``.

        Raises the error that ended it; `CancelledError` when its taker or ``cancel`` gave up,
        which takes it out of the movement.
        """
        if cancel is None:
            self._settled.wait()
        else:
            with cancel.calling(self.leave):
                self._settled.wait()
        return self.result()

    def result(self) -> Outcome:
        """What `wait` returns or raises, at once. Raises RuntimeError before it is settled."""
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            raise RuntimeError(f"{self!r} is not settled")
        return self._outcome

    def leave(self) -> None:
        """Give up, with `CancelledError` for who waits. Once it is settled, this does nothing."""
        self.settle(None, CancelledError())

    def on_settled(self, watcher: Callable[[Transfer], object]) -> None:
        """Call ``watcher`` when it is settled, in the thread that settles it; at once if it is.

        It must return at once and not raise.
        """
        with self._mutex:
            if not self._settled.is_set():
                self._watchers.append(watcher)
                return
        watcher(self)

    def settle(self, outcome: Outcome | None, error: Exception | None = None) -> bool:
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
