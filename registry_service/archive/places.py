"""Where a process reads and writes archives for others, and how it does so safely.

Whoever may submit a job can name any path, and the process opens it with its own rights. So only
plain files are opened, and nothing else is touched. Where a path really leads is asked of the
kernel, and only that place is gone to, from the root and over no link: neither a symbolic link,
nor a directory that is exchanged meanwhile, nor what ``/proc`` shows of the mounts of other
processes leads to anything that is not allowed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..errors import ArchiveError
from ..store.disk import FILE_MODE, disk_error, write_all
from .file import ArchiveFile

__all__ = ["Places"]

_USAGE: Final = 2
_NOT_ALLOWED: Final = 126
# Finds a file and does nothing to it: some devices act when they are opened.
_FIND: Final = os.O_PATH | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The directories in which archives may be read, and those in which they may be written,
    with what is below them."""

    readable: tuple[Path, ...] = (Path("/"),)
    writable: tuple[Path, ...] = (Path("/"),)

    def open(self, path: Path) -> ArchiveFile:
        """The plain file at that absolute path. Raises `ArchiveError`, `StoreError`."""
        _check_path(path)
        try:
            with _found(path, path, self.readable, "load_dirs") as found:
                if not stat.S_ISREG(os.fstat(found).st_mode):
                    raise ArchiveError(f"{path} is not a plain file", status=_USAGE)
                # somebody's lease on the file must not make who opens it wait
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                return ArchiveFile(os.open(f"/proc/self/fd/{found}", flags), path)
        except OSError as error:
            raise disk_error(error, path, "open") from error

    @contextlib.contextmanager
    def directory(self, path: Path) -> Iterator[int]:
        """The open directory that the file at that absolute path lies in, or will lie in."""
        _check_path(path)
        try:
            with _found(path.parent, path, self.writable, "save_dirs") as found:
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
        except OSError as error:
            raise disk_error(error, path.parent, "open the directory") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def check_target(self, path: Path, *, force: bool) -> None:
        """Raise `ArchiveError` where `write` would, before there is anything to write."""
        with self.directory(path) as directory:
            _check_free(directory, path, force)

    def write(self, path: Path, pieces: Iterable[bytes], *, force: bool = False) -> None:
        """Make a file of ``pieces``, for its owner only: whole or not at all.

        What is there is replaced only with ``force``, and only a plain file. Raises
        `ArchiveError`, `DiskFullError`, `StoreError`, and what ``pieces`` raises.
        """
        with self.directory(path) as directory:
            _check_free(directory, path, force)
            beside = f".{path.name[:32]}.{secrets.token_hex(8)}.partial"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fd = os.open(beside, flags, FILE_MODE, dir_fd=directory)
                try:
                    _fill(fd, pieces)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                _place(directory, beside, path, force)
                os.fsync(directory)
            except OSError as error:
                raise disk_error(error, path, "write") from error
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(beside, dir_fd=directory)


def _check_path(path: Path) -> None:
    if not path.is_absolute() or "\0" in str(path):
        raise ArchiveError(
            f"{str(path)!r:.200}: the absolute path of a file is expected", status=_USAGE
        )


@contextlib.contextmanager
def _found(where: Path, path: Path, allowed: tuple[Path, ...], key: str) -> Iterator[int]:
    """What lies ``where``, found and not opened, if it lies in a place that is ``allowed``.

    Raises OSError, and `ArchiveError` for ``path``, which the client named.
    """
    fd = os.open(where, _FIND)
    try:
        if Path("/") not in allowed:
            there = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 - no path, a question
            if not any(there.is_relative_to(place.resolve()) for place in allowed):
                named = ", ".join(map(str, allowed)) or "none are set"
                raise ArchiveError(
                    f"{path} does not lie where the engine may do that for its clients "
                    f"({key} of its configuration: {named})",
                    code="not-allowed",
                    status=_NOT_ALLOWED,
                )
            reached = _reached(there)
            os.close(fd)
            fd = reached
        yield fd
    finally:
        os.close(fd)


def _reached(there: Path) -> int:
    """What lies at that place, over no link. In the mounts of another process, to which paths of
    ``/proc`` lead, the same place may be something else altogether."""
    fd = os.open("/", _FIND)
    for part in there.parts[1:]:
        try:
            below = os.open(part, _FIND | os.O_NOFOLLOW, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _check_free(directory: int, path: Path, force: bool) -> None:
    try:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, path, "examine") from error
    if not stat.S_ISREG(found.st_mode):
        raise ArchiveError(f"{path} is there, and is not a plain file", code="exists")
    if not force:
        raise _exists(path)


def _exists(path: Path) -> ArchiveError:
    return ArchiveError(f"{path} exists; 'force' replaces it", code="exists")


def _fill(fd: int, pieces: Iterable[bytes]) -> None:
    written = 0
    for piece in pieces:
        write_all(fd, memoryview(piece), written)
        written += len(piece)


def _place(directory: int, beside: str, path: Path, force: bool) -> None:
    """A link is made only where nothing is, whoever else is at it."""
    if force:
        os.rename(beside, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        return
    try:
        os.link(beside, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        raise _exists(path) from None
