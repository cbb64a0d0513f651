"""A registry's content in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

from .content import BytesContent, Content
from .storage import StoredManifest, UploadFile

__all__ = ["MemoryStorage"]


class _Repository:
    def __init__(self) -> None:
        self.blobs: dict[str, Content] = {}
        self.manifests: dict[str, StoredManifest] = {}
        self.tags: dict[str, str] = {}


class _MemoryUpload:
    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._data = bytearray()

    def append(self, data: memoryview) -> None:
        self._data += data

    def digest(self, algorithm: str) -> str:
        return f"{algorithm}:{hashlib.new(algorithm, self._data).hexdigest()}"

    def commit(self, repository: str, digest: str) -> None:
        data, self._data = bytes(self._data), bytearray()
        self._storage.put_content(repository, digest, BytesContent(data))

    def discard(self) -> None:
        self._data = bytearray()


class MemoryStorage:
    """Everything in tables; one lock guards them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._repositories: dict[str, _Repository] = {}

    def repositories(self) -> list[str]:
        with self._lock:
            return sorted(self._repositories)

    def has_repository(self, repository: str) -> bool:
        with self._lock:
            return repository in self._repositories

    def blob(self, repository: str, digest: str) -> Content | None:
        with self._lock:
            return self._seen(repository).blobs.get(digest)

    def put_content(self, repository: str, digest: str, content: Content) -> None:
        with self._lock:
            self._made(repository).blobs[digest] = content

    def link_blob(self, source: str, repository: str, digest: str) -> bool:
        with self._lock:
            content = self._seen(source).blobs.get(digest)
            if content is None:
                return False
            self._made(repository).blobs[digest] = content
            return True

    def delete_blob(self, repository: str, digest: str) -> bool:
        with self._lock:
            return self._seen(repository).blobs.pop(digest, None) is not None

    def manifest(self, repository: str, digest: str) -> StoredManifest | None:
        with self._lock:
            return self._seen(repository).manifests.get(digest)

    def manifests(self, repository: str) -> Sequence[StoredManifest]:
        with self._lock:
            return [value for _, value in sorted(self._seen(repository).manifests.items())]

    def put_manifest(self, repository: str, manifest: StoredManifest) -> None:
        with self._lock:
            self._made(repository).manifests[manifest.digest] = manifest

    def delete_manifest(self, repository: str, digest: str) -> bool:
        with self._lock:
            content = self._seen(repository)
            content.tags = {tag: to for tag, to in content.tags.items() if to != digest}
            return content.manifests.pop(digest, None) is not None

    def tags(self, repository: str) -> list[str]:
        with self._lock:
            return sorted(self._seen(repository).tags)

    def tag(self, repository: str, tag: str) -> str | None:
        with self._lock:
            return self._seen(repository).tags.get(tag)

    def put_tag(self, repository: str, tag: str, digest: str) -> None:
        with self._lock:
            self._made(repository).tags[tag] = digest

    def delete_tag(self, repository: str, tag: str) -> bool:
        with self._lock:
            return self._seen(repository).tags.pop(tag, None) is not None

    def new_upload(self) -> UploadFile:
        return _MemoryUpload(self)

    def close(self) -> None:
        """Nothing to let go of: what is in memory goes with the object."""

    def _seen(self, repository: str) -> _Repository:
        return self._repositories.get(repository) or _Repository()

    def _made(self, repository: str) -> _Repository:
        return self._repositories.setdefault(repository, _Repository())
