"""Handlers in threads of this process: a limit for each queue, priorities that age.

One mutex guards the queues. A queue's threads start as they are needed, up to its limit, and
end when they had nothing to do for a while. What waits is ordered by ``priority`` and by how
long it has waited: ``ageing`` seconds of waiting count as much as one step of priority, so
that nothing waits for ever. Since that difference never changes between two that wait, a
plain heap keeps the order.
"""

from __future__ import annotations

import contextlib
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
        """Run ``run`` when its turn comes; a higher ``priority`` comes first.

        Raises RuntimeError after `shutdown`, and where no thread can be started.
        """
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
            found.wake.notify()
            try:
                self._start_threads(found)
            except RuntimeError:
                if not found.threads:  # else one of them will come to it
                    place._leave()
                    raise
        return place

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Take new limits. What runs goes on; a queue that shrank runs fewer from then on."""
        with self._mutex:
            self._limits.update(limits)
            for name, queue in self._queues.items():
                queue.limit = self._limits.get(name, self._limits["default"])
                queue.wake.notify_all()  # those over the limit end
                if not self._closing:
                    with contextlib.suppress(RuntimeError):  # no thread: the next submit tries
                        self._start_threads(queue)

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
                queue.wake.notify_all()
            return self._ended.wait_for(
                lambda: not self._threads, max(0.0, deadline - time.monotonic())
            )

    def _start_threads(self, queue: _Queue) -> None:
        """As many as what waits can use. The mutex is held."""
        while queue.waiting > queue.ready and queue.threads < queue.limit:
            thread = threading.Thread(
                target=self._work,
                args=(queue,),
                name=f"engine-job-{queue.name}-{next(self._order)}",
                daemon=True,  # a handler that never returns does not keep the process
            )
            thread.start()
            self._threads.add(thread)
            queue.threads += 1
            queue.ready += 1

    def _work(self, queue: _Queue) -> None:
        try:
            while (place := self._next(queue)) is not None:
                try:
                    place.run()
                except BaseException:  # a sys.exit() too: the thread is the queue's
                    _log.exception("what queue %s ran raised", queue.name)
                finally:
                    with self._mutex:
                        queue.running -= 1
                        queue.ready += 1
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
                        queue.ready -= 1
                        queue.running += 1
                        return place
                if not queue.wake.wait(_IDLE_SECONDS) and not queue.heap:
                    break
            queue.threads -= 1
            queue.ready -= 1
            if queue.waiting:
                queue.wake.notify()  # the word that woke this one was for one that works
            return None


class _Queue:
    """``threads`` there are; ``ready`` of them run nothing, and take what waits next."""

    __slots__ = ("heap", "limit", "name", "ready", "running", "threads", "waiting", "wake")

    def __init__(self, name: str, limit: int, mutex: threading.Lock) -> None:
        self.name = name
        self.limit = limit
        self.heap: list[tuple[float, int, Place]] = []
        self.wake = threading.Condition(mutex)
        self.threads = 0
        self.ready = 0
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
            self._leave()
            return True

    def _leave(self) -> None:
        """Wait no more. The mutex is held. What has left goes from the heap when it is half
        of it, so that nothing is kept by who comes and goes."""
        queue = self._queue
        self.waits = False
        queue.waiting -= 1
        if len(queue.heap) > 2 * queue.waiting + 16:
            queue.heap = [entry for entry in queue.heap if entry[2].waits]
            heapq.heapify(queue.heap)
