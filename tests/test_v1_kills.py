"""SIGKILL in the middle of a pull from V1: what was fetched stays, and does not travel again."""

from __future__ import annotations

import concurrent.futures
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support_daemon import running_daemon
from support_server import until
from support_store import make_store
from support_v1_pull import Caller, check_image, layer_requests
from test_kills import written

from registry_service.digest import Digest
from registry_service.testing import LoggedRequest
from registry_service.testing.v1 import V1Registry, images
from registry_service.testing.v1.images import Chain

MIB = 1024 * 1024


def killed_pull(place: Path, moments: int, seed: int, length: int = 4) -> None:
    """Pull a chain whose daemon is killed at random moments, again and again."""
    dice = random.Random(seed)
    size = (moments + 2) * MIB * 4 // (3 * length)
    chain = images.random_chain(seed, length=length, files=3, file_size=size)
    whole = sum(len(one.layer) for one in chain.images)
    with V1Registry() as registry:
        images.push_chain(registry, "test/app", "1", chain)
        reference = f"{registry.host}/test/app:1"
        registry.clear_requests()
        registry.add_fault("slow:rate=4000000,path=*/layer")
        state = place / "state"
        had: dict[str, int] = {}  # what is on the disk of each layer
        for _ in range(moments):
            before = len(registry.requests)
            with running_daemon(state) as daemon:
                with daemon.start_ctl("pull", reference) as client:
                    step = (whole - sum(had.values())) // (moments + 2)
                    target = sum(had.values()) + dice.randrange(max(1, step))
                    until(lambda target=target: written(state) > target, 30.0)  # type: ignore[misc]
                    daemon.process.kill()
                    _, stderr = client.communicate(timeout=20)
                    assert client.returncode == 75, stderr
                daemon.process.wait(10)
            registry.wait_for(lambda log: all(one.done for one in log))
            check_begin(registry.requests[before:], chain, had)
            now = on_disk(state, chain)
            for image_id, size in had.items():
                assert now.get(image_id, 0) >= size, "what was fetched was thrown away"
            had = now
        before = len(registry.requests)
        with running_daemon(state) as daemon:
            daemon.ctl("pull", reference)
            assert {row["state"] for row in daemon.ctl_json("verify")} == {"ok"}
        check_begin(registry.requests[before:], chain, had)
    for one in chain.images:
        name = Digest.of(one.layer).hex
        assert (state / "images" / "blobs" / "sha256" / name).read_bytes() == one.layer
    assert not list((state / "ingest").glob("*.partial"))


def on_disk(state: Path, chain: Chain) -> dict[str, int]:
    """The bytes of each layer that the store has, whole or in part. What is in part is right."""
    found: dict[str, int] = {}
    for one in chain.images:
        blob = state / "images" / "blobs" / "sha256" / Digest.of(one.layer).hex
        if blob.exists():
            assert blob.read_bytes() == one.layer
            found[one.id] = len(one.layer)
            continue
        for path in (state / "ingest").glob(f"layer-{one.id[:12]}-*.partial"):
            part = path.read_bytes()
            assert one.layer.startswith(part)
            found[one.id] = len(part)
    return found


def check_begin(log: list[LoggedRequest], chain: Chain, had: dict[str, int]) -> None:
    """Every layer is asked for from the place up to which it was there, and not at all where it
    was there whole."""
    sizes = {one.id: len(one.layer) for one in chain.images}
    for one in log:
        if one.method != "GET" or not one.path.endswith("/layer"):
            continue
        image_id = one.path.split("/")[-2]
        start = re.match(r"bytes=(\d+)-", one.range)
        assert (int(start[1]) if start else 0) == had.get(image_id, 0), str(one)
        assert had.get(image_id, 0) < sizes[image_id], f"{one}: it was there whole"


def test_a_pull_whose_daemon_is_killed_goes_on(tmp_path: Path) -> None:
    killed_pull(tmp_path, 2, seed=1)


PULL = """
import sys
from pathlib import Path
from support_store import make_store
from support_v1_pull import Caller

with make_store(Path(sys.argv[1])) as store, Caller(store) as caller:
    caller.pull(sys.argv[2])
"""


def test_where_the_process_that_brings_it_is_killed_another_goes_on(tmp_path: Path) -> None:
    chain = images.random_chain(1, length=1, files=3, file_size=2 * MIB)
    with V1Registry() as registry:
        images.push_chain(registry, "test/app", "1", chain)
        name = f"{registry.host}/test/app:1"
        state = tmp_path / "state"
        hold = registry.hold(path="*/layer", after=MIB, times=1)
        command = [sys.executable, "-c", PULL, str(state), name]
        with (
            hold,
            subprocess.Popen(command, cwd=Path(__file__).parent) as other,
            make_store(state) as store,
            Caller(store) as caller,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            assert hold.entered.wait(30)
            until(lambda: sum(on_disk(state, chain).values()) > MIB // 2, 30.0)
            pulling = pool.submit(caller.pull, name)
            until(lambda: any("another one is bringing it" in text for text in caller.log), 30.0)
            other.kill()
            other.wait(30)
            named = pulling.result(60)
            check_image(store, named, chain)
        begins = [one.range for one in layer_requests(registry)]
    assert begins[0] == ""
    assert re.fullmatch(r"bytes=\d{6,}-\d+", begins[1]), begins
    assert len(begins) == 2


# A process of a container has the same number each time that it begins.
PACK = """
import os
import sys
from pathlib import Path
from support_store import make_store
from support_v1_layers import LayerOf, receive, stated, tar_of

os.getpid = lambda: 1
with make_store(Path(sys.argv[1])) as store:
    if sys.argv[2] == "killed":
        os.fdatasync = lambda fd: os._exit(9)
    print(receive(store, stated(tar_of(1)), LayerOf(tar_of(1))).wait().outcome)
"""


def test_what_a_process_left_that_was_killed_while_it_compressed_is_in_nobody_s_way(
    tmp_path: Path,
) -> None:
    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PACK, str(tmp_path), how]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60
        )

    assert run("killed").returncode == 9
    left = set((tmp_path / "ingest").glob("*.tmp"))
    assert len(left) == 1
    end = run("whole")
    assert (end.stdout, end.stderr) == ("fetched\n", "")
    assert set((tmp_path / "ingest").glob("*.tmp")) == left


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_a_pull_whose_daemon_is_killed_at_twenty_moments(tmp_path: Path, seed: int) -> None:
    killed_pull(tmp_path, 20, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_a_chain_of_120_layers_whose_daemon_is_killed_at_twenty_moments(
    tmp_path: Path, seed: int
) -> None:
    killed_pull(tmp_path, 20, seed=seed, length=120)
