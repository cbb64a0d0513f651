"""The jobs, in the process, with a damaged store, a wrong registry and a machine in the way."""

from __future__ import annotations

import base64
import fcntl
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Request, scripted
from support_service import Bench

from engine import State, Status
from registry_service.digest import Digest
from registry_service.platform import Platform
from registry_service.store import REF_NAME, disk
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

HERE = str(Platform.here())
OTHER = "linux/s390x"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.mark.parametrize("name", ["convert", "pull", "tag"])
def test_a_cancel_ends_a_job_that_waits_for_the_index_and_it_names_nothing(
    bench: Bench, registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    push_image(registry, "test/app", "2", random_image(2, platform=HERE))
    bench.run("pull", f"{registry.host}/test/app:1")
    args = {
        "convert": [f"{registry.host}/test/app:1", "other:1"],
        "pull": [f"{registry.host}/test/app:2"],
        "tag": [f"{registry.host}/test/app:1", "other:1"],
    }[name]
    waits = threading.Event()
    try_lock = disk.try_lock

    def watched(fd: int, path: Path | str) -> bool:
        got = try_lock(fd, path)
        if not got:
            waits.set()
        return got

    monkeypatch.setattr(disk, "try_lock", watched)
    job = bench.job(name, *args, **({"format": "docker"} if name == "convert" else {}))
    with (bench.state / "ingest" / "index.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        runner = threading.Thread(target=job.run)
        runner.start()
        assert waits.wait(20)
        job.cancel()
        runner.join(1)
        assert not runner.is_alive()
    assert job.state is State.CANCELLED
    assert bench.names == [f"{registry.host}/test/app:1"]


# damage


def damage(bench: Bench, digest: str) -> None:
    """Change a byte of what the store has under that digest."""
    path = bench.state / "images" / "blobs" / Path(*digest.split(":"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("tag", ["a", "b"])
def test_a_pull_makes_a_damaged_manifest_good(bench: Bench, registry: Registry, tag: str) -> None:
    image = random_image(1, platform=HERE)
    for name in ("a", "b"):
        push_image(registry, "test/app", name, image)
    bench.run("pull", f"{registry.host}/test/app:a")
    damage(bench, image.digest)
    rows = bench.run("pull", f"{registry.host}/test/app:{tag}")
    assert (rows[-1]["digest"], rows[-1]["state"]) == (image.digest, "fetched")
    assert bench.broken() == []


def test_a_pull_makes_a_damaged_part_of_an_index_good(bench: Bench, registry: Registry) -> None:
    index = random_index(1, platforms=[HERE, OTHER])
    push_image(registry, "test/multi", "1", index)
    reference = f"{registry.host}/test/multi:1"
    bench.run("pull", reference)
    damage(bench, index.images[0].digest)
    states = {row["digest"]: row["state"] for row in bench.run("pull", reference)}
    assert states.pop(index.images[0].digest) == "fetched"
    assert set(states.values()) == {"exists"}
    assert bench.broken() == []


# what a registry has wrong


def put_index(registry: Registry, repository: str, *parts: dict[str, Any]) -> None:
    """An index of those parts, as they are, under the tag 1."""
    media_type = "application/vnd.oci.image.index.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": list(parts)}
    registry.put_manifest(repository, "1", json.dumps(document).encode(), media_type)


def test_an_index_that_gives_a_wrong_size_is_refused(bench: Bench, registry: Registry) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/multi", "part", image)
    size = len(image.manifest)
    part = {"mediaType": image.media_type, "digest": image.digest, "size": size + 1}
    put_index(registry, "test/multi", part)
    status, message = bench.fail("pull", f"{registry.host}/test/multi:1", platform="all")
    assert status is Status.ERROR
    assert f"{image.digest} has {size} bytes" in message
    assert str(size + 1) in message
    assert bench.names == []


@pytest.mark.parametrize("more", [-1, 1, 100_000])
def test_a_manifest_that_gives_a_layer_another_size_is_refused_soon(
    bench: Bench, registry: Registry, more: int
) -> None:
    image = random_image(1, layers=1, platform=HERE)
    document = json.loads(image.manifest)
    (layer,) = document["layers"]
    size = layer["size"]
    layer["size"] += more
    for blob in image.blobs.values():
        registry.put_blob("test/app", blob)
    registry.put_manifest("test/app", "1", json.dumps(document).encode(), image.media_type)
    status, message = bench.fail("pull", f"{registry.host}/test/app:1")
    assert status is Status.ERROR
    assert f"has {size} bytes, its descriptor says {size + more}" in message
    asked = [one for one in registry.requests if layer["digest"] in one.path]
    assert len(asked) == 2  # a second try, and no more
    assert bench.names == []


def test_no_tag_keeps_the_others_back(bench: Bench, registry: Registry) -> None:
    """Neither wrong bytes nor a refusal; a name that is no tag is left out."""
    names = [None, "bad tag", "", f"sha256:{'a' * 64}", "corrupt", "refused", "whole", "whole"]
    for number, tag in enumerate(("corrupt", "refused", "whole")):
        push_image(registry, "test/app", tag, random_image(number, platform=HERE))
    (layer, *_) = random_image(0, platform=HERE).layers
    registry.add_fault(f"corrupt:offset=10,path=/v2/test/app/blobs/{Digest.of(layer)}")
    registry.add_fault("status:code=403,path=/manifests/refused")

    def tags(request: Request) -> None:
        request.answer(200, {"name": "test/app", "tags": names})

    with scripted(tags) as server, Registry() as target:
        registry.add_fault(f"redirect:to=http://{server.host}/tags,path=/tags/list")
        place = f"{registry.host}/test/app"
        for verb, args in (("pull", ()), ("copy", (f"{target.host}/copy",))):
            job = bench.job(verb, place, *args, allTags=True)
            assert job.run() is Status.ERROR
            assert job.end is not None
            assert f"2 of 3 tags of {place}" in job.end.message
            assert all(f"{tag}: " in job.end.message for tag in ("corrupt", "refused"))
            assert job.stderr.text().count(f"{place} lists what is no tag") == 3
        assert target.tags("copy") == ["whole"]
    assert bench.names == [f"{place}:whole"]


@pytest.mark.parametrize("data", [b"{}", None])
def test_inspect_shows_no_inline_content_that_is_not_what_its_digest_says(
    bench: Bench, registry: Registry, data: bytes | None
) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/app", "1", image)
    document = json.loads(image.manifest)
    document["config"]["data"] = base64.b64encode(data or image.config).decode()
    registry.put_manifest("test/app", "1", json.dumps(document).encode(), image.media_type)
    registry.clear_requests()
    (row,) = bench.run("inspect", f"{registry.host}/test/app:1", remote=True)
    assert row["config"] == json.loads(image.config)
    fetched = [one for one in registry.requests if "/blobs/" in one.path]
    assert len(fetched) == (0 if data is None else 1)


# what other tools did


@pytest.mark.parametrize("name", ["1.0", "app", "Team/App:1", "registry.test/app", "app:1"])
def test_what_no_name_of_ours_leads_to_is_not_listed(
    bench: Bench, registry: Registry, name: str
) -> None:
    """Another tool's entry `1.0` would read as `docker.io/library/1.0`, which finds nothing."""
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    reference = f"{registry.host}/test/app:1"
    bench.run("pull", reference)
    path = bench.state / "images" / "index.json"
    index = json.loads(path.read_bytes())
    (ours,) = index["manifests"]
    theirs = {**ours, "annotations": {REF_NAME: name}}
    path.write_text(json.dumps({**index, "manifests": [ours, theirs]}))
    assert bench.names == [reference]
    for listed in bench.names:
        bench.run("inspect", listed)


def test_a_damaged_store_is_not_hidden_by_the_registry(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    reference = f"{registry.host}/test/app:1"
    bench.run("pull", reference)
    path = bench.state / "images" / "index.json"
    path.write_bytes(path.read_bytes()[:20])
    registry.clear_requests()
    status, message = bench.fail("inspect", reference)
    assert status is Status.ERROR
    assert "index.json is damaged" in message
    assert registry.requests == []


# what the configuration has wrong


@pytest.mark.parametrize("file", ["c.cert", "ca.crt"])
def test_certificates_that_cannot_be_used_are_not_the_user_s_fault(
    tmp_path: Path, file: str
) -> None:
    place = tmp_path / "certs.d" / "registry.test"
    place.mkdir(parents=True)
    (place / file).write_text("nonsense")
    bench = Bench(tmp_path / "state", certs_dirs=[str(tmp_path / "certs.d")])
    status, message = bench.fail("tags", "registry.test/app")
    assert status is Status.ERROR
    assert str(place / file) in message
    assert "Usage" not in message
    bench.engine.shutdown(grace=0)
