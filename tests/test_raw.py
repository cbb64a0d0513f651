"""The manifest, the configuration or the digest of an image, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_daemon import running_daemon
from support_manifests import descriptor, document
from support_real import docker_registry, skopeo
from support_service import Bench
from test_manifest_kinds import put_artifact, put_old
from test_service import HERE, OTHER

from engine import Status
from registry_service.commands import commands
from registry_service.digest import Digest
from registry_service.manifest import OCI_INDEX
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

INDEX = random_index(1, platforms=[OTHER, HERE])
IMAGE = random_image(2, platform=HERE, media="docker")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state")
    yield made
    made.engine.shutdown(grace=0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry(any_type=True) as made:
        push_image(made, "test/app", "1", IMAGE)
        push_image(made, "test/multi", "1", INDEX)
        yield made


def raw(bench: Bench, reference: str, **env: Any) -> bytes:
    job = bench.job("raw", reference, **env)
    assert job.run() is Status.OK, job.stderr.text()
    return job.stdout.data()


def digest(bench: Bench, reference: str, **env: Any) -> str:
    job = bench.job("raw", reference, part="digest", **env)
    assert job.run() is Status.OK, job.stderr.text()
    return job.stdout.text()


@pytest.mark.parametrize("pulled", [False, True])
def test_every_part_is_byte_for_byte_what_the_registry_has(
    bench: Bench, registry: Registry, pulled: bool
) -> None:
    app, multi = f"{registry.host}/test/app:1", f"{registry.host}/test/multi:1"
    if pulled:
        bench.run("pull", app)
        bench.run("pull", multi, platform="all")
        registry.clear_requests()
    assert raw(bench, app) == IMAGE.manifest
    assert raw(bench, app, part="config") == IMAGE.config
    assert digest(bench, app) == f"{IMAGE.digest}\n"
    other, here = INDEX.images
    assert raw(bench, multi) == INDEX.manifest
    assert raw(bench, multi, platform=OTHER) == other.manifest
    assert raw(bench, multi, part="config") == here.config
    assert raw(bench, multi, part="config", platform=OTHER) == other.config
    assert digest(bench, multi) == f"{INDEX.digest}\n"
    assert digest(bench, multi, platform=OTHER) == f"{other.digest}\n"
    assert (registry.requests == []) is pulled


def test_the_registry_is_asked_for_a_digest_without_its_manifest(
    bench: Bench, registry: Registry
) -> None:
    reference = f"{registry.host}/test/app:1"
    bench.run("pull", reference)
    newer = random_image(9, platform=HERE)
    push_image(registry, "test/app", "1", newer)
    registry.clear_requests()
    assert digest(bench, reference) == f"{IMAGE.digest}\n"
    assert registry.requests == []
    assert digest(bench, reference, remote=True) == f"{newer.digest}\n"
    assert {one.method for one in registry.requests if one.path != "/v2/"} == {"HEAD"}
    assert raw(bench, reference, remote=True) == newer.manifest


def test_what_was_not_pulled_is_said(bench: Bench, registry: Registry) -> None:
    reference = f"{registry.host}/test/multi:1"
    bench.run("pull", reference)
    for part in ("manifest", "config", "digest"):
        status, message = bench.fail("raw", reference, part=part, platform=OTHER)
        assert status is Status.ERROR
        assert OTHER in message and INDEX.images[0].digest in message and "'remote'" in message
    assert raw(bench, reference, platform=OTHER, remote=True) == INDEX.images[0].manifest


def test_what_is_not_there_and_what_is_not_one_thing(bench: Bench, registry: Registry) -> None:
    app, multi = f"{registry.host}/test/app:1", f"{registry.host}/test/multi:1"
    for part in ("manifest", "config", "digest"):
        status, message = bench.fail("raw", f"{registry.host}/test/app:2", part=part)
        assert (status, "does not exist" in message) == (Status.ERROR, True)
        for platform in ("all", f"{HERE},{OTHER}"):
            status, message = bench.fail("raw", multi, part=part, platform=platform)
            assert (status, "name one platform" in message) == (Status.ERROR, True)
        status, message = bench.fail("raw", app, part=part, platform=OTHER)
        assert f"is for {HERE}" in message
        status, message = bench.fail("raw", multi, part=part, platform="plan9/386")
        assert OTHER in message
    status, message = bench.fail("raw", app, part="layers")
    assert (status, "manifest, config, digest" in message) == (Status.USAGE, True)


def test_schema_1_and_artifacts(bench: Bench, registry: Registry) -> None:
    digest_of_old = put_old(registry)
    reference = f"{registry.host}/test/old:1"
    found = registry.manifest("test/old", "1")
    assert found is not None
    assert raw(bench, reference) == found.raw
    assert digest(bench, reference) == f"{digest_of_old}\n"
    _, message = bench.fail("raw", reference, part="config")
    assert "has no configuration" in message
    put_artifact(registry)
    assert raw(bench, f"{registry.host}/test/art:1", part="config") == b"{}"


def test_an_index_that_nests_without_an_end_is_refused(bench: Bench, registry: Registry) -> None:
    inner = INDEX.manifest
    for image in INDEX.images:
        push_image(registry, "test/deep", None, image)
    for _ in range(10):
        registry.put_manifest("test/deep", "1", inner, OCI_INDEX)
        parts = [descriptor(OCI_INDEX, inner)]
        inner = document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": parts})
    registry.put_manifest("test/deep", "1", inner, OCI_INDEX)
    _, message = bench.fail("raw", f"{registry.host}/test/deep:1", part="config")
    assert "nest" in message


def test_the_list_of_commands_says_what_each_does() -> None:
    """On one line of a terminal with 80 columns, and not the beginning of it."""
    for command in commands():
        assert not command.get_short_help_str(62).endswith("...")


def test_the_command_writes_the_bytes_and_nothing_else(tmp_path: Path) -> None:
    with (
        running_daemon(tmp_path / "state") as daemon,
        Registry() as registry,
        docker_registry(tmp_path / "registry") as host,
    ):
        push_image(registry, "app", "1", INDEX)
        reference = f"{host}/app:1"
        daemon.ctl("copy", f"{registry.host}/app:1", reference)
        theirs = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
        config = skopeo(
            "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{reference}"
        )
        for output in ("table", "json", "csv"):
            ctl = ("--output", output, "inspect", reference)
            assert daemon.ctl(*ctl, "--raw") == theirs
            assert daemon.ctl(*ctl, "--config") == config.removesuffix("\n")
            assert daemon.ctl(*ctl, "--digest") == f"{Digest.of(theirs.encode())}\n"
        shown = daemon.ctl("inspect", reference, "--digest", "--platform", OTHER)
        assert shown == f"{INDEX.images[0].digest}\n"
        assert json.loads(daemon.ctl("inspect", reference, "--raw", "--platform", OTHER))
        refused = daemon.run_ctl("inspect", reference, "--raw", "--digest")
        assert (refused.returncode, "one of them" in refused.stderr) == (2, True)
        missing = daemon.run_ctl("inspect", f"{host}/app:2", "--raw")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "does not exist" in missing.stderr
