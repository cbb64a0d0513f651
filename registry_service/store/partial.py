"""A file for content on its way in, that outlives whoever began it: locked, resumed, appended to.

What is kept of it, and what makes it whole, is its user's: `ingest` for content whose digest is
known, `arriving` for content of which nobody knows it before it is here.
"""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable
from typing import Final, NoReturn

from ..cancel import Cancellation
from ..digest import Digest
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

__all__ = ["Opened", "PartialFile", "Report", "open_partial"]

#: Called with a phase and the bytes that are done in it.
Report = Callable[[str, int], None]
#: A locked file: its path, its descriptor, the bytes that are in it.
Opened = tuple[str, int, int]

_CHECKED: Final = 1024 * 1024  # what is smaller is not worth asking how full the disk is


def open_partial(layout: Layout, name: str) -> Opened | None:
    """The partial file of that name, made where there is none; None while another has it.

    The lock is the file's own (flock), so it is free when its process dies, and there is one file
    of a name at most: who got the lock of a file that was renamed or removed meanwhile notices,
    and asks again. Raises `StoreError`.
    """
    path = f"{layout.ingest}/{name}"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, FILE_MODE)
    except OSError as error:
        raise disk_error(error, path, "open") from error
    try:
        if try_lock(fd, path):
            mine = os.fstat(fd)
            if is_at(mine, path):
                return path, fd, mine.st_size
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


class PartialFile(abc.ABC):
    """The first bytes of some content, in a file that is open and locked. Belongs to one thread at
    a time.

    ``what`` names the content in errors; ``size`` is how many bytes it has, None where nobody
    knows.
    """

    def __init__(self, layout: Layout, opened: Opened, what: str, size: int | None) -> None:
        self._layout = layout
        self._path, self._fd, self._found = opened  # bytes in the file, and not taken up yet
        self._what = what
        self._size = size
        #: Bytes that are in the file and were taken up.
        self.position = 0
        #: Whether some of them were there before.
        self.resumed = False

    @abc.abstractmethod
    def _take(self, data: memoryview, cancel: Cancellation) -> None:
        """Look at the next bytes, which are in the file."""

    def _mismatch(self, text: str, *, actual: str = "", size: int | None = None) -> Exception:
        return DigestMismatchError(f"{self._what}: {text}", actual=actual, size=size)

    @property
    def empty(self) -> bool:
        """Whether nothing was brought yet."""
        return not (self._found or self.position)

    def resume(self, buffer: memoryview, cancel: Cancellation, report: Report) -> None:
        """Take up what the file holds already. Raises `CancelledError`, `StoreError`."""
        found, self._found = self._found, 0
        if self._size is not None and found > self._size:
            self._truncate()
        elif found:
            self.resumed = True
            self._reread(found, buffer, cancel, report)
        missing = 0 if self._size is None else self._size - self.position
        if missing >= _CHECKED:
            check_space(self._layout.ingest, missing)

    def fill(
        self, stream: BlobStream, buffer: memoryview, cancel: Cancellation, report: Report
    ) -> None:
        """Append what ``stream`` brings, until there is all of it.

        Raises what the stream raises, `ConnectionBrokenError` for one that ends early,
        `DigestMismatchError` for one that has more or less than it should, `DiskFullError`.
        """
        self._check(stream)
        self._skip(stream, buffer, cancel)
        size, room = self._size, len(buffer)
        while size is None or self.position < size:
            cancel.check()
            wanted = room if size is None else min(room, size - self.position)
            count = stream.readinto(buffer[:wanted])
            if not count:
                if size is None:
                    return
                raise ConnectionBrokenError(
                    f"{self._what}: the source ended after {self.position} of {size} bytes"
                )
            self._append(buffer[:count], cancel)
            report("fetching", self.position)
        if _goes_on(stream, buffer):
            self.discard()
            raise self._mismatch(self._other_size(None), size=size)

    def settle_as(self, digest: Digest) -> None:
        """Make what was verified the blob of that digest. It is closed then, whatever comes of it.
        Raises `StoreError`."""
        try:
            # The name must never be there without the bytes, whatever happens to the machine.
            os.fdatasync(self._fd)
            self._put(self._path, digest)
        except OSError as error:
            self._fail(error, self._layout.place(digest))
        finally:
            self.close()

    def _put(self, path: str, digest: Digest) -> None:
        """Let the file at ``path``, which is synced, be the blob of that digest. Raises OSError."""
        target = self._layout.place(digest)
        try:
            os.rename(path, target)  # noqa: PTH104 - see `Layout.place`
        except FileNotFoundError:
            self._layout.prepare(digest)
            os.rename(path, target)  # noqa: PTH104 - as above

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

    def _reread(self, size: int, buffer: memoryview, cancel: Cancellation, report: Report) -> None:
        while self.position < size:
            cancel.check()
            try:
                count = os.preadv(self._fd, [buffer], self.position)
            except OSError as error:
                raise disk_error(error, self._path, "read") from error
            if not count:
                break
            count = min(count, size - self.position)
            self._take(buffer[:count], cancel)
            self.position += count
            report("verifying", self.position)

    def _check(self, stream: BlobStream) -> None:
        """Refuse a source that begins elsewhere, or says that the content has another size.

        One that begins in the middle may give a piece at a time: it says nothing of the whole.
        """
        if stream.offset not in (0, self.position):
            raise _elsewhere(self._what, self.position, stream.offset)
        length = stream.length
        if not stream.offset and None not in (length, self._size) and length != self._size:
            raise self._mismatch(self._other_size(length), size=length)

    def _other_size(self, length: int | None) -> str:
        """Says that the source has ``length`` bytes, None: more than it should."""
        if length is None:
            return f"the source has more than the {self._size} bytes that its descriptor says"
        return f"the source has {length} bytes, its descriptor says {self._size}"

    def _skip(self, stream: BlobStream, buffer: memoryview, cancel: Cancellation) -> None:
        """Read past what is here already, from a source that cannot or must not begin after it:
        it has to bring the same."""
        behind = self.position - stream.offset
        half = len(buffer) // 2
        while behind:
            cancel.check()
            count = stream.readinto(buffer[: min(half, behind)])
            if not count:
                expected = "" if self._size is None else f", {self._size} are expected"
                raise ConnectionBrokenError(
                    f"{self._what}: the source ended after {self.position - behind} bytes{expected}"
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
            raise self._mismatch(
                f"the source has other bytes from {offset} on than what was fetched before; both "
                "are given up"
            )

    def _append(self, data: memoryview, cancel: Cancellation) -> None:
        try:
            write_all(self._fd, data, self.position)
        except OSError as error:
            self._fail(error, self._path)
        self._take(data, cancel)
        self.position += len(data)

    def _fail(self, error: OSError, path: str) -> NoReturn:
        needed = None if self._size is None else self._size - self.position
        failure = disk_error(error, path, "write", needed)
        if isinstance(failure, DiskFullError):
            self.discard()
        raise failure from error


def _elsewhere(what: str, asked: int, got: int) -> ProtocolError:
    return ProtocolError(
        f"{what}: asked for the bytes from {asked} on, the source gives those from {got} on"
    )


def _goes_on(stream: BlobStream, buffer: memoryview) -> bool:
    """Whether there is more. A source that fails here has delivered: the digest decides."""
    try:
        return stream.readinto(buffer[:1]) > 0
    except ConnectionBrokenError:
        return False
