"""Copy from a V1 registry to one of V2, with what goes wrong on the way."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_service import Bench
from support_v1_copy import (
    CHAIN,
    LARGE,
    NAME,
    another_s_json,
    assert_whole,
    copied,
    copy_bench,
    cut_off,
    cut_off_otherwise,
    hole,
    kept,
    loop,
    no_layer,
    no_tar,
    noise,
    put,
    wrong_sum,
)

from engine import Status
from registry_service.testing import Registry
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import (
    push_chain,
    random_archive,
    random_id,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with copy_bench(tmp_path / "state") as made:
        yield made


@pytest.fixture
def old() -> Iterator[V1Registry]:
    with V1Registry() as made:
        yield made


@pytest.fixture
def new() -> Iterator[Registry]:
    with Registry() as made:
        yield made


LAYER_FAULTS = [
    "drop:after=20000,path=/layer,times=2",
    "drop:after=0,path=/layer,times=2,reset=yes",
    "drop:after=0,path=/ancestry,times=2",
    "status:code=503,path=/layer,times=2",
    "status:code=500,path=/json,times=2",
    "corrupt:offset=20000,path=/layer,times=1",
    "short:after=20000,path=/layer,times=2",
    "lost-answer:path=/tags,times=2",
]


@pytest.mark.parametrize("fault", LAYER_FAULTS)
@pytest.mark.parametrize("ranges", ["exact", "original", "none"])
def test_faults_of_the_source_are_survived(
    bench: Bench, new: Registry, fault: str, ranges: Any
) -> None:
    with V1Registry(ranges=ranges) as old:
        push_chain(old, NAME, "1.0", CHAIN)
        old.add_fault(fault)
        bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
    assert_whole(new, "moved", "1.0")
    assert new.open_uploads == 0
    assert kept(bench) == []


SMALL = 60_000  # bytes, which go with the PUT; of what is larger the PUT has none
OF_ANY = [
    "drop:path=/blobs/uploads/,method=POST,times=2",
    "lost-answer:path=/blobs/uploads/,method=PUT,times=1",
    "status:code=503,path=/blobs/uploads/,times=2",
    "status:code=500,path=/manifests/,method=PUT,times=2",
]
OF_SMALL = [
    "drop:after=10000,path=/blobs/uploads/,method=PUT,times=2",
    "corrupt:offset=4000,path=/blobs/uploads/,method=PUT,times=1",
]
OF_LARGE = [
    "drop:after=20000,path=/blobs/uploads/,method=PATCH,times=2",
    "lost-answer:path=/blobs/uploads/,method=PATCH,times=2",
    "status:code=404,path=/blobs/uploads/,method=PATCH,times=1",
    "status:code=405,path=/blobs/uploads/,method=PATCH",
]


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        *itertools.product([SMALL], OF_ANY + OF_SMALL),
        *itertools.product([LARGE], OF_ANY + OF_LARGE),
    ],
)
def test_faults_of_the_target_are_survived(
    bench: Bench, old: V1Registry, new: Registry, fault: str, size: int
) -> None:
    layers = [random_archive(1), noise(size)]
    put(old, layers)
    switch = new.add_fault(fault)
    bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
    assert switch.hits
    assert copied(new, "moved", "1.0")[1] == layers
    assert new.open_uploads == 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (wrong_sum, "the registry says that it is"),
        (no_tar, "the layer of image"),
        (cut_off, "the gzip stream is cut off"),
        (cut_off_otherwise, "the bzip2 stream is cut off"),
        (hole, "is not in its ancestry"),
        (loop, "more than once"),
        (another_s_json, "its JSON is that of"),
        (no_layer, "layer of the image"),
    ],
)
def test_a_broken_image_is_a_clear_error_and_nothing_is_named(
    tmp_path: Path,
    old: V1Registry,
    new: Registry,
    broken: Callable[[V1Registry], None],
    words: str,
) -> None:
    bench = Bench(tmp_path / "state", retries=1, retry_wait_max=0.01)
    broken(old)
    job = bench.job("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
    assert job.run() is Status.ERROR
    assert job.end is not None and words in job.end.message
    assert job.end.code in ("digest-mismatch", "does-not-exist", "layer", "manifest")
    assert new.tags("moved") == []
    assert new.open_uploads == 0
    assert kept(bench) == []
    bench.engine.shutdown(grace=0)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cancel_ends_it_whatever_it_waits_for(
    bench: Bench, old: V1Registry, new: Registry, side: str
) -> None:
    put(old, [noise(2 * LARGE)])
    if side == "source":
        hold = old.hold(path="/layer", method="GET", after=LARGE)
    else:
        hold = new.hold(path="/blobs/uploads/", method="PATCH")
    job = bench.job("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
    thread = threading.Thread(target=job.run)
    thread.start()
    assert hold.entered.wait(30)
    job.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert job.status is Status.CANCELLED
    hold.release()
    assert new.tags("moved") == []
    assert kept(bench) == []


def test_large_layers_are_never_held_whole(bench: Bench, old: V1Registry, tmp_path: Path) -> None:
    size = 48 * 1024 * 1024
    image_id = random_id("large")
    old.put_synthetic({"id": image_id}, size)
    old.put_tag(NAME, "1.0", image_id)
    with Registry(tmp_path / "target") as new:
        job = bench.job("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved:1")
        tracemalloc.start()
        try:
            assert job.run() is Status.OK, job.stderr.text()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < size / 2


def test_each_side_gets_its_own_credentials(bench: Bench) -> None:
    with (
        V1Registry(users={"ann": "of the source"}) as old,
        Registry(users={"bob": "of the target"}) as new,
    ):
        push_chain(old, NAME, "1", CHAIN)
        names = (f"{old.host}/{NAME}:1", f"{new.host}/moved:1")
        theirs = {"username": "bob", "password": "of the target"}
        _, message = bench.fail("copy", *names, targetAuthConfig=theirs)
        assert f"{old.host} asks for a login" in message


def test_a_copy_that_cannot_be_written_down_is_a_copy(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    push_chain(old, NAME, "1.0", CHAIN)
    book = bench.state / "ingest" / "layers"
    book.mkdir(parents=True)
    (book / old.host).symlink_to("nowhere")  # it is not followed
    job = bench.job("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/{NAME}:1.0")
    assert job.run() is Status.OK, job.stderr.text()
    assert "cannot write" in job.stderr.text()
    assert_whole(new, NAME, "1.0")
