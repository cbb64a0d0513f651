"""Servers that are left alone for a while, with a clock that the tests turn."""

from __future__ import annotations

import pytest

from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    DoesNotExistError,
    LoginRequiredError,
    RegistryHTTPError,
    UnreachableRegistryError,
)
from registry_service.session.breaker import Breakers


class Turned:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Turned:
    return Turned()


@pytest.fixture
def breakers(clock: Turned) -> Breakers:
    return Breakers(clock=clock)


DEAD = UnreachableRegistryError("no connection")


def status(code: int, retry_after: float | None = None) -> RegistryHTTPError:
    return RegistryHTTPError(http_status=code, method="GET", url="x", retry_after=retry_after)


def test_who_cannot_be_reached_is_left_alone_at_once(breakers: Breakers, clock: Turned) -> None:
    assert breakers.closed_for("m") == 0
    assert breakers.failed("m", DEAD) == 15.0
    clock.time += 5
    assert breakers.closed_for("m") == 10.0
    assert breakers.closed_for("other") == 0


def test_then_one_tries_it_and_the_others_wait_for_what_comes_of_that(
    breakers: Breakers, clock: Turned
) -> None:
    breakers.failed("m", DEAD)
    clock.time += 15
    assert breakers.closed_for("m") == 0
    assert breakers.closed_for("m") == 30.0
    breakers.answered("m")
    assert breakers.closed_for("m") == 0


def test_each_time_it_is_left_alone_for_longer_up_to_a_limit(
    breakers: Breakers, clock: Turned
) -> None:
    rests = []
    for _ in range(7):
        rests.append(breakers.failed("m", DEAD))
        clock.time += rests[-1]
        assert breakers.closed_for("m") == 0
    assert rests == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    breakers.answered("m")
    assert breakers.failed("m", DEAD) == 15.0


def test_those_under_way_when_it_failed_do_not_count_again(breakers: Breakers) -> None:
    assert [breakers.failed("m", DEAD) for _ in range(4)] == [15.0] * 4


@pytest.mark.parametrize("error", [status(500), status(503), ConnectionBrokenError("broken")])
def test_another_failure_counts_from_the_third_in_a_row_on(
    breakers: Breakers, error: Exception
) -> None:
    assert [breakers.failed("m", error) for _ in range(3)] == [0.0, 0.0, 15.0]
    breakers.answered("m")
    breakers.failed("m", error)
    breakers.failed("m", error)
    breakers.answered("m")
    assert breakers.failed("m", error) == 0.0


@pytest.mark.parametrize(
    "error",
    [
        DoesNotExistError("x"),
        LoginRequiredError("x"),
        DigestMismatchError("x"),
        status(403),
        CancelledError(),
        OSError("x"),
    ],
)
def test_a_refusal_is_an_answer(breakers: Breakers, error: Exception) -> None:
    assert [breakers.failed("m", error) for _ in range(5)] == [0.0] * 5
    assert breakers.closed_for("m") == 0


def test_a_wish_for_a_pause_counts_at_once_and_for_as_long_as_it_says(breakers: Breakers) -> None:
    assert breakers.failed("m", status(429, 60.0)) == 60.0
    assert breakers.failed("n", status(503, 1.0)) == 15.0
    assert breakers.failed("o", status(429, 86_400.0)) == 300.0


def test_a_trial_that_fails_counts_at_once(breakers: Breakers, clock: Turned) -> None:
    breakers.failed("m", DEAD)
    clock.time += 15
    assert breakers.closed_for("m") == 0
    assert breakers.failed("m", status(500)) == 30.0


def test_a_trial_that_is_never_heard_of_again_is_made_by_another(
    breakers: Breakers, clock: Turned
) -> None:
    breakers.failed("m", DEAD)
    clock.time += 15
    assert breakers.closed_for("m") == 0
    clock.time += 30
    assert breakers.closed_for("m") == 0
