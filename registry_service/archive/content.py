"""An archive as images and content: what both kinds of archives give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import ArchiveError, DigestMismatchError, DoesNotExistError
from ..manifest import MANIFEST_LIMIT
from ..reference import Reference
from ..referrers import Companion
from ..store import BlobStream, Source
from .file import ArchiveFile
from .tar import Member

__all__ = ["Archive", "ArchivedImage", "read_document"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedImage:
    """An image of an archive. ``names`` are complete references; ``labels`` what else it is
    called, such as a tag without a repository."""

    descriptor: Descriptor
    names: tuple[Reference, ...] = ()
    labels: tuple[str, ...] = ()

    def is_called(self, text: str) -> bool:
        """Whether ``text`` is one of its names, as people write them, or one of its labels."""
        return text in self.labels or any(text == str(name) for name in self.names)


class Archive:
    """An open archive: `Content` by digest, and a `Source` for the store. Thread-safe.

    ``made`` are documents that the archive does not have as files, such as the manifests that
    a docker-archive leaves to its readers; ``places`` says where a digest's content lies;
    ``unpacked`` is a second file, which is closed with this one, and what lies there;
    ``companions`` are what belongs to one of its manifests, and no image of its own.
    """

    def __init__(
        self,
        file: ArchiveFile,
        images: Sequence[ArchivedImage],
        places: Mapping[Digest, Member],
        made: Mapping[Digest, bytes] | None = None,
        companions: Sequence[Companion] = (),
        unpacked: tuple[ArchiveFile, Mapping[Digest, Member]] | None = None,
    ) -> None:
        self.images = tuple(images)
        self._file = file
        self._places = {digest: (file, member) for digest, member in places.items()}
        self._unpacked = None
        if unpacked is not None:
            self._unpacked, found = unpacked
            for digest, member in found.items():
                self._places.setdefault(digest, (self._unpacked, member))
        self._made = made or {}
        self._companions = tuple(companions)

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
    def path(self) -> Path:
        return self._file.path

    def close(self) -> None:
        self._file.close()
        if self._unpacked is not None:
            self._unpacked.close()

    def companions(self) -> Sequence[Companion]:
        return self._companions

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the content is here; with ``size``, and has that many bytes."""
        made, place = self._made.get(digest), self._places.get(digest)
        found = len(made) if made is not None else None if place is None else place[1].size
        return found is not None and size in (None, found)

    def read(self, digest: Digest, limit: int = MANIFEST_LIMIT) -> bytes:
        """A manifest or a configuration, verified.

        Raises `DoesNotExistError`, `DigestMismatchError`, and `ArchiveError` for more than
        ``limit`` bytes.
        """
        made = self._made.get(digest)
        if made is not None:
            return made
        content = read_document(*self._place(digest), limit)
        actual = Digest.of(content, digest.algorithm)
        if actual != digest:
            raise _mismatch(self.path, digest, str(actual), len(content))
        return content

    def open(self, digest: Digest) -> VerifiedStream:
        """The content from its start. Reading the last of it raises `DigestMismatchError`
        where it is not what the digest says."""
        return VerifiedStream(*self._place(digest), digest)

    def stream(self, descriptor: Descriptor, offset: int, cancel: Cancellation) -> BlobStream:
        return _Stream(*self._place(descriptor.digest), offset, cancel)

    def _place(self, digest: Digest) -> tuple[ArchiveFile, Member]:
        place = self._places.get(digest)
        if place is None:
            raise DoesNotExistError(f"blob {digest} in {self.path.name}")
        return place


class ArchiveSource(Source):
    """An archive as the store's source. What was read wrong once is wrong: nothing is retried."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        cancel.check()
        return self._archive.stream(descriptor, offset, cancel)


def read_document(file: ArchiveFile, member: Member, limit: int) -> bytes:
    """All of a member, in memory. Raises `ArchiveError` for more than ``limit`` bytes."""
    if member.size > limit:
        raise ArchiveError(
            f"{file.path}: {member.name} has {member.size} bytes; {limit} are allowed"
        )
    return file.read(member.offset, member.size)


class _Stream:
    """The bytes of a member from ``offset`` on; the archive stays open for as long."""

    def __init__(
        self, file: ArchiveFile, member: Member, offset: int, cancel: Cancellation
    ) -> None:
        file.hold()
        self._file = file
        self._cancel = cancel
        self._closed = False
        self.offset = min(offset, member.size)
        self.length: int | None = member.size - self.offset
        self._at = member.offset + self.offset
        self._left = self.length

    def readinto(self, buffer: memoryview, /) -> int:
        self._cancel.check()
        if not self._left:
            return 0
        count = self._file.readinto(buffer[: self._left], self._at)
        self._at += count
        self._left -= count
        return count

    def close(self) -> None:
        closed, self._closed = self._closed, True
        if not closed:
            self._file.release()


class VerifiedStream(_Stream):
    """A member from its start, hashed while it is read. Who seeks gets bytes that are not
    verified here: of an upload that goes on, the registry verifies the whole."""

    def __init__(self, file: ArchiveFile, member: Member, digest: Digest) -> None:
        self._digest = digest
        self._hasher = digest.hasher()
        self._size = member.size
        self._whole = True
        super().__init__(file, member, 0, Cancellation())

    def seek(self, offset: int, /) -> int:
        self.offset = min(offset, self._size)
        self._at += self.offset - (self._size - self._left)
        self._left = self._size - self.offset
        self._whole = not offset
        self._hasher = self._digest.hasher()
        return self.offset

    def readinto(self, buffer: memoryview, /) -> int:
        count = super().readinto(buffer)
        if not self._whole:
            return count
        self._hasher.update(buffer[:count])
        if not self._left and not self._digest.matches(self._hasher):
            actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
            raise _mismatch(self._file.path, self._digest, actual, self._size)
        return count


def _mismatch(path: Path, digest: Digest, actual: str, size: int) -> DigestMismatchError:
    error = DigestMismatchError(
        f"{path}: the {size} bytes of {digest} have the digest {actual}; the archive is damaged",
        expected=str(digest),
        actual=actual,
        size=size,
    )
    error.retryable = False
    return error
