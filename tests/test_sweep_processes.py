"""The sweep among processes: one that is killed at any moment, and others at work meanwhile."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_store import make_store, names, put_image, swept

from registry_service.cancel import Cancellation
from registry_service.digest import Digest

# Brings and forgets images, sweeps, and says so after each turn, until it is killed.
SWEEPER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support_store import make_store, put_image, swept
number = int(sys.argv[3])
with make_store(Path(sys.argv[2])) as store:
    while True:
        for seed in range(number, number + 5):
            with store.lease() as lease:
                image = put_image(store, seed)
                below = store.upkeep.below(image.digest)
                if not lease.secure(below):
                    store.tag(f"h.io/x{seed}:1", image, below)
        for seed in range(number, number + 5):
            store.untag(f"h.io/x{seed}:1")
        swept(store)
        print("turn", flush=True)
"""


@contextlib.contextmanager
def sweeper(root: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEPER, here, str(root), str(number)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def turn(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "turn\n"


@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_that_is_killed_loses_nothing_and_the_next_one_goes_on(
    tmp_path: Path, seed: int
) -> None:
    with make_store(tmp_path) as store:
        kept = put_image(store, 1)
        store.tag("h.io/kept:1", kept)
        whole = store.upkeep.below(kept.digest)
        with sweeper(tmp_path, 100) as process:
            turn(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(random.Random(seed).uniform(0, 0.1))
            process.kill()
            process.wait(20)
        for name, descriptor in store.references():
            for digest in store.upkeep.below(descriptor.digest):
                assert store.upkeep.intact(digest, cancel=Cancellation()), f"{name} lost {digest}"
        for name, _ in store.references():
            if name != "h.io/kept:1":
                store.untag(name)
        swept(store)
        assert {digest for digest, _ in store.upkeep.blobs()} == whole
        left = [name for name in names(tmp_path / "ingest") if not name.endswith(".tmp")]
        assert left == []


def test_processes_that_sweep_at_once_lose_nothing(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        kept = put_image(store, 1)
        store.tag("h.io/kept:1", kept)
        whole: set[Digest] = store.upkeep.below(kept.digest)
        with sweeper(tmp_path, 100) as one, sweeper(tmp_path, 103) as other:
            for _ in range(5):
                turn(one)
                turn(other)
                assert all(store.upkeep.intact(digest, cancel=Cancellation()) for digest in whole)
