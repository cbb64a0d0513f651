"""The store among processes: two at once, one that is killed, and a disk that is full."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_store import Fault, FaultySource, eventually, make_store, names

from registry_service.cancel import Cancellation
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DiskFullError,
    StoreError,
)
from registry_service.store import Store

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes

# Fetches CONTENT; notes each opening; after `before` bytes it says so and waits to be told.
FETCHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support_store import HeldSource
from registry_service.store import Store
root, before = Path(sys.argv[2]), int(sys.argv[3])
content = bytes(range(256)) * 4000

class Source(HeldSource):
    def open(self, descriptor, offset, cancel):
        with (root / "opened").open("a") as file:
            file.write(f"{offset}\\n")
        return super().open(descriptor, offset, cancel)
    def hold(self, cancel):
        if not self.reached.is_set():
            self.reached.set()
            print("holding", flush=True)
            sys.stdin.readline()

source = Source(before=before)
with Store(root / "images", root / "ingest") as store:
    print(store.ensure(source.add(content), source).wait(), flush=True)
"""


@contextlib.contextmanager
def fetcher(root: Path, before: int) -> Iterator[subprocess.Popen[str]]:
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", FETCHER, here, str(root), str(before)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_fetch_a_blob_once(tmp_path: Path) -> None:
    source = FaultySource(CONTENT)
    with fetcher(tmp_path, 500_000) as other, make_store(tmp_path) as store:
        assert line(other) == "holding"
        told: queue.SimpleQueue[str] = queue.SimpleQueue()

        def log(level: str, text: str, /, **fields: object) -> None:
            told.put(text)

        ticket = store.ensure(source.descriptor, source, log=log)
        assert "another process is bringing it" in told.get(timeout=20)
        leaving = Cancellation()
        impatient = store.ensure(source.descriptor, source, cancel=leaving)
        leaving.cancel()  # the wait for another process ends as every other
        with pytest.raises(CancelledError):
            impatient.wait()
        assert not ticket.settled
        tell(other)
        assert ticket.wait() == "exists"
        assert line(other) == "fetched"
        assert other.wait(30) == 0
        assert source.offsets == []
        assert store.read(source.descriptor.digest) == CONTENT
    assert names(tmp_path / "ingest") == []


def test_what_a_killed_process_brought_is_taken_up(tmp_path: Path) -> None:
    source = FaultySource(CONTENT)
    with fetcher(tmp_path, 500_000) as other:
        assert line(other) == "holding"
        other.send_signal(signal.SIGKILL)
        assert other.wait(30) == -signal.SIGKILL
    assert len(names(tmp_path / "ingest")) == 1
    with make_store(tmp_path) as store:
        assert not store.has(source.descriptor.digest)
        assert store.ensure(source.descriptor, source).wait() == "fetched"
        assert source.offsets == [500_000]
        assert store.read(source.descriptor.digest) == CONTENT
    assert names(tmp_path / "ingest") == []


def test_a_process_that_waits_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    source = FaultySource(CONTENT)
    with fetcher(tmp_path, 300_000) as other, make_store(tmp_path) as store:
        assert line(other) == "holding"
        ticket = store.ensure(source.descriptor, source)
        other.kill()
        assert ticket.wait() == "fetched"
        assert source.offsets == [300_000]


def test_four_processes_at_once_agree(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(fetcher(tmp_path, 1)) for _ in range(4)]
        for process in running:
            tell(process)
        ends = [process.communicate(timeout=60)[0].split()[-1] for process in running]
    assert sorted(ends) == ["exists", "exists", "exists", "fetched"]
    assert (tmp_path / "opened").read_text().split() == ["0"]


# a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leave about ``free`` bytes on the disk."""
    found = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(found.f_bfree * found.f_frsize - free))
    return ballast


def test_a_full_disk_fails_the_transfer_and_harms_nothing(small_disk: Path) -> None:
    source = FaultySource(CONTENT[:900_000])
    with make_store(small_disk) as store:
        kept = store.put(b"kept", "a/b")
        store.tag("h.io/x:1", kept)
        ballast = fill(small_disk, 400_000)
        tickets = [store.ensure(source.descriptor, source) for _ in range(3)]
        for ticket in tickets:
            with pytest.raises(
                DiskFullError, match=r"cannot write .*bytes more are needed"
            ) as caught:
                ticket.wait()
            assert caught.value.path.startswith(str(small_disk))
            assert caught.value.needed is not None and 400_000 < caught.value.needed < 900_000
        # What was brought is given back: others on this disk need the space.
        eventually(lambda: names(small_disk / "ingest") == [])
        assert store.references() == [("h.io/x:1", kept)]
        ballast.unlink()
        assert store.ensure(source.descriptor, source).wait() == "fetched"


def test_a_blob_that_cannot_fit_is_not_begun(small_disk: Path) -> None:
    source = FaultySource(CONTENT * 3)
    with make_store(small_disk) as store:
        with pytest.raises(DiskFullError, match="3072000 bytes more are needed"):
            store.ensure(source.descriptor, source).wait()
        assert source.offsets == []
        eventually(lambda: names(small_disk / "ingest") == [])


def test_what_was_fetched_stays_where_the_rest_cannot_fit(small_disk: Path) -> None:
    content = (CONTENT * 2)[:1_600_000]
    begun = FaultySource(content, [Fault(after=200_000), *[Fault(after=0)] * 9])
    source = FaultySource(content)
    with make_store(small_disk) as store:
        with pytest.raises(ConnectionBrokenError):
            store.ensure(begun.descriptor, begun).wait()
        ballast = fill(small_disk, 900_000)
        with pytest.raises(DiskFullError, match="1400000 bytes more are needed"):
            store.ensure(source.descriptor, source).wait()
        ballast.unlink()
        assert store.ensure(source.descriptor, source).wait() == "fetched"
        assert source.offsets == [200_000]


def test_what_is_written_must_be_on_the_disk_of_what_is_kept(
    small_disk: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="must be on one file system"):
        Store(tmp_path / "images", small_disk / "ingest")


def test_a_name_that_finds_no_space_leaves_the_index(small_disk: Path) -> None:
    with make_store(small_disk) as store:
        kept = store.put(b"kept", "a/b")
        store.tag("h.io/x:1", kept)
        ballast = fill(small_disk, 0)
        with pytest.raises(DiskFullError, match=r"index\.json"):
            store.tag("h.io/x:2", kept)
        with pytest.raises(DiskFullError):
            store.put(b"more", "a/b")
        assert store.references() == [("h.io/x:1", kept)]
        ballast.unlink()
        store.tag("h.io/x:2", kept)
        assert len(store.references()) == 2


LIMITED = """
import resource
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support_store import FaultySource, make_store, names
from registry_service.errors import DiskFullError
root = Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
source = FaultySource(bytes(900_000))
with make_store(root) as store:
    try:
        store.ensure(source.descriptor, source).wait()
    except DiskFullError as error:
        print(error.needed, names(root / "ingest"))
"""


def test_a_file_that_may_not_grow_is_a_full_disk_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    needed, rest = done.stdout.split(maxsplit=1)
    assert 300_000 < int(needed) < 900_000
    assert rest.strip() == "[]"


# several stores of one process


def test_two_stores_on_one_place_are_as_two_processes(tmp_path: Path) -> None:
    source = FaultySource(CONTENT, [Fault(piece=1000)])
    with make_store(tmp_path) as first, make_store(tmp_path) as second:
        ends: list[str] = []

        def fetch(store: Store) -> None:
            ends.append(store.ensure(source.descriptor, source).wait())

        threads = [threading.Thread(target=fetch, args=(store,)) for store in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ends) == ["exists", "fetched"]
    assert source.offsets == [0]
