"""Jobs in flight: accepting, keys, cancelling, deadlines, draining; and the executor."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from engine import Argument, Engine, Job, JobSpec, Option, State, Status
from engine.dispatch import Dispatcher, Submission, Task
from engine.errors import (
    ConflictError,
    EngineError,
    LimitError,
    ShuttingDownError,
    UnknownJobError,
    UsageError,
)
from engine.executors import LocalExecutor


class Bench:
    """A dispatcher over an engine with a job that waits for the test's word."""

    def __init__(self, **options: Any) -> None:
        self.engine = Engine()
        self.release = threading.Event()
        self.started: list[str] = []
        self.begun = threading.Semaphore(0)
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        spec = JobSpec(
            name="hold",
            arguments=(Argument(name="NAME", required=False),),
            options=(Option(name="password", secret=True),),
        )
        self.engine.register("hold", self._hold, spec)
        self.engine.register("quick", lambda job: None)
        self.executor = LocalExecutor({"default": 2, "engine": 2})
        self.dispatcher = Dispatcher(
            self.engine,
            self.executor,
            on_event=lambda task, event, fields: self.events.append((task.name, event, fields)),
            **options,
        )

    def _hold(self, job: Job) -> Status:
        self.started.append(job.args[0] if job.args else job.id)
        self.begun.release()
        job.on_cancel(self.release.set)
        assert self.release.wait(30)
        job.check_cancelled()
        return Status.OK

    def submit(self, name: str = "hold", *args: str, **options: Any) -> Task:
        return self.dispatcher.submit(Submission(name=name, args=args, **options))

    def close(self) -> None:
        self.release.set()
        assert self.dispatcher.drain(10)
        assert self.executor.shutdown(10)


def state_of(task: Task) -> State:
    """A function, so that a type checker does not believe that it stays."""
    return task.state


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_job_is_accepted_run_and_forgotten(bench: Bench) -> None:
    task = bench.submit()
    assert bench.dispatcher.get(task.id) is task
    assert bench.begun.acquire(timeout=10)
    assert state_of(task) is State.RUNNING
    bench.release.set()
    assert task.log.wait(10)
    assert state_of(task) is State.OK
    bench.dispatcher.drain(10)
    assert bench.dispatcher.get(task.id) is None
    assert [event for _, event, _ in bench.events] == ["accepted", "started", "ended"]


def test_what_cannot_be_run_is_not_accepted(bench: Bench) -> None:
    with pytest.raises(UnknownJobError):
        bench.submit("nothing")
    with pytest.raises(UsageError, match="Usage: hold"):
        bench.submit("hold", "a", "b")
    with pytest.raises(EngineError, match="deadline"):
        bench.submit(deadline=-1.0)
    with pytest.raises(EngineError, match="priority"):
        bench.submit(priority=1000)
    assert bench.dispatcher.tasks() == []


def test_the_same_key_with_the_same_work_is_the_same_job(bench: Bench) -> None:
    first = bench.submit("hold", "x", key="k", principal="p", env={"password": "one"})
    again = bench.submit("hold", "x", key="k", principal="p", env={"password": "two"})
    assert again is first
    with pytest.raises(ConflictError, match=first.id):
        bench.submit("hold", "y", key="k", principal="p")
    other = bench.submit("hold", "x", key="k", principal="q")
    assert other is not first
    bench.release.set()
    assert first.log.wait(10)
    assert bench.submit("hold", "x", key="k", principal="p") is first


def test_a_job_that_waits_in_its_queue_is_cancelled_at_once(bench: Bench) -> None:
    running = [bench.submit(), bench.submit()]
    for _ in running:
        assert bench.begun.acquire(timeout=10)
    waiting = bench.submit()
    assert state_of(waiting) is State.QUEUED
    assert bench.dispatcher.cancel(waiting.id) is waiting
    assert state_of(waiting) is State.CANCELLED
    assert waiting.job.status is Status.CANCELLED
    assert waiting.id not in bench.started


def test_a_job_that_runs_is_cancelling_until_it_stopped(bench: Bench) -> None:
    task = bench.submit()
    assert bench.begun.acquire(timeout=10)
    bench.dispatcher.cancel(task.id, reason="no more wanted")
    assert task.log.wait(10)
    assert task.job.status is Status.CANCELLED
    assert task.job.end is not None
    assert task.job.end.message == "no more wanted"
    assert bench.dispatcher.cancel("no such id") is None


def test_a_deadline_counts_while_a_job_waits_too(bench: Bench) -> None:
    for _ in range(2):
        bench.submit()
        assert bench.begun.acquire(timeout=10)
    task = bench.submit(deadline=0.05)
    assert task.log.wait(10)
    assert task.job.status is Status.DEADLINE
    assert state_of(task) is State.TIMED_OUT


def test_a_deadline_ends_a_running_job(bench: Bench) -> None:
    task = bench.submit(deadline=0.05)
    assert task.log.wait(10)
    assert task.job.status is Status.DEADLINE


def test_a_principal_has_a_limit_of_its_own() -> None:
    bench = Bench(most=2)
    try:
        bench.submit(principal="a")
        bench.submit(principal="a")
        with pytest.raises(LimitError) as caught:
            bench.submit(principal="a")
        assert caught.value.retryable
        bench.submit(principal="b")
        bench.release.set()
        bench.dispatcher.tasks()
    finally:
        bench.close()


def test_draining_refuses_lets_finish_and_then_cancels() -> None:
    bench = Bench()
    task = bench.submit()
    assert bench.begun.acquire(timeout=10)
    assert bench.dispatcher.drain(0.01, stop=10)
    assert task.job.status is Status.TRY_AGAIN
    with pytest.raises(ShuttingDownError):
        bench.submit()
    bench.close()


def test_info_shows_the_queues(bench: Bench) -> None:
    bench.submit()
    assert bench.begun.acquire(timeout=10)
    shown = bench.engine.information()
    assert shown["jobs.in_flight"] == 1
    assert shown["queues.default.running"] == 1


def test_a_watcher_that_fails_harms_no_job() -> None:
    engine = Engine()
    engine.register("quick", lambda job: None)
    executor = LocalExecutor()

    def watch(task: Task, event: str, fields: Mapping[str, Any]) -> None:
        raise OSError("the disk of the log is full")

    dispatcher = Dispatcher(engine, executor, on_event=watch)
    task = dispatcher.submit(Submission(name="quick"))
    assert task.log.wait(10)
    assert state_of(task) is State.OK
    assert dispatcher.drain(10)
    assert executor.shutdown(10)


# the executor


def test_the_executor_keeps_the_limit_of_each_queue() -> None:
    executor = LocalExecutor({"default": 1, "wide": 3})
    gate, peak, mutex = threading.Event(), {"default": 0, "wide": 0}, threading.Lock()
    now = {"default": 0, "wide": 0}
    done = threading.Semaphore(0)

    def run(queue: str) -> None:
        with mutex:
            now[queue] += 1
            peak[queue] = max(peak[queue], now[queue])
        gate.wait(10)
        with mutex:
            now[queue] -= 1
        done.release()

    for queue in ("default", "wide"):
        for _ in range(6):
            executor.submit(queue, 0, lambda queue=queue: run(queue))  # type: ignore[misc]
    gate.set()
    for _ in range(12):
        assert done.acquire(timeout=10)
    assert peak["default"] == 1
    assert peak["wide"] <= 3
    assert executor.shutdown(10)


def test_a_higher_priority_comes_first_and_waiting_counts() -> None:
    executor = LocalExecutor({"default": 1}, ageing=0.000_001)
    gate, order, done = threading.Event(), [], threading.Semaphore(0)
    executor.submit("default", 0, lambda: gate.wait(10))

    def add(name: str, priority: int) -> None:
        def run() -> None:
            order.append(name)
            done.release()

        executor.submit("default", priority, run)

    # with an ageing of a microsecond a step, what came first is older than its lack of rank
    for name, priority in (("old", 0), ("new", 1)):
        add(name, priority)
    gate.set()
    for _ in range(2):
        assert done.acquire(timeout=10)
    assert order == ["old", "new"]
    assert executor.shutdown(10)

    executor = LocalExecutor({"default": 1}, ageing=60)
    gate.clear()
    order.clear()
    executor.submit("default", 0, lambda: gate.wait(10))
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 5)):
        add(name, priority)
    gate.set()
    for _ in range(4):
        assert done.acquire(timeout=10)
    assert order == ["high", "first", "second", "low"]
    assert executor.shutdown(10)


def test_what_raises_does_not_end_its_thread(caplog: pytest.LogCaptureFixture) -> None:
    executor = LocalExecutor({"default": 1})
    done = threading.Event()
    executor.submit("default", 0, lambda: 1 / 0)
    executor.submit("default", 0, done.set)
    assert done.wait(10)
    assert executor.shutdown(10)
    assert "ZeroDivisionError" in caplog.text


def test_shutdown_says_when_something_still_runs() -> None:
    executor = LocalExecutor()
    gate, begun = threading.Event(), threading.Event()
    executor.submit("default", 0, lambda: hold(begun, gate))
    assert begun.wait(10)
    assert not executor.shutdown(0.01)
    gate.set()
    assert executor.shutdown(10)
    with pytest.raises(RuntimeError):
        executor.submit("default", 0, gate.set)


def test_a_place_is_taken_back_once() -> None:
    executor = LocalExecutor({"default": 1})
    gate, begun = threading.Event(), threading.Event()
    executor.submit("default", 0, lambda: hold(begun, gate))
    assert begun.wait(10)
    place = executor.submit("default", 0, lambda: pytest.fail("it was taken back"))
    assert executor.depths() == {"default": (1, 1)}
    assert place.withdraw()
    assert not place.withdraw()
    assert executor.depths() == {"default": (0, 1)}
    gate.set()
    assert executor.shutdown(10)


def hold(begun: threading.Event, gate: threading.Event) -> None:
    begun.set()
    gate.wait(30)


@pytest.mark.parametrize("options", [{"limits": {"default": 0}}, {"ageing": 0}])
def test_limits_that_would_run_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"limit|ageing"):
        LocalExecutor(**options)
