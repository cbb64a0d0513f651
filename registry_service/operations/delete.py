"""Delete: a tag, or a manifest that no tag names, of a repository in a registry.

In a registry a manifest goes with all its tags, and not every registry can delete a tag alone.
So a manifest is deleted only when no other tag leads to it, unless that is asked for.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from typing import Final, Literal

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    DigestMismatchError,
    DoesNotExistError,
    InvalidReferenceError,
    ManifestError,
    RegistryError,
    RegistryHTTPError,
)
from ..manifest import INDEX_TYPES
from ..observe import Observer
from ..reference import Reference
from ..referrers import is_list
from ..session.v2 import V2Client
from .tags import references
from .v1.delete import delete_tag
from .versions import Client, V1Client

__all__ = ["Deleted", "delete"]

_CANNOT: Final = frozenset({400, 405, 501})
_WORKERS: Final = 8
_SHOWN: Final = 5
_DEEPEST: Final = 8
_UNREADABLE: Final = (ManifestError, DigestMismatchError)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What is gone: ``state`` is ``untagged`` for a tag whose manifest stays, ``deleted`` for
    a manifest, and for each tag that went with it. ``digest`` is the manifest's, of V1 the id of
    the image that the tag stood for."""

    reference: Reference
    digest: Digest | str
    state: Literal["untagged", "deleted"]


def delete(
    reference: Reference,
    *,
    client: Client,
    force: bool = False,
    cancel: Cancellation,
    observer: Observer,
) -> list[Deleted]:
    """Delete what ``reference`` names, a tag or a digest; returns what is gone.

    Of a tag, just the tag, where the registry can do that. Where it cannot, and for a digest,
    the manifest, if no other tag stands for it or for an index with it; with ``force``, whatever
    else leads to it. V1 deletes tags only, and nothing else is lost with one.

    Raises `DoesNotExistError`, and an error with the code ``other-tags`` that names them, or
    ``deletion-off`` for a registry that deletes nothing.
    """
    if reference.tag is None and reference.digest is None:
        raise InvalidReferenceError(
            f"{reference}: say what to delete: {reference}:TAG or {reference}@DIGEST"
        )
    if isinstance(client, V1Client):
        image = delete_tag(reference, client=client, cancel=cancel, observer=observer)
        return [Deleted(reference=reference, digest=image, state="untagged")]
    run = _Delete(reference, client, cancel, observer)
    if reference.tag is None:
        digest = run.digest_of(str(reference.digest))
    else:
        digest = run.digest_of(reference.tag)
        if reference.digest not in (None, digest):
            raise ManifestError(f"{reference}: the tag stands for {digest} by now")
        if run.untag():
            return [Deleted(reference=reference, digest=digest, state="untagged")]
    others = run.others(digest)
    if others and not force:
        raise run.refusal(digest, others)
    run.remove(digest)
    gone = [tag for tag in others if tag.names]
    return [
        Deleted(reference=reference, digest=digest, state="deleted"),
        *(
            Deleted(reference=reference.with_tag(one.tag), digest=digest, state="deleted")
            for one in gone
        ),
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class _Other:
    """A tag that leads to the manifest: it names it, or else, as ``how`` says, leads there
    some other way."""

    tag: str
    how: str = ""

    @property
    def names(self) -> bool:
        return not self.how

    def __str__(self) -> str:
        return f"{self.tag} ({self.how})" if self.how else self.tag


@dataclasses.dataclass(frozen=True, slots=True)
class _Delete:
    reference: Reference
    client: V2Client
    cancel: Cancellation
    observer: Observer
    # The parts of indexes that were read, for each is in many tags' images perhaps. Threads may
    # find out the same twice.
    parts: dict[Digest, tuple[Descriptor, ...]] = dataclasses.field(default_factory=dict)

    def digest_of(self, locator: str) -> Digest:
        try:
            found = self.client.head_manifest(self.reference.repository, locator)
        except _UNREADABLE:
            if self.reference.digest is None or self.reference.tag is not None:
                raise
            return self.reference.digest  # it is there, and what it is is no matter
        if found is None:
            raise DoesNotExistError(f"manifest {self.reference}")
        return found.digest

    def untag(self) -> bool:
        """Delete the tag alone. False where the registry cannot."""
        repository, tag = self.reference.repository, self.reference.tag
        assert tag is not None  # the caller's condition
        try:
            self.client.delete_manifest(repository, tag)
        except DoesNotExistError:
            # Another was faster; or the server has nothing under a tag that could be deleted.
            return self.client.head_manifest(repository, tag) is None
        except RegistryHTTPError as error:
            if error.http_status not in _CANNOT:
                raise
            self.observer.log("info", f"{self.reference.host} cannot delete a tag alone: {error}")
            return False
        return True

    def others(self, digest: Digest) -> list[_Other]:
        """The tags that lead to ``digest``, other than the one that is to go."""
        tags = (one.tag for one in references(self.reference, self.client, self.observer))
        names = [tag for tag in tags if tag is not None and tag != self.reference.tag]
        pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="delete")
        try:
            found = list(pool.map(lambda tag: self.other(tag, digest), names))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [one for one in found if one is not None]

    def other(self, tag: str, digest: Digest) -> _Other | None:
        self.cancel.check()
        try:
            head = self.client.head_manifest(self.reference.repository, tag)
        except _UNREADABLE:
            return _Other(tag, "which cannot be read, and may be an index that has it")
        if head is None:
            return None
        if head.digest == digest:
            return _Other(tag)
        # A list of referrers is no use of them: what it lists is taken off it.
        if head.media_type in INDEX_TYPES and not is_list(tag, head) and self.has(head, digest, 0):
            return _Other(tag, "an index that has it")
        return None

    def has(self, index: Descriptor, digest: Digest, depth: int) -> bool:
        """Whether ``index``, or an index in it, has the manifest."""
        self.cancel.check()
        if index.digest not in self.parts:
            self.parts[index.digest] = self.read(index)
        parts = self.parts[index.digest]
        return any(one.digest == digest for one in parts) or (
            depth < _DEEPEST
            and any(
                self.has(one, digest, depth + 1) for one in parts if one.media_type in INDEX_TYPES
            )
        )

    def read(self, index: Descriptor) -> tuple[Descriptor, ...]:
        try:
            found = self.client.get_manifest(self.reference.repository, index.digest)
        except (DoesNotExistError, *_UNREADABLE):
            return ()  # nobody gets anywhere through this one
        return found.manifests

    def remove(self, digest: Digest) -> None:
        try:
            self.client.delete_manifest(self.reference.repository, digest)
        except DoesNotExistError:
            return  # it was there a moment ago; another was faster
        except RegistryHTTPError as error:
            if error.http_status in _CANNOT:
                raise RegistryError(
                    f"{self.reference.host} does not let anything be deleted ({error}); its "
                    "operator has to switch that on, in Docker's registry with "
                    "storage.delete.enabled: true or REGISTRY_STORAGE_DELETE_ENABLED=true",
                    code="deletion-off",
                ) from error
            raise

    def refusal(self, digest: Digest, others: list[_Other]) -> RegistryError:
        shown = ", ".join(map(str, others[:_SHOWN]))
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        why = (
            f"{self.reference.host} cannot delete a tag alone, and "
            if self.reference.tag is not None
            else ""
        )
        return RegistryError(
            f"{self.reference}: {why}{digest} is also what these tags lead to: {shown}{more}; "
            "nothing was deleted; delete them first, or use force to delete it for all of them",
            code="other-tags",
        )
