"""Images of V1: their JSON, their ids, and the chains that they make."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.digest import Digest
from registry_service.errors import ManifestError
from registry_service.inflate import EMPTY_DIFF_ID
from registry_service.media import OCI_LAYER
from registry_service.upgrade import KEPT, Layer, Step, upgrade
from registry_service.v1.image import (
    ANCESTRY_LIMIT,
    JSON_LIMIT,
    VALUES_LIMIT,
    V1Image,
    check_ancestry,
    check_chain,
    check_image_id,
    is_image_id,
)

A, B, C, D = ("".join(letter * 64) for letter in "abcd")


def image(own: str, parent: str = "", **fields: Any) -> V1Image:
    value = {"id": own, **({"parent": parent} if parent else {}), **fields}
    return V1Image.parse(json.dumps(value).encode(), own)


# the JSON


def test_an_image_keeps_the_bytes_that_came() -> None:
    raw = b'{ "parent" : "%b","id":"%b" , "x": 1.0}\n' % (B.encode(), A.encode())
    found = V1Image.parse(raw, A)
    assert (found.id, found.parent, found.raw) == (A, B, raw)
    assert found.value["x"] == 1.0
    assert "1.0" not in repr(found)


@pytest.mark.parametrize("parent", [None, ""])
def test_the_lowest_has_no_parent(parent: str | None) -> None:
    raw = json.dumps({"id": A, "parent": parent}).encode()
    assert V1Image.parse(raw, A).parent == "" == image(A).parent


def test_it_says_itself_whether_it_is_empty() -> None:
    assert image(A, throwaway=True).empty
    assert not image(A, throwaway="yes").empty
    assert not image(A).empty


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", f"image {A}: its JSON is none"),
        (b"<html>no</html>", "it begins '<html>no</html>'"),
        (b"\xff\xfe", f"image {A}: its JSON is none"),
        (b"[" * 50_000, f"image {A}: its JSON is none"),
        (b'{"id": NaN}', "NaN is not JSON"),
        (b"[]", f"image {A}: its JSON is no object"),
        (b"{}", f"image {A}: its JSON is that of nothing"),
        (json.dumps({"id": B}).encode(), f"image {A}: its JSON is that of '{B}'"),
        (json.dumps({"id": 3}).encode(), f"image {A}: its JSON is that of int '3'"),
        (json.dumps({"id": A, "parent": "../x"}).encode(), f"image {A}: its parent: 64 lower"),
        (json.dumps({"id": A, "parent": B.upper()}).encode(), f"image {A}: its parent: 64 lower"),
        (json.dumps({"id": A, "parent": ["x"]}).encode(), f"image {A}: its parent: 64 lower"),
        (json.dumps({"id": A, "parent": A}).encode(), f"image {A}: it is its own parent"),
        (b" " * (JSON_LIMIT + 1), f"image {A}: its JSON has {JSON_LIMIT + 1} bytes"),
        (b'{"x":[' + b"{}," * VALUES_LIMIT, f"image {A}: its JSON has more than {VALUES_LIMIT} va"),
    ],
)
def test_what_is_no_json_of_the_image_is_said(raw: bytes, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        V1Image.parse(raw, A)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_are_an_image_or_a_manifest_error(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        V1Image.parse(raw, A)


@pytest.mark.parametrize("text", ["", "a", A + "a", A.upper(), A[:-1] + "\n", A[:-1] + "g", None])
def test_what_is_no_id(text: object) -> None:
    assert not is_image_id(text)
    with pytest.raises(ManifestError, match="tag 'x': 64 lower-case hex digits"):
        check_image_id(text, "tag 'x'")


# the ancestry


def test_an_ancestry_is_ids_the_asked_one_first() -> None:
    assert check_ancestry([A, B, C], A) == (A, B, C)
    assert check_ancestry([A], A) == (A,)


@pytest.mark.parametrize(
    ("ancestry", "said"),
    [
        ([], "is empty"),
        ([B, A], f"begins with the image {B}"),
        ([A, B, A], f"has the image {A} more than once"),
        ([A, B, B], f"has the image {B} more than once"),
        ([A, "b"], "entry 1: 64 lower-case hex digits are expected, not 'b'"),
        ([A, None], "entry 1: 64 lower-case hex digits are expected, not nothing"),
        ([A, {"id": B}], "entry 1: 64 lower-case"),
        ([A] * (ANCESTRY_LIMIT + 1), f"has {ANCESTRY_LIMIT + 1} images"),
    ],
)
def test_what_is_no_ancestry_is_said(ancestry: list[object], said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        check_ancestry(ancestry, A)
    assert f"the ancestry of image {A}" in str(caught.value)
    assert said in str(caught.value)


# the chain


def test_a_chain_is_what_its_images_say_of_their_parents() -> None:
    check_chain([image(A, B), image(B, C), image(C)])
    check_chain([image(A)])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        # its end is missing, or a piece of it
        ([image(A, B), image(B, C)], f"image {B}: its parent {C} is not in its ancestry"),
        ([image(A, B), image(C)], f"image {A}: its parent {B} is not in its ancestry"),
        # it goes on after its end
        ([image(A, B), image(B), image(C)], f"image {B}: it has no parent, and its ancestry"),
        ([image(A), image(B)], f"image {A}: it has no parent, and its ancestry goes on with {B}"),
        # it comes back
        ([image(A, B), image(B, A)], f"image {B}: its parent {A} lies upon it"),
        ([image(A, B), image(B, C), image(C, A)], f"image {C}: its parent {A} lies upon it"),
        # it is in another order
        ([image(A, B), image(C), image(B, C)], f"image {A}: its ancestry goes on with {C}"),
        ([image(A, B), image(B), image(B)], f"the image {B} is in its ancestry more than once"),
    ],
)
def test_what_is_no_chain_is_said(images: list[V1Image], said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        check_chain(images)
    assert said in str(caught.value)


@given(st.permutations([A, B, C, D]), st.lists(st.sampled_from([A, B, C, D, ""]), min_size=4))
def test_only_the_chain_itself_is_one(order: list[str], parents: list[str]) -> None:
    """Whatever the images say, what passes is a walk from each to its parent."""
    images = [
        image(own, "" if parent == own else parent)
        for own, parent in zip(order, parents, strict=False)
    ]
    try:
        check_chain(images)
    except ManifestError:
        assert [one.parent for one in images] != [*order[1:], ""]
    else:
        assert [one.parent for one in images] == [*order[1:], ""]


# the OCI image of a chain


def blob(text: str, *, diff_id: Digest | None = None) -> Layer:
    return Layer(
        digest=Digest.of(text.encode()),
        size=len(text),
        diff_id=diff_id or Digest.of(b"plain " + text.encode()),
        media_type=f"{OCI_LAYER}+gzip",
    )


FIELDS: dict[str, Any] = {
    "created": "2014-03-01T00:00:00Z",
    "author": "ann",
    "comment": "the last",
    "container": D,
    "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) CMD [x]"], "Image": B},
    "architecture": "arm",
    "variant": "v6",
    "os": "windows",
    "os.version": "10.0",
    "docker_version": "1.3.0",
    "config": {
        "Cmd": ["x"],
        "Entrypoint": ["/e"],
        "Env": ["A=1"],
        "Labels": {"l": "1"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
        "Healthcheck": {"Test": ["CMD", "true"]},
        "Unknown": [1],
    },
    "unknown": {"deep": [None]},
}


def test_a_chain_becomes_an_image_with_all_that_its_top_says() -> None:
    low = image(A, container_config={"Cmd": ["ADD x"]}, created="2014-01-01T00:00:00Z")
    top = image(B, A, Size=5, **FIELDS)
    first, second = blob("1"), blob("2")
    made = upgrade([Step(value=low.value, layer=first), Step(value=top.value, layer=second)])
    config = json.loads(made.config)
    assert {key: config[key] for key in FIELDS} == FIELDS
    assert config.keys() - FIELDS.keys() == {"rootfs", "history"}
    assert config["rootfs"]["diff_ids"] == [str(first.diff_id), str(second.diff_id)]
    assert config["history"] == [
        {"created": "2014-01-01T00:00:00Z", "created_by": "ADD x"},
        {
            "created": "2014-03-01T00:00:00Z",
            "author": "ann",
            "comment": "the last",
            "created_by": "/bin/sh -c #(nop) CMD [x]",
        },
    ]
    assert [one.digest for one in made.manifest.layers] == [first.digest, second.digest]
    again = upgrade([Step(value=low.value, layer=first), Step(value=top.value, layer=second)])
    assert again == made


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"Cmd": ["a", 1]}, "a 1"),
        ({"Cmd": "a b"}, "a b"),
        ({"Cmd": []}, None),
        ({"Cmd": None}, None),
        ({}, None),
        (None, None),
        ("a", None),
    ],
)
def test_what_made_a_step_is_its_container_s_command(container: Any, said: str | None) -> None:
    value = image(A, container_config=container).value
    (entry,) = json.loads(upgrade([Step(value=value, layer=None)]).config)["history"]
    assert entry.get("created_by") == said


def test_json_of_any_depth_is_an_image_or_a_manifest_error() -> None:
    """Python's own bound is met here or there, by what is around the JSON too."""
    seen = set()
    for depth in range(850, 1050):
        raw = b'{"id":"%b","x":%b%b}' % (A.encode(), b"[" * depth, b"]" * depth)
        try:
            upgrade([Step(value=V1Image.parse(raw, A).value, layer=None)])
            seen.add("image")
        except ManifestError:
            seen.add("error")
    assert seen <= {"image", "error"}


def test_a_layer_of_no_files_is_left_out_unless_its_image_insists() -> None:
    nothing = blob("0", diff_id=EMPTY_DIFF_ID)
    steps = [
        Step(value=image(A).value, layer=nothing),
        Step(value=image(B, A, throwaway=True).value, layer=None),
        Step(value=image(C, B, throwaway=False).value, layer=nothing),
    ]
    made = upgrade(steps)
    assert [one.digest for one in made.manifest.layers] == [nothing.digest]
    history = json.loads(made.config)["history"]
    assert [one.get("empty_layer", False) for one in history] == [True, True, False]


@pytest.mark.parametrize("said", [{}, {"architecture": None, "os": None}, {"architecture": ""}])
def test_a_chain_that_names_no_platform_gets_the_one_that_all_had(said: dict[str, Any]) -> None:
    config = json.loads(upgrade([Step(value=image(A, **said).value, layer=None)]).config)
    assert (config["architecture"], config["os"]) == ("amd64", "linux")


@pytest.mark.parametrize("kept", [None, 1, [], {"added": 1, "config": 2, "history": 3}])
def test_what_was_kept_wrongly_is_ignored(kept: Any) -> None:
    plain = upgrade([Step(value=image(A, **FIELDS).value, layer=None)])
    assert upgrade([Step(value=image(A, **FIELDS, **{KEPT: kept}).value, layer=None)]) == plain


def test_what_was_kept_says_nothing_that_the_json_says_itself() -> None:
    """Else an image would run as one thing there and as another here."""
    layer = blob("1")
    kept = {
        "added": ["architecture", "os", "rootfs", "config", "variant", "unknown", 3],
        "config": {"rootfs": {}, "history": [], "os": "x", "architecture": "y", "config": {}},
    }
    value = image(A, **FIELDS)
    plain = upgrade([Step(value=value.value, layer=layer)])
    assert upgrade([Step(value={**value.value, KEPT: kept}, layer=layer)]) == plain


def test_numbers_that_are_none_are_refused() -> None:
    value = V1Image.parse(b'{"id":"%b","n":1e999}' % A.encode(), A).value
    with pytest.raises(ManifestError, match="its JSON cannot be written"):
        upgrade([Step(value=value, layer=None)])


def test_no_steps_are_no_image() -> None:
    with pytest.raises(ManifestError, match="no steps"):
        upgrade([])
