"""A registry's content in a directory, which one process at a time has.

    blobs/ALGORITHM/XX/HEX                           content, of blobs and of manifests
    repositories/NAME/_blobs/ALGORITHM/HEX           an empty file: the repository has the blob
    repositories/NAME/_manifests/ALGORITHM/HEX       the manifest's media type
    repositories/NAME/_tags/TAG                      the digest that the tag stands for
    uploads/N                                        unfinished uploads; cleared at the start
    lock                                             held while the process has the directory

Deleting takes the file in the repository away; the content stays, others may have it.
No component of a repository's name begins with an underscore, so the names cannot meet.
Files are written beside their place and renamed, so a reader never sees half of one. They are
not synced: what a test registry holds may be lost with the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from .content import Content, FileContent, digest_content
from .storage import StoredManifest, UploadFile

__all__ = ["DirectoryStorage"]


class _DirectoryUpload:
    def __init__(self, storage: DirectoryStorage, path: Path) -> None:
        self._storage = storage
        self._path = path
        self._file = path.open("wb", buffering=0)

    def append(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]

    def digest(self, algorithm: str) -> str:
        return digest_content(FileContent(self._path), algorithm)

    def commit(self, repository: str, digest: str) -> None:
        self._file.close()
        self._storage.adopt(self._path, repository, digest)

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class DirectoryStorage:
    """Content under ``root``, which is made if it is missing.

    One lock guards the changes of the tree and the table of content that has no file. Raises
    OSError if the directory cannot be used, BlockingIOError if another process has it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._made_up: dict[str, Content] = {}
        self._lock_file = (root / "lock").open("wb")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise BlockingIOError(f"{root} is in use by another registry") from None
        shutil.rmtree(root / "uploads", ignore_errors=True)
        for name in ("uploads", "blobs", "repositories"):
            (root / name).mkdir(exist_ok=True)

    def repositories(self) -> list[str]:
        base = self.root / "repositories"
        marks = ("_blobs", "_manifests", "_tags")
        found = {mark.parent for name in marks for mark in base.rglob(name) if mark.is_dir()}
        return sorted(path.relative_to(base).as_posix() for path in found)

    def has_repository(self, repository: str) -> bool:
        base = self._repository(repository)
        return any((base / name).is_dir() for name in ("_blobs", "_manifests", "_tags"))

    def blob(self, repository: str, digest: str) -> Content | None:
        if not self._link(repository, "_blobs", digest).is_file():
            return None
        with self._lock:
            content = self._made_up.get(digest)
        if content is not None:
            return content
        with contextlib.suppress(FileNotFoundError):
            return FileContent(self._blob(digest))
        return None

    def put_content(self, repository: str, digest: str, content: Content) -> None:
        with self._lock:
            self._made_up[digest] = content
            self._write(self._link(repository, "_blobs", digest), b"")

    def adopt(self, path: Path, repository: str, digest: str) -> None:
        """Make a finished file the blob ``digest`` of a repository."""
        place = self._blob(digest)
        with self._lock:
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            self._write(self._link(repository, "_blobs", digest), b"")

    def link_blob(self, source: str, repository: str, digest: str) -> bool:
        if self.blob(source, digest) is None:
            return False
        with self._lock:
            self._write(self._link(repository, "_blobs", digest), b"")
        return True

    def delete_blob(self, repository: str, digest: str) -> bool:
        return self._unlink(self._link(repository, "_blobs", digest))

    def manifest(self, repository: str, digest: str) -> StoredManifest | None:
        try:
            media_type = self._link(repository, "_manifests", digest).read_text("utf-8")
            raw = self._blob(digest).read_bytes()
        except FileNotFoundError:
            return None
        return StoredManifest(raw=raw, media_type=media_type, digest=digest)

    def manifests(self, repository: str) -> Sequence[StoredManifest]:
        base = self._repository(repository) / "_manifests"
        digests = sorted(f"{path.parent.name}:{path.name}" for path in base.glob("*/*"))
        found = (self.manifest(repository, digest) for digest in digests)
        return [manifest for manifest in found if manifest is not None]

    def put_manifest(self, repository: str, manifest: StoredManifest) -> None:
        with self._lock:
            self._write(self._blob(manifest.digest), manifest.raw)
            link = self._link(repository, "_manifests", manifest.digest)
            self._write(link, manifest.media_type.encode("utf-8"))

    def delete_manifest(self, repository: str, digest: str) -> bool:
        for tag in self.tags(repository):
            if self.tag(repository, tag) == digest:
                self.delete_tag(repository, tag)
        return self._unlink(self._link(repository, "_manifests", digest))

    def tags(self, repository: str) -> list[str]:
        return sorted(path.name for path in (self._repository(repository) / "_tags").glob("*"))

    def tag(self, repository: str, tag: str) -> str | None:
        try:
            return (self._repository(repository) / "_tags" / tag).read_text("ascii")
        except FileNotFoundError:
            return None

    def put_tag(self, repository: str, tag: str, digest: str) -> None:
        with self._lock:
            self._write(self._repository(repository) / "_tags" / tag, digest.encode("ascii"))

    def delete_tag(self, repository: str, tag: str) -> bool:
        return self._unlink(self._repository(repository) / "_tags" / tag)

    def new_upload(self) -> UploadFile:
        return _DirectoryUpload(self, self._fresh())

    def close(self) -> None:
        shutil.rmtree(self.root / "uploads", ignore_errors=True)
        self._lock_file.close()

    def _fresh(self) -> Path:
        return self.root / "uploads" / str(next(self._numbers))

    def _repository(self, repository: str) -> Path:
        return self.root / "repositories" / repository

    def _blob(self, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        return self.root / "blobs" / algorithm / value[:2] / value

    def _link(self, repository: str, kind: str, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        return self._repository(repository) / kind / algorithm / value

    def _write(self, place: Path, data: bytes) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._fresh()
        with _removed_unless_moved(fresh):
            fresh.write_bytes(data)
            fresh.replace(place)

    @staticmethod
    def _unlink(path: Path) -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True


@contextlib.contextmanager
def _removed_unless_moved(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
