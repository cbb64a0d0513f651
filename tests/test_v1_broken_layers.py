"""A layer of V1 that is broken at the registry: what is asked for again, and what is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_service import Bench
from support_v1_copy import copy_bench

from engine import Status
from registry_service.testing import Registry
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import push_chain, random_chain

NAME = "test/app"
CHAIN = random_chain(31, length=3)
OTHER = random_chain(32, length=2)
BROKEN = CHAIN.images[1]  # in the middle


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with copy_bench(tmp_path / "state") as made:
        yield made


@pytest.fixture
def old() -> Iterator[V1Registry]:
    with V1Registry() as made:
        push_chain(made, NAME, ["1.0", "2.0", "3.0"], CHAIN)
        yield made


@pytest.fixture(params=["pull", "to V2", "to V1"])
def names(request: pytest.FixtureRequest, old: V1Registry) -> Iterator[tuple[str, ...]]:
    """A job on all that the repository has."""
    source = f"{old.host}/{NAME}"
    if request.param == "pull":
        yield "pull", source
    else:
        with Registry() if request.param == "to V2" else V1Registry() as target:
            yield "copy", source, f"{target.host}/moved/app"


def given(old: V1Registry) -> int:
    """How often the whole of the broken layer was."""
    asked = [one for one in old.requests if one.path.endswith(f"{BROKEN.id}/layer")]
    return sum(one.status == 200 for one in asked)


def test_what_came_wrong_twice_is_left_alone_however_many_tags_lie_upon_it(
    bench: Bench, old: V1Registry, names: tuple[str, ...]
) -> None:
    """Each of them says so; that a layer of many gigabytes is broken need not be seen each time."""
    push_chain(old, NAME, "4.0", OTHER)
    old.put_layer(BROKEN.id, OTHER.images[0].layer)
    status, message = bench.fail(*names, allTags=True)
    assert status is Status.ERROR
    assert "3 of 4 tags" in message
    for tag in ("1.0", "2.0", "3.0"):
        assert f"{tag}: the layer of image {BROKEN.id}: " in message
    assert given(old) == 2
    # another job finds that it was mended
    old.put_layer(BROKEN.id, BROKEN.layer)
    bench.run(*names, allTags=True)


def test_what_came_wrong_once_is_asked_for_again(
    bench: Bench, old: V1Registry, names: tuple[str, ...]
) -> None:
    old.add_fault(f"corrupt:offset=200,path={BROKEN.id}/layer,times=1")
    bench.run(*names, allTags=True)
    assert given(old) == 2


@pytest.mark.parametrize("size", [7, 70_000])
def test_a_layer_of_another_size_than_is_said_is_told_as_that(
    bench: Bench, old: V1Registry, names: tuple[str, ...], size: int
) -> None:
    layer = BROKEN.layer
    old.put_image(BROKEN.raw, layer, said={"X-Docker-Size": str(size)})
    _, message = bench.fail(*names, allTags=True)
    assert (
        f"the layer of image {BROKEN.id}: {len(layer)} bytes come; the registry says that it has "
        f"{size}" in message
    )
    assert given(old) == 2
