from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import ManifestError
from registry_service.platform import Platform

DIGEST = Digest.of(b"x")
PLAIN: dict[str, Any] = {"mediaType": "a/b", "digest": str(DIGEST), "size": 1}

descriptors = st.builds(
    Descriptor,
    media_type=st.sampled_from(["text/plain", "application/vnd.oci.image.config.v1+json"]),
    digest=st.binary(max_size=3).map(Digest.of),
    size=st.integers(0, 2**63 - 1),
    platform=st.none() | st.just(Platform.parse("linux/arm/v7")),
    annotations=st.dictionaries(st.text(), st.text(), max_size=3),
    urls=st.lists(st.text(), max_size=2).map(tuple),
    data=st.none() | st.binary(max_size=20),
    artifact_type=st.sampled_from(["", "application/spdx+json"]),
)


@given(descriptors)
def test_round_trip(descriptor: Descriptor) -> None:
    assert Descriptor.from_json(descriptor.to_json()) == descriptor
    assert hash(Descriptor.from_json(descriptor.to_json())) == hash(descriptor)


def test_unknown_fields_and_nulls_are_borne() -> None:
    descriptor = Descriptor.from_json(
        {**PLAIN, "annotations": None, "urls": None, "data": None, "platform": None, "new": [1]}
    )
    assert descriptor == Descriptor(media_type="a/b", digest=DIGEST, size=1)


def test_the_callers_annotations_are_copied() -> None:
    annotations = {"a": "b"}
    descriptor = Descriptor(media_type="a/b", digest=DIGEST, size=1, annotations=annotations)
    annotations["a"] = "c"
    assert descriptor.annotations == {"a": "b"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mediaType": None}, r"layers\[3\]\.mediaType: text is expected, not nothing"),
        ({"mediaType": ""}, r"layers\[3\]\.mediaType: a media type"),
        ({"mediaType": "a b"}, r"layers\[3\]\.mediaType: a media type"),
        ({"digest": "sha256:1"}, r"layers\[3\]\.digest: .*64 hexadecimal digits, here are 1"),
        ({"digest": 7}, r"layers\[3\]\.digest: text is expected, not 7"),
        ({"size": -1}, r"layers\[3\]\.size: .*not -1"),
        ({"size": True}, r"layers\[3\]\.size: .*not True"),
        ({"size": 1.5}, r"layers\[3\]\.size: .*not 1.5"),
        ({"size": "9"}, r"layers\[3\]\.size"),
        ({"size": 2**63}, r"layers\[3\]\.size"),
        ({"annotations": {"k": 1}}, r"layers\[3\]\.annotations\['k'\]: text"),
        ({"annotations": []}, r"layers\[3\]\.annotations: an object is expected, not a list"),
        ({"urls": "http://x"}, r"layers\[3\]\.urls: a list of texts"),
        ({"data": "?"}, r"layers\[3\]\.data: base64"),
        ({"platform": "linux"}, r"layers\[3\]\.platform: an object"),
        ({"platform": {"os": 1, "architecture": ""}}, r"layers\[3\]\.platform\.os: text"),
        ({"artifactType": 1}, r"layers\[3\]\.artifactType"),
    ],
)
def test_the_place_of_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        Descriptor.from_json({**PLAIN, **change}, "layers[3]")


def test_inline_content_counts_where_it_is_what_the_digest_says() -> None:
    whole = Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1, data=b"x")
    assert whole.inline == b"x"
    unknown = Digest.parse("blake3:" + "0" * 64)
    others: list[dict[str, Any]] = [
        {"data": None},
        {"data": b"y"},
        {"size": 2},
        {"data": b"xx", "digest": Digest.of(b"xx")},
        {"digest": unknown},
    ]
    for change in others:
        assert dataclasses.replace(whole, **change).inline is None


def test_a_missing_size_is_named() -> None:
    with pytest.raises(ManifestError, match="size"):
        Descriptor.from_json({"mediaType": "a/b", "digest": str(DIGEST)})


def test_an_object_is_expected() -> None:
    with pytest.raises(ManifestError, match="config: an object is expected, not a list"):
        Descriptor.from_json([], "config")
