"""Copy to a V1 registry, from one of V2 and from another one of V1, with what goes wrong."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_manifests import Step, old_image
from support_manifests import layer as old_layer
from support_real import docker_registry, skopeo
from support_referrers import put_artifact
from support_service import Bench
from support_v1_copy import copied, copy_bench, kept, noise, put, states

from engine import Status
from registry_service.digest import Digest
from registry_service.media import SCHEMA1_UNSIGNED
from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image, random_index
from registry_service.testing.v1 import V1Index, V1Registry
from registry_service.testing.v1.images import Chain, push_chain, random_archive, random_chain

NAME = "test/app"
IMAGE = random_image(1, layers=3, layer_size=300_000)
CHAIN = random_chain(1, length=3, file_size=60_000)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with copy_bench(tmp_path / "state") as made:
        yield made


@pytest.fixture
def old() -> Iterator[V1Registry]:
    with V1Registry() as made:
        yield made


@pytest.fixture
def other() -> Iterator[V1Registry]:
    with V1Registry() as made:
        yield made


@pytest.fixture
def new() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def ancestry(old: V1Registry, image_id: str) -> list[str]:
    """The lowest first."""
    found = old.image(image_id)
    assert found is not None
    return list(reversed(json.loads(found.ancestry)))


def layers(old: V1Registry, repository: str, tag: str) -> list[bytes]:
    """Of all images of a chain, the lowest first; each is whole."""
    found = []
    for image_id in ancestry(old, old.tags(repository)[tag]):
        image = old.image(image_id)
        assert image is not None and image.complete
        found.append(image.layer_bytes)
    return found


def assert_same(old: V1Registry, repository: str, tag: str, chain: Chain = CHAIN) -> None:
    assert old.tags(repository)[tag] == chain.id
    for one in chain.images:
        there = old.image(one.id)
        assert there is not None and there.complete
        assert (there.raw, there.layer_bytes) == (one.raw, one.layer)


def gone_through(registry: V1Registry | Registry, *words: str) -> list[str]:
    """The requests that moved something, or those on paths with these words."""
    asked = [one for one in registry.requests if one.method in ("PUT", "PATCH", "DELETE")]
    return [one.path for one in asked if not words or any(word in one.path for word in words)]


# from V2


def test_an_image_becomes_a_chain_and_comes_back_as_it_was(
    bench: Bench, new: Registry, old: V1Registry
) -> None:
    push_image(new, NAME, "1.0", IMAGE)
    rows = bench.run("copy", f"{new.host}/{NAME}:1.0", f"{old.host}/moved/app:2.0")
    assert {row["digest"] for row in rows} == {*IMAGE.blobs, IMAGE.digest}
    assert (len(rows), states(rows)) == (len(IMAGE.blobs) + 1, {"copied"})
    assert rows[-1] == {
        "reference": f"{old.host}/moved/app:2.0",
        "digest": IMAGE.digest,
        "media_type": IMAGE.media_type,
        "size": len(IMAGE.manifest),
        "state": "copied",
    }
    assert [one for one in layers(old, "moved/app", "2.0") if len(one) > 100] == list(IMAGE.layers)
    assert kept(bench) == []
    bench.run("copy", f"{old.host}/moved/app:2.0", f"{new.host}/back")
    config, archives = copied(new, "back", "2.0")
    assert config == json.loads(IMAGE.config)
    assert archives == [gzip.decompress(one) for one in IMAGE.layers]


def test_to_copy_again_moves_nothing(bench: Bench, new: Registry, old: V1Registry) -> None:
    push_image(new, NAME, "1.0", IMAGE)
    names = (f"{new.host}/{NAME}:1.0", f"{old.host}/moved:1.0")
    first = bench.run("copy", *names)
    old.clear_requests()
    new.clear_requests()
    again = bench.run("copy", *names)
    assert states(again) == {"exists"}
    assert [row["digest"] for row in again] == [row["digest"] for row in first]
    assert gone_through(old, "/v1/images/", "/tags/") == []
    assert not [one for one in new.requests if str(Digest.of(IMAGE.layers[0])) in one.path]


def test_every_tag_and_what_tags_share_once(bench: Bench, new: Registry, old: V1Registry) -> None:
    for tag in ("1.0", "latest"):
        push_image(new, NAME, tag, IMAGE)
    push_image(new, NAME, "other", random_image(2, layers=1))
    bench.run("copy", f"{new.host}/{NAME}", f"{old.host}/moved", allTags=True)
    tags = old.tags("moved")
    assert sorted(tags) == ["1.0", "latest", "other"]
    assert tags["1.0"] == tags["latest"]
    sent = gone_through(old, "/layer")
    assert len(sent) == len(set(sent))


def test_of_an_index_one_image_goes(bench: Bench, new: Registry, old: V1Registry) -> None:
    index = random_index(3, platforms=["linux/amd64", "linux/s390x"])
    push_image(new, NAME, "1.0", index)
    names = (f"{new.host}/{NAME}:1.0", f"{old.host}/moved:1.0")
    status, message = bench.fail("copy", *names)
    assert (status, "an index of 2 images" in message) == (Status.ERROR, True)
    assert "linux/s390x" in message
    assert old.requests and gone_through(old) == []
    rows = bench.run("copy", *names, platform="linux/s390x")
    assert rows[-1]["digest"] == index.images[1].digest
    _, message = bench.fail(
        "copy", f"{new.host}/{NAME}:1.0", f"{old.host}/no", platform="plan9/386"
    )
    assert "linux/amd64" in message
    alone = random_index(4, platforms=["linux/arm64"])
    push_image(new, NAME, "2.0", alone)
    assert bench.run("copy", f"{new.host}/{NAME}:2.0", f"{old.host}/moved")[-1]["digest"] == (
        alone.images[0].digest
    )


def test_what_v1_has_no_form_of_is_refused_before_anything_is_sent(
    bench: Bench, new: Registry, old: V1Registry
) -> None:
    push_image(new, NAME, "1.0", IMAGE)
    put_artifact(new, NAME, None, tag="sbom")
    foreign = json.loads(IMAGE.manifest)
    foreign["layers"][0]["urls"] = ["https://example.com/layer"]
    foreign["layers"][0]["digest"] = str(Digest.of(b"elsewhere"))
    new.put_manifest(NAME, "foreign", json.dumps(foreign).encode(), IMAGE.media_type)
    for source, target, words, env in (
        (":1.0", ":1.0", "where nothing belongs to an image", {"referrers": True}),
        (":sbom", ":1.0", "V1 has images only", {}),
        (":foreign", ":1.0", "comes from elsewhere, by its URLs", {}),
        (":1.0", ":1.0", "linux/amd64", {"platform": "linux/s390x"}),
    ):
        status, message = bench.fail(
            "copy", f"{new.host}/{NAME}{source}", f"{old.host}/moved{target}", **env
        )
        assert (status, words in message) == (Status.ERROR, True), message
    status, message = bench.fail("copy", f"{new.host}/{NAME}@{IMAGE.digest}", f"{old.host}/moved")
    assert (status, "V1 knows images by tags; give it one" in message) == (Status.USAGE, True)
    assert gone_through(old) == []


def test_an_image_of_schema_1_is_no_image_to_be_copied(bench: Bench, old: V1Registry) -> None:
    blob = old_layer("file", b"content")
    made = old_image([Step(command="run", blob=blob, throwaway=False)])
    with Registry(any_type=True) as new:
        for one in made.blobs:
            new.put_blob(NAME, one)
        new.put_manifest(NAME, "1", made.raw, SCHEMA1_UNSIGNED)
        _, message = bench.fail("copy", f"{new.host}/{NAME}:1", f"{old.host}/moved")
    assert "a pull makes an OCI image of it" in message


SOURCE_FAULTS = [
    "drop:after=100000,path=/blobs/,method=GET,times=2",
    "drop:after=0,path=/blobs/,method=GET,times=2,reset=yes",
    "status:code=503,path=/blobs/,method=GET,times=2",
    "corrupt:offset=50000,path=/blobs/,method=GET,times=1",
    "no-range",
]
TARGET_FAULTS = [
    "drop:after=20000,path=/layer,method=PUT,times=2",
    "drop:after=0,path=/json,method=PUT,times=2",
    "drop:after=0,path=/checksum,method=PUT,times=1",
    "status:code=503,path=/layer,method=PUT,times=2",
    "status:code=500,path=/tags/,method=PUT,times=2",
    "corrupt:offset=10000,path=/layer,method=PUT,times=1",
    "lost-answer:path=/layer,method=PUT,times=1",
    "lost-answer:path=/json,method=PUT,times=1",
    "lost-answer:path=/checksum,method=PUT,times=1",
    "lost-answer:path=/images,method=PUT,times=1",
]


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_faults_of_a_v2_source_are_survived(
    bench: Bench, new: Registry, old: V1Registry, fault: str
) -> None:
    push_image(new, NAME, "1.0", IMAGE)
    if fault == "no-range":
        new.add_fault("drop:after=100000,path=/blobs/,method=GET,times=1")
    switch = new.add_fault(fault)
    bench.run("copy", f"{new.host}/{NAME}:1.0", f"{old.host}/moved")
    assert switch.hits
    assert [one for one in layers(old, "moved", "1.0") if len(one) > 100] == list(IMAGE.layers)


@pytest.mark.parametrize("fault", TARGET_FAULTS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_faults_of_a_v1_target_are_survived(
    bench: Bench, new: Registry, other: V1Registry, old: V1Registry, fault: str, version: str
) -> None:
    old.add_fault(fault)
    if version == "v2":
        push_image(new, NAME, "1.0", IMAGE)
        bench.run("copy", f"{new.host}/{NAME}:1.0", f"{old.host}/moved")
        assert [one for one in layers(old, "moved", "1.0") if len(one) > 100] == list(IMAGE.layers)
    else:
        push_chain(other, NAME, "1.0", CHAIN)
        bench.run("copy", f"{other.host}/{NAME}:1.0", f"{old.host}/moved")
        assert_same(old, "moved", "1.0")


# from V1


def test_images_of_v1_stay_what_they_are(bench: Bench, other: V1Registry, old: V1Registry) -> None:
    push_chain(other, NAME, "1.0", CHAIN)
    names = (f"{other.host}/{NAME}:1.0", f"{old.host}/moved:2.0")
    rows = bench.run("copy", *names)
    assert_same(old, "moved", "2.0")
    assert [row["digest"] for row in rows] == [one.id for one in CHAIN.images]
    assert [row["size"] for row in rows] == [len(one.layer) for one in CHAIN.images]
    assert states(rows) == {"copied"}
    old.clear_requests()
    other.clear_requests()
    assert states(bench.run("copy", *names)) == {"exists"}
    assert gone_through(old, "/v1/images/", "/tags/") == []
    assert not [one for one in other.requests if one.path.endswith("/layer")]
    assert kept(bench) == []


def test_within_one_v1_registry_a_copy_is_another_tag(bench: Bench, old: V1Registry) -> None:
    push_chain(old, NAME, "1.0", CHAIN)
    rows = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{old.host}/{NAME}:2.0")
    assert [row["state"] for row in rows] == ["exists", "exists", "copied"]
    assert old.tags(NAME) == {"1.0": CHAIN.id, "2.0": CHAIN.id}


def test_every_tag_of_a_v1_repository_and_a_broken_one_is_told(
    bench: Bench, other: V1Registry, old: V1Registry
) -> None:
    push_chain(other, NAME, ["1.0", "9.0"], CHAIN)
    (bad,) = put(other, [b"this is no archive at all" * 40], "5.0")
    status, message = bench.fail("copy", f"{other.host}/{NAME}", f"{old.host}/moved", allTags=True)
    assert status is Status.ERROR
    assert "1 of 3 tags" in message and bad in message
    assert old.tags("moved") == {"1.0": CHAIN.id, "9.0": CHAIN.id}
    sent = gone_through(old, f"{CHAIN.id}/layer")
    assert len(sent) == 1
    asked = [one for one in old.requests if one.path.endswith(f"{CHAIN.id}/json")]
    assert [one.method for one in asked] == ["GET", "PUT"]
    # again, it is asked for once for both tags, and no tag is put
    old.clear_requests()
    bench.fail("copy", f"{other.host}/{NAME}", f"{old.host}/moved", allTags=True)
    asked = [one for one in old.requests if one.path.endswith(f"{CHAIN.id}/json")]
    assert [one.method for one in asked] == ["GET"]
    assert gone_through(old, "/tags/") == []


def test_a_plain_layer_of_v1_is_compressed(
    bench: Bench, other: V1Registry, old: V1Registry
) -> None:
    archive = random_archive(3)
    put(other, [archive])
    bench.run("copy", f"{other.host}/{NAME}:1.0", f"{old.host}/moved")
    (layer,) = layers(old, "moved", "1.0")
    assert gzip.decompress(layer) == archive


@pytest.mark.parametrize(
    "fault",
    [
        "drop:after=20000,path=/layer,times=2",
        "status:code=503,path=/layer,times=2",
        "corrupt:offset=20000,path=/layer,times=1",
        "short:after=20000,path=/layer,times=2",
    ],
)
def test_faults_of_a_v1_source_are_survived(
    bench: Bench, other: V1Registry, old: V1Registry, fault: str
) -> None:
    push_chain(other, NAME, "1.0", CHAIN)
    other.add_fault(fault)
    bench.run("copy", f"{other.host}/{NAME}:1.0", f"{old.host}/moved")
    assert_same(old, "moved", "1.0")


# indexes, and moves and back


def test_from_an_index_to_another(bench: Bench) -> None:
    """Images are at registries that the indexes name, with tokens of theirs."""
    ann, bob = {"anna": "secret"}, {"bert": "secret"}
    with (
        V1Registry(role="registry") as here,
        V1Registry(role="registry") as there,
        V1Index(registries=[here], accounts=ann, one_use=True) as mine,
        V1Index(registries=[there], accounts=bob) as theirs,
    ):
        push_chain(here, "anna/app", "1.0", CHAIN)
        mine.set_private("anna/app")
        rows = bench.run(
            "copy",
            f"{mine.host}/anna/app:1.0",
            f"{theirs.host}/bert/app",
            authConfig={"username": "anna", "password": "secret"},
            targetAuthConfig={"username": "bert", "password": "secret"},
            metaHeaders={"X-Side": ["source"]},
            targetMetaHeaders={"X-Side": ["target"]},
        )
        assert states(rows) == {"copied"}
        for side, of in (("source", (mine, here)), ("target", (theirs, there))):
            asked = [one for server in of for one in server.requests if "/app" in one.path]
            assert asked
            assert {one.headers.get("x-side") for one in asked} == {side}
        assert {one.user for one in mine.requests if "/app" in one.path} == {"anna"}
        assert {one.user for one in theirs.requests if "/app" in one.path} == {"bert"}
        assert_same(there, "bert/app", "1.0")
        listed = theirs.images("bert/app")
        assert listed is not None
        assert {one["id"] for one in listed} == {one.id for one in CHAIN.images}
        assert all(one.get("checksum") for one in listed)


def test_a_token_that_runs_out_while_layers_are_read_is_asked_for_again(
    bench: Bench, new: Registry
) -> None:
    with (
        V1Registry(role="registry", cookies=False) as here,
        V1Index(registries=[here]) as index,
    ):
        push_chain(here, NAME, "1.0", CHAIN)
        hold = here.hold(path="/ancestry")
        job = bench.job("copy", f"{index.host}/{NAME}:1.0", f"{new.host}/moved")
        thread = threading.Thread(target=job.run)
        thread.start()
        assert hold.entered.wait(30)
        index.expire_tokens()
        hold.release()
        thread.join(30)
        assert job.status is Status.OK, job.stderr.text()
        assert new.tags("moved") == ["1.0"]


def test_a_real_registry_gives_its_images_to_v1_and_gets_them_back(
    tmp_path: Path, bench: Bench, old: V1Registry
) -> None:
    with docker_registry(tmp_path / "real") as host:
        push_chain(old, NAME, "1.0", CHAIN)
        first = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{host}/moved")
        bench.run("copy", f"{host}/moved:1.0", f"{old.host}/back")
        again = bench.run("copy", f"{old.host}/back:1.0", f"{host}/again")
        assert again[-1]["digest"] == first[-1]["digest"]
        shown = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{host}/again:1.0"))
        assert shown["Digest"] == first[-1]["digest"]


def wrong_layer(new: Registry, image: Image) -> None:
    new.add_fault(f"corrupt:offset=50000,path={Digest.of(image.layers[1])},method=GET")


def missing_layer(new: Registry, image: Image) -> None:
    new.delete_blob(NAME, str(Digest.of(image.layers[1])))


@pytest.mark.parametrize("broken", [wrong_layer, missing_layer])
def test_what_cannot_be_sent_whole_gets_no_name(
    bench: Bench, new: Registry, old: V1Registry, broken: Callable[[Registry, Image], None]
) -> None:
    push_image(new, NAME, "1.0", IMAGE)
    broken(new, IMAGE)
    status, message = bench.fail("copy", f"{new.host}/{NAME}:1.0", f"{old.host}/moved")
    assert (status, str(Digest.of(IMAGE.layers[1])) in message) == (Status.ERROR, True)
    assert old.tags("moved") == {}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cancel_ends_it_whatever_it_waits_for(
    bench: Bench, new: Registry, other: V1Registry, old: V1Registry, version: str, side: str
) -> None:
    put(other, [noise(5_000_000)])
    push_image(new, NAME, "1.0", random_image(5, layers=1, layer_size=5_000_000))
    source: Any = other if version == "v1" else new
    if side == "target":
        hold = old.hold(path="/layer", method="PUT")
    elif version == "v1":
        hold = other.hold(path="/layer", method="GET", after=1_000_000)
    else:
        hold = new.hold(path="/blobs/", method="GET", after=1_000_000)
    job = bench.job("copy", f"{source.host}/{NAME}:1.0", f"{old.host}/moved")
    thread = threading.Thread(target=job.run)
    thread.start()
    assert hold.entered.wait(30)
    job.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert job.status is Status.CANCELLED
    hold.release()
    assert old.tags("moved") == {}
    assert kept(bench) == []
