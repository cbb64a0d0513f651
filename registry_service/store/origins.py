"""Where content comes from: which repositories have shown that they have it.

The store is shared, and a digest is no secret. A registry or a repository that somebody set up for
it could name another one's private blob in a manifest; that the store has the blob must not
be enough to hand it out. So the store keeps, for each registry, which of its repositories have
a blob, and a pull from a repository that is not among them has to see proof first:

- Another repository *of the same registry* has the blob: the registry is asked whether this one
  has it, with the credentials of who pulls (`Claim.probe`). An honest registry says so only to
  who may have it; and one that lies gives away what it has itself.
- Only *other registries* are known to have it: this one has to send the bytes, as if the store had
  nothing. To say 'yes' would cost a hostile registry nothing.

::

    ingest/origins/HOST      a line a fact: DIGEST REPOSITORY .

Lines are only appended, each append in one write that begins a line, by any process. What is torn
by a crash is no whole line, lacks its dot, and says nothing. Nothing is synced: to lose a fact
costs a proof. The sweep writes the files anew, without the content that is gone; what is appended
to the old file at that moment is lost in the same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, TypeAlias
from urllib.parse import quote

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidDigestError
from .disk import FILE_MODE, disk_error, make_directory, replace_file

__all__ = ["Claim", "Origins", "Probe", "Unrecorded"]

#: Whether the repository has what the descriptor names, for who asks; raises as a source does.
Probe: TypeAlias = Callable[[Descriptor, Cancellation], bool]

_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class _Host:
    """What is known of one registry: its file, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, set[str]] = {}
        self._file = (0, 0)
        self._read = 0

    def refresh(self) -> None:
        """Read what was appended since, by whomever."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - once for each blob of a pull
        except FileNotFoundError:
            self._forget((0, 0))
            return
        except OSError as error:
            raise disk_error(error, self.path, "examine") from error
        if self._file != (found.st_dev, found.st_ino) or found.st_size < self._read:
            self._forget((found.st_dev, found.st_ino))
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
                case [digest, repository, "."]:
                    self.known.setdefault(digest, set()).add(repository)

    def append(self, digest: Digest, repository: str) -> None:
        """Add a fact to the file, and to what is known where nobody else has added one since."""
        line = f"\n{digest} {repository} .\n".encode()
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
            self.known.setdefault(str(digest), set()).add(repository)

    def _forget(self, file: tuple[int, int]) -> None:
        self.known = {}
        self._file = file
        self._read = 0


class Origins:
    """The record. Thread-safe; one lock guards what was read, and is held while a file is.

    ``lasting``: whether a host is the same one tomorrow, so that it may go on with the partial
    file that it began.
    """

    lasting: ClassVar[bool] = True

    def __init__(self, ingest: Path) -> None:
        self._directory = ingest / "origins"
        self._ingest = ingest
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def has(self, host: str, repository: str, digest: Digest) -> bool:
        """Whether that repository is known to have it."""
        return repository in self._of(host, digest)

    def host_has(self, host: str, digest: Digest) -> bool:
        """Whether any repository of that registry is."""
        return bool(self._of(host, digest))

    def record(self, host: str, repository: str, digest: Digest) -> None:
        """Keep that the repository has it. The registry of ``host`` must have had the bytes:
        it sent them, or took them."""
        if repository not in self._of(host, digest):
            with self._lock:
                self._hosts[host].append(digest, repository)

    def tidy(self, here: Callable[[Digest], bool]) -> None:
        """Forget what is known of content that is not ``here``."""

        def stays(text: str) -> bool:
            with contextlib.suppress(InvalidDigestError):
                return here(Digest.parse(text))
            return False

        with contextlib.suppress(FileNotFoundError):
            for path in list(self._directory.iterdir()):
                host = _Host(path)
                host.refresh()
                kept = [
                    (text, name)
                    for text, names in host.known.items()
                    for name in sorted(names)
                    if stays(text)
                ]
                if len(kept) < sum(map(len, host.known.values())):
                    lines = "".join(f"{text} {name} .\n" for text, name in kept)
                    replace_file(path, lines.encode(), self._ingest)

    def _of(self, host: str, digest: Digest) -> set[str]:
        with self._lock:
            found = self._hosts.get(host)
            if found is None:
                path = self._directory / quote(host, safe=":[]")
                found = self._hosts[host] = _Host(path)
            found.refresh()
            return found.known.get(str(digest), set())


class Unrecorded(Origins):
    """The record of what no registry vouches for, such as a file: it begins with nothing, and
    nothing of it is kept. What the store has is compared with what is brought."""

    lasting = False

    def __init__(self) -> None:
        self._shown: set[Digest] = set()

    def has(self, host: str, repository: str, digest: Digest) -> bool:
        return digest in self._shown

    def host_has(self, host: str, digest: Digest) -> bool:
        return digest in self._shown

    def record(self, host: str, repository: str, digest: Digest) -> None:
        self._shown.add(digest)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """In whose name content is asked of the store: a repository of a registry. ``probe`` asks
    the registry."""

    origins: Origins
    host: str
    repository: str
    probe: Probe

    def holds(self, digest: Digest) -> bool:
        """Whether the repository is known to have it."""
        return self.origins.has(self.host, self.repository, digest)

    def near(self, digest: Digest) -> bool:
        """Whether its registry is, so that the registry's word is enough."""
        return self.origins.host_has(self.host, digest)

    def record(self, digest: Digest) -> None:
        """Keep that the repository has it, by the bytes that its registry sent or took."""
        self.origins.record(self.host, self.repository, digest)

    def confirm(self, digest: Digest) -> None:
        """Keep that the repository has it, by its registry's word, where that is enough."""
        if self.near(digest):
            self.record(digest)
