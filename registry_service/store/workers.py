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
    """At most ``limit`` threads that take steps as they fall due.

    The steps of one group (one who asked for many blobs) take turns with those of other groups,
    however many either has waiting; within a group the first comes first. A step that has to
    wait (for a lock, or before a retry) submits itself again with a delay and returns, so that
    it holds no thread. Steps must not raise.

    The condition ``_changed`` guards everything here; no step runs and nothing else is locked
    while it is held. Threads are daemonic: a source that breaks its promise to end must not keep
    a process from ending. What they write is safe whenever it is interrupted.
    """

    def __init__(self, limit: int, *, name: str = "transfer", idle: float = 5.0) -> None:
        if limit < 1:
            raise ValueError(f"{limit} workers: at least one is needed")
        self._limit = limit
        self._name = name
        self._idle = idle
        self._changed = threading.Condition(threading.Lock())
        self._order = itertools.count()
        self._ready: list[tuple[int, int, Step]] = []  # by turn
        self._later: list[tuple[float, int, int, Step]] = []  # by the time when it is due; group
        self._turn = 0  # of the step that was taken last
        self._turns: dict[int, int] = {}  # the last turn that each group was given
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count(1)
        self._waiting = 0
        self._closing = False

    def submit(self, step: Step, delay: float = 0.0, group: int = 0) -> bool:
        """Take ``step`` after ``delay`` seconds. False, and it is not taken, after `close`.

        Raises RuntimeError when not a single thread can be started.
        """
        with self._changed:
            if self._closing:
                return False
            if delay > 0:
                due = time.monotonic() + delay
                heapq.heappush(self._later, (due, next(self._order), group, step))
            else:
                self._enqueue(step, group)
            if len(self._ready) + len(self._later) > self._waiting:
                self._start()
            self._changed.notify()
        return True

    def withdraw(self, step: Step) -> bool:
        """Take ``step`` back. False when it is not waiting: it runs, or is not here."""
        with self._changed:
            ready = [entry for entry in self._ready if entry[-1] != step]
            later = [entry for entry in self._later if entry[-1] != step]
            found = len(ready) + len(later) < len(self._ready) + len(self._later)
            if found:
                heapq.heapify(ready)
                heapq.heapify(later)
                self._ready, self._later = ready, later
        return found

    def close(self, timeout: float) -> bool:
        """Take no more steps, and wait for the running ones. False if one still runs."""
        with self._changed:
            self._closing = True
            self._ready.clear()
            self._later.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # what follows is called with the condition held, `_work` apart

    def _enqueue(self, step: Step, group: int) -> None:
        """Give the step the turn after its group's last, but none that is over."""
        turn = self._turns[group] = max(self._turns.get(group, 0) + 1, self._turn)
        heapq.heappush(self._ready, (turn, next(self._order), step))

    def _start(self) -> None:
        if len(self._threads) >= self._limit:
            return
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{next(self._numbers)}", daemon=True
        )
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads; those that run do it all
            self._threads.discard(thread)
            if not self._threads:
                self._ready.clear()
                self._later.clear()
                raise

    def _work(self) -> None:
        buffer = memoryview(bytearray(BUFFER))
        try:
            while (step := self._next()) is not None:
                step(buffer)
        finally:  # a step that raises all the same costs a thread, never its place
            with self._changed:
                self._threads.discard(threading.current_thread())

    def _next(self) -> Step | None:
        """The next step that is due; None: this thread has been idle for long enough."""
        with self._changed:
            until = time.monotonic() + self._idle
            while not self._closing:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    _, _, group, step = heapq.heappop(self._later)
                    self._enqueue(step, group)
                if self._ready:
                    self._turn, _, step = heapq.heappop(self._ready)
                    return step
                self._turns.clear()  # nobody is ahead of anybody
                if not self._later and now >= until:
                    break
                self._waiting += 1
                self._changed.wait((self._later[0][0] if self._later else until) - now)
                self._waiting -= 1
            self._threads.discard(threading.current_thread())
            return None
