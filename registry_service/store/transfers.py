"""Transfers: one movement for each blob, however many want it.

Who owns what:

- A `Flight` is the one movement of a blob in this process. Its partial file, and everything
  that touches it, belongs to the worker thread that takes its step; between two steps to
  whoever took the step out of the queue.
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
import random
import threading
import time
from typing import Final, TypeAlias

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DigestMismatchError, InvalidDigestError, RegistryError, StoreError
from .ingest import Partial
from .layout import Layout
from .origins import Claim
from .proof import Question, compare, missing
from .retry import Attempt, RetryPolicy, can_help, out_of_range
from .ticket import Outcome, Transfer
from .workers import Workers

__all__ = ["Outcome", "Transfer", "Transfers"]

_FIRST_POLL: Final = 0.005  # seconds between two tries for a lock that another process holds
_MOST_POLL: Final = 0.1
_WORTH_TELLING: Final = 1.0
_REPORT_EVERY: Final = 0.1  # seconds between two reports of one blob


#: What takers have in common who share a movement: the content, and the registry.
_Key: TypeAlias = tuple[Digest, int, str]


def _key(descriptor: Descriptor, claim: Claim | None) -> _Key:
    return descriptor.digest, descriptor.size, "" if claim is None else claim.host


class Flight:
    """The movement of one blob, and who waits for it."""

    def __init__(self, owner: Transfers, ticket: Transfer) -> None:
        self._owner = owner
        self.descriptor = ticket.descriptor
        self.claim = ticket.claim
        self.cancel = Cancellation()
        self.group = id(ticket.source)
        self.takers: list[Transfer] = []  # guarded by the mutex of the owner, as is `ended`
        self.ended = False
        self.joined: set[str] = set()  # the repositories of takers; guarded likewise
        self.proved: set[str] = set()  # those that have shown that they have it; likewise
        self.recorded: set[str] = set()  # of these, what is kept; likewise
        self._name = str(ticket.descriptor.digest)
        self._whole = False  # the source has to bring what is there already, too
        self._compared = 0
        self._partial: Partial | None = None
        self._polls = 0
        self._furthest = 0  # bytes that were fetched once: those that are fetched again are no gain
        self._reported = ("", 0.0)

    @property
    def key(self) -> _Key:
        return _key(self.descriptor, self.claim)

    def step(self, buffer: memoryview) -> None:
        """Make one attempt, and submit the next one where another is needed."""
        try:
            delay = self._go_on(buffer)
        except Exception as error:  # a fault of the program, which nobody must wait for
            self._owner.finish(self, None, error)
            delay = None
        if delay is None:
            self.close()
        else:
            self._owner.submit(self, delay)

    def _go_on(self, buffer: memoryview) -> float | None:
        """The seconds until the next attempt, None where there is none."""
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
        return delay

    def _held_back(self, taker: Transfer) -> float | None:
        """The seconds before the source can be asked, None where it can be now. They are not
        spent here: the thread is for those who can move."""
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
        digest, size = self.descriptor.digest, self.descriptor.size
        layout, claim = self._owner.layout, self.claim
        lasting = claim is None or claim.origins.lasting
        if self._partial is None or self._partial.closed:
            if layout.size(digest) == size and self._is_shown():
                return "exists"  # another process was faster
            host = "" if claim is None else claim.host if lasting else "file"
            self._partial = Partial.claim(layout, self.descriptor, host)
            if self._partial is None:
                return None
            if layout.size(digest) == size and self._partial.empty:
                self._partial.discard()
                return self._prove(taker, attempt, buffer)
            self._partial.resume(buffer, self.cancel, self._report)
            self._whole = not lasting
        partial = self._partial
        attempt.mixed = partial.position > 0
        if self._whole or not partial.complete:
            self._fetch(taker, attempt, partial, buffer)
        elif claim is not None and not self.proved:
            self._ask(taker)
        attempt.opened = True
        partial.verify()
        # Who sees the content in its place must see the record.
        self._owner.record(self)
        partial.commit()
        return "fetched"

    def _is_shown(self) -> bool:
        """Whether some repository of the registry is known to have it."""
        return self.claim is None or self.claim.near(self.descriptor.digest)

    def _ask(self, taker: Transfer) -> None:
        """All of it was sent already, to somebody: see that the taker may have it."""
        claim = taker.claim
        if claim is not None and not claim.probe(taker.descriptor, self.cancel):
            raise missing(claim, self.descriptor)
        self._owner.shown(self, taker)

    def _fetch(
        self, taker: Transfer, attempt: Attempt, partial: Partial, buffer: memoryview
    ) -> None:
        begin = partial.position
        # The taker's own descriptor: what it says of the same content may differ (its urls).
        stream = taker.source.open(taker.descriptor, 0 if self._whole else begin, self.cancel)
        attempt.opened = True
        self._owner.shown(self, taker)
        try:
            if self.descriptor.size > len(buffer):  # else it is there as soon as that is told
                self._report("fetching", begin)
            partial.fill(stream, buffer, self.cancel, self._report)
        finally:
            attempt.gained = max(0, partial.position - max(begin, self._furthest))
            self._furthest = max(partial.position, self._furthest)
            # What was there is what the source has too, if anything came after it.
            self._whole = self._whole and partial.position == begin
            with contextlib.suppress(RegistryError, OSError):  # what was read is read
                stream.close()

    def _prove(self, taker: Transfer, attempt: Attempt, buffer: memoryview) -> Outcome | None:
        """The content is here. Where its registry has not shown that it has it, it has to send
        the same. None where the content that is here turned out to be damaged."""
        if self._is_shown():
            return "exists"
        begin = self._compared
        stream = taker.source.open(self.descriptor, begin, self.cancel)
        attempt.opened = True

        def told(done: int) -> None:
            self._compared = done
            self._report("comparing", done)

        try:
            same = compare(
                self._owner.layout, self.descriptor, stream, buffer, begin, self.cancel, told
            )
        finally:
            attempt.gained = self._compared - begin
            with contextlib.suppress(RegistryError, OSError):
                stream.close()
        if same:
            self._owner.shown(self, taker)
            return "exists"
        self._compared = 0
        return None

    def _fail(self, taker: Transfer, attempt: Attempt, error: Exception) -> float | None:
        """What follows a failure: the seconds until the next attempt, or None without one."""
        if self.cancel.cancelled:
            return None
        if isinstance(error, (StoreError, InvalidDigestError)):  # whatever the source
            self._owner.finish(self, None, error)
            return None
        # Wrong bytes that are not all of this attempt say nothing of the place, which gets another.
        blamed = not (attempt.mixed and isinstance(error, DigestMismatchError))
        moved_on = blamed and not taker.settled and taker.source.elsewhere(self.descriptor, error)
        if not taker.settled and not moved_on:
            taker.tally.count(error, attempt)
            if not can_help(error, attempt) or taker.tally.spent(self._owner.policy):
                taker.settle(None, error)
        if out_of_range(error):
            self._whole = True  # it may be the source that is wrong
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


class Transfers:
    """The movements of one store in this process. Thread-safe."""

    def __init__(self, layout: Layout, workers: Workers, policy: RetryPolicy) -> None:
        self.layout = layout
        self.policy = policy
        self._workers = workers
        self._mutex = threading.Lock()
        self._flights: dict[_Key, Flight] = {}
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
            key = _key(descriptor, claim)
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
