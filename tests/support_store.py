"""Sources that misbehave on demand, for the tests of the store."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import ConnectionBrokenError
from registry_service.store import BlobStream, MemorySource, RetryPolicy, Store

__all__ = ["QUICK", "Fault", "FaultySource", "HeldSource", "eventually", "make_store", "names"]

#: Retries without pauses.
QUICK = RetryPolicy(first=0.0, most=0.0, patience=0.0)
PATIENCE = 20.0  # seconds that a test waits for what must happen


def make_store(root: Path, *, workers: int = 4, retry: RetryPolicy = QUICK) -> Store:
    return Store(root / "images", root / "ingest", workers=workers, retry=retry)


def names(directory: Path) -> list[str]:
    """The files of an ingest directory, the index's lock left out."""
    return sorted(path.name for path in directory.iterdir() if path.name != "index.lock")


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; fails after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


class HeldSource(MemorySource):
    """A source whose streams give ``before`` bytes and then wait until `release`.

    ``reached`` is set when a stream waits. A cancellation ends the wait, unless the source is
    ``deaf``. ``cancelled`` counts the streams that saw one.
    """

    def __init__(self, blobs: Iterable[bytes] = (), *, before: int = 0, deaf: bool = False) -> None:
        super().__init__(blobs)
        self.before = before
        self.deaf = deaf
        self.reached = threading.Event()
        self.cancelled = threading.Event()
        self._go = threading.Event()

    def release(self) -> None:
        self._go.set()

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        quiet = Cancellation()  # the stream itself must not notice
        stream = super().open(descriptor, offset, quiet)
        return _HeldStream(self, stream, cancel)

    def hold(self, cancel: Cancellation) -> None:
        self.reached.set()
        if self.deaf:
            assert self._go.wait(PATIENCE)
            return
        wake = threading.Event()
        with cancel.calling(wake.set):
            deadline = time.monotonic() + PATIENCE
            while not (self._go.wait(0.002) or wake.is_set()):
                assert time.monotonic() < deadline
        if cancel.cancelled:
            self.cancelled.set()
        cancel.check()


class _HeldStream:
    def __init__(self, source: HeldSource, stream: BlobStream, cancel: Cancellation) -> None:
        self._source = source
        self._stream = stream
        self._cancel = cancel
        self._left = source.before
        self.offset = stream.offset
        self.length = stream.length

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            self._source.hold(self._cancel)
            return self._stream.readinto(buffer)
        count = self._stream.readinto(buffer[: min(len(buffer), self._left)])
        self._left -= count
        return count

    def close(self) -> None:
        self._stream.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What one opened stream does wrong.

    It raises ``refuse`` when opened; ``ignore_offset`` begins at 0; ``wrong_offset`` says so;
    ``corrupt`` is the place of a byte that is changed; ``more`` bytes follow the end; after
    ``after`` bytes it ends (``drop``: with `ConnectionBrokenError`); ``piece`` is the most
    that one read gives; ``silent`` does not say how many bytes there are.
    """

    refuse: Exception | None = None
    ignore_offset: bool = False
    wrong_offset: bool = False
    corrupt: int | None = None
    more: int = 0
    after: int | None = None
    drop: bool = True
    piece: int = 2**30
    silent: bool = False


class FaultySource:
    """One blob, and a fault for each time that it is opened; after the last, no fault."""

    def __init__(self, content: bytes, faults: Iterable[Fault] = ()) -> None:
        self.content = content
        self.descriptor = Descriptor(
            media_type="application/octet-stream", digest=Digest.of(content), size=len(content)
        )
        self.offsets: list[int] = []
        self.closed = 0
        self._faults = list(faults)

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        self.offsets.append(offset)
        fault = self._faults.pop(0) if self._faults else Fault()
        if fault.refuse is not None:
            raise fault.refuse
        return _FaultyStream(self, fault, 0 if fault.ignore_offset else offset)


class _FaultyStream:
    def __init__(self, source: FaultySource, fault: Fault, offset: int) -> None:
        content = bytearray(source.content)
        if fault.corrupt is not None and content:
            content[fault.corrupt % len(content)] ^= 0xFF
        data = bytes(content[offset:]) + b"+" * fault.more
        self._source = source
        self._rest = memoryview(data if fault.after is None else data[: fault.after])
        self._fault = fault
        self.offset = offset + 1 if fault.wrong_offset else offset
        self.length = None if fault.silent else len(data)

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), len(self._rest), self._fault.piece)
        if not count and self._fault.after is not None and self._fault.drop:
            raise ConnectionBrokenError("the connection was dropped")
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._source.closed += 1
