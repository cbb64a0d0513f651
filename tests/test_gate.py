"""One gate for each host: pauses, limits, and the end of every wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from registry_service.cancel import Cancellation
from registry_service.errors import CancelledError
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.transport.gate import Gate, Gates


class Turned:
    """A clock that a wait turns, so that it takes no time."""

    def __init__(self) -> None:
        self.time = 100.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    def wait(self, event: threading.Event, seconds: float) -> object:
        self.waits.append(seconds)
        self.time += seconds
        return False


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, level: str, text: str, /, **fields: Any) -> None:
        self.lines.append((level, text))


def turned_gate(clock: Turned, **limits: Any) -> Gate:
    return Gate("r.example:443", HostLimits(**limits), clock=clock, dice=lambda: 0.0)


def test_what_a_server_asks_for_holds_for_everybody_and_is_told() -> None:
    clock, log = Turned(), Log()
    gate = turned_gate(clock)
    gate.enter(Cancellation(), log)
    assert clock.waits == []
    mark = gate.hold_off(30.0)
    clock.time += 10.0
    gate.enter(Cancellation(), log)
    assert clock.waits == [20.0]
    ((level, text),) = log.lines
    assert level == "info"
    assert text == "r.example:443: waiting 20.0 s (as it asks to be left alone (Retry-After))"
    gate.enter(Cancellation(), log)
    assert clock.waits == [20.0]
    gate.hold_off(1.0)
    assert gate.hold_off(5.0) > mark


def test_a_shorter_wish_does_not_end_a_longer_one() -> None:
    clock = Turned()
    gate = turned_gate(clock)
    gate.hold_off(30.0)
    gate.hold_off(2.0)
    gate.enter(Cancellation(), Log())
    assert clock.waits == [30.0]


def test_who_has_waited_by_himself_does_not_wait_again() -> None:
    clock = Turned()
    gate = turned_gate(clock)
    mark = gate.hold_off(30.0)
    gate.enter(Cancellation(), Log(), served=mark)
    assert clock.waits == []


def test_all_who_waited_do_not_come_at_once() -> None:
    clock = Turned()
    gate = Gate("r", HostLimits(), clock=clock, dice=lambda: 0.5)
    gate.hold_off(4.0)
    gate.enter(Cancellation(), Log())
    assert sum(clock.waits) == pytest.approx(4.2)


def test_requests_go_at_the_rate_that_is_allowed() -> None:
    clock = Turned()
    gate = turned_gate(clock, requests_per_second=4.0)
    for _ in range(24):
        gate.enter(Cancellation(), Log())
    assert clock.time - 100.0 == pytest.approx(5.0)


def test_bytes_go_at_the_rate_that_is_allowed_in_small_blocks() -> None:
    clock = Turned()
    gate = turned_gate(clock, bytes_per_second=80_000)
    lease = gate.lease(Log())
    assert lease is not None
    moved = 0
    while moved < 410_000:
        block = lease.before(Cancellation())
        assert block == 10_000
        moved += block
        lease.after(block, Cancellation())
    assert clock.time - 100.0 == pytest.approx(5.0)
    assert max(clock.waits) <= 0.125 + 1e-6


def test_without_limits_there_is_nothing_to_ask() -> None:
    assert turned_gate(Turned()).lease(Log()) is None


def test_a_body_is_cut_and_its_slot_is_free_after_the_last_byte() -> None:
    gate = turned_gate(Turned(), concurrent=1, bytes_per_second=16_384)
    lease = gate.lease(Log())
    assert lease is not None
    data = bytes(range(256)) * 20

    def blocks() -> Any:
        yield memoryview(data[:3000])
        yield memoryview(data[3000:])

    pieces = [bytes(piece) for piece in lease.pace(blocks(), Cancellation())]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) == 2048
    other = gate.lease(Log())
    assert other is not None
    assert other.before(Cancellation()) == 2048


# with a real clock and threads


def ends_soon(act: Callable[[], object], stop: Callable[[], object]) -> None:
    """``act`` waits, and ends with `CancelledError` within a second of ``stop``."""
    errors: list[BaseException] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    stopped = time.monotonic()
    stop()
    thread.join(10)
    assert [type(error) for error in errors] == [CancelledError]
    assert time.monotonic() - stopped < 1


def paused() -> tuple[Gate, Callable[[Cancellation], object]]:
    gate = Gate("r", HostLimits())
    gate.hold_off(60)
    return gate, lambda cancel: gate.enter(cancel, Log())


def over_its_requests() -> tuple[Gate, Callable[[Cancellation], object]]:
    gate = Gate("r", HostLimits(requests_per_second=0.01))
    gate.enter(Cancellation(), Log())
    return gate, lambda cancel: gate.enter(cancel, Log())


def over_its_bytes() -> tuple[Gate, Callable[[Cancellation], object]]:
    gate = Gate("r", HostLimits(bytes_per_second=1024))
    lease = gate.lease(Log())
    assert lease is not None
    return gate, lambda cancel: lease.after(100_000, cancel)


def without_a_slot() -> tuple[Gate, Callable[[Cancellation], object]]:
    # the one slot is held over a clock that stands still, so that it never counts as idle
    gate = Gate("r", HostLimits(concurrent=1), clock=Standing())
    first, second = gate.lease(Log()), gate.lease(Log())
    assert first is not None and second is not None
    first.before(Cancellation())
    return gate, second.before


class Standing:
    def now(self) -> float:
        return 0.0

    def wait(self, event: threading.Event, seconds: float) -> object:
        return event.wait(seconds)


@pytest.mark.parametrize("made", [paused, over_its_requests, over_its_bytes, without_a_slot])
@pytest.mark.parametrize("by", ["cancel", "close"])
def test_every_wait_ends(
    made: Callable[[], tuple[Gate, Callable[[Cancellation], object]]], by: str
) -> None:
    (gate, act), cancel = made(), Cancellation()
    ends_soon(lambda: act(cancel), cancel.cancel if by == "cancel" else gate.close)
    assert by == "close" or not gate.waits


def test_a_cancelled_wait_for_a_slot_leaves_the_queue() -> None:
    gate = Gate("r", HostLimits(concurrent=1), clock=Standing())
    first, second, third = (gate.lease(Log()) for _ in range(3))
    assert first is not None and second is not None and third is not None
    first.before(Cancellation())
    cancel = Cancellation()
    ends_soon(lambda: second.before(cancel), cancel.cancel)
    first.end()
    assert third.before(Cancellation()) > 0


def test_a_remark_that_nobody_takes_leaves_nothing_in_the_queue() -> None:
    def refuses(level: str, text: str, /, **fields: Any) -> None:
        raise ValueError("the job has ended")

    gate = Gate("r", HostLimits(concurrent=1), clock=Standing())
    first, second, third = gate.lease(Log()), gate.lease(refuses), gate.lease(Log())
    assert first is not None and second is not None and third is not None
    first.before(Cancellation())
    taken = threading.Event()

    def take() -> None:  # in a thread of its own, for a thread may use what it holds
        with pytest.raises(ValueError, match="ended"):
            second.before(Cancellation())
        first.end()
        third.before(Cancellation())
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(10)
    assert taken.is_set()


def test_a_slot_that_is_let_go_wakes_whoever_waits() -> None:
    gate = Gate("r", HostLimits(concurrent=1), clock=Standing())
    first, second = gate.lease(Log()), gate.lease(Log())
    assert first is not None and second is not None
    first.before(Cancellation())
    got = threading.Event()

    def take() -> None:
        second.before(Cancellation())
        got.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not got.is_set()
    first.end()
    assert got.wait(5)
    thread.join(5)


def test_many_threads_never_move_more_at_a_time_than_is_allowed() -> None:
    gate = Gate("r", HostLimits(concurrent=2))
    lock = threading.Lock()
    moving, most, done = [0], [0], [0]

    def move() -> None:
        lease = gate.lease(Log())
        assert lease is not None
        for _ in range(20):
            lease.before(Cancellation())
            with lock:
                moving[0] += 1
                most[0] = max(most[0], moving[0])
            with lock:
                moving[0] -= 1
            lease.after(1000, Cancellation())
        lease.end()
        with lock:
            done[0] += 1

    threads = [threading.Thread(target=move) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done[0] == 12
    assert most[0] <= 2
    assert gate.idle


# the gates of all hosts


def test_each_host_has_one_gate_with_its_own_limits() -> None:
    hosts = {"r.example:5000": HostRules(limits=HostLimits(concurrent=7))}
    gates = Gates(HostTable(hosts=hosts))
    gate = gates.of("r.example", 5000)
    assert gates.of("r.example", 5000) is gate
    assert (gate.name, gate.limits.concurrent) == ("r.example:5000", 7)
    assert gates.of("r.example", 443).limits.concurrent == 0
    gates.close()
    with pytest.raises(CancelledError):
        gates.of("new.example", 443).hold_off(5)
        gates.of("new.example", 443).enter(Cancellation(), Log())


def test_what_a_server_asked_for_holds_for_other_gates_that_heed_these() -> None:
    clock = Turned()
    before, after = Gates(HostTable(), clock=clock), Gates(HostTable(), clock=clock)
    before.of("r.example", 443).hold_off(30.0)
    before.of("other.example", 443)
    clock.time += 10.0
    after.heed(before)
    assert after.of("r.example", 443).paused == 20.0
    assert after.of("r.example", 444).paused == 0.0
    assert after.of("other.example", 443).paused == 0.0
    clock.time += 30.0
    assert after.of("r.example", 443).paused == 0.0


def test_gates_that_nobody_needs_are_forgotten() -> None:
    gates = Gates(HostTable())
    busy = gates.of("busy.example", 443)
    busy.hold_off(60)
    for number in range(3000):
        gates.of(f"h{number}.example", 443)
    assert gates.of("busy.example", 443) is busy
    assert gates.count <= 1024
