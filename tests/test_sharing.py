"""Two users of one daemon, one of whom may not have an image: what the other pulled, or is pulling,
does not reach the first."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support_service import Bench

from engine import Job, Status
from registry_service.platform import Platform
from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image

HERE = str(Platform.here())


def credentials(registry: Registry, user: str, password: str) -> str:
    return json.dumps({"username": user, "password": password, "serveraddress": registry.host})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture(params=["basic", "token"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    """Ann may have everything, Bob what is public or his."""
    auth: Literal["basic", "token"] = request.param
    with Registry(
        auth=auth,
        users={"ann": "a", "bob": "b"},
        access={"ann": ["*"], "bob": ["public/*", "bob/*"]},
    ) as made:
        yield made


def ann(registry: Registry) -> dict[str, Any]:
    return {"authConfig": credentials(registry, "ann", "a")}


def bob(registry: Registry) -> dict[str, Any]:
    return {"authConfig": credentials(registry, "bob", "b")}


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def name_the_blobs_of(registry: Registry, repository: str, image: Image) -> None:
    """A manifest of ``repository`` that names the blobs of an image which it does not have."""
    registry.put_manifest(repository, "1", image.manifest, image.media_type)


@pytest.fixture
def secret(registry: Registry) -> Image:
    image = random_image(1, layer_size=100_000, platform=HERE)
    push_image(registry, "private/app", "1", image)
    return image


def blob_requests(registry: Registry) -> list[tuple[str, str]]:
    return [
        (one.method, one.path.split("/")[2])
        for one in registry.requests
        if "/blobs/" in one.path and one.status != 401
    ]


def test_what_another_pulled_is_not_given_by_its_name(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    reference = f"{registry.host}/private/app:1"
    bench.run("pull", reference, **ann(registry))
    for env in (bob(registry), {}):
        for name in (reference, f"{registry.host}/private/app@{secret.digest}"):
            status, _ = bench.fail("pull", name, **env)
            assert status is Status.ERROR


def test_a_manifest_of_one_s_own_does_not_give_another_s_blobs(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    """At rest."""
    bench.run("pull", f"{registry.host}/private/app:1", **ann(registry))
    name_the_blobs_of(registry, "bob/app", secret)
    status, message = bench.fail("pull", f"{registry.host}/bob/app:1", **bob(registry))
    assert status is Status.ERROR
    assert "does not exist" in message
    assert bench.names == [f"{registry.host}/private/app:1"]


def start(bench: Bench, *args: Any, **env: Any) -> tuple[Job, threading.Thread]:
    job = bench.job(*args, **env)
    thread = threading.Thread(target=job.run)
    thread.start()
    return job, thread


def test_a_manifest_of_one_s_own_does_not_let_join_what_is_in_flight(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    name_the_blobs_of(registry, "bob/app", secret)
    with registry.hold(path="/private/app/blobs/", after=1000) as hold:
        job, thread = start(bench, "pull", f"{registry.host}/private/app:1", **ann(registry))
        assert hold.entered.wait(10)
        # His ends while hers is held.
        status, message = bench.fail("pull", f"{registry.host}/bob/app:1", **bob(registry))
        assert (status, "does not exist" in message) == (Status.ERROR, True)
        assert job.end is None
        hold.release()
    thread.join(20)
    assert job.status is Status.OK, job.stderr.text()
    assert bench.names == [f"{registry.host}/private/app:1"]


def test_who_may_have_it_shares_what_is_at_rest_and_in_flight(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    push_image(registry, "bob/app", "1", secret)
    with registry.hold(path="/private/app/blobs/", after=1000) as hold:
        job, thread = start(bench, "pull", f"{registry.host}/private/app:1", **ann(registry))
        assert hold.entered.wait(10)
        his, his_thread = start(bench, "pull", f"{registry.host}/bob/app:1", **bob(registry))
        registry.wait_for(lambda seen: any("/bob/app/blobs/" in one.path for one in seen))
        hold.release()
    for one, runner in ((job, thread), (his, his_thread)):
        runner.join(20)
        assert one.status is Status.OK, one.stderr.text()
    fetched = [one for one in blob_requests(registry) if one[0] == "GET"]
    assert len(fetched) == len(secret.blobs)
    registry.clear_requests()
    push_image(registry, "public/app", "1", secret)
    bench.run("pull", f"{registry.host}/public/app:1", **bob(registry))
    assert blob_requests(registry) == [("HEAD", "public")] * len(secret.blobs)
    registry.clear_requests()
    bench.run("pull", f"{registry.host}/public/app:1", **bob(registry))
    assert blob_requests(registry) == []


@pytest.mark.parametrize("lies", [False, True])
def test_a_hostile_registry_does_not_get_what_it_names(
    bench: Bench, registry: Registry, secret: Image, lies: bool
) -> None:
    """Bob runs a registry of his own, which may say that it has whatever it is asked for."""
    bench.run("pull", f"{registry.host}/private/app:1", **ann(registry))
    with Registry() as evil:
        name_the_blobs_of(evil, "x", secret)
        if lies:
            for data in secret.blobs.values():
                evil.put_blob("x", data)
            evil.add_fault("corrupt:offset=10,path=/blobs/")
        status, _ = bench.fail("pull", f"{evil.host}/x:1")
        assert status is Status.ERROR
        assert bench.names == [f"{registry.host}/private/app:1"]
        # Nor with a manifest that is in the store: it names no part of its own.
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor(secret.manifest, secret.media_type)],
        }
        evil.put_manifest("y", "1", json.dumps(index).encode(), str(index["mediaType"]))
        status, _ = bench.fail("pull", f"{evil.host}/y:1", platform="all")
        assert status is Status.ERROR
        assert bench.names == [f"{registry.host}/private/app:1"]


def test_an_archive_does_not_get_what_it_names(
    bench: Bench, registry: Registry, secret: Image, tmp_path: Path
) -> None:
    """Bob knows the digests and sizes of what he may not have, and fills in something else."""
    reference = f"{registry.host}/private/app:1"
    bench.run("pull", reference, **ann(registry))
    job = bench.job("save", reference, format="oci")
    assert job.run() is Status.OK, job.stderr.text()
    honest = tmp_path / "honest.tar"
    honest.write_bytes(job.stdout.data())
    forged = tmp_path / "forged.tar"
    layer = secret.layers[0]
    content = honest.read_bytes()
    assert layer in content
    forged.write_bytes(content.replace(layer, bytes(len(layer))))
    status, message = bench.fail("load", str(forged), **{"as": "bob/app:1"})
    assert status is Status.ERROR
    assert "sha256:" in message
    assert bench.names == [reference]
    bench.run("load", str(honest), **{"as": "bob/app:1"})
    assert len(bench.names) == 2


def test_an_honest_registry_with_the_same_image_is_believed_by_its_bytes(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    bench.run("pull", f"{registry.host}/private/app:1", **ann(registry))
    with Registry() as other:
        push_image(other, "x", "1", secret)
        rows = bench.run("pull", f"{other.host}/x:1")
        assert {row["state"] for row in rows} == {"exists"}
        assert len(blob_requests(other)) == len(secret.blobs)
        other.clear_requests()
        bench.run("pull", f"{other.host}/x:1")
        assert [(one.method, one.path) for one in other.requests] == [("HEAD", "/v2/x/manifests/1")]


def test_what_was_pushed_is_known_to_be_there(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    bench.run("pull", f"{registry.host}/private/app:1", **ann(registry))
    with Registry() as other:
        target = f"{other.host}/copy:1"
        bench.run("tag", f"{registry.host}/private/app:1", target)
        bench.run("push", target)
        other.clear_requests()
        rows = bench.run("pull", target)
        assert {row["state"] for row in rows} == {"exists"}
        assert [one.method for one in other.requests] == ["HEAD"]


def test_losing_the_record_costs_proofs_and_nothing_else(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    reference = f"{registry.host}/private/app:1"
    bench.run("pull", reference, **ann(registry))
    for path in (bench.state / "ingest" / "origins").iterdir():
        path.unlink()
    rows = bench.run("pull", reference, **ann(registry))
    assert {row["digest"] for row in rows} == {*secret.blobs, secret.digest}
    assert {row["state"] for row in rows} == {"exists"}
    registry.clear_requests()
    bench.run("pull", reference, **ann(registry))
    assert [one.method for one in registry.requests if one.status == 200] == ["HEAD"]


def test_the_store_is_not_written_when_nothing_is_new(
    bench: Bench, registry: Registry, secret: Image
) -> None:
    reference = f"{registry.host}/private/app:1"
    bench.run("pull", reference, **ann(registry))

    def files() -> dict[Path, tuple[int, int]]:
        found = {}
        for path in bench.state.rglob("*"):
            if path.is_file() and "journal" not in path.name:
                known = path.stat()
                found[path] = known.st_ino, known.st_mtime_ns
        return found

    before = files()
    bench.run("pull", reference, **ann(registry))
    assert files() == before
