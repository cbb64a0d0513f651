"""The loop that owns sockets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from engine.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop("test-loop")
    made.start()
    yield made
    assert made.close()


def test_calls_run_on_its_thread_in_order(loop: Loop) -> None:
    seen: list[tuple[int, str]] = []
    done = threading.Event()
    for number in range(1000):
        loop.call(lambda n=number: seen.append((n, threading.current_thread().name)))
    loop.call(done.set)
    assert done.wait(5)
    assert seen == [(number, "test-loop") for number in range(1000)]


def test_calls_of_many_threads_all_run(loop: Loop) -> None:
    seen: list[int] = []

    def call_often() -> None:
        for number in range(500):
            loop.call(seen.append, number)

    threads = [threading.Thread(target=call_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = threading.Event()
    loop.call(done.set)
    assert done.wait(5)
    assert sorted(seen) == sorted(list(range(500)) * 4)


def test_timers_fire_in_their_order_and_not_when_cancelled(loop: Loop) -> None:
    seen: list[str] = []
    done = threading.Event()

    def begin() -> None:
        now = time.monotonic()
        loop.at(now + 0.03, done.set)
        loop.at(now + 0.02, lambda: seen.append("second"))
        loop.at(now + 0.01, lambda: seen.append("first"))
        loop.at(now + 0.015, lambda: seen.append("never")).cancel()

    loop.call(begin)
    assert done.wait(5)
    assert seen == ["first", "second"]


def test_a_descriptor_is_watched_until_it_is_removed(loop: Loop) -> None:
    ends = os.pipe()
    seen: list[bytes] = []
    once = threading.Event()

    def readable() -> None:
        seen.append(os.read(ends[0], 10))
        loop.remove(ends[0])
        once.set()

    loop.call(loop.add, ends[0], readable)
    os.write(ends[1], b"one")
    assert once.wait(5)
    os.write(ends[1], b"two")
    later = threading.Event()
    loop.call(later.set)
    assert later.wait(5)
    assert seen == [b"one"]
    loop.call(loop.remove, ends[0])  # what is not watched may be removed
    for end in ends:
        os.close(end)


def test_a_callback_that_raises_is_told_and_the_loop_goes_on() -> None:
    errors: list[Exception] = []
    loop = Loop("test-loop", on_error=errors.append)
    loop.start()
    done = threading.Event()
    loop.call(lambda: 1 // 0)
    loop.call(done.set)
    assert done.wait(5)
    assert loop.close()
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_a_loop_that_cannot_poll_any_more_says_so_and_ends() -> None:
    errors: list[Exception] = []
    loop = Loop("test-loop", on_error=errors.append)
    ends = os.pipe()
    loop.add(ends[0], lambda: None)

    def poll(timeout: int | None) -> list[tuple[int, int]]:
        raise OSError("gone")

    loop._poller.poll = poll  # type: ignore[method-assign, assignment]
    loop.start()
    assert loop.close()
    assert not loop.alive
    assert str(errors[0]) == "gone"
    for end in ends:
        os.close(end)


def test_it_may_be_closed_again_and_without_a_start() -> None:
    loop = Loop("test-loop")
    assert loop.close()
    assert loop.close()
    loop.call(lambda: None)  # dropped
    other = Loop("test-loop")
    other.start()
    other.call(other.close)  # from its own thread it does not wait for itself
    assert other.close()
    assert other.close()
