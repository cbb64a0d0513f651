"""Whether a registry has something already, so that it need not be sent."""

from __future__ import annotations

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import ProtocolError, RegistryHTTPError
from ..session.v2 import V2Client

__all__ = ["has_blob", "has_manifest"]


def has_blob(client: V2Client, repository: str, descriptor: Descriptor) -> bool:
    """Whether the blob is there, whole: of one that was cut off over there, or of another page
    that a proxy shows, the size is another one."""
    try:
        return client.blob_size(repository, descriptor.digest) == descriptor.size
    except RegistryHTTPError as error:
        return _absent(error)
    except ProtocolError:  # it does not say the size
        return False


def has_manifest(client: V2Client, repository: str, locator: str, digest: Digest) -> bool:
    """Whether the tag or digest ``locator`` stands for the manifest ``digest`` there."""
    try:
        head = client.head_manifest(repository, locator)
    except RegistryHTTPError as error:
        return _absent(error)
    return head is not None and head.digest == digest


def _absent(error: RegistryHTTPError) -> bool:
    """False where the error is how some servers (Artifactory) say that there is no such thing.
    Who may really do nothing here is told so when he sends it."""
    if error.http_status != 403:
        raise error
    return False
