"""Delete on V1: a tag, at every registry that has the repository. Images stay; V1 cannot delete
them."""

from __future__ import annotations

from ...cancel import Cancellation
from ...errors import DoesNotExistError, LoginRequiredError, RegistryError
from ...observe import Observer
from ...reference import Reference
from ...session.v1.client import V1Client
from .source import V1Source, tag_of

__all__ = ["delete_tag"]


def delete_tag(
    reference: Reference, *, client: V1Client, cancel: Cancellation, observer: Observer
) -> str:
    """Delete the tag; returns the id of the image that it stood for. Raises `DoesNotExistError`, an
    error with the code ``needs-v2`` for a digest, and one with the code ``deletion-off`` where an
    index gives no token for that: those to delete with are for whole repositories."""
    tag = tag_of(reference)
    image_id = V1Source(client, reference, cancel=cancel, observer=observer).image_id(tag)
    grant = client.grant(reference.repository)
    missing = 0
    for registry in grant.endpoints:
        cancel.check()
        try:
            client.delete_tag(reference.repository, tag, registry, grant.tokens)
        except DoesNotExistError:  # another was faster, or it was never put there
            missing += 1
        except LoginRequiredError as error:
            if client.endpoint.info.standalone:
                raise
            raise RegistryError(
                f"{reference}: an index gives no token to delete a tag, and its registry wants "
                f"one: {error}; ask the operator of {registry}",
                code="deletion-off",
            ) from error
    if missing == len(grant.endpoints):
        raise DoesNotExistError(f"image {reference}")
    return image_id
