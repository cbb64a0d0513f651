"""Files: how they are named, locked, written beside their place, synced and renamed.

Each function turns the system's errors into the library's, with the path in them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..cancel import Cancellation
from ..errors import DiskFullError, StoreError

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "check_space",
    "disk_error",
    "file_lock",
    "is_at",
    "make_directory",
    "replace_file",
    "sweep",
    "sync_directory",
    "temporary_in",
    "try_lock",
    "write_all",
]

# Private: what one user may pull, another of the machine perhaps may not.
DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SUFFIX: Final = ".tmp"
_LONGEST_STEM: Final = 100  # of a name of 255 bytes
_FORGOTTEN: Final = 3600.0  # seconds after which a temporary file has no living owner
_POLL: Final = 0.01


def disk_error(
    error: OSError, path: Path | str, doing: str, needed: int | None = None
) -> StoreError:
    """What the library raises for ``error``; ``needed`` is the bytes that were still to come."""
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        count = "" if needed is None else f"; {needed} bytes more are needed"
        return DiskFullError(
            f"cannot {doing} {path}: {reason}{count}", path=str(path), needed=needed
        )
    return StoreError(f"cannot {doing} {path}: {reason}")


def check_space(path: Path, needed: int) -> None:
    """Raise `DiskFullError` if the file system of ``path`` has not ``needed`` bytes free.

    It spares a transfer that cannot end well; one that can may still meet a full disk.
    """
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise disk_error(error, path, "examine") from error
    free = (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize
    if found.f_blocks and free < needed:
        raise DiskFullError(
            f"cannot write to {path}: {needed} bytes more are needed, {free} are free",
            path=str(path),
            needed=needed,
        )


def make_directory(path: Path) -> None:
    """Make ``path`` and what is missing above it, each for its owner only; durable where that
    can be had."""
    try:
        for directory in (*reversed(path.parents), path):
            if not directory.is_dir():
                directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
                # One that is another's may not be open to be read.
                with contextlib.suppress(StoreError):
                    sync_directory(directory.parent)
    except OSError as error:
        raise disk_error(error, path, "make the directory") from error


def sync_directory(path: Path | str) -> None:
    """Make the names in ``path`` durable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_error(error, path, "sync") from error


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``. Raises OSError."""
    while data:
        count = os.pwrite(fd, data, offset)
        data = data[count:]
        offset += count


def temporary_in(directory: Path, stem: str) -> Path:
    """A path for a temporary file in ``directory``, which `sweep` takes if it is forgotten. It is
    nobody else's: in containers, all processes of one store may have the same number."""
    return directory / f"{stem[:_LONGEST_STEM]}.{secrets.token_hex(8)}{_SUFFIX}"


def replace_file(target: Path, content: bytes, beside: Path) -> None:
    """Put ``content`` in the place of ``target``: there is the old file or the new one, never
    a part. It is written in the directory ``beside``, of the same file system, and synced;
    the directory of ``target`` is not."""
    temporary = temporary_in(beside, target.name)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(fd, memoryview(content), 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        temporary.rename(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_error(error, target, "write", len(content)) from error


def sweep(directory: Path) -> None:
    """Remove the temporary files that a killed process left in ``directory``."""
    now = time.time()
    with contextlib.suppress(OSError):
        for path in directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > _FORGOTTEN:
                    path.unlink()


@contextlib.contextmanager
def file_lock(path: Path, timeout: float, cancel: Cancellation | None = None) -> Iterator[None]:
    """Hold the lock file ``path``, alone among all processes and threads.

    Raises `StoreError` when another holds it for longer than ``timeout`` seconds, and
    `CancelledError`. The file stays: a lock that is removed could be held twice.
    """
    cancel = cancel or Cancellation()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise disk_error(error, path, "open the lock") from error
    try:
        deadline = time.monotonic() + timeout
        while not try_lock(fd, path):
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"{path} has been locked by another process for {timeout:g} seconds; "
                    "see whether it hangs (fuser shows which it is)",
                    retryable=True,
                )
            cancel.wait(_POLL)
            cancel.check()
        yield
    finally:
        os.close(fd)  # which frees the lock


def try_lock(fd: int, path: Path | str) -> bool:
    """Whether the lock on the open file could be had at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise disk_error(error, path, "lock") from error
    return True


def is_at(mine: os.stat_result, path: str) -> bool:
    """Whether the open file, of which that is known, is the one that the path names now."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mine.st_mode):
        raise StoreError(f"{path} is not a plain file")
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
