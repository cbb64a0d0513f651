"""Several jobs at once through a machine that disturbs them, with few workers and few slots."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_disturbed import (
    LONGEST,
    Bench,
    Made,
    attempt,
    check_store,
    disturbed,
    few,
    images,
    plans,
)
from support_faults import Fault

from registry_service.cancel import Cancellation
from registry_service.errors import CancelledError, RegistryError
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.operations.pull import pull
from registry_service.reference import Reference
from registry_service.store import Store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Jobs that pull the same image at once. ``leaves`` has for each the number of requests
    after which it is cancelled, None for one that stays. ``limit`` is the host's, 0 for none."""

    leaves: tuple[int | None, ...]
    workers: int
    limit: int


crowds = st.builds(
    Crowd,
    leaves=st.lists(st.none() | st.integers(0, 8), min_size=1, max_size=4).map(tuple),
    workers=st.integers(1, 3),
    limit=st.integers(0, 2),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with disturbed(tmp_path_factory.mktemp("shared"), pings=True) as made:
        yield made


def pulled_by(crowd: Crowd, bench: Bench, store: Store, name: str) -> list[RegistryError | None]:
    """What came of each job."""
    rules = HostRules(limits=HostLimits(concurrent=crowd.limit))
    settings = dataclasses.replace(bench.settings, hosts=HostTable(default=rules))
    reference = Reference.parse(f"{bench.proxy.host}/{name}:1")
    cancels = [Cancellation() for _ in crowd.leaves]
    ends: dict[int, RegistryError | None] = {}
    over = threading.Event()

    def run(number: int) -> None:
        cancel = cancels[number]
        ends[number] = attempt(
            lambda: pull(
                reference,
                client=registries.reader(
                    reference.host, Access(), cancel=cancel, observer=Observer()
                ),
                store=store,
                platform="all",
                cancel=cancel,
                observer=Observer(),
            )
        )

    def leave() -> None:
        while not over.wait(0.002):
            passed = len(bench.proxy.passed)
            for cancel, after in zip(cancels, crowd.leaves, strict=True):
                if after is not None and passed >= after:
                    cancel.cancel()

    with contextlib.closing(Registries(settings)) as registries:
        threads = [threading.Thread(target=run, args=(one,)) for one in range(len(cancels))]
        watcher = threading.Thread(target=leave)
        for thread in (*threads, watcher):
            thread.start()
        for thread in threads:
            thread.join(LONGEST + 5)
        over.set()
        watcher.join()
    return [ends[number] for number in range(len(cancels))]


def check_crowd(bench: Bench, made: Made, plan: list[Fault | None], crowd: Crowd) -> None:
    name = bench.image(made)
    with bench.store(crowd.workers) as store:
        bench.proxy.plan(plan)
        ends = pulled_by(crowd, bench, store, name)
        stayed = [end for end, after in zip(ends, crowd.leaves, strict=True) if after is None]
        assert not any(isinstance(end, CancelledError) for end in stayed)
        faults = bench.proxy.struck
        if not faults:
            assert stayed == [None] * len(stayed)
        check_fetched(bench, faults + sum(after is not None for after in crowd.leaves))
        check_store(store, made, whole=None in ends)
        bench.proxy.plan([])
        alone = Crowd(leaves=(None,), workers=crowd.workers, limit=crowd.limit)
        assert pulled_by(alone, bench, store, name) == [None]
        check_store(store, made, whole=True)


def check_fetched(bench: Bench, mishaps: int) -> None:
    """Each blob was asked for once, and twice more at most for each mishap."""
    asked = collections.Counter(
        one.path for one in bench.proxy.passed if one.method == "GET" and "/blobs/" in one.path
    )
    assert all(count <= 1 + 2 * mishaps for count in asked.values()), asked


@few(15)
@given(made=images, plan=plans, crowd=crowds)
def test_jobs_share_each_blob_and_leave_each_other_alone(
    bench: Bench, made: Made, plan: list[Fault | None], crowd: Crowd
) -> None:
    check_crowd(bench, made, plan, crowd)


@few(6)
@given(made=images, crowd=crowds)
def test_undisturbed_jobs_fetch_each_blob_once_within_any_limit(
    bench: Bench, made: Made, crowd: Crowd
) -> None:
    check_crowd(bench, made, [], crowd)


@pytest.mark.soak
@few(500)
@given(made=images, plan=plans, crowd=crowds)
def test_hundreds_of_crowds_share_each_blob(
    bench: Bench, made: Made, plan: list[Fault | None], crowd: Crowd
) -> None:
    check_crowd(bench, made, plan, crowd)
