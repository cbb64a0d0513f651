"""What belongs to an image, in OCI archives: saved along, loaded, and pushed from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_archives import Entry, members, oci, sha, write_tar
from support_daemon import running_daemon
from support_real import docker_registry, skopeo
from support_referrers import SIGNATURE, artifact, put_artifact
from support_service import Bench

from engine import Status
from registry_service.digest import Digest
from registry_service.manifest import Manifest
from registry_service.platform import Platform
from registry_service.referrers import COSIGN_SUFFIXES, cosign_subject, cosign_tag
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

HERE, OTHER = str(Platform.here()), "linux/s390x"
NAME = "test/app"
INDEX = random_index(1, platforms=[HERE, OTHER])
REF_NAME = "org.opencontainers.image.ref.name"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "second")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def signed(registry: Registry) -> tuple[str, set[str]]:
    """An index with what belongs to it, to a part of it, to the first of these, and cosign's;
    its reference, and the digests of all that."""
    push_image(registry, NAME, "1", INDEX)
    sbom = put_artifact(registry, NAME, INDEX, b"sbom")
    part = put_artifact(registry, NAME, INDEX.images[0], b"part", kind=SIGNATURE)
    inner = put_artifact(registry, NAME, sbom, b"signature of the sbom", kind=SIGNATURE)
    tag = cosign_tag(Digest.parse(INDEX.digest), "sig")
    cosign = put_artifact(registry, NAME, None, b"cosign", tag=tag)
    return f"{registry.host}/{NAME}:1", {str(one.digest) for one in (sbom, part, inner, cosign)}


def saved(bench: Bench, path: Path, *names: str, **env: Any) -> Path:
    job = bench.job("save", *names, format="oci", **env)
    assert job.run() is Status.OK, job.stderr.text()
    path.write_bytes(job.stdout.data())
    return path


def listed(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(members(path.read_bytes())["index.json"])["manifests"]
    return found


def kept(bench: Bench) -> set[str]:
    """What the store keeps because it belongs to something."""
    index = json.loads((bench.state / "images" / "index.json").read_text())
    return {
        one["digest"]
        for one in index["manifests"]
        if any(key.endswith("referrer.subject") for key in one.get("annotations", {}))
    }


def test_what_belongs_to_an_image_goes_through_an_archive_and_on_to_a_registry(
    bench: Bench, second: Bench, registry: Registry, tmp_path: Path
) -> None:
    reference, belonging = signed(registry)
    bench.run("pull", reference, platform="all", referrers=True)
    assert kept(bench) == belonging
    path = saved(bench, tmp_path / "x.tar", reference, referrers=True)
    rows = second.run("load", str(path))
    assert belonging < {row["digest"] for row in rows}
    assert (rows[-1]["digest"], rows[-1]["reference"]) == (INDEX.digest, reference)
    assert second.names == [reference]
    assert kept(second) == belonging
    assert {row["state"] for row in second.run("load", str(path))} == {"exists"}
    assert kept(second) == belonging
    assert second.broken() == []
    with Registry() as other:
        target = f"{other.host}/moved/app:1"
        second.run("tag", reference, target)
        second.run("push", target, referrers=True)
        there = {row["digest"] for row in second.run("referrers", target)}
        assert there == belonging & there
        assert len(there) == 1  # of the index itself
        assert all(other.manifest("moved/app", one) is not None for one in belonging)
        assert cosign_tag(Digest.parse(INDEX.digest), "sig") in other.tags("moved/app")


def test_an_archive_without_the_wish_has_the_image_alone(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    reference, _ = signed(registry)
    bench.run("pull", reference, platform="all", referrers=True)
    assert len(listed(saved(bench, tmp_path / "x.tar", reference))) == 1


def test_the_archive_says_what_other_tools_look_for(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    reference, belonging = signed(registry)
    bench.run("pull", reference, platform="all", referrers=True)
    bench.run("tag", reference, "local/other:1")
    names = (reference, "local/other:1")
    path = saved(bench, tmp_path / "x.tar", *names, referrers=True)
    entries = listed(path)
    assert [one["digest"] for one in entries[:2]] == [INDEX.digest] * 2
    assert {one["digest"] for one in entries[2:]} == belonging
    assert len(entries) == 2 + len(belonging)  # once, whatever the image is called
    tags = [one["annotations"][REF_NAME] for one in entries[2:] if "annotations" in one]
    assert tags == [cosign_tag(Digest.parse(INDEX.digest), "sig")]
    assert saved(bench, tmp_path / "y.tar", *names, referrers=True).read_bytes() == (
        path.read_bytes()
    )


def test_of_one_platform_only_what_belongs_to_that(
    bench: Bench, registry: Registry, tmp_path: Path
) -> None:
    reference, _ = signed(registry)
    bench.run("pull", reference, platform="all", referrers=True)
    path = saved(bench, tmp_path / "x.tar", reference, referrers=True, platform=HERE)
    (image, part) = listed(path)
    assert image["digest"] == INDEX.images[0].digest
    raw = members(path.read_bytes())[f"blobs/sha256/{part['digest'].removeprefix('sha256:')}"]
    assert json.loads(raw)["subject"]["digest"] == INDEX.images[0].digest


def test_push_from_an_archive_takes_along_what_belongs_to_the_image(
    bench: Bench, second: Bench, registry: Registry, tmp_path: Path
) -> None:
    reference, belonging = signed(registry)
    bench.run("pull", reference, platform="all", referrers=True)
    path = saved(bench, tmp_path / "x.tar", reference, referrers=True)
    with Registry() as other:
        source = f"oci-archive:{path}"
        second.run("push", f"{other.host}/alone:1", **{"from": source})
        assert other.tags("alone") == ["1"]
        second.run("push", f"{other.host}/app:1", **{"from": source}, referrers=True)
        assert all(other.manifest("app", one) is not None for one in belonging)
        assert not any(other.manifest("alone", one) is not None for one in belonging)


# archives of others


def belonging_entries(manifest: Manifest, blobs: dict[str, bytes]) -> dict[str, Entry]:
    raws = (manifest.raw, *blobs.values())
    return {f"blobs/sha256/{sha(raw)}": raw for raw in raws}


def with_entry(entries: dict[str, Entry], manifest: Manifest, label: str = "") -> dict[str, Entry]:
    index = json.loads(entries["index.json"])  # type: ignore[arg-type]
    entry = manifest.descriptor.to_json()
    index["manifests"].append({**entry, **({"annotations": {REF_NAME: label}} if label else {})})
    return {**entries, "index.json": json.dumps(index).encode()}


def test_a_layout_with_a_tag_and_a_signature_gets_its_name_by_as(
    bench: Bench, tmp_path: Path
) -> None:
    """As oras lays it out: tags alone for names, and referrers without any."""
    image = random_image(2, platform=HERE)
    manifest, blobs = artifact(image)
    entries = {**oci([("v1", image)]), **belonging_entries(manifest, blobs)}
    path = write_tar(tmp_path / "x.tar", with_entry(entries, manifest))
    rows = bench.run("load", str(path), **{"as": "local/app:1"})
    assert rows[-1]["digest"] == image.digest
    assert bench.names == ["docker.io/local/app:1"]
    assert kept(bench) == {str(manifest.digest)}


def test_what_belongs_to_something_that_is_not_there_is_an_image_without_a_name_and_left_out(
    bench: Bench, tmp_path: Path
) -> None:
    image = random_image(2, platform=HERE)
    manifest, blobs = artifact(random_image(3))
    entries = {**oci([("local/app:1", image)]), **belonging_entries(manifest, blobs)}
    path = write_tar(tmp_path / "x.tar", with_entry(entries, manifest))
    job = bench.job("load", str(path))
    assert job.run() is Status.OK
    assert f"the image {manifest.digest} has no name, and is left out" in job.stderr.text()
    assert (bench.names, kept(bench)) == (["docker.io/local/app:1"], set())


def test_a_signature_that_is_not_whole_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    image = random_image(2, platform=HERE)
    manifest, blobs = artifact(image, b"the signature")
    own = belonging_entries(manifest, blobs)
    missing = f"blobs/sha256/{sha(b'the signature')}"
    entries = {**oci([("local/app:1", image)]), **{k: v for k, v in own.items() if k != missing}}
    path = write_tar(tmp_path / "x.tar", with_entry(entries, manifest))
    _, message = bench.fail("load", str(path))
    assert str(manifest.digest) in message and "not complete" in message
    damaged = write_tar(
        tmp_path / "y.tar",
        with_entry({**oci([("local/app:1", image)]), **own, missing: b"another thing"}, manifest),
    )
    _, message = bench.fail("load", str(damaged))
    assert sha(b"the signature") in message
    assert (bench.names, kept(bench)) == ([], set())


@given(
    st.binary(max_size=4), st.sampled_from(COSIGN_SUFFIXES), st.sampled_from(["sha256", "sha512"])
)
def test_cosign_s_tags_and_what_they_say(content: bytes, suffix: str, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert cosign_subject(cosign_tag(digest, suffix)) == (digest, suffix)
    assert cosign_subject(cosign_tag(digest, suffix).removesuffix(suffix)) is None


@pytest.mark.parametrize("tag", ["1.0", "sig", ".sig", "sha256-ab.sig", "sha256-.sig", "1.0.sig"])
def test_other_tags_say_nothing(tag: str) -> None:
    assert cosign_subject(tag) is None


# real parts


def test_skopeo_reads_the_image_and_a_real_registry_takes_all(tmp_path: Path) -> None:
    with (
        Registry() as registry,
        docker_registry(tmp_path / "registry") as host,
        running_daemon(tmp_path / "state") as daemon,
    ):
        reference, belonging = signed(registry)
        daemon.ctl("pull", reference, "--platform", "all", "--referrers")
        path = tmp_path / "x.tar"
        daemon.ctl("save", reference, "--format", "oci", "--referrers", "-o", path)
        shown = json.loads(skopeo("inspect", "--raw", f"oci-archive:{path}:{reference}"))
        assert shown == json.loads(INDEX.manifest)
        skopeo("copy", "--all", f"oci-archive:{path}:{reference}", f"dir:{tmp_path}/dir")
        target = f"{host}/app:1"
        daemon.ctl("push", target, "--from", f"oci-archive:{path}", "--referrers")
        rows = daemon.ctl_json("referrers", target)
        assert {row["digest"] for row in rows} < belonging
        assert len(rows) == 1
        tag = cosign_tag(Digest.parse(INDEX.digest), "sig")
        skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/app:{tag}")
