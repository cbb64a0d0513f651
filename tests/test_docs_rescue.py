"""docs/rescue-v1.md, typed exactly: its commands, in their order, against real servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from support_daemon import running_daemon
from support_real import docker_registry, free_port, skopeo
from support_service import Bench
from support_v1_copy import (
    NAME,
    another_s_json,
    cut_off,
    hole,
    loop,
    no_layer,
    no_tar,
    wrong_sum,
)

from registry_service.hostfile import load_hosts
from registry_service.testing import Registry
from registry_service.testing.server import TLSFiles
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import (
    push_chain,
    random_archive,
    random_chain,
    random_id,
)

PAGE = (Path(__file__).parent.parent / "docs" / "rescue-v1.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Shell:
    """Runs what the page says, with the hosts that there are in the place of the page's."""

    place: Path
    hosts: dict[str, str]
    environ: dict[str, str]

    def written(self, text: str) -> str:
        for name, host in self.hosts.items():
            text = text.replace(name, host)
        assert ".example" not in text
        return text

    def run(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.written(text)],
            cwd=self.place,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def serving(self, text: str) -> Iterator[None]:
        """A command that serves until it is ended."""
        with subprocess.Popen(
            ["bash", "-c", f"exec {self.written(text)}"],
            cwd=self.place,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("registry ready http://")
                yield
            finally:
                process.terminate()


@pytest.fixture
def safe(tmp_path: Path) -> Iterator[V1Registry]:
    """An old registry behind https and a login."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    files = TLSFiles(cert=tmp_path / "server.pem", key=tmp_path / "server.pem")
    with V1Registry(users={"ann": "of old"}, tls=files) as registry:
        push_chain(registry, "team/app", "1.0", random_chain(9))
        trusted = tmp_path / "certs.d" / registry.host
        trusted.mkdir(parents=True)
        authority.cert_pem.write_to_path(str(trusted / "ca.crt"))
        yield registry


def test_the_page_s_registries_toml_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "registries.toml").write_text(text)
    hosts = load_hosts(tmp_path / "registries.toml")
    for name, port in (("old.example", 5000), ("new.example", 5001)):
        assert hosts.of(name, port).insecure


def test_the_page_s_commands_do_what_it_says(tmp_path: Path, safe: V1Registry) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "password").write_text("of old\n")
    (tmp_path / "engined.toml").write_text("")
    with V1Registry(tmp_path / "disk") as left:
        push_chain(left, "team/app", "0.9", random_chain(8))
    with (
        docker_registry(tmp_path / "new") as new,
        running_daemon(tmp_path / "state", config=tmp_path / "engined.toml") as daemon,
    ):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {**daemon.environ, "PATH": path, "ENGINE_CONNECT": daemon.endpoint}
        old = f"127.0.0.1:{free_port()}"
        names = {
            "old.example:5000": old,
            "new.example:5001": new,
            "safe.example:5443": safe.host,
            "127.0.0.1:5000": old,
            "/srv/registry": str(tmp_path / "disk"),
        }
        shell = Shell(work, names, environ)
        of_disk, of_old, *commands = COMMANDS
        with shell.serving(of_disk):
            assert shell.run(f"enginectl tags {old}/team/app").split()[-1] == "0.9"
        with shell.serving(of_old):
            said = {command: shell.run(command) for command in commands}

        def output(words: str) -> str:
            (found,) = (text for command, text in said.items() if words in command)
            return found

        assert re.search(rf"^{old} +v1 ", output("enginectl registries"), re.MULTILINE)
        assert "Login Succeeded" in output("enginectl login")
        assert (work / "repositories").read_text() == "team/app\nteam/base\n"
        assert not (work / "failed").exists()
        assert output("while read").count("team/base:latest") == 4
        assert (work / "before").read_text() == (work / "after").read_text() == "1.0\n2.0\ntag\n"
        checked = output("diff before after")
        assert " exists\n" in checked and " copied\n" not in checked
        digests = re.findall(r"^sha256:[0-9a-f]{64}$", output("--remote --digest"), re.MULTILINE)
        assert len(digests) == 2 and len(set(digests)) == 1
        assert "team/back:1.0" in output("old.example:5000/team/back:1.0")
        for name in ("team/app:1.0", "team/app:2.0", "team/base:latest", "saved/app:2.0"):
            skopeo("inspect", "--tls-verify=false", f"docker://{new}/{name}")


def half_pushed(old: V1Registry) -> None:
    image_id = random_id("half")
    old.put_image({"id": image_id}, random_archive(1), complete=False)
    old.put_tag(NAME, "1.0", image_id)


BROKEN = [half_pushed, wrong_sum, no_tar, cut_off, hole, loop, another_s_json, no_layer]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_the_page_says_of_broken_images_is_what_is_said(
    tmp_path: Path, broken: Callable[[V1Registry], None]
) -> None:
    table = PAGE.partition("| what it says |")[2]
    quoted = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))
    bench = Bench(tmp_path / "state", retries=0)
    with V1Registry() as old, Registry() as new:
        broken(old)
        _, message = bench.fail("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
    bench.engine.shutdown(grace=0)
    patterns = [".*".join(map(re.escape, one.split("…"))) for one in quoted]
    assert any(re.search(one, message) for one in patterns), message
