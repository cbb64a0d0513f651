"""Where a registry's content lies: the interface that the server sees.

There are two: `memory.MemoryStorage` and `directory.DirectoryStorage`. Both are thread-safe:
each has one lock, held for look-ups and changes of its tables, never while content is read or
written. Names and digests have been checked by the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from .content import Content

__all__ = ["Storage", "StoredManifest", "UploadFile"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest as it was put, byte for byte."""

    raw: bytes
    media_type: str
    digest: str


class UploadFile(Protocol):
    """The bytes of an upload. Used by one thread at a time, which the caller sees to."""

    def append(self, data: memoryview) -> None: ...

    def digest(self, algorithm: str) -> str:
        """The digest of all that was appended, read again a chunk at a time."""

    def commit(self, repository: str, digest: str) -> None:
        """Make the bytes the blob ``digest`` of a repository. Ends the upload."""

    def discard(self) -> None:
        """Forget the bytes. Does nothing after a commit."""


class Storage(Protocol):
    """Repositories with their blobs, manifests and tags."""

    def repositories(self) -> list[str]:
        """All names, sorted."""

    def has_repository(self, repository: str) -> bool: ...

    def blob(self, repository: str, digest: str) -> Content | None: ...

    def put_content(self, repository: str, digest: str, content: Content) -> None:
        """Serve ``content`` as this blob for as long as the process lives."""

    def link_blob(self, source: str, repository: str, digest: str) -> bool:
        """Give a repository the blob that another one has. False if that has none."""

    def delete_blob(self, repository: str, digest: str) -> bool:
        """Take a blob from a repository. False if it had none."""

    def manifest(self, repository: str, digest: str) -> StoredManifest | None: ...

    def manifests(self, repository: str) -> Sequence[StoredManifest]:
        """All manifests, sorted by digest."""

    def put_manifest(self, repository: str, manifest: StoredManifest) -> None: ...

    def delete_manifest(self, repository: str, digest: str) -> bool:
        """Remove a manifest and all tags on it. False if there was none."""

    def tags(self, repository: str) -> list[str]:
        """All tags, sorted."""

    def tag(self, repository: str, tag: str) -> str | None:
        """The digest that a tag stands for."""

    def put_tag(self, repository: str, tag: str, digest: str) -> None: ...

    def delete_tag(self, repository: str, tag: str) -> bool: ...

    def new_upload(self) -> UploadFile: ...

    def close(self) -> None:
        """Forget unfinished uploads; let go of files and locks."""
