"""What goes wrong, and what a person then sees: through a real daemon and `enginectl`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_daemon import Daemon, running_daemon

from registry_service.digest import Digest
from registry_service.platform import Platform
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image

HERE = str(Platform.here())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "state") as made:
        yield made


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        pause.wait(0.01)


def broken(state: Path) -> list[str]:
    """Blobs of the store that are not what their names say."""
    return [
        path.name
        for path in (state / "images" / "blobs").glob("*/*")
        if str(Digest.of(path.read_bytes())) != f"sha256:{path.name}"
    ]


def in_flight(daemon: Daemon) -> int:
    rows = {row["name"]: row["value"] for row in daemon.ctl_json("info")}
    return int(rows["jobs.in_flight"]) - 1  # the question itself


# wrong input


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["run", "nothing"], 127, "no such job"),
        (["nothing"], 127, "no such job"),
        (["run", "search"], 2, "Usage: search TERM"),
        (["run", "search", "a", "b"], 2, "Usage: search TERM"),
        (["run", "search", "x", "-e", "limit=ten"], 2, "limit"),
        (["pull", "UPPER/case"], 2, "lower case"),
        (["pull", "https://x/y"], 2, "https"),
        (["pull", "x:" + "t" * 200], 2, "tag"),
        (["pull"], 2, "Usage"),
        (["pull", "127.0.0.1:1/x"], 1, "127.0.0.1:1"),
        (["push", "127.0.0.1:1/x"], 1, "no image"),
        (["describe", "nothing"], 127, "nothing"),
    ],
)
def test_wrong_input_has_its_status_and_its_words(
    daemon: Daemon, args: list[str], status: int, words: str
) -> None:
    result = daemon.run_ctl(*args)
    assert result.returncode == status, result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_daemon_that_is_not_there_is_69(tmp_path: Path) -> None:
    nowhere = f"ipc://{tmp_path}/engine.sock"
    result = subprocess.run(
        [sys.executable, "-m", "engine.cli", "--connect", nowhere, "info"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 69
    assert str(tmp_path) in result.stderr
    assert "engined" in result.stderr


def test_an_unknown_tag_and_wrong_bytes_leave_nothing(daemon: Daemon, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    result = daemon.run_ctl("pull", f"{registry.host}/test/app:2")
    assert result.returncode == 1
    assert "does not exist" in result.stderr
    registry.add_fault("corrupt:offset=10,path=/blobs/")
    result = daemon.run_ctl("pull", f"{registry.host}/test/app:1")
    assert result.returncode == 1
    assert "sha256:" in result.stderr
    assert daemon.ctl_json("images") == []
    assert broken(daemon.state_dir) == []


def test_a_disk_that_is_full_is_said_and_the_daemon_goes_on(
    tmp_path: Path, registry: Registry
) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    try:
        push_image(registry, "big", "1", random_image(1, layer_size=1_500_000, platform=HERE))
        push_image(registry, "small", "1", random_image(2, platform=HERE))
        with running_daemon(small / "state") as daemon:
            result = daemon.run_ctl("pull", f"{registry.host}/big:1")
            assert result.returncode == 1
            assert "space" in result.stderr or "full" in result.stderr
            daemon.ctl("pull", f"{registry.host}/small:1")
            assert [row["reference"] for row in daemon.ctl_json("images")] == [
                f"{registry.host}/small:1"
            ]
            assert broken(small / "state") == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b'{"author": "%s"}' % (b"a" * 1_500_000), "bytes, and the row has room for"),
        (b"[" * 20 + b"]" * 20, "nest deeper"),
        (b'{"author": %d}' % 2**70, "64 bits"),
        (b"[0%s]" % (b",0" * 70_000), "70001 elements"),
        (b'{"author": NaN}', "no number"),
    ],
)
def test_inspect_shows_an_image_whose_configuration_no_row_can_carry(
    trial_daemon: Daemon, registry: Registry, config: bytes, words: str
) -> None:
    image = random_image(1, platform=HERE)
    push_image(registry, "test/app", "1", image)
    document = json.loads(image.manifest)
    document["config"]["digest"] = registry.put_blob("test/app", config)
    document["config"]["size"] = len(config)
    registry.put_manifest("test/app", "1", json.dumps(document).encode(), image.media_type)
    result = trial_daemon.run_ctl("--output", "json", "inspect", f"{registry.host}/test/app:1")
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)
    assert row["config"] is None
    assert len(row["layers"]) == len(image.layers)
    assert words in result.stderr


# interruptions


@pytest.fixture
def silent_host() -> Iterator[str]:
    """A host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["silent", "/manifests/", "/blobs/"])
def test_enginectl_interrupted_cancels_the_job_within_a_second(
    daemon: Daemon, registry: Registry, silent_host: str, where: str, number: int
) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    host = silent_host if where == "silent" else registry.host
    hold = registry.hold(path=where)
    process = daemon.start_ctl("pull", f"{host}/test/app:1")
    try:
        if where == "silent":
            until(lambda: in_flight(daemon) == 1)
        else:
            assert hold.entered.wait(10)
        begun = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=10)
        assert time.monotonic() - begun < 1.5  # the promise is a second; the machine is shared
        assert process.returncode == 130, stderr
        assert "Traceback" not in stderr
        until(lambda: in_flight(daemon) == 0, 1.0)
    finally:
        process.kill()
        hold.release()
    assert broken(daemon.state_dir) == []


def test_a_client_that_is_killed_leaves_its_pull_to_complete(
    daemon: Daemon, registry: Registry
) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    with registry.hold(path="/blobs/") as hold:
        process = daemon.start_ctl("pull", f"{registry.host}/test/app:1")
        assert hold.entered.wait(10)
        process.kill()
        process.communicate()
        hold.release()
        until(lambda: len(daemon.ctl_json("images")) == 1)


def test_a_daemon_stopped_in_the_middle_of_a_pull_ends_in_order(
    tmp_path: Path, registry: Registry
) -> None:
    push_image(registry, "test/app", "1", random_image(1, layer_size=300_000, platform=HERE))
    config = tmp_path / "engined.toml"
    config.write_text("[shutdown]\ngrace = 0.2\n")
    state = tmp_path / "state"
    with registry.hold(path="/blobs/", after=1000) as hold:
        with running_daemon(state, config=config) as daemon:
            process = daemon.start_ctl("pull", f"{registry.host}/test/app:1")
            assert hold.entered.wait(10)
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(15) == 0
            _, stderr = process.communicate(timeout=15)
            assert process.returncode == 75, stderr
        hold.release()
    assert broken(state) == []
    assert not (state / "engine.sock").exists()
    with running_daemon(state) as daemon:
        daemon.ctl("pull", f"{registry.host}/test/app:1")


def test_a_drain_lets_a_pull_finish(tmp_path: Path, registry: Registry) -> None:
    push_image(registry, "test/app", "1", random_image(1, platform=HERE))
    with (
        registry.hold(path="/blobs/") as hold,
        running_daemon(tmp_path / "state") as daemon,
    ):
        process = daemon.start_ctl("pull", f"{registry.host}/test/app:1")
        assert hold.entered.wait(10)
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in daemon.log())
        refused = daemon.run_ctl("images")
        assert refused.returncode in (69, 75), refused.stderr
        hold.release()
        _, stderr = process.communicate(timeout=15)
        assert process.returncode == 0, stderr


def test_five_clients_pull_the_same_image_and_each_blob_is_fetched_once(
    daemon: Daemon, registry: Registry
) -> None:
    image = random_image(1, layers=4, platform=HERE)
    push_image(registry, "test/app", "1", image)
    with registry.hold(path="/blobs/") as hold:
        clients = [daemon.start_ctl("pull", f"{registry.host}/test/app:1") for _ in range(5)]
        registry.wait_for(
            lambda seen: sum("/manifests/" in one.path for one in seen) >= 5, timeout=30
        )
        hold.release()
        for client in clients:
            _, stderr = client.communicate(timeout=30)
            assert client.returncode == 0, stderr
    fetched = [one.path.rpartition("/")[2] for one in registry.requests if "/blobs/" in one.path]
    assert sorted(fetched) == sorted(image.blobs)


def test_a_password_is_nowhere_but_where_it_belongs(tmp_path: Path) -> None:
    secret = "s3cr3t-horse"
    with (
        Registry(users={"ann": secret}) as registry,
        running_daemon(tmp_path / "state") as daemon,
    ):
        push_image(registry, "test/app", "1", random_image(1, platform=HERE))
        options = ["-u", "ann", "--password-stdin"]
        daemon.ctl("pull", f"{registry.host}/test/app:1", *options, stdin=secret)
        wrong = daemon.run_ctl("pull", f"{registry.host}/no:1", *options, stdin=secret + "!")
        assert wrong.returncode == 1
        assert secret not in wrong.stderr
        malformed = daemon.run_ctl(
            "run", "pull", f"{registry.host}/no:1", "-e", f"authConfig={{{secret}"
        )
        assert malformed.returncode == 2
        assert secret not in malformed.stderr
        command_line = Path(f"/proc/{daemon.process.pid}/cmdline").read_text()
        assert secret not in command_line
        assert secret not in daemon.log()
        for path in daemon.state_dir.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
