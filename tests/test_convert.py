"""Docker's manifests as OCI's, and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_manifests import descriptor, document

from registry_service.convert import Format, FormatError, convert, convertible
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import ManifestError
from registry_service.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
)
from registry_service.media import DOCKER_CONFIG, FOREIGN_LAYERS, OCI_CONFIG, TO_DOCKER, TO_OCI

DOCKER_LAYERS = [kind for kind in TO_OCI if "rootfs" in kind]

digests = st.binary(max_size=8).map(lambda content: str(Digest.of(content)))
urls = st.lists(st.just("https://example.com/layer"), max_size=1)


@st.composite
def descriptors(draw: st.DrawFn, kinds: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "mediaType": draw(st.sampled_from(kinds)),
        "size": draw(st.integers(0, 2**40)),
        "digest": draw(digests),
    }
    if draw(st.booleans()):
        made["urls"] = draw(urls)
    return made


@st.composite
def docker_manifests(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": draw(descriptors([DOCKER_CONFIG])),
        "layers": draw(st.lists(descriptors(DOCKER_LAYERS), max_size=4)),
        **draw(st.dictionaries(st.just("x-unknown"), st.integers(), max_size=1)),
    }


@st.composite
def docker_lists(draw: st.DrawFn) -> dict[str, Any]:
    parts = draw(
        st.lists(descriptors([DOCKER_MANIFEST]), max_size=4, unique_by=lambda one: one["digest"])
    )
    for part in parts:
        part["platform"] = {
            "architecture": "arm",
            "os": "linux",
            "variant": "v7",
            "features": ["x"],
        }
    return {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": parts}


def there_and_back(raw: bytes, first: Format, second: Format) -> Manifest:
    manifest = Manifest.parse(raw)
    middle = convert(manifest, first, retyped(manifest, first))
    assert middle.lost == ()
    return convert(middle.manifest, second, retyped(middle.manifest, second)).manifest


def retyped(manifest: Manifest, target: Format) -> dict[Digest, Descriptor | None]:
    """The parts of an index, as if they had the same digest in the other format."""
    return {
        one.digest: Descriptor(
            media_type=target.types.get(one.media_type, one.media_type),
            digest=one.digest,
            size=one.size,
        )
        for one in manifest.manifests
    }


@given(docker_manifests() | docker_lists())
def test_docker_to_oci_and_back_is_the_same(value: dict[str, Any]) -> None:
    back = there_and_back(document(value), Format.OCI, Format.DOCKER)
    assert back.raw == document(value)
    assert str(back.digest) == str(Digest.of(document(value)))


@given(docker_manifests())
def test_oci_to_docker_and_back_is_the_same(value: dict[str, Any]) -> None:
    oci = convert(Manifest.parse(document(value)), Format.OCI).manifest
    assert there_and_back(oci.raw, Format.DOCKER, Format.OCI) == oci


@given(docker_manifests())
def test_what_is_of_the_format_stays_byte_for_byte(value: dict[str, Any]) -> None:
    raw = json.dumps(value, indent=3).encode()
    manifest = Manifest.parse(raw)
    assert convert(manifest, Format.DOCKER).manifest is manifest
    oci = convert(manifest, Format.OCI).manifest
    assert convert(oci, Format.OCI).manifest is oci


@given(docker_manifests())
def test_only_media_types_change_and_every_one_is_of_the_new_format(value: dict[str, Any]) -> None:
    oci = convert(Manifest.parse(document(value)), Format.OCI).manifest
    assert oci.media_type == OCI_MANIFEST
    assert oci.config is not None and oci.config.media_type == OCI_CONFIG
    for old, new in zip(value["layers"], oci.layers, strict=True):
        assert new.media_type == TO_OCI[old["mediaType"]]
        assert (old["mediaType"] in FOREIGN_LAYERS) is (new.media_type in FOREIGN_LAYERS)
        assert (str(new.digest), new.size) == (old["digest"], old["size"])
        assert list(new.urls) == old.get("urls", [])


@pytest.mark.parametrize(
    ("docker", "oci"),
    [
        ("image.rootfs.diff.tar", "image.layer.v1.tar"),
        ("image.rootfs.diff.tar.gzip", "image.layer.v1.tar+gzip"),
        ("image.rootfs.foreign.diff.tar.gzip", "image.layer.nondistributable.v1.tar+gzip"),
        ("container.image.v1+json", "image.config.v1+json"),
    ],
)
def test_the_pairs_of_media_types(docker: str, oci: str) -> None:
    assert TO_OCI[f"application/vnd.docker.{docker}"] == f"application/vnd.oci.{oci}"
    assert TO_DOCKER[f"application/vnd.oci.{oci}"] == f"application/vnd.docker.{docker}"


def oci_image(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, b"{}"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b"x")],
        **more,
    }


def test_what_docker_has_no_place_for_is_left_out_and_named() -> None:
    value = oci_image(
        annotations={"k": "v"},
        subject=descriptor(OCI_MANIFEST, b"s"),
        artifactType="a/b",
    )
    value["layers"][0] |= {"annotations": {"k": "v"}}
    value["config"] |= {"data": "e30="}
    made = convert(Manifest.parse(document(value)), Format.DOCKER)
    assert sorted(made.lost) == [
        "annotations",
        "artifactType",
        "config.data",
        "layers[0].annotations",
        "subject",
    ]
    assert set(json.loads(made.manifest.raw)) == {"schemaVersion", "mediaType", "config", "layers"}
    assert set(json.loads(made.manifest.raw)["layers"][0]) == {"mediaType", "digest", "size"}
    assert made.manifest.media_type == DOCKER_MANIFEST


def test_a_manifest_without_its_media_type_gets_docker_s() -> None:
    value = oci_image()
    del value["mediaType"]
    manifest = Manifest.parse(document(value))
    assert json.loads(convert(manifest, Format.DOCKER).manifest.raw)["mediaType"] == DOCKER_MANIFEST
    assert convert(manifest, Format.OCI).manifest is manifest


def test_a_config_that_was_given_no_type_becomes_an_image_s() -> None:
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor("application/octet-stream", b"{}"),
        "layers": [],
    }
    config = convert(Manifest.parse(document(value)), Format.OCI).manifest.config
    assert config is not None and config.media_type == OCI_CONFIG


@pytest.mark.parametrize(
    "value",
    [
        oci_image(config=descriptor("application/vnd.oci.empty.v1+json", b"{}")),
        oci_image(layers=[descriptor("application/vnd.in-toto+json", b"{}")]),
    ],
)
def test_an_artifact_is_no_docker_image_and_stays_as_it_is_in_oci(value: dict[str, Any]) -> None:
    manifest = Manifest.parse(document(value))
    assert not convertible(manifest, Format.DOCKER)
    with pytest.raises(ManifestError, match=r"is no image .* no docker manifest"):
        convert(manifest, Format.DOCKER)
    assert convert(manifest, Format.OCI).manifest is manifest


def test_what_has_no_words_in_an_index_is_left_out_and_named() -> None:
    image, other = oci_image(), oci_image(config=descriptor("a/b", b"1"))
    parts = [descriptor(OCI_MANIFEST, document(one)) for one in (image, other)]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": parts}
    manifest = Manifest.parse(document(index))
    docker = convert(Manifest.parse(document(image)), Format.DOCKER).manifest
    first, second = (one.digest for one in manifest.manifests)
    made = convert(manifest, Format.DOCKER, {first: docker.descriptor, second: None})
    assert made.lost == ("manifests[1]",)
    assert made.manifest.media_type == DOCKER_LIST
    assert [one.digest for one in made.manifest.manifests] == [docker.digest]
    with pytest.raises(ManifestError, match="nothing in the index is an image"):
        convert(manifest, Format.DOCKER, {first: None, second: None})


def test_the_algorithm_of_the_digest_stays() -> None:
    raw = document(oci_image())
    manifest = Manifest.parse(raw, None, Digest.of(raw, "sha512"))
    assert convert(manifest, Format.DOCKER).manifest.digest.algorithm == "sha512"


def test_formats_by_name() -> None:
    assert (Format.parse("OCI"), Format.parse(" docker")) == (Format.OCI, Format.DOCKER)
    with pytest.raises(FormatError, match="neither 'oci' nor 'docker'"):
        Format.parse("tar")
