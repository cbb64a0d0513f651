"""Pull from a registry that speaks V1: the chain of an image becomes an OCI image in the store.

The registry is asked for the image's JSON each time, with the credentials of who pulls: only then
does what the store has serve this pull. What is there by the same name remembers which image of V1
it was, and what the registry said of it: where it says the same again, nothing moves.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from ...cancel import Cancellation
from ...convert import Format
from ...descriptor import Descriptor
from ...digest import Digest
from ...errors import DigestMismatchError, DoesNotExistError, GoneError, LayerError
from ...manifest import Manifest
from ...media import DOCKER_MANIFEST, OCI_CONFIG
from ...observe import Observer
from ...reference import Reference
from ...session.blob import RemoteBlob
from ...session.v1.client import V1Client
from ...store import Arrival, LayerSource, Store
from ...store.layerbook import layer_key
from ...upgrade import Layer, Step, UpgradedImage, upgrade
from ..content import ALL, check_fits, tree
from ..keeping import Keeping, claim_on_v1
from ..pulled import Pulled
from ..schema1 import platform_of_step
from ..tags import each_tag
from .source import Described, Memory, V1Source, tag_of

__all__ = ["V1_IMAGE", "V1_SAYS", "pull_all_tags_v1", "pull_v1"]

#: The annotations of a name in the store whose image came from a registry of V1: the image's id
#: there, and a digest of all that the registry said of it.
V1_IMAGE: Final = "io.registry-engine.v1-image"
V1_SAYS: Final = "io.registry-engine.v1-says"


def pull_v1(
    reference: Reference,
    *,
    client: V1Client,
    store: Store,
    platform: str = "",
    format: Format | None = None,
    memory: Memory | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Fetch an image and name it in the store; returns what the name stands for.

    ``platform``, if it is one, has to be the image's, which is all that there is. ``memory`` is
    that of a pull of many tags. Raises what `V1Source` and `Store.receive` do, and `PlatformError`.
    """
    tag = tag_of(reference)
    source = V1Source(client, reference, memory=memory, cancel=cancel, observer=observer)
    with store.lease() as lease:
        keeping = Keeping(store, lease, claim_on_v1(reference, store))
        run = _Pull(reference, source, store, platform, cancel, observer, keeping)
        top = source.described(source.image_id(tag))
        run.check_platform(top)
        kept = run.kept(top, format)
        if kept is not None:
            manifest, config = kept
            state, descriptor = "exists", manifest.descriptor
            run.rely(manifest, config, top)
        else:
            made = run.image(source.chain(top.image.id))
            cancel.check()
            manifest, state = run.keep(made, top)
            descriptor = manifest.descriptor
            if format is not None:
                descriptor, state = run.converted(manifest, state, descriptor, format)
        descriptor = _remembering(descriptor, top)
        keeping.name(reference, descriptor, run.again, cancel)
        run.settle(descriptor, state)
    return descriptor


def pull_all_tags_v1(
    reference: Reference,
    *,
    client: V1Client,
    store: Store,
    platform: str = "",
    format: Format | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> list[str]:
    """Fetch every tag of a repository; returns the tags. One that cannot be pulled does not keep
    the others back (see `each_tag`)."""
    memory = Memory()
    source = V1Source(client, reference, memory=memory, cancel=cancel, observer=observer)

    def work(one: Reference) -> bool:
        pull_v1(
            one,
            client=client,
            store=store,
            platform=platform,
            format=format,
            memory=memory,
            cancel=cancel,
            observer=observer,
        )
        return True

    return each_tag(reference, _Tags(source), work, done="pulled", cancel=cancel, observer=observer)


@dataclasses.dataclass(frozen=True, slots=True)
class _Tags:
    source: V1Source

    def tags(self, repository: str, /) -> Iterator[str]:
        return iter(sorted(self.source.tags()))


class _LayerOf(LayerSource):
    """One layer of a repository, at the registries that its index names."""

    def __init__(self, source: V1Source, one: Described) -> None:
        self._source = source
        self._one = one
        self._at = ""  # the registry that was opened last
        self._shunned: set[str] = set()  # those that broke off, or sent what is wrong

    def open(self, offset: int, cancel: Cancellation, /) -> RemoteBlob:
        def opened(registry: str) -> None:
            self._at = registry

        self._at = ""
        # Where the registry asks for a pause, the store waits, without a thread.
        return self._source.open_layer(
            self._one.layer, offset, cancel, hasty=True, shunned=self._shunned, opened=opened
        )

    def ready(self) -> float:
        return self._source.ready()

    def elsewhere(self, error: Exception, /) -> bool:
        if not self._at:  # all were asked
            return False
        self._shunned.add(self._at)
        if self._source.others(self._shunned):
            return True
        self._shunned.clear()
        return False


class _Pull(Pulled):
    def __init__(
        self,
        reference: Reference,
        source: V1Source,
        store: Store,
        platform: str,
        cancel: Cancellation,
        observer: Observer,
        keeping: Keeping,
    ) -> None:
        super().__init__(reference, store, platform, cancel, observer, keeping)
        self.source = source
        self.layers: dict[Digest, Described] = {}  # those that were seen to be here
        self.top: Described | None = None

    def check_platform(self, top: Described) -> None:
        if self.platform not in ("", ALL):
            check_fits(self.reference, platform_of_step(top.image.value), self.platform)

    def kept(self, top: Described, format: Format | None) -> tuple[Manifest, bytes] | None:
        """The image that the name stands for, and its configuration, where it is whole, the one
        that the registry has, and in the format that is asked for."""
        known = self.store.resolve(str(self.reference))
        if known is None or known != _remembering(known, top):
            return None
        if (known.media_type == DOCKER_MANIFEST) is not (format is Format.DOCKER):
            return None
        with contextlib.suppress(DigestMismatchError, DoesNotExistError):  # then it is made again
            node = tree(self.store, known)
            parts = [one.descriptor for one in node.walk()]
            if all(self.store.has_whole(one, self.cancel) for one in parts) and all(
                self.keeping.claim.holds(one.digest) for one in parts
            ):
                manifest = node.manifest
                assert manifest is not None  # it was found whole
                assert manifest.config is not None  # of an image
                # Now: who removes the name meanwhile takes nothing away that is not brought again.
                return manifest, self.store.read(manifest.config.digest)
        return None

    def rely(self, manifest: Manifest, raw: bytes, top: Described) -> None:
        """Tell of an image that is there, as long as nothing of it goes; ``raw`` is its
        configuration."""
        self.top = top
        for one in manifest.layers:
            self.settle(one, "exists")
        config = manifest.config
        assert config is not None  # of an image
        self.keeping.put(raw, config.media_type, config.digest)
        self.settle(config, "exists")
        self.store_manifest(manifest)
        self.keeping.rely(manifest.layers)

    def image(self, chain: Sequence[Described]) -> UpgradedImage:
        """The OCI image that a chain stands for, its layers in the store."""
        layers = self.fetch([one for one in chain if not one.image.empty])
        steps = [Step(value=one.image.value, layer=layers.get(one.image.id)) for one in chain]
        self.keeping.rely([_descriptor(one.content) for one in steps if one.content is not None])
        return upgrade(steps)

    def fetch(self, wanted: Sequence[Described]) -> dict[str, Layer]:
        """The layers by the ids of their images; each is told as it settles."""
        claim = self.keeping.claim
        found: dict[str, Layer] = {}
        for one in wanted:
            self.cancel.check()
            layer = self.store.layer(claim.host, one.layer, self.cancel)
            if layer is not None:
                found[one.image.id] = layer
        if len(found) < len(wanted):  # else nothing is written, and the name will tell
            for layer in found.values():
                self.keeping.pin(layer.digest)
        for one in wanted:
            if one.image.id in found:
                layer = found[one.image.id]
                if not claim.holds(layer.digest):
                    claim.record(layer.digest)
                self.arrived(one, layer, "exists")
        with contextlib.ExitStack() as leaving:
            tickets = {}
            for one in wanted:
                if one.image.id not in found:
                    ticket = self.receive(one)
                    leaving.callback(ticket.leave)
                    tickets[ticket] = one
            for ticket in self.store.settled(list(tickets), self.cancel):
                one = tickets[ticket]
                try:
                    end = ticket.result()
                except (DigestMismatchError, LayerError) as error:
                    self.source.give_up(one.layer, error)
                    raise
                found[one.image.id] = end.layer
                self.arrived(one, end.layer, end.outcome)
        return found

    def receive(self, one: Described) -> Arrival:
        return self.store.receive(
            one.layer,
            _LayerOf(self.source, one),
            claim=self.keeping.claim,
            pin=self.keeping.pin,
            cancel=self.cancel,
            progress=self.observer.progress,
            log=self.observer.log,
        )

    def arrived(self, one: Described, layer: Layer, state: str) -> None:
        """Tell of a layer, unless it belongs to no image since it changes no file."""
        self.layers[layer.digest] = one
        belongs = Step(value=one.image.value, layer=layer).content is not None
        if belongs and layer.digest not in self.settled:
            self.settle(_descriptor(layer), state)

    def again(self, descriptor: Descriptor) -> Arrival:
        """Bring a layer that went away meanwhile."""
        if descriptor.digest not in self.layers and self.top is not None:
            self.image(self.source.chain(self.top.image.id))
        one = self.layers.get(descriptor.digest)
        if one is None:
            raise GoneError(
                f"{self.reference}: {descriptor.digest} was removed from the store meanwhile, and "
                "the registry has another layer in its place; try again",
                digests=[str(descriptor.digest)],
            )
        return self.receive(one)

    def keep(self, made: UpgradedImage, top: Described) -> tuple[Manifest, str]:
        """Put the image that was made; how it came to be in the store."""
        manifest, config = made.manifest, made.manifest.config
        assert config is not None  # of an image
        state = "exists" if self.store.has(config.digest, config.size) else "converted"
        self.keeping.put(made.config, OCI_CONFIG, config.digest)
        self.settle(config, state)
        state = "exists" if self.store.has(manifest.digest, len(manifest.raw)) else "converted"
        self.store_manifest(manifest)
        self.observer.log(
            "info",
            f"{self.reference}: the image {top.image.id} of V1 was converted to the OCI image "
            f"{manifest.digest}",
        )
        return manifest, state


def _descriptor(layer: Layer) -> Descriptor:
    return Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)


def _remembering(descriptor: Descriptor, top: Described) -> Descriptor:
    """``descriptor``, which remembers of which image it was made, and what was said of that."""
    notes = {V1_IMAGE: top.image.id, V1_SAYS: f"sha256:{layer_key(top.layer)}"}
    return dataclasses.replace(descriptor, annotations={**descriptor.annotations, **notes})
