"""Pushes to a V1 registry that are broken off, in every way there is, and completed."""

from __future__ import annotations

import functools
import random
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_daemon import running_daemon
from support_server import until
from support_service import Bench
from support_v1_push import Made, keep, made_image, rich_archives
from test_v1_push import chain, ids, whole

from engine import Status
from registry_service.testing.v1 import V1Registry

LONG = made_image(
    rich_archives(7, 90),
    history=[
        {"created_by": f"step {number}", **({"empty_layer": True} if number % 4 == 3 else {})}
        for number in range(120)
    ],
)


def completed_once(registry: V1Registry, image: Made) -> None:
    """Nothing of an image was sent once the registry had it."""
    there: set[str] = set()
    for one in registry.requests:
        if one.method != "PUT" or not one.path.startswith("/v1/images/"):
            continue
        _, _, _, image_id, part = one.path.split("/")
        assert image_id not in there, f"{one}: it was there"
        if part == "checksum" and (one.status == 200 or one.faults == ("lost-answer",)):
            there.add(image_id)
    assert there == set(ids(image))


PATHS = ("/json", "/layer", "/checksum", "/tags", "/repositories/", "/images", "/v1/")
KINDS = (
    "drop",
    "drop:after=10",
    "drop:after=10,reset=yes",
    "lost-answer",
    "status:code=500",
    "status:code=503",
    "status:code=403",
    "status:code=404",
    "status:code=429,retry-after=0",
    "corrupt",
    "corrupt:offset=30",
    "short",
)


@st.composite
def faults(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(KINDS))
    common = f"path={draw(st.sampled_from(PATHS))},times={draw(st.integers(1, 4))}"
    method = draw(st.sampled_from(["", ",method=PUT", ",method=GET"]))
    skip = f",skip={draw(st.integers(0, 6))}"
    return f"{kind}{',' if ':' in kind else ':'}{common}{method}{skip}"


SHORT = made_image(
    rich_archives(8, 3),
    history=[{"created_by": "1"}, {"empty_layer": True}, {"created_by": "2"}, {"created_by": "3"}],
)


@settings(deadline=None, max_examples=40)
@given(told=st.lists(faults(), min_size=1, max_size=4), retries=st.integers(0, 2))
def test_whatever_goes_wrong_a_push_that_ends_well_is_whole(
    place: Path, told: list[str], retries: int
) -> None:
    """And one that does not ends with an error, and leaves what a next one completes."""
    with V1Registry(faults=told) as registry:
        name = f"{registry.host}/test/app:1"
        keep(place / "state", name, SHORT)
        bench = Bench(place / "state", retries=retries, retry_wait_max=0.02)
        for _ in range(20):
            job = bench.job("push", name)
            if job.run() is Status.OK:
                break
            assert job.end is not None
            assert job.end.code not in ("", "internal")
        else:
            raise AssertionError("it was never completed")
        bench.engine.shutdown(grace=0)
        whole(registry, SHORT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def test_a_chain_of_120_images_is_completed_whatever_breaks(tmp_path: Path) -> None:
    """The registry fails at random, and the job is begun again each time."""
    bench = Bench(tmp_path / "state", retries=0)
    assert len(chain(LONG)) == 120
    with V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        keep(bench.state, name, LONG)
        registry.add_fault("status:code=500,path=/images/,method=PUT,probability=0.03,seed=1")
        registry.add_fault("lost-answer:path=/images/,method=PUT,probability=0.03,seed=2")
        registry.add_fault("drop:path=/layer,method=PUT,after=20,probability=0.1,seed=3")
        failures = 0
        while bench.job("push", name).run() is not Status.OK:
            failures += 1
            assert failures < 100
        assert failures > 10
        whole(registry, LONG)
        completed_once(registry, LONG)
    bench.engine.shutdown(grace=0)


def test_a_chain_of_120_images_is_completed_whenever_it_is_cancelled(tmp_path: Path) -> None:
    dice = random.Random(4)
    bench = Bench(tmp_path / "state", retries=0)
    with V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        keep(bench.state, name, LONG)
        cancelled = 0
        for _ in range(8):
            seen = len(registry.requests) + dice.randrange(120)
            job = bench.job("push", name)
            thread = threading.Thread(target=job.run)
            thread.start()
            until(lambda seen=seen: len(registry.requests) >= seen, 30.0)  # type: ignore[misc]
            job.cancel()
            thread.join(30)
            assert job.end is not None
            cancelled += job.end.status == Status.CANCELLED
        assert cancelled > 3
        bench.run("push", name)
        whole(registry, LONG)
        completed_once(registry, LONG)
    bench.engine.shutdown(grace=0)


@pytest.mark.parametrize("part", ["json", "layer", "checksum"])
def test_a_push_whose_daemon_is_killed_is_completed(tmp_path: Path, part: str) -> None:
    image = made_image(rich_archives(3, 3))
    state = tmp_path / "state"
    with V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        keep(state, name, image)
        held = registry.hold(path=f"/images/{ids(image)[1]}/{part}", method="PUT", times=1)
        with running_daemon(state) as daemon:
            with daemon.start_ctl("push", name) as client:
                until(lambda: held.waiting > 0, 30.0)
                daemon.process.kill()
                client.communicate(timeout=20)
                assert client.returncode == 75
            daemon.process.wait(10)
        held.release()
        registry.wait_for(lambda log: all(one.done for one in log))
        before = len(registry.requests)
        with running_daemon(state) as daemon:
            rows = daemon.ctl_json("push", name)
        assert [row["state"] for row in rows[:2]] == [
            "exists",
            "exists" if part == "checksum" else "pushed",
        ]
        again = [one.path for one in registry.requests[before:] if one.method == "PUT"]
        assert not [one for one in again if ids(image)[0] in one]
        whole(registry, image)


def has_seen(registry: V1Registry, count: int, client: subprocess.Popen[str]) -> bool:
    """So many requests came, or it has ended before."""
    return len(registry.requests) >= count or client.poll() is not None


def killed_pushes(place: Path, moments: int, seed: int) -> None:
    """Push the long chain, and kill the daemon at random moments, again and again."""
    dice = random.Random(seed)
    with V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        keep(place / "state", name, LONG)
        for _ in range(moments):
            # Each daemon asks for all images that are there, and sends some more.
            done = len([one for one in registry.requests if one.path.endswith("/checksum")])
            seen = len(registry.requests) + done + dice.randrange(4 * 120 // moments + 20)
            with running_daemon(place / "state") as daemon:
                with daemon.start_ctl("push", name) as client:
                    until(functools.partial(has_seen, registry, seen, client), 30.0)
                    daemon.process.kill()
                    client.communicate(timeout=20)
                daemon.process.wait(10)
            registry.wait_for(lambda log: all(one.done for one in log))
        with running_daemon(place / "state") as daemon:
            daemon.ctl("push", name)
        whole(registry, LONG)
        completed_once(registry, LONG)


def test_a_chain_of_120_images_is_completed_whenever_the_daemon_is_killed(tmp_path: Path) -> None:
    killed_pushes(tmp_path, 2, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_a_chain_of_120_images_whose_daemon_is_killed_at_twenty_moments(
    tmp_path: Path, seed: int
) -> None:
    killed_pushes(tmp_path, 20, seed=seed)


def test_two_daemons_that_push_the_same_do_not_spoil_it(tmp_path: Path) -> None:
    """A registry has one place for what is half pushed, and they do not know of each other."""
    image = made_image(rich_archives(5, 12))
    with V1Registry(faults=["slow:rate=60000,path=/layer,method=PUT,after=1"]) as registry:
        name = f"{registry.host}/test/app:1"
        for side in ("one", "two"):
            keep(tmp_path / side, name, image)
        with running_daemon(tmp_path / "one") as one, running_daemon(tmp_path / "two") as two:
            clients = [daemon.start_ctl("push", name) for daemon in (one, two)]
            ends = [client.communicate(timeout=100) for client in clients]
            for client, (_, said) in zip(clients, ends, strict=True):
                assert client.returncode == 0, said
        whole(registry, image)


def test_a_cancel_ends_a_push_that_hangs(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "state", retries=0)
    image = made_image(rich_archives(3, 2))
    with V1Registry() as registry:
        name = f"{registry.host}/test/app:1"
        keep(bench.state, name, image)
        for path, method in (
            ("/json", "GET"),
            ("/json", "PUT"),
            ("/layer", "PUT"),
            ("/v1/", "PUT"),
        ):
            held = registry.hold(path=path, method=method, times=1)
            job = bench.job("push", name)
            thread = threading.Thread(target=job.run)
            thread.start()
            until(lambda held=held: held.waiting > 0, 30.0)  # type: ignore[misc]
            job.cancel()
            thread.join(30)
            assert not thread.is_alive()
            assert job.end is not None
            assert job.end.status == Status.CANCELLED
            held.release()
        bench.run("push", name)
        whole(registry, image)
    bench.engine.shutdown(grace=0)
