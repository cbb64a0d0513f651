"""Jobs in flight: accepting, keys, cancelling, deadlines, draining; and the executor."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from engine import Argument, Engine, Job, JobSpec, Option, State, Status
from engine.dispatch import Dispatcher, Submission, Task, _Timer
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


def test_what_waits_does_not_begin_when_the_grace_has_passed() -> None:
    bench = Bench()
    running = [bench.submit("hold", "running") for _ in range(2)]
    waiting = [bench.submit("hold", "waiting") for _ in range(50)]
    assert all(bench.begun.acquire(timeout=10) for _ in running)
    assert bench.dispatcher.drain(0.05, stop=10)
    assert bench.started == ["running", "running"]
    assert {state_of(task) for task in waiting} == {State.FAILED}
    assert bench.executor.shutdown(10)


def test_who_is_over_the_limit_may_still_look() -> None:
    bench = Bench(most=1)
    bench.submit(principal="a")
    with pytest.raises(LimitError):
        bench.submit(principal="a")
    looked = bench.submit("info", principal="a")
    assert looked.log.wait(10)
    assert state_of(looked) is State.OK
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


def test_a_deadline_that_passes_at_once_counts_behind_a_full_queue(bench: Bench) -> None:
    for _ in range(2):
        bench.submit()
        assert bench.begun.acquire(timeout=10)
    tasks = [bench.submit(deadline=1e-9) for _ in range(50)]
    for task in tasks:
        assert task.log.wait(10)
        assert state_of(task) is State.TIMED_OUT


class Refusing(LocalExecutor):
    """One that cannot start a thread."""

    def submit(self, queue: str, priority: int, run: Callable[[], object]) -> Any:
        raise RuntimeError("can't start new thread")


def test_a_job_that_no_executor_takes_is_not_left_behind() -> None:
    engine = Engine()
    engine.register("quick", lambda job: None)
    dispatcher = Dispatcher(engine, Refusing(), most=1)
    for _ in range(2):  # the second finds the place of the first free
        with pytest.raises(EngineError, match="no thread") as caught:
            dispatcher.submit(Submission(name="quick", key="k", deadline=60))
        assert caught.value.retryable
    assert dispatcher.tasks() == []
    assert dispatcher.drain(0)


def test_a_job_cancelled_before_it_had_its_place_is_gone_at_once() -> None:
    """By a drain, say, between its acceptance and its place in the queue."""
    engine, gate = Engine(), threading.Event()
    engine.register("quick", lambda job: pytest.fail("it was cancelled before"))

    class Slow(LocalExecutor):
        def submit(self, queue: str, priority: int, run: Callable[[], object]) -> Any:
            dispatcher.hasten()
            wait_until(lambda: all(task.job.cancelled for task in dispatcher.tasks()))
            return super().submit(queue, priority, run)

    executor = Slow({"default": 1})
    LocalExecutor.submit(executor, "default", 0, lambda: gate.wait(30))
    dispatcher = Dispatcher(engine, executor)
    task = dispatcher.submit(Submission(name="quick"))
    assert task.log.wait(10)
    assert task.job.status is Status.TRY_AGAIN
    assert dispatcher.tasks() == []
    gate.set()
    assert executor.shutdown(10)


def test_a_job_that_has_ended_is_not_kept_for_its_deadline(bench: Bench) -> None:
    tasks = [bench.submit("quick", deadline=3600.0) for _ in range(200)]
    for task in tasks:
        assert task.log.wait(10)
    gone = weakref.ref(tasks[0].log)
    tasks.clear()
    del task

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    wait_until(is_gone)
    assert len(bench.dispatcher._timer._heap) < 100


def test_a_cancel_of_what_has_ended_or_is_cancelled_tells_nothing_new(bench: Bench) -> None:
    quick = bench.submit("quick", deadline=0.2, key="k")
    assert quick.log.wait(10)
    release = threading.Event()
    bench.engine.register("deaf", lambda job: release.wait(30) and None)
    deaf = bench.submit("deaf")
    wait_until(lambda: state_of(deaf) is State.RUNNING)
    for _ in range(5):
        bench.dispatcher.cancel(deaf.id)
        wait_until(lambda: deaf.job.cancelled)
    release.set()
    assert deaf.log.wait(10)
    assert bench.dispatcher.drain(10)
    told = [(name, event) for name, event, _ in bench.events]
    assert told.count(("deaf", "cancelling")) == 1
    assert ("quick", "cancelling") not in told


def test_a_key_is_remembered_from_the_end_of_its_job_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr("engine.dispatch._now", lambda: clock[0])
    first = bench.submit("hold", "x", key="k")
    assert bench.begun.acquire(timeout=10)
    clock[0] += 3600  # a long pull
    bench.release.set()
    assert first.log.wait(10)
    wait_until(lambda: not bench.dispatcher.tasks())
    assert bench.submit("hold", "x", key="k") is first
    clock[0] += 3600
    assert bench.submit("hold", "x", key="k") is not first


def test_a_handler_that_would_end_its_thread_costs_no_place_in_the_queue(bench: Bench) -> None:
    bench.engine.register("leave", lambda job: sys.exit(3))
    for _ in range(5):
        task = bench.submit("leave")
        assert task.log.wait(10)
        assert task.job.status is Status.ERROR


def test_the_timer_survives_a_call_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    timer, called = _Timer(), threading.Event()
    timer.at(0.0, lambda: 1 / 0)  # type: ignore[arg-type]
    timer.at(0.0, called.set)
    assert called.wait(10)
    timer.close()
    assert "ZeroDivisionError" in caplog.text


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come to pass within 10 s")


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


def test_what_ends_its_thread_costs_no_place() -> None:
    executor = LocalExecutor({"default": 1})
    done = threading.Event()
    for _ in range(3):
        executor.submit("default", 0, lambda: sys.exit(1))
    executor.submit("default", 0, done.set)
    assert done.wait(10)
    assert executor.shutdown(10)


def test_places_that_were_taken_back_are_forgotten() -> None:
    executor = LocalExecutor({"default": 1})
    gate, begun = threading.Event(), threading.Event()
    executor.submit("default", 0, lambda: hold(begun, gate))
    assert begun.wait(10)
    order: list[int] = []
    kept = threading.Semaphore(0)

    def run(n: int) -> None:
        order.append(n)
        kept.release()

    for n in range(3):
        executor.submit("default", n, lambda n=n: run(n))  # type: ignore[misc]
    for _ in range(1000):
        assert executor.submit("default", 9, lambda: pytest.fail("taken back")).withdraw()
    assert len(executor._queues["default"].heap) < 100
    assert executor.depths() == {"default": (3, 1)}
    gate.set()
    for _ in range(3):
        assert kept.acquire(timeout=10)
    assert order == [2, 1, 0]
    assert executor.shutdown(10)


def test_a_higher_limit_takes_effect_for_what_waits() -> None:
    executor = LocalExecutor({"default": 1})
    gate, begun = threading.Event(), threading.Semaphore(0)

    def run() -> None:
        begun.release()
        gate.wait(30)

    for _ in range(4):
        executor.submit("default", 0, run)
    assert begun.acquire(timeout=10)
    executor.set_limits({"default": 3})
    for _ in range(2):
        assert begun.acquire(timeout=10)
    assert executor.depths() == {"default": (1, 3)}
    gate.set()
    assert executor.shutdown(10)


def test_a_lower_limit_loses_no_wake_up() -> None:
    executor = LocalExecutor({"default": 4})
    for _ in range(50):
        wall = threading.Barrier(5)
        for _ in range(4):
            executor.submit("default", 0, lambda wall=wall: wall.wait(10))  # type: ignore[misc]
        wall.wait(10)
        done = threading.Event()
        executor.set_limits({"default": 1})
        executor.submit("default", 0, done.set)
        assert done.wait(10)
        executor.set_limits({"default": 4})
    assert executor.shutdown(10)


def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = LocalExecutor({"default": 2})

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            executor.submit("default", 0, lambda: pytest.fail("it was refused"))
    done = threading.Event()
    executor.submit("default", 0, done.set)
    assert done.wait(10)
    assert executor.depths()["default"][0] == 0
    assert executor.shutdown(10)


def test_idle_threads_that_give_up_do_not_count_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.executors.local._IDLE_SECONDS", 0.0005)
    executor = LocalExecutor({"default": 3})
    for _ in range(300):  # three at once must always get three threads
        together = threading.Barrier(4)
        for _ in range(3):
            executor.submit("default", 0, lambda wall=together: wall.wait(10))  # type: ignore[misc]
        together.wait(10)
    assert executor.shutdown(10)
