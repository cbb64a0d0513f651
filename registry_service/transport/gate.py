"""One gate for each host: what all the jobs of a process ask of it goes through there.

A server that asks to be left alone for a while (429 or 503 with Retry-After) is left alone by
all; the limits that the configuration sets hold for all together. Every wait ends with its
cancellation, and with the closing of the gates; none is made while another is held up by it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol

from ..cancel import Cancellation
from ..errors import CancelledError
from ..hostrules import HostLimits, HostTable
from ..hosts import join_host_port
from ..observe import LogCallback
from .pacing import Slots, TokenBucket

__all__ = ["Clock", "Gate", "Gates", "Lease", "SystemClock"]

_MOST_GATES: Final = 1024
_MOST_PAUSES: Final = 4  # in a row for one request; then it goes, whatever others were told
_WORTH_TELLING: Final = 1.0  # seconds
_LEAST_BLOCK: Final = 1024  # bytes
_BLOCK: Final = 256 * 1024
_BLOCKS_PER_SECOND: Final = 8
_LOOK_AGAIN: Final = 0.1  # seconds


class Clock(Protocol):
    """Seconds that never go back, and a wait; tests have one of their own."""

    def now(self) -> float: ...

    def wait(self, event: threading.Event, seconds: float) -> object:
        """Wait until the event is set, or so many seconds."""


class SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> object:
        return event.wait(min(seconds, threading.TIMEOUT_MAX))


class Gate:
    """The gate of one host; thread-safe.

    One lock guards what is here; nothing waits, and no callback runs, while it is held.
    """

    def __init__(
        self,
        name: str,
        limits: HostLimits,
        *,
        clock: Clock | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.limits = limits
        self._clock = clock or SystemClock()
        self._dice = dice
        self._lock = threading.Lock()
        self._until = 0.0  # when the pause that the server asked for ends, by the clock
        self._closed = False
        self._events: set[threading.Event] = set()  # of who waits
        rate = limits.requests_per_second
        self._requests = TokenBucket(rate, max(1.0, rate)) if rate else None
        flow = limits.bytes_per_second
        self.block = max(_LEAST_BLOCK, min(_BLOCK, flow // _BLOCKS_PER_SECOND)) if flow else _BLOCK
        self._bytes = TokenBucket(flow, self.block) if flow else None
        self._slots = Slots(limits.concurrent) if limits.concurrent else None

    @property
    def idle(self) -> bool:
        """Whether nobody is here, and nothing of what was here counts any more."""
        with self._lock:
            held = self._slots is not None and len(self._slots) > 0
            return not (self._events or held or self._until > self._clock.now())

    @property
    def paused(self) -> float:
        """Seconds for which the server asked to be left alone."""
        with self._lock:
            return max(0.0, self._until - self._clock.now())

    @property
    def waits(self) -> int:
        """How many wait here."""
        with self._lock:
            return len(self._events)

    def close(self) -> None:
        """End every wait, now and from now on, with `CancelledError`."""
        with self._lock:
            self._closed = True
            events = list(self._events)
        for event in events:
            event.set()

    def hold_off(self, seconds: float) -> float:
        """The server asks to be left alone for so long. Returns a mark of this pause, for
        `enter`."""
        with self._lock:
            self._until = max(self._until, self._clock.now() + seconds)
            return self._until

    def enter(self, cancel: Cancellation, log: LogCallback, *, served: float = 0.0) -> None:
        """Wait until another request may be sent.

        ``served`` is the mark of a pause that the caller has waited for by itself. Raises
        `CancelledError`.
        """
        if self._requests is None and self._until <= served:
            return
        self._wait_out(cancel, log, served)
        if self._requests is None:
            return
        with self._lock:
            now = self._clock.now()
            wait = self._requests.take(1, now)
        if wait > 0:
            self._tell(log, "debug", wait, f"{self.limits.requests_per_second:g} requests a second")
            self._sleep(now + wait, cancel)
            self._wait_out(cancel, log, served)

    def ready(self) -> float:
        """Seconds after which it is worth while to come with a request for content; 0 is now.

        For those who have something better to do than to wait here. They are let in as long as
        nobody, or one, would wait before them.
        """
        with self._lock:
            left = self._until - self._clock.now()
            slots = self._slots
            full = slots is not None and len(slots) >= slots.limit and slots.waiting > 0
        if left > 0:
            return left + self._dice() * min(1.0, left / 10)
        return _LOOK_AGAIN if full else 0.0

    def lease(self, log: LogCallback) -> Lease | None:
        """A connection's way to move bytes, None where there is no limit on that."""
        if self._slots is None and self._bytes is None:
            return None
        return Lease(self, log)

    def _wait_out(self, cancel: Cancellation, log: LogCallback, served: float) -> None:
        for _ in range(_MOST_PAUSES):
            with self._lock:
                until = self._until
            left = until - self._clock.now()
            if until <= served or left <= 0:
                return
            # All who waited should not come at once.
            self._tell(log, "info", left, "as it asks to be left alone (Retry-After)")
            self._sleep(until + self._dice() * min(1.0, left / 10), cancel)
            served = until

    def _tell(self, log: LogCallback, level: str, seconds: float, why: str) -> None:
        if seconds >= _WORTH_TELLING:
            log(level, f"{self.name}: waiting {seconds:.1f} s ({why})", wait=round(seconds, 2))

    # waits

    @contextlib.contextmanager
    def _waiter(self, cancel: Cancellation) -> Iterator[threading.Event]:
        """An event that is set by the cancellation, by `close`, and when a slot is let go."""
        event = threading.Event()
        with self._lock:
            self._events.add(event)
        try:
            with cancel.calling(event.set):
                yield event
        finally:
            with self._lock:
                self._events.discard(event)

    def _check(self, cancel: Cancellation) -> None:
        cancel.check()
        if self._closed:
            raise CancelledError("the transport was closed")

    def _sleep(self, until: float, cancel: Cancellation) -> None:
        with self._waiter(cancel) as event:
            while True:
                event.clear()
                self._check(cancel)
                left = until - self._clock.now()
                if left <= 0:
                    return
                self._clock.wait(event, left)

    # what a lease asks

    def take_slot(self, lease: Lease, cancel: Cancellation) -> None:
        slots, owner = self._slots, threading.get_ident()
        if slots is None or self._asked(slots, lease, owner) <= 0:
            return
        try:
            lease.tell(f"{self.name}: waiting for one of {slots.limit} connections")
            with self._waiter(cancel) as event:
                while True:
                    event.clear()
                    self._check(cancel)
                    wait = self._asked(slots, lease, owner)
                    if wait <= 0:
                        return
                    self._clock.wait(event, wait)
        except BaseException:
            self.leave(lease)
            raise

    def _asked(self, slots: Slots, lease: Lease, owner: int) -> float:
        with self._lock:
            before = len(slots), slots.waiting
            wait = slots.ask(lease, owner, self._clock.now())
            # Whoever queued again, or took a place in the queue, changes it for the others.
            changed = before != (len(slots), slots.waiting) and slots.waiting > 0
            events = list(self._events) if changed else []
        for event in events:
            event.set()
        return wait

    def pay(self, lease: Lease, count: int, cancel: Cancellation) -> None:
        with self._lock:
            now = self._clock.now()
            if self._slots is not None:
                self._slots.moved(lease, now)
            wait = 0.0 if self._bytes is None else self._bytes.take(count, now)
        if wait > 0:
            if wait >= _WORTH_TELLING:
                lease.tell(f"{self.name}: held at {self.limits.bytes_per_second} bytes a second")
            self._sleep(now + wait, cancel)

    def leave(self, lease: Lease) -> None:
        if self._slots is None:
            return
        with self._lock:
            self._slots.leave(lease)
            events = list(self._events)
        for event in events:
            event.set()


class Lease:
    """One connection's share of what a host's limits allow. Used by one thread at a time.

    Before bytes move, `before` waits for a slot; after, `after` waits until they are paid.
    `end` gives the slot back.
    """

    __slots__ = ("_gate", "_log", "_told")

    def __init__(self, gate: Gate, log: LogCallback) -> None:
        self._gate = gate
        self._log = log
        self._told = False

    def before(self, cancel: Cancellation) -> int:
        """Wait for a slot; the most bytes to move then. Raises `CancelledError`."""
        self._gate.take_slot(self, cancel)
        return self._gate.block

    def after(self, count: int, cancel: Cancellation) -> None:
        """``count`` bytes have moved. Raises `CancelledError`."""
        self._gate.pay(self, count, cancel)

    def end(self) -> None:
        """Bytes move no more. Can be called twice; `before` begins again."""
        self._gate.leave(self)

    def tell(self, text: str) -> None:
        """Say once, for the job, what the connection waits for."""
        if not self._told:
            self._told = True
            self._log("debug", text)

    def pace(
        self, blocks: Generator[memoryview, None, None], cancel: Cancellation
    ) -> Generator[memoryview, None, None]:
        """The blocks of a body at the pace that is allowed, cut where they are too long. The
        slot is given back after the last: for the answer no bytes move."""
        try:
            for block in blocks:
                rest = block
                while rest:
                    piece = rest[: self.before(cancel)]
                    yield piece
                    self.after(len(piece), cancel)
                    rest = rest[len(piece) :]
        finally:
            blocks.close()
            self.end()


class Gates:
    """The gates of all hosts; thread-safe. One lock guards the table."""

    def __init__(
        self,
        hosts: HostTable,
        *,
        clock: Clock | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._hosts = hosts
        self._clock = clock or SystemClock()
        self._dice = dice
        self._lock = threading.Lock()
        self._gates: dict[tuple[str, int], Gate] = {}
        self._closed = False

    def of(self, host: str, port: int) -> Gate:
        """The gate of a host (without brackets) at a port."""
        with self._lock:
            gate = self._gates.get((host, port))
            if gate is None:
                if len(self._gates) >= _MOST_GATES:
                    idle = [key for key, one in self._gates.items() if one.idle]
                    for key in idle:
                        del self._gates[key]
                gate = self._gates[host, port] = Gate(
                    join_host_port(host, port),
                    self._hosts.of(host, port).limits,
                    clock=self._clock,
                    dice=self._dice,
                )
                if self._closed:
                    gate.close()
            return gate

    def heed(self, other: Gates) -> None:
        """Leave alone whom ``other`` leaves alone."""
        with other._lock:
            gates = dict(other._gates)
        for (host, port), gate in gates.items():
            seconds = gate.paused
            if seconds:
                self.of(host, port).hold_off(seconds)

    @property
    def count(self) -> int:
        with self._lock:
            return len(self._gates)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            gates = list(self._gates.values())
        for gate in gates:
            gate.close()
