"""The whole way past Debian's docker-registry's doors: login, identity tokens, dead mirrors."""

from __future__ import annotations

import dataclasses
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from scripted import closed_port
from support_daemon import Daemon, Result, running_daemon
from support_hosts import HERE, section
from support_real import blobs, docker_registry
from support_tokens import counting_front, token_server

from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image

ANN, BOB = "ann's s3cr3t", "b0b's s3cr3t"
USERS = {"ann": ANN, "bob": BOB}
ACCESS = {"ann": {"team/app": "pull,push"}, "bob": {"team/app": "pull"}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "engined.toml"
    path.write_text("")  # registries.toml beside it is the default
    return path


@pytest.fixture
def daemon(tmp_path: Path, config: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "state", config=config) as running:
        yield running


def at_home(daemon: Daemon, home: Path) -> Daemon:
    """The daemon as somebody sees it who lives at ``home``."""
    home.mkdir()
    return dataclasses.replace(daemon, environ={**daemon.environ, "HOME": str(home)})


def login(daemon: Daemon, host: str, user: str, password: str) -> Result:
    return daemon.run_ctl("login", host, "-u", user, "--password-stdin", stdin=password)


def entries(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / ".docker" / "config.json").read_text())["auths"]
    return found


def fetch_image(daemon: Daemon, *names: str) -> Image:
    """An image in the daemon's store, under ``names``."""
    image = random_image(1, layers=2, layer_size=50_000, platform=HERE)
    with Registry() as origin:
        push_image(origin, "team/app", "1", image)
        daemon.ctl("pull", f"{origin.host}/team/app:1")
        for name in names:
            daemon.ctl("tag", f"{origin.host}/team/app:1", name)
    return image


# a token server


def test_a_login_gets_an_identity_token_that_opens_for_what_its_user_may(
    daemon: Daemon, config: Path, tmp_path: Path
) -> None:
    with (
        token_server(tmp_path, users=USERS, access=ACCESS) as tokens,
        docker_registry(tmp_path / "registry", extra={"auth": tokens.settings}) as host,
        running_daemon(tmp_path / "second", config=config) as elsewhere,
    ):
        ann = at_home(daemon, tmp_path / "ann")
        bob = at_home(elsewhere, tmp_path / "bob")
        name = f"{host}/team/app:1"
        image = fetch_image(ann, name)

        wrong = login(ann, host, "ann", "wr0ng")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "the user name 'ann' or its password was refused" in wrong.stderr
        assert not (tmp_path / "ann" / ".docker").exists()

        for user, one in (("ann", ann), ("bob", bob)):
            done = login(one, host, user, USERS[user])
            assert (done.returncode, done.stdout) == (0, "Login Succeeded\n"), done.stderr
            kept = entries(tmp_path / user)[host]
            assert tokens.identities[kept["identitytoken"]] == user

        before = len(tokens.asked)
        assert ann.ctl_json("push", name)[-1]["digest"] == image.digest
        assert bob.ctl_json("pull", name)[-1]["digest"] == image.digest
        assert blobs(elsewhere.state_dir / "images") == blobs(daemon.state_dir / "images")
        assert {(one.method, one.grant, one.status) for one in tokens.asked[before:]} == {
            ("POST", "refresh_token", 200)
        }

        bob.ctl("tag", name, f"{host}/team/app:2")
        refused = bob.run_ctl("push", f"{host}/team/app:2")
        assert refused.returncode == 1
        assert "refuses" in refused.stderr and "team/app:pull,push" in refused.stderr
        assert [row["tag"] for row in ann.ctl_json("tags", f"{host}/team/app")] == ["1"]

        ann.ctl("logout", host)
        nobody = ann.run_ctl("pull", name)
        assert (nobody.returncode, "asks for a login" in nobody.stderr) == (1, True)
        said = daemon.log() + elsewhere.log() + wrong.stderr + refused.stderr + nobody.stderr
        for secret in (ANN, BOB, "wr0ng", *tokens.identities):
            assert secret not in said


def test_an_identity_token_that_was_taken_back_asks_for_another_login(
    daemon: Daemon, tmp_path: Path
) -> None:
    with (
        token_server(tmp_path, users=USERS, access=ACCESS) as tokens,
        docker_registry(tmp_path / "registry", extra={"auth": tokens.settings}) as host,
    ):
        ann = at_home(daemon, tmp_path / "ann")
        name = f"{host}/team/app:1"
        fetch_image(ann, name)
        login(ann, host, "ann", ANN)
        (old,) = (token for token, user in tokens.identities.items() if user == "ann")
        del tokens.identities[old]
        tokens.identities["another-one-of-ann-987"] = "ann"
        refused = ann.run_ctl("push", name)
        assert refused.returncode == 1
        assert "the identity token was refused; log in again" in refused.stderr
        assert old not in refused.stderr
        assert login(ann, host, "ann", ANN).returncode == 0
        assert entries(tmp_path / "ann")[host]["identitytoken"] == "another-one-of-ann-987"
        assert ann.ctl_json("push", name)[-1]["state"] == "pushed"


def server_context(ca: trustme.CA, place: Path) -> ssl.SSLContext:
    """For a server on loopback; its certificate and key lie in ``place``, too."""
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(place / "server.key")
    (place / "server.cert").write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


def test_a_token_server_has_an_authority_of_its_own(daemon: Daemon, tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    context = server_context(second, tmp_path)
    server_context(first, tmp_path)  # the registry's files take the place of the token server's
    with (
        token_server(tmp_path, users=USERS, access=ACCESS, context=context) as tokens,
        docker_registry(
            tmp_path / "registry",
            extra={"auth": tokens.settings},
            certificate=tmp_path / "server.cert",
            key=tmp_path / "server.key",
        ) as host,
    ):
        ann = at_home(daemon, tmp_path / "ann")
        name = f"{host}/team/app:1"
        image = fetch_image(ann, name)
        for authority, where, other in ((first, host, tokens.host), (second, tokens.host, host)):
            refused = login(ann, host, "ann", ANN)
            assert (refused.returncode, refused.stdout) == (1, "")
            place = tmp_path / "certs.d" / where
            assert f"put the authority's certificate as ca.crt into {place}" in refused.stderr
            assert f"{other}: the server's certificate" not in refused.stderr
            assert not (tmp_path / "ann" / ".docker").exists()
            place.mkdir(parents=True)
            authority.cert_pem.write_to_path(place / "ca.crt")
        assert tokens.asked == []
        assert login(ann, host, "ann", ANN).returncode == 0
        assert ann.ctl_json("push", name)[-1]["digest"] == image.digest
        assert ann.ctl_json("pull", name)[-1]["state"] == "exists"


# a pull-through mirror


def test_a_mirror_that_is_gone_leaves_the_origin_or_an_error_that_says_so(
    daemon: Daemon, config: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "origin") as behind, counting_front(behind) as origin:
        name = f"{origin.host}/team/app:1"
        image = fetch_image(daemon, name)
        daemon.ctl("push", name)
        gone = f"127.0.0.1:{closed_port()}"
        for last, there in (("last", True), ("never", False)):
            (tmp_path / "registries.toml").write_text(
                section(origin.host, mirrors=[gone], origin=last)
            )
            before = len(origin.passed)
            with running_daemon(tmp_path / last, config=config) as other:
                done = other.run_ctl("--output", "json", "pull", name)
                assert done.returncode == (0 if there else 1), done.stderr
                assert (image.digest in done.stdout) is there
                assert gone in done.stderr or there
                assert (other.ctl_json("images") != []) is there
            assert (origin.passed[before:] != []) is there


def wait_for_all(root: Path, image: Image) -> None:
    """Until the pull-through mirror with its storage at ``root`` has the image: it fetches a blob
    once for whoever asked, and once more for itself, in its own time."""
    place = root / "docker" / "registry" / "v2" / "repositories" / "team" / "app"
    links = [place / "_layers" / "sha256" / digest[7:] / "link" for digest in image.blobs]
    links.append(place / "_manifests" / "revisions" / "sha256" / image.digest[7:] / "link")
    pause = threading.Event()
    for _ in range(600):
        if all(link.exists() for link in links):
            return
        pause.wait(0.05)
    raise AssertionError("the mirror keeps nothing")


def test_what_a_pull_through_mirror_has_needs_the_origin_no_more(
    daemon: Daemon, config: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "origin") as behind, counting_front(behind) as origin:
        name = f"{origin.host}/team/app:1"
        image = fetch_image(daemon, name)
        daemon.ctl("push", name)
        proxy = {"remoteurl": f"http://{origin.host}"}
        with docker_registry(tmp_path / "cache", extra={"proxy": proxy}) as mirror:
            (tmp_path / "registries.toml").write_text(
                section(origin.host, mirrors=[mirror], origin="never")
            )
            pinned = f"{origin.host}/team/app@{image.digest}"
            with running_daemon(tmp_path / "first", config=config) as first:
                assert first.ctl_json("pull", pinned)[-1]["digest"] == image.digest
            wait_for_all(tmp_path / "cache", image)
            came = len(origin.passed)
            origin.close()
            with running_daemon(tmp_path / "other", config=config) as other:
                assert other.ctl_json("pull", pinned)[-1]["digest"] == image.digest
                assert blobs(other.state_dir / "images") == blobs(daemon.state_dir / "images")
            assert len(origin.passed) == came
