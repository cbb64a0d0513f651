"""A repository of a registry as a source for the store."""

from __future__ import annotations

import dataclasses

from ..cancel import Cancellation
from ..descriptor import Descriptor
from .blob import RemoteBlob
from .v2 import V2Client

__all__ = ["RegistrySource"]


@dataclasses.dataclass(frozen=True, slots=True)
class RegistrySource:
    """Opens the blobs of ``repository`` with what ``client`` may see. Thread-safe."""

    client: V2Client
    repository: str

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> RemoteBlob:
        """The blob from ``offset`` on, or from 0 where the registry gives no part of it."""
        return self.client.open_blob(self.repository, descriptor.digest, offset, cancel=cancel)
