"""Leases: what somebody relies on who has not named it yet, or reads it while it loses its name.

A lease is a file ``ingest/….lease`` with lines ``DIGEST .``, locked (flock) by who holds it, in
this process or another. When its process dies, the lock is free and the lease counts for nothing.
What is torn, by a full disk, lacks its dot: who wrote it was told that it failed.

A pin protects from the moment on that no sweep is under way which had read the leases before:
sweeps remove under the lock of ``index.json`` only, having read the leases under it. So who
needs to be sure takes that lock once after pinning (`Layout.barrier`), and then looks whether
the content is there; who names something looks under the lock anyway.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..cancel import Cancellation
from ..digest import Digest
from ..errors import InvalidDigestError, StoreError
from .disk import FILE_MODE, disk_error, is_at, try_lock
from .layout import Layout

__all__ = ["Lease", "pinned"]

_SUFFIX: Final = ".lease"


class Lease:
    """Content that must stay. A context manager; belongs to one operation, of any thread.

    The file is made with the first pin: an operation that relies on nothing writes nothing.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = layout.ingest / f"{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}"
        self._fd = -1
        self._pinned: set[Digest] = set()
        self._closed = False
        self._mutex = threading.Lock()  # what comes at once is pinned by those who bring it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pins(self) -> frozenset[Digest]:
        """What it keeps."""
        return frozenset(self._pinned)

    def pin(self, digests: Iterable[Digest]) -> None:
        """Keep these from being removed until `close`. Raises `StoreError`."""
        with self._mutex:
            if self._closed:  # what is late must not make a file that nobody removes
                raise StoreError("the operation is over")
            self._pin(digests)

    def _pin(self, digests: Iterable[Digest]) -> None:
        fresh = [digest for digest in dict.fromkeys(digests) if digest not in self._pinned]
        if not fresh:
            return
        try:
            while self._fd < 0:
                self._fd = self._make()
            lines = memoryview("".join(f"\n{digest} ." for digest in fresh).encode())
            while lines:
                lines = lines[os.write(self._fd, lines) :]
        except OSError as error:
            raise disk_error(error, self._path, "write") from error
        self._pinned.update(fresh)

    def secure(self, digests: Iterable[Digest], cancel: Cancellation | None = None) -> list[Digest]:
        """Pin these for certain; gives those that are not there (any more).

        Raises `CancelledError`: another process may hold the index for a while.
        """
        wanted = list(dict.fromkeys(digests))
        self.pin(wanted)
        self._layout.barrier(cancel or Cancellation())
        return [digest for digest in wanted if self._layout.size(digest) is None]

    def close(self) -> None:
        """Keep nothing any more. A second call does nothing."""
        with self._mutex:
            self._closed = True
            fd, self._fd = self._fd, -1
            self._pinned.clear()
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(fd)

    def _make(self) -> int:
        """The file, locked; -1 where a sweep took it for an abandoned one before it was."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, FILE_MODE)
        try:
            if try_lock(fd, self._path) and is_at(os.fstat(fd), str(self._path)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return -1


def pinned(ingest: Path) -> set[Digest]:
    """What the leases of all processes keep; those that nobody holds any more are removed.

    A line that is not complete yet does not count: its writer has not gone on. Raises `StoreError`
    where one cannot be read.
    """
    found: set[Digest] = set()
    for path in ingest.glob(f"*{_SUFFIX}"):
        try:
            found.update(_read(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(error, path, "read") from error
    return found


def _read(path: Path) -> list[Digest]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "r", encoding="utf-8", errors="replace") as file:
        if try_lock(fd, path):
            path.unlink(missing_ok=True)
            return []
        text = file.read()
    digests = []
    for line in text.split("\n"):
        digest, _, end = line.partition(" ")
        if end == ".":
            with contextlib.suppress(InvalidDigestError):
                digests.append(Digest.parse(digest))
    return digests
