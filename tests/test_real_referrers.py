"""Copy, delete and referrers with real parts: engined, Debian's docker-registry, skopeo, umoci.

That registry has no referrers API and cannot delete a tag alone.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_daemon import Daemon, running_daemon
from support_real import blobs, docker_registry, skopeo, umoci
from support_referrers import SBOM, SIGNATURE, put_artifact

from registry_service.platform import Platform
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

HERE = str(Platform.here())
NAME = "test/app"
INDEX = random_index(1, platforms=[HERE, "linux/s390x"], layer_size=200_000)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "state") as made:
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path / "one") as made:
        yield made


@pytest.fixture
def shipped() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def raw(reference: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}").encode()


def taken(reference: str, place: Path) -> dict[str, int]:
    """The blobs of an image as skopeo gets them, each of which is what its name says."""
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{reference}", f"oci:{place}:x")
    return blobs(place)


def test_a_copy_is_what_skopeo_takes_for_the_same_image(
    daemon: Daemon, shipped: Registry, host: str, tmp_path: Path
) -> None:
    push_image(shipped, NAME, "1", INDEX)
    push_image(shipped, NAME, "docker", random_image(2, media="docker"))
    source = f"{shipped.host}/{NAME}:1"
    rows = daemon.ctl_json("copy", source, f"{host}/moved")
    assert {row["state"] for row in rows} == {"copied"}
    assert raw(f"{host}/moved:1") == INDEX.manifest
    assert taken(f"{host}/moved:1", tmp_path / "a") == taken(source, tmp_path / "b")
    assert {row["state"] for row in daemon.ctl_json("copy", source, f"{host}/moved")} == {"exists"}

    # on from there: within the registry, and to another one
    rows = daemon.ctl_json("copy", f"{host}/moved:1", f"{host}/again:2")
    assert {row["state"] for row in rows} == {"mounted", "copied"}
    assert taken(f"{host}/again:2", tmp_path / "c") == blobs(tmp_path / "a")
    with docker_registry(tmp_path / "two") as other:
        daemon.ctl("copy", f"{host}/again:2", f"{other}/x:1", "--platform", "linux/s390x")
        assert raw(f"{other}/x:1") == INDEX.images[1].manifest
        daemon.ctl("copy", f"{shipped.host}/{NAME}", f"{other}/all", "--all-tags")
        tags = [row["tag"] for row in daemon.ctl_json("tags", f"{other}/all")]
        assert sorted(tags) == ["1", "docker"]
        names = [row["repository"] for row in daemon.ctl_json("catalog", other)]
        assert names == ["all", "x"]
        assert len(daemon.ctl_json("catalog", other, "--limit", "1")) == 1
    assert not list((daemon.state_dir / "images" / "blobs" / "sha256").iterdir())


def test_a_copy_of_several_platforms_is_an_index_of_those(
    daemon: Daemon, shipped: Registry, host: str, tmp_path: Path
) -> None:
    index = random_index(3, platforms=["linux/amd64", "linux/s390x", "linux/arm64"])
    push_image(shipped, NAME, "1", index)
    wanted = ("--platform", "linux/amd64", "--platform", "linux/arm64")
    rows = daemon.ctl_json("copy", f"{shipped.host}/{NAME}:1", f"{host}/two", *wanted)
    shown = json.loads(raw(f"{host}/two:1"))
    assert [one["digest"] for one in shown["manifests"]] == [
        index.images[0].digest,
        index.images[2].digest,
    ]
    assert taken(f"{host}/two:1", tmp_path / "a").keys() == {row["digest"] for row in rows}


def test_referrers_go_to_a_registry_without_the_api_and_come_back(
    daemon: Daemon, shipped: Registry, host: str, tmp_path: Path
) -> None:
    push_image(shipped, NAME, "1", INDEX)
    of_index = put_artifact(shipped, NAME, INDEX, b"index", annotations={"by": "me"})
    of_part = put_artifact(shipped, NAME, INDEX.images[0], b"part", kind=SIGNATURE, typed=False)
    inner = put_artifact(shipped, NAME, of_index, b"inner", kind=SIGNATURE)
    tag = INDEX.digest.replace(":", "-")
    signed = put_artifact(shipped, NAME, None, b"cosign", tag=f"{tag}.sig")
    all_of_them = {str(one.digest) for one in (of_index, of_part, inner, signed)}

    def assert_there(repository: str) -> None:
        name = f"{host}/{repository}"
        (row,) = daemon.ctl_json("referrers", f"{name}:1")
        assert row == {
            "subject": INDEX.digest,
            "digest": str(of_index.digest),
            "media_type": of_index.media_type,
            "artifact_type": SBOM,
            "size": len(of_index.raw),
            "annotations": {"by": "me"},
        }
        (row,) = daemon.ctl_json("referrers", f"{name}@{INDEX.images[0].digest}")
        assert (row["digest"], row["artifact_type"]) == (str(of_part.digest), SIGNATURE)
        (row,) = daemon.ctl_json("referrers", f"{name}@{of_index.digest}")
        assert row["digest"] == str(inner.digest)
        assert daemon.ctl_json("referrers", f"{name}:1", "--artifact-type", SIGNATURE) == []
        assert raw(f"{name}:{tag}.sig") == signed.raw
        assert raw(f"{name}@{of_index.digest}") == of_index.raw
        listed = json.loads(raw(f"{name}:{tag}"))["manifests"]
        assert [one["digest"] for one in listed] == [str(of_index.digest)]

    rows = daemon.ctl_json("copy", f"{shipped.host}/{NAME}:1", f"{host}/copied", "--referrers")
    assert all_of_them <= {row["digest"] for row in rows}
    assert_there("copied")

    rows = daemon.ctl_json("pull", f"{host}/copied:1", "--referrers", "--platform", "all")
    assert all_of_them <= {row["digest"] for row in rows}
    daemon.ctl("tag", f"{host}/copied:1", f"{host}/pushed:1")
    rows = daemon.ctl_json("push", f"{host}/pushed:1", "--referrers")
    assert all_of_them <= {row["digest"] for row in rows}
    assert_there("pushed")

    # what others make of the layout that keeps them
    images = daemon.state_dir / "images"
    assert [row["reference"] for row in daemon.ctl_json("images")] == [
        f"{host}/copied:1",
        f"{host}/pushed:1",
    ]
    names = umoci("ls", "--layout", images).split()
    assert sorted(names) == [f"{host}/copied:1", f"{host}/pushed:1"]
    skopeo("copy", "--all", f"oci:{images}:{host}/pushed:1", f"oci:{tmp_path}/again:x")
    assert INDEX.digest in blobs(tmp_path / "again")

    # deleted, it is taken off the list
    rows = daemon.ctl_json("delete", f"{host}/pushed@{of_index.digest}")
    assert [row["state"] for row in rows] == ["deleted"]
    assert daemon.ctl_json("referrers", f"{host}/pushed:1") == []
    assert json.loads(raw(f"{host}/pushed:{tag}"))["manifests"] == []
    rows = daemon.ctl_json("push", f"{host}/pushed:1", "--referrers")
    assert {row["digest"] for row in rows if row["state"] == "pushed"} == {str(of_index.digest)}
    assert len(daemon.ctl_json("referrers", f"{host}/pushed:1")) == 1


def test_a_delete_takes_no_other_tag_along(
    daemon: Daemon, shipped: Registry, host: str, tmp_path: Path
) -> None:
    image = random_image(3, platform=HERE)
    push_image(shipped, NAME, "1", image)
    for tag in ("1", "2"):
        daemon.ctl("copy", f"{shipped.host}/{NAME}:1", f"{host}/app:{tag}")
    for name in (f"{host}/app:1", f"{host}/app@{image.digest}"):
        refused = daemon.run_ctl("delete", name)
        assert refused.returncode == 1
        assert "2" in refused.stderr
        assert "force" in refused.stderr
    assert raw(f"{host}/app:1") == raw(f"{host}/app:2") == image.manifest
    rows = daemon.ctl_json("delete", f"{host}/app:1", "--force")
    assert [(row["reference"], row["state"]) for row in rows] == [
        (f"{host}/app:1", "deleted"),
        (f"{host}/app:2", "deleted"),
    ]
    gone = daemon.run_ctl("delete", f"{host}/app:1")
    assert gone.returncode == 1
    assert "does not exist" in gone.stderr
    with docker_registry(tmp_path / "off", deletes=False) as off:
        daemon.ctl("copy", f"{shipped.host}/{NAME}:1", f"{off}/app:1")
        for name in (f"{off}/app:1", f"{off}/app@{image.digest}"):
            failed = daemon.run_ctl("delete", name, "--force")
            assert failed.returncode == 1
            assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in failed.stderr


def test_each_side_s_password_comes_from_where_it_can(daemon: Daemon, shipped: Registry) -> None:
    push_image(shipped, NAME, "1", random_image(3, layers=1))
    with Registry(users={"bob": "secret"}) as target:
        names = (f"{shipped.host}/{NAME}:1", f"{target.host}/moved:1")
        options = ("--target-user", "bob", "--target-password-stdin")
        done = daemon.run_ctl("copy", *names, *options, stdin="secret")
        assert done.returncode == 0, done.stderr
        wrong = daemon.run_ctl("copy", *names, *options, stdin="wrong")
        assert wrong.returncode == 1
        assert "bob" in wrong.stderr
        both = daemon.run_ctl(
            "copy", *names, "-u", "ann", "--password-stdin", *options, stdin="secret"
        )
        assert (both.returncode, "standard input holds one password" in both.stderr) == (2, True)
        nobody = daemon.run_ctl("copy", *names, "--target-password-stdin", stdin="secret")
        assert nobody.returncode == 2
        assert "--target-user USER" in nobody.stderr
    assert "secret" not in daemon.log()


def test_the_user_s_own_credentials_serve_both_sides(daemon: Daemon, tmp_path: Path) -> None:
    with (
        Registry(users={"ann": "of the source"}) as source,
        Registry(users={"bob": "of the target", "eve": "given"}) as target,
    ):
        push_image(source, NAME, "1", random_image(3, layers=1))
        auths = {
            host: {"auth": base64.b64encode(pair.encode()).decode()}
            for host, pair in (
                (source.host, "ann:of the source"),
                (target.host, "bob:of the target"),
            )
        }
        (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
        ann = dataclasses.replace(
            daemon, environ={**daemon.environ, "DOCKER_CONFIG": str(tmp_path)}
        )
        here, there = f"{source.host}/{NAME}:1", f"{target.host}/moved:1"
        ann.ctl("copy", here, there)
        assert {one.user for one in source.requests if one.path.startswith("/v2/test")} == {"ann"}
        assert {one.user for one in target.requests if one.path.startswith("/v2/moved")} == {"bob"}
        # within one registry, those that are given for the source serve both
        target.clear_requests()
        options = ("-u", "eve", "--password-stdin")
        ann.run_ctl("copy", there, f"{target.host}/again:1", *options, stdin="given")
        assert {one.user for one in target.requests if one.path.startswith("/v2/again")} == {"eve"}
        nobody = ann.run_ctl("copy", here, there, "--anonymous")
        assert nobody.returncode == 1
        assert "login" in nobody.stderr
        assert [row["repository"] for row in ann.ctl_json("catalog", target.host)] == [
            "again",
            "moved",
        ]
        ann.ctl("delete", there)
        assert target.tags("moved") == []
    assert "of the" not in daemon.log()
