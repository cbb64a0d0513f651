"""How much one host is asked for at a time, with a clock that the tests turn."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.transport.pacing import Slots, TokenBucket

_STEPS = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0.001, 20)), min_size=1, max_size=40
)  # (seconds after the step before, amount)


@given(_STEPS, st.floats(0.1, 100), st.floats(0, 50))
def test_no_window_of_time_lets_more_through_than_rate_and_burst(
    steps: list[tuple[float, float]], rate: float, burst: float
) -> None:
    bucket = TokenBucket(rate, burst)
    now = 0.0
    passed = []
    for pause, amount in steps:
        now += pause
        passed.append((now + bucket.take(amount, now), amount))
    for begin, end in itertools.combinations_with_replacement(range(len(passed)), 2):
        # what was taken last may still be paid for when the window ends
        let = sum(amount for _, amount in passed[begin + 1 : end + 1])
        span = passed[end][0] - passed[begin][0]
        assert let <= rate * span + burst + 1e-6 * (1 + let)


@given(_STEPS, st.floats(0.1, 100), st.floats(0, 50))
def test_whoever_comes_first_goes_first_and_nobody_waits_longer_than_what_is_before_him(
    steps: list[tuple[float, float]], rate: float, burst: float
) -> None:
    bucket = TokenBucket(rate, burst)
    now = total = 0.0
    before = 0.0
    for pause, amount in steps:
        now += pause
        total += amount
        wait = bucket.take(amount, now)
        assert wait <= total / rate + 1e-6
        assert now + wait >= before - 1e-6
        before = now + wait


def test_a_bucket_gives_its_burst_at_once_and_fills_again() -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0)
    assert [bucket.take(1, 10.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert bucket.take(1, 11.0) == pytest.approx(0.5)
    assert bucket.take(3, 100.0) == 0.0


# slots


def test_as_many_as_the_limit_hold_a_slot_and_the_first_who_waits_is_the_next() -> None:
    slots = Slots(2)
    assert [slots.ask(key, at, 0.0) for at, key in enumerate("abcd")][:2] == [0.0, 0.0]
    assert (len(slots), slots.waiting) == (2, 2)
    slots.leave("a")
    assert slots.ask("d", 3, 0.1) > 0
    assert slots.ask("c", 2, 0.1) == 0.0
    slots.leave("b")
    assert slots.ask("d", 3, 0.2) == 0.0


def test_where_no_bytes_move_for_a_while_the_slot_goes_to_whoever_waits() -> None:
    slots = Slots(1, idle=1.0)
    assert slots.ask("stalled", 1, 0.0) == 0.0
    slots.moved("stalled", 0.5)
    assert slots.ask("other", 2, 0.5) == pytest.approx(1.0)
    assert slots.ask("other", 2, 1.2) == pytest.approx(0.3)
    assert slots.ask("other", 2, 1.5) == 0.0
    assert slots.ask("stalled", 1, 1.6) > 0


def test_without_anybody_waiting_a_slot_is_kept_however_slow_it_is() -> None:
    slots = Slots(1, idle=1.0, turn=10.0)
    assert [slots.ask("a", 1, at) for at in (0.0, 50.0, 500.0)] == [0.0] * 3


def test_a_slot_changes_hands_after_its_turn() -> None:
    slots = Slots(1, idle=5.0, turn=10.0)
    assert slots.ask("a", 1, 0.0) == 0.0
    for at in range(1, 10):
        assert slots.ask("b", 2, float(at)) > 0
        assert slots.ask("a", 1, float(at)) == 0.0
    assert slots.ask("a", 1, 10.0) > 0
    assert slots.ask("b", 2, 10.0) == 0.0


def test_one_thread_can_read_from_one_connection_and_write_to_another_by_one_slot() -> None:
    slots = Slots(1)
    for _ in range(5):
        assert slots.ask("reads", 1, 0.0) == 0.0
        assert slots.ask("writes", 1, 0.0) == 0.0
        assert len(slots) == 1


def test_whoever_left_the_queue_holds_up_nobody() -> None:
    slots = Slots(1)
    for at, key in enumerate("abc"):
        slots.ask(key, at, 0.0)
    slots.leave("b")
    slots.leave("b")
    slots.leave("a")
    assert slots.ask("c", 2, 0.0) == 0.0


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["ask", "leave"]), st.floats(0, 3)),
        max_size=60,
    ),
)
def test_never_more_than_the_limit_and_everybody_gets_his_turn(
    limit: int, steps: list[tuple[str, str, float]]
) -> None:
    slots = Slots(limit, idle=1.0, turn=5.0)
    now = 0.0
    for key, what, pause in steps:
        now += pause
        if what == "ask":
            assert slots.ask(key, ord(key), now) >= 0
        else:
            slots.leave(key)
        assert len(slots) <= limit
    # from now on all of them move on as far as they are let
    got: Counter[str] = Counter()
    for _ in range(200):
        now += 0.5
        for key in "abcdefgh":
            if slots.ask(key, ord(key), now) == 0.0:
                slots.moved(key, now)
                got[key] += 1
        assert len(slots) <= limit
    assert set(got) == set("abcdefgh")
