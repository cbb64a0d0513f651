"""Transfers: one movement for each blob, however many want it.

Who owns what:

- A `Flight` (`store.flight`) is the one movement of a blob in this process. Its partial file,
  and everything that touches it, belongs to the worker thread that takes its step; between two
  steps to whoever took the step out of the queue.
- A `Transfer` is one taker's ticket (`store.ticket`). Its owner waits on it in a thread of its own.
- The mutex of `Transfers` guards the table of flights and each flight's takers. It is held for
  moments only: never while bytes move, a file is touched or a callback runs. The only lock
  taken under it is the ticket's own.

A taker that is cancelled leaves at once, whatever the movement is doing; the movement goes on
for those who stay, and is cancelled when the last has left. A source belongs to the taker that
brought it: when it fails for good, its taker fails, and the others' sources are asked. What
fails for the store (a full disk) fails for all.

Who may share a movement: takers whose claims are of one registry, so that every byte of it came
from that registry. A taker of a repository that has not shown that it has the blob is let in when
the registry says so (a `Question`), and gets an outcome only when that was shown (see
`store.origins`). Another registry's movement of the same blob is one of its own, and so is that
of a descriptor with another size. Another process's waits for the partial file.
"""

from __future__ import annotations

import contextlib
import threading

from ..cancel import Cancellation
from ..errors import StoreError
from .flight import Flight, Key, key_of
from .layout import Layout
from .origins import Claim
from .proof import Question
from .retry import RetryPolicy
from .ticket import Outcome, Transfer
from .workers import Workers

__all__ = ["Outcome", "Transfer", "Transfers"]


class Transfers:
    """The movements of one store in this process. Thread-safe."""

    def __init__(self, layout: Layout, workers: Workers, policy: RetryPolicy) -> None:
        self.layout = layout
        self.policy = policy
        self._workers = workers
        self._mutex = threading.Lock()
        self._flights: dict[Key, Flight] = {}
        self._questions: set[Transfer] = set()
        self._closed = False

    def start(self, ticket: Transfer, cancel: Cancellation | None) -> None:
        """Let ``ticket`` take part in the movement of its blob, which begins if need be.

        Raises `StoreError` after `close`.
        """
        if cancel is not None:
            forget = cancel.on_cancel(ticket.leave)
            ticket.on_settled(lambda _: forget())
        self._enter(ticket, sure=False)

    def _enter(self, ticket: Transfer, *, sure: bool) -> None:
        """Join, begin, or ask first. ``sure``: its repository is known to have it."""
        descriptor, claim = ticket.descriptor, ticket.claim
        if claim is not None and not sure:
            here = self.layout.size(descriptor.digest) == descriptor.size
            near = claim.near(descriptor.digest)
            # Looked at last: a movement that ends now may have shown it meanwhile.
            sure = claim.holds(descriptor.digest)
            if not sure and here and near:
                self._ask(ticket, claim)
                return
        with self._mutex:
            if self._closed:
                raise StoreError("the store is closed", retryable=True)
            key = key_of(descriptor, claim)
            flight = self._flights.get(key)
            fresh = flight is None
            if flight is None:
                flight = self._flights[key] = Flight(self, ticket)
            welcome = fresh or sure or claim is None or claim.repository in flight.joined
            if welcome:
                flight.takers.append(ticket)
            if welcome and claim is not None:
                flight.joined.add(claim.repository)
                if sure:
                    flight.proved.add(claim.repository)
        if not welcome and claim is not None:
            self._ask(ticket, claim)
            return
        joined = flight
        # Who has left by now is taken out at once.
        ticket.on_settled(lambda _: self._left(joined, ticket))
        if fresh:
            self.submit(flight, 0.0)

    def _ask(self, ticket: Transfer, claim: Claim) -> None:
        """Ask the registry whether the ticket's repository has the blob, and go on from there."""
        with self._mutex:
            if self._closed:
                raise StoreError("the store is closed", retryable=True)
            self._questions.add(ticket)
        ticket.on_settled(self._answered)
        question = Question(
            ticket.descriptor,
            claim,
            lambda: self._granted(ticket, claim),
            lambda error: ticket.settle(None, error),
        )
        ticket.on_settled(lambda _: question.cancel.cancel())
        try:
            taken = self._workers.submit(question.step, 0.0, id(ticket.source))
        except RuntimeError as error:
            ticket.settle(None, StoreError(f"no thread for a transfer: {error}"))
        else:
            if not taken:
                ticket.settle(None, StoreError("the store was closed", retryable=True))

    def _granted(self, ticket: Transfer, claim: Claim) -> None:
        """The registry says that the ticket's repository has the blob."""
        self._answered(ticket)
        descriptor = ticket.descriptor
        if self.layout.size(descriptor.digest) == descriptor.size:
            claim.confirm(descriptor.digest)
            if claim.holds(descriptor.digest):
                ticket.settle("exists")
                return
        self._enter(ticket, sure=True)

    def _answered(self, ticket: Transfer) -> None:
        with self._mutex:
            self._questions.discard(ticket)

    def shown(self, flight: Flight, taker: Transfer) -> None:
        """The taker's repository has shown that it has the blob of the flight."""
        if taker.claim is not None:
            with self._mutex:
                flight.proved.add(taker.claim.repository)

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
        """End the flight, alike for all its takers; but who has no right to the content yet has
        to ask for it."""
        try:
            # While the flight can still be joined: who finds it gone must find the record.
            if outcome is not None:
                self.record(flight)
        except StoreError as failure:
            outcome, error = None, failure
        takers = self._end(flight)
        try:
            for taker in takers:
                claim = taker.claim
                if outcome is None or claim is None or claim.repository in flight.proved:
                    taker.settle(outcome, error)
                elif not taker.settled:
                    self._enter(taker, sure=False)
        except StoreError as failure:
            for taker in takers:
                taker.settle(None, failure)  # those that are settled stay so

    def record(self, flight: Flight) -> None:
        """Keep which repositories have shown that they have it, as far as that is not kept yet.
        Called by who moves the bytes, when those were verified."""
        claim = flight.claim
        if claim is None:
            return
        with self._mutex:
            fresh = flight.proved - flight.recorded
            flight.recorded |= fresh
        for repository in fresh:
            claim.origins.record(claim.host, repository, flight.descriptor.digest)

    def close(self, timeout: float) -> bool:
        """End all movements, and wait for the workers. False if one of them still runs."""
        with self._mutex:
            self._closed = True
            flights = list(self._flights.values())
            questions = list(self._questions)
        for flight in flights:
            for taker in self.takers(flight):
                taker.settle(None, StoreError("the store was closed", retryable=True))
        for taker in questions:
            taker.settle(None, StoreError("the store was closed", retryable=True))
        return self._workers.close(timeout)

    def _left(self, flight: Flight, ticket: Transfer) -> None:
        """``ticket`` is settled; the flight ends when it was the last."""
        with self._mutex:
            if flight.ended or ticket not in flight.takers:
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
