"""The jobs in flight: accepting, finding, cancelling, deadlines, and the end of it all.

The `Dispatcher` is what a daemon has between its sockets and its handlers. It knows neither:
it takes a `Submission`, gives a `Task` with the job's `OutputLog`, and lets an executor run
the handler. One mutex guards its tables; the thread ``engine-timer`` owns the deadlines, and
each cancel runs its callbacks on a thread of its own, since they are somebody else's code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from .engine import Engine
from .env import Env
from .errors import (
    CancelledError,
    ConflictError,
    DeadlineError,
    EngineError,
    LimitError,
    ShuttingDownError,
    UsageError,
)
from .job import Job, refused, validate
from .output import OutputLog
from .records import Log, Record
from .spec import RowMode
from .status import State

__all__ = ["Dispatcher", "Executor", "Submission", "Task"]

#: From a job's id, a record's number and the record to its frames.
JobEncoder: TypeAlias = "Callable[[str, int, Record], tuple[bytes, ...]]"
#: Told of what happens to a task: the task, a word, and fields that hold no secret.
Watcher: TypeAlias = "Callable[[Task, str, Mapping[str, Any]], None]"

_KEYED_SECONDS = 600.0
_KEYED_MOST = 1000
_KEYED_BYTES = 64 * 1024 * 1024
_log = logging.getLogger("engine.dispatch")
_now = time.monotonic


class Executor(Protocol):
    """Where handlers run."""

    def submit(self, queue: str, priority: int, run: Callable[[], object]) -> Withdrawable: ...
    def depths(self) -> dict[str, tuple[int, int]]: ...
    def shutdown(self, timeout: float) -> bool: ...


class Withdrawable(Protocol):
    def withdraw(self) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a client asks for.

    ``key`` makes it idempotent for its principal; ``deadline`` is in seconds from now;
    a higher ``priority`` comes first; without ``detach`` the job dies with its client;
    ``single_rows`` asks for one row a message.
    """

    name: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    principal: str = ""
    key: str = ""
    deadline: float | None = None
    priority: int = 0
    detach: bool = True
    single_rows: bool = False

    def __post_init__(self) -> None:
        if self.deadline is not None and not 0 < self.deadline < 10**9:
            raise UsageError(f"a deadline of {self.deadline} s is no time to come")
        if not -100 <= self.priority <= 100:
            raise UsageError("a priority is from -100 to 100")


class Task:
    """A job in flight, as the daemon sees it.

    ``submission`` is the one that made it: where `Dispatcher.submit` gives a task of another
    submission, the job existed already.
    """

    __slots__ = (
        "alarm",
        "created",
        "detach",
        "job",
        "key",
        "place",
        "principal",
        "submission",
        "work",
    )

    def __init__(self, job: Job, submission: Submission, work: bytes) -> None:
        self.job = job
        self.submission = submission
        self.principal = submission.principal
        self.detach = submission.detach
        self.key = submission.key
        self.work = work
        self.created = job.created
        self.place: Withdrawable | None = None
        self.alarm: _Alarm | None = None

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def state(self) -> State:
        return self.job.state

    @property
    def log(self) -> OutputLog:
        return self.job.output

    def __repr__(self) -> str:
        return f"<Task {self.id}: {self.name}, {self.state}>"


class Dispatcher:
    """The jobs in flight of one engine. Thread-safe.

    ``quota`` is how many bytes of a job's output may wait for its readers; ``most`` how many
    jobs one principal may have in flight.
    """

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        *,
        encode: JobEncoder | None = None,
        quota: int = 4 * 1024 * 1024,
        most: int = 10_000,
        on_event: Watcher | None = None,
    ) -> None:
        self._engine = engine
        self._executor = executor
        self._encode = encode
        self.quota = quota
        self.most = most
        self._on_event = on_event
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._tasks: dict[str, Task] = {}
        self._counts: dict[str, int] = {}
        self._keyed: dict[tuple[str, str], tuple[Task, float]] = {}
        self._draining = False
        self._ended = 0
        self._timer = _Timer()
        engine.add_info(self._information)

    # accepting

    def submit(self, submission: Submission) -> Task:
        """Accept a job. The same key with the same work gives the task that is there.

        Raises `UnknownJobError`, `UsageError`, `ConflictError`, `LimitError` or
        `ShuttingDownError`; then nothing was accepted.
        """
        found = self._engine.resolve(submission.name)
        spec = found.spec
        hidden = spec.secrets if spec is not None else frozenset()
        if spec is not None:
            validate(spec, submission.args, Env(submission.env, secrets=hidden))
        work = _work_of(submission, hidden) if submission.key else b""
        with self._mutex:
            known = self._known(submission, work)
            if known is not None:
                return known
            if self._draining:
                raise refused()
            count = self._counts.get(submission.principal, 0)
            asks = spec is not None and not spec.journalled  # who is over the limit may look
            if count >= self.most and not asks:
                raise LimitError(
                    f"{count} jobs of {submission.principal or 'this principal'} are in flight, "
                    "and no more are allowed; wait for some to end",
                    retryable=True,
                )
            task = self._make(submission, work, spec is not None and spec.row_mode)
            self._tasks[task.id] = task
            self._counts[submission.principal] = count + 1
            if submission.key:
                self._keyed[submission.principal, submission.key] = (task, _now())
        self._tell(task, "accepted", principal=task.principal)
        queue = spec.queue if spec is not None else "default"
        try:
            self._enqueue(task, queue)
        except RuntimeError as error:
            refusal = EngineError(f"no thread for the job: {error}", code="busy", retryable=True)
            with self._mutex:
                self._keyed.pop((submission.principal, submission.key), None)
            if not task.state.ended:
                task.job.finish(refusal)
            self._forget(task)
            raise refusal from None
        return task

    def _enqueue(self, task: Task, queue: str) -> None:
        if task.job.deadline is not None:
            task.alarm = self._timer.at(task.job.deadline, lambda: self._expire(task))
        task.place = self._executor.submit(queue, task.submission.priority, lambda: self._run(task))
        if task.job.cancelled:  # by who did not see the place yet
            self._withdraw(task)

    def _make(self, submission: Submission, work: bytes, mode: RowMode | bool) -> Task:
        id = new_id()
        encode = self._encode
        log = OutputLog(
            encode=None if encode is None else lambda seq, record: encode(id, seq, record),
            quota=self.quota,
            single_rows=submission.single_rows or mode is RowMode.SINGLE,
            keep=bool(submission.key),
        )
        wait = submission.deadline
        job = self._engine.make(
            submission.name,
            submission.args,
            submission.env,
            id=id,
            log=log,
            deadline=None if wait is None else time.monotonic() + wait,
        )
        task = Task(job, submission, work)
        job.on_log = lambda line: self._tell_log(task, line)
        return task

    def _known(self, submission: Submission, work: bytes) -> Task | None:
        if not submission.key:
            return None
        oldest = _now() - _KEYED_SECONDS
        held = sum(task.log.held for task, _ in self._keyed.values())
        for place, (task, since) in list(self._keyed.items()):  # the oldest first
            over = len(self._keyed) > _KEYED_MOST or held > _KEYED_BYTES
            if task.state.ended and (over or since < oldest):
                held -= task.log.held
                del self._keyed[place]
        known = self._keyed.get((submission.principal, submission.key))
        if known is None:
            return None
        if known[0].work != work:
            raise ConflictError(
                f"the key {submission.key!r} stands for other work (job {known[0].id})"
            )
        return known[0]

    # running

    def _run(self, task: Task) -> None:
        self._tell(task, "started", waited=round(time.time() - task.created, 3))
        try:
            task.job.run()
        finally:
            self._forget(task)

    def _forget(self, task: Task) -> None:
        with self._mutex:
            if self._tasks.pop(task.id, None) is None:
                return
            self._ended += 1
            place = (task.principal, task.key)
            if place in self._keyed and self._keyed[place][0] is task:
                del self._keyed[place]  # what ended last is remembered longest
                self._keyed[place] = (task, _now())
            left = self._counts.get(task.principal, 1) - 1
            if left > 0:
                self._counts[task.principal] = left
            else:
                self._counts.pop(task.principal, None)
            if self._draining and not self._tasks:
                self._idle.notify_all()
        if task.alarm is not None:
            self._timer.cancel(task.alarm)
        end = task.job.end
        if end is not None:
            self._tell(
                task,
                "ended",
                state=str(end.state),
                status=end.status,
                error=end.message or None,
                rows=end.rows,
                seconds=round(end.ended - end.created, 3),
            )

    def _expire(self, task: Task) -> None:
        self._stop(task, DeadlineError("the deadline of the job has passed"))

    # finding and cancelling

    def get(self, id: str) -> Task | None:
        """The task of that id while it is in flight, or kept for its key."""
        with self._mutex:
            found = self._tasks.get(id)
            if found is None:
                kept = (task for task, _ in self._keyed.values() if task.id == id)
                found = next(kept, None)
            return found

    def tasks(self) -> list[Task]:
        with self._mutex:
            return list(self._tasks.values())

    def cancel(self, id: str, *, reason: str = "") -> Task | None:
        """Cancel a job: one that waits is gone at once, one that runs is 'cancelling' until
        its handler has stopped. None where no such job is in flight."""
        with self._mutex:
            task = self._tasks.get(id)
        if task is not None:
            self._stop(task, CancelledError(reason or "the job was cancelled"))
        return task

    def _stop(self, task: Task, error: EngineError) -> None:
        if self._withdraw(task, error) or task.job.cancelled or task.state.ended:
            return
        self._tell(task, "cancelling", reason=str(error))
        threading.Thread(
            target=self._cancel, args=(task, error), name=f"engine-cancel-{task.id}", daemon=True
        ).start()

    def _cancel(self, task: Task, error: EngineError) -> None:
        task.job.cancel(error)
        self._withdraw(task)  # where it got its place just now

    def _withdraw(self, task: Task, error: EngineError | None = None) -> bool:
        """End a job that waits in its queue; False where it does not."""
        if task.place is None or not task.place.withdraw():
            return False
        task.job.cancel(error)
        task.job.finish(error)
        self._forget(task)
        return True

    # the end

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self, grace: float, *, stop: float = 5.0) -> bool:
        """Refuse new jobs, let those in flight end within ``grace`` seconds, then cancel them
        and give them ``stop`` seconds. Whether all have ended. May be called again, with a
        shorter grace, while it waits."""
        with self._mutex:
            self._draining = True
            done = self._idle.wait_for(lambda: not self._tasks, grace)
        if not done:
            self.hasten()
            with self._mutex:
                done = self._idle.wait_for(lambda: not self._tasks, stop)
        self._timer.close()
        return done

    def hasten(self) -> None:
        """Cancel all that is in flight: a drain that waits then ends soon. What waits goes
        first, or it would begin in the place of what is stopped."""
        error = ShuttingDownError("the engine shut down before the job was done")
        for act in (self._withdraw, self._stop):
            for task in self.tasks():
                act(task, error)

    # telling

    def _information(self) -> Mapping[str, Any]:
        with self._mutex:
            found: dict[str, Any] = {
                "jobs.in_flight": len(self._tasks),
                "jobs.ended": self._ended,
                "limits.jobs_per_principal": self.most,
                "limits.output_quota": self.quota,
            }
        for name, (waiting, running) in sorted(self._executor.depths().items()):
            found[f"queues.{name}.waiting"] = waiting
            found[f"queues.{name}.running"] = running
        return found

    def _tell(self, task: Task, event: str, /, **fields: Any) -> None:
        if self._on_event is not None:
            try:
                self._on_event(task, event, fields)
            except Exception:  # a fault of the log must not become one of the job
                _log.exception("the watcher of jobs failed")

    def _tell_log(self, task: Task, line: Log) -> None:
        # a service may name its fields as it likes
        self._tell(task, "log", **{**line.fields, "level": line.level, "text": line.text})


class _Alarm:
    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call  # None when it was cancelled


class _Timer:
    """Calls functions at their time, on one thread that starts with the first of them."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._heap: list[tuple[float, int, _Alarm]] = []
        self._cancelled = 0
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, when: float, call: Callable[[], None]) -> _Alarm:
        """Raises RuntimeError where the thread cannot be started."""
        alarm = _Alarm(call)
        with self._mutex:
            if self._closed:
                return alarm
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="engine-timer", daemon=True)
                thread.start()
                self._thread = thread
            heapq.heappush(self._heap, (when, next(self._order), alarm))
            self._changed.notify()
        return alarm

    def cancel(self, alarm: _Alarm) -> None:
        """Forget a call, and what it would keep alive until its time."""
        with self._mutex:
            if alarm.call is None:
                return
            alarm.call = None
            self._cancelled += 1
            if 2 * self._cancelled > len(self._heap) + 16:
                self._heap = [entry for entry in self._heap if entry[2].call is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            self._heap.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._mutex:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._closed:
                    return
                alarm = heapq.heappop(self._heap)[2]
                call, alarm.call = alarm.call, None
                if call is None:
                    self._cancelled = max(0, self._cancelled - 1)
                    continue
            try:
                call()
            except Exception:  # the others' time comes too
                _log.exception("what was due failed")
            del call, alarm  # a thread that waits keeps nothing


def new_id() -> str:
    """A job's id: 19 hex digits that sort by the time of creation."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(4)}"


def _work_of(submission: Submission, hidden: frozenset[str]) -> bytes:
    """A hash of what is asked for, without its secrets."""
    env = {key: value for key, value in submission.env.items() if key not in hidden}
    text = json.dumps([submission.name, submission.args, env], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
