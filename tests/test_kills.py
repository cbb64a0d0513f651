"""SIGKILL in the middle of a pull: what was fetched stays, and does not travel again."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest
from support_daemon import running_daemon
from support_server import until

from registry_service.digest import Digest
from registry_service.testing import LoggedRequest, Registry
from registry_service.testing.images import Image, push_image, random_image

MIB = 1024 * 1024


def killed_pull(registry: Registry, place: Path, moments: int, seed: int) -> None:
    """Pull an image whose daemon is killed at random moments, again and again."""
    dice = random.Random(seed)
    image = random_image(seed, layers=3, layer_size=(moments + 2) * MIB // 2)
    push_image(registry, "test/app", "1", image)
    reference = f"{registry.host}/test/app:1"
    registry.clear_requests()
    registry.add_fault("slow:rate=4000000,path=*/blobs/*")
    state = place / "state"
    had: dict[str, int] = {}  # what is on the disk of each blob
    for _ in range(moments):
        before = len(registry.requests)
        with running_daemon(state) as daemon:
            with daemon.start_ctl("pull", reference, "--platform", "all") as client:
                target = sum(had.values()) + dice.randrange(MIB)
                until(lambda target=target: written(state) > target, 30.0)  # type: ignore[misc]
                daemon.process.kill()
                _, stderr = client.communicate(timeout=20)
                assert client.returncode == 75, stderr
            daemon.process.wait(10)
        registry.wait_for(lambda log: all(one.done for one in log))
        check_begin(registry.requests[before:], image, had)
        now = on_disk(state, image)
        for digest, size in had.items():
            assert now.get(digest, 0) >= size, "what was fetched was thrown away"
        had = now
    before = len(registry.requests)
    with running_daemon(state) as daemon:
        daemon.ctl("pull", reference, "--platform", "all")
        rows = daemon.ctl_json("verify")
        assert {row["state"] for row in rows} == {"ok"}
    check_begin(registry.requests[before:], image, had)
    for digest, data in image.blobs.items():
        name = digest.partition(":")[2]
        assert (state / "images" / "blobs" / "sha256" / name).read_bytes() == data
    assert not list((state / "ingest").glob("*.partial"))


def written(state: Path) -> int:
    """The bytes of all blobs that are on the disk, whole or in part."""
    places = [*(state / "images" / "blobs").glob("*/*"), *(state / "ingest").glob("*.partial")]
    total = 0
    for path in places:
        with contextlib.suppress(FileNotFoundError):  # it has just got its name
            total += path.stat().st_size
    return total


def on_disk(state: Path, image: Image) -> dict[str, int]:
    """The bytes of each blob that the store has, whole or in part. What is in part is right."""
    found: dict[str, int] = {}
    for digest, data in image.blobs.items():
        name = digest.partition(":")[2]
        whole = state / "images" / "blobs" / "sha256" / name
        if whole.exists():
            assert str(Digest.of(whole.read_bytes())) == digest
            found[digest] = len(data)
            continue
        for path in (state / "ingest").glob(f"*{name}*.partial"):
            part = path.read_bytes()
            assert data.startswith(part)
            found[digest] = len(part)
    return found


def check_begin(log: list[LoggedRequest], image: Image, had: dict[str, int]) -> None:
    """Every blob is asked for from the place up to which it was there, and not at all where it
    was there whole."""
    for one in log:
        digest = one.path.rpartition("/")[2]
        if one.method != "GET" or digest not in image.blobs:
            continue
        start = re.fullmatch(r"bytes=(\d+)-", one.range)
        assert (int(start[1]) if start else 0) == had.get(digest, 0), str(one)
        assert had.get(digest, 0) < len(image.blobs[digest]), f"{one}: it was there whole"


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_a_pull_whose_daemon_is_killed_goes_on(registry: Registry, tmp_path: Path) -> None:
    with registry:
        killed_pull(registry, tmp_path, 3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_a_pull_whose_daemon_is_killed_at_twenty_moments(
    registry: Registry, tmp_path: Path, seed: int
) -> None:
    with registry:
        killed_pull(registry, tmp_path, 20, seed=seed)
