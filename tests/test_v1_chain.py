"""An OCI image as a chain of V1, and as the OCI image that it was."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_manifests import EMPTY_LAYER as DOCKERS_EMPTY_LAYER
from support_manifests import descriptor, document, layer

from registry_service.cancel import Cancellation
from registry_service.digest import Digest
from registry_service.errors import ManifestError
from registry_service.inflate import EMPTY_DIFF_ID, diff_id
from registry_service.manifest import Manifest
from registry_service.media import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    is_layer,
)
from registry_service.upgrade import KEPT, Layer, Step, UpgradedImage, upgrade
from registry_service.v1.chain import EMPTY_LAYER, Link, chain_of
from registry_service.v1.image import ANCESTRY_LIMIT, check_ancestry, check_chain

LAYERS = [layer(f"file-{number}", b"content %d" % number) for number in range(6)]
NO_FILES = gzip.compress(bytes(1024), mtime=0)
GZIP = f"{OCI_LAYER}+gzip"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    config: bytes
    manifest: Manifest


def image(
    value: dict[str, Any],
    layers: Sequence[bytes] = (),
    *,
    docker: bool = False,
    diff_ids: list[Any] | None = None,
) -> Made:
    """An image whose configuration is ``value`` with the layers' diff ids."""
    plain = [str(Digest.of(gzip.decompress(one))) for one in layers]
    rootfs = {"type": "layers", "diff_ids": plain if diff_ids is None else diff_ids}
    config = document({**value, "rootfs": rootfs})
    kinds = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else (OCI_MANIFEST, OCI_CONFIG)
    of_layers = "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else GZIP
    raw = document(
        {
            "schemaVersion": 2,
            "mediaType": kinds[0],
            "config": descriptor(kinds[1], config),
            "layers": [descriptor(of_layers, one) for one in layers],
        }
    )
    return Made(config=config, manifest=Manifest.parse(raw))


def back(links: Sequence[Link]) -> UpgradedImage:
    return upgrade(
        [
            Step(
                value=link.image.value,
                layer=None
                if link.layer is None
                else Layer(
                    digest=link.layer.digest,
                    size=link.layer.size,
                    diff_id=link.diff_id,
                    media_type=GZIP,
                ),
            )
            for link in links
        ]
    )


def chain(made: Made) -> tuple[Link, ...]:
    return chain_of(made.config, made.manifest)


BUILT: dict[str, Any] = {
    "created": "2024-05-02T00:00:00Z",
    "author": "ann",
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "os.version": "1",
    "config": {
        "Cmd": ["x"],
        "Entrypoint": ["/e"],
        "Env": ["A=1"],
        "Labels": {"l": "1"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}},
        "User": "1:2",
        "WorkingDir": "/w",
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "true"]},
        "Unknown": [1],
    },
    "history": [
        {"created": "2024-05-01T00:00:00Z", "created_by": "/bin/sh -c ADD a"},
        {"created": "2024-05-02T00:00:00Z", "created_by": "ENV A=1", "empty_layer": True},
        {"created": "2024-05-02T00:00:00Z", "created_by": "COPY b", "author": "ann"},
    ],
    "unknown": {"deep": [None]},
}


def test_each_step_of_the_history_is_an_image() -> None:
    links = chain(image(BUILT, LAYERS[:2]))
    assert [one.layer and one.layer.digest for one in links] == [
        Digest.of(LAYERS[0]),
        None,
        Digest.of(LAYERS[1]),
    ]
    low, middle, top = (one.image for one in links)
    assert low.value == {
        "id": low.id,
        "created": "2024-05-01T00:00:00Z",
        "container_config": {"Cmd": ["/bin/sh -c ADD a"]},
        "architecture": "arm64",
        "os": "linux",
    }
    assert middle.value == {
        "id": middle.id,
        "parent": low.id,
        "created": "2024-05-02T00:00:00Z",
        "container_config": {"Cmd": ["ENV A=1"]},
        "architecture": "arm64",
        "os": "linux",
        "throwaway": True,
        "Size": 0,
    }
    whole = {key: value for key, value in BUILT.items() if key != "history"}
    assert top.value == {
        **whole,
        "id": top.id,
        "parent": middle.id,
        "container_config": {"Cmd": ["COPY b"]},
        KEPT: {"added": ["container_config"]},
    }
    check_chain([top, middle, low])
    check_ancestry([top.id, middle.id, low.id], top.id)


def test_it_is_the_same_wherever_it_is_made() -> None:
    links = chain(image(BUILT, LAYERS[:2]))
    assert [one.image.id[:12] for one in links] == ["07c2b7765c18", "fee7d2963d05", "975cab6706b6"]
    assert chain(image(BUILT, LAYERS[:2], docker=True)) != links  # the descriptors differ
    assert [one.image.raw for one in chain(image(BUILT, LAYERS[:2], docker=True))] == [
        one.image.raw for one in links
    ]


def test_the_empty_layer_is_docker_s() -> None:
    assert EMPTY_LAYER == DOCKERS_EMPTY_LAYER
    assert diff_id(io.BytesIO(EMPTY_LAYER), Cancellation()) == (EMPTY_DIFF_ID, True)


def test_images_that_share_what_is_below_share_ids_below() -> None:
    other = {**BUILT, "config": {"Cmd": ["y"]}, "author": "bob"}
    one, two = chain(image(BUILT, LAYERS[:2])), chain(image(other, LAYERS[:2]))
    assert [link.image.raw for link in one[:2]] == [link.image.raw for link in two[:2]]
    assert one[2].image.id != two[2].image.id
    three = chain(image(BUILT, [LAYERS[0], LAYERS[2]]))
    assert three[1].image.id == one[1].image.id
    assert three[2].image.id != one[2].image.id
    four = chain(image(BUILT, [LAYERS[2], LAYERS[1]]))
    assert {link.image.id for link in four}.isdisjoint(link.image.id for link in one)


def test_a_layer_of_no_files_that_the_image_has_stays_a_layer() -> None:
    made = image(BUILT, [LAYERS[0], NO_FILES])
    links = chain(made)
    assert links[2].image.value["throwaway"] is False
    assert [one.digest for one in back(links).manifest.layers] == [
        Digest.of(LAYERS[0]),
        Digest.of(NO_FILES),
    ]
    assert json.loads(back(links).config) == json.loads(made.config)


@pytest.mark.parametrize("history", [BUILT["history"][:1], [*BUILT["history"], {}]])
def test_a_history_that_does_not_fit_gives_an_image_for_each_layer(
    history: list[dict[str, Any]],
) -> None:
    made = image({**BUILT, "history": history}, LAYERS[:2])
    links = chain(made)
    assert [one.layer and one.layer.digest for one in links] == [
        Digest.of(one) for one in LAYERS[:2]
    ]
    assert links[0].image.value["created"] == BUILT["created"]
    config = json.loads(back(links).config)
    assert config == {
        **json.loads(made.config),
        "history": [{"created": BUILT["created"]}, {"created": BUILT["created"], "author": "ann"}],
    }


@pytest.mark.parametrize("none", [{}, {"history": None}, {"history": []}])
def test_no_history_gives_an_image_for_each_layer_and_stays_none(none: dict[str, Any]) -> None:
    value = {key: each for key, each in BUILT.items() if key != "history"}
    made = image({**value, **none}, LAYERS[:3])
    links = chain(made)
    assert len(links) == 3
    assert json.loads(back(links).config) == json.loads(image(value, LAYERS[:3]).config)


@pytest.mark.parametrize("history", [None, [], [{"created_by": "x"}], [{"empty_layer": True}]])
def test_without_layers_there_is_one_empty_image(history: Any) -> None:
    (link,) = chain(image({**BUILT, "history": history}))
    assert (link.layer, link.image.parent, link.image.empty) == (None, "", True)
    made = back([link])
    assert made.manifest.layers == ()
    assert json.loads(made.config)["config"] == BUILT["config"]


def test_fields_of_the_configuration_that_v1_has_its_own_meaning_for_come_back() -> None:
    odd = {"id": 1, "parent": "x", "Size": 7, "throwaway": "t", KEPT: {"config": {"z": 1}}}
    made = image({**BUILT, **odd}, LAYERS[:2])
    assert json.loads(back(chain(made)).config) == json.loads(made.config)


@pytest.mark.parametrize("platform", [{}, {"architecture": "", "os": ""}, {"os": None}])
def test_a_platform_that_nobody_said_is_not_made_up(platform: dict[str, Any]) -> None:
    value = {key: each for key, each in BUILT.items() if key not in ("architecture", "os")}
    made = image({**value, **platform}, LAYERS[:2])
    assert json.loads(back(chain(made)).config) == json.loads(made.config)


def test_an_entry_that_says_that_it_has_a_layer_comes_back() -> None:
    history = [{**one, "empty_layer": one.get("empty_layer", False)} for one in BUILT["history"]]
    made = image({**BUILT, "history": history}, LAYERS[:2])
    assert json.loads(back(chain(made)).config) == json.loads(made.config)


def test_a_container_s_configuration_that_is_there_stays() -> None:
    value = {**BUILT, "container_config": {"Cmd": ["COPY b"], "Env": []}}
    made = image(value, LAYERS[:2])
    top = chain(made)[-1].image.value
    assert top["container_config"] == {"Cmd": ["COPY b"], "Env": []}
    assert KEPT not in top
    assert json.loads(back(chain(made)).config) == json.loads(made.config)


# properties

texts = st.text(max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
sets: st.SearchStrategy[dict[str, Any]] = st.dictionaries(texts, st.just({}), max_size=2)
run_configs = st.fixed_dictionaries(
    {},
    optional={
        "Cmd": st.lists(texts, max_size=2) | st.none(),
        "Entrypoint": st.lists(texts, max_size=2) | st.none(),
        "Env": st.lists(texts, max_size=2),
        "Labels": st.dictionaries(texts, texts, max_size=2),
        "ExposedPorts": sets,
        "Volumes": sets,
        "User": texts,
        "WorkingDir": texts,
        "StopSignal": texts,
        "Healthcheck": st.dictionaries(texts, values, max_size=2),
        "Unknown": values,
    },
)
times = st.sampled_from(["2020-01-01T00:00:00Z", "2021-01-01T00:00:00.5+01:00", "", None])
entries = st.fixed_dictionaries(
    {},
    optional={
        "created": times,
        "created_by": texts,
        "author": texts,
        "comment": texts | st.none(),
        "empty_layer": st.sampled_from([False, None]),
        "unknown": values,
    },
)
NAMES = ["created", "author", "comment", "container_config", "docker_version", "Size", "x", KEPT]
configs = st.fixed_dictionaries(
    {
        "config": run_configs | st.none(),
    },
    optional={
        "architecture": st.sampled_from(["amd64", "arm", "", None]),
        "os": st.sampled_from(["linux", "windows", "", None]),
        "variant": texts,
        "os.version": texts,
        "os.features": st.lists(texts, max_size=2),
        "created": times,
        "author": texts,
        "container_config": run_configs,
    },
)


@st.composite
def images(draw: st.DrawFn) -> Made:
    steps = draw(st.lists(st.tuples(entries, st.booleans()), min_size=1, max_size=5))
    history = [{**entry, "empty_layer": True} if empty else entry for entry, empty in steps]
    blobs = st.sampled_from([*LAYERS, NO_FILES])
    layers = [draw(blobs) for _, empty in steps if not empty]
    more = draw(st.dictionaries(st.sampled_from(NAMES), values, max_size=2))
    value = {**more, **draw(configs), "history": history}
    return image(value, layers, docker=draw(st.booleans()))


@given(images())
def test_an_image_that_went_into_v1_comes_back_as_it_was(made: Made) -> None:
    links = chain(made)
    found = back(links)
    assert json.loads(found.config) == json.loads(made.config)
    assert [(one.digest, one.size) for one in found.manifest.layers] == [
        (one.digest, one.size) for one in made.manifest.layers
    ]
    assert [one.layer for one in links if one.layer is not None] == list(made.manifest.layers)
    check_chain([link.image for link in reversed(links)])
    # and it goes there again as the same
    assert [one.image.raw for one in chain(made)] == [one.image.raw for one in links]
    again = chain_of(found.config, found.manifest)
    assert [one.image.raw for one in again] == [one.image.raw for one in links]


@given(images(), images())
def test_chains_are_the_same_up_to_where_what_they_are_made_of_differs(
    one: Made, two: Made
) -> None:
    first, second = chain(one), chain(two)
    ids = [link.image.id for link in first], [link.image.id for link in second]
    same = sum(a == b for a, b in zip(*ids, strict=False))
    assert ids[0][:same] == ids[1][:same]
    for a in first:
        for b in second:
            assert (a.image.id == b.image.id) == (
                a.image.raw == b.image.raw and a.diff_id == b.diff_id
            )


@given(st.dictionaries(st.sampled_from([*BUILT, "rootfs", *NAMES]), values))
def test_any_configuration_is_a_chain_or_a_manifest_error(value: dict[str, Any]) -> None:
    made = image({}, LAYERS[:1])
    try:
        links = chain_of(document({**json.loads(made.config), **value}), made.manifest)
    except ManifestError:
        return
    check_chain([link.image for link in reversed(links)])


def test_configurations_of_any_depth_are_a_chain_or_a_manifest_error() -> None:
    made = image({}, LAYERS[:1])
    rootfs = document(json.loads(made.config)["rootfs"])
    seen = set()
    for depth in range(850, 1050):
        deep = b"[" * depth + b"]" * depth
        history = b'[{"x":%b},{"empty_layer":true}]' % deep
        raw = b'{"rootfs":%b,"history":%b,"architecture":1}' % (rootfs, history)
        try:
            chain_of(raw, made.manifest)
            seen.add("chain")
        except ManifestError:
            seen.add("error")
    assert seen <= {"chain", "error"}


# what is no image


def manifest_of(**changes: Any) -> Manifest:
    value = json.loads(image(BUILT, LAYERS[:2]).manifest.raw)
    return Manifest.parse(document({**value, **changes}), OCI_MANIFEST)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (
            Manifest.parse(document({"schemaVersion": 2, "manifests": []}), OCI_INDEX),
            "an index is no image",
        ),
        (manifest_of(artifactType="a/b"), "a/b is no image, and V1 has images only"),
        (manifest_of(config=descriptor("c/d", b"{}")), "c/d is no image, and V1 has images only"),
        (
            manifest_of(layers=[descriptor("application/vnd.in-toto+json", b"{}")]),
            r"layers\[0\]: application/vnd.in-toto\+json is no layer of files",
        ),
        (
            manifest_of(layers=[descriptor(f"{GZIP}+encrypted", b"")]),
            r"layers\[0\]: .* is no layer of files",
        ),
        (manifest_of(layers=[]), "rootfs.diff_ids: 2 for 0 layers"),
    ],
)
def test_what_is_no_image_is_said(manifest: Manifest, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        chain_of(image(BUILT, LAYERS[:2]).config, manifest)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"x":NaN}', "NaN is not JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"history":{}}', "history: a list of objects"),
        (b'{"history":[1]}', "history: a list of objects"),
        (b"{}", "rootfs.diff_ids: 0 for 1 layers"),
        (b'{"rootfs":{"diff_ids":{}}}', "rootfs.diff_ids: a list"),
        (b'{"rootfs":{"diff_ids":["x"]}}', "rootfs.diff_ids: 'x' is no digest"),
        (b'{"rootfs":{"diff_ids":[1]}}', "rootfs.diff_ids: a digest is text"),
        (b'{"rootfs":{"diff_ids":["sha256:%b"]},"x":1e999}' % (b"a" * 64), "cannot be written"),
        (
            b'{"rootfs":{"diff_ids":["sha256:%b"]},"history":[{},%b]}'
            % (b"a" * 64, b",".join([b'{"empty_layer":true}'] * ANCESTRY_LIMIT)),
            f"{ANCESTRY_LIMIT + 1} entries",
        ),
    ],
)
def test_what_is_no_configuration_of_the_image_is_said(config: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        chain_of(config, image({}, LAYERS[:1]).manifest)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (OCI_LAYER, True),
        (f"{OCI_LAYER}+zstd", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.dev.cosign.simplesigning.v1+json", False),
        (f"{GZIP}+encrypted", False),
    ],
)
def test_what_is_a_layer(media_type: str, expected: bool) -> None:
    assert is_layer(media_type) is expected
