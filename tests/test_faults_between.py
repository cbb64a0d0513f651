"""A machine that disturbs a mirror, whose origin is well; and one between two ends of a copy."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_disturbed import (
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
from support_faults import Fault

from registry_service.cancel import Cancellation
from registry_service.hostrules import HostRules, HostTable, Mirror
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.operations.copy import Connections, copy
from registry_service.operations.pull import pull
from registry_service.reference import Reference
from registry_service.session.v2 import V2Client
from registry_service.store import Store
from registry_service.transport.retry import RetryPolicy

_numbers = itertools.count(1)
ends = st.sampled_from(["source", "target", "source and target"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with disturbed(tmp_path_factory.mktemp("between"), pings=True) as made:
        yield made


def pull_by_the_mirror(bench: Bench, store: Store, name: str) -> None:
    """From the registry, with the machine before it as its mirror."""
    rules = HostRules(mirrors=(Mirror.parse(bench.proxy.host),), origin="last")
    settings = dataclasses.replace(bench.settings, hosts=HostTable(hosts={bench.host: rules}))
    cancel, observer = Cancellation(), Observer()
    with contextlib.closing(Registries(settings)) as registries:
        pull(
            Reference.parse(f"{bench.host}/{name}:1"),
            client=registries.reader(bench.host, Access(), cancel=cancel, observer=observer),
            store=store,
            platform="all",
            cancel=cancel,
            observer=observer,
        )


def disturbed_mirror(bench: Bench, made: Made, plan: list[Fault | None]) -> None:
    name = bench.image(made)
    with bench.store() as store:
        bench.proxy.plan(plan)
        error = attempt(lambda: pull_by_the_mirror(bench, store, name))
        assert error is None, "the origin has all of it"
        check_store(store, made, whole=True)


def copy_through(bench: Bench, source: str, target: str, ends: str) -> None:
    """``ends`` says which are behind the machine. Where only one is, they are two registries to
    the client, and it cannot mount."""
    cancel, settings = Cancellation(), bench.settings
    of_source = bench.proxy.host if "source" in ends else bench.host
    of_target = bench.proxy.host if "target" in ends else bench.host
    with contextlib.closing(Registries(settings)) as registries:

        def client(host: str, inner: Cancellation) -> V2Client:
            found = registries.client(host, Access(), cancel=inner, observer=Observer())
            assert isinstance(found, V2Client)
            return found

        copy(
            Reference.parse(f"{of_source}/{source}:1"),
            Reference.parse(f"{of_target}/{target}:1"),
            connections=Connections(
                source=partial(client, of_source),
                target=partial(client, of_target),
                policy=RetryPolicy(retries=settings.retries, longest=settings.retry_wait_max),
            ),
            cancel=cancel,
            observer=Observer(),
        )


def disturbed_copy(bench: Bench, made: Made, plan: list[Fault | None], ends: str) -> None:
    source, target = bench.image(made), f"copy/{next(_numbers)}"
    bench.proxy.plan(plan)
    error = attempt(lambda: copy_through(bench, source, target, ends))
    if error is None:
        check_registry(bench, target, made)
    bench.proxy.plan([])
    assert attempt(lambda: copy_through(bench, source, target, ends)) is None, f"after {error}"
    check_registry(bench, target, made)


@few(15)
@given(made=images, plan=plans)
def test_whatever_a_mirror_does_the_image_comes(
    bench: Bench, made: Made, plan: list[Fault | None]
) -> None:
    disturbed_mirror(bench, made, plan)


@few(15)
@given(made=images, plan=plans, ends=ends)
def test_whatever_happens_a_copy_is_right_or_says_why(
    bench: Bench, made: Made, plan: list[Fault | None], ends: str
) -> None:
    disturbed_copy(bench, made, plan, ends)


@pytest.mark.soak
@few(500)
@given(made=images, plan=plans)
def test_whatever_a_mirror_does_hundreds_of_images_come(
    bench: Bench, made: Made, plan: list[Fault | None]
) -> None:
    disturbed_mirror(bench, made, plan)


@pytest.mark.soak
@few(500)
@given(made=images, plan=plans, ends=ends)
def test_of_hundreds_of_copies_each_is_right_or_says_why(
    bench: Bench, made: Made, plan: list[Fault | None], ends: str
) -> None:
    disturbed_copy(bench, made, plan, ends)
