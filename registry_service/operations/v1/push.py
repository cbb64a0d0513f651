"""Push to a V1 registry: an image as a chain of V1, one image after the other, the lowest first.

The order is the one that the protocol asks for: the index is told what will come, and answers where
to and with which token; each image is asked for before its JSON, its layer and its checksum are
sent; then comes the tag, and the index is told that all is there. One image at a time: a registry
takes an image only upon one that it has, and what is sent out of turn is half pushed for longer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from ...cancel import Cancellation
from ...descriptor import Descriptor
from ...digest import Digest
from ...errors import (
    AlreadyExistsError,
    DoesNotExistError,
    InvalidReferenceError,
    LoginRequiredError,
    ManifestError,
    PlatformError,
    RegistryError,
    RegistryHTTPError,
    StoreError,
)
from ...media import OCI_LAYER
from ...observe import Observer, Settled
from ...reference import Reference
from ...session.turns import Turns
from ...session.v1.client import V1Client
from ...store import Content
from ...v1.chain import EMPTY_LAYER, Link, chain_of
from ...v1.outgoing import OutgoingLayer
from ...v1.values import ImgData, RepositoryData
from ..content import Node, platforms

__all__ = ["Planned", "planned", "push"]

_T = TypeVar("_T")

_CONFIG_LIMIT: Final = 4 * 1024 * 1024
_EMPTY: Final = Descriptor(
    media_type=f"{OCI_LAYER}+gzip", digest=Digest.of(EMPTY_LAYER), size=len(EMPTY_LAYER)
)
# How often an image is sent whose bytes did not arrive as they were sent.
_TRIES: Final = 3
# Jobs of one process that push images with the same ones below do not send these twice, nor spoil
# what the other is sending: a registry has one place for an image that is half pushed.
_TURNS: Final = Turns()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is going to be sent: the image of the store, its configuration and its chain."""

    descriptor: Descriptor
    config: Descriptor
    chain: tuple[Link, ...]


def planned(reference: Reference, node: Node, content: Content) -> Planned:
    """What a push of ``node`` sends. All that speaks against it is said here, before anything is
    sent: it is no image or one of several, it has no tag to get, a layer is not there.

    Raises `ManifestError`, `PlatformError`, `InvalidReferenceError`, `StoreError`.
    """
    image = _image(reference, node)
    manifest = image.manifest
    if manifest is None:
        raise ManifestError(f"{reference} is {image.descriptor.media_type}, and V1 has images only")
    if reference.tag is None:
        raise InvalidReferenceError(f"{reference}: V1 knows images by tags; give it one")
    if reference.digest not in (None, image.descriptor.digest):
        raise ManifestError(
            f"{reference} asks for another digest than the image has ({image.descriptor.digest})"
        )
    raw = b"{}"
    if manifest.config is not None:
        raw = content.read(manifest.config.digest, _CONFIG_LIMIT)
    try:
        chain = chain_of(raw, manifest)
    except ManifestError as error:
        raise ManifestError(f"{reference}: {error}") from None
    assert manifest.config is not None  # else it is no chain
    for layer in manifest.layers:
        if not content.has(layer.digest, layer.size):
            raise _missing(reference, layer)
    return Planned(descriptor=image.descriptor, config=manifest.config, chain=chain)


def _image(reference: Reference, node: Node) -> Node:
    """The image that ``node`` is, or the only one that is in it."""
    if node.manifest is None or not node.manifest.is_index:
        return node
    images = {one.descriptor.digest: one for one in _images(node)}
    if len(images) == 1:
        return next(iter(images.values()))
    offered = platforms([one.descriptor for one in images.values()])
    raise PlatformError(
        f"{reference} is an index of {len(images)} images, and V1 has images of one platform "
        f"each: say the platform of the one to push ({offered})"
    )


def _images(node: Node) -> Iterator[Node]:
    """The images of an index and of those within it. What builders tell of an image stands among
    them, as one for no platform that there is."""
    for one in node.children:
        if one.manifest is not None and one.manifest.is_index:
            yield from _images(one)
        elif one.descriptor.platform is None or one.descriptor.platform.os != "unknown":
            yield one


def _missing(reference: Reference, layer: Descriptor) -> StoreError:
    if layer.urls:
        return StoreError(
            f"{reference}: the layer {layer.digest} comes from elsewhere, by its URLs, and is not "
            "in the store; V1 has no place for URLs, so that it cannot be pushed",
            code="incomplete",
        )
    return StoreError(
        f"the store does not have all of {reference}: {layer.digest} missing; pull it again",
        code="incomplete",
    )


def push(
    reference: Reference,
    plan: Planned,
    *,
    client: V1Client,
    content: Content,
    cancel: Cancellation,
    observer: Observer,
) -> None:
    """Send what was planned to every registry that the index names.

    Told are each layer under its digest in the store, as ``pushed`` or ``exists``, then the
    configuration, which is in the JSON of the topmost image, and the image itself.
    """
    run = _Push(
        reference=reference,
        plan=plan,
        client=client,
        content=content,
        cancel=cancel,
        observer=observer,
    )
    run.all()


class _Grant:
    """What the index grants for one push: where to send the images, and the token for that. It is
    asked again where a token that was good runs out, as it may while large layers are sent."""

    def __init__(self, ask: Callable[[], RepositoryData]) -> None:
        self._ask = ask
        data = ask()
        self.endpoints = data.endpoints
        self._tokens = data.tokens
        self._good = False

    def let(self, work: Callable[[Sequence[str]], _T]) -> _T:
        """Do it with the token."""
        try:
            done = work(self._tokens)
        except LoginRequiredError:
            if not self._good:
                raise
            self._tokens = self._ask().tokens
            done = work(self._tokens)
        self._good = True
        return done


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Push:
    reference: Reference
    plan: Planned
    client: V1Client
    content: Content
    cancel: Cancellation
    observer: Observer
    # What this push sent: images by their ids, and layers.
    sent: dict[str, ImgData] = dataclasses.field(default_factory=dict)
    layers: set[Digest] = dataclasses.field(default_factory=set)
    # The registries that let the token read.
    reading: set[str] = dataclasses.field(default_factory=set)

    def all(self) -> None:
        repository, chain = self.reference.repository, self.plan.chain
        top = chain[-1].image.id
        tag = self.reference.tag or ""
        listed = [ImgData(id=link.image.id, tag=tag if link is chain[-1] else "") for link in chain]
        grant = _Grant(lambda: self.client.put_index(repository, listed, False, ()))
        tagged = False
        for registry in grant.endpoints:
            self.images(registry, grant)
            put = grant.let(functools.partial(self.tag, top, tag, registry))
            tagged = put or tagged
        self.client.put_index(repository, self.confirmed(), True, grant.endpoints)
        self.observer.log("info", f"{self.reference} is the image {top} there")
        self.settle(self.plan.config, "pushed" if top in self.sent else "exists")
        self.settle(self.plan.descriptor, "pushed" if self.sent or tagged else "exists")

    def images(self, registry: str, grant: _Grant) -> None:
        """The chain to one of the registries. To the last of them, a layer is told with the last
        image that has it, when it is known what became of it everywhere."""
        chain = self.plan.chain
        ends = {one.layer.digest: one for one in chain if one.layer is not None}
        for link in chain:
            grant.let(functools.partial(self.image, link, registry))
            layer = link.layer
            if registry == grant.endpoints[-1] and layer and ends[layer.digest] is link:
                self.settle(layer, "pushed" if layer.digest in self.layers else "exists")

    def image(self, link: Link, registry: str, token: Sequence[str]) -> None:
        """Send one image, unless it is there."""
        image_id = link.image.id
        self.cancel.check()
        with _TURNS.hold((registry, image_id), self.cancel):
            for tries_left in reversed(range(_TRIES)):
                if self.is_there(image_id, registry, token):
                    return
                try:
                    self.send(link, registry, token)
                except AlreadyExistsError:  # somebody else was faster
                    pass
                except RegistryHTTPError as error:
                    if error.http_status == 409 and self.is_there(image_id, registry, token):
                        return  # with the checksum
                    if not _is_mismatch(error):
                        raise
                    if not tries_left:
                        raise _spoilt(image_id, error) from error
                    self.observer.log("warning", f"image {image_id} is sent again: {error}")
                    continue
                return

    def is_there(self, image_id: str, registry: str, token: Sequence[str]) -> bool:
        """Whether the registry has the image, whole. One that is half pushed is answered with a
        400, and may be sent again. The original registry, behind an index, does not let a token
        that writes read: then it says whether it has the image when it gets the JSON."""
        try:
            there = self.client.has_image(image_id, registry, token)
        except LoginRequiredError:
            if registry in self.reading:  # then the token has run out
                raise
            return False
        except RegistryHTTPError as error:
            if error.http_status != 400:
                raise
            self.observer.log("info", f"image {image_id} is half pushed, and sent again: {error}")
            there = False
        self.reading.add(registry)
        return there

    def send(self, link: Link, registry: str, token: Sequence[str]) -> None:
        image = link.image
        self.client.put_json(ImgData(id=image.id), image.raw, registry, token)
        sums = self.client.put_layer(
            image.id, lambda: self.opened(link), registry, token, image.raw
        )
        found = ImgData(id=image.id, checksum=sums.checksum, checksum_payload=sums.checksum_payload)
        self.client.put_checksum(found, registry, token)
        self.sent[image.id] = found
        if link.layer is not None:
            self.layers.add(link.layer.digest)

    def opened(self, link: Link) -> OutgoingLayer:
        layer = link.layer
        if layer is None:
            file = io.BytesIO(EMPTY_LAYER)
            return OutgoingLayer(file, _EMPTY, link.diff_id, self.cancel)

        def report(done: int) -> None:
            self.observer.progress(str(layer.digest), "pushing", done, layer.size)

        return OutgoingLayer(
            self.content.open(layer.digest), layer, link.diff_id, self.cancel, report
        )

    def tag(self, image_id: str, tag: str, registry: str, token: Sequence[str]) -> bool:
        """Whether the tag had to be put."""
        self.cancel.check()
        if registry in self.reading:
            with contextlib.suppress(DoesNotExistError):
                tags = self.client.remote_tags([registry], self.reference.repository, token)
                if tags.get(tag) == image_id:
                    return False
        self.client.put_tag(self.reference.repository, image_id, tag, registry, token)
        return True

    def confirmed(self) -> list[ImgData]:
        """The images that were sent, in the order of the chain, with their checksums."""
        found = (self.sent.get(link.image.id) for link in self.plan.chain)
        return [one for one in found if one is not None]

    def settle(self, descriptor: Descriptor, state: str) -> None:
        self.observer.settled(
            Settled(
                reference=str(self.reference),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=state,
            )
        )


def _is_mismatch(error: RegistryHTTPError) -> bool:
    return any("checksum mismatch" in one.message.lower() for one in error.errors)


def _spoilt(image_id: str, error: RegistryHTTPError) -> RegistryError:
    return RegistryError(
        f"image {image_id}: the registry got other bytes than were sent, {_TRIES} times: {error}",
        code="checksum-mismatch",
        retryable=True,
    )
