"""Arrivals: layers of V1 on their way in, each fetched once, however many want it.

Who owns what:

- An `Arrival` is one taker's ticket, and takes the steps of its own: nobody moves bytes for another
  one. Its partial file, and all that touches it, belongs to the worker thread that takes its step;
  between two steps to whoever took the step out of the queue.
- The lock of the partial file says whose turn it is, among all threads and processes. Who has it
  brings the layer, with his own credentials; the others look again and again, without holding a
  thread. When the layer is here they find it in the book. When who had the lock failed, or was
  cancelled or killed, the next one goes on from where that one came to.
- The mutex of `Arrivals` guards who is under way, and which partial files are held in this
  process. It is held for moments only, and no other lock is taken under it.

Who may have what: a ticket is made by who was given the image's JSON by the registry, and so may
have its layer; see `layerbook`. The partial files are one for each registry, and so none gets what
another one sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from ..cancel import Cancellation
from ..digest import Digest
from ..errors import RegistryError, StoreError
from ..observe import LogCallback, ProgressCallback
from ..upgrade import Layer
from ..v1.layer import StatedLayer
from .arriving import Arriving, arriving_name
from .layerbook import LayerBook
from .layout import Layout
from .origins import Claim
from .retry import Attempt, RetryPolicy, can_help, out_of_range
from .source import BlobStream
from .ticket import Outcome, Ticket
from .workers import Workers

__all__ = ["Arrival", "Arrivals", "Arrived", "LayerSource"]

_FIRST_POLL: Final = 0.005  # seconds between two looks at a layer that another one brings
_MOST_POLL: Final = 0.1
_MANY_POLLS: Final = 20  # about a second
# Seconds after which another process counts as one that hangs. It may wait for a thread of its own.
_STALLED: Final = 1800.0
_LONGEST: Final = 30.0  # seconds between two steps, in which the file shows no sign of life
_WORTH_TELLING: Final = 1.0
_REPORT_EVERY: Final = 0.1


class LayerSource(Protocol):
    """Where one layer of V1 comes from, for one caller. Used by one thread at a time."""

    def open(self, offset: int, cancel: Cancellation, /) -> BlobStream:
        """The layer's bytes from ``offset`` on, or from 0, as the stream says. As `Source.open`."""

    def ready(self) -> float:
        """Seconds after which it is worth while to call `open`, 0 for now."""
        return 0.0

    def elsewhere(self, error: Exception, /) -> bool:
        """Whether the next `open` asks another place than the last, of which ``error`` came."""
        return False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """How a layer got into the store: it was there (``exists``), or was brought (``fetched``)."""

    layer: Layer
    outcome: Outcome


class Arrivals:
    """The layers of V1 on their way into one store, as far as this process has to do with them.
    Thread-safe. ``whole`` says whether a layer's blob is in the store, and repairs nothing."""

    def __init__(
        self,
        layout: Layout,
        workers: Workers,
        policy: RetryPolicy,
        book: LayerBook,
        whole: Callable[[Layer, Cancellation], bool],
    ) -> None:
        self.layout = layout
        self.policy = policy
        self.book = book
        self.whole = whole
        self._workers = workers
        self._mutex = threading.Lock()
        self._live: set[Arrival] = set()
        self._held: set[str] = set()  # names of partial files
        self._closed = False

    def start(self, ticket: Arrival, cancel: Cancellation | None) -> None:
        """Let the ticket take its first step. Raises `StoreError` after `close`."""
        with self._mutex:
            if self._closed:
                raise StoreError("the store is closed", retryable=True)
            self._live.add(ticket)
        ticket.on_settled(self._left)
        if cancel is not None:
            forget = cancel.on_cancel(ticket.leave)
            ticket.on_settled(lambda _: forget())
        if not ticket.settled:
            self.submit(ticket, 0.0)

    def submit(self, ticket: Arrival, delay: float) -> None:
        """Let a worker take the ticket's next step. Called by who owns the ticket's file."""
        try:
            taken = self._workers.submit(ticket.step, delay, ticket.group)
        except RuntimeError as error:
            ticket.settle(None, StoreError(f"no thread for a transfer: {error}"))
            taken = False
        # Who left before the step could be found in the queue.
        if not taken or (ticket.settled and self._workers.withdraw(ticket.step)):
            ticket.settle(None, StoreError("the store was closed", retryable=True))
            ticket.close()

    def held(self, name: str) -> bool:
        """Whether somebody in this process has that partial file."""
        with self._mutex:
            return name in self._held

    def hold(self, name: str, *, held: bool) -> None:
        with self._mutex:
            if held:
                self._held.add(name)
            else:
                self._held.discard(name)

    def close(self) -> None:
        """End all of it, with an error for the takers. The workers are another's to close."""
        with self._mutex:
            self._closed = True
            tickets = list(self._live)
        for ticket in tickets:
            ticket.settle(None, StoreError("the store was closed", retryable=True))

    def _left(self, ticket: Arrival) -> None:
        with self._mutex:
            self._live.discard(ticket)
        # A source whose callback fails has its reason; it must not fail who only left.
        with contextlib.suppress(Exception):
            ticket.cancel.cancel()
        if self._workers.withdraw(ticket.step):
            ticket.close()


class Arrival(Ticket[Arrived]):
    """One taker's ticket for one layer, and the steps by which it is brought.

    ``pin`` is called with its digest before it is in its place, by the worker that brings it;
    ``claim`` says in whose name.
    """

    def __init__(
        self,
        owner: Arrivals,
        stated: StatedLayer,
        source: LayerSource,
        claim: Claim,
        *,
        pin: Callable[[Digest], object],
        progress: ProgressCallback | None,
        log: LogCallback | None,
    ) -> None:
        super().__init__(stated.image_id, progress, log)
        self.stated = stated
        self.cancel = Cancellation()
        self.group = id(claim)
        self._owner = owner
        self._source = source
        self._claim = claim
        self._pin = pin
        self._file = arriving_name(claim.host, stated)
        self._partial: Arriving | None = None
        self._whole = False  # the source has to bring what is there already, too
        self._early = False  # the host may not be asked yet, and nothing is in the file
        self._furthest = 0  # bytes that were fetched once: those that are fetched again are no gain
        self._polls = 0
        self._seen: tuple[tuple[int, int], float] | None = None  # another's file, and since when
        self._reported = ("", 0.0)

    def step(self, buffer: memoryview) -> None:
        """Make one attempt, and submit the next one where another is needed."""
        try:
            delay = None if self.settled else self._go_on(buffer)
        except Exception as error:  # a fault of the program, which nobody must wait for
            self._end(error)
            delay = None
        # However many wait: who has brought nothing yet has no file open meanwhile.
        if delay is None or (self._partial is not None and self._partial.empty):
            self.close()
        if delay is not None:
            self._owner.submit(self, delay)

    def close(self) -> None:
        """Let go of the partial file, which stays for a later transfer."""
        partial, self._partial = self._partial, None
        if partial is not None:
            partial.close()
            self._owner.hold(self._file, held=False)

    def _go_on(self, buffer: memoryview) -> float | None:
        """The seconds until the next attempt, None where there is none."""
        attempt = Attempt()
        try:
            arrived = self._take_turn(buffer)
            if arrived is None:
                # Whose turn it is not yet must not hold up his own host's gate.
                if self._partial is None and not self._early:
                    return self._wait_for_turn()
                if wait := self._source.ready():
                    return self._held_back(wait)
                if self._partial is None:
                    self._early = False
                    return 0.0
                arrived = self._bring(attempt, buffer)
        except Exception as error:
            return self._fail(attempt, error)
        self.settle(arrived)
        return None

    def _take_turn(self, buffer: memoryview) -> Arrived | None:
        """See whether it is here, and else get the partial file if nobody has it, and if it is of
        use before the host may be asked."""
        if self._partial is not None and not self._partial.closed:
            return None
        self.close()
        found = self._found()
        if found is not None or self._early or self._owner.held(self._file):
            return found
        self._partial = Arriving.claim(self._owner.layout, self._claim.host, self.stated)
        if self._partial is None:
            return None
        self._owner.hold(self._file, held=True)
        found = self._found()  # who had the file until now may have brought it
        if found is None:
            self._partial.resume(buffer, self.cancel, self._report)
        else:
            self._partial.discard()
        return found

    def _found(self) -> Arrived | None:
        """The layer where it is here, as the book has it."""
        layer = self._owner.book.find(self._claim.host, self.stated)
        if layer is None or not self._owner.whole(layer, self.cancel):
            return None
        self._pin(layer.digest)
        if not self._claim.holds(layer.digest):
            self._claim.record(layer.digest)
        return Arrived(layer=layer, outcome="fetched" if self._polls else "exists")

    def _wait_for_turn(self) -> float:
        """The seconds until the next look. Raises `StoreError` where that is no use."""
        self._polls += 1
        if self._owner.held(self._file):
            self._seen = None
        else:
            self._watch()
        if self._polls == _MANY_POLLS:
            self._say("info", f"the layer of image {self.name}: another one is bringing it")
        return min(_MOST_POLL, _FIRST_POLL * self._polls)

    def _watch(self) -> None:
        """Give up on a process that does nothing with the file that it has locked."""
        path = self._owner.layout.ingest / self._file
        now = time.monotonic()
        try:
            found = os.stat(path)  # noqa: PTH116 - many a second
        except OSError:
            state = (0, 0)
        else:
            state = (found.st_mtime_ns, found.st_size)
        if self._seen is None or self._seen[0] != state:
            self._seen = state, now
        elif now - self._seen[1] >= _STALLED:
            raise StoreError(
                f"{path} has been locked by another process that has not gone on with it for "
                f"{_STALLED:g} seconds; see whether it hangs (fuser shows which it is)",
                retryable=True,
            )

    def _held_back(self, wait: float) -> float:
        if wait >= _WORTH_TELLING:
            text = f"the layer of image {self.name}: waits {wait:.1f} s until its host may be asked"
            self._say("info", text)
        if self._partial is not None:
            self._early = self._partial.empty
            self._partial.beat()
        return min(wait, _LONGEST)

    def _bring(self, attempt: Attempt, buffer: memoryview) -> Arrived:
        partial = self._partial
        assert partial is not None
        attempt.mixed = partial.position > 0
        if self._whole or not partial.complete:
            self._fetch(attempt, partial, buffer)
        attempt.opened = True
        layer = partial.verified(self.cancel, self._report)
        # What sees the content in its place must see whose it is; and a process that is killed
        # now finds in the book what it may have brought already.
        self._pin(layer.digest)
        self._claim.record(layer.digest)
        self._owner.book.record(self._claim.host, self.stated, layer)
        partial.commit(layer)
        return Arrived(layer=layer, outcome="fetched")

    def _fetch(self, attempt: Attempt, partial: Arriving, buffer: memoryview) -> None:
        begin = partial.position
        stream = self._source.open(0 if self._whole else begin, self.cancel)
        attempt.opened = True
        try:
            self._report("fetching", begin)
            partial.fill(stream, buffer, self.cancel, self._report)
        finally:
            attempt.gained = max(0, partial.position - max(begin, self._furthest))
            self._furthest = max(partial.position, self._furthest)
            # What was there is what the source has too, if anything came after it.
            self._whole = self._whole and partial.position == begin
            with contextlib.suppress(RegistryError, OSError):  # what was read is read
                stream.close()

    def _fail(self, attempt: Attempt, error: Exception) -> float | None:
        """What follows a failure: the seconds until the next attempt, or None without one."""
        if self.settled:
            return None
        wrong = self._partial is not None and self._partial.closed
        # Wrong bytes that are not all of this attempt say nothing of the place, which gets another.
        blamed = not (attempt.mixed and wrong)
        moved_on = blamed and not isinstance(error, StoreError) and self._source.elsewhere(error)
        if not moved_on and self._gives_up(attempt, error):
            self._end(error)
            return None
        if out_of_range(error):
            self._whole = True  # it may be the source that is wrong
        elif wrong:
            self._furthest = 0
        if moved_on:
            self._say("info", f"the layer of image {self.name}: asked for elsewhere after: {error}")
            return 0.0
        asked = getattr(error, "retry_after", None)
        delay = self._owner.policy.pause(self.tally.fruitless, random.random(), asked)
        text = f"the layer of image {self.name}: tried again in {delay:.1f} s after: {error}"
        self._say("warning", text)
        return delay

    def _end(self, error: Exception) -> None:
        """Tell of a failure when the file has been let go: who is told finds nothing half done."""
        self.close()
        self.settle(None, error)

    def _gives_up(self, attempt: Attempt, error: Exception) -> bool:
        self.tally.count(error, attempt)
        if isinstance(error, StoreError) or not can_help(error, attempt):
            return True
        return self.tally.spent(self._owner.policy)

    def _report(self, phase: str, done: int) -> None:
        now = time.monotonic()
        last, when = self._reported
        total = self.stated.stated_size or -1
        if self.progress is None or (
            phase == last and now - when < _REPORT_EVERY and not 0 < total <= done
        ):
            return
        self._reported = (phase, now)
        self.progress(self.name, phase, done, total)

    def _say(self, level: str, text: str) -> None:
        if self.log is not None:
            self.log(level, text, image=self.name)
