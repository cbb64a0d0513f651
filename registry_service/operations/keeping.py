"""What an operation brings into the store before it names it, and what it may take from there.

Between the moment when a pull finds a blob in the store and the moment when it gives its image a
name, the blob may be swept: nobody names it yet. `Keeping` is what a pull does about it: it pins
what it relies on as soon as anything has to be fetched, and when it names the image it says
what that needs; what went away nevertheless is brought again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DoesNotExistError, GoneError
from ..reference import Reference
from ..session.reader import ImageReader
from ..store import Claim, Lease, Store, Ticket, Unrecorded
from .content import Node, find

__all__ = ["Keeping", "claim_of", "claim_of_file", "claim_on_v1", "held_whole", "pin_tree"]

_TRIES: Final = 4


def claim_of(reference: Reference, client: ImageReader, store: Store) -> Claim:
    """The claim of the repository that ``reference`` names, as far as ``client`` may see it."""

    def probe(descriptor: Descriptor, cancel: Cancellation) -> bool:
        return client.blob_size(reference.repository, descriptor.digest) is not None

    return Claim(
        origins=store.origins,
        host=reference.host,
        repository=reference.repository,
        probe=probe,
    )


def claim_on_v1(reference: Reference, store: Store) -> Claim:
    """The claim of a repository of V1, which cannot be asked for a digest."""
    return Claim(
        origins=store.origins,
        host=reference.host,
        repository=reference.repository,
        probe=lambda one, cancel: False,
    )


def claim_of_file() -> Claim:
    """The claim of a file that somebody brought: what it names it has to contain, since what the
    store has may be another's."""
    record = Unrecorded()
    return Claim(
        origins=record, host=f"file {id(record)}", repository="", probe=lambda one, cancel: False
    )


def held_whole(
    store: Store, reference: Reference, lease: Lease, cancel: Cancellation
) -> Descriptor:
    """The image of that reference in the store, of which nothing goes while ``lease`` lasts.

    Raises `StoreError` where there is none.
    """
    descriptor = None
    while descriptor != (found := find(store, reference)):
        # Named still when nothing of it can be swept any more: then it has all that it had.
        descriptor = found
        lease.secure(store.upkeep.below(found.digest), cancel)
    return found


def pin_tree(lease: Lease, reference: Reference, node: Node, cancel: Cancellation) -> None:
    """Keep what was found to be there of ``node``. Raises `GoneError` where it is no more."""
    found = [one.descriptor.digest for one in node.walk() if one.present]
    gone = lease.secure(found, cancel)
    if gone:
        raise GoneError(
            f"{reference} was removed from the store meanwhile", digests=list(map(str, gone))
        )


class Keeping:
    """What one operation has put into the store, or found there, and not named yet."""

    def __init__(self, store: Store, lease: Lease, claim: Claim) -> None:
        self.claim = claim
        self._store = store
        self._lease = lease
        self._blobs: dict[Digest, Descriptor] = {}
        self._documents: dict[Digest, tuple[bytes, str]] = {}

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the store has it, and the repository has shown that it has it too."""
        return self._store.has(descriptor.digest, descriptor.size) and self.claim.holds(
            descriptor.digest
        )

    def rely(self, descriptors: Sequence[Descriptor]) -> None:
        """Say what is needed, before it is looked for. Nothing is written where all of it is
        there: then the name will tell."""
        for one in descriptors:
            self._blobs[one.digest] = one
        if not all(self._store.has(one.digest, one.size) for one in descriptors):
            self._lease.pin(one.digest for one in descriptors)

    def pin(self, digest: Digest) -> None:
        """Keep what comes, before it is there. From any thread."""
        self._lease.pin([digest])

    def put(self, raw: bytes, media_type: str, digest: Digest) -> None:
        """Put a document that the registry gave, or that was made of what it gave."""
        self._documents[digest] = raw, media_type
        if not self._store.has(digest, len(raw)):
            self._lease.pin([digest])
        self._store.put(raw, media_type, digest)
        if not self.claim.holds(digest):
            self.claim.record(digest)

    def name(
        self,
        reference: Reference,
        descriptor: Descriptor,
        fetch: Callable[[Descriptor], Ticket[Any]],
        cancel: Cancellation,
    ) -> None:
        """Give the name, with all of this in the store. What is gone is brought again, and
        pinned this time. Raises `GoneError` when that is no use."""
        needs = list(dict.fromkeys((*self._blobs, *self._documents)))
        for last in (*[False] * (_TRIES - 1), True):
            try:
                self._store.tag(reference, descriptor, needs, cancel=cancel)
            except (GoneError, DoesNotExistError):
                if last:
                    raise
                self._bring(self._lease.secure(needs, cancel), fetch, cancel)
            else:
                return

    def _bring(
        self,
        gone: Sequence[Digest],
        fetch: Callable[[Descriptor], Ticket[Any]],
        cancel: Cancellation,
    ) -> None:
        for digest in gone:
            if digest in self._documents:
                raw, media_type = self._documents[digest]
                self._store.put(raw, media_type, digest)
            else:
                fetch(self._blobs[digest]).wait(cancel)
