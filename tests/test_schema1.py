"""Schema 1: what it says, what its digest is made of, and the OCI image that it stands for."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tracemalloc
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from support_manifests import EMPTY_LAYER, KEY, Step, base64url, layer, old_image, signed

from registry_service.cancel import Cancellation
from registry_service.digest import Digest
from registry_service.errors import CancelledError, DigestMismatchError, ManifestError
from registry_service.inflate import EMPTY_DIFF_ID, diff_id
from registry_service.manifest import OCI_MANIFEST, SCHEMA1_TYPES, Manifest
from registry_service.media import OCI_LAYER, SCHEMA1_SIGNED, SCHEMA1_UNSIGNED
from registry_service.schema1 import ManifestData, layers_of
from registry_service.upgrade import Layer, UpgradedImage, upgrade
from registry_service.upgrade import Step as UpgradeStep

FIRST, SECOND = layer("a", b"first"), layer("b", b"second")
STEPS = [
    Step(command="ADD a", blob=FIRST),
    Step(command="ENV x"),
    Step(command="ADD b", blob=SECOND),
]


def data_of(raw: bytes) -> ManifestData:
    found = Manifest.parse(raw).schema1
    assert found is not None
    return found


def upgraded(raw: bytes, *blobs: bytes) -> UpgradedImage:
    found = {}
    for blob in blobs:
        diff, compressed = diff_id(io.BytesIO(blob), Cancellation())
        found[Digest.of(blob)] = Layer(
            digest=Digest.of(blob),
            size=len(blob),
            diff_id=diff,
            media_type=f"{OCI_LAYER}+gzip" if compressed else OCI_LAYER,
        )
    data = data_of(raw)
    steps = [
        UpgradeStep(value=one.compatibility, layer=None if one.empty else found[one.blob_sum])
        for one in layers_of(data)
    ]
    return upgrade(steps, architecture=data.architecture)


# the document


def test_it_is_taken_apart() -> None:
    old = old_image(STEPS)
    manifest = Manifest.parse(old.raw, SCHEMA1_UNSIGNED)
    assert (manifest.config, manifest.layers, manifest.children) == (None, (), ())
    data = manifest.schema1
    assert data is not None
    assert (data.name, data.tag, data.architecture) == ("test/old", "1", "amd64")
    assert data.schema_version == 1
    assert [one.blob_sum for one in data.fs_layers] == [
        Digest.of(blob) for blob in (SECOND, EMPTY_LAYER, FIRST)
    ]
    assert json.loads(data.history[0].v1_compatibility)["os"] == "linux"


def test_the_digest_of_a_signed_one_is_that_of_what_was_signed() -> None:
    old = old_image(STEPS)
    raw = signed(old.raw)
    manifest = Manifest.parse(raw, SCHEMA1_SIGNED)
    assert str(manifest.digest) == old.digest != str(Digest.of(raw))
    assert manifest.raw == raw
    # the digest is that of the very bytes for which the signature holds
    (signature,) = json.loads(raw)["signatures"]
    made = base64.urlsafe_b64decode(signature["signature"] + "==")
    KEY.public_key().verify(
        encode_dss_signature(int.from_bytes(made[:32], "big"), int.from_bytes(made[32:], "big")),
        f"{signature['protected']}.{base64url(old.raw)}".encode(),
        ec.ECDSA(hashes.SHA256()),
    )


@pytest.mark.parametrize("given_type", [None, "application/json", *SCHEMA1_TYPES])
def test_it_is_recognised_whatever_its_server_calls_it(given_type: str | None) -> None:
    old = old_image(STEPS)
    assert str(Manifest.parse(signed(old.raw), given_type).digest) == old.digest
    assert Manifest.parse(old.raw, given_type).media_type in SCHEMA1_TYPES


def test_a_digest_is_verified_against_what_was_signed_or_against_all() -> None:
    old = old_image(STEPS)
    raw = signed(old.raw)
    for algorithm in ("sha256", "sha512"):
        for content in (old.raw, raw):
            digest = Digest.of(content, algorithm)
            assert Manifest.parse(raw, SCHEMA1_SIGNED, digest).digest == digest
    with pytest.raises(DigestMismatchError) as caught:
        Manifest.parse(raw.replace(b"2015", b"2016", 1), SCHEMA1_SIGNED, Digest.parse(old.digest))
    assert caught.value.expected == old.digest


def resigned(raw: bytes, **changes: Any) -> bytes:
    """With another protected header."""
    value = json.loads(raw)
    header = json.loads(base64.urlsafe_b64decode(value["signatures"][0]["protected"] + "=="))
    value["signatures"][0]["protected"] = base64url(json.dumps({**header, **changes}).encode())
    return json.dumps(value, indent=3).encode()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (signed(old_image(STEPS).raw).replace(b'"protected"', b'"x"'), "protected: a JSON object"),
        (resigned(signed(old_image(STEPS).raw), formatLength=10**9), "formatLength is not within"),
        (resigned(signed(old_image(STEPS).raw), formatLength=True), "formatLength is not within"),
        (resigned(signed(old_image(STEPS).raw), formatTail="!"), "protected: a JSON object"),
        (resigned(signed(old_image(STEPS).raw), formatLength=1), "another document"),
        (signed(old_image(STEPS).raw)[:-2] + b',"tag":"2"}', "another document"),
    ],
)
def test_signatures_that_do_not_fit_are_refused(raw: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        Manifest.parse(raw)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fsLayers": [], "history": []}, "fsLayers: there is none"),
        ({"history": []}, "history: 0 entries for 3 layers"),
        ({"fsLayers": None}, "neither the server nor"),
        ({"fsLayers": [1, 2, 3]}, "fsLayers: a list of objects"),
        ({"fsLayers": [{"blobSum": "x"}] * 3}, r"fsLayers\[0\]\.blobSum"),
        ({"history": [{"v1Compatibility": 1}] * 3}, r"history\[0\]\.v1Compatibility: text"),
        ({"name": 1}, "name: text"),
        ({"signatures": 1}, "signatures: a list"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], said: str) -> None:
    raw = json.dumps({**json.loads(old_image(STEPS).raw), **changes}).encode()
    with pytest.raises(ManifestError, match=said):
        Manifest.parse(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(["name", "fsLayers", "history", "signatures", "architecture"]),
        json_values,
        max_size=2,
    ),
    json_values,
)
def test_any_document_is_an_image_or_a_manifest_error(
    changes: dict[str, Any], compatibility: Any
) -> None:
    value = json.loads(old_image(STEPS).raw)
    value["history"][0]["v1Compatibility"] = json.dumps(compatibility)
    raw = json.dumps({**value, **changes}).encode()
    try:
        made = upgraded(raw, FIRST, SECOND, EMPTY_LAYER)
    except ManifestError:
        return
    assert made.manifest.media_type == OCI_MANIFEST


# diff ids


@pytest.mark.parametrize("compressed", [True, False])
def test_a_diff_id_is_of_the_bytes_before_compression(compressed: bool) -> None:
    plain = layer("x", b"y" * 3000, compressed=False)
    blob = layer("x", b"y" * 3000, compressed=compressed)
    told: list[int] = []
    found = diff_id(io.BytesIO(blob), Cancellation(), told.append)
    assert found == (Digest.of(plain), compressed)
    assert told[-1] == len(blob)


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(0, 20))
def test_members_of_a_gzip_file_go_together(parts: list[bytes], padding: int) -> None:
    blob = b"".join(gzip.compress(part) for part in parts) + bytes(padding)
    assert diff_id(io.BytesIO(blob), Cancellation()) == (Digest.of(b"".join(parts)), True)


def test_what_inflates_to_much_takes_little_memory() -> None:
    size = 64 * 1024 * 1024
    blob = gzip.compress(bytes(size), 9)
    tracemalloc.start()
    try:
        found, _ = diff_id(io.BytesIO(blob), Cancellation())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == Digest.of(bytes(size))
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("blob", "said"),
    [
        (FIRST[:-5], "cut short"),
        (FIRST[:10] + b"\xff" * 40, "damaged"),
        (FIRST + b"more", "damaged"),
        (b"BZh91AY", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ],
)
def test_what_is_no_layer_is_said(blob: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        diff_id(io.BytesIO(blob), Cancellation())


def test_a_cancel_ends_it() -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        diff_id(io.BytesIO(FIRST), cancel)


# the image


def test_steps_become_history_and_what_changed_files_becomes_layers() -> None:
    old = old_image(STEPS, config={"Env": ["X=1"], "Cmd": ["/x"]}, author="ann", Size=3)
    made = upgraded(old.raw, FIRST, SECOND)
    config = json.loads(made.config)
    assert [one.digest for one in made.manifest.layers] == [Digest.of(FIRST), Digest.of(SECOND)]
    assert [one.size for one in made.manifest.layers] == [len(FIRST), len(SECOND)]
    assert config["rootfs"] == {
        "type": "layers",
        "diff_ids": [str(Digest.of(gzip.decompress(blob))) for blob in (FIRST, SECOND)],
    }
    assert [one.get("empty_layer", False) for one in config["history"]] == [False, True, False]
    assert config["history"][0] == {
        "created": "2015-06-01T00:00:00Z",
        "created_by": "/bin/sh -c ADD a",
    }
    assert (config["architecture"], config["os"], config["author"]) == ("amd64", "linux", "ann")
    assert config["config"] == {"Env": ["X=1"], "Cmd": ["/x"]}
    assert not {"id", "parent", "Size", "throwaway"} & set(config)
    assert made.manifest.config is not None
    assert made.manifest.config.digest == Digest.of(made.config)


def test_signed_and_unsigned_give_the_same_image() -> None:
    old = old_image(STEPS)
    assert upgraded(old.raw, FIRST, SECOND) == upgraded(signed(old.raw), FIRST, SECOND)


def test_layers_may_repeat_and_those_without_files_are_left_out() -> None:
    nothing = gzip.compress(bytes(1024))
    steps = [
        Step(command="1", blob=FIRST),
        Step(command="2", blob=nothing),
        Step(command="3", throwaway=False),
        Step(command="4", blob=FIRST),
    ]
    made = upgraded(old_image(steps).raw, FIRST, nothing)
    assert [one.digest for one in made.manifest.layers] == [Digest.of(FIRST)] * 2
    history = json.loads(made.config)["history"]
    assert [one.get("empty_layer", False) for one in history] == [False, True, True, False]
    assert Digest.of(gzip.decompress(EMPTY_LAYER)) == EMPTY_DIFF_ID


def test_a_layer_that_is_not_compressed_is_called_so() -> None:
    plain = layer("p", b"plain", compressed=False)
    made = upgraded(old_image([Step(command="1", blob=plain)]).raw, plain)
    assert made.manifest.layers[0].media_type == "application/vnd.oci.image.layer.v1.tar"


def test_a_step_that_is_there_twice_in_a_row_counts_once() -> None:
    value = json.loads(old_image(STEPS).raw)
    for field in ("fsLayers", "history"):
        value[field].insert(1, value[field][1])
    assert len(layers_of(data_of(json.dumps(value).encode()))) == 3


def test_a_chain_of_parents_that_breaks_is_refused() -> None:
    value = json.loads(old_image(STEPS).raw)
    value["history"].pop(1)
    value["fsLayers"].pop(1)
    with pytest.raises(ManifestError, match=r"history\[0\]\.v1Compatibility: its parent"):
        layers_of(data_of(json.dumps(value).encode()))
