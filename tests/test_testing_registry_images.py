"""The random images that tests push and pull."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Literal

import pytest

from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index, random_layer


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_layer_is_a_gzipped_tar_with_files_of_the_size_asked_for() -> None:
    data, diff_id = random_layer(1, size=10_001, files=4)
    raw = gzip.decompress(data)
    assert diff_id == digest(raw)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = tar.getmembers()
    assert [member.isdir() for member in members] == [True, False, False, False, False]
    assert sum(member.size for member in members) == 10_001


@pytest.mark.parametrize("media", ["oci", "docker"])
def test_an_image_is_consistent_and_depends_on_its_seed_alone(
    media: Literal["oci", "docker"],
) -> None:
    image = random_image(7, layers=2, layer_size=100, media=media, platform="linux/arm64/v8")
    again = random_image(7, layers=2, layer_size=100, media=media, platform="linux/arm64/v8")
    assert image == again
    assert image != random_image(8, layers=2, layer_size=100, media=media)
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    assert image.digest == digest(image.manifest)
    assert manifest["mediaType"] == image.media_type
    named = [manifest["config"], *manifest["layers"]]
    assert [(one["digest"], one["size"]) for one in named] == [
        (digest(data), len(data)) for data in (image.config, *image.layers)
    ]
    diff_ids = [digest(gzip.decompress(data)) for data in image.layers]
    assert config["rootfs"]["diff_ids"] == diff_ids
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm64", "v8")


def test_an_index_names_its_images_with_their_platforms() -> None:
    index = random_index(3, ["linux/amd64", "linux/arm/v7"])
    entries = json.loads(index.manifest)["manifests"]
    assert [entry["digest"] for entry in entries] == [image.digest for image in index.images]
    assert entries[1]["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert index.images[0].digest != index.images[1].digest


def test_a_pushed_index_is_there_with_all_its_parts() -> None:
    index = random_index(3)
    with Registry() as registry:
        assert push_image(registry, "app", "1", index) == index.digest
        assert registry.tags("app") == ["1"]
        for image in index.images:
            assert registry.manifest("app", image.digest) is not None
            assert all(registry.has_blob("app", of) for of in image.blobs)


@pytest.mark.parametrize("platform", ["linux", "a/b/c/d", "linux/"])
def test_a_platform_that_is_none_is_refused(platform: str) -> None:
    with pytest.raises(ValueError, match="platform"):
        random_image(1, platform=platform)
