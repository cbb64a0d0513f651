"""Pull from V1: a chain becomes an OCI image, once, and only where all of it is right."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_real import docker_registry, skopeo, umoci
from support_service import Bench
from support_store import damage, make_store
from support_v1_layers import leftovers
from support_v1_pull import Caller, check_image, layer_requests, small_chain

from engine import Status
from registry_service.convert import Format
from registry_service.digest import Digest
from registry_service.errors import (
    DigestMismatchError,
    DoesNotExistError,
    GoneError,
    LayerError,
    ManifestError,
    PlatformError,
    RegistryError,
)
from registry_service.media import DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST
from registry_service.observe import Settled
from registry_service.operations.v1.pull import V1_IMAGE
from registry_service.store import Store
from registry_service.testing.v1 import V1Index, V1Registry, images


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path / "store") as made:
        yield made


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    with V1Registry() as made:
        yield made


@pytest.fixture
def caller(store: Store) -> Iterator[Caller]:
    with Caller(store) as made:
        yield made


@pytest.mark.parametrize("gzipped", [True, False])
def test_a_chain_becomes_an_image(caller: Caller, registry: V1Registry, gzipped: bool) -> None:
    chain = small_chain(gzipped=gzipped)
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    named = caller.pull(name)
    check_image(caller.store, named, chain)
    assert caller.states == ["fetched"] * 3 + ["converted"] * 2
    assert [row.media_type for row in caller.rows[3:]] == [OCI_CONFIG, OCI_MANIFEST]
    assert caller.rows[-1].digest == str(named.digest)
    assert {row.reference for row in caller.rows} == {name}
    assert named.annotations[V1_IMAGE] == chain.id
    assert caller.store.resolve(name) == named
    assert {step[0] for step in caller.moved} == set(chain.ancestry)


def test_an_image_is_the_same_wherever_it_is_pulled(registry: V1Registry, tmp_path: Path) -> None:
    chain = small_chain(gzipped=False)
    images.push_chain(registry, "test/app", "1", chain)
    digests = set()
    for place in ("one", "two"):
        with make_store(tmp_path / place) as store, Caller(store) as caller:
            digests.add(caller.pull(f"{registry.host}/test/app:1").digest)
    assert len(digests) == 1


def test_pulled_again_it_asks_and_moves_and_writes_nothing(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    named = caller.pull(name)
    before = written(caller.store)
    registry.clear_requests()
    assert caller.pull(name) == named
    assert caller.states == ["exists"] * 5
    assert written(caller.store) == before
    asked = [one.path.rpartition("/v1/")[2] for one in registry.requests]
    assert f"images/{chain.id}/json" in asked
    assert not [one for one in asked if one.endswith(("layer", "ancestry"))]


def written(store: Store) -> dict[str, tuple[int, int]]:
    """Every file of the store, and when it was written."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for place in (store.images, store.scratch)
        for path in Path(place).rglob("*")
        if path.is_file()
    }


def test_a_tag_that_moved_on_brings_what_is_new(caller: Caller, registry: V1Registry) -> None:
    chain = small_chain(length=4)
    for one in chain.images:
        registry.put_image(one.raw, one.layer)
    registry.put_tag("test/app", "1", chain.images[2].id)
    caller.pull(f"{registry.host}/test/app:1")
    registry.put_tag("test/app", "1", chain.id)
    registry.clear_requests()
    check_image(caller.store, caller.pull(f"{registry.host}/test/app:1"), chain)
    assert caller.states == ["exists"] * 3 + ["fetched"] + ["converted"] * 2
    assert len(layer_requests(registry)) == 1


def test_another_repository_of_the_registry_gets_what_its_own_registry_sent(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    images.push_chain(registry, "test/other", "1", chain)
    caller.pull(f"{registry.host}/test/app:1")
    registry.clear_requests()
    check_image(caller.store, caller.pull(f"{registry.host}/test/other:1"), chain)
    assert layer_requests(registry) == []
    for row in caller.rows[:3]:
        digest = Digest.parse(row.digest)
        assert caller.store.origins.has(registry.host, "test/other", digest)


def test_two_registries_with_the_same_ids_do_not_get_each_other_s_layers(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    caller.pull(f"{registry.host}/test/app:1")
    with V1Registry() as other:
        for one in chain.images:
            other.put_image(one.raw, None)
        other.put_tag("test/app", "1", chain.id)
        with pytest.raises(DoesNotExistError):
            caller.pull(f"{other.host}/test/app:1")
        for one in chain.images:
            other.put_layer(one.id, one.layer)
        check_image(caller.store, caller.pull(f"{other.host}/test/app:1"), chain)
        assert {one.path.split("/")[-2] for one in layer_requests(other)} == set(chain.ancestry)


def test_docker_s_format_is_made_of_it(caller: Caller, registry: V1Registry) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    named = caller.pull(name, format=Format.DOCKER)
    assert named.media_type == DOCKER_MANIFEST
    assert caller.states[-3:] == ["converted"] * 3
    registry.clear_requests()
    assert caller.pull(name, format=Format.DOCKER) == named
    assert caller.states == ["exists"] * 5
    assert caller.pull(name).media_type == OCI_MANIFEST
    assert layer_requests(registry) == []


def test_another_platform_than_asked_for_is_refused(caller: Caller, registry: V1Registry) -> None:
    images.push_chain(registry, "test/app", "1", small_chain())
    name = f"{registry.host}/test/app:1"
    with pytest.raises(PlatformError, match="linux/amd64 only, not for linux/arm64"):
        caller.pull(name, platform="linux/arm64")
    assert leftovers(caller.store) == []
    caller.pull(name, platform="linux/amd64")
    caller.pull(name, platform="all")


def test_a_platform_that_is_none_is_told_with_the_place_where_it_stands(
    caller: Caller, registry: V1Registry
) -> None:
    (image,) = small_chain(length=1).images
    registry.put_image({**image.json, "os.features": 3}, image.layer)
    registry.put_tag("test/app", "1", image.id)
    said = "the JSON of the image's topmost step: os.features: a list"
    with pytest.raises(PlatformError, match=said):
        caller.pull(f"{registry.host}/test/app:1", platform="linux/amd64")


def test_what_v1_has_no_form_of_is_said(caller: Caller, registry: V1Registry) -> None:
    images.push_chain(registry, "test/app", "1", small_chain())
    with pytest.raises(RegistryError, match="images have no digest; name a tag") as caught:
        caller.pull(f"{registry.host}/test/app@sha256:{'0' * 64}")
    assert caught.value.code == "needs-v2"
    with pytest.raises(DoesNotExistError, match=f"{registry.host}/test/app:2 does not exist"):
        caller.pull(f"{registry.host}/test/app:2")
    caller.pull(f"{registry.host}/test/app:1", referrers=True)
    assert any("nothing belongs to" in text for text in caller.log)


def test_all_tags_come_and_one_that_cannot_does_not_keep_the_others_back(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain(length=3)
    images.push_chain(registry, "test/app", ["1", "latest"], chain)
    registry.put_tag("test/app", "old", chain.images[0].id)
    assert caller.pull_all(f"{registry.host}/test/app") == ["1", "latest", "old"]
    for tag in ("1", "latest"):
        named = caller.store.resolve(f"{registry.host}/test/app:{tag}")
        assert named is not None
        check_image(caller.store, named, chain)
    assert len(layer_requests(registry)) == 3
    registry.put_tag("test/app", "bad", registry.put_image(b"[]", b"", image_id="ee" * 32))
    with pytest.raises(RegistryError, match="1 of 4 tags") as caught:
        caller.pull_all(f"{registry.host}/test/app")
    assert caught.value.code == "incomplete"


def test_steps_that_changed_nothing_have_no_layer(caller: Caller, registry: V1Registry) -> None:
    chain = small_chain()
    middle = chain.images[1]
    registry.put_image(chain.images[0].raw, chain.images[0].layer)
    registry.put_image(middle.raw, images.empty_layer())
    registry.put_image(chain.images[2].raw, chain.images[2].layer)
    registry.put_tag("test/app", "1", chain.id)
    named = caller.pull(f"{registry.host}/test/app:1")
    manifest = json.loads(caller.store.read(named.digest))
    config = json.loads(caller.store.read(Digest.parse(manifest["config"]["digest"])))
    assert len(manifest["layers"]) == 2
    assert [one.get("empty_layer", False) for one in config["history"]] == [False, True, False]
    assert len(caller.rows) == 4


# what is wrong


def broken_checksum(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    one = chain.images[1]
    registry.put_image(one.raw, one.layer, checksums=[f"sha256:{'0' * 64}"])
    return one.id


def other_layer(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    registry.put_layer(chain.images[1].id, chain.images[0].layer)
    return chain.images[1].id


def no_tar(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    registry.put_image(chain.images[1].raw, b"<html>no archive</html>" * 100)
    return chain.images[1].id


def cut_off(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    registry.put_image(chain.images[1].raw, chain.images[1].layer[:-20])
    return chain.images[1].id


def hole(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    top = chain.images[-1]
    registry.put_image(top.raw, top.layer, ancestry=[chain.ancestry[0], chain.ancestry[2]])
    return chain.ancestry[1]


def loop(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    top = chain.images[-1]
    registry.put_image(top.raw, top.layer, ancestry=[*chain.ancestry, *chain.ancestry])
    return top.id


def parents_in_a_loop(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    raw = json.dumps({**chain.images[0].json, "parent": chain.id})
    registry.put_image(raw.encode(), chain.images[0].layer)
    return chain.images[0].id


def missing_image(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    registry.delete_image(chain.images[0].id)
    return chain.images[0].id


def no_json(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    registry.put_image(b"{none", chain.images[1].layer, image_id=chain.images[1].id)
    return chain.images[1].id


def another_s_json(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    registry.put_image(chain.images[0].raw, chain.images[1].layer, image_id=chain.images[1].id)
    return chain.images[1].id


def no_id(registry: V1Registry) -> str:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    top = chain.images[-1]
    registry.put_image(top.raw, top.layer, ancestry=[top.id, "../../../etc/passwd"])
    return "passwd"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (broken_checksum, DigestMismatchError),
        (other_layer, DigestMismatchError),
        (no_tar, LayerError),
        (cut_off, LayerError),
        (hole, ManifestError),
        (loop, ManifestError),
        (parents_in_a_loop, ManifestError),
        (missing_image, DoesNotExistError),
        (no_json, ManifestError),
        (another_s_json, ManifestError),
        (no_id, ManifestError),
    ],
)
def test_what_is_wrong_is_told_and_not_kept(
    caller: Caller, registry: V1Registry, make: object, kind: type[Exception]
) -> None:
    assert callable(make)
    named = make(registry)
    with pytest.raises(kind) as caught:
        caller.pull(f"{registry.host}/test/app:1")
    assert named in str(caught.value)
    assert caller.store.references() == []
    kept = leftovers(caller.store)
    if kind not in (DigestMismatchError, LayerError):
        assert kept == []
    # The other layers were right, and need not come again; of the wrong one there is nothing.
    assert not [one for one in kept if one.endswith((".tmp", ".lease"))]
    assert not [one for one in kept if named[:12] in one]
    assert caller.store.close()
    caller.store.upkeep.sweep_partials(0)
    list(caller.store.upkeep.collect())
    assert [one for one in leftovers(caller.store) if not one.startswith("layers/")] == []


# looking, through the jobs


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


def test_the_jobs_are_the_same_on_v1(bench: Bench, registry: V1Registry) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    [row] = bench.run("inspect", name)
    sizes = [len(one.layer) for one in chain.images]
    assert row["layers"] == [
        {"id": one.id, "size": size} for one, size in zip(chain.images, sizes, strict=True)
    ]
    assert row["size"] == sum(sizes) + len(chain.images[-1].raw)
    assert (row["digest"], row["media_type"], row["source"]) == ("", "", "registry")
    assert row["config"] == chain.images[-1].json
    assert (row["platform"], row["created"]) == ("linux/amd64", chain.images[-1].json["created"])
    rows = bench.run("pull", name)
    assert [one["state"] for one in rows] == ["fetched"] * 3 + ["converted"] * 2
    [again] = bench.run("inspect", name, remote="true")
    [stored] = bench.run("inspect", name)
    assert again["digest"] == stored["digest"] == rows[-1]["digest"]
    assert again["size"] == stored["size"]
    assert [one["digest"] for one in again["layers"]] == [one["digest"] for one in stored["layers"]]
    assert [one["id"] for one in again["layers"]] == [one.id for one in chain.images]
    assert stored["source"] == "store"
    assert {one["state"] for one in bench.run("verify")} == {"ok"}


def test_raw_on_v1_gives_the_image_s_json_and_says_what_there_is_not(
    bench: Bench, registry: V1Registry
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    job = bench.job("raw", name, part="config")
    assert job.run() is Status.OK
    assert job.stdout.data() == chain.images[-1].raw
    for part in ("manifest", "digest"):
        _, message = bench.fail("raw", name, part=part)
        assert "whose images have no manifest; pull it" in message
    _, message = bench.fail("raw", name, part="config", platform="linux/s390x")
    assert "linux/amd64 only" in message
    _, message = bench.fail("inspect", name, platform="linux/s390x")
    assert "linux/amd64 only" in message
    assert leftovers_of(bench) == []


def leftovers_of(bench: Bench) -> list[Path]:
    return [path for path in (bench.state / "images" / "blobs").rglob("*") if path.is_file()]


def test_all_tags_by_the_job(bench: Bench, registry: V1Registry) -> None:
    images.push_chain(registry, "test/app", ["a", "b"], small_chain())
    bench.run("pull", f"{registry.host}/test/app", allTags="true")
    assert bench.names == [f"{registry.host}/test/app:{tag}" for tag in "ab"]


# in trouble


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_pulled_again_what_is_small_is_made_good(
    caller: Caller, registry: V1Registry, part: str, how: str
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    named = caller.pull(name)
    manifest = json.loads(caller.store.read(named.digest))
    digest = {
        "manifest": named.digest,
        "config": Digest.parse(manifest["config"]["digest"]),
        "layer": Digest.parse(manifest["layers"][1]["digest"]),
    }[part]
    path = damage(caller.store, digest)
    if how == "gone":
        path.unlink()
    registry.clear_requests()
    assert caller.pull(name) == named
    check_image(caller.store, named, chain)
    assert len(layer_requests(registry)) == (part == "layer")


@pytest.mark.parametrize("again", [False, True])
def test_a_layer_that_goes_before_the_name_is_given_is_brought_again(
    caller: Caller, registry: V1Registry, again: bool
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    if again:
        caller.pull(name)

    def gone(row: Settled) -> None:
        if row.media_type == OCI_CONFIG:
            digest = Digest.parse(caller.rows[1].digest)
            (caller.store.images / "blobs" / "sha256" / digest.hex).unlink()

    caller.on_row = gone
    registry.clear_requests()
    check_image(caller.store, caller.pull(name), chain)
    assert len(layer_requests(registry)) == (1 if again else 4)


def test_an_image_that_is_removed_while_it_is_pulled_again_is_brought_again(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    caller.pull(name)

    def removed(row: Settled) -> None:
        if caller.store.untag(name):
            assert len(list(caller.store.upkeep.collect(grace=0.0))) == 5

    caller.on_row = removed
    check_image(caller.store, caller.pull(name), chain)


def test_a_layer_that_goes_and_is_another_one_over_there_is_told(
    caller: Caller, registry: V1Registry
) -> None:
    chain = small_chain()
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    caller.pull(name)
    below = chain.images[0]
    registry.put_image(below.raw, chain.images[1].layer)  # its topmost image is as it was

    def gone(row: Settled) -> None:
        if row.media_type == OCI_CONFIG:
            (caller.store.images / "blobs" / "sha256" / Digest.of(below.layer).hex).unlink()

    caller.on_row = gone
    with pytest.raises(GoneError, match="another layer in its place; try again"):
        caller.pull(name)
    caller.on_row = lambda row: None
    named = caller.pull(name)
    manifest = json.loads(caller.store.read(named.digest))
    digests = [str(Digest.of(chain.images[place].layer)) for place in (1, 1, 2)]
    assert [one["digest"] for one in manifest["layers"]] == digests


def test_layers_that_lie_elsewhere_are_fetched_from_there(caller: Caller) -> None:
    chain = small_chain(file_size=30_000)
    with V1Registry(redirect_layers=True) as registry:
        images.push_chain(registry, "test/app", "1", chain)
        drops = registry.origin.add_fault("drop:after=9000,times=2")
        check_image(caller.store, caller.pull(f"{registry.host}/test/app:1"), chain)
        assert drops.hits == 2


@pytest.mark.parametrize(
    "kind", [{"one_use": True}, {"token_lifetime": 1000.0}, {"repeated": True}], ids=str
)
def test_an_index_that_gives_tokens_of_every_kind(caller: Caller, kind: dict[str, Any]) -> None:
    chain = small_chain(length=12)
    with (
        V1Registry(role="registry") as registry,
        V1Index(registries=[registry], accounts={"anna": "secret"}, **kind) as index,
    ):
        images.push_chain(registry, "anna/app", "1", chain)
        check_image(caller.store, caller.pull(f"{index.host}/anna/app:1"), chain)


def test_a_token_that_ran_out_on_the_way_is_asked_for_again(caller: Caller) -> None:
    chain = small_chain(length=12)
    with (
        V1Registry(role="registry", cookies=False) as registry,
        V1Index(registries=[registry], accounts={"anna": "secret"}) as index,
    ):
        images.push_chain(registry, "anna/app", "1", chain)
        hold = registry.hold(path="*/layer")

        def expire() -> None:
            hold.entered.wait(30)
            index.expire_tokens()
            hold.release()

        late = threading.Thread(target=expire)
        late.start()
        try:
            check_image(caller.store, caller.pull(f"{index.host}/anna/app:1"), chain)
        finally:
            hold.release()
            late.join()


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [("_CHAIN_LIMIT", 2000, "bytes and more; 2000"), ("_CHAIN_VALUES", 50, "values and more; 50")],
)
def test_a_chain_whose_images_say_too_much_is_refused(
    caller: Caller,
    registry: V1Registry,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    most: int,
    said: str,
) -> None:
    monkeypatch.setattr(f"registry_service.operations.v1.source.{limit}", most)
    images.push_chain(registry, "test/app", "1", small_chain())
    with pytest.raises(ManifestError, match=f"{said} are allowed"):
        caller.pull(f"{registry.host}/test/app:1")
    assert leftovers(caller.store) == []


# with the tools that people have


@pytest.mark.parametrize("gzipped", [True, False])
def test_skopeo_and_umoci_read_what_was_pulled(
    caller: Caller, registry: V1Registry, tmp_path: Path, gzipped: bool
) -> None:
    chain = small_chain(gzipped=gzipped, config={"Cmd": ["/bin/true"]})
    images.push_chain(registry, "test/app", "1", chain)
    name = f"{registry.host}/test/app:1"
    named = caller.pull(name)
    source = f"oci:{caller.store.images}:{name}"
    shown = json.loads(skopeo("inspect", source))
    assert shown["Digest"] == str(named.digest)
    assert len(shown["Layers"]) == 3
    config = json.loads(skopeo("inspect", "--config", source))
    assert config["config"]["Cmd"] == chain.images[-1].json["config"]["Cmd"]
    skopeo("copy", source, f"docker-archive:{tmp_path / 'image.tar'}")  # which reads every layer
    umoci("unpack", "--rootless", "--image", f"{caller.store.images}:{name}", tmp_path / "bundle")
    unpacked = {path.name for path in (tmp_path / "bundle" / "rootfs").iterdir()}
    assert unpacked == {"dir-1000", "dir-1001", "dir-1002"}


def test_debian_s_registry_takes_what_was_pulled(bench: Bench, registry: V1Registry) -> None:
    images.push_chain(registry, "test/app", "1", small_chain())
    name = f"{registry.host}/test/app:1"
    with docker_registry(bench.state / "registry") as host:
        rows = bench.run("pull", name)
        target = f"{host}/test/app:1"
        bench.run("tag", name, target)
        assert bench.run("push", target)[-1]["digest"] == rows[-1]["digest"]
        [seen] = bench.run("inspect", target, remote="true")
        assert seen["digest"] == rows[-1]["digest"]
