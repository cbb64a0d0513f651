"""One blob on its way in: a partial file that outlives whoever began it.

A partial file holds the first bytes of one blob, as one registry sent them: no other one, and no
descriptor of another size, can spoil what was fetched, or get what it did not send. It stays when
a transfer is cancelled, fails or is killed, and the next one goes on from its end, having hashed
again what is there. It goes away in three cases: it became the blob; its bytes are known to be
wrong; it filled the disk, when space matters more to everything else on it than a resumed transfer
does. Where there is no room for what it lacks, it is not gone on with, and stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import (
    ConnectionBrokenError,
    DigestMismatchError,
    DiskFullError,
    ProtocolError,
    StoreError,
)
from .disk import FILE_MODE, check_space, disk_error, is_at, try_lock, write_all
from .layout import Layout
from .source import BlobStream

__all__ = ["Partial", "Report", "partial_name"]

#: Called with a phase and the bytes that are done in it.
Report = Callable[[str, int], None]

_CHECKED: Final = 1024 * 1024  # what is smaller is not worth asking how full the disk is


class Partial:
    """The partial file of one descriptor, open and locked, and the hash of what is in it.

    Belongs to one thread at a time. The lock is the file's own (flock), so it is free when its
    process dies, and there is one file a blob and registry at most: a process that got the lock of
    a file that was renamed or removed meanwhile notices, and asks again.
    """

    def __init__(
        self, layout: Layout, descriptor: Descriptor, path: str, fd: int, found: int
    ) -> None:
        self._layout = layout
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._path = path
        self._fd = fd
        self._found = found  # bytes that are in the file, and not in the hash yet
        self._hasher = descriptor.digest.hasher()
        #: Bytes that are in the file and in the hash.
        self.position = 0
        #: Whether some of them were there before.
        self.resumed = False

    @classmethod
    def claim(cls, layout: Layout, descriptor: Descriptor, host: str = "") -> Partial | None:
        """The partial file of the registry ``host``, made where there is none; None while another
        has it.

        Raises `InvalidDigestError` for a digest that cannot be verified, `StoreError`.
        """
        descriptor.digest.hasher()
        path = f"{layout.ingest}/{partial_name(descriptor, host)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, FILE_MODE)
        except OSError as error:
            raise disk_error(error, path, "open") from error
        try:
            if try_lock(fd, path):
                mine = os.fstat(fd)
                if is_at(mine, path):
                    return cls(layout, descriptor, path, fd, mine.st_size)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    @property
    def empty(self) -> bool:
        """Whether nothing was brought yet."""
        return not (self._found or self.position)

    @property
    def complete(self) -> bool:
        return self.position == self._size

    def resume(self, buffer: memoryview, cancel: Cancellation, report: Report) -> None:
        """Take up what the file holds already. Raises `CancelledError`, `StoreError`."""
        found, self._found = self._found, 0
        if found > self._size:
            self._truncate()
        elif found:
            self.resumed = True
            self._rehash(found, buffer, cancel, report)
        missing = self._size - self.position
        if missing >= _CHECKED:
            check_space(self._layout.ingest, missing)

    def fill(
        self, stream: BlobStream, buffer: memoryview, cancel: Cancellation, report: Report
    ) -> None:
        """Append what ``stream`` brings, until the blob is complete.

        Raises what the stream raises, `ConnectionBrokenError` for one that ends early,
        `DigestMismatchError` for one that has more or less than the descriptor says,
        `DiskFullError`.
        """
        self._check(stream)
        self._skip(stream, buffer, cancel)
        size, room = self._size, len(buffer)
        while self.position < size:
            cancel.check()
            count = stream.readinto(buffer[: min(room, size - self.position)])
            if not count:
                raise ConnectionBrokenError(
                    f"blob {self._digest}: the source ended after {self.position} of {size} bytes"
                )
            self._append(buffer[:count])
            report("fetching", self.position)
        if _goes_on(stream, buffer):
            self.discard()
            raise DigestMismatchError(
                f"blob {self._digest}: the source has more than the {size} bytes that its "
                "descriptor says",
                expected=str(self._digest),
                size=size,
            )

    def verify(self) -> None:
        """See that it is what the digest says. Raises `DigestMismatchError`, and nothing is
        kept."""
        if not self._digest.matches(self._hasher):
            actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
            size = self.position
            self.discard()
            raise DigestMismatchError(
                f"blob {self._digest}: the {size} bytes that came have the digest {actual}",
                expected=str(self._digest),
                actual=actual,
                size=size,
            )

    def commit(self) -> None:
        """Make what was verified the blob. It is closed then, whatever comes of it. Raises
        `StoreError`."""
        target = self._layout.place(self._digest)
        try:
            # The name must never be there without the bytes, whatever happens to the machine.
            os.fdatasync(self._fd)
            try:
                os.rename(self._path, target)  # noqa: PTH104 - see `Layout.place`
            except FileNotFoundError:
                self._layout.prepare(self._digest)
                os.rename(self._path, target)  # noqa: PTH104 - as above
        except OSError as error:
            self._fail(error, target)
        finally:
            self.close()

    def discard(self) -> None:
        """Remove the file and close it."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - see `Layout.place`
        self._shut()

    def close(self) -> None:
        """Close the file and leave it there for a later transfer, unless it is empty.

        A second call does nothing.
        """
        with contextlib.suppress(OSError, StoreError):
            if self._fd >= 0 and not self.position:
                mine = os.fstat(self._fd)
                if not mine.st_size and is_at(mine, self._path):
                    self.discard()
        self._shut()

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def _shut(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _truncate(self) -> None:
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise disk_error(error, self._path, "empty") from error

    def _rehash(self, size: int, buffer: memoryview, cancel: Cancellation, report: Report) -> None:
        while self.position < size:
            cancel.check()
            try:
                count = os.preadv(self._fd, [buffer], self.position)
            except OSError as error:
                raise disk_error(error, self._path, "read") from error
            if not count:
                break
            count = min(count, size - self.position)
            self._hasher.update(buffer[:count])
            self.position += count
            report("verifying", self.position)

    def _check(self, stream: BlobStream) -> None:
        """Refuse a source that begins elsewhere, or says that the blob has another size.

        One that begins in the middle may give a piece at a time: it says nothing of the whole.
        """
        if stream.offset not in (0, self.position):
            raise ProtocolError(
                f"blob {self._digest}: asked for the bytes from {self.position} on, the source "
                f"gives those from {stream.offset} on"
            )
        length = stream.length
        if not stream.offset and length is not None and length != self._size:
            raise DigestMismatchError(
                f"blob {self._digest}: the source has {length} bytes, its descriptor says "
                f"{self._size}",
                expected=str(self._digest),
                size=length,
            )

    def _skip(self, stream: BlobStream, buffer: memoryview, cancel: Cancellation) -> None:
        """Read past what is here already, from a source that cannot or must not begin after it:
        it has to bring the same."""
        behind = self.position - stream.offset
        half = len(buffer) // 2
        while behind:
            cancel.check()
            count = stream.readinto(buffer[: min(half, behind)])
            if not count:
                raise ConnectionBrokenError(
                    f"blob {self._digest}: the source ended after {self.position - behind} bytes, "
                    f"{self._size} are expected"
                )
            self._compare(buffer[:count], self.position - behind, buffer[half : half + count])
            behind -= count

    def _compare(self, data: memoryview, offset: int, room: memoryview) -> None:
        try:
            found = os.preadv(self._fd, [room], offset)
        except OSError as error:
            raise disk_error(error, self._path, "read") from error
        if room[:found] != data:
            self.discard()
            raise DigestMismatchError(
                f"blob {self._digest}: the source has other bytes from {offset} on than what was "
                "fetched before; both are given up",
                expected=str(self._digest),
            )

    def _append(self, data: memoryview) -> None:
        try:
            write_all(self._fd, data, self.position)
        except OSError as error:
            self._fail(error, self._path)
        self._hasher.update(data)
        self.position += len(data)

    def _fail(self, error: OSError, path: str) -> None:
        failure = disk_error(error, path, "write", self._size - self.position)
        if isinstance(failure, DiskFullError):
            self.discard()
        raise failure from error


def partial_name(descriptor: Descriptor, host: str) -> str:
    """The name of a partial file, which is a file's name everywhere."""
    digest = descriptor.digest
    whose = hashlib.sha256(f"{descriptor.size} {host}".encode()).hexdigest()[:16]
    return f"{digest.algorithm}-{digest.hex}-{whose}.partial"


def _goes_on(stream: BlobStream, buffer: memoryview) -> bool:
    """Whether there is more. A source that fails here has delivered: the digest decides."""
    try:
        return stream.readinto(buffer[:1]) > 0
    except ConnectionBrokenError:
        return False
