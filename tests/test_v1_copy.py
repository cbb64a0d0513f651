"""Copy from a V1 registry to one of V2: what arrives."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Request, scripted
from support_hosts import HostBench, section
from support_real import docker_registry, skopeo
from support_service import Bench
from support_v1_copy import (
    CHAIN,
    LARGE,
    NAME,
    assert_whole,
    copied,
    copy_bench,
    kept,
    noise,
    put,
    states,
)

from engine import Engine, Status
from registry_service.digest import Digest
from registry_service.service import Service
from registry_service.testing import Registry
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import (
    empty_layer,
    push_chain,
    random_archive,
    random_chain,
    random_id,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with copy_bench(tmp_path / "state") as made:
        yield made


@pytest.fixture
def old() -> Iterator[V1Registry]:
    with V1Registry() as made:
        yield made


@pytest.fixture
def new() -> Iterator[Registry]:
    with Registry() as made:
        yield made


# what arrives


@pytest.mark.parametrize("gzipped", [True, False])
def test_an_image_arrives_as_the_oci_image_that_it_stands_for(
    bench: Bench, old: V1Registry, new: Registry, gzipped: bool
) -> None:
    chain = random_chain(2, length=4, gzipped=gzipped)
    push_chain(old, NAME, "1.0", chain)
    rows = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved/app:2.0")
    assert_whole(new, "moved/app", "2.0", chain)
    found = new.manifest("moved/app", "2.0")
    assert found is not None
    assert rows[-1] == {
        "reference": f"{new.host}/moved/app:2.0",
        "digest": found.digest,
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "size": len(found.raw),
        "state": "copied",
    }
    assert (len(rows), states(rows)) == (6, {"copied"})
    if gzipped:
        assert all(new.has_blob("moved/app", str(Digest.of(one.layer))) for one in chain.images)
    assert kept(bench) == []
    assert new.open_uploads == 0


def test_a_target_without_a_tag_gets_the_source_s(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    push_chain(old, NAME, "1.0", CHAIN)
    bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/a")
    assert new.tags("a") == ["1.0"]


def test_to_copy_again_moves_nothing(bench: Bench, old: V1Registry, new: Registry) -> None:
    archive = random_archive(7, 3, 2 * LARGE)
    put(old, [random_archive(6), gzip.compress(archive, 0, mtime=0)])
    names = (f"{old.host}/{NAME}:1.0", f"{new.host}/moved:1.0")
    first = bench.run("copy", *names)
    old.clear_requests()
    new.clear_requests()
    again = bench.run("copy", *names)
    assert states(again) == {"exists"}
    assert {row["digest"] for row in again} == {row["digest"] for row in first}
    assert not [one for one in old.requests if one.path.endswith("/layer")]
    assert {one.method for one in new.requests} <= {"HEAD", "GET"}
    # what the target lost is sent again, and nothing else
    lost = first[0]["digest"]
    new.delete_blob("moved", lost)
    rows = bench.run("copy", *names)
    assert [row["digest"] for row in rows if row["state"] == "copied"] == [lost]
    assert len([one for one in old.requests if one.path.endswith("/layer")]) == 1


def test_an_engine_without_a_store_remembers_as_long_as_it_lives(
    old: V1Registry, new: Registry
) -> None:
    push_chain(old, NAME, "1.0", CHAIN)
    engine = Engine()
    engine.install(Service(), name="registry", settings={"retries": 0})
    for state in ("copied", "exists"):
        old.clear_requests()
        job = engine.job("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved:1.0")
        assert job.run() is Status.OK, job.stderr.text()
        assert states(job.stdout.table().to_dicts()) == {state}
    assert not [one for one in old.requests if one.path.endswith("/layer")]
    engine.shutdown(grace=0)


def test_files_behind_a_web_server_are_a_registry_if_that_is_said(
    tmp_path: Path, new: Registry
) -> None:
    files = {"/v1/repositories/test/app/tags": json.dumps({"1.0": CHAIN.id}).encode()}
    for place, one in enumerate(CHAIN.images):
        above = [below.id for below in reversed(CHAIN.images[: place + 1])]
        files[f"/v1/images/{one.id}/ancestry"] = json.dumps(above).encode()
        files[f"/v1/images/{one.id}/json"] = one.raw
        files[f"/v1/images/{one.id}/layer"] = one.layer

    def handler(request: Request) -> None:
        found = files.get(request.path)
        request.answer(404, "<html>") if found is None else request.answer(200, found)

    with (
        scripted(handler) as server,
        HostBench(tmp_path / "e", section(server.host, version="v1")) as bench,
    ):
        bench.run("copy", f"{server.host}/{NAME}", f"{new.host}/moved", allTags=True)
    assert_whole(new, "moved", "1.0")


def test_another_daemon_sends_no_layer_that_is_small_again(
    tmp_path: Path, bench: Bench, old: V1Registry, new: Registry
) -> None:
    """It reads it, for it does not know what it is, and then asks for it."""
    push_chain(old, NAME, "1.0", CHAIN)
    names = (f"{old.host}/{NAME}:1.0", f"{new.host}/moved:1.0")
    bench.run("copy", *names)
    new.clear_requests()
    other = Bench(tmp_path / "other")
    assert states(other.run("copy", *names)) == {"exists"}
    assert {one.method for one in new.requests} <= {"HEAD", "GET"}
    other.engine.shutdown(grace=0)


def test_every_tag_and_what_tags_share_once(bench: Bench, old: V1Registry, new: Registry) -> None:
    push_chain(old, NAME, ["1.0", "latest"], CHAIN)
    below = CHAIN.images[0]
    old.put_image({"id": random_id("on it"), "parent": below.id}, random_archive(9))
    old.put_tag(NAME, "other", random_id("on it"))
    bench.run("copy", f"{old.host}/{NAME}", f"{new.host}/moved", allTags=True)
    assert sorted(new.tags("moved")) == ["1.0", "latest", "other"]
    assert_whole(new, "moved", "latest")
    asked = [one.path for one in old.requests if one.path.endswith("/layer")]
    assert len(asked) == len(set(asked)) == 4
    asked = [one.path for one in old.requests if one.path.endswith(f"{below.id}/json")]
    assert len(asked) == 1
    layer = str(Digest.of(below.layer))
    asked = [one.path for one in new.requests if one.method == "HEAD" and layer in one.path]
    assert len(asked) == 1
    sent = [one for one in new.requests if one.method in ("PUT", "POST")]
    assert len([one for one in sent if "/manifests/" in one.path]) == 3
    again = bench.run("copy", f"{old.host}/{NAME}", f"{new.host}/moved", allTags=True)
    assert states(again) == {"exists"}


def test_what_another_repository_of_the_target_got_is_mounted(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    """Repositories are built on the same images, large and small."""
    below = put(old, [random_archive(1), noise(LARGE)])[-1]
    for name in ("one", "two"):
        image_id = random_id(name)
        old.put_image({"id": image_id, "parent": below}, random_archive(ord(name[0])))
        old.put_tag(f"test/{name}", "1.0", image_id)
    bench.run("copy", f"{old.host}/test/one:1.0", f"{new.host}/moved/one")
    old.clear_requests()
    rows = bench.run("copy", f"{old.host}/test/two:1.0", f"{new.host}/moved/two")
    assert sorted(row["state"] for row in rows) == ["copied"] * 3 + ["mounted"] * 2
    assert len(copied(new, "moved/two", "1.0")[1]) == 3
    assert len([one for one in old.requests if one.path.endswith("/layer")]) == 1
    assert new.open_uploads == 0


def test_a_mount_that_is_not_for_the_caller_is_a_copy(bench: Bench, old: V1Registry) -> None:
    users = {"ann": "secret", "bob": "secret"}
    access = {"ann": ["anns/*"], "bob": ["bobs/*"]}
    push_chain(old, NAME, "1.0", CHAIN)
    with Registry(auth="token", users=users, access=access) as new:
        for name in users:
            job = bench.job(
                "copy",
                f"{old.host}/{NAME}:1.0",
                f"{new.host}/{name}s/app",
                targetAuthConfig={"username": name, "password": "secret"},
            )
            assert job.run() is Status.OK, job.stderr.text()
            assert states(job.stdout.table().to_dicts()) == {"copied"}
            assert_whole(new, f"{name}s/app", "1.0")
        assert "anns" not in job.stderr.text()
        assert new.open_uploads == 0


def test_a_broken_tag_does_not_keep_the_others_back(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    push_chain(old, NAME, ["1.0", "9.0"], CHAIN)
    (bad,) = put(old, [b"this is no archive at all" * 40], "5.0")
    (gone,) = put(old, [random_archive(3)], "6.0")
    old.delete_image(gone)
    old.put_image(b"no JSON", random_archive(4), image_id=random_id("none"))
    old.put_tag(NAME, "7.0", random_id("none"))
    status, message = bench.fail("copy", f"{old.host}/{NAME}", f"{new.host}/moved", allTags=True)
    assert status is Status.ERROR
    assert "3 of 5 tags of" in message
    for words in (f"5.0: the layer of image {bad}", f"6.0: image {gone} does not exist", "7.0: "):
        assert words in message
    assert new.tags("moved") == ["1.0", "9.0"]
    assert new.open_uploads == 0


def test_layers_of_steps_that_changed_nothing_stay_behind(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    """Those that say so are not even read. One that is kept on purpose is."""
    layers = [random_archive(1), empty_layer(), b"not to be read", bytes(1024)]
    more: list[dict[str, Any]] = [{}, {}, {"throwaway": True}, {"throwaway": False}]
    ids = put(old, layers, more=more)
    rows = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
    config, found = copied(new, "moved", "1.0")
    assert found == [layers[0], bytes(1024)]
    assert [one.get("empty_layer", False) for one in config["history"]] == [
        False, True, True, False,
    ]  # fmt: skip
    assert len(rows) == 4
    assert not new.has_blob("moved", str(Digest.of(empty_layer())))
    assert not [one for one in old.requests if one.path.endswith(f"{ids[2]}/layer")]
    assert states(bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")) == {"exists"}


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, lambda data: data])
def test_what_is_not_gzip_becomes_gzip_and_always_the_same(
    bench: Bench, old: V1Registry, new: Registry, pack: Callable[[bytes], bytes]
) -> None:
    archive = random_archive(11, 2, LARGE)
    assert len(archive) > LARGE
    put(old, [pack(archive)])
    (first, *_) = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/one")
    (again, *_) = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/two")
    assert first["digest"] == again["digest"]
    assert copied(new, "two", "1.0")[1] == [archive]


def test_a_copy_is_the_image_that_a_pull_and_a_push_give(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    chain = random_chain(3, length=3, gzipped=False)
    push_chain(old, NAME, "1.0", chain)
    rows = bench.run("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved:1.0")
    pulled = bench.run("pull", f"{old.host}/{NAME}:1.0")
    assert rows[-1]["digest"] == pulled[-1]["digest"]


def test_a_real_registry_has_the_image_and_skopeo_reads_it(
    tmp_path: Path, bench: Bench, old: V1Registry
) -> None:
    chain = random_chain(4, length=4, file_size=LARGE)
    push_chain(old, NAME, ["1.0", "2.0"], chain)
    with docker_registry(tmp_path / "real") as host:
        bench.run("copy", f"{old.host}/{NAME}", f"{host}/moved/app", allTags=True)
        shown = json.loads(
            skopeo("inspect", "--tls-verify=false", f"docker://{host}/moved/app:1.0")
        )
        assert sorted(shown["RepoTags"]) == ["1.0", "2.0"]
        assert shown["Labels"] == {"seed": "4"}
        layout = tmp_path / "layout"
        skopeo(
            "copy", "--src-tls-verify=false", f"docker://{host}/moved/app:2.0", f"oci:{layout}:it"
        )
        again = bench.run("copy", f"{old.host}/{NAME}", f"{host}/moved/app", allTags=True)
        assert states(again) == {"exists"}


def test_what_is_asked_of_the_image_is_looked_at_first(
    bench: Bench, old: V1Registry, new: Registry
) -> None:
    push_chain(old, NAME, "1.0", CHAIN)
    names = (f"{old.host}/{NAME}:1.0", f"{new.host}/moved:1.0")
    _, message = bench.fail("copy", *names, platform="linux/s390x")
    assert "linux/amd64" in message
    bench.run("copy", *names, platform="linux/amd64")
    digest = f"sha256:{'a' * 64}"
    _, message = bench.fail("copy", f"{old.host}/{NAME}@{digest}", f"{new.host}/no")
    assert "speaks V1, whose images have no digest; name a tag" in message
    _, message = bench.fail("copy", names[0], f"{new.host}/no@{digest}")
    assert "asks for another digest than the image has there" in message
    _, message = bench.fail("copy", f"{old.host}/{NAME}:none", f"{new.host}/no")
    assert f"{NAME}:none does not exist" in message
    _, message = bench.fail("copy", f"{old.host}/test/none:1", f"{new.host}/no")
    assert "does not exist" in message
    assert new.tags("no") == []
