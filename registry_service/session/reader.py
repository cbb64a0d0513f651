"""What is asked of wherever an image is: one registry, or mirrors before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..manifest import Manifest
from .blob import RemoteBlob

__all__ = ["ImageReader"]


class ImageReader(Protocol):
    """`V2Client` is one, `Mirrored` the other. Repositories have the origin's names; the
    methods raise what those of `V2Client` do. Thread-safe."""

    def get_manifest(self, repository: str, reference: str | Digest, /) -> Manifest: ...

    def get_document(self, repository: str, descriptor: Descriptor, /) -> bytes: ...

    def read_blob(self, repository: str, descriptor: Descriptor, /, *, limit: int) -> bytes: ...

    def head_manifest(self, repository: str, reference: str | Digest, /) -> Descriptor | None: ...

    def blob_size(self, repository: str, digest: Digest, /) -> int | None: ...

    def open_blob(
        self,
        repository: str,
        digest: Digest,
        offset: int = 0,
        *,
        hasty: bool = False,
        cancel: Cancellation | None = None,
    ) -> RemoteBlob: ...

    def open_elsewhere(
        self, descriptor: Descriptor, offset: int, *, cancel: Cancellation | None = None
    ) -> RemoteBlob: ...

    def ready(self, repository: str, digest: Digest, /) -> float:
        """Seconds after which it is worth while to open the blob, 0 for now: `open_blob` would
        wait for that long, or longer."""

    def elsewhere(self, repository: str, digest: Digest, error: Exception, /) -> bool:
        """The blob could not be had from where `open_blob` found it last, or not rightly.
        Whether the next `open_blob` asks another place, so that it is no failure yet."""

    def tags(self, repository: str, /) -> Iterator[str]: ...

    def referrers(
        self, repository: str, subject: Digest, artifact_type: str = "", /
    ) -> Iterator[Descriptor]: ...
