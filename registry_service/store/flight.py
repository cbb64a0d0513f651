"""The movement of one blob: attempts, what follows a failure, and what its takers are told."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Final, Protocol, TypeAlias

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    DigestMismatchError,
    DoesNotExistError,
    InvalidDigestError,
    RegistryError,
    StoreError,
)
from .ingest import Partial
from .layout import Layout
from .origins import Claim
from .proof import Comparison, missing
from .retry import Attempt, RetryPolicy, can_help, out_of_range
from .ticket import Outcome, Transfer

__all__ = ["Flight", "Key", "Owner", "key_of"]

_FIRST_POLL: Final = 0.005  # seconds between two tries for a lock that another process holds
_MOST_POLL: Final = 0.1
_MANY_POLLS: Final = 20  # about a second
_WORTH_TELLING: Final = 1.0
_REPORT_EVERY: Final = 0.1  # seconds between two reports of one blob

#: What takers have in common who share a movement: the content, and the registry.
Key: TypeAlias = tuple[Digest, int, str]


def key_of(descriptor: Descriptor, claim: Claim | None) -> Key:
    return descriptor.digest, descriptor.size, "" if claim is None else claim.host


class Owner(Protocol):
    """What a flight needs of the table that it is in."""

    layout: Layout
    policy: RetryPolicy

    def choose(self, flight: Flight) -> Transfer | None:
        """The taker whose source is asked next, None where nobody is left."""

    def takers(self, flight: Flight) -> list[Transfer]: ...

    def shown(self, flight: Flight, taker: Transfer) -> None:
        """The taker's repository has shown that it has the blob."""

    def record(self, flight: Flight) -> None:
        """Keep which repositories have shown that. Raises `StoreError`."""

    def submit(self, flight: Flight, delay: float) -> None:
        """Let a worker take the next step, after ``delay`` seconds."""

    def finish(
        self, flight: Flight, outcome: Outcome | None, error: Exception | None = None
    ) -> None:
        """Say to all takers how it ended."""


class Flight:
    """The movement of one blob, and who waits for it."""

    def __init__(self, owner: Owner, ticket: Transfer) -> None:
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
        self._comparison: Comparison | None = None
        self._partial: Partial | None = None
        self._polls = 0
        self._furthest = 0  # bytes that were fetched once: those that are fetched again are no gain
        self._reported = ("", 0.0)

    @property
    def key(self) -> Key:
        return key_of(self.descriptor, self.claim)

    def step(self, buffer: memoryview) -> None:
        """Make one attempt, and submit the next one where another is needed."""
        try:
            delay = self._go_on(buffer)
        except Exception as error:  # a fault of the program, which nobody must wait for
            self._owner.finish(self, None, error)
            delay = None
        # However many wait: who has brought nothing yet has no file open meanwhile.
        if delay is None or (self._partial is not None and self._partial.empty):
            self.close()
        if delay is not None:
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
                    if self._polls == _MANY_POLLS:
                        self._say("info", f"blob {self._name}: another process is bringing it")
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
        if self._comparison is None:
            self._comparison = Comparison(self._owner.layout, self.descriptor)
        comparison = self._comparison
        begin = comparison.position
        attempt.mixed = begin > 0
        stream = taker.source.open(taker.descriptor, begin, self.cancel)
        attempt.opened = True

        def told(done: int) -> None:  # what it is to the taker, who does not know that it is here
            self._report("fetching", done)

        try:
            if self.descriptor.size > len(buffer):
                told(begin)
            comparison.take(stream, buffer, self.cancel, told)
        except DoesNotExistError:  # not here any more
            return None
        finally:
            attempt.gained = comparison.position > begin
            with contextlib.suppress(RegistryError, OSError):
                stream.close()
        self._comparison = None
        if not comparison.same(self.cancel):
            return None
        self._owner.shown(self, taker)
        return "exists"

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
