"""The threads that move bytes: few, started on demand, gone when there is nothing to do."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Step", "Workers"]

BUFFER: Final = 256 * 1024  # as much as stays in a core's cache between the hash and the write

#: Does a part of some work with the thread's buffer, and submits the next part if there is one.
Step = Callable[[memoryview], None]


class Workers:
    """At most ``limit`` threads that take steps in the order in which they fall due.

    A step that has to wait (for a lock, or before a retry) submits itself again with a delay
    and returns, so that it holds no thread. Steps must not raise. The condition ``_changed``
    guards everything here; no step runs and nothing else is locked while it is held.

    Threads are daemonic: a source that breaks its promise to end must not keep a process from
    ending. What they write is safe whenever it is interrupted.
    """

    def __init__(self, limit: int, *, name: str = "transfer", idle: float = 5.0) -> None:
        if limit < 1:
            raise ValueError(f"{limit} workers: at least one is needed")
        self._limit = limit
        self._name = name
        self._idle = idle
        self._changed = threading.Condition(threading.Lock())
        self._queue: list[tuple[float, int, Step]] = []
        self._order = itertools.count()
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count(1)
        self._waiting = 0
        self._closing = False

    def submit(self, step: Step, delay: float = 0.0) -> bool:
        """Take ``step`` after ``delay`` seconds. False, and it is not taken, after `close`.

        Raises RuntimeError when not a single thread can be started.
        """
        with self._changed:
            if self._closing:
                return False
            due = time.monotonic() + delay
            heapq.heappush(self._queue, (due, next(self._order), step))
            if len(self._queue) > self._waiting and len(self._threads) < self._limit:
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True
                )
                self._threads.add(thread)
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads; those that run do it all
                    self._threads.discard(thread)
                    if not self._threads:
                        self._queue.clear()
                        raise
            else:
                self._changed.notify()
        return True

    def withdraw(self, step: Step) -> bool:
        """Take ``step`` back. False when it is not waiting: it runs, or is not here."""
        with self._changed:
            for place, (_, _, queued) in enumerate(self._queue):
                if queued == step:
                    self._queue[place] = self._queue[-1]
                    self._queue.pop()
                    heapq.heapify(self._queue)
                    return True
        return False

    def close(self, timeout: float) -> bool:
        """Take no more steps, and wait for the running ones. False if one still runs."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _work(self) -> None:
        buffer = memoryview(bytearray(BUFFER))
        while (step := self._next()) is not None:
            step(buffer)

    def _next(self) -> Step | None:
        """The next step that is due; None: this thread has been idle for long enough."""
        with self._changed:
            until = time.monotonic() + self._idle
            while not self._closing:
                now = time.monotonic()
                if self._queue and self._queue[0][0] <= now:
                    return heapq.heappop(self._queue)[2]
                if not self._queue and now >= until:
                    break
                self._waiting += 1
                self._changed.wait((self._queue[0][0] if self._queue else until) - now)
                self._waiting -= 1
            self._threads.discard(threading.current_thread())
            return None
