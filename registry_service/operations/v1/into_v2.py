"""Copy from a V1 registry to one of V2, not through the disk.

A layer of V1 has no digest before it has come, so that the target cannot be asked for it: it is
sent in parts while it is found out what it is. What a layer is that was here before, the book of
layers knows; that one is asked for first, and not read again where the target has it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import random
from collections.abc import Sequence
from typing import Final

from ...cancel import Cancellation
from ...descriptor import Descriptor
from ...digest import Digest
from ...errors import (
    CancelledError,
    DigestMismatchError,
    LayerError,
    ManifestError,
    RegistryError,
    StoreError,
)
from ...manifest import Manifest
from ...media import OCI_LAYER
from ...observe import Observer, Settled
from ...reference import Reference
from ...session.streaming import PART, fill
from ...session.v2 import V2Client
from ...store.layerbook import LayerBook
from ...transport.retry import RetryPolicy
from ...upgrade import Layer, Step, upgrade
from ...v1.layer import StatedLayer
from ..content import ALL, check_fits
from ..presence import has_blob, has_manifest
from ..schema1 import platform_of_step
from .placed import Placed
from .relay import LayerRelay
from .source import Described, Memory, V1Source, tag_of

__all__ = ["copy_into_v2"]

_WORKERS: Final = 4
#: How often a layer that came wrong is asked for again, which helps where it was spoiled on its
#: way. Where it lies there so, it may be large.
_AGAIN: Final = 1


def copy_into_v2(
    source: Reference,
    target: Reference,
    *,
    origin: V1Source,
    client: V2Client,
    book: LayerBook,
    placed: Placed,
    memory: Memory,
    policy: RetryPolicy,
    platform: str = "",
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Copy the image of a tag as the OCI image that it stands for; returns what ``target`` stands
    for now. ``cancel`` is that of both clients; it is cancelled when one layer fails."""
    run = _Copy(
        target=target,
        origin=origin,
        client=client,
        book=book,
        placed=placed,
        memory=memory,
        policy=policy,
        cancel=cancel,
        observer=observer,
    )
    chain = origin.chain(origin.image_id(tag_of(source)))
    if platform not in ("", ALL):
        check_fits(source, platform_of_step(chain[-1].image.value), platform)
    return run.image(chain)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """What one copy knows. Its own thread settles; layers move in threads of a pool."""

    target: Reference
    origin: V1Source
    client: V2Client
    book: LayerBook
    placed: Placed
    memory: Memory
    policy: RetryPolicy
    cancel: Cancellation
    observer: Observer
    settled: set[Digest] = dataclasses.field(default_factory=set)

    def image(self, chain: Sequence[Described]) -> Descriptor:
        layers = self.layers(chain)
        made = upgrade(
            [Step(value=one.image.value, layer=layers.get(one.image.id)) for one in chain]
        )
        wanted = self.target.digest
        if wanted is not None and wanted != made.manifest.digest:
            raise ManifestError(
                f"{self.target} asks for another digest than the image has there "
                f"({made.manifest.digest})"
            )
        config = made.manifest.config
        assert config is not None  # of an image
        there = self.has(config)
        self.settle(config, "exists" if there else self.put_small(config, made.config))
        self.put(made.manifest)
        return made.manifest.descriptor

    def layers(self, chain: Sequence[Described]) -> dict[str, Layer]:
        """The layers, each of them at the target, by the ids of their images."""
        found: dict[str, Layer] = {}
        pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="copy")
        try:
            futures = {pool.submit(self.layer, one): one for one in chain if not one.image.empty}
            for future in concurrent.futures.as_completed(futures):
                layer, state = future.result()
                one = futures[future]
                found[one.image.id] = layer
                if _belongs(one, layer):
                    self.settle(_descriptor(layer), state)
        except BaseException:
            self.cancel.cancel()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return found

    def layer(self, one: Described) -> tuple[Layer, str]:
        """What the layer is, and how it came to the target. One that belongs to no image, since
        it changes no file, is not sent."""
        self.cancel.check()
        stated, host = one.layer, self.origin.host
        known = self.book.find(host, stated)
        if known is not None:
            state = self.there(_descriptor(known)) if _belongs(one, known) else "exists"
            if state:
                return known, state
        attempt = 0
        while True:
            try:
                layer, state = self.send(one)
            except (DigestMismatchError, LayerError) as error:
                if attempt >= min(_AGAIN, self.policy.retries):
                    self.origin.give_up(stated, error)
                    raise
                self.pause(error, attempt)
                attempt += 1
            else:
                self.learn(stated, layer)
                return layer, state

    def learn(self, stated: StatedLayer, layer: Layer) -> None:
        try:
            self.book.record(self.origin.host, stated, layer)
        except StoreError as error:  # the target has it all the same
            self.observer.log("warning", f"{layer.digest}: {error}")

    def send(self, one: Described) -> tuple[Layer, str]:
        with LayerRelay(
            one.layer,
            lambda offset: self.origin.open_layer(one.layer, offset),
            policy=self.policy,
            cancel=self.cancel,
            observer=self.observer,
        ) as relay:
            memory = memoryview(bytearray(PART))
            first = memory[: fill(relay, memory)]
            if len(first) < len(memory):
                layer = _layer(relay, Digest.of(first))
                if not _belongs(one, layer):
                    return layer, "exists"
                state = self.there(_descriptor(layer))
                return layer, state or self.put_small(_descriptor(layer), bytes(first))
            digest = self.client.put_stream(self.target.repository, _From(first, relay))
            self.arrived(digest)
            return _layer(relay, digest), "copied"

    def there(self, layer: Descriptor) -> str:
        """How the target comes to have a layer that is not sent; empty where it does not."""
        state = "exists" if self.has(layer) else "mounted" if self.mount(layer) else ""
        if state:
            self.arrived(layer.digest)
        return state

    def arrived(self, digest: Digest) -> None:
        """The target has the blob."""
        self.memory.blobs.add(digest)
        self.placed.record(self.target.host, self.target.repository, digest)

    def mount(self, layer: Descriptor) -> bool:
        """Take the layer over from where another copy put it. Repositories of a rescue share what
        they are built on."""
        host, repository, digest = self.target.host, self.target.repository, layer.digest
        place = self.placed.find(host, digest)
        if place is None or place == repository:
            return False
        try:
            done = self.client.mount_blob(repository, digest, place)
        except CancelledError:
            raise
        except RegistryError as error:  # which repository it was is nobody else's business
            self.observer.log("debug", f"{digest} could not be mounted ({error.code})")
            done = False
        if not done:
            self.placed.forget(host, digest)
        return done

    def put_small(self, descriptor: Descriptor, data: bytes) -> str:
        self.client.put_blob(
            self.target.repository,
            descriptor,
            lambda: io.BytesIO(data),
            progress=self.observer.progress,
        )
        self.arrived(descriptor.digest)
        return "copied"

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the target has it, which is asked once for all tags."""
        return descriptor.digest in self.memory.blobs or has_blob(
            self.client, self.target.repository, descriptor
        )

    def put(self, manifest: Manifest) -> None:
        self.cancel.check()
        repository, locator = self.target.repository, self.target.locator
        there = has_manifest(self.client, repository, locator, manifest.digest)
        if not there:
            self.client.put_manifest(repository, locator, manifest)
        self.settle(manifest.descriptor, "exists" if there else "copied")

    def pause(self, error: RegistryError, attempt: int) -> None:
        """Wait before a layer that came wrong is asked for again."""
        self.cancel.check()
        wait = self.policy.wait(attempt, None, random.random()) or 0.0
        self.observer.log(
            "warning", f"{error}; asking for it again", wait=round(wait, 2), attempt=attempt + 1
        )
        self.cancel.wait(wait)
        self.cancel.check()

    def settle(self, descriptor: Descriptor, state: str) -> None:
        if descriptor.digest in self.settled:
            return
        self.settled.add(descriptor.digest)
        self.observer.settled(
            Settled(
                reference=str(self.target),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=state,
            )
        )


class _From:
    """What was read already, and then what a relay gives: a source that can be begun anew."""

    def __init__(self, first: memoryview, relay: LayerRelay) -> None:
        self._first = first
        self._rest = first
        self._relay = relay

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._rest:
            return self._relay.readinto(buffer)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def seek(self, offset: int, /) -> int:
        self._rest = self._first[:0]
        return self._relay.seek(offset)

    def close(self) -> None:
        """The relay is closed by who opened it."""


def _belongs(one: Described, layer: Layer) -> bool:
    """Whether the layer is one of the image, and not just that of a step that changed nothing."""
    return Step(value=one.image.value, layer=layer).content is not None


def _layer(relay: LayerRelay, digest: Digest) -> Layer:
    assert relay.found is not None  # it was read to its end
    checked, size = relay.found
    return Layer(
        digest=digest,
        size=size,
        diff_id=checked.diff_id,
        media_type=f"{OCI_LAYER}+gzip",
    )


def _descriptor(layer: Layer) -> Descriptor:
    return Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
