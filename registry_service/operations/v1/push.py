"""Push to a V1 registry: an image as a chain of V1, sent as `sending` does."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ...cancel import Cancellation
from ...descriptor import Descriptor
from ...digest import Digest
from ...errors import ManifestError, PlatformError, StoreError
from ...media import OCI_LAYER
from ...observe import Observer, Settled
from ...reference import Reference
from ...session.v1.client import V1Client
from ...store import Content, LayerBook
from ...transport import Readable
from ...upgrade import Layer
from ...v1.chain import EMPTY_LAYER, Link, chain_of
from ...v1.image import V1Image
from ...v1.layer import StatedLayer
from ...v1.outgoing import OutgoingLayer
from ..content import Node, platforms
from .sending import Outgoing, Seen, Sending, tag_to_put

__all__ = ["Planned", "check_alone", "planned", "push"]

_CONFIG_LIMIT: Final = 4 * 1024 * 1024
_EMPTY: Final = Descriptor(
    media_type=f"{OCI_LAYER}+gzip", digest=Digest.of(EMPTY_LAYER), size=len(EMPTY_LAYER)
)


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
    tag_to_put(reference)
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
    return images[check_alone(reference, [one.descriptor for one in images.values()]).digest]


def check_alone(reference: Reference, images: Sequence[Descriptor]) -> Descriptor:
    """The one image that an index has. Raises `PlatformError` where it has several, or none."""
    if len(images) == 1:
        return images[0]
    raise PlatformError(
        f"{reference} is an index of {len(images)} images, and V1 has images of one platform "
        f"each: say the platform of the one to push ({platforms(images)})"
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
    why = "it comes from elsewhere, by its URLs, and V1 has no place for these" * bool(layer.urls)
    return StoreError(
        f"{reference}: the layer {layer.digest} is not in the store; {why or 'pull it again'}",
        code="incomplete",
    )


def push(
    reference: Reference,
    plan: Planned,
    *,
    client: V1Client,
    opener: Callable[[Descriptor], Readable],
    book: LayerBook,
    moved: str = "pushed",
    seen: Seen | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> None:
    """Send what was planned to every registry that the index names; ``opener`` opens a layer.

    Told are each layer under its digest, as ``moved`` or ``exists``, then the configuration, which
    is in the JSON of the topmost image, and the image itself. What a registry is going to say of a
    layer that was sent as it is, goes into the ``book``, so that nobody fetches it to find out.
    """
    sending = Sending(reference, client, cancel, observer, seen)
    run = _Push(reference, plan, opener, book, moved, sending, cancel, observer)
    chain = [
        Outgoing(image=link.image, open=functools.partial(run.opened, link)) for link in plan.chain
    ]
    changed = sending.run(chain, run.image)
    run.settle(plan.config, plan.chain[-1].image.id in sending.sent)
    run.settle(plan.descriptor, changed)


class _Push:
    """What one push knows: a layer is told with the last image that has it, when it is known what
    became of all of these."""

    def __init__(
        self,
        reference: Reference,
        plan: Planned,
        opener: Callable[[Descriptor], Readable],
        book: LayerBook,
        moved: str,
        sending: Sending,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._reference = reference
        self._opener = opener
        self._book = book
        self._moved = moved
        self._sending = sending
        self._cancel = cancel
        self._observer = observer
        self._links = {link.image.id: link for link in plan.chain}
        self._with: dict[Digest, set[str]] = {}  # the images that have a layer
        self._last: dict[str, Descriptor] = {}
        self._outgoing: dict[str, OutgoingLayer] = {}
        ends: dict[Digest, tuple[str, Descriptor]] = {}
        for link in plan.chain:
            if link.layer is not None:
                self._with.setdefault(link.layer.digest, set()).add(link.image.id)
                ends[link.layer.digest] = link.image.id, link.layer
        for image_id, layer in ends.values():
            self._last[image_id] = layer

    def opened(self, link: Link) -> OutgoingLayer:
        layer = link.layer
        if layer is None:
            return OutgoingLayer(io.BytesIO(EMPTY_LAYER), _EMPTY, link.diff_id, self._cancel)

        def report(done: int) -> None:
            self._observer.progress(str(layer.digest), "pushing", done, layer.size)

        file = self._opener(layer)
        made = OutgoingLayer(file, layer, link.diff_id, self._cancel, report)
        self._outgoing[link.image.id] = made
        return made

    def image(self, image: V1Image) -> None:
        self._learn(image)
        layer = self._last.get(image.id)
        if layer is not None:
            self.settle(layer, not self._with[layer.digest].isdisjoint(self._sending.sent))

    def _learn(self, image: V1Image) -> None:
        """The payload's sum is of the JSON and the bytes: a registry that says the same of that
        image has these very bytes."""
        link, sent = self._links[image.id], self._sending.sent.get(image.id)
        outgoing = self._outgoing.pop(image.id, None)
        if sent is None or outgoing is None or not outgoing.unchanged or link.layer is None:
            return
        stated = StatedLayer(
            image_id=image.id,
            json=image.raw,
            size=link.layer.size,
            checksum_payload=sent.checksum_payload,
        )
        layer = Layer(
            digest=link.layer.digest,
            size=link.layer.size,
            diff_id=link.diff_id,
            media_type=f"{OCI_LAYER}+gzip",
        )
        try:
            self._book.record(self._reference.host, stated, layer)
        except StoreError as error:  # it is there all the same
            self._observer.log("warning", f"{layer.digest}: {error}")

    def settle(self, descriptor: Descriptor, moved: bool) -> None:
        self._observer.settled(
            Settled(
                reference=str(self._reference),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=self._moved if moved else "exists",
            )
        )
