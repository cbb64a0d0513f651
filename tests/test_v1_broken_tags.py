"""A tag of V1 that is of no image, as a full disk leaves it: an error of that tag alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_service import Bench

from registry_service.testing import Registry
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import push_chain, random_chain

NAME = "test/app"
CHAIN = random_chain(41, length=2)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state", retries=0)
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture(params=[False, True], ids=["", "read only"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[V1Registry]:
    root = tmp_path / "old"
    with V1Registry(root) as made:
        push_chain(made, NAME, ["1.0", "3.0"], CHAIN)
        (root / "repositories" / NAME / "tag_2.0").write_text("")
        if not request.param:
            yield made
            return
    (root / "repositories" / NAME / "_index_images").unlink()
    with V1Registry(root, read_only=True) as made:
        yield made


def test_the_others_are_to_be_had(bench: Bench, old: V1Registry) -> None:
    source = f"{old.host}/{NAME}"
    words = f"2.0: {source}:2.0 is the tag of '', which is no image id"
    tags = {row["tag"] for row in bench.run("tags", source)}
    assert tags == {"1.0", "2.0", "3.0"}
    assert bench.run("inspect", f"{source}:1.0")[0]["platform"] == "linux/amd64"
    _, message = bench.fail("pull", source, allTags=True)
    assert "1 of 3 tags" in message and words in message
    with Registry() as new, V1Registry() as other:
        for target in (new, other):
            _, message = bench.fail("copy", source, f"{target.host}/moved/app", allTags=True)
            assert "1 of 3 tags" in message and words in message
            assert set(target.tags("moved/app")) == {"1.0", "3.0"}


def test_it_is_mended_by_a_push(bench: Bench, tmp_path: Path) -> None:
    root = tmp_path / "old"
    with V1Registry(root) as old:
        push_chain(old, NAME, "1.0", CHAIN)
        (root / "repositories" / NAME / "tag_2.0").write_text("")
        bench.run("copy", f"{old.host}/{NAME}:1.0", f"{old.host}/{NAME}:2.0")
        assert old.tags(NAME) == {"1.0": CHAIN.id, "2.0": CHAIN.id}
