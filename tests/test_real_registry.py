"""The whole way, with real parts: engined, enginectl, Debian's docker-registry, skopeo, umoci."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
from support_daemon import Daemon, running_daemon
from support_real import blobs, docker_registry, make_layout, skopeo, umoci

USER, PASSWORD = "ann", "correct horse"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trees of real files: the sources and the compiled parts of Python's own library."""
    root = tmp_path_factory.mktemp("files")
    library = Path(os.__file__).parent
    trees = []
    for name in ("json", "email"):
        shutil.copytree(library / name, root / name, symlinks=True)
        trees.append(root / name)
    return trees


@pytest.fixture(scope="module")
def layout(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("layout") / "oci"
    make_layout(made, files)
    return made


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "state") as made:
        yield made


def push_by_skopeo(layout: Path, target: str, *options: str) -> None:
    skopeo(
        "copy", "--dest-tls-verify=false", *options, f"oci:{layout}:latest", f"docker://{target}"
    )


def digest_of(layout: Path, name: str) -> str:
    index = json.loads((layout / "index.json").read_text())
    key = "org.opencontainers.image.ref.name"
    (found,) = (
        one["digest"] for one in index["manifests"] if one.get("annotations", {}).get(key) == name
    )
    return str(found)


def test_an_image_goes_from_registry_to_store_to_registry_unchanged(
    daemon: Daemon, layout: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry") as host:
        source = f"{host}/test/app:1.0"
        push_by_skopeo(layout, source)

        rows = daemon.ctl_json("pull", source)
        assert {row["state"] for row in rows} == {"fetched"}
        images = daemon.state_dir / "images"
        assert digest_of(images, source) == rows[-1]["digest"]

        # what others make of the layout
        shown = json.loads(skopeo("inspect", f"oci:{images}:{source}"))
        assert shown["Digest"] == rows[-1]["digest"]
        theirs = tmp_path / "theirs"
        skopeo("copy", "--src-tls-verify=false", f"docker://{source}", f"oci:{theirs}:x")
        assert blobs(images) == blobs(theirs)
        umoci("unpack", "--rootless", "--image", f"{images}:{source}", tmp_path / "bundle")
        unpacked = tmp_path / "bundle" / "rootfs" / "json" / "decoder.py"
        assert unpacked.read_bytes() == Path(json.decoder.__file__).read_bytes()

        # another name, and back
        target = f"{host}/moved/app:2.0"
        daemon.ctl("tag", source, target)
        pushed = daemon.ctl_json("push", target)
        assert {row["state"] for row in pushed[:-1]} <= {"mounted", "exists"}
        assert pushed[-1] == {**rows[-1], "reference": target, "state": "pushed"}
        back = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{target}"))
        assert back["Digest"] == rows[-1]["digest"]
        skopeo("copy", "--src-tls-verify=false", f"docker://{target}", f"oci:{tmp_path}/again:x")
        assert blobs(tmp_path / "again") == blobs(theirs)

        assert [row["tag"] for row in daemon.ctl_json("tags", f"{host}/moved/app")] == ["2.0"]
        names = [row["name"] for row in daemon.ctl_json("search", f"{host}/app")]
        assert sorted(names) == ["moved/app", "test/app"]


def test_an_upload_to_an_empty_registry_arrives_whole(
    daemon: Daemon, layout: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "one") as first, docker_registry(tmp_path / "two") as second:
        push_by_skopeo(layout, f"{first}/app:1")
        daemon.ctl("pull", f"{first}/app:1")
        daemon.ctl("tag", f"{first}/app:1", f"{second}/copy/of/app:1")
        rows = daemon.ctl_json("push", f"{second}/copy/of/app:1")
        assert {row["state"] for row in rows} == {"pushed"}
        skopeo(
            "copy",
            "--src-tls-verify=false",
            f"docker://{second}/copy/of/app:1",
            f"oci:{tmp_path}/back:x",
        )
        assert blobs(tmp_path / "back") == blobs(daemon.state_dir / "images")


def test_an_index_of_two_platforms_goes_the_same_way(
    daemon: Daemon, files: list[Path], tmp_path: Path
) -> None:
    # two images in one layout, and an index over them
    place = tmp_path / "multi"
    make_layout(place, files[:1], architecture="amd64")
    other = tmp_path / "other"
    make_layout(other, files[1:], architecture="arm64")
    skopeo("copy", f"oci:{other}:latest", f"oci:{place}:arm64")
    entries: list[dict[str, Any]] = []
    for name, architecture in (("latest", "amd64"), ("arm64", "arm64")):
        digest = digest_of(place, name)
        entries.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": (place / "blobs" / "sha256" / digest[7:]).stat().st_size,
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    with docker_registry(tmp_path / "registry") as host:
        for entry in entries:
            name = "latest" if entry["platform"]["architecture"] == "amd64" else "arm64"
            skopeo(
                "copy",
                "--dest-tls-verify=false",
                f"oci:{place}:{name}",
                f"docker://{host}/multi:{name}",
            )
        raw = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": entries,
            }
        ).encode()
        put = urllib.request.Request(
            f"http://{host}/v2/multi/manifests/both",
            data=raw,
            method="PUT",
            headers={"Content-Type": "application/vnd.oci.image.index.v1+json"},
        )
        with urllib.request.urlopen(put) as answer:
            assert answer.status == 201

        source, target = f"{host}/multi:both", f"{host}/moved:both"
        (chosen,) = (e for e in entries if e["platform"]["architecture"] == "arm64")
        one = daemon.ctl_json("pull", source, "--platform", "linux/arm64")
        assert chosen["digest"] in {row["digest"] for row in one}
        assert entries[0]["digest"] not in {row["digest"] for row in one}
        daemon.ctl("tag", source, target)
        failed = daemon.run_ctl("push", target)
        assert failed.returncode == 1
        assert "linux/amd64" in failed.stderr

        daemon.ctl("pull", source, "--platform", "all")
        rows = daemon.ctl_json("push", target)
        assert rows[-1]["media_type"] == "application/vnd.oci.image.index.v1+json"
        skopeo(
            "copy", "--all", "--src-tls-verify=false", f"docker://{target}", f"oci:{tmp_path}/b:x"
        )
        shown = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}")
        assert shown.encode() == raw
        assert digest_of(daemon.state_dir / "images", target) == rows[-1]["digest"]


@pytest.fixture
def htpasswd(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4, prefix=b"2a"))
    path.write_bytes(USER.encode() + b":" + hashed + b"\n")
    return path


def test_behind_htpasswd_right_credentials_wrong_ones_and_none(
    daemon: Daemon, layout: Path, tmp_path: Path, htpasswd: Path
) -> None:
    with docker_registry(tmp_path / "registry", htpasswd=htpasswd) as host:
        push_by_skopeo(layout, f"{host}/app:1", f"--dest-creds={USER}:{PASSWORD}")
        options = ["-u", USER, "--password-stdin"]

        right = daemon.run_ctl("auth", host, *options, stdin=PASSWORD)
        assert (right.returncode, right.stdout.strip()) == (0, "Login Succeeded")
        pulled = daemon.run_ctl("pull", f"{host}/app:1", *options, stdin=PASSWORD)
        assert pulled.returncode == 0, pulled.stderr
        pushed = daemon.run_ctl("push", f"{host}/app:1", *options, stdin=PASSWORD)
        assert pushed.returncode == 0, pushed.stderr

        for command in (["auth", host], ["pull", f"{host}/app:1"], ["push", f"{host}/app:1"]):
            wrong = daemon.run_ctl(*command, *options, stdin="wrong horse")
            assert wrong.returncode == 1
            assert USER in wrong.stderr
            assert host in wrong.stderr
            assert "wrong horse" not in wrong.stderr + wrong.stdout
        for command in (["pull", f"{host}/app:1"], ["push", f"{host}/app:1"]):
            none = daemon.run_ctl(*command)
            assert none.returncode == 1
            assert "login" in none.stderr
    log = daemon.log()
    assert PASSWORD not in log
    assert "wrong horse" not in log


def test_behind_tls_with_a_ca_of_its_own(layout: Path, tmp_path: Path, htpasswd: Path) -> None:
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    server.private_key_pem.write_to_path(key)
    certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    with docker_registry(
        tmp_path / "registry", htpasswd=htpasswd, certificate=certificate, key=key
    ) as host:
        push_by_skopeo(layout, f"{host}/app:1", f"--dest-creds={USER}:{PASSWORD}")
        certs = tmp_path / "certs.d"
        config = tmp_path / "engined.toml"
        config.write_text("")  # certs.d beside it is the default
        with running_daemon(tmp_path / "state", config=config) as daemon:
            options = ["-u", USER, "--password-stdin"]
            unknown = daemon.run_ctl("pull", f"{host}/app:1", *options, stdin=PASSWORD)
            assert unknown.returncode == 1
            assert str(certs / host) in unknown.stderr  # where its CA belongs
        (certs / host).mkdir(parents=True)
        ca.cert_pem.write_to_path(certs / host / "ca.crt")
        with running_daemon(tmp_path / "state", config=config) as daemon:
            right = daemon.run_ctl("pull", f"{host}/app:1", *options, stdin=PASSWORD)
            assert right.returncode == 0, right.stderr
            wrong = daemon.run_ctl("pull", f"{host}/app:1", *options, stdin="wrong horse")
            assert wrong.returncode == 1
            assert USER in wrong.stderr
            none = daemon.run_ctl("pull", f"{host}/app:1")
            assert none.returncode == 1


def test_the_daemon_s_own_command_line_runs_as_installed() -> None:
    scripts = Path(sys.executable).parent
    for name in ("engined", "enginectl"):
        shown = subprocess.run(
            [scripts / name, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        assert shown.stdout.split()[-1] == "0.1.0"
