"""Files by their paths: in a directory that one process at a time has, or in memory.

Paths are relative, of components that their users have checked. Both kinds are thread-safe:
each has one lock, held for changes of the tree and of the table of content that has no file,
never while content is read or an upload is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from .content import BytesContent, Content, FileContent, digest_content, read_all

__all__ = ["DirectoryTree", "MemoryTree", "Tree", "TreeUpload"]


class TreeUpload(Protocol):
    """Bytes on their way in. Used by one thread at a time, which the caller sees to."""

    def append(self, data: memoryview) -> None: ...

    def digest(self, algorithm: str) -> str:
        """The digest of all that was appended, read again a chunk at a time."""

    def move(self, path: str) -> None:
        """Make the bytes the file at ``path``, in place of what was there. Ends the upload."""

    def discard(self) -> None:
        """Forget the bytes. Does nothing after a move."""


class Tree(Protocol):
    """Files and what is in them. A reader never sees half of one."""

    def read(self, path: str) -> bytes | None: ...

    def content(self, path: str) -> Content | None:
        """A file's content, to be read in parts. None if there is none."""

    def names(self, path: str) -> list[str]:
        """What is directly in a folder, sorted; nothing where there is no such folder."""

    def write(self, path: str, data: bytes) -> None: ...

    def put_content(self, path: str, content: Content) -> None:
        """Serve ``content`` as this file for as long as the process lives."""

    def remove(self, path: str) -> bool:
        """Take a file away. False if there was none."""

    def remove_folder(self, path: str) -> None:
        """Take a folder away with all that is in it, if it is there."""

    def new_upload(self) -> TreeUpload: ...

    def close(self) -> None:
        """Forget unfinished uploads; let go of files and locks."""


class _MemoryUpload:
    def __init__(self, tree: MemoryTree) -> None:
        self._tree = tree
        self._data = bytearray()

    def append(self, data: memoryview) -> None:
        self._data += data

    def digest(self, algorithm: str) -> str:
        return digest_content(BytesContent(bytes(self._data)), algorithm)

    def move(self, path: str) -> None:
        data, self._data = bytes(self._data), bytearray()
        self._tree.put_content(path, BytesContent(data))

    def discard(self) -> None:
        self._data = bytearray()


class MemoryTree:
    """Everything in one table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, Content] = {}

    def read(self, path: str) -> bytes | None:
        content = self.content(path)
        return None if content is None else read_all(content)

    def content(self, path: str) -> Content | None:
        with self._lock:
            return self._files.get(path)

    def names(self, path: str) -> list[str]:
        with self._lock:
            return sorted(_inside(path, self._files))

    def write(self, path: str, data: bytes) -> None:
        self.put_content(path, BytesContent(data))

    def put_content(self, path: str, content: Content) -> None:
        with self._lock:
            self._files[path] = content

    def remove(self, path: str) -> bool:
        with self._lock:
            return self._files.pop(path, None) is not None

    def remove_folder(self, path: str) -> None:
        start = f"{path}/"
        with self._lock:
            for one in [one for one in self._files if one.startswith(start)]:
                del self._files[one]

    def new_upload(self) -> TreeUpload:
        return _MemoryUpload(self)

    def close(self) -> None:
        """Nothing to let go of: what is in memory goes with the object."""


class _DirectoryUpload:
    def __init__(self, tree: DirectoryTree, path: Path) -> None:
        self._tree = tree
        self._path = path
        self._file = path.open("wb", buffering=0)

    def append(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]

    def digest(self, algorithm: str) -> str:
        return digest_content(FileContent(self._path), algorithm)

    def move(self, path: str) -> None:
        self._file.close()
        self._tree.adopt(self._path, path)

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class DirectoryTree:
    """Files under ``root``, which is made if it is missing.

    ``uploads`` in it holds unfinished files, cleared at the start; ``lock`` is held while the
    process has the directory. Files are written beside their place and renamed. They are not
    synced: what a test registry holds may be lost with the machine. With ``read_only`` nothing in
    the directory is touched, not even locked, and every change is a PermissionError.

    Raises OSError if the directory cannot be used, BlockingIOError if another process has it.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._made_up: dict[str, Content] = {}
        self._read_only = read_only
        self._lock_file: BinaryIO | None = None
        if read_only:
            # To be told now, not by every request.
            next(root.iterdir(), None)
            return
        root.mkdir(parents=True, exist_ok=True)
        self._lock_file = (root / "lock").open("wb")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise BlockingIOError(f"{root} is in use by another registry") from None
        shutil.rmtree(root / "uploads", ignore_errors=True)
        (root / "uploads").mkdir(exist_ok=True)

    def read(self, path: str) -> bytes | None:
        made_up = self._made(path)
        if made_up is not None:
            return read_all(made_up)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / path).read_bytes()
        return None

    def content(self, path: str) -> Content | None:
        made_up = self._made(path)
        if made_up is not None:
            return made_up
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return FileContent(self.root / path)
        return None

    def names(self, path: str) -> list[str]:
        with self._lock:
            found = _inside(path, self._made_up)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found |= {one.name for one in (self.root / path).iterdir()}
        return sorted(found)

    def write(self, path: str, data: bytes) -> None:
        fresh = self._fresh()
        with _removed_unless_moved(fresh):
            fresh.write_bytes(data)
            self.adopt(fresh, path)

    def adopt(self, file: Path, path: str) -> None:
        """Make a finished file the one at ``path``."""
        self._check_writable()
        place = self.root / path
        with self._lock:
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
            self._made_up.pop(path, None)

    def put_content(self, path: str, content: Content) -> None:
        self._check_writable()
        with self._lock:
            self._made_up[path] = content

    def remove(self, path: str) -> bool:
        self._check_writable()
        with self._lock:
            made_up = self._made_up.pop(path, None) is not None
            try:
                (self.root / path).unlink()
            except (FileNotFoundError, NotADirectoryError):
                return made_up
            return True

    def remove_folder(self, path: str) -> None:
        self._check_writable()
        start = f"{path}/"
        with self._lock:
            for one in [one for one in self._made_up if one.startswith(start)]:
                del self._made_up[one]
            shutil.rmtree(self.root / path, ignore_errors=True)

    def new_upload(self) -> TreeUpload:
        return _DirectoryUpload(self, self._fresh())

    def close(self) -> None:
        if self._lock_file is not None:
            shutil.rmtree(self.root / "uploads", ignore_errors=True)
            self._lock_file.close()

    def _made(self, path: str) -> Content | None:
        with self._lock:
            return self._made_up.get(path)

    def _check_writable(self) -> None:
        if self._read_only:
            raise PermissionError(f"{self.root} is only read")

    def _fresh(self) -> Path:
        self._check_writable()
        return self.root / "uploads" / str(next(self._numbers))


def _inside(folder: str, paths: Iterable[str]) -> set[str]:
    """The names directly in a folder, of the files that have these paths."""
    start = f"{folder}/"
    return {one[len(start) :].partition("/")[0] for one in paths if one.startswith(start)}


@contextlib.contextmanager
def _removed_unless_moved(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
