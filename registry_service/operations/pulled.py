"""What pulls of either protocol do alike with what they have brought."""

from __future__ import annotations

from ..cancel import Cancellation
from ..convert import Format
from ..descriptor import Descriptor
from ..digest import Digest
from ..manifest import Manifest
from ..observe import Observer, Settled
from ..reference import Reference
from ..store import Store
from .content import tree
from .convert import pulled_tree
from .keeping import Keeping

__all__ = ["Pulled"]


class Pulled:
    """One pull: what is asked for, where it goes, and what was told of it."""

    def __init__(
        self,
        reference: Reference,
        store: Store,
        platform: str,
        cancel: Cancellation,
        observer: Observer,
        keeping: Keeping,
    ) -> None:
        self.keeping = keeping
        self.reference = reference
        self.store = store
        self.platform = platform
        self.cancel = cancel
        self.observer = observer
        self.settled: set[Digest] = set()

    def converted(
        self, manifest: Manifest, state: str, descriptor: Descriptor, format: Format
    ) -> tuple[Descriptor, str]:
        """What the name stands for in that format, and how it came to be in the store."""
        made = pulled_tree(
            self.reference,
            tree(self.store, manifest.descriptor),
            self.platform,
            format,
            cancel=self.cancel,
            observer=self.observer,
        )
        if made.manifest is None or made.descriptor.digest == manifest.digest:
            return descriptor, state
        self.settle(manifest.descriptor, state)
        for one in made.walk():
            if one.manifest is None or one.descriptor.digest in self.settled:
                continue
            state = "exists" if self.store.has(one.descriptor.digest) else "converted"
            self.store_manifest(one.manifest)
            if one is not made:
                self.settle(one.descriptor, state)
        return made.manifest.descriptor, state

    def store_manifest(self, manifest: Manifest) -> None:
        self.keeping.put(manifest.raw, manifest.media_type, manifest.digest)

    def settle(self, descriptor: Descriptor, state: str) -> None:
        """Tell that it is there, and how it came."""
        self.settled.add(descriptor.digest)
        self.observer.settled(
            Settled(
                reference=str(self.reference),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=state,
            )
        )
