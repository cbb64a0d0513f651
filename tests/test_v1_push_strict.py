"""Pushes where a token to write does not read, as with the original registry behind an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_service import Bench
from support_v1_push import keep, made_image, rich_archives
from test_v1_push import chain, ids, states

from registry_service.testing.v1 import V1Index, V1Registry

IMAGE = made_image(rich_archives(3, 2))
ANNA = {"authConfig": {"username": "anna", "password": "pw"}}


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    with V1Registry(role="registry", strict_access=True, cookies=False) as one:
        yield one


@pytest.fixture
def index(registry: V1Registry) -> Iterator[V1Index]:
    with V1Index(registries=[registry], accounts={"anna": "pw"}) as one:
        yield one


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "state")
    yield bench
    bench.engine.shutdown(grace=0)


def test_an_image_is_pushed_without_being_asked_for(
    index: V1Index, registry: V1Registry, bench: Bench
) -> None:
    name = f"{index.host}/anna/app:1"
    keep(bench.state, name, IMAGE)
    assert set(states(bench.run("push", name, **ANNA))) == {"pushed"}
    asked = {one.status for one in registry.requests if one.path.endswith("/json")}
    assert asked == {401, 200}  # GET, PUT
    for link, layer in zip(chain(IMAGE), IMAGE.layers, strict=True):
        found = registry.image(link.image.id)
        assert found is not None
        assert found.complete
        assert (found.raw, found.layer_bytes) == (link.image.raw, layer)
    assert registry.tags("anna/app") == {"1": ids(IMAGE)[-1]}


def test_what_is_there_is_not_sent_again(
    index: V1Index, registry: V1Registry, bench: Bench
) -> None:
    name = f"{index.host}/anna/app:1"
    keep(bench.state, name, IMAGE)
    bench.run("push", name, **ANNA)
    registry.clear_requests()
    rows = bench.run("push", name, **ANNA)
    assert states(rows)[:-1] == ["exists"] * 3
    sent = [one for one in registry.requests if one.method == "PUT" and "/images/" in one.path]
    assert [one.path.rpartition("/")[2] for one in sent] == ["json"] * 2
    assert {one.status for one in sent} == {409}


def test_what_is_half_pushed_is_completed(
    index: V1Index, registry: V1Registry, bench: Bench
) -> None:
    name = f"{index.host}/anna/app:1"
    keep(bench.state, name, IMAGE)
    lowest = chain(IMAGE)[0].image
    registry.put_image(lowest.raw, b"half of it", complete=False)
    bench.run("push", name, **ANNA)
    found = registry.image(lowest.id)
    assert found is not None
    assert found.complete
    assert found.layer_bytes == IMAGE.layers[0]
