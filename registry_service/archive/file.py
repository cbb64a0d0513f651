"""An archive as bytes by their places, whether it is a plain file or a compressed one.

A compressed archive is decompressed once, into a file without a name: members of a tar can only be
asked for in any order where it lies open.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from ..cancel import Cancellation
from ..compression import CHUNK, LONGEST_MAGIC, compression_of, decompressed
from ..errors import StoreError
from ..observe import ProgressCallback
from ..store.disk import check_space, disk_error, write_all

__all__ = ["ArchiveFile", "ScratchFile"]

# What is left free for others by an archive that turns out to be very large inside.
_RESERVE: Final = 64 * 1024 * 1024
_CHECK_EVERY: Final = 64 * 1024 * 1024


class ArchiveFile:
    """An open file of ``size`` bytes, ``path`` in errors. Thread-safe.

    It is closed when `close` was called and everybody who holds it (`hold`, `release`) has let
    go: a thread that still reads never meets the number of a closed file, or of another one.
    """

    def __init__(self, fd: int, path: Path) -> None:
        """Takes over ``fd``."""
        self.path = path
        self.size = os.fstat(fd).st_size
        self._fd = fd
        self._mutex = threading.Lock()  # guards what follows
        self._holders = 1
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let nobody begin to read any more. A second call does nothing."""
        with self._mutex:
            closed, self._closed = self._closed, True
        if not closed:
            self.release()

    def hold(self) -> None:
        """Keep it open until `release`. Raises `StoreError` when it is closed."""
        with self._mutex:
            if self._closed:
                raise StoreError(f"{self.path} was closed")
            self._holders += 1

    def release(self) -> None:
        with self._mutex:
            self._holders -= 1
            if not self._holders:
                os.close(self._fd)

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` on, as far as one read goes."""
        try:
            return os.preadv(self._fd, [buffer], offset)
        except OSError as error:
            raise disk_error(error, self.path, "read") from error

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on, in memory; fewer at the end."""
        content = bytearray(min(count, max(0, self.size - offset)))
        view = memoryview(content)
        while view:
            done = self.readinto(view, offset)
            if not done:
                break
            view, offset = view[done:], offset + done
        return bytes(content[: len(content) - len(view)])

    def pieces(self, offset: int, size: int, cancel: Cancellation) -> Iterator[bytes]:
        """``size`` bytes from ``offset`` on, piece by piece."""
        last = offset + size
        while offset < last:
            cancel.check()
            piece = self.read(offset, min(CHUNK, last - offset))
            if not piece:
                return
            offset += len(piece)
            yield piece

    def opened(
        self, scratch: Path, cancel: Cancellation, progress: ProgressCallback
    ) -> ArchiveFile:
        """This file, or what is in it where it is compressed; then this one is closed.

        ``scratch`` is the directory that holds it then, until the process has let go of it.
        Raises `ArchiveError` for a damaged stream, `DiskFullError`.
        """
        kind = compression_of(self.read(0, LONGEST_MAGIC))
        if not kind:
            return self
        with self:
            return self._decompress(kind, scratch, cancel, progress)

    def _decompress(
        self, kind: str, scratch: Path, cancel: Cancellation, progress: ProgressCallback
    ) -> ArchiveFile:
        read = 0

        def counted() -> Iterator[bytes]:
            nonlocal read
            for piece in self.pieces(0, self.size, cancel):
                read += len(piece)
                progress(self.path.name, "decompressing", read, self.size)
                yield piece

        with ScratchFile(scratch, self.path) as file:
            file.append(decompressed(counted(), kind), cancel)
            return file.opened()


class ScratchFile:
    """A file without a name for what comes out of compressed content, one piece of content after
    the other; ``path`` is the archive's. Used by one thread."""

    def __init__(self, scratch: Path, path: Path) -> None:
        """Raises `StoreError` where ``scratch`` is no directory that can be written to."""
        self.path = path
        self.size = 0
        self._scratch = scratch
        self._checked = 0
        try:
            self._file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise disk_error(error, scratch, "decompress into") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def append(self, pieces: Iterator[bytes], cancel: Cancellation) -> int:
        """Write all of it at the end; returns the place where it begins. Raises what ``pieces``
        raises, `DiskFullError`, `StoreError`, `CancelledError`."""
        begin = self.size
        try:
            for piece in pieces:
                cancel.check()
                if self.size >= self._checked:
                    check_space(self._scratch, _RESERVE)
                    self._checked = self.size + _CHECK_EVERY
                write_all(self._file.fileno(), memoryview(piece), self.size)
                self.size += len(piece)
        except OSError as error:
            raise disk_error(error, self._scratch, "decompress into") from error
        return begin

    def opened(self) -> ArchiveFile:
        """What was written, to be read after this one is closed."""
        return ArchiveFile(os.dup(self._file.fileno()), self.path)
