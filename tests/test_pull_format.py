"""Pull in a format: the name stands for the converted image, and the registry's bytes stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_manifests import descriptor, document
from support_service import Bench
from test_manifest_kinds import content, logs, put_artifact, put_old, stored
from test_service import HERE, OTHER

from engine import Status
from registry_service.media import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry_service.testing import Registry
from registry_service.testing.images import (
    Image,
    ImageIndex,
    push_image,
    random_image,
    random_index,
)

THIRD = "linux/s390x"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry(any_type=True) as made:
        yield made


def put_image(registry: Registry, media: Any = "docker") -> tuple[str, Image]:
    image = random_image(4, layers=2, platform=HERE, media=media)
    push_image(registry, "test/app", "1", image)
    return f"{registry.host}/test/app:1", image


def put_index(registry: Registry, media: Any = "docker") -> tuple[str, ImageIndex]:
    index = random_index(5, platforms=[HERE, OTHER, THIRD], media=media)
    push_image(registry, "test/multi", "1", index)
    return f"{registry.host}/test/multi:1", index


def manifest_gets(registry: Registry) -> list[str]:
    return [
        one.path for one in registry.requests if one.method == "GET" and "/manifests/" in one.path
    ]


def test_a_docker_image_becomes_an_oci_image_of_the_same_layers(
    bench: Bench, registry: Registry
) -> None:
    reference, image = put_image(registry)
    rows, said = logs(bench, "pull", reference, format="oci")
    assert [row["state"] for row in rows] == [*["fetched"] * 4, "converted"]
    assert rows[-2]["digest"] == image.digest
    assert f"{image.digest} became {OCI_MANIFEST} {rows[-1]['digest']}" in said
    assert rows[-1]["media_type"] == OCI_MANIFEST
    assert stored(bench, image.digest) == image.manifest
    made = json.loads(stored(bench, rows[-1]["digest"]))
    old = json.loads(image.manifest)
    assert [one["digest"] for one in made["layers"]] == [one["digest"] for one in old["layers"]]
    (listed,) = bench.run("images")
    assert (listed["digest"], listed["complete"]) == (rows[-1]["digest"], True)
    assert bench.broken() == []


def test_an_oci_image_becomes_a_docker_image(bench: Bench, registry: Registry) -> None:
    reference, image = put_image(registry, "oci")
    rows = bench.run("pull", reference, format="docker")
    assert (rows[-1]["media_type"], rows[-1]["state"]) == (DOCKER_MANIFEST, "converted")
    assert json.loads(stored(bench, rows[-1]["digest"]))["mediaType"] == DOCKER_MANIFEST
    assert rows[-1]["digest"] != image.digest


def test_what_is_of_the_format_already_stays_as_it_is(bench: Bench, registry: Registry) -> None:
    reference, image = put_image(registry, "oci")
    rows = bench.run("pull", reference, format="oci")
    assert (rows[-1]["digest"], rows[-1]["state"]) == (image.digest, "fetched")
    reference, index = put_index(registry, "oci")
    rows = bench.run("pull", reference, format="oci")
    assert (rows[-1]["digest"], rows[-1]["media_type"]) == (index.digest, OCI_INDEX)


def test_an_unchanged_image_is_not_fetched_again(bench: Bench, registry: Registry) -> None:
    reference, _ = put_image(registry)
    first = bench.run("pull", reference, format="oci")
    before = content(bench)
    registry.clear_requests()
    rows = bench.run("pull", reference, format="oci")
    assert {row["state"] for row in rows} == {"exists"}
    assert rows[-1]["digest"] == first[-1]["digest"]
    assert {one.method for one in registry.requests} == {"HEAD"}
    assert content(bench) == before


def test_the_name_follows_the_format_that_was_asked_for_last(
    bench: Bench, registry: Registry
) -> None:
    reference, image = put_image(registry)
    plain = bench.run("pull", reference)
    converted = bench.run("pull", reference, format="oci")
    assert converted[-1]["digest"] != plain[-1]["digest"] == image.digest
    assert bench.run("images")[0]["digest"] == converted[-1]["digest"]
    registry.clear_requests()
    assert bench.run("pull", reference)[-1]["digest"] == image.digest
    assert manifest_gets(registry) == []
    assert bench.run("images")[0]["digest"] == image.digest
    assert bench.run("pull", reference, format="docker")[-1]["digest"] == image.digest


def test_an_original_that_was_swept_is_fetched_again(bench: Bench, registry: Registry) -> None:
    reference, image = put_image(registry)
    first = bench.run("pull", reference, format="oci")
    gone = {row["digest"] for row in bench.run("gc", grace="0") if row["state"] == "removed"}
    assert gone == {image.digest}
    registry.clear_requests()
    rows = bench.run("pull", reference, format="oci")
    assert rows[-1]["digest"] == first[-1]["digest"]
    assert len(manifest_gets(registry)) == 1


def test_of_a_list_the_image_of_this_machine_comes_in_its_place(
    bench: Bench, registry: Registry
) -> None:
    reference, index = put_index(registry)
    rows = bench.run("pull", reference, format="oci")
    assert rows[-1]["media_type"] == OCI_MANIFEST
    assert stored(bench, index.digest) == index.manifest
    (listed,) = bench.run("images")
    assert (listed["platforms"], listed["complete"]) == ([HERE], True)


@pytest.mark.parametrize(
    ("platform", "expected"),
    [(f"{HERE},{OTHER}", {HERE, OTHER}), ("all", {HERE, OTHER, THIRD})],
)
def test_of_several_platforms_an_index_of_those(
    bench: Bench, registry: Registry, platform: str, expected: set[str]
) -> None:
    reference, _ = put_index(registry)
    rows = bench.run("pull", reference, format="oci", platform=platform)
    assert rows[-1]["media_type"] == OCI_INDEX
    document = json.loads(stored(bench, rows[-1]["digest"]))
    assert {one["mediaType"] for one in document["manifests"]} == {OCI_MANIFEST}
    (listed,) = bench.run("images")
    assert (set(listed["platforms"]), listed["complete"]) == (expected, True)
    converted = [row for row in rows if row["state"] == "converted"]
    assert len(converted) == len(expected) + 1
    again = bench.run("pull", reference, format="oci", platform=platform)
    assert again[-1]["digest"] == rows[-1]["digest"]
    assert {row["state"] for row in again} == {"exists"}


def test_an_index_within_an_index_is_converted_whole_or_not_at_all(
    bench: Bench, registry: Registry
) -> None:
    index = random_index(5, platforms=[HERE, OTHER])
    push_image(registry, "test/nest", "inner", index)
    outer = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_INDEX, index.manifest)],
    }
    registry.put_manifest("test/nest", "1", document(outer), OCI_INDEX)
    reference = f"{registry.host}/test/nest:1"
    status, message = bench.fail("pull", reference, format="docker", platform=HERE)
    assert status is Status.ERROR
    assert "pull the platform 'all'" in message
    assert bench.names == []
    rows = bench.run("pull", reference, format="docker", platform="all")
    assert rows[-1]["media_type"] == DOCKER_LIST


def test_schema_1_in_docker_s_format(bench: Bench, registry: Registry) -> None:
    put_old(registry)
    rows = bench.run("pull", f"{registry.host}/test/old:1", format="docker")
    assert (rows[-1]["media_type"], rows[-1]["state"]) == (DOCKER_MANIFEST, "converted")
    again = bench.run("pull", f"{registry.host}/test/old:1", format="docker")
    assert again[-1]["digest"] == rows[-1]["digest"]


def test_every_tag_in_a_format(bench: Bench, registry: Registry) -> None:
    for number in (1, 2):
        image = random_image(number, platform=HERE, media="docker")
        push_image(registry, "test/app", str(number), image)
    bench.run("pull", f"{registry.host}/test/app", allTags=True, format="oci")
    assert {row["media_type"] for row in bench.run("images")} == {OCI_MANIFEST}


def test_an_artifact_has_no_docker_manifest_and_gets_no_name(
    bench: Bench, registry: Registry
) -> None:
    put_artifact(registry)
    status, message = bench.fail("pull", f"{registry.host}/test/art:1", format="docker")
    assert status is Status.ERROR
    assert "no docker manifest" in message
    assert bench.names == []


def test_what_belongs_to_the_registry_s_digest_is_not_taken_along(
    bench: Bench, registry: Registry
) -> None:
    reference, _ = put_image(registry)
    status, message = bench.fail("pull", reference, format="oci", referrers=True)
    assert status is Status.USAGE
    assert "belong to the digest that the registry has" in message
    assert manifest_gets(registry) == []
    status, message = bench.fail("pull", reference, format="tar")
    assert status is Status.USAGE
    assert "neither 'oci' nor 'docker'" in message
