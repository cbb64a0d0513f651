"""Files of facts: a line a fact, that every process may add to.

Lines are only appended, each append in one write that begins a line, by any process. What is torn
by a crash is no whole line, lacks its dot, and says nothing. Nothing is synced: to lose a fact
costs a proof, or a look. The sweep writes the files anew, without what is of no use any more; what
is appended to the old file at that moment is lost in the same way.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from .disk import FILE_MODE, disk_error, make_directory, replace_file

__all__ = ["FactFile", "file_of"]

_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def file_of(directory: Path, host: str) -> Path:
    """The file of a registry in ``directory``."""
    return directory / quote(host, safe=":[]")


class FactFile(abc.ABC):
    """One such file, as far as it was read. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = (0, 0)
        self._read = 0

    @abc.abstractmethod
    def _take(self, words: Sequence[str]) -> None:
        """Know the fact of these words; what is none is passed over."""

    @abc.abstractmethod
    def _forget(self) -> None:
        """Know nothing any more."""

    def refresh(self) -> None:
        """Read what was appended since, by whomever. Raises `StoreError`."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - once for each blob of a pull
        except FileNotFoundError:
            self._begin((0, 0))
            return
        except OSError as error:
            raise disk_error(error, self.path, "examine") from error
        if self._file != (found.st_dev, found.st_ino) or found.st_size < self._read:
            self._begin((found.st_dev, found.st_ino))
        if found.st_size == self._read:
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except OSError as error:
            raise disk_error(error, self.path, "read") from error
        end = text.rfind(b"\n") + 1
        self._read += end
        for line in text[:end].decode("utf-8", "replace").split("\n"):
            match line.split(" "):
                case [*words, "."]:
                    self._take(words)

    def append(self, *words: str) -> None:
        """Add a fact to the file, and to what is known where nobody else has added one since.
        Raises `StoreError`."""
        line = f"\n{' '.join(words)} .\n".encode()
        try:
            try:
                fd = os.open(self.path, _APPEND, FILE_MODE)
            except FileNotFoundError:
                make_directory(self.path.parent)
                fd = os.open(self.path, _APPEND, FILE_MODE)
            try:
                os.write(fd, line)
                end = os.lseek(fd, 0, os.SEEK_CUR)
                found = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise disk_error(error, self.path, "write") from error
        if self._file == (found.st_dev, found.st_ino) and end == self._read + len(line):
            self._read = end
            self._take(words)

    def rewrite(self, facts: Iterable[Sequence[str]], beside: Path) -> None:
        """Let these be all. Raises `StoreError`."""
        lines = "".join(f"{' '.join(words)} .\n" for words in facts)
        replace_file(self.path, lines.encode(), beside)

    def _begin(self, file: tuple[int, int]) -> None:
        self._forget()
        self._file = file
        self._read = 0
