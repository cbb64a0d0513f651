"""Archives through a real daemon and `enginectl`: files, signals, full disks, memory."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_archives import docker_plain, oci, write_tar
from support_daemon import Daemon, running_daemon
from support_disk import small_disk
from test_interruptions import broken, in_flight, until

from registry_service.archive.tar import end, header, padding
from registry_service.platform import Platform
from registry_service.testing import Registry
from registry_service.testing.images import random_image

HERE = str(Platform.here())
NAME = "docker.io/library/app:1"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "state") as made:
        yield made


@pytest.fixture
def loaded(daemon: Daemon, tmp_path: Path) -> Daemon:
    """A daemon with one image."""
    daemon.ctl(
        "load", write_tar(tmp_path / "app.tar", docker_plain(random_image(1, platform=HERE)))
    )
    return daemon


def peak(daemon: Daemon) -> int:
    """The most memory that the daemon had, in bytes."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def sparse_archive(path: Path, size: int) -> str:
    """A docker-archive with one layer of so many zero bytes, which lie nowhere. Returns the
    layer's digest."""
    hasher, block = hashlib.sha256(), bytes(2**20)
    for _ in range(size // len(block)):
        hasher.update(block)
    diff_id = f"sha256:{hasher.hexdigest()}"
    system, architecture = HERE.split("/")[:2]
    config = {
        "os": system,
        "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    listed = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]
    with path.open("wb") as file:
        for name, value in (("c.json", config), ("manifest.json", listed)):
            raw = json.dumps(value).encode()
            file.write(header(name, len(raw)) + raw + bytes(padding(len(raw))))
        file.write(header("layer.tar", size))
        file.truncate(file.tell() + size)
        file.seek(0, os.SEEK_END)
        file.write(end(file.tell()))
    return diff_id


# files


def test_an_archive_goes_to_a_file_or_through_a_pipe(loaded: Daemon, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    assert loaded.ctl("save", NAME, "-o", out) == ""
    with loaded.start_ctl("--output", "json", "save", NAME) as process:
        assert process.stdout is not None
        piped = process.stdout.buffer.read()  # type: ignore[attr-defined]
        process.communicate()
    assert process.returncode == 0
    assert piped == out.read_bytes()
    assert not list(tmp_path.glob(".*"))
    (row,) = loaded.ctl_json("images")
    last = loaded.ctl_json("load", os.path.relpath(out), "--as", "again:1")[-1]
    assert (last["digest"], last["state"]) == (row["digest"], "exists")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_umask_gives_a_file_its_mode(
    loaded: Daemon, tmp_path: Path, umask: int, mode: int
) -> None:
    out = tmp_path / "out.tar"
    with loaded.start_ctl("save", NAME, "-o", out, umask=umask) as process:
        process.communicate()
    assert out.stat().st_mode & 0o777 == mode


def test_a_save_that_fails_leaves_the_old_file_and_no_other(loaded: Daemon, tmp_path: Path) -> None:
    out, link = tmp_path / "out.tar", tmp_path / "link"
    out.write_text("old")
    link.symlink_to(out)
    before = set(tmp_path.iterdir())
    result = loaded.run_ctl("save", "absent:1", "-o", out)
    assert (result.returncode, "no image" in result.stderr) == (1, True)
    assert out.read_text() == "old"
    assert set(tmp_path.iterdir()) == before
    loaded.ctl("save", NAME, "-o", link)
    assert link.is_symlink()
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["save"], "IMAGE"),
        (["save", NAME, "-o", "/dev/null"], "not a plain file"),
        (["save", NAME, "-o", "/absent/x"], "/absent/x: No such file"),
        (["save", NAME, "-o", "x", "--path", "y"], "one of the two"),
        (["save", NAME, "-o", "x", "--detach"], "--detach"),
        (["save", NAME, "-o", "x", "--force"], "goes with --path"),
        (["save", NAME, "-o", "x", "--format", "zip"], "docker"),
        (["load", "-"], "name a file"),
        (["load"], "FILE"),
        (["load", ""], "is empty"),
        (["load", "/x\udcff"], "not UTF-8"),
        (["save", NAME, "--path", "/x\udcff"], "not UTF-8"),
        (["push", NAME, "--from", "oci-archive:/x\udcff", "--anonymous"], "not UTF-8"),
    ],
)
def test_wrong_usage_is_said(daemon: Daemon, args: list[str], words: str) -> None:
    result = daemon.run_ctl(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr


def test_no_archive_is_written_to_a_terminal(loaded: Daemon) -> None:
    master, slave = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", "--connect", loaded.endpoint, "save", NAME],
            stdout=slave,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=dict(loaded.environ),
        )
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 2
    assert "-o FILE" in done.stderr


def test_the_daemon_writes_a_file_itself_where_it_may(tmp_path: Path) -> None:
    config = tmp_path / "engined.toml"
    config.write_text(f'[service.registry]\nsave_dirs = ["{tmp_path}/out"]\n')
    (tmp_path / "out").mkdir()
    with running_daemon(tmp_path / "state", config=config) as daemon:
        entries = oci([("app:1", random_image(1, platform=HERE))])
        daemon.ctl("load", write_tar(tmp_path / "app.tar", entries))
        assert daemon.ctl("save", NAME, "--path", tmp_path / "out" / "x.tar") == ""
        again = daemon.run_ctl("save", NAME, "--path", tmp_path / "out" / "x.tar")
        assert (again.returncode, "exists" in again.stderr) == (1, True)
        daemon.ctl("save", NAME, "--path", tmp_path / "out" / "x.tar", "--force")
        refused = daemon.run_ctl("save", NAME, "--path", tmp_path / "x.tar")
        assert (refused.returncode, "save_dirs" in refused.stderr) == (126, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.tar"]


def test_an_image_of_an_archive_is_pushed(daemon: Daemon, tmp_path: Path) -> None:
    image = random_image(1, platform=HERE)
    archive = write_tar(tmp_path / "x.tar", oci([("a:1", image), ("b:1", random_image(2))]))
    with Registry() as registry:
        source = f"oci-archive:{os.path.relpath(archive)}:a:1"
        daemon.ctl("push", f"{registry.host}/to/a:1", "--from", source)
        found = registry.manifest("to/a", "1")
        assert found is not None
        assert found.digest == image.digest
    assert daemon.ctl_json("images") == []


# interruptions


def test_a_save_that_is_interrupted_leaves_no_file(daemon: Daemon, tmp_path: Path) -> None:
    sparse_archive(tmp_path / "large.tar", 512 * 2**20)
    daemon.ctl("load", tmp_path / "large.tar")
    directory = tmp_path / "out"
    directory.mkdir()
    process = daemon.start_ctl("save", NAME, "-o", directory / "x.tar")
    try:
        until(lambda: any(path.stat().st_size for path in directory.iterdir()))
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
        assert time.monotonic() - begun < 1.5  # the promise is a second; the machine is shared
        assert process.returncode == 130, stderr
        until(lambda: in_flight(daemon) == 0, 1.0)
    finally:
        process.kill()
    assert list(directory.iterdir()) == []


def test_a_reader_that_goes_away_ends_a_save(loaded: Daemon) -> None:
    with loaded.start_ctl("save", NAME) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == 1
    until(lambda: in_flight(loaded) == 0, 5.0)


# full disks


def test_a_full_disk_of_the_client_is_said_and_nothing_stays(
    loaded: Daemon, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "16k") as small:
        result = loaded.run_ctl("save", NAME, "-o", small / "x.tar")
        assert result.returncode == 1
        assert f"{small}/x.tar: No space left" in result.stderr
        assert list(small.iterdir()) == []
    assert loaded.ctl_json("images")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_full_disk_of_the_daemon_is_said_and_it_goes_on(tmp_path: Path, compressed: bool) -> None:
    large = random_image(1, layer_size=1_500_000, platform=HERE)
    mode = "w:gz" if compressed else "w"
    archive = write_tar(tmp_path / "large.tar", docker_plain(large), mode)
    other = write_tar(tmp_path / "small.tar", docker_plain(random_image(2), ("small:1",)))
    with (
        small_disk(tmp_path / "small", "1m") as small,
        running_daemon(small / "state") as daemon,
    ):
        result = daemon.run_ctl("load", archive)
        assert result.returncode == 1
        assert "free" in result.stderr or "space" in result.stderr
        daemon.ctl("load", other)
        assert [row["reference"] for row in daemon.ctl_json("images")] == [
            "docker.io/library/small:1"
        ]
        assert broken(small / "state") == []


# memory


def check_memory(daemon: Daemon, tmp_path: Path, size: int, room: int) -> None:
    """A layer of ``size`` bytes goes in and out, and the daemon grows by no more than
    ``room``."""
    small = write_tar(tmp_path / "a.tar", docker_plain(random_image(1, platform=HERE), ("a:1",)))
    daemon.ctl("load", small)  # what is imported at the first time is no growth
    daemon.ctl("save", "a:1", "-o", tmp_path / "b.tar")
    before = peak(daemon)
    digest = sparse_archive(tmp_path / "large.tar", size)
    rows = daemon.run_ctl("--output", "json", "load", tmp_path / "large.tar", timeout=3000)
    assert digest in rows.stdout, rows.stderr
    for form in ("docker", "oci"):
        out = tmp_path / "out.tar"
        done = daemon.run_ctl("save", NAME, "--format", form, "-o", out, timeout=3000)
        assert done.returncode == 0, done.stderr
        assert out.stat().st_size > size
        out.unlink()
    assert peak(daemon) - before < room


def test_a_layer_is_never_in_memory(daemon: Daemon, tmp_path: Path) -> None:
    check_memory(daemon, tmp_path, 128 * 2**20, 48 * 2**20)


@pytest.mark.soak
def test_a_layer_of_8_gib_is_never_in_memory(daemon: Daemon, tmp_path: Path) -> None:
    check_memory(daemon, tmp_path, 8 * 2**30, 64 * 2**20)
