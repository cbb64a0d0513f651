"""What a registry has: its repositories, and what belongs to an image there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DoesNotExistError, RegistryError, RegistryHTTPError
from ..observe import Observer
from ..reference import Reference
from .cells import too_heavy
from .versions import Client, Reader, needs_v2

__all__ = ["catalog", "referrers"]


def catalog(client: Client, *, limit: int | None = None) -> Iterator[str]:
    """The repositories of a registry, in its order, at most ``limit`` of them.

    Raises an error with the code ``no-catalog`` where the registry does not list them.
    """
    host = client.endpoint.host
    v2 = needs_v2(
        client,
        "which does not list its repositories",
        f"'search {host}/' shows those that its search has",
    )
    try:
        yield from itertools.islice(v2.catalog(), limit)
    except RegistryHTTPError as error:
        if error.http_status in (404, 405, 501) or error.has("UNSUPPORTED"):
            raise RegistryError(
                f"{host} does not list its repositories: {error}",
                code="no-catalog",
            ) from error
        raise


def referrers(
    reference: Reference, *, client: Reader, artifact_type: str = "", observer: Observer
) -> Iterator[tuple[Digest, Descriptor]]:
    """What belongs to an image of a registry, of one kind or of all: the image's digest and
    the referrer. A digest may have referrers without being there itself.

    What is too much for a row of them is left out, and ``observer`` is told why.
    """
    client = needs_v2(
        client, "where nothing belongs to an image", "copy it to a registry of V2 and ask there"
    )
    subject = reference.digest
    if subject is None:
        head = client.head_manifest(reference.repository, reference.locator)
        if head is None:
            raise DoesNotExistError(f"manifest {reference}")
        subject = head.digest
    for descriptor in client.referrers(reference.repository, subject, artifact_type):
        yield subject, _fitted(descriptor, observer)


def _fitted(descriptor: Descriptor, observer: Observer) -> Descriptor:
    empty: dict[str, Any] = {"artifact_type": "", "annotations": {}}
    left_out = too_heavy({name: getattr(descriptor, name) for name in empty})
    for name, why in left_out.items():
        text = f"{descriptor.digest}: 'referrers' cannot show '{name}': {why}"
        observer.log("warning", text)
    return dataclasses.replace(descriptor, **{name: empty[name] for name in left_out})
