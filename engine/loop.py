"""One thread that owns sockets: it polls them, runs what others ask of it, and keeps timers.

`call` and `close` are for any thread; everything else belongs to the loop's own thread. The
loop ends when it is told to, and `close` waits for that no longer than it says. Time is
`time.monotonic`.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

__all__ = ["Loop", "Timer"]

_TURN = 256  # calls in one turn; sockets and timers must get theirs too


class Timer:
    """A call that is due at ``when``. `cancel` is for the loop's thread."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """A poller with a thread.

    A callback that raises is told to ``on_error`` and the loop goes on: one bad message must
    not end the service of all others.
    """

    def __init__(self, name: str, *, on_error: Callable[[Exception], None] | None = None) -> None:
        self._on_error = on_error or _report
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._poller = zmq.Poller()
        self._readers: dict[Any, Callable[[], object]] = {}
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._event, zmq.POLLIN)
        self._awake = False  # or will be: who calls need not wake it
        self._stopping = False
        # guards the descriptor's end of life; `call` may come from a finalizer, so within itself
        self._wake_mutex = threading.RLock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    # any thread

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` on the loop's thread, soon. After the end it is dropped."""
        self._calls.append((function, args))
        if not self._awake:
            self._awake = True
            self._wake()

    def close(self, timeout: float = 5.0) -> bool:
        """Let the calls made before run, end the thread, and wait; whether it has ended."""
        if self._thread.ident is None:  # it never started
            self._release()
            return True
        self.call(self._stop)
        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    # the loop's thread

    def at(self, when: float, function: Callable[[], object]) -> Timer:
        """Call ``function`` when the monotonic clock shows ``when``."""
        timer = Timer(when, function)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def add(self, source: Any, readable: Callable[[], object]) -> None:
        """Watch a socket or a descriptor. ``readable`` is called while there is something."""
        self._readers[source] = readable
        self._poller.register(source, zmq.POLLIN)

    def remove(self, source: Any) -> None:
        if self._readers.pop(source, None) is not None:
            self._poller.unregister(source)

    # inner

    def _wake(self) -> None:
        with self._wake_mutex:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def _stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception as error:  # polling itself failed; nothing can be served any more
            self._on_error(error)
        finally:
            self._release()

    def _release(self) -> None:
        self._stopping = True
        with self._wake_mutex:
            if self._event >= 0:
                os.close(self._event)
            self._event = -1

    def _turn(self) -> None:
        self._awake = False  # before the look at the calls: one that comes after it wakes
        timeout = 0 if self._calls else self._patience()
        ready = self._poller.poll(timeout)
        self._awake = True
        for source, _ in ready:
            if source == self._event:
                os.eventfd_read(self._event)
                continue
            readable = self._readers.get(source)
            if readable is not None:  # an earlier callback of this turn may have removed it
                self._guarded(readable, ())
        for _ in range(min(len(self._calls), _TURN)):
            function, args = self._calls.popleft()
            self._guarded(function, args)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                self._guarded(timer.call, ())

    def _patience(self) -> int | None:
        """Milliseconds until the next timer; None where there is none."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        wait = self._timers[0][0] - time.monotonic()
        return max(0, min(math.ceil(wait * 1000), 3_600_000))

    def _guarded(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except Exception as error:
            self._on_error(error)


def _report(error: Exception) -> None:
    import logging  # costs a client's start more than it is likely to need it

    logging.getLogger("engine.loop").error("a callback of the I/O thread failed", exc_info=error)
