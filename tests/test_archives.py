"""Save and load: what goes in comes out, whoever wrote it."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_archives import (
    COMPRESS,
    NAME,
    Entry,
    blobs,
    config_of,
    docker_old,
    docker_plain,
    keep,
    load,
    members,
    oci,
    packed,
    save,
    sha,
    write_tar,
)
from support_store import QUICK, make_store, names
from test_service import HERE, OTHER

from registry_service.archive import Form, open_archive
from registry_service.digest import Digest
from registry_service.errors import (
    ArchiveError,
    DigestMismatchError,
    PlatformError,
    RegistryError,
    StoreError,
)
from registry_service.manifest import Manifest
from registry_service.observe import Observer
from registry_service.reference import Reference
from registry_service.store import MemorySource, Store
from registry_service.testing.images import (
    Image,
    ImageIndex,
    random_image,
    random_index,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path / "store", retry=QUICK) as made:
        yield made


# round trips

IMAGES = st.builds(
    random_image,
    seed=st.integers(0, 10_000),
    layers=st.integers(0, 4),
    layer_size=st.integers(0, 3000),
    media=st.sampled_from(["oci", "docker"]),
    platform=st.sampled_from([HERE, "linux/arm/v7"]),
)
INDEXES = st.builds(
    random_index,
    seed=st.integers(0, 10_000),
    platforms=st.just([HERE, OTHER]),
    layer_size=st.integers(0, 3000),
    media=st.sampled_from(["oci", "docker"]),
)


@settings(deadline=None, max_examples=25)
@given(image=st.one_of(IMAGES, INDEXES), more=IMAGES)
def test_an_oci_archive_keeps_every_digest(image: Image | ImageIndex, more: Image) -> None:
    second = Reference.parse("more:2")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with make_store(root / "one") as one, make_store(root / "two") as two:
            keep(one, NAME, image)
            keep(one, second, more)
            content = save(one, NAME, second, form=Form.OCI)
            (root / "x.tar").write_bytes(content)
            rows = load(two, root / "x.tar")
            # what the two images share is there when the second comes
            assert {row.state for row in rows} <= {"loaded", "exists"}
            assert two.references() == one.references()
            assert blobs(root / "two") == blobs(root / "one")
            assert save(two, NAME, second, form=Form.OCI) == content


@settings(deadline=None, max_examples=25)
@given(image=IMAGES)
def test_a_docker_archive_keeps_every_diff_id_and_the_configuration(image: Image) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with make_store(root / "one") as one, make_store(root / "two") as two:
            keep(one, NAME, image)
            content = save(one, NAME, form=Form.DOCKER)
            (root / "x.tar").write_bytes(content)
            load(two, root / "x.tar")
            assert config_of(two, NAME) == (image.config, packed(image))
            assert save(two, NAME, form=Form.DOCKER) == content


@pytest.mark.parametrize("form", list(Form))
def test_saving_twice_gives_the_same_bytes_whatever_the_store(tmp_path: Path, form: Form) -> None:
    first, second = random_image(1, platform=HERE), random_image(2, platform=HERE)
    made = []
    for place, order in enumerate([(first, second), (second, first)]):
        with make_store(tmp_path / str(place)) as store:
            for image in order:
                keep(store, NAME.with_tag(str(image is first)), image)
            made.append(save(store, NAME.with_tag("True"), NAME.with_tag("False"), form=form))
    assert made[0] == made[1]
    found = list(members(made[0]))
    assert found == sorted(found)


# saving


def test_a_docker_archive_has_what_each_tool_looks_for(store: Store) -> None:
    image = random_image(1, platform=HERE)
    keep(store, NAME, image)
    store.tag(NAME.with_tag("2"), store.resolve(NAME))  # type: ignore[arg-type]
    found = members(save(store, NAME, NAME.with_tag("2"), form=Form.DOCKER))
    (listed,) = json.loads(found["manifest.json"])
    assert listed["RepoTags"] == [str(NAME), str(NAME.with_tag("2"))]
    assert found[listed["Config"]] == image.config
    assert [sha(found[layer]) for layer in listed["Layers"]] == packed(image)
    assert json.loads(found["repositories"]) == {NAME.name: dict.fromkeys("12", packed(image)[-1])}
    index = json.loads(found["index.json"])
    names = [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]]
    assert names == listed["RepoTags"]
    assert index["manifests"][0]["digest"] == index["manifests"][1]["digest"]


@pytest.mark.parametrize("kind", ["zstd", "plain"])
def test_layers_of_a_docker_archive_are_not_compressed(store: Store, kind: str) -> None:
    image = repacked(random_image(1, platform=HERE), kind)
    keep(store, NAME, image)
    found = members(save(store, NAME, form=Form.DOCKER))
    assert {f"blobs/sha256/{one}" for one in packed(random_image(1, platform=HERE))} <= set(found)


def repacked(image: Image, kind: str) -> Image:
    """The same image with layers compressed otherwise, or not at all."""
    plain = [gzip.decompress(layer) for layer in image.layers]
    layers = [zstd.compress(one) if kind == "zstd" else one for one in plain]
    document = json.loads(image.manifest)
    suffix = "+zstd" if kind == "zstd" else ""
    document["layers"] = [
        {
            "mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}",
            "digest": f"sha256:{sha(one)}",
            "size": len(one),
        }
        for one in layers
    ]
    return with_manifest(image, document, layers)


def with_manifest(image: Image, document: Any, layers: list[bytes]) -> Image:
    raw = json.dumps(document).encode()
    return Image(
        manifest=raw,
        media_type=image.media_type,
        digest=f"sha256:{sha(raw)}",
        config=image.config,
        layers=tuple(layers),
        platform=image.platform,
    )


def test_of_an_index_a_docker_archive_has_one_platform(store: Store) -> None:
    index = random_index(1, platforms=[HERE, OTHER])
    keep(store, NAME, index)
    for platform, wanted in (("", 0), (OTHER, 1)):
        found = members(save(store, NAME, form=Form.DOCKER, platform=platform))
        (listed,) = json.loads(found["manifest.json"])
        assert found[listed["Config"]] == index.images[wanted].config
    for several in ("all", f"{HERE},{OTHER}"):
        with pytest.raises(ArchiveError, match="'oci' has all") as caught:
            save(store, NAME, form=Form.DOCKER, platform=several)
        assert caught.value.status == 2


def test_several_platforms_are_saved_as_an_index_of_those(tmp_path: Path, store: Store) -> None:
    index = random_index(1, platforms=[HERE, OTHER, "linux/arm/v7"])
    keep(store, NAME, index, parts=2)
    content = save(store, NAME, form=Form.OCI, platform=f"{HERE},{OTHER}")
    (tmp_path / "x.tar").write_bytes(content)
    with make_store(tmp_path / "two") as two:
        load(two, tmp_path / "x.tar")
        found = two.resolve(NAME)
        assert found is not None
        manifest = Manifest.parse(two.read(found.digest), found.media_type, found.digest)
        parts = [str(one.digest) for one in manifest.manifests]
        assert parts == [one.digest for one in index.images[:2]]
    with pytest.raises(PlatformError, match="does not have all"):
        save(store, NAME, form=Form.OCI, platform=f"{HERE},linux/arm/v7")


def test_of_an_index_an_oci_archive_has_what_the_store_has(tmp_path: Path, store: Store) -> None:
    index = random_index(1, platforms=[HERE, OTHER])
    keep(store, NAME, index, parts=1)
    told: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(f"{level}: {text}")

    content = save(store, NAME, form=Form.OCI, observer=Observer(log=log))
    assert "1 of 2 parts" in told[0]
    assert OTHER in told[0]
    (tmp_path / "x.tar").write_bytes(content)
    with make_store(tmp_path / "two") as two:
        load(two, tmp_path / "x.tar")
        assert two.references() == store.references()
    with pytest.raises(RegistryError, match=f"it has {HERE}"):
        save(store, NAME, form=Form.OCI, platform=OTHER)
    single = members(save(store, NAME, form=Form.OCI, platform=HERE))
    assert f"blobs/sha256/{index.digest[7:]}" not in single


def test_a_digest_stays_a_name_only_where_it_is_the_image_s(store: Store) -> None:
    image = random_image(1, platform=HERE)
    keep(store, NAME, image)
    pinned = NAME.with_digest(Digest.parse(image.digest))
    (entry,) = json.loads(members(save(store, pinned, form=Form.OCI))["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == str(pinned)
    found = members(save(store, pinned, form=Form.DOCKER))
    assert "annotations" not in json.loads(found["index.json"])["manifests"][0]
    assert json.loads(found["manifest.json"])[0]["RepoTags"] is None
    assert "repositories" not in found


@pytest.mark.parametrize("form", list(Form))
def test_an_image_of_another_platform_than_was_asked_for_is_refused(
    store: Store, form: Form
) -> None:
    keep(store, NAME, random_image(1, platform=OTHER))
    save(store, NAME, form=form, platform=OTHER)
    with pytest.raises(PlatformError, match=f"for {OTHER} only"):
        save(store, NAME, form=form, platform=HERE)


@pytest.mark.parametrize("form", list(Form))
def test_digests_of_other_algorithms_are_kept_and_verified(
    tmp_path: Path, store: Store, form: Form
) -> None:
    image = random_image(1, layers=1, platform=HERE)
    source = MemorySource([image.config])
    layer = source.add(image.layers[0], algorithm="sha512")
    document = json.loads(image.manifest)
    document["layers"][0]["digest"] = str(layer.digest)
    for one in (source.add(image.config), layer):
        store.ensure(one, source).wait()
    store.tag(NAME, store.put(json.dumps(document).encode(), image.media_type))
    (tmp_path / "x.tar").write_bytes(save(store, NAME, form=form))
    with make_store(tmp_path / "two") as two:
        load(two, tmp_path / "x.tar")
        wanted = packed(image) if form is Form.DOCKER else [layer.digest.hex]
        assert config_of(two, NAME) == (image.config, wanted)


def test_what_is_no_image_is_no_docker_archive(store: Store) -> None:
    image = random_image(1)
    document = json.loads(image.manifest)
    document["config"] = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": f"sha256:{sha(b'{}')}",
        "size": 2,
    }
    source = MemorySource([b"{}", *image.layers])
    for raw in (b"{}", *image.layers):
        store.ensure(source.add(raw), source).wait()
    artifact = with_manifest(image, document, list(image.layers))
    store.tag(NAME, store.put(artifact.manifest, artifact.media_type))
    with pytest.raises(ArchiveError, match="no rootfs; save it in the format 'oci'"):
        save(store, NAME, form=Form.DOCKER)
    assert f"blobs/sha256/{sha(b'{}')}" in members(save(store, NAME, form=Form.OCI))


def test_a_layer_that_is_not_its_diff_id_is_not_saved(store: Store) -> None:
    image = random_image(1, platform=HERE)
    document = json.loads(image.manifest)
    document["layers"].reverse()
    keep(store, NAME, with_manifest(image, document, list(image.layers)))
    with pytest.raises(DigestMismatchError):
        save(store, NAME, form=Form.DOCKER)


@pytest.mark.parametrize("form", list(Form))
def test_a_blob_that_was_damaged_in_the_store_is_found_out(store: Store, form: Form) -> None:
    image = random_image(1, platform=HERE)
    keep(store, NAME, image)
    path = store.images / "blobs" / "sha256" / sha(image.layers[1])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises((DigestMismatchError, ArchiveError), match="damaged"):
        save(store, NAME, form=form)


def test_an_image_that_is_not_whole_is_not_saved(store: Store) -> None:
    image = random_image(1, platform=HERE)
    keep(store, NAME, image)
    (store.images / "blobs" / "sha256" / sha(image.layers[1])).unlink()
    for form in Form:
        with pytest.raises(StoreError, match=sha(image.layers[1])):
            save(store, NAME, form=form)


# loading what others wrote


@pytest.mark.parametrize("layout", [docker_old, docker_plain])
def test_layouts_of_docker_are_loaded(
    tmp_path: Path, store: Store, layout: Callable[[Image], dict[str, Any]]
) -> None:
    image = random_image(1)
    rows = load(store, write_tar(tmp_path / "x.tar", layout(image)))
    assert rows[-1].reference == "docker.io/library/app:1"
    name = Reference.parse("app:1")
    assert config_of(store, name) == (image.config, packed(image))
    assert {row.state for row in load(store, tmp_path / "x.tar")} == {"exists"}


def test_links_between_layers_are_followed(tmp_path: Path, store: Store) -> None:
    image = random_image(1, layers=1)
    config = json.loads(image.config)
    config["rootfs"]["diff_ids"] *= 3
    twice = Image(
        manifest=b"",
        media_type="",
        digest="",
        config=json.dumps(config).encode(),
        layers=image.layers * 3,
        platform="",
    )
    load(store, write_tar(tmp_path / "x.tar", docker_old(twice)))
    assert config_of(store, Reference.parse("app:1"))[1] == packed(image) * 3


def test_compressed_layers_stay_as_they_are(tmp_path: Path, store: Store) -> None:
    image = random_image(1)
    load(store, write_tar(tmp_path / "x.tar", docker_plain(image, unpack=False)))
    _, layers = config_of(store, Reference.parse("app:1"))
    assert layers == [sha(layer) for layer in image.layers]


@pytest.mark.parametrize("kind", ["xz", "bzip2"])
def test_layers_compressed_as_no_oci_layer_may_be_are_decompressed(
    tmp_path: Path, store: Store, kind: str
) -> None:
    image = random_image(1, layers=3)
    entries = docker_plain(image)
    first, second = [name for name in entries if name.endswith(".tar")][:2]
    for name in (first, second):  # and the third stays as it is
        content = entries[name]
        assert isinstance(content, bytes)
        entries[name] = COMPRESS[kind](content)
    load(store, write_tar(tmp_path / "x.tar", entries))
    assert config_of(store, Reference.parse("app:1")) == (image.config, packed(image))
    assert names(store.scratch) == []


def test_a_layer_named_twice_is_decompressed_once(tmp_path: Path, store: Store) -> None:
    image = random_image(1, layers=1)
    (layer,) = image.layers
    config = json.loads(image.config)
    config["rootfs"]["diff_ids"] *= 2
    raw = json.dumps(config).encode()
    listed = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l.tar.xz", "l.tar.xz"]}
    entries: dict[str, Entry] = {
        "manifest.json": json.dumps([listed]).encode(),
        "c.json": raw,
        "l.tar.xz": COMPRESS["xz"](gzip.decompress(layer)),
    }
    load(store, write_tar(tmp_path / "x.tar", entries))
    assert config_of(store, Reference.parse("app:1")) == (raw, packed(image) * 2)


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_what_a_layer_is_compressed_with_is_seen_by_its_bytes(store: Store, kind: str) -> None:
    """Whatever the media type says: what was pulled is kept as it is."""
    image = random_image(1, platform=HERE)
    layers = [COMPRESS[kind](gzip.decompress(one)) for one in image.layers]
    document = json.loads(image.manifest)
    for entry, one in zip(document["layers"], layers, strict=True):
        entry |= {"digest": f"sha256:{sha(one)}", "size": len(one)}
        assert entry["mediaType"].endswith("+gzip")
    keep(store, NAME, with_manifest(image, document, layers))
    found = members(save(store, NAME, form=Form.DOCKER))
    assert {f"blobs/sha256/{one}" for one in packed(image)} <= set(found)


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_a_compressed_archive_is_loaded(tmp_path: Path, store: Store, kind: str) -> None:
    image = random_image(1)
    plain = write_tar(tmp_path / "x.tar", docker_plain(image))
    path = tmp_path / "compressed"
    path.write_bytes(COMPRESS[kind](plain.read_bytes()))
    load(store, path)
    assert config_of(store, Reference.parse("app:1")) == (image.config, packed(image))
    assert names(store.scratch) == []


@pytest.mark.parametrize("annotation", ["ref", "containerd"])
def test_names_come_from_the_annotations_of_an_index(
    tmp_path: Path, store: Store, annotation: str
) -> None:
    first, second = random_image(1), random_index(2)
    entries = oci([("example.org/a:1", first), ("b:2", second), ("c:3", first)], annotation)
    load(store, write_tar(tmp_path / "x.tar", entries))
    assert {name: str(one.digest) for name, one in store.references()} == {
        "example.org/a:1": first.digest,
        "docker.io/library/b:2": second.digest,
        "docker.io/library/c:3": first.digest,
    }


@pytest.mark.parametrize("label", ["", "latest", "Not/A:name"])
def test_an_image_without_a_name_gets_one(tmp_path: Path, store: Store, label: str) -> None:
    image = random_image(1)
    path = write_tar(tmp_path / "x.tar", oci([(label, image)]))
    with pytest.raises(ArchiveError, match="give one with 'as'"):
        load(store, path)
    assert store.references() == []
    load(store, path, name=NAME)
    assert [name for name, _ in store.references()] == [str(NAME)]
    unnamed = write_tar(tmp_path / "y.tar", docker_plain(image, None))
    with pytest.raises(ArchiveError, match="has no name"):
        load(store, unnamed)


NO_TAGS = st.sampled_from(["<none>:<none>", "<none>", "app:<none>", ""])
WRONG_TAGS = st.sampled_from(["App:1", "app:-1", "http://example.org/app:1", "a b:1", "_/x", "@"])
TAGS = st.sampled_from(["app:1", "example.org/team/app:2", "[::1]:5000/x", "b"])


@settings(deadline=None, max_examples=25)
@given(
    st.lists(TAGS, max_size=3),
    st.lists(WRONG_TAGS, max_size=3),
    st.lists(NO_TAGS, max_size=2),
    st.randoms(use_true_random=False),
)
def test_tags_of_a_docker_archive_that_are_none_are_left_out(
    good: list[str], wrong: list[str], none: list[str], random: Random
) -> None:
    tags = [*good, *wrong, *none]
    random.shuffle(tags)
    told: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(f"{level}: {text}")

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = write_tar(root / "x.tar", docker_plain(random_image(1, layers=1), tags))
        with (
            make_store(root / "store") as store,
            open_archive(path, scratch=root, observer=Observer(log=log)) as archive,
        ):
            (image,) = archive.images
            assert {str(one) for one in image.names} == {str(Reference.parse(one)) for one in good}
            assert set(image.labels) == set(wrong)
            assert len(told) == bool(wrong)
            assert all("manifest.json: image 1: left out of its names" in one for one in told)
            if good:
                load(store, path)
                config_of(store, Reference.parse(good[0]))
            assert {one for one, _ in store.references()} == {str(one) for one in image.names}


def test_one_name_is_not_for_several_images(tmp_path: Path, store: Store) -> None:
    path = write_tar(tmp_path / "x.tar", oci([("a:1", random_image(1)), ("b:1", random_image(2))]))
    with pytest.raises(ArchiveError, match="has 2 images"):
        load(store, path, name=NAME)
