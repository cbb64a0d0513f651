from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.digest import Digest
from registry_service.errors import DigestMismatchError, ManifestError
from registry_service.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_LIMIT,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_TYPES,
    Manifest,
)


def blob(name: str, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/octet-stream",
        "digest": str(Digest.of(name.encode())),
        "size": len(name),
        **more,
    }


def image(media_type: str | None = OCI_MANIFEST, **more: Any) -> bytes:
    document = {"schemaVersion": 2, "config": blob("config"), "layers": [blob("a"), blob("b")]}
    if media_type is not None:
        document["mediaType"] = media_type
    return json.dumps({**document, **more}).encode()


def index(media_type: str | None = OCI_INDEX, **more: Any) -> bytes:
    child = blob("child", platform={"os": "linux", "architecture": "arm64", "variant": "v8"})
    document: dict[str, Any] = {"schemaVersion": 2, "manifests": [child]}
    if media_type is not None:
        document["mediaType"] = media_type
    return json.dumps({**document, **more}).encode()


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image(media_type: str) -> None:
    raw = image(media_type, annotations={"k": "v"}, subject=blob("subject"), artifactType="a/t")
    manifest = Manifest.parse(raw, media_type)
    assert bytes(manifest) == raw
    assert manifest.digest == Digest.of(raw)
    assert not manifest.is_index
    assert manifest.config is not None
    assert [child.digest for child in manifest.children] == [
        Digest.of(name) for name in (b"config", b"a", b"b")
    ]
    assert manifest.annotations == {"k": "v"}
    assert manifest.subject is not None and manifest.subject.digest == Digest.of(b"subject")
    assert manifest.artifact_type == "a/t"
    assert manifest.descriptor.size == len(raw)
    assert manifest.descriptor.media_type == media_type


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index(media_type: str) -> None:
    manifest = Manifest.parse(index(media_type), media_type)
    assert manifest.is_index
    assert manifest.config is None and manifest.layers == ()
    assert str(manifest.manifests[0].platform) == "linux/arm64/v8"
    assert manifest.children == manifest.manifests


def test_an_artifact_manifest() -> None:
    raw = json.dumps({"mediaType": OCI_ARTIFACT, "blobs": [blob("sbom")]}).encode()
    manifest = Manifest.parse(raw)
    assert [layer.digest for layer in manifest.layers] == [Digest.of(b"sbom")]
    assert manifest.config is None


def test_repeated_and_absent_layers_are_legal() -> None:
    manifest = Manifest.parse(image(layers=[blob("a"), blob("a"), blob("")]))
    assert len(manifest.layers) == 3
    assert len(manifest.children) == 3  # the configuration, "a" once, the empty one
    assert Manifest.parse(image(layers=[])).layers == ()
    assert Manifest.parse(image(layers=None)).layers == ()
    assert Manifest.parse(index(manifests=None), OCI_INDEX).children == ()


def test_what_a_descriptor_carries_is_kept() -> None:
    layer = blob("a", urls=["https://h.io/a"], data="YQ==", annotations={"k": "v"})
    (found,) = Manifest.parse(image(layers=[layer])).layers
    assert (found.urls, found.data, found.annotations) == (("https://h.io/a",), b"a", {"k": "v"})


@pytest.mark.parametrize(
    ("raw", "given_type", "media_type"),
    [
        (image(), None, OCI_MANIFEST),
        (image(), "text/plain; charset=utf-8", OCI_MANIFEST),
        (image(), "application/json", OCI_MANIFEST),
        (image(), "application/octet-stream", OCI_MANIFEST),
        (image(), f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        (image(), OCI_MANIFEST.upper(), OCI_MANIFEST),
        (image(None), None, OCI_MANIFEST),
        (image(None), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (index(None), "", OCI_INDEX),
        (index(DOCKER_LIST), None, DOCKER_LIST),
    ],
)
def test_the_media_type_is_found(raw: bytes, given_type: str | None, media_type: str) -> None:
    assert Manifest.parse(raw, given_type).media_type == media_type


@pytest.mark.parametrize(
    ("raw", "given_type", "said"),
    [
        (image(), DOCKER_MANIFEST, "the document says .*image.manifest.* its server"),
        (image(), "text/html", "no media type|the document says"),
        (image(None), "text/html", "'text/html' is no media type of a manifest; supported are"),
        (image("a/b"), None, "'a/b' is no media type"),
        (image(None, manifests=[]), OCI_MANIFEST, "manifests: a document of .* must not have it"),
        (index(layers=[]), None, "layers: a document of .* must not have it"),
        (index(config=blob("c")), None, "config: a document of .* must not have it"),
        (image(config=None), OCI_MANIFEST, "config: it is missing"),
        (
            b'{"schemaVersion":2,"mediaType":"%s","config":null}' % OCI_MANIFEST.encode(),
            None,
            "config",
        ),
        (b"{}", None, "neither the server nor the document"),
        (b"[]", None, "not a JSON object"),
        (b"<html>sign in</html>", None, "not JSON: .*it begins '<html>sign in"),
        (b"\xff\xfe{", None, "not JSON"),
        (b'{"a": NaN}', None, "NaN is not JSON"),
        (b"[" * 100_000, None, "not JSON"),
        (image(schemaVersion=3), None, "schemaVersion: 2 is expected, not 3"),
        (image(schemaVersion=True), None, "schema"),
        (image(mediaType=7), None, "mediaType: text"),
        (image(layers={}), None, "layers: a list is expected"),
        (image(layers=[blob("a"), blob("b", digest="x")]), None, r"layers\[1\]\.digest"),
        (image(config=[1]), None, "config: an object"),
        (index(manifests=[blob("a", size=-5)]), None, r"manifests\[0\]\.size"),
        (image(subject=5), None, "subject: an object"),
        (image(artifactType=5), None, "artifactType: text"),
        (image(annotations={"a": 1}), None, "annotations"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, given_type: str | None, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        Manifest.parse(raw, given_type)


def test_layers_must_be_there() -> None:
    raw = json.dumps({"schemaVersion": 2, "config": blob("c")}).encode()
    with pytest.raises(ManifestError, match="layers: it is missing"):
        Manifest.parse(raw, OCI_MANIFEST)


@pytest.mark.parametrize(
    ("raw", "media_type", "said"),
    [
        (image(), SCHEMA1_TYPES[0], "the document says"),
        (image(None), SCHEMA1_TYPES[0], "schemaVersion: 1 is expected, not 2"),
        (b'{"schemaVersion": 1, "fsLayers": []}', OCI_MANIFEST, "schemaVersion: 2 is expected"),
        (b'{"schemaVersion": 1, "fsLayers": []}', None, "history: a list"),
    ],
)
def test_schema_1_and_the_others_are_not_taken_for_each_other(
    raw: bytes, media_type: str | None, said: str
) -> None:
    with pytest.raises(ManifestError, match=said):
        Manifest.parse(raw, media_type)


def test_the_digest_is_verified() -> None:
    raw = image()
    for algorithm in ("sha256", "sha512"):
        digest = Digest.of(raw, algorithm)
        assert Manifest.parse(raw, None, digest).digest == digest
        with pytest.raises(DigestMismatchError) as caught:
            Manifest.parse(raw + b"\n", None, digest)
        assert caught.value.expected == str(digest)
        assert caught.value.size == len(raw) + 1


def test_a_manifest_is_of_a_bounded_size() -> None:
    with pytest.raises(ManifestError, match="are allowed"):
        Manifest.parse(b" " * (MANIFEST_LIMIT + 1))


def test_constructing_one_checks_it_too() -> None:
    raw = image()
    digest = Digest.of(raw)
    assert Manifest(raw=raw, media_type=OCI_MANIFEST, digest=digest) == Manifest.parse(raw)
    for wrong in (DOCKER_MANIFEST, "text/plain"):
        with pytest.raises(ManifestError):
            Manifest(raw=raw, media_type=wrong, digest=digest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
FIELDS = ("mediaType", "schemaVersion", "config", "layers", "manifests", "subject", "annotations")


@given(
    st.sampled_from([image(), index(), image(DOCKER_MANIFEST)]),
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=2),
    st.none() | st.sampled_from(MANIFEST_TYPES),
)
def test_any_document_is_a_manifest_or_a_manifest_error(
    raw: bytes, changes: dict[str, Any], media_type: str | None
) -> None:
    changed = json.dumps({**json.loads(raw), **changes}).encode()
    try:
        manifest = Manifest.parse(changed, media_type)
    except ManifestError:
        return
    assert manifest.raw == changed
    assert manifest.media_type in MANIFEST_TYPES


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_manifest_error(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.parse(raw)
