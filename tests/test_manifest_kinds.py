"""Every kind of manifest through the jobs: pulled, shown, converted and pushed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_manifests import Step, descriptor, document, layer, old_image, signed
from support_service import Bench
from test_service import HERE, OTHER

from engine import State, Status
from engine.records import Log
from registry_service.digest import Digest
from registry_service.media import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_SIGNED,
    SCHEMA1_UNSIGNED,
)
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

FIRST, SECOND = layer("a", b"first"), layer("b", b"second", compressed=False)
STEPS = [
    Step(command="ADD a", blob=FIRST),
    Step(command="ENV x"),
    Step(command="ADD b", blob=SECOND),
    Step(command="ADD a", blob=FIRST),
]
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry(any_type=True) as made:
        yield made


def put_old(registry: Registry, tag: str = "1", *, sign: bool = True, **top: Any) -> str:
    """A schema 1 image; the digest by which the registry knows it."""
    old = old_image(STEPS, **top)
    for blob in (FIRST, SECOND):
        registry.put_blob("test/old", blob)
    raw = signed(old.raw) if sign else old.raw
    media_type = SCHEMA1_SIGNED if sign else SCHEMA1_UNSIGNED
    return registry.put_manifest("test/old", tag, raw, media_type, digest=old.digest)


def logs(bench: Bench, name: str, *args: str, **env: Any) -> tuple[list[dict[str, Any]], str]:
    job = bench.job(name, *args, **env)
    assert job.run() is Status.OK, job.stderr.text()
    return job.stdout.table().to_dicts(), job.stderr.text()


def stored(bench: Bench, digest: str) -> bytes:
    algorithm, _, encoded = digest.partition(":")
    return (bench.state / "images" / "blobs" / algorithm / encoded).read_bytes()


def content(bench: Bench) -> set[str]:
    return {path.name for path in (bench.state / "images" / "blobs").glob("*/*")}


# schema 1


@pytest.mark.parametrize("sign", [True, False])
def test_schema_1_is_pulled_as_an_oci_image(bench: Bench, registry: Registry, sign: bool) -> None:
    digest = put_old(registry, sign=sign)
    reference = f"{registry.host}/test/old:1"
    rows, said = logs(bench, "pull", reference)
    assert f"the schema 1 manifest {digest} was converted to the OCI image" in said
    assert rows[-1]["digest"] in said
    assert [row["state"] for row in rows] == ["fetched", "fetched", "converted", "converted"]
    assert (rows[-2]["media_type"], rows[-1]["media_type"]) == (OCI_CONFIG, OCI_MANIFEST)
    manifest = json.loads(stored(bench, rows[-1]["digest"]))
    assert [one["digest"] for one in manifest["layers"]] == [
        str(Digest.of(blob)) for blob in (FIRST, SECOND, FIRST)
    ]
    (image,) = bench.run("images")
    assert (image["complete"], image["platforms"]) == (True, ["linux/amd64"])
    assert bench.run("inspect", reference)[0]["config"]["history"][1]["empty_layer"] is True
    assert bench.broken() == []


def test_an_unchanged_schema_1_is_neither_fetched_nor_converted_again(
    bench: Bench, registry: Registry
) -> None:
    put_old(registry)
    reference = f"{registry.host}/test/old:1"
    first = bench.run("pull", reference)
    before = content(bench)
    registry.clear_requests()
    rows, said = logs(bench, "pull", reference)
    assert [(one.method, one.path) for one in registry.requests] == [
        ("HEAD", "/v2/test/old/manifests/1")
    ]
    assert {row["state"] for row in rows} == {"exists"}
    assert rows[-1]["digest"] == first[-1]["digest"]
    assert "converted" not in said
    assert content(bench) == before
    # under another name it is still known what it was made of
    bench.run("tag", reference, f"{registry.host}/test/old:2")
    put_old(registry, "2")
    assert {row["state"] for row in bench.run("pull", f"{registry.host}/test/old:2")} == {"exists"}


def test_a_schema_1_that_changed_or_lost_a_part_is_pulled_anew(
    bench: Bench, registry: Registry
) -> None:
    put_old(registry)
    reference = f"{registry.host}/test/old:1"
    first = bench.run("pull", reference)
    path = bench.state / "images" / "blobs" / "sha256"
    (path / first[-2]["digest"].removeprefix("sha256:")).unlink()
    assert bench.run("pull", reference) != []
    assert bench.run("images")[0]["complete"]
    put_old(registry, author="someone else")
    again = bench.run("pull", reference)
    assert again[-1]["state"] == "converted"
    assert again[-1]["digest"] != first[-1]["digest"]
    assert [row["digest"] for row in bench.run("images")] == [again[-1]["digest"]]


def test_a_schema_1_by_digest_is_verified(bench: Bench, registry: Registry) -> None:
    digest = put_old(registry)
    reference = f"{registry.host}/test/old@{digest}"
    assert bench.run("pull", reference)[-1]["state"] == "converted"
    assert {row["state"] for row in bench.run("pull", reference)} == {"exists"}
    wrong = str(Digest.of(b"another"))
    raw = signed(old_image(STEPS).raw)
    registry.put_manifest("test/old", None, raw, SCHEMA1_SIGNED, digest=wrong)
    status, message = bench.fail("pull", f"{registry.host}/test/old@{wrong}")
    assert status is Status.ERROR
    assert wrong in message and digest in message


def test_of_a_tag_the_server_s_digest_counts_where_it_cannot_be_verified(
    bench: Bench, registry: Registry
) -> None:
    """Some servers sign anew each time, and call it by a digest that fits none of it."""
    put_old(registry)
    named = str(Digest.of(b"whatever"))
    raw = signed(old_image(STEPS).raw)
    registry.put_manifest("test/old", "odd", raw, SCHEMA1_SIGNED, digest=named)
    _, said = logs(bench, "pull", f"{registry.host}/test/old:odd")
    assert named in said
    rows = bench.run("pull", f"{registry.host}/test/old:odd")
    assert {row["state"] for row in rows} == {"exists"}


def test_the_same_schema_1_gives_the_same_image(registry: Registry, tmp_path: Path) -> None:
    put_old(registry, "signed")
    put_old(registry, "plain", sign=False)
    digests = set()
    for name in ("one", "two"):
        bench = Bench(tmp_path / name)
        for tag in ("signed", "plain"):
            rows = bench.run("pull", f"{registry.host}/test/old:{tag}")
            digests.add(rows[-1]["digest"])
        bench.engine.shutdown(grace=0)
    assert len(digests) == 1


def test_a_schema_1_of_another_platform_is_refused_before_its_layers(
    bench: Bench, registry: Registry
) -> None:
    put_old(registry, architecture="s390x")
    registry.clear_requests()
    status, message = bench.fail("pull", f"{registry.host}/test/old:1", platform="linux/arm64")
    assert (status, OTHER in message) == (Status.ERROR, True)
    assert not [one for one in registry.requests if "/blobs/" in one.path]
    bench.run("pull", f"{registry.host}/test/old:1", platform="linux/arm64,linux/s390x")


def test_a_schema_1_whose_layer_is_damaged_leaves_no_name(bench: Bench, registry: Registry) -> None:
    bad = FIRST[:-8]
    old = old_image([Step(command="ADD", blob=bad)])
    registry.put_blob("test/old", bad)
    registry.put_manifest("test/old", "1", old.raw, SCHEMA1_UNSIGNED)
    status, message = bench.fail("pull", f"{registry.host}/test/old:1")
    assert (status, "cut short" in message) == (Status.ERROR, True)
    assert bench.names == []


def test_a_schema_1_whose_blob_is_not_there_is_said(bench: Bench, registry: Registry) -> None:
    put_old(registry)
    missing = str(Digest.of(SECOND))
    registry.delete_blob("test/old", missing)
    status, message = bench.fail("pull", f"{registry.host}/test/old:1")
    assert status is Status.ERROR
    assert f"{missing} does not exist" in message


def test_a_cancel_ends_the_pull_of_a_schema_1(bench: Bench, registry: Registry) -> None:
    put_old(registry)
    job = bench.job("pull", f"{registry.host}/test/old:1")
    with registry.hold(path="/blobs/", method="GET") as hold:
        runner = threading.Thread(target=job.run)
        runner.start()
        assert hold.entered.wait(10)
        job.cancel()
        runner.join(5)
        assert job.state is State.CANCELLED
    assert bench.names == []


def test_inspect_shows_a_schema_1_as_its_registry_has_it(bench: Bench, registry: Registry) -> None:
    digest = put_old(registry, config={"Env": ["A=b"]})
    (row,) = bench.run("inspect", f"{registry.host}/test/old:1", remote=True)
    assert (row["digest"], row["media_type"]) == (digest, SCHEMA1_SIGNED)
    assert (row["platform"], row["created"]) == ("linux/amd64", "2015-06-04T00:00:00Z")
    assert row["layers"][0] == {"digest": str(Digest.of(FIRST))}
    assert len(row["layers"]) == len(STEPS)
    assert row["config"]["config"] == {"Env": ["A=b"]}
    assert row["source"] == "registry"


# conversion


def test_a_docker_image_becomes_an_oci_image_and_back(bench: Bench, registry: Registry) -> None:
    image = random_image(1, media="docker", platform=HERE)
    push_image(registry, "test/app", "1", image)
    source = f"{registry.host}/test/app:1"
    bench.run("pull", source)
    before = content(bench)
    rows, said = logs(bench, "convert", source, "local/oci:1", format="oci")
    assert rows[-1]["media_type"] == OCI_MANIFEST
    assert [row["state"] for row in rows] == ["exists"] * 4 + ["converted"]
    assert rows[0]["media_type"] == OCI_CONFIG
    assert f"{image.digest} became {OCI_MANIFEST} {rows[-1]['digest']}" in said
    assert len(content(bench)) == len(before) + 1
    status, message = bench.fail("convert", source, "local/other:1", format="oci", platform=OTHER)
    assert (status, f"is for {HERE} only" in message) == (Status.ERROR, True)
    back = bench.run("convert", "local/oci:1", "local/docker:1", format="docker")
    assert (back[-1]["digest"], back[-1]["state"]) == (image.digest, "exists")
    assert {row["complete"] for row in bench.run("images")} == {True}
    assert bench.broken() == []


def test_a_list_becomes_an_index_with_all_in_it(bench: Bench, registry: Registry) -> None:
    index = random_index(2, platforms=[HERE, OTHER], media="docker")
    push_image(registry, "test/multi", "1", index)
    source = f"{registry.host}/test/multi:1"
    bench.run("pull", source)
    status, message = bench.fail("convert", source, "local/oci:1", format="oci")
    assert status is Status.ERROR
    assert OTHER in message and "platform" in message
    one = bench.run("convert", source, "local/one:1", format="oci", platform=HERE)
    assert one[-1]["media_type"] == OCI_MANIFEST
    bench.run("pull", source, platform="all")
    rows = bench.run("convert", source, "local/oci:1", format="oci")
    assert rows[-1]["media_type"] == OCI_INDEX
    shown = bench.run("inspect", "local/oci:1")
    assert [row["media_type"] for row in shown] == [OCI_INDEX, OCI_MANIFEST, OCI_MANIFEST]
    assert [row["platform"] for row in shown[1:]] == [HERE, OTHER]
    back = bench.run("convert", "local/oci:1", "local/docker:1", format="docker")
    assert back[-1]["digest"] == index.digest


def test_what_is_lost_on_the_way_to_docker_is_told(bench: Bench, registry: Registry) -> None:
    config = registry.put_blob("test/app", b"{}")
    assert config == str(Digest.of(b"{}"))
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, b"{}"),
        "layers": [],
        "annotations": {"org.example.k": "v"},
    }
    registry.put_manifest("test/app", "1", document(value), OCI_MANIFEST)
    bench.run("pull", f"{registry.host}/test/app:1")
    job = bench.job("convert", f"{registry.host}/test/app:1", "local/x:1", format="docker")
    assert job.run() is Status.OK
    warned = [
        one for one in job.output.records() if isinstance(one, Log) and one.level == "warning"
    ]
    assert "has no place for annotations" in warned[0].text


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("a:1", "b:1"), {}, "'oci' or 'docker' is wanted"),
        (("a:1", "b:1"), {"format": "tar"}, "neither 'oci' nor 'docker'"),
        (("a:1", f"b@{Digest.of(b'')}"), {"format": "oci"}, "a new name is a tag"),
        (("a:1",), {"format": "oci"}, "TARGET"),
    ],
)
def test_wrong_usage_of_convert(
    bench: Bench, args: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    status, message = bench.fail("convert", *args, **env)
    assert status is Status.USAGE
    assert said in message


def test_an_artifact_has_no_docker_manifest(bench: Bench, registry: Registry) -> None:
    put_artifact(registry)
    bench.run("pull", f"{registry.host}/test/art:1")
    status, message = bench.fail(
        "convert", f"{registry.host}/test/art:1", "local/x:1", format="docker"
    )
    assert status is Status.ERROR
    assert "no docker manifest" in message
    assert len(bench.names) == 1


def test_a_push_that_converts_takes_no_referrers_along(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    reference = f"{registry.host}/test/app:1"
    bench.run("pull", reference)
    registry.clear_requests()
    status, message = bench.fail("push", reference, format="docker", referrers=True)
    assert status is Status.USAGE
    assert "belong to the digest that the store has" in message
    assert registry.requests == [], "nothing was sent"
    bench.run("push", reference, format="oci", referrers=True)  # nothing to convert


def test_push_in_another_format(bench: Bench, registry: Registry) -> None:
    index = random_index(3, platforms=[HERE, OTHER])
    push_image(registry, "test/multi", "1", index)
    source = f"{registry.host}/test/multi:1"
    bench.run("pull", source, platform="all")
    before = content(bench)
    with Registry() as other:
        target = f"{other.host}/multi:1"
        bench.run("tag", source, target)
        rows = bench.run("push", target, format="docker")
        found = other.manifest("multi", "1")
        assert found is not None
        assert found.media_type == DOCKER_LIST
        assert rows[-1]["digest"] == found.digest != index.digest
        for part in json.loads(found.raw)["manifests"]:
            assert part["mediaType"] == DOCKER_MANIFEST
            assert other.manifest("multi", part["digest"]) is not None
    assert content(bench) == before


# foreign layers


FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def put_foreign(registry: Registry, urls: list[str], media_type: str = FOREIGN) -> bytes:
    """An image whose one layer is elsewhere; its layer."""
    blob = layer("foreign", b"from elsewhere")
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    registry.put_blob("test/win", config)
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor("application/vnd.docker.container.image.v1+json", config),
        "layers": [descriptor(media_type, blob, urls=urls)],
    }
    registry.put_manifest("test/win", "1", document(value), DOCKER_MANIFEST)
    return blob


def test_a_foreign_layer_comes_from_its_url_without_any_credentials(bench: Bench) -> None:
    with (
        Registry(users={"ann": "secret"}) as registry,
        Registry() as elsewhere,
    ):
        blob = layer("foreign", b"from elsewhere")
        digest = elsewhere.put_blob("files", blob)
        urls = [f"http://{elsewhere.host}/v2/nothing/blobs/{digest}"]
        urls.append(f"http://{elsewhere.host}/v2/files/blobs/{digest}")
        put_foreign(registry, urls)
        rows = bench.run(
            "pull",
            f"{registry.host}/test/win:1",
            authConfig={"username": "ann", "password": "secret"},
            metaHeaders={"X-Secret": ["very"]},
        )
        assert (digest, "fetched") in {(row["digest"], row["state"]) for row in rows}
        assert any("/blobs/" in one.path and digest in one.path for one in registry.requests)
        assert len(elsewhere.requests) == 2
        for one in elsewhere.requests:
            names = {name.lower() for name in one.headers}
            assert not names & {"authorization", "x-secret", "cookie"}


def test_the_registry_is_asked_first_for_a_foreign_layer(bench: Bench) -> None:
    with Registry() as registry, Registry() as elsewhere:
        blob = put_foreign(registry, [f"http://{elsewhere.host}/x"])
        registry.put_blob("test/win", blob)
        bench.run("pull", f"{registry.host}/test/win:1")
        assert elsewhere.requests == []


def test_a_foreign_layer_of_other_bytes_is_refused(bench: Bench) -> None:
    with Registry() as registry, Registry() as elsewhere:
        digest = elsewhere.put_blob("files", b"other bytes altogether")
        blob = put_foreign(registry, [f"http://{elsewhere.host}/v2/files/blobs/{digest}"])
        status, message = bench.fail("pull", f"{registry.host}/test/win:1")
        assert status is Status.ERROR
        assert str(Digest.of(blob)) in message
        assert bench.names == []
        assert bench.broken() == []


def test_foreign_layers_are_not_sent_unless_it_is_asked_for(bench: Bench) -> None:
    with Registry() as registry, Registry() as other:
        blob = put_foreign(registry, ["https://example.com/x"])
        digest = registry.put_blob("test/win", blob)
        bench.run("pull", f"{registry.host}/test/win:1")
        target = f"{other.host}/win:1"
        bench.run("tag", f"{registry.host}/test/win:1", target)
        rows = bench.run("push", target)
        assert digest not in {row["digest"] for row in rows}
        assert not other.has_blob("win", digest)
        rows = bench.run("push", target, format="oci")
        assert not other.has_blob("win", digest)
        rows = bench.run("push", target, foreign=True)
        assert digest in {row["digest"] for row in rows}
        assert other.has_blob("win", digest)


# artifacts, unknown kinds, nothing at all, other digests


def put_artifact(registry: Registry, algorithm: str = "sha256") -> tuple[str, bytes]:
    """An artifact with layers of any type, one of them without a byte; digest and bytes."""
    parts = []
    for kind, blob in ((OCI_EMPTY, b"{}"), ("text/x-sbom", b"sbom"), ("a/nothing", b"")):
        registry.put_blob("test/art", blob, algorithm=algorithm)
        parts.append(descriptor(kind, blob, algorithm=algorithm))
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example+type",
        "config": parts[0],
        "layers": [*parts[1:], parts[1]],
        "annotations": {"k": "v"},
        "more": {"not": "known"},
    }
    raw = json.dumps(value, indent=2).encode()
    digest = registry.put_manifest("test/art", "1", raw, OCI_MANIFEST, algorithm=algorithm)
    return digest, raw


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_artifact_goes_through_unchanged(
    bench: Bench, registry: Registry, algorithm: str
) -> None:
    digest, raw = put_artifact(registry, algorithm)
    source = f"{registry.host}/test/art:1"
    rows = bench.run("pull", source)
    assert (rows[-1]["digest"], len(rows)) == (digest, 4)
    assert stored(bench, digest) == raw
    assert {row["state"] for row in bench.run("pull", source)} == {"exists"}
    for remote in (False, True):
        (row,) = bench.run("inspect", source, remote=remote)
        assert row["digest"] == digest
        assert [one["size"] for one in row["layers"]] == [4, 0, 4]
    with Registry() as other:
        target = f"{other.host}/moved/art:2"
        bench.run("tag", source, target)
        bench.run("push", target)
        found = other.manifest("moved/art", "2")
        assert found is not None
        assert (found.raw, found.media_type) == (raw, OCI_MANIFEST)
        assert {row["state"] for row in bench.run("push", target)} <= {"exists", "pushed"}
    by_digest = f"{registry.host}/test/art@{digest}"
    assert bench.run("pull", by_digest)[-1]["digest"] == digest


def test_an_image_without_layers(bench: Bench, registry: Registry) -> None:
    image = random_image(5, layers=0, platform=HERE)
    push_image(registry, "test/none", "1", image)
    assert len(bench.run("pull", f"{registry.host}/test/none:1")) == 2
    bench.run("tag", f"{registry.host}/test/none:1", f"{registry.host}/other/none:1")
    assert bench.run("push", f"{registry.host}/other/none:1")[-1]["digest"] == image.digest


def test_inline_content_is_taken_from_where_it_stands(bench: Bench, registry: Registry) -> None:
    """A manifest too: the index carries it, and the registry is not asked."""
    image = random_image(6, layers=0, platform=HERE)
    config = json.loads(image.manifest)["config"]
    config["data"] = base64.b64encode(image.config).decode()
    manifest = document({**json.loads(image.manifest), "config": config})
    part = descriptor(OCI_MANIFEST, manifest, data=base64.b64encode(manifest).decode())
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [part]}
    registry.put_manifest("test/in", "1", document(index), OCI_INDEX)
    reference = f"{registry.host}/test/in:1"
    assert len(bench.run("inspect", reference, remote=True)) == 2
    rows = bench.run("pull", reference)
    assert {row["digest"] for row in rows[:2]} == {config["digest"], part["digest"]}
    assert {one.path for one in registry.requests} == {"/v2/", "/v2/test/in/manifests/1"}
    # content that is not what it says is not believed
    wrong = {**part, "data": base64.b64encode(b"{}").decode()}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [wrong]}
    registry.put_manifest("test/bad", "1", document(index), OCI_INDEX)
    # nor is what the store has of another repository this one's
    status, message = bench.fail("pull", f"{registry.host}/test/bad:1")
    assert (status, "does not exist" in message) == (Status.ERROR, True)
    status, message = bench.fail("inspect", f"{registry.host}/test/bad:1", remote=True)
    assert (status, "does not exist" in message) == (Status.ERROR, True)


def put_unknown(registry: Registry) -> tuple[str, dict[str, bytes]]:
    """An index of indexes, one with a part of a kind that nobody knows; digest and documents."""
    strange = b'{"strange": true}\n'
    kind = "application/vnd.example.unheard-of.v3+json"
    documents = {registry.put_manifest("test/odd", None, strange, kind): strange}
    inner = document(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(kind, strange, annotations={"k": "v"})],
        }
    )
    documents[registry.put_manifest("test/odd", None, inner, OCI_INDEX)] = inner
    outer = document(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "artifactType": "x/y",
            "manifests": [descriptor(OCI_INDEX, inner)],
        }
    )
    digest = registry.put_manifest("test/odd", "1", outer, OCI_INDEX)
    return digest, {**documents, digest: outer}


def test_nested_indexes_with_a_part_of_an_unknown_kind(bench: Bench, registry: Registry) -> None:
    digest, documents = put_unknown(registry)
    source = f"{registry.host}/test/odd:1"
    rows = bench.run("pull", source)
    assert [row["digest"] for row in rows] == list(documents)
    assert rows[-1]["digest"] == digest
    for name, raw in documents.items():
        assert stored(bench, name) == raw
    assert len(bench.run("inspect", source, remote=True)) == 3
    with Registry(any_type=True) as other:
        target = f"{other.host}/odd:1"
        bench.run("tag", source, target)
        assert {row["state"] for row in bench.run("push", target)} == {"pushed"}
        for name, raw in documents.items():
            found = other.manifest("odd", name)
            assert found is not None and found.raw == raw
        assert {row["state"] for row in bench.run("push", target)} == {"exists"}


def test_a_registry_that_knows_no_such_kind_is_sent_a_blob(
    bench: Bench, registry: Registry
) -> None:
    put_unknown(registry)
    source = f"{registry.host}/test/odd:1"
    bench.run("pull", source)
    with Registry() as other:
        target = f"{other.host}/odd:1"
        bench.run("tag", source, target)
        job = bench.job("push", target)
        assert job.run() is Status.ERROR  # this one then misses it among the manifests
        assert "is sent as a blob" in job.stderr.text()
        assert "MANIFEST_BLOB_UNKNOWN" in job.stderr.text()


# platforms


THREE = ["linux/amd64", "linux/arm64/v8", "linux/s390x"]


def test_several_platforms_are_pulled_and_pushed(bench: Bench, registry: Registry) -> None:
    index = random_index(7, platforms=THREE)
    push_image(registry, "test/multi", "1", index)
    source = f"{registry.host}/test/multi:1"
    rows = bench.run("pull", source, platform="linux/s390x,linux/amd64")
    assert rows[-1]["digest"] == index.digest
    (image,) = bench.run("images")
    assert sorted(image["platforms"]) == ["linux/amd64", "linux/s390x"]
    with Registry() as other:
        target = f"{other.host}/multi:1"
        bench.run("tag", source, target)
        status, message = bench.fail("push", target, platform="linux/amd64,linux/arm64")
        assert (status, "linux/arm64" in message) == (Status.ERROR, True)
        assert other.requests == []
        rows = bench.run("push", target, platform="linux/amd64,linux/s390x")
        found = other.manifest("multi", "1")
        assert found is not None and found.digest == rows[-1]["digest"] != index.digest
        parts = json.loads(found.raw)["manifests"]
        assert [one["digest"] for one in parts] == [index.images[n].digest for n in (0, 2)]
        bench.run("pull", source, platform=",".join(THREE))
        assert bench.run("push", target, platform=",".join(THREE))[-1]["digest"] == index.digest


def test_each_of_several_platforms_must_be_there(bench: Bench, registry: Registry) -> None:
    push_image(registry, "test/multi", "1", random_index(8, platforms=THREE))
    status, message = bench.fail(
        "pull", f"{registry.host}/test/multi:1", platform="linux/amd64,linux/riscv64"
    )
    assert (status, "linux/riscv64" in message) == (Status.ERROR, True)
    status, message = bench.fail("pull", f"{registry.host}/test/multi:1", platform="linux/amd64,")
    assert (status, "OS/ARCH" in message) == (Status.USAGE, True)


def test_an_index_within_an_index_is_looked_into_for_a_platform(
    bench: Bench, registry: Registry
) -> None:
    inner = random_index(9, platforms=[HERE, OTHER])
    push_image(registry, "test/nest", None, inner)
    outer = document(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                descriptor(OCI_INDEX, inner.manifest),
                descriptor("a/b", b"x", platform={"os": "plan9", "architecture": "mips"}),
            ],
        }
    )
    registry.put_manifest("test/nest", "1", outer, OCI_INDEX)
    rows = bench.run("pull", f"{registry.host}/test/nest:1")
    assert inner.images[0].digest in {row["digest"] for row in rows}
    assert inner.images[1].digest not in {row["digest"] for row in rows}
