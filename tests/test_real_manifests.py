"""Every kind of manifest with real parts: Debian's docker-registry, skopeo, umoci."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_daemon import running_daemon
from support_manifests import EMPTY_LAYER, Step, descriptor, document, layer, old_image, signed
from support_real import docker_registry, make_layout, skopeo, umoci
from support_service import Bench

from engine import Status
from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.manifest import Manifest
from registry_service.media import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_SIGNED,
)
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.session.v2 import V2Client
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image

FIRST, SECOND = layer("a", b"first"), layer("b", b"second")
STEPS = [
    Step(command="ADD a", blob=FIRST),
    Step(command="ENV x"),
    Step(command="ADD b", blob=SECOND),
    Step(command="ADD a", blob=FIRST),
]
SCHEMA1 = {"compatibility": {"schema1": {"enabled": True}}}
ANY_URL = {"validation": {"manifests": {"urls": {"allow": ["^https?://"]}}}}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registries() -> Iterator[Registries]:
    made = Registries()
    yield made
    made.close()


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layout")
    shutil.copytree(Path(os.__file__).parent / "json", root / "json", symlinks=True)
    make_layout(root / "oci", [root / "json"])
    return root / "oci"


def client_of(registries: Registries, host: str) -> V2Client:
    found = registries.client(host, Access(), cancel=Cancellation(), observer=Observer())
    assert isinstance(found, V2Client)
    return found


def put_blob(client: V2Client, repository: str, content: bytes) -> None:
    described = Descriptor(media_type="a/b", digest=Digest.of(content), size=len(content))
    client.put_blob(repository, described, lambda: io.BytesIO(content))


def unpacked(images: Path, name: str, place: Path) -> Path:
    umoci("unpack", "--rootless", "--image", f"{images}:{name}", place)
    return place / "rootfs"


def load(images: Path, digest: str) -> Any:
    return json.loads((images / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())


def test_a_signed_schema_1_that_a_real_registry_took_is_what_skopeo_makes_of_it(
    bench: Bench, registries: Registries, tmp_path: Path
) -> None:
    old = old_image(STEPS, "test/old", config={"Env": ["A=b"], "Cmd": ["/x"]})
    raw = signed(old.raw)
    with docker_registry(tmp_path / "registry", extra=SCHEMA1) as host:
        client = client_of(registries, host)
        for blob in (FIRST, SECOND, EMPTY_LAYER):
            put_blob(client, "test/old", blob)
        # it verifies the signature, and names the digest of what was signed
        manifest = Manifest.parse(raw, SCHEMA1_SIGNED)
        client.put_manifest("test/old", "1", manifest)
        assert client.get_manifest("test/old", "1").digest == manifest.digest
        reference = f"{host}/test/old:1"
        assert bench.run("inspect", reference, remote=True)[0]["digest"] == old.digest
        rows = bench.run("pull", reference)
        assert rows[-1]["state"] == "converted"
        assert {row["state"] for row in bench.run("pull", reference)} == {"exists"}
        by_digest = bench.run("pull", f"{host}/test/old@{old.digest}")
        assert by_digest[-1]["digest"] == rows[-1]["digest"]

        theirs = tmp_path / "theirs"
        skopeo("copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{theirs}:x")
    images = bench.state / "images"
    index = json.loads((theirs / "index.json").read_text())
    their_manifest = load(theirs, index["manifests"][0]["digest"])
    our_manifest = load(images, rows[-1]["digest"])
    assert our_manifest["layers"] == their_manifest["layers"]
    ours = load(images, our_manifest["config"]["digest"])
    other = load(theirs, their_manifest["config"]["digest"])
    for key in ("rootfs", "architecture", "os", "config"):
        assert ours[key] == other[key]
    assert ours["history"] == other["history"]

    shown = json.loads(skopeo("inspect", f"oci:{images}:{reference}"))
    assert shown["Digest"] == rows[-1]["digest"]
    files = unpacked(images, reference, tmp_path / "bundle")
    assert (files / "a").read_bytes() == b"first"
    assert (files / "b").read_bytes() == b"second"


def test_a_docker_image_is_read_by_others_once_it_was_converted(
    bench: Bench, layout: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry") as host:
        source = f"{host}/test/app:1"
        skopeo(
            "copy",
            "--dest-tls-verify=false",
            "--format=v2s2",
            f"oci:{layout}:latest",
            f"docker://{source}",
        )
        assert bench.run("pull", source)[-1]["media_type"] == DOCKER_MANIFEST
        rows = bench.run("convert", source, f"{host}/test/oci:1", format="oci")
        images = bench.state / "images"
        shown = json.loads(skopeo("inspect", f"oci:{images}:{host}/test/oci:1"))
        assert shown["Digest"] == rows[-1]["digest"]
        files = unpacked(images, f"{host}/test/oci:1", tmp_path / "bundle")
        assert (files / "json" / "decoder.py").read_bytes() == Path(
            json.decoder.__file__
        ).read_bytes()
        # and to the registry, in both formats
        assert bench.run("push", f"{host}/test/oci:1")[-1]["digest"] == rows[-1]["digest"]
        bench.run("tag", f"{host}/test/oci:1", f"{host}/test/docker:1")
        pushed = bench.run("push", f"{host}/test/docker:1", format="docker")
        for name, kind in (("oci", OCI_MANIFEST), ("docker", DOCKER_MANIFEST)):
            raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{host}/test/{name}:1")
            assert json.loads(raw)["mediaType"] == kind
        again = json.loads(
            skopeo("inspect", "--tls-verify=false", f"docker://{host}/test/docker:1")
        )
        assert again["Digest"] == pushed[-1]["digest"]


def test_a_docker_image_that_is_pulled_as_oci_is_read_by_others(
    bench: Bench, layout: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry") as host:
        source = f"{host}/test/app:1"
        skopeo(
            "copy",
            "--dest-tls-verify=false",
            "--format=v2s2",
            f"oci:{layout}:latest",
            f"docker://{source}",
        )
        rows = bench.run("pull", source, format="oci")
    assert [row["media_type"] for row in rows[-2:]] == [DOCKER_MANIFEST, OCI_MANIFEST]
    images = bench.state / "images"
    shown = json.loads(skopeo("inspect", f"oci:{images}:{source}"))
    assert shown["Digest"] == rows[-1]["digest"]
    files = unpacked(images, source, tmp_path / "bundle")
    assert (files / "json" / "decoder.py").read_bytes() == Path(json.decoder.__file__).read_bytes()


def test_an_index_goes_as_a_manifest_list(bench: Bench, layout: Path, tmp_path: Path) -> None:
    arm = tmp_path / "arm"
    shutil.copytree(layout, arm)
    umoci("config", "--image", f"{arm}:latest", "--architecture", "arm64")
    with docker_registry(tmp_path / "registry") as host:
        parts = []
        for place, architecture in ((layout, "amd64"), (arm, "arm64")):
            target = f"{host}/test/multi:{architecture}"
            skopeo("copy", "--dest-tls-verify=false", f"oci:{place}:latest", f"docker://{target}")
            raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}").encode()
            platform = {"os": "linux", "architecture": architecture}
            parts.append(descriptor(OCI_MANIFEST, raw, platform=platform))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": parts}
        request = urllib.request.Request(
            f"http://{host}/v2/test/multi/manifests/1",
            data=document(index),
            headers={"Content-Type": OCI_INDEX},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 201
        source, target = f"{host}/test/multi:1", f"{host}/test/multi:docker"
        bench.run("pull", source, platform="linux/amd64,linux/arm64")
        bench.run("tag", source, target)
        bench.run("push", target, format="docker")
        shown = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}")
        assert json.loads(shown)["mediaType"] == DOCKER_LIST
        skopeo(
            "copy", "--all", "--src-tls-verify=false", f"docker://{target}", f"oci:{tmp_path}/all:x"
        )


def test_foreign_layers_are_left_where_they_are(
    bench: Bench, registries: Registries, tmp_path: Path
) -> None:
    blob = layer("foreign", b"from elsewhere")
    config = document(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    )
    with (
        docker_registry(tmp_path / "registry", extra=ANY_URL) as host,
        docker_registry(tmp_path / "elsewhere") as elsewhere,
    ):
        put_blob(client_of(registries, elsewhere), "files", blob)
        client = client_of(registries, host)
        put_blob(client, "test/win", config)
        url = f"http://{elsewhere}/v2/files/blobs/{Digest.of(blob)}"
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        value = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": descriptor("application/vnd.docker.container.image.v1+json", config),
            "layers": [descriptor(kind, blob, urls=[url])],
        }
        client.put_manifest("test/win", "1", Manifest.parse(document(value)))
        source, target = f"{host}/test/win:1", f"{host}/moved/win:1"
        rows = bench.run("pull", source)
        assert (str(Digest.of(blob)), "fetched") in {(row["digest"], row["state"]) for row in rows}
        bench.run("tag", source, target)
        assert str(Digest.of(blob)) not in {row["digest"] for row in bench.run("push", target)}
        assert client.blob_size("moved/win", Digest.of(blob)) is None
        bench.run("convert", source, f"{host}/moved/win:oci", format="oci")
        bench.run("push", f"{host}/moved/win:oci", foreign=True)
        assert client.blob_size("moved/win", Digest.of(blob)) == len(blob)


def test_artifacts_and_sha512_with_a_real_registry(
    bench: Bench, registries: Registries, tmp_path: Path
) -> None:
    """It keeps blobs by sha512, and manifests by sha256 only."""
    parts = [
        descriptor(kind, blob, algorithm="sha512")
        for kind, blob in ((OCI_EMPTY, b"{}"), ("text/x-sbom", b"sbom"), ("a/nothing", b""))
    ]
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example+type",
        "config": parts[0],
        "layers": parts[1:],
    }
    with docker_registry(tmp_path / "registry") as host:
        client = client_of(registries, host)
        for blob in (b"{}", b"sbom", b""):
            described = Descriptor(
                media_type="a/b", digest=Digest.of(blob, "sha512"), size=len(blob)
            )
            client.put_blob("test/art", described, functools.partial(io.BytesIO, blob))
        raw = document(value)
        client.put_manifest("test/art", "1", Manifest.parse(raw))
        source, target = f"{host}/test/art:1", f"{host}/moved/art:1"
        rows = bench.run("pull", source)
        assert {row["digest"].partition(":")[0] for row in rows[:-1]} == {"sha512"}
        bench.run("tag", source, target)
        assert bench.run("push", target)[-1]["digest"] == str(Digest.of(raw))
        assert client.get_manifest("moved/art", "1").raw == raw
        skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}")
        job = bench.job("push", target)
        assert job.run() is Status.OK
        assert OCI_CONFIG not in job.stdout.text()


def test_the_commands(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "state") as daemon, Registry() as registry:
        push_image(registry, "app", "1", random_image(1, media="docker"))
        source = f"{registry.host}/app:1"
        daemon.ctl("pull", source, "--platform", "linux/amd64,linux/arm64")
        rows = daemon.ctl_json("convert", source, f"{registry.host}/app:oci", "--format", "oci")
        assert (rows[-1]["media_type"], rows[-1]["state"]) == (OCI_MANIFEST, "converted")
        pulled = daemon.ctl_json("pull", source, "--format", "oci")
        assert (pulled[-1]["media_type"], pulled[-1]["state"]) == (OCI_MANIFEST, "exists")
        daemon.ctl("push", f"{registry.host}/app:oci")
        daemon.ctl("tag", f"{registry.host}/app:oci", f"{registry.host}/app:back")
        pushed = daemon.ctl_json(
            "push", f"{registry.host}/app:back", "--format", "docker", "--foreign"
        )
        assert pushed[-1]["media_type"] == DOCKER_MANIFEST
        kinds = [registry.manifest("app", tag) for tag in ("1", "oci", "back")]
        assert [one and one.media_type for one in kinds] == [
            DOCKER_MANIFEST,
            OCI_MANIFEST,
            DOCKER_MANIFEST,
        ]
        for wrong in (("--format", "tar"), ()):
            result = daemon.run_ctl("convert", source, "x:1", *wrong)
            assert (result.returncode, "format" in result.stderr) == (2, True)
