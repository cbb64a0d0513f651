"""A registry's content in a directory, which one process at a time has.

    blobs/ALGORITHM/XX/HEX                           content, of blobs and of manifests
    repositories/NAME/_blobs/ALGORITHM/HEX           an empty file: the repository has the blob
    repositories/NAME/_manifests/ALGORITHM/HEX       the manifest's media type
    repositories/NAME/_tags/TAG                      the digest that the tag stands for
    uploads/N                                        unfinished uploads; cleared at the start
    lock                                             held while the process has the directory

Deleting takes the file in the repository away; the content stays, others may have it.
No component of a repository's name begins with an underscore, so the names cannot meet.
How files are written and removed: see `tree.DirectoryTree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .content import Content
from .storage import StoredManifest, UploadFile
from .tree import DirectoryTree

__all__ = ["DirectoryStorage"]


class _DirectoryUpload:
    def __init__(self, storage: DirectoryStorage, tree: DirectoryTree) -> None:
        self._storage = storage
        self._upload = tree.new_upload()

    def append(self, data: memoryview) -> None:
        self._upload.append(data)

    def digest(self, algorithm: str) -> str:
        return self._upload.digest(algorithm)

    def commit(self, repository: str, digest: str) -> None:
        self._upload.move(_blob(digest))
        self._storage.add_blob(repository, digest)

    def discard(self) -> None:
        self._upload.discard()


class DirectoryStorage:
    """Content under ``root``, which is made if it is missing.

    Raises OSError if the directory cannot be used, BlockingIOError if another process has it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tree = DirectoryTree(root)
        for name in ("blobs", "repositories"):
            (root / name).mkdir(exist_ok=True)

    def repositories(self) -> list[str]:
        base = self.root / "repositories"
        marks = ("_blobs", "_manifests", "_tags")
        found = {mark.parent for name in marks for mark in base.rglob(name) if mark.is_dir()}
        return sorted(path.relative_to(base).as_posix() for path in found)

    def has_repository(self, repository: str) -> bool:
        base = self.root / "repositories" / repository
        return any((base / name).is_dir() for name in ("_blobs", "_manifests", "_tags"))

    def blob(self, repository: str, digest: str) -> Content | None:
        if self._tree.read(_link(repository, "_blobs", digest)) is None:
            return None
        return self._tree.content(_blob(digest))

    def put_content(self, repository: str, digest: str, content: Content) -> None:
        self._tree.put_content(_blob(digest), content)
        self.add_blob(repository, digest)

    def add_blob(self, repository: str, digest: str) -> None:
        """Note that a repository has a blob, which is there."""
        self._tree.write(_link(repository, "_blobs", digest), b"")

    def link_blob(self, source: str, repository: str, digest: str) -> bool:
        if self.blob(source, digest) is None:
            return False
        self.add_blob(repository, digest)
        return True

    def delete_blob(self, repository: str, digest: str) -> bool:
        return self._tree.remove(_link(repository, "_blobs", digest))

    def manifest(self, repository: str, digest: str) -> StoredManifest | None:
        media_type = self._tree.read(_link(repository, "_manifests", digest))
        raw = self._tree.read(_blob(digest))
        if media_type is None or raw is None:
            return None
        return StoredManifest(raw=raw, media_type=media_type.decode("utf-8"), digest=digest)

    def manifests(self, repository: str) -> Sequence[StoredManifest]:
        base = f"repositories/{repository}/_manifests"
        digests = [
            f"{algorithm}:{value}"
            for algorithm in self._tree.names(base)
            for value in self._tree.names(f"{base}/{algorithm}")
        ]
        found = (self.manifest(repository, digest) for digest in digests)
        return [manifest for manifest in found if manifest is not None]

    def put_manifest(self, repository: str, manifest: StoredManifest) -> None:
        self._tree.write(_blob(manifest.digest), manifest.raw)
        link = _link(repository, "_manifests", manifest.digest)
        self._tree.write(link, manifest.media_type.encode("utf-8"))

    def delete_manifest(self, repository: str, digest: str) -> bool:
        for tag in self.tags(repository):
            if self.tag(repository, tag) == digest:
                self.delete_tag(repository, tag)
        return self._tree.remove(_link(repository, "_manifests", digest))

    def tags(self, repository: str) -> list[str]:
        return self._tree.names(f"repositories/{repository}/_tags")

    def tag(self, repository: str, tag: str) -> str | None:
        found = self._tree.read(_tag(repository, tag))
        return None if found is None else found.decode("ascii")

    def put_tag(self, repository: str, tag: str, digest: str) -> None:
        self._tree.write(_tag(repository, tag), digest.encode("ascii"))

    def delete_tag(self, repository: str, tag: str) -> bool:
        return self._tree.remove(_tag(repository, tag))

    def new_upload(self) -> UploadFile:
        return _DirectoryUpload(self, self._tree)

    def close(self) -> None:
        self._tree.close()


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value[:2]}/{value}"


def _link(repository: str, kind: str, digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"repositories/{repository}/{kind}/{algorithm}/{value}"


def _tag(repository: str, tag: str) -> str:
    return f"repositories/{repository}/_tags/{tag}"
