"""Processes that pull, remove, collect and verify on one store, killed and cancelled at any moment:
what was named is there, whole."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_real import skopeo
from support_services import require
from support_store import make_store, swept

from registry_service.cancel import Cancellation
from registry_service.digest import Digest
from registry_service.store import Store
from registry_service.testing import Registry
from registry_service.testing.images import random_image

IMAGES = [
    random_image(seed, layers=3, layer_size=200_000, platform=platform)
    for seed in range(3)
    for platform in ("linux/amd64", "linux/arm64")  # the two have the same layers
]
PROCESSES, THREADS = 3, 2

# Threads, each with names of its own: it pulls one, or removes all of them, so that images without
# a name are common, or collects, or verifies; some of all that is cancelled on its way. A line of
# the ledger says '+' after a name was given, and '-' before it is taken away.
WORKER = """
import contextlib, os, random, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support_store import make_store
from registry_service.cancel import Cancellation
from registry_service.errors import CancelledError
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.operations.pull import pull
from registry_service.operations.remove import gc, remove
from registry_service.operations.verify import verify
from registry_service.reference import Reference

root, host, slot, seed, images, threads = Path(sys.argv[2]), *sys.argv[3:5], *map(int, sys.argv[5:])
observer = Observer()
ledger = os.open(root / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
store, registries = make_store(root), Registries()

def note(mark, name):
    os.write(ledger, f"{mark}{name}\\n".encode())

def bring(reference, cancel):
    reader = registries.reader(reference.host, Access(), cancel=cancel, observer=observer)
    pull(reference, client=reader, store=store, platform="all", cancel=cancel, observer=observer)
    note("+", reference)

def take_away(names, cancel, prune):
    there = {name for name, _ in store.references()}
    mine = [name for name in names if str(name) in there]
    for name in mine:
        note("-", name)
    if mine:
        for _ in remove(store, mine, prune=prune, cancel=cancel):
            pass

def collect(cancel):
    for _ in gc(store, grace=0, partial_age=0, cancel=cancel, observer=observer):
        pass

def check(cancel):
    found = [one for one in verify(store, cancel=cancel, observer=observer)]
    assert not any(one.state == "damaged" for one in found), found

def work(number):
    dice = random.Random(f"{seed} {number}")
    names = [Reference.parse(f"{host}/app:{image}-{slot}-{number}") for image in range(images)]
    while True:
        name, cancel = dice.choice(names), Cancellation()
        steps = [
            lambda: bring(name, cancel),
            lambda: bring(name, cancel),
            lambda: take_away(names, cancel, dice.random() < 0.5),
            lambda: collect(cancel),
            lambda: check(cancel),
        ]
        timer = threading.Timer(dice.uniform(0, 0.1), cancel.cancel)
        if dice.random() < 0.3:
            timer.start()
        with contextlib.suppress(CancelledError):
            dice.choice(steps)()
        timer.cancel()

def run(number):
    try:
        work(number)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)

print("ready", flush=True)
workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
for one in workers:
    one.start()
for one in workers:
    one.join()
"""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def fill(registry: Registry) -> None:
    """Each image under a tag of its own for every thread."""
    for number, image in enumerate(IMAGES):
        for data in image.blobs.values():
            registry.put_blob("app", data)
        for slot in range(PROCESSES):
            for thread in range(THREADS):
                tag = f"{number}-{slot}-{thread}"
                registry.put_manifest("app", tag, image.manifest, image.media_type)


@contextlib.contextmanager
def worker(root: Path, host: str, slot: int, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A process at work. It has to be killed; if it ends by itself, it says why."""
    arguments = [Path(__file__).parent, root, host, slot, seed, len(IMAGES), THREADS]
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=20)[1]
            yield process
        finally:
            process.kill()


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    assert process.poll() is None, process.communicate(timeout=20)[1]
    process.kill()
    process.wait(30)


def stress(registry: Registry, root: Path, kills: int, seed: int) -> None:
    dice = random.Random(seed)
    fill(registry)
    with make_store(root) as store, contextlib.ExitStack() as stack:
        kept = keep(store)
        running = [
            stack.enter_context(worker(root, registry.host, slot, seed + slot))
            for slot in range(PROCESSES)
        ]
        for number in range(kills):
            slot = dice.randrange(PROCESSES)
            kill_after(running[slot], dice.uniform(0.05, 2.0))
            assert all(whole(store, digest) for digest in kept)
            again = worker(root, registry.host, slot, seed + PROCESSES + number)
            running[slot] = stack.enter_context(again)
        for process in running:
            kill_after(process, 0)
        check_end(store, root, kept)


def keep(store: Store) -> set[Digest]:
    """An image whose layers the others have too, and whose name nobody takes away."""
    image = IMAGES[0]
    for data in image.blobs.values():
        store.put(data, "application/octet-stream")
    named = store.put(image.manifest, image.media_type)
    store.tag("h.io/kept:1", named)
    return store.upkeep.below(named.digest)


def whole(store: Store, digest: Digest) -> bool:
    return store.upkeep.intact(digest, cancel=Cancellation())


def check_end(store: Store, root: Path, kept: set[Digest]) -> None:
    """What was given a name for certain has it, and every name leads to all of its image."""
    there = dict(store.references())
    last = {line[1:]: line[0] for line in (root / "ledger").read_text().splitlines()}
    assert {"h.io/kept:1", *(name for name, mark in last.items() if mark == "+")} <= set(there)
    assert len(last) > len(IMAGES)
    for name, descriptor in there.items():
        assert all(whole(store, digest) for digest in store.upkeep.below(descriptor.digest)), name
        skopeo("copy", f"oci:{store.images}:{name}", f"oci:{root / 'copied'}:copied")
    for name in there:
        if name != "h.io/kept:1":
            store.untag(name)
    swept(store)
    assert {digest for digest, _ in store.upkeep.blobs()} == kept


def test_processes_that_are_killed_lose_nothing_that_was_named(
    registry: Registry, tmp_path: Path
) -> None:
    require("skopeo")
    stress(registry, tmp_path, kills=3, seed=1)


@pytest.mark.soak
def test_processes_that_are_killed_dozens_of_times_lose_nothing_that_was_named(
    registry: Registry, tmp_path: Path
) -> None:
    require("skopeo")
    stress(registry, tmp_path, kills=40, seed=2)
