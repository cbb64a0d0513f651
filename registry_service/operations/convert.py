"""Docker's images as OCI's and the other way round: whole trees of what the store has."""

from __future__ import annotations

import dataclasses

from ..cancel import Cancellation
from ..convert import Converted, Format, convert, convertible
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidReferenceError, ManifestError, StoreError
from ..manifest import Manifest
from ..observe import Observer, Settled
from ..reference import Reference
from ..store import Store
from .content import Node, check_node, find, tree
from .keeping import pin_tree
from .selection import missing, narrow, select

__all__ = ["convert_image", "converted_tree", "formatted", "pulled_tree"]


def convert_image(
    source: Reference,
    target: Reference,
    *,
    store: Store,
    format: Format,
    platform: str = "",
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Give the image ``source`` of the store, in that format, the name ``target``.

    Configurations and layers are the same content in both; only manifests are written. Each
    part is told as it settles: ``converted``, or ``exists`` for what stays as it is. ``platform``
    takes of an index what `choose` does; an index must be complete, since a part that is not
    there cannot be given its new digest.
    """
    if target.digest is not None:
        raise InvalidReferenceError(
            f"{target}: a new name is a tag; the digest comes of the conversion"
        )
    with store.lease() as lease:
        whole = tree(store, find(store, source))
        check_node(store, source, whole, platform)
        node = select(whole, platform)
        if not node.complete:
            raise StoreError(
                f"the store does not have all of {source} ({missing(node)}); pull it with the "
                "platform 'all', or convert one platform",
                code="incomplete",
            )
        pin_tree(lease, source, whole, cancel)
        changed = formatted(source, node, format, cancel=cancel, observer=observer)
        lease.secure((one.descriptor.digest for one in changed.walk()), cancel)
        named = changed.descriptor if changed.manifest is None else changed.manifest.descriptor
        return _keep(changed, named, target, store, cancel, observer)


def _keep(
    changed: Node,
    named: Descriptor,
    target: Reference,
    store: Store,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Put what was made, which is pinned, and name it."""
    for one in changed.walk():
        cancel.check()
        state = "exists"
        if one.manifest is not None and not store.has(one.descriptor.digest):
            store.put(one.manifest.raw, one.manifest.media_type, one.manifest.digest)
            state = "converted"
        if one is changed:
            needs = [part.descriptor.digest for part in changed.walk()]
            store.tag(str(target), named, needs, cancel=cancel)
        observer.settled(
            Settled(
                reference=str(target),
                digest=str(one.descriptor.digest),
                media_type=one.descriptor.media_type,
                size=one.descriptor.size,
                state=state,
            )
        )
    return named


def pulled_tree(
    reference: Reference,
    whole: Node,
    platform: str,
    format: Format,
    *,
    cancel: Cancellation,
    observer: Observer,
) -> Node:
    """What a pull of ``platform`` names, in that format, of ``whole``, which the store has as
    far as it was chosen.

    An index cannot be converted without all of its parts, since they get new digests. So the
    image of one platform comes in its place, of several an index of those; an index in which
    nothing is to be converted stays whole. The new manifests are not in the store.
    """
    node = narrow(whole, platform)
    if not node.complete:
        raise StoreError(
            f"{reference} has indexes within its index, and a part of these is not converted "
            f"({missing(node)}); pull the platform 'all'",
            code="incomplete",
        )
    made = formatted(reference, node, format, cancel=cancel, observer=observer)
    if made.descriptor.digest == node.descriptor.digest and _is_of(whole, format):
        return whole
    return made


def _is_of(node: Node, format: Format) -> bool:
    """Whether the manifest itself has nothing to convert."""
    return node.manifest is not None and convert(node.manifest, format).manifest is node.manifest


def formatted(
    reference: Reference,
    node: Node,
    format: Format,
    *,
    cancel: Cancellation,
    observer: Observer,
) -> Node:
    """`converted_tree`, or a `ManifestError` for what the format has no words for."""
    made = converted_tree(node, format, cancel=cancel, observer=observer)
    if made is None:
        raise ManifestError(f"{reference} is no image, and so there is no {format.value} manifest")
    return made


def converted_tree(
    node: Node, format: Format, *, cancel: Cancellation, observer: Observer
) -> Node | None:
    """``node`` and all below in that format; None for what the format has no words for, and
    what is in an index with it is kept. Digests that change, and what is lost, are told.

    The new manifests are not in the store.
    """
    return _Conversion(format=format, cancel=cancel, observer=observer).of(node)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Conversion:
    format: Format
    cancel: Cancellation
    observer: Observer
    # Each manifest is converted once, however many indexes name it.
    done: dict[Digest, Converted | None] = dataclasses.field(default_factory=dict)
    nodes: dict[Digest, tuple[Node, ...]] = dataclasses.field(default_factory=dict)

    def of(self, node: Node) -> Node | None:
        if node.manifest is None:
            return node
        self.cancel.check()
        digest = node.manifest.digest
        if digest not in self.done:
            self.done[digest] = self.convert(node, node.manifest)
        made = self.done[digest]
        if made is None:
            return None
        new = made.manifest
        descriptor = dataclasses.replace(
            node.descriptor, media_type=new.media_type, digest=new.digest, size=len(new.raw)
        )
        if new.digest != digest:
            descriptor = dataclasses.replace(descriptor, data=None)
        return Node(descriptor=descriptor, present=True, manifest=new, children=self.nodes[digest])

    def convert(self, node: Node, manifest: Manifest) -> Converted | None:
        if not convertible(manifest, self.format):
            return None
        children = {child.descriptor.digest: self.of(child) for child in node.children}
        if manifest.is_index:
            became = {
                digest: None if child is None else child.descriptor
                for digest, child in children.items()
            }
            made = convert(manifest, self.format, became)
        else:
            made = convert(manifest, self.format)
        self.nodes[manifest.digest] = _children(made.manifest, children)
        self.tell(manifest, made)
        return made

    def tell(self, old: Manifest, made: Converted) -> None:
        new = made.manifest
        if new.digest == old.digest:
            return
        self.observer.log(
            "info",
            f"{old.media_type} {old.digest} became {new.media_type} {new.digest}; its digest "
            "is another one now",
        )
        if made.lost:
            shown = ", ".join(made.lost[:10]) + ("…" if len(made.lost) > 10 else "")
            self.observer.log(
                "warning", f"{old.digest}: the {self.format.value} format has no place for {shown}"
            )


def _children(manifest: Manifest, old: dict[Digest, Node | None]) -> tuple[Node, ...]:
    """The nodes of a converted manifest: of an index its new parts, of an image the same
    blobs, by their new media types."""
    by_digest = {one.descriptor.digest: one for one in old.values() if one is not None}
    return tuple(
        dataclasses.replace(by_digest[child.digest], descriptor=child)
        for child in manifest.children
        if child.digest in by_digest
    )
