"""Copy: from registry to registry, against the shipped one, with what goes wrong on the way."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_manifests import Step, layer, old_image
from support_referrers import SBOM, artifact, client, put_artifact, put_fallback
from support_service import Bench

from engine import Status
from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
)
from registry_service.manifest import OCI_INDEX
from registry_service.media import SCHEMA1_UNSIGNED
from registry_service.observe import Observer
from registry_service.referrers import describe
from registry_service.session.blob import RemoteBlob
from registry_service.session.relay import Relay, RelayFile
from registry_service.testing import Registry
from registry_service.testing.images import (
    Image,
    push_image,
    push_synthetic_image,
    random_image,
    random_index,
)
from registry_service.transport import BodyError, Transport
from registry_service.transport.retry import RetryPolicy

NAME = "test/app"
IMAGE = random_image(1, layers=3, layer_size=300_000)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state", retries=3, retry_wait_max=0.05)
    yield made
    made.engine.shutdown(grace=0)
    assert not [t for t in threading.enumerate() if t.name.startswith("copy")]


@pytest.fixture
def source() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def target() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def digests(image: Image) -> set[str]:
    return {*image.blobs, image.digest}


def shown(rows: list[dict[str, Any]]) -> set[str]:
    return {row["digest"] for row in rows}


def states(rows: list[dict[str, Any]]) -> set[str]:
    return {row["state"] for row in rows}


def assert_whole(registry: Registry, repository: str, tag: str, image: Image) -> None:
    found = registry.manifest(repository, tag)
    assert found is not None
    assert (found.raw, found.media_type) == (image.manifest, image.media_type)
    for digest, data in image.blobs.items():
        assert registry.blob(repository, digest) == data


def test_an_image_arrives_byte_for_byte_and_not_through_the_store(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1.0", IMAGE)
    rows = bench.run("copy", f"{source.host}/{NAME}:1.0", f"{target.host}/moved/app:2.0")
    assert shown(rows) == digests(IMAGE)
    assert len(rows) == len(shown(rows))
    assert states(rows) == {"copied"}
    assert rows[-1] == {
        "reference": f"{target.host}/moved/app:2.0",
        "digest": IMAGE.digest,
        "media_type": IMAGE.media_type,
        "size": len(IMAGE.manifest),
        "state": "copied",
    }
    assert_whole(target, "moved/app", "2.0", IMAGE)
    assert not list((bench.state / "images" / "blobs").glob("*/*"))
    assert target.open_uploads == 0


def test_what_exists_is_never_sent(bench: Bench, source: Registry, target: Registry) -> None:
    push_image(source, NAME, "1", IMAGE)
    target.put_blob("moved/app", IMAGE.layers[0])
    rows = bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved/app")
    by_digest = {row["digest"]: row["state"] for row in rows}
    assert by_digest.pop(str(Digest.of(IMAGE.layers[0]))) == "exists"
    assert set(by_digest.values()) == {"copied"}
    target.clear_requests()
    source.clear_requests()
    rows = bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved/app")
    assert states(rows) == {"exists"}
    assert {one.method for one in target.requests} <= {"HEAD", "GET"}
    assert sum(one.sent for one in source.requests) < 10_000


def test_a_target_without_a_tag_gets_the_source_s(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1.0", IMAGE)
    bench.run("copy", f"{source.host}/{NAME}:1.0", f"{target.host}/a")
    assert target.tags("a") == ["1.0"]
    bench.run("copy", f"{source.host}/{NAME}@{IMAGE.digest}", f"{target.host}/b")
    assert target.tags("b") == []
    assert target.manifest("b", IMAGE.digest) is not None


def test_within_one_registry_blobs_are_mounted(bench: Bench, source: Registry) -> None:
    push_image(source, NAME, "1", IMAGE)
    rows = bench.run("copy", f"{source.host}/{NAME}:1", f"{source.host}/moved/app:1")
    assert {row["state"] for row in rows[:-1]} == {"mounted"}
    assert rows[-1]["state"] == "copied"
    assert_whole(source, "moved/app", "1", IMAGE)
    assert sum(one.received for one in source.requests) <= len(IMAGE.manifest)


def test_within_one_repository_a_copy_is_another_tag(bench: Bench, source: Registry) -> None:
    push_image(source, NAME, "1", IMAGE)
    rows = bench.run("copy", f"{source.host}/{NAME}:1", f"{source.host}/{NAME}:2")
    assert {row["state"] for row in rows[:-1]} == {"exists"}
    assert source.tags(NAME) == ["1", "2"]


def test_a_mount_that_is_refused_is_an_upload(bench: Bench) -> None:
    users = {"ann": "secret", "bob": "secret"}
    access = {"ann": ["pull:test/*"], "bob": ["moved/*"]}
    with Registry(auth="token", users=users, access=access) as registry:
        push_image(registry, NAME, "1", IMAGE)
        rows = bench.run(
            "copy",
            f"{registry.host}/{NAME}:1",
            f"{registry.host}/moved/app:1",
            authConfig={"username": "ann", "password": "secret"},
            targetAuthConfig={"username": "bob", "password": "secret"},
        )
        assert states(rows) == {"copied"}
        assert_whole(registry, "moved/app", "1", IMAGE)
        assert registry.open_uploads == 0


def test_an_index_goes_whole_or_one_platform_of_it(
    bench: Bench, source: Registry, target: Registry
) -> None:
    index = random_index(3, platforms=["linux/amd64", "linux/s390x"])
    push_image(source, NAME, "1", index)
    name = f"{source.host}/{NAME}:1"
    rows = bench.run("copy", name, f"{target.host}/one:1", platform="linux/s390x")
    assert shown(rows) == digests(index.images[1])
    assert_whole(target, "one", "1", index.images[1])
    rows = bench.run("copy", name, f"{target.host}/whole:1")
    assert shown(rows) == {index.digest}.union(*map(digests, index.images))
    found = target.manifest("whole", "1")
    assert found is not None
    assert found.raw == index.manifest
    status, message = bench.fail("copy", name, f"{target.host}/no:1", platform="linux/riscv64")
    assert (status, "linux/s390x" in message) == (Status.ERROR, True)
    assert target.tags("no") == []


def test_of_several_platforms_an_index_of_those(
    bench: Bench, source: Registry, target: Registry
) -> None:
    index = random_index(3, platforms=["linux/amd64", "linux/s390x", "linux/arm64"])
    push_image(source, NAME, "1", index)
    name, wanted = f"{source.host}/{NAME}:1", "linux/arm64,linux/amd64"
    rows = bench.run("copy", name, f"{target.host}/two:1", platform=wanted)
    assert shown(rows) == {rows[-1]["digest"]}.union(
        digests(index.images[0]), digests(index.images[2])
    )
    found = target.manifest("two", "1")
    assert found is not None
    assert (found.digest, found.media_type) == (rows[-1]["digest"], index.media_type)
    made, whole = json.loads(found.raw), json.loads(index.manifest)
    assert made == {**whole, "manifests": [whole["manifests"][0], whole["manifests"][2]]}
    again = bench.run("copy", name, f"{target.host}/two:1", platform=wanted)
    assert states(again) == {"exists"}
    # all that there is, named one by one, is the index itself
    wanted = f"{wanted},linux/s390x"
    assert bench.run("copy", name, f"{target.host}/w:1", platform=wanted)[-1]["digest"] == (
        index.digest
    )
    status, message = bench.fail("copy", name, f"{target.host}/no", platform="linux/amd64,plan9")
    assert (status, "plan9" in message) == (Status.USAGE, True)
    by_digest = f"{source.host}/{NAME}@{index.digest}"
    status, message = bench.fail("copy", by_digest, f"{target.host}/no", platform="linux/amd64")
    assert (status, "give it a tag" in message) == (Status.USAGE, True)
    assert target.tags("no") == []


def test_every_tag_is_copied_and_a_broken_one_is_told(
    bench: Bench, source: Registry, target: Registry
) -> None:
    images = {str(n): random_image(n, layers=1) for n in range(3)}
    for tag, image in images.items():
        push_image(source, NAME, tag, image)
    bench.run("copy", f"{source.host}/{NAME}", f"{target.host}/moved", allTags=True)
    for tag, image in images.items():
        assert_whole(target, "moved", tag, image)
    source.put_manifest(NAME, "0", b"{}", "application/json")
    status, message = bench.fail(
        "copy", f"{source.host}/{NAME}", f"{target.host}/again", allTags=True
    )
    assert (status, "1 of 3 tags" in message) == (Status.ERROR, True)
    assert target.tags("again") == ["1", "2"]
    status, message = bench.fail(
        "copy", f"{source.host}/{NAME}:1", f"{target.host}/again", allTags=True
    )
    assert (status, "Usage: copy" in message) == (Status.USAGE, True)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("here", [True, False])
def test_what_belongs_to_the_image_goes_along(bench: Bench, here: bool, there: bool) -> None:
    with Registry(referrers=here) as source, Registry(referrers=there) as target:
        push_image(source, NAME, "1", IMAGE)
        sbom = put_artifact(source, NAME, IMAGE)
        inner = put_artifact(source, NAME, sbom, b"of the sbom")
        put_fallback(source, NAME, IMAGE.digest, describe(sbom).to_json())
        put_fallback(source, NAME, str(sbom.digest), describe(inner).to_json())
        tag = IMAGE.digest.replace(":", "-") + ".sig"
        signed = put_artifact(source, NAME, None, b"signature", tag=tag)
        name = f"{target.host}/moved:1"
        plain = bench.run("copy", f"{source.host}/{NAME}:1", name)
        assert str(sbom.digest) not in shown(plain)
        rows = bench.run("copy", f"{source.host}/{NAME}:1", name, referrers=True)
        assert {str(one.digest) for one in (sbom, inner, signed)} <= shown(rows)
        assert rows[-1]["digest"] == IMAGE.digest
        assert len(rows) == len(shown(rows))
        (row,) = bench.run("referrers", name)
        assert (row["digest"], row["artifact_type"]) == (str(sbom.digest), SBOM)
        (row,) = bench.run("referrers", f"{target.host}/moved@{sbom.digest}")
        assert row["digest"] == str(inner.digest)
        found = target.manifest("moved", tag)
        assert found is not None
        assert found.digest == str(signed.digest)
        again = bench.run("copy", f"{source.host}/{NAME}:1", name, referrers=True)
        assert states(again) == {"exists"}


def test_all_tags_do_not_write_over_the_target_s_own_list(bench: Bench) -> None:
    with Registry(referrers=False) as source, Registry(referrers=False) as target:
        push_image(source, NAME, "1", IMAGE)
        theirs = put_artifact(source, NAME, IMAGE, b"theirs")
        tag = put_fallback(source, NAME, IMAGE.digest, describe(theirs).to_json())
        push_image(target, "moved", "1", IMAGE)
        own = put_artifact(target, "moved", IMAGE, b"own")
        put_fallback(target, "moved", IMAGE.digest, describe(own).to_json())
        bench.run("copy", f"{source.host}/{NAME}", f"{target.host}/moved", allTags=True)
        found = target.manifest("moved", tag)
        assert found is not None
        listed = {one["digest"] for one in json.loads(found.raw)["manifests"]}
        assert listed == {str(own.digest), str(theirs.digest)}


@pytest.mark.parametrize("referrers", [False, True])
def test_a_list_of_referrers_is_copied_whatever_the_platform(bench: Bench, referrers: bool) -> None:
    with Registry(referrers=False) as source, Registry(referrers=False) as target:
        push_image(source, NAME, "1", IMAGE)
        sbom = put_artifact(source, NAME, IMAGE)
        tag = put_fallback(source, NAME, IMAGE.digest, describe(sbom).to_json())
        bench.run(
            "copy",
            f"{source.host}/{NAME}",
            f"{target.host}/moved",
            allTags=True,
            platform="linux/amd64",
            referrers=referrers,
        )
        found = target.manifest("moved", tag)
        assert found is not None
        (listed,) = json.loads(found.raw)["manifests"]
        assert listed["digest"] == str(sbom.digest)
        (row,) = bench.run("referrers", f"{target.host}/moved:1")
        assert row["digest"] == str(sbom.digest)


def test_each_side_gets_its_own_credentials_and_headers(bench: Bench) -> None:
    with (
        Registry(auth="token", users={"ann": "of the source"}) as source,
        Registry(users={"bob": "of the target"}) as target,
    ):
        push_image(source, NAME, "1", IMAGE)
        ours = {
            "authConfig": {"username": "ann", "password": "of the source"},
            "metaHeaders": {"X-Side": ["source"]},
            "targetAuthConfig": {"username": "bob", "password": "of the target"},
            "targetMetaHeaders": {"X-Side": ["target"]},
        }
        names = (f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
        job = bench.job("copy", *names, **ours)
        assert job.run() is Status.OK, job.stderr.text()
        assert "of the" not in job.stderr.text()
        assert "of the" not in repr(job.env)
        asked = [one for one in source.requests if one.path.startswith(f"/v2/{NAME}")]
        assert {one.headers.get("x-side") for one in asked} == {"source"}
        assert {one.user for one in asked} == {"ann"}
        sent = [one for one in target.requests if one.path.startswith("/v2/moved")]
        assert {one.headers.get("x-side") for one in sent} == {"target"}
        assert {one.user for one in sent} == {"bob"}
        _, message = bench.fail("copy", *names, authConfig=ours["authConfig"])
        assert f"{target.host} asks for a login" in message
        status, message = bench.fail("copy", *names, targetAuthConfig="{")
        assert status is Status.USAGE
        assert message.startswith("targetAuthConfig:")
        status, message = bench.fail("copy", *names, targetMetaHeaders={"a b": ["c"]})
        assert status is Status.USAGE
        assert message.startswith("targetMetaHeaders:")


def test_within_one_registry_one_set_of_credentials_is_enough(bench: Bench) -> None:
    with Registry(auth="token", users={"ann": "secret"}) as registry:
        push_image(registry, NAME, "1", IMAGE)
        rows = bench.run(
            "copy",
            f"{registry.host}/{NAME}:1",
            f"{registry.host}/moved:1",
            authConfig={"username": "ann", "password": "secret"},
        )
        assert {row["state"] for row in rows[:-1]} == {"mounted"}


# what goes wrong


def test_a_source_that_breaks_is_gone_on_with_where_it_broke(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", IMAGE)
    layer = Digest.of(IMAGE.layers[0])
    source.add_fault(f"drop:after=100000,path=/blobs/{layer},method=GET,times=2")
    bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert_whole(target, "moved", "1", IMAGE)
    asked = [one for one in source.requests if one.path.endswith(f"/blobs/{layer}")]
    assert [one.range for one in asked] == ["", "bytes=100000-", "bytes=200000-"]
    assert target.open_uploads == 0


def test_a_source_without_ranges_is_read_past_what_is_known(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", IMAGE)
    layer = Digest.of(IMAGE.layers[0])
    source.add_fault(f"drop:after=100000,path=/blobs/{layer},method=GET,times=1")
    source.add_fault("no-range")
    bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert_whole(target, "moved", "1", IMAGE)


def test_a_target_that_breaks_gets_the_blob_again(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", IMAGE)
    target.add_fault("drop:after=100000,path=/blobs/uploads/,method=PUT,times=2")
    bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert_whole(target, "moved", "1", IMAGE)


def test_wrong_bytes_never_arrive(bench: Bench, source: Registry, target: Registry) -> None:
    push_image(source, NAME, "1", IMAGE)
    layer = Digest.of(IMAGE.layers[0])
    source.add_fault(f"corrupt:path=/blobs/{layer},method=GET,offset=1000")
    status, message = bench.fail("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert status is Status.ERROR
    assert str(layer) in message
    assert not target.has_blob("moved", str(layer))
    assert target.tags("moved") == []


def test_wrong_bytes_once_are_fetched_anew(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", IMAGE)
    layer = Digest.of(IMAGE.layers[0])
    source.add_fault(f"corrupt:path=/blobs/{layer},method=GET,offset=1000,times=1")
    bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert_whole(target, "moved", "1", IMAGE)


def test_a_blob_that_is_sent_in_parts_is_fetched_once(
    tmp_path: Path, source: Registry, target: Registry
) -> None:
    parts = Bench(tmp_path / "parts", retries=3, retry_wait_max=0.05, upload_chunk=65_536)
    push_image(source, NAME, "1", IMAGE)
    layer = Digest.of(IMAGE.layers[0])
    parts.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert_whole(target, "moved", "1", IMAGE)
    assert len([one for one in target.requests if one.method == "PATCH"]) > 3
    asked = [one for one in source.requests if one.path.endswith(f"/blobs/{layer}")]
    assert len(asked) == 1
    # and wrong bytes are noticed before the last part is sent whole
    source.add_fault(f"corrupt:path=/blobs/{layer},method=GET,offset=1000")
    _, message = parts.fail("copy", f"{source.host}/{NAME}:1", f"{target.host}/wrong:1")
    assert "the digest" in message
    assert not target.has_blob("wrong", str(layer))
    parts.engine.shutdown(grace=0)


def test_a_copy_that_failed_goes_on_with_what_is_missing(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", IMAGE)
    last = Digest.of(IMAGE.layers[-1])
    hold = source.add_fault(f"status:code=500,path=/blobs/{last},method=GET")
    bench.fail("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    hold.remove()
    there = {digest for digest in IMAGE.blobs if target.has_blob("moved", digest)}
    rows = bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert {row["digest"] for row in rows if row["state"] == "exists"} == there
    assert_whole(target, "moved", "1", IMAGE)


def test_a_missing_blob_is_told_by_name_and_soon(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", IMAGE)
    layer = Digest.of(IMAGE.layers[0])
    source.delete_blob(NAME, str(layer))
    status, message = bench.fail("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    assert (status, str(layer) in message) == (Status.ERROR, True)
    asked = [one for one in source.requests if one.path.endswith(f"/blobs/{layer}")]
    assert len(asked) == 1
    assert target.tags("moved") == []
    status, message = bench.fail("copy", f"{source.host}/{NAME}:no", f"{target.host}/moved:1")
    assert (status, f"{NAME}:no does not exist" in message) == (Status.ERROR, True)


def test_a_cancel_ends_both_sides(bench: Bench, source: Registry, target: Registry) -> None:
    push_image(source, NAME, "1", IMAGE)
    hold = source.hold(path="/blobs/sha256", method="GET", after=50_000)
    job = bench.job("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    thread = threading.Thread(target=job.run)
    thread.start()
    assert hold.entered.wait(10)
    job.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert job.status is Status.CANCELLED
    assert target.tags("moved") == []
    hold.release()


def test_layers_that_are_elsewhere_stay_there(
    bench: Bench, source: Registry, target: Registry
) -> None:
    foreign = {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": str(Digest.of(b"elsewhere")),
        "size": 9,
        "urls": ["https://example.com/layer"],
    }
    manifest, blobs = artifact(None)
    document = {**json.loads(manifest.raw), "layers": [foreign]}
    for blob in blobs.values():
        source.put_blob(NAME, blob)
    raw = json.dumps(document).encode()
    source.put_manifest(NAME, "1", raw, manifest.media_type)
    rows = bench.run("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    by_digest = {row["digest"]: row["state"] for row in rows}
    assert by_digest[foreign["digest"]] == "skipped"
    found = target.manifest("moved", "1")
    assert found is not None
    assert found.raw == raw


def test_an_image_of_another_platform_than_was_asked_for_is_refused(
    bench: Bench, source: Registry, target: Registry
) -> None:
    push_image(source, NAME, "1", random_image(1, layers=1, platform="linux/s390x"))
    names = (f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
    status, message = bench.fail("copy", *names, platform="linux/amd64")
    assert (status, "linux/s390x" in message) == (Status.ERROR, True)
    assert target.repositories() == []
    bench.run("copy", *names, platform="linux/s390x")


def test_what_an_index_has_of_unknown_kinds_is_copied_too(bench: Bench) -> None:
    with Registry(any_type=True) as source, Registry(any_type=True) as target:
        push_image(source, NAME, None, IMAGE)
        odd = b'{"odd": true}'
        kind = "application/vnd.example.odd+json"
        part = {"mediaType": kind, "digest": str(Digest.of(odd)), "size": len(odd)}
        source.put_manifest(NAME, None, odd, kind)
        image = {
            "mediaType": IMAGE.media_type,
            "digest": IMAGE.digest,
            "size": len(IMAGE.manifest),
        }
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [part, image]}
        raw = json.dumps(document).encode()
        source.put_manifest(NAME, "1", raw, OCI_INDEX)
        names = (f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
        assert states(bench.run("copy", *names)) == {"copied"}
        for digest, content in ((part["digest"], odd), (str(Digest.of(raw)), raw)):
            found = target.manifest("moved", str(digest))
            assert found is not None
            assert found.raw == content
        assert states(bench.run("copy", *names)) == {"exists"}


def test_an_image_of_schema_1_is_copied_as_it_is(bench: Bench) -> None:
    blob = layer("file", b"content")
    old = old_image([Step(command="run", blob=blob, throwaway=False)])
    with Registry(any_type=True) as source, Registry(any_type=True) as target:
        for one in old.blobs:
            source.put_blob(NAME, one)
        source.put_manifest(NAME, "1", old.raw, SCHEMA1_UNSIGNED)
        names = (f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
        rows = bench.run("copy", *names)
        assert states(rows) == {"copied"}
        found = target.manifest("moved", "1")
        assert found is not None
        assert (found.raw, found.media_type) == (old.raw, SCHEMA1_UNSIGNED)
        assert all(target.has_blob("moved", str(Digest.of(one))) for one in old.blobs)
        source.delete_blob(NAME, str(Digest.of(blob)))
        _, message = bench.fail("copy", names[0], f"{target.host}/other:1")
        assert str(Digest.of(blob)) in message


def test_large_blobs_are_never_held_whole(bench: Bench, source: Registry, tmp_path: Path) -> None:
    size = 48 * 1024 * 1024
    push_synthetic_image(source, NAME, "1", [size])
    with Registry(tmp_path / "target") as target:
        job = bench.job("copy", f"{source.host}/{NAME}:1", f"{target.host}/moved:1")
        tracemalloc.start()
        try:
            assert job.run() is Status.OK, job.stderr.text()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sum(one.received for one in target.requests) > size
        assert peak < size / 4


# the relay alone


BLOB = bytes(range(256)) * 400
LAYER = Descriptor(media_type="text/plain", digest=Digest.of(BLOB), size=len(BLOB))
QUICK = RetryPolicy(retries=2, longest=0.0)


def relay(transport: Transport, registry: Registry, layer: Descriptor = LAYER) -> Relay:
    one = client(transport, registry.host)

    def opener(offset: int) -> RemoteBlob:
        return one.open_blob(NAME, layer.digest, offset)

    return Relay(layer, opener, policy=QUICK, cancel=Cancellation(), observer=Observer())


def read(one: RelayFile, count: int | None = None) -> bytes:
    """So many bytes, or all that is left."""
    found = bytearray()
    buffer = memoryview(bytearray(10_000))
    while count is None or len(found) < count:
        left = len(buffer) if count is None else min(len(buffer), count - len(found))
        size = one.readinto(buffer[:left])
        if not size:
            break
        found += buffer[:size]
    one.close()
    return bytes(found)


def part(one: Relay, offset: int, count: int | None = None) -> bytes:
    """What a file of the relay gives from there on."""
    file = one.open()
    assert file.seek(offset) == offset
    return read(file, count)


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(sleep=lambda seconds, cancel: None) as made:
        yield made


def test_the_parts_of_an_upload_read_one_stream(transport: Transport, source: Registry) -> None:
    source.put_blob(NAME, BLOB)
    with relay(transport, source) as one:
        assert part(one, 0, 30_000) == BLOB[:30_000]
        assert part(one, 30_000, 30_000) == BLOB[30_000:60_000]
        assert part(one, 60_000) == BLOB[60_000:]
    assert len([each for each in source.requests if each.method == "GET"]) == 1


@pytest.mark.parametrize("place", [0, 5_000, 30_000])
def test_a_relay_goes_back_and_is_verified_all_the_same(
    transport: Transport, source: Registry, place: int
) -> None:
    source.put_blob(NAME, BLOB)
    with relay(transport, source) as one:
        assert part(one, 0, 30_000) == BLOB[:30_000]
        assert part(one, place) == BLOB[place:]
    switch = source.add_fault("corrupt:path=/blobs/,method=GET,offset=90000")
    with relay(transport, source) as one:
        part(one, 0, 30_000)
        with pytest.raises(DigestMismatchError):
            part(one, place)
        switch.remove()
        assert part(one, 0) == BLOB


def test_a_relay_begins_after_what_a_registry_has(transport: Transport, source: Registry) -> None:
    source.put_blob(NAME, BLOB)
    with relay(transport, source) as one:
        assert part(one, 70_000) == BLOB[70_000:]
        assert part(one, 0) == BLOB
    assert [each.range for each in source.requests] == ["bytes=70000-", ""]


def test_a_relay_gives_up_a_source_that_gives_nothing(
    transport: Transport, source: Registry
) -> None:
    source.put_blob(NAME, BLOB)
    source.add_fault("drop:after=0,path=/blobs/,method=GET")
    with (
        relay(transport, source) as one,
        pytest.raises(BodyError, match="cannot be read from its source") as caught,
    ):
        part(one, 0)
    assert isinstance(caught.value.__cause__, ConnectionBrokenError)


def test_a_relay_ends_with_its_cancellation() -> None:
    cancel = Cancellation()

    def opener(offset: int) -> RemoteBlob:
        cancel.cancel()
        raise ConnectionBrokenError("gone")

    with (
        Relay(LAYER, opener, policy=QUICK, cancel=cancel, observer=Observer()) as one,
        pytest.raises(CancelledError),
    ):
        part(one, 0)
