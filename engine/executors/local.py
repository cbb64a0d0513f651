"""Handlers in threads of this process: a limit for each queue, priorities that age.

One mutex guards the queues. A queue's threads start as they are needed, up to its limit, and
end when they had nothing to do for a while. What waits is ordered by ``priority`` and by how
long it has waited: ``ageing`` seconds of waiting count as much as one step of priority, so
that nothing waits for ever. Since that difference never changes between two that wait, a
plain heap keeps the order.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping

__all__ = ["LocalExecutor", "Place"]

_IDLE_SECONDS = 30.0
_log = logging.getLogger("engine.executor")


class LocalExecutor:
    """Runs functions in threads.

    ``limits`` maps a queue to how many of it may run at once; a queue that is not named has
    the limit of ``default``.
    """

    def __init__(self, limits: Mapping[str, int] | None = None, *, ageing: float = 60.0) -> None:
        self._limits = {"default": 8, **(limits or {})}
        for name, limit in self._limits.items():
            if limit < 1:
                raise ValueError(f"queue {name!r}: a limit of {limit} would run nothing")
        if ageing <= 0:
            raise ValueError("ageing is a time in seconds, over 0")
        self._ageing = ageing
        self._mutex = threading.Lock()
        self._ended = threading.Condition(self._mutex)
        self._queues: dict[str, _Queue] = {}
        self._order = itertools.count()
        self._threads: set[threading.Thread] = set()
        self._closing = False

    def submit(self, queue: str, priority: int, run: Callable[[], object]) -> Place:
        """Run ``run`` when its turn comes; a higher ``priority`` comes first."""
        with self._mutex:
            if self._closing:
                raise RuntimeError("the executor has shut down")
            found = self._queues.get(queue)
            if found is None:
                limit = self._limits.get(queue, self._limits["default"])
                found = self._queues[queue] = _Queue(queue, limit, self._mutex)
            place = Place(self._mutex, found, run)
            rank = time.monotonic() - priority * self._ageing
            heapq.heappush(found.heap, (rank, next(self._order), place))
            found.waiting += 1
            if found.idle > 0:
                found.idle -= 1  # spoken for, so that a burst starts enough threads
                found.wake.notify()
            elif found.threads < found.limit:
                found.threads += 1
                thread = threading.Thread(
                    target=self._work,
                    args=(found,),
                    name=f"engine-job-{queue}-{next(self._order)}",
                    daemon=True,  # a handler that never returns does not keep the process
                )
                self._threads.add(thread)
                thread.start()
        return place

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Take new limits. What runs goes on; a queue that shrank runs fewer from then on."""
        with self._mutex:
            self._limits.update(limits)
            for name, queue in self._queues.items():
                queue.limit = self._limits.get(name, self._limits["default"])

    def depths(self) -> dict[str, tuple[int, int]]:
        """For each queue that was used, how many wait and how many run."""
        with self._mutex:
            return {name: (one.waiting, one.running) for name, one in self._queues.items()}

    def shutdown(self, timeout: float) -> bool:
        """Take nothing more, drop what waits, wait for what runs; whether all ended."""
        deadline = time.monotonic() + timeout
        with self._mutex:
            self._closing = True
            for queue in self._queues.values():
                queue.heap.clear()
                queue.waiting = 0
                queue.wake.notify_all()
            return self._ended.wait_for(
                lambda: not self._threads, max(0.0, deadline - time.monotonic())
            )

    def _work(self, queue: _Queue) -> None:
        try:
            while (place := self._next(queue)) is not None:
                try:
                    place.run()
                except Exception:
                    _log.exception("what queue %s ran raised", queue.name)
                finally:
                    with self._mutex:
                        queue.running -= 1
                del place  # a thread that idles keeps nothing of what it ran
        finally:
            with self._mutex:
                self._threads.discard(threading.current_thread())
                self._ended.notify_all()

    def _next(self, queue: _Queue) -> Place | None:
        """The next in turn; None ends the thread."""
        with self._mutex:
            while True:
                if self._closing or queue.threads > queue.limit:
                    break
                while queue.heap:
                    place = heapq.heappop(queue.heap)[2]
                    if place.waits:
                        place.waits = False
                        queue.waiting -= 1
                        queue.running += 1
                        return place
                queue.idle += 1
                if not queue.wake.wait(_IDLE_SECONDS) and not queue.heap:
                    queue.idle -= 1
                    break
                # who notified has counted this thread as busy already
            queue.threads -= 1
            return None


class _Queue:
    __slots__ = ("heap", "idle", "limit", "name", "running", "threads", "waiting", "wake")

    def __init__(self, name: str, limit: int, mutex: threading.Lock) -> None:
        self.name = name
        self.limit = limit
        self.heap: list[tuple[float, int, Place]] = []
        self.wake = threading.Condition(mutex)
        self.threads = 0
        self.idle = 0
        self.waiting = 0
        self.running = 0


class Place:
    """A place in a queue."""

    __slots__ = ("_mutex", "_queue", "run", "waits")

    def __init__(self, mutex: threading.Lock, queue: _Queue, run: Callable[[], object]) -> None:
        self._mutex = mutex
        self._queue = queue
        self.run = run
        self.waits = True

    def withdraw(self) -> bool:
        """Take it back; False where it runs already, or ran."""
        with self._mutex:
            if not self.waits:
                return False
            self.waits = False
            self._queue.waiting -= 1
            return True
