"""A repository of a registry as a source for the store."""

from __future__ import annotations

import dataclasses

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import RegistryHTTPError
from .blob import RemoteBlob
from .reader import ImageReader

__all__ = ["RegistrySource"]


@dataclasses.dataclass(frozen=True, slots=True)
class RegistrySource:
    """Opens the blobs of ``repository`` with what ``client`` may see. Thread-safe."""

    client: ImageReader
    repository: str

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> RemoteBlob:
        """The blob from ``offset`` on, or from 0 where the registry gives no part of it.

        What the registry does not have comes from the URLs that the descriptor names. Where it
        asks for a pause it is not waited for: the store does that, without a thread."""
        try:
            return self.client.open_blob(
                self.repository, descriptor.digest, offset, hasty=True, cancel=cancel
            )
        except RegistryHTTPError as error:
            # Some registries answer 403 for what they do not have.
            if not descriptor.urls or error.http_status not in (403, 404):
                raise
        return self.client.open_elsewhere(descriptor, offset, cancel=cancel)

    def ready(self, descriptor: Descriptor, /) -> float:
        """Seconds after which it is worth while to open it, 0 for now."""
        return self.client.ready(self.repository, descriptor.digest)

    def elsewhere(self, descriptor: Descriptor, error: Exception, /) -> bool:
        """Whether the next `open` asks another place, ``error`` being what came of this one."""
        return self.client.elsewhere(self.repository, descriptor.digest, error)
