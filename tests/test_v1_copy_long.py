"""Copies of V1 that take long: many layers, large ones, and interruptions."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest
from support_daemon import running_daemon
from support_service import Bench
from support_v1_copy import assert_whole, states

from engine import Status
from registry_service.testing import Registry
from registry_service.testing.images import push_synthetic_image
from registry_service.testing.requestlog import LoggedRequest
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import (
    push_chain,
    random_archive,
    random_chain,
    random_id,
)

NAME = "test/app"
LONG = random_chain(12, length=120, files=3, file_size=3000)
GIB = 1024 * 1024 * 1024


class Interruption:
    """Cancels a job when so many layers have been asked for."""

    def __init__(self) -> None:
        self.left = 0
        self.reached = threading.Event()

    def __call__(self, request: LoggedRequest) -> None:
        if request.path.endswith("/layer"):
            self.left -= 1
            if self.left == 0:
                self.reached.set()


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 2))])
@pytest.mark.parametrize("target", ["v2", "v1"])
def test_120_layers_interrupted_at_random_and_completed(
    tmp_path: Path, seed: int, target: str
) -> None:
    rng = random.Random(f"{seed} {target}")
    bench = Bench(tmp_path / "state", retries=2, retry_wait_max=0.02)
    watch = Interruption()
    # what is asked of a V1 target is asked of the same kind of paths
    with (
        V1Registry(on_request=watch if target == "v2" else None) as old,
        Registry() as new,
        V1Registry(on_request=watch if target == "v1" else None) as other,
    ):
        push_chain(old, NAME, "1.0", LONG)
        where = new.host if target == "v2" else other.host
        names = (f"{old.host}/{NAME}:1.0", f"{where}/moved:1.0")
        cancelled = 0
        for _ in range(4):
            watch.reached.clear()
            watch.left = rng.randint(1, 30)
            job = bench.job("copy", *names)
            thread = threading.Thread(target=job.run)
            thread.start()
            assert watch.reached.wait(30)
            job.cancel()
            thread.join(30)
            assert not thread.is_alive()
            cancelled += job.status is Status.CANCELLED
            assert new.tags("moved") == [] and other.tags("moved") == {}
        assert cancelled == 4
        assert "copied" in states(bench.run("copy", *names))
        if target == "v2":
            assert_whole(new, "moved", "1.0", LONG)
        else:
            assert other.tags("moved") == {"1.0": LONG.id}
            kept = [other.image(one.id) for one in LONG.images]
            assert [one.layer_bytes for one in kept if one is not None and one.complete] == [
                one.layer for one in LONG.images
            ]
        # what had arrived was not fetched again: but for the few that were under way
        asked = [one.path for one in old.requests if one.path.endswith("/layer")]
        assert len(asked) <= 120 + 4 * 5
        assert states(bench.run("copy", *names)) == {"exists"}
    bench.engine.shutdown(grace=0)


@pytest.mark.parametrize("target", ["v2", "v1"])
def test_a_daemon_that_is_killed_leaves_the_rest_to_the_next(tmp_path: Path, target: str) -> None:
    chain = random_chain(16, length=20, file_size=20_000)
    with V1Registry() as old, Registry() as new, V1Registry() as other:
        push_chain(old, NAME, "1.0", chain)
        where = new.host if target == "v2" else other.host
        names = (f"{old.host}/{NAME}:1.0", f"{where}/moved:1.0")
        hold = old.hold(path=f"{chain.images[12].id}/layer")
        with running_daemon(tmp_path / "state") as daemon:
            with daemon.start_ctl("copy", *names) as client:
                assert hold.entered.wait(30)
                daemon.process.kill()
                _, stderr = client.communicate(timeout=30)
                assert client.returncode == 75, stderr
            daemon.process.wait(30)
        hold.release()
        assert new.tags("moved") == [] and other.tags("moved") == {}
        with running_daemon(tmp_path / "state") as daemon:
            rows = daemon.ctl_json("copy", *names)
            assert {row["state"] for row in rows} == {"copied", "exists"}
        if target == "v2":
            assert_whole(new, "moved", "1.0", chain)
        else:
            assert other.tags("moved") == {"1.0": chain.id}
        asked = [one.path for one in old.requests if one.path.endswith("/layer")]
        assert len(asked) < 40  # what had arrived was not fetched again


def test_two_copies_of_the_same_at_once_are_both_whole(tmp_path: Path) -> None:
    chain = random_chain(13, length=20, file_size=20_000)
    bench = Bench(tmp_path / "state", retries=2, retry_wait_max=0.02)
    with V1Registry() as old, Registry() as new, V1Registry() as other:
        push_chain(old, NAME, ["1.0", "2.0"], chain)
        jobs = [
            bench.job("copy", f"{old.host}/{NAME}:{tag}", f"{where}/moved:{tag}")
            for tag in ("1.0", "2.0")
            for where in (new.host, other.host)
        ]
        threads = [threading.Thread(target=job.run) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [job.status for job in jobs] == [Status.OK] * 4, [job.stderr.text() for job in jobs]
        for tag in ("1.0", "2.0"):
            assert_whole(new, "moved", tag, chain)
        assert other.tags("moved") == {"1.0": chain.id, "2.0": chain.id}
        assert new.open_uploads == 0
    bench.engine.shutdown(grace=0)


SOURCE = ["drop:after=1000", "drop:after=30000,reset=yes", "status:code=503", "short:after=1000",
          "corrupt:offset=1000", "lost-answer", "no-range", "wrong-range"]  # fmt: skip
TARGET = ["drop:after=1000", "drop:after=0,reset=yes", "status:code=503", "lost-answer",
          "corrupt:offset=1000"]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_what_has_the_name_is_right(tmp_path: Path, seed: int) -> None:
    """Of random faults of both sides none leads to another image, nor keeps the next try from
    bringing the right one."""
    chain = random_chain(15, length=6, file_size=40_000)
    bench = Bench(tmp_path / "state", retries=4, retry_wait_max=0.02)
    rng = random.Random(seed)
    with V1Registry() as old, Registry() as new, V1Registry() as other:
        push_chain(old, NAME, "1.0", chain)
        target = (new, other)[seed % 2]
        names = (f"{old.host}/{NAME}:1.0", f"{target.host}/moved:1.0")
        more = f"probability=0.15,seed={seed}"
        switches = [
            one.add_fault(f"{fault}{',' if ':' in fault else ':'}{more}")
            for one, faults in ((old, SOURCE), (target, TARGET))
            for fault in rng.sample(faults, 2)
        ]
        for _ in range(3):
            if bench.job("copy", *names).run() is Status.OK:
                break
        for switch in switches:
            switch.remove()
        bench.run("copy", *names)
        if target is new:
            assert_whole(new, "moved", "1.0", chain)
        else:
            kept = [other.image(one.id) for one in chain.images]
            assert [one.layer_bytes for one in kept if one is not None and one.complete] == [
                one.layer for one in chain.images
            ]
    bench.engine.shutdown(grace=0)


def test_a_chain_with_too_much_json_is_refused(tmp_path: Path) -> None:
    """What is said of one image is bounded, and so is what is said of all that lie upon it."""
    bench = Bench(tmp_path / "state", retries=0)
    layer = random_archive(1)
    with V1Registry() as old, Registry() as new:
        parent = ""
        for number in range(10):
            image_id = random_id(number)
            value = {"id": image_id, "comment": "x" * 3_900_000}
            old.put_image({**value, "parent": parent} if parent else value, layer)
            parent = image_id
        old.put_tag(NAME, "1.0", parent)
        _, message = bench.fail("copy", f"{old.host}/{NAME}:1.0", f"{new.host}/moved")
        assert "the JSON of the images of its ancestry has" in message
        assert new.tags("moved") == []
    bench.engine.shutdown(grace=0)


# soak


@pytest.mark.soak
@pytest.mark.parametrize("way", ["v1-v2", "v2-v1", "v1-v1"])
def test_layers_of_several_gib_take_no_memory(tmp_path: Path, way: str) -> None:
    size = 3 * GIB
    with (
        V1Registry() as old,
        Registry(tmp_path / "new") as new,
        V1Registry(tmp_path / "other") as other,
        running_daemon(tmp_path / "state") as daemon,
    ):
        image_id = random_id("large")
        old.put_synthetic({"id": image_id}, size)
        old.put_tag(NAME, "1.0", image_id)
        push_synthetic_image(new, NAME, "1.0", [size])
        source = new.host if way == "v2-v1" else old.host
        target = new.host if way == "v1-v2" else other.host
        names = (f"{source}/{NAME}:1.0", f"{target}/moved:1.0")
        before = daemon.resident()
        done = daemon.run_ctl("--output", "json", "copy", *names, timeout=1200)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert {row["state"] for row in rows} == {"copied"}
        assert daemon.peak() - before < 200 * 1024 * 1024
