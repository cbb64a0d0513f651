"""A machine that drops, stalls and corrupts, between us and Debian's registry.

Whatever it does, an image arrives with the right digests, or a clear error says why; the store
verifies clean; and the same job completes once the machine behaves.
"""

from __future__ import annotations

import email.utils
import itertools
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from support_disturbed import (
    DATE,
    Bench,
    Made,
    attempt,
    check_registry,
    check_store,
    disturbed,
    few,
    images,
    plans,
)
from support_faults import Fault, Kind

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with disturbed(tmp_path_factory.mktemp("faults")) as made:
        yield made


SIZES = (300_000, 20_000)
#: Every fault, some of them twice: what a client gets through without a word.
PASSING: list[list[Fault | None]] = [
    [Fault(kind=Kind.DROP_ANSWER)],  # of the manifest
    [Fault(kind=Kind.STALL_ANSWER)],
    [Fault(kind=Kind.UNHEARD), Fault(kind=Kind.DROP_HEAD), None, Fault(kind=Kind.DROP_HEAD)],
    [None, Fault(kind=Kind.DROP_ANSWER)],
    [None, Fault(kind=Kind.RESET_ANSWER), Fault(kind=Kind.RESET_ANSWER, at=0.0)],
    [None, Fault(kind=Kind.STALL_ANSWER, at=0.9)],
    [None, Fault(kind=Kind.CORRUPT_ANSWER), None, None],
    [None, Fault(kind=Kind.SHORT_ANSWER)],
    [None, Fault(kind=Kind.LOST_ANSWER), Fault(kind=Kind.LOST_ANSWER)],
    [Fault(kind=Kind.STATUS, code=500), Fault(kind=Kind.STATUS, code=503)],
    [Fault(kind=Kind.STATUS, code=429, retry_after="0")],
    [None, Fault(kind=Kind.STATUS, code=429, retry_after=DATE)],
    [None, Fault(kind=Kind.STATUS, code=502), Fault(kind=Kind.STATUS, code=504)],
    # the first drop makes the next request one for a range
    [None, *[Fault(kind=Kind.DROP_ANSWER)] * 3, *[Fault(kind=Kind.NO_RANGE)] * 3],
    [None, *[Fault(kind=Kind.DROP_ANSWER)] * 3, *[Fault(kind=Kind.WRONG_RANGE)] * 3],
]


@pytest.mark.parametrize("plan", PASSING, ids=lambda plan: "+".join(str(one) for one in plan))
def test_a_pull_gets_through(bench: Bench, plan: list[Fault | None]) -> None:
    made = Made.of(SIZES)
    name = bench.image(made)
    with bench.store() as store:
        bench.proxy.plan(plan)
        assert attempt(lambda: bench.pull(store, name)) is None
        assert bench.proxy.struck == len([one for one in plan if one is not None])
        check_store(store, made, whole=True)


@pytest.mark.parametrize(
    "plan",
    [
        [Fault(kind=Kind.STATUS, code=503)],
        [Fault(kind=Kind.STATUS, code=429, retry_after="0")],
        [None, Fault(kind=Kind.LOST_ANSWER), Fault(kind=Kind.LOST_ANSWER)],
        [*[None] * 4, Fault(kind=Kind.DROP_REQUEST), Fault(kind=Kind.DROP_REQUEST)],
        [*[None] * 4, Fault(kind=Kind.CORRUPT_REQUEST)],
        [*[None] * 6, Fault(kind=Kind.LOST_ANSWER), Fault(kind=Kind.STATUS, code=500)],
    ],
    ids=lambda plan: "+".join(str(one) for one in plan),
)
def test_a_push_gets_through(bench: Bench, plan: list[Fault | None]) -> None:
    made = Made.of(SIZES)
    target = f"push/{next(_numbers)}"
    with bench.store() as store:
        bench.fill(store, made, target)
        bench.proxy.plan(plan)
        assert attempt(lambda: bench.push(store, target)) is None
    check_registry(bench, target, made)


LATE = email.utils.formatdate(time.time() + 5000, usegmt=True)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([None, *[Fault(kind=Kind.DROP_ANSWER, at=0.0)] * 50], "connection ended"),
        ([None, *[Fault(kind=Kind.STALL_ANSWER, at=0.0)] * 50], "silent"),
        ([None, *[Fault(kind=Kind.CORRUPT_ANSWER)] * 50], "have the digest"),
        ([None, *[Fault(kind=Kind.SHORT_ANSWER)] * 50], "bytes, its descriptor says"),
        ([Fault(kind=Kind.CORRUPT_ANSWER)] * 50, "have the digest"),
        ([Fault(kind=Kind.STATUS, code=503)] * 50, "503"),
        ([None, *[Fault(kind=Kind.STATUS, code=500)] * 50], "500"),
        ([Fault(kind=Kind.STATUS, code=429, retry_after="5000")] * 50, "429"),
        ([None, *[Fault(kind=Kind.STATUS, code=429, retry_after=LATE)] * 50], "429"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(map(str, value[:2])),
)
def test_what_does_not_pass_is_said(bench: Bench, plan: list[Fault | None], words: str) -> None:
    made = Made.of(SIZES)
    name = bench.image(made)
    with bench.store() as store:
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.pull(store, name))
        assert words in str(error)
        assert bench.proxy.host in str(error) or "sha256:" in str(error)
        check_store(store, made, whole=False)
        bench.proxy.plan([])
        assert attempt(lambda: bench.pull(store, name)) is None
        check_store(store, made, whole=True)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([Fault(kind=Kind.LOST_ANSWER)] * 50, "connection"),
        ([*[None] * 4, *[Fault(kind=Kind.DROP_REQUEST)] * 50], "connection"),
        ([*[None] * 4, *[Fault(kind=Kind.CORRUPT_REQUEST)] * 50], "digest"),
        ([*[None] * 4, *[Fault(kind=Kind.STATUS, code=502)] * 50], "502"),
        ([*[None] * 4, *[Fault(kind=Kind.STATUS, code=429, retry_after=LATE)] * 50], "429"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value[-1]),
)
def test_what_a_push_does_not_get_through_is_said(
    bench: Bench, plan: list[Fault | None], words: str
) -> None:
    made = Made.of(SIZES)
    target = f"push/{next(_numbers)}"
    with bench.store() as store:
        bench.fill(store, made, target)
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.push(store, target))
        assert words in str(error).lower()
        assert bench.proxy.host in str(error) or "sha256:" in str(error)
        bench.proxy.plan([])
        assert attempt(lambda: bench.push(store, target)) is None
    check_registry(bench, target, made)


def a_pull_under_faults(bench: Bench, made: Made, plan: list[Fault | None]) -> None:
    name = bench.image(made)
    with bench.store() as store:
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.pull(store, name))
        check_store(store, made, whole=error is None)
        bench.proxy.plan([])
        assert attempt(lambda: bench.pull(store, name)) is None, f"after {error}"
        check_store(store, made, whole=True)


def a_push_under_faults(bench: Bench, made: Made, plan: list[Fault | None]) -> None:
    target = f"push/{next(_numbers)}"
    with bench.store() as store:
        bench.fill(store, made, target)
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.push(store, target))
        if error is None:
            check_registry(bench, target, made)
        bench.proxy.plan([])
        assert attempt(lambda: bench.push(store, target)) is None, f"after {error}"
        check_store(store, made, whole=True)
    check_registry(bench, target, made)


@few(20)
@given(made=images, plan=plans)
def test_whatever_happens_a_pull_is_right_or_says_why(
    bench: Bench, made: Made, plan: list[Fault | None]
) -> None:
    a_pull_under_faults(bench, made, plan)


@few(20)
@given(made=images, plan=plans)
def test_whatever_happens_a_push_is_right_or_says_why(
    bench: Bench, made: Made, plan: list[Fault | None]
) -> None:
    a_push_under_faults(bench, made, plan)


@pytest.mark.soak
@few(600)
@given(made=images, plan=plans)
def test_of_hundreds_of_pulls_each_is_right_or_says_why(
    bench: Bench, made: Made, plan: list[Fault | None]
) -> None:
    a_pull_under_faults(bench, made, plan)


@pytest.mark.soak
@few(600)
@given(made=images, plan=plans)
def test_of_hundreds_of_pushes_each_is_right_or_says_why(
    bench: Bench, made: Made, plan: list[Fault | None]
) -> None:
    a_push_under_faults(bench, made, plan)
