"""Transfers: one movement for each blob, however many want it.

Who owns what:

- A `Flight` is the one movement of a blob in this process. Its partial file, and everything
  that touches it, belongs to the worker thread that takes its step; between two steps to
  whoever took the step out of the queue.
- A `Transfer` is one taker's ticket. Its owner waits on it in a thread of its own.
- The mutex of `Transfers` guards the table of flights and each flight's takers. It is held for
  moments only: never while bytes move, a file is touched or a callback runs. The only lock
  taken under it is the ticket's own.

A taker that is cancelled leaves at once, whatever the movement is doing; the movement goes on
for those who stay, and is cancelled when the last has left. A source belongs to the taker that
brought it: when it fails for good, its taker fails, and the others' sources are asked. What
fails for the store (a full disk) fails for all.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Final, Literal

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    CancelledError,
    DigestMismatchError,
    InvalidDigestError,
    RegistryError,
    StoreError,
)
from ..observe import LogCallback, ProgressCallback
from .ingest import Partial
from .layout import Layout
from .retry import Attempt, RetryPolicy, Tally, can_help, out_of_range
from .source import Alternatives, Paced, Source
from .workers import Workers

__all__ = ["Outcome", "Transfer", "Transfers"]

#: How a descriptor got into the store: it was there, or it was brought.
Outcome = Literal["exists", "fetched"]

_FIRST_POLL: Final = 0.005  # seconds between two tries for a lock that another process holds
_MOST_POLL: Final = 0.1
_WORTH_TELLING: Final = 1.0
_REPORT_EVERY: Final = 0.1  # seconds between two reports of one blob


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
    ) -> None:
        self.descriptor = descriptor
        self.source = source
        self.progress = progress
        self.log = log
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


class Flight:
    """The movement of one blob, and who waits for it."""

    def __init__(self, owner: Transfers, descriptor: Descriptor, group: int) -> None:
        self._owner = owner
        self.descriptor = descriptor
        self.cancel = Cancellation()
        self.group = group
        self.takers: list[Transfer] = []  # guarded by the mutex of the owner, as is `ended`
        self.ended = False
        self._name = str(descriptor.digest)
        self._partial: Partial | None = None
        self._polls = 0
        self._furthest = 0  # bytes that were fetched once: those that are fetched again are no gain
        self._reported = ("", 0.0)

    @property
    def key(self) -> tuple[Digest, int]:
        return self.descriptor.digest, self.descriptor.size

    def step(self, buffer: memoryview) -> None:
        """Make one attempt, and submit the next one where another is needed."""
        taker = self._owner.choose(self)
        delay = None if taker is None else self._held_back(taker)
        if taker is not None and delay is None:
            attempt = Attempt()
            try:
                outcome = self._try(taker, attempt, buffer)
            except Exception as error:
                delay = self._fail(taker, attempt, error)
            else:
                if outcome is not None:
                    self._owner.finish(self, outcome)
                else:
                    self._polls += 1
                    delay = min(_MOST_POLL, _FIRST_POLL * self._polls)
        if delay is None:
            self.close()
        else:
            self._owner.submit(self, delay)

    def _held_back(self, taker: Transfer) -> float | None:
        """The seconds before the source can be asked, None where it can be now. They are not
        spent here: the thread is for those who can move."""
        if not isinstance(taker.source, Paced):
            return None
        try:
            wait = taker.source.ready(self.descriptor)
        except RegistryError:
            return None  # opening it will say why
        if wait >= _WORTH_TELLING:
            self._say("info", f"blob {self._name}: waits {wait:.1f} s until its host may be asked")
        return wait or None

    def close(self) -> None:
        """Let go of the partial file, which stays for a later transfer."""
        partial, self._partial = self._partial, None
        if partial is not None:
            partial.close()

    def _try(self, taker: Transfer, attempt: Attempt, buffer: memoryview) -> Outcome | None:
        """Bring the blob; None while another process is at it."""
        digest, size = self.key
        layout = self._owner.layout
        if self._partial is None or self._partial.closed:
            self._partial = Partial.claim(layout, self.descriptor)
            if self._partial is None:
                return None
            if layout.size(digest) == size:  # another process was faster
                self._partial.discard()
                return "exists"
            self._partial.resume(buffer, self.cancel, self._report)
        partial = self._partial
        attempt.mixed = partial.position > 0
        if not partial.complete:
            self._fetch(taker, attempt, partial, buffer)
        attempt.opened = True
        partial.commit()
        return "fetched"

    def _fetch(
        self, taker: Transfer, attempt: Attempt, partial: Partial, buffer: memoryview
    ) -> None:
        begin = partial.position
        # The taker's own descriptor: what it says of the same content may differ (its urls).
        stream = taker.source.open(taker.descriptor, begin, self.cancel)
        attempt.opened = True
        try:
            self._report("fetching", begin)
            partial.fill(stream, buffer, self.cancel, self._report)
        finally:
            attempt.gained = partial.position > max(begin, self._furthest)
            self._furthest = max(partial.position, self._furthest)
            with contextlib.suppress(RegistryError, OSError):  # what was read is read
                stream.close()

    def _fail(self, taker: Transfer, attempt: Attempt, error: Exception) -> float | None:
        """What follows a failure: the seconds until the next attempt, or None without one."""
        if self.cancel.cancelled:
            return None
        if isinstance(error, (StoreError, InvalidDigestError)):  # whatever the source
            self._owner.finish(self, None, error)
            return None
        moved_on = not taker.settled and _elsewhere(taker.source, self.descriptor, error)
        if not taker.settled and not moved_on:
            taker.tally.count(error, attempt)
            if not can_help(error, attempt) or taker.tally.spent(self._owner.policy):
                taker.settle(None, error)
        if out_of_range(error) and self._partial is not None:
            self._partial.discard()
        elif isinstance(error, DigestMismatchError):
            self._furthest = 0  # they were wrong
        follower = self._owner.choose(self)
        if follower is None:
            return None
        if follower is not taker:
            self._say("info", f"blob {self._name}: another source is asked after: {error}")
            return 0.0
        if moved_on:
            self._say("info", f"blob {self._name}: asked for elsewhere after: {error}")
            return 0.0
        asked = getattr(error, "retry_after", None)
        policy = self._owner.policy
        delay = policy.pause(taker.tally.fruitless, random.random(), asked)
        self._say("warning", f"blob {self._name}: tried again in {delay:.1f} s after: {error}")
        return delay

    def _report(self, phase: str, done: int) -> None:
        now = time.monotonic()
        last, when = self._reported
        if phase == last and now - when < _REPORT_EVERY and done < self.descriptor.size:
            return
        self._reported = (phase, now)
        for taker in self._owner.takers(self):
            if taker.progress is None:
                continue
            try:
                taker.progress(self._name, phase, done, self.descriptor.size)
            except Exception as error:  # it hurts its own taker only
                taker.settle(None, error)

    def _say(self, level: str, text: str) -> None:
        for taker in self._owner.takers(self):
            if taker.log is None:
                continue
            try:
                taker.log(level, text, digest=self._name)
            except Exception as error:
                taker.settle(None, error)


def _elsewhere(source: Source, descriptor: Descriptor, error: Exception) -> bool:
    """Whether the source has another place to ask."""
    return isinstance(source, Alternatives) and source.elsewhere(descriptor, error)


class Transfers:
    """The movements of one store in this process. Thread-safe."""

    def __init__(self, layout: Layout, workers: Workers, policy: RetryPolicy) -> None:
        self.layout = layout
        self.policy = policy
        self._workers = workers
        self._mutex = threading.Lock()
        self._flights: dict[tuple[Digest, int], Flight] = {}
        self._closed = False

    def start(self, ticket: Transfer, cancel: Cancellation | None) -> None:
        """Let ``ticket`` take part in the movement of its blob, which begins if need be.

        Raises `StoreError` after `close`.
        """
        descriptor = ticket.descriptor
        with self._mutex:
            if self._closed:
                raise StoreError("the store is closed", retryable=True)
            key = descriptor.digest, descriptor.size
            flight = self._flights.get(key)
            fresh = flight is None
            if flight is None:
                flight = self._flights[key] = Flight(self, descriptor, id(ticket.source))
            joined = flight
            # The ticket is new, so the watcher cannot run at once, under the mutex.
            ticket.on_settled(lambda _: self._left(joined, ticket))
            flight.takers.append(ticket)
        if cancel is not None:
            forget = cancel.on_cancel(ticket.leave)
            ticket.on_settled(lambda _: forget())
        if fresh:
            self.submit(flight, 0.0)

    def submit(self, flight: Flight, delay: float) -> None:
        """Let a worker take the flight's next step. Called by who owns the flight."""
        try:
            taken = self._workers.submit(flight.step, delay, flight.group)
        except RuntimeError as error:
            self.finish(flight, None, StoreError(f"no thread for a transfer: {error}"))
            taken = False
        # The last taker may have left before the step could be found in the queue.
        if not taken or (flight.cancel.cancelled and self._workers.withdraw(flight.step)):
            flight.close()

    def choose(self, flight: Flight) -> Transfer | None:
        """The taker whose source is asked next: the one that has failed least."""
        with self._mutex:
            if flight.ended or not flight.takers:
                return None
            return min(flight.takers, key=lambda taker: taker.tally.fruitless)

    def takers(self, flight: Flight) -> list[Transfer]:
        with self._mutex:
            return list(flight.takers)

    def finish(
        self, flight: Flight, outcome: Outcome | None, error: Exception | None = None
    ) -> None:
        """End the flight, alike for all its takers."""
        for taker in self._end(flight):
            taker.settle(outcome, error)

    def close(self, timeout: float) -> bool:
        """End all movements, and wait for the workers. False if one of them still runs."""
        with self._mutex:
            self._closed = True
            flights = list(self._flights.values())
        for flight in flights:
            for taker in self.takers(flight):
                taker.settle(None, StoreError("the store was closed", retryable=True))
        return self._workers.close(timeout)

    def _left(self, flight: Flight, ticket: Transfer) -> None:
        """``ticket`` is settled; the flight ends when it was the last."""
        with self._mutex:
            if flight.ended:
                return
            flight.takers.remove(ticket)
            if flight.takers:
                return
            self._remove(flight)
        # A source whose callback fails has its reason; it must not fail who only left.
        with contextlib.suppress(Exception):
            flight.cancel.cancel()
        if self._workers.withdraw(flight.step):
            flight.close()

    def _end(self, flight: Flight) -> list[Transfer]:
        with self._mutex:
            self._remove(flight)
            takers, flight.takers = flight.takers, []
        return takers

    def _remove(self, flight: Flight) -> None:
        """Nobody can join any more. The mutex is held."""
        flight.ended = True
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
