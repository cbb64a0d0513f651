"""Sources that misbehave on demand, for the tests of the store."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import ConnectionBrokenError
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST
from registry_service.store import BlobStream, MemorySource, RetryPolicy, Source, Store

__all__ = [
    "QUICK",
    "Fault",
    "FaultySource",
    "HeldSource",
    "age",
    "damage",
    "eventually",
    "make_store",
    "names",
    "put_image",
    "put_index",
    "swept",
]

#: Retries without pauses.
QUICK = RetryPolicy(first=0.0, most=0.0, patience=0.0)
PATIENCE = 20.0  # seconds that a test waits for what must happen


def make_store(root: Path, *, workers: int = 4, retry: RetryPolicy = QUICK) -> Store:
    return Store(root / "images", root / "ingest", workers=workers, retry=retry)


def names(directory: Path) -> list[str]:
    """The files of an ingest directory, the index's lock and what it keeps for good left out."""
    kept = {"index.lock", "origins", "quarantine"}
    return sorted(path.name for path in directory.iterdir() if path.name not in kept)


def put_image(store: Store, seed: int = 0, *, subject: Descriptor | None = None) -> Descriptor:
    """An image of a configuration and two layers, of which each seed shares one; no name."""
    blobs = [b'{"seed": %d}' % seed, b"layer for all", b"layer %d" % seed]
    parts = [store.put(blob, "application/octet-stream").to_json() for blob in blobs]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": parts[0],
        "layers": parts[1:],
    }
    if subject is not None:
        document["subject"] = subject.to_json()
    return store.put(json.dumps(document).encode(), OCI_MANIFEST)


def put_index(store: Store, *parts: Descriptor) -> Descriptor:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [part.to_json() for part in parts],
    }
    return store.put(json.dumps(document).encode(), OCI_INDEX)


def swept(store: Store, **options: Any) -> dict[str, str]:
    """Collect, and give each digest with what became of it."""
    return {str(one.digest): one.state for one in store.upkeep.collect(**options)}


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it had been written so many seconds ago."""
    when = time.time() - seconds
    os.utime(path, (when, when))


def damage(store: Store, digest: Digest) -> Path:
    """Change one byte of a blob; its size stays."""
    path = store.images / "blobs" / digest.algorithm / digest.hex
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


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


class FaultySource(Source):
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
