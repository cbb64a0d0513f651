"""What a registry has: its repositories, and what belongs to an image there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DoesNotExistError, RegistryError, RegistryHTTPError
from ..reference import Reference
from ..session.v2 import V2Client

__all__ = ["catalog", "referrers"]


def catalog(client: V2Client, *, limit: int | None = None) -> Iterator[str]:
    """The repositories of a registry, in its order, at most ``limit`` of them.

    Raises an error with the code ``no-catalog`` where the registry does not list them.
    """
    try:
        yield from itertools.islice(client.catalog(), limit)
    except RegistryHTTPError as error:
        if error.http_status in (404, 405, 501) or error.has("UNSUPPORTED"):
            raise RegistryError(
                f"{client.endpoint.host} does not list its repositories: {error}",
                code="no-catalog",
            ) from error
        raise


def referrers(
    reference: Reference, *, client: V2Client, artifact_type: str = ""
) -> Iterator[tuple[Digest, Descriptor]]:
    """What belongs to an image of a registry, of one kind or of all: the image's digest and
    the referrer. A digest may have referrers without being there itself."""
    subject = reference.digest
    if subject is None:
        head = client.head_manifest(reference.repository, reference.locator)
        if head is None:
            raise DoesNotExistError(f"manifest {reference}")
        subject = head.digest
    for descriptor in client.referrers(reference.repository, subject, artifact_type):
        yield subject, descriptor
