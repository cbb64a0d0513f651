"""What of an image is meant: some platforms of an index, and without layers from elsewhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection

from ..digest import Digest
from ..manifest import Manifest
from ..media import FOREIGN_LAYERS
from .content import ALL, Node, choose, platforms

__all__ = ["missing", "narrow", "reduced", "select", "without_foreign"]


def select(node: Node, platform: str) -> Node:
    """What ``platform`` takes of an index: the image of the one platform, or, of several, an
    index of those (the index itself if that is all of it). Empty and `ALL` take the whole.

    Raises `PlatformError`. The new index is not in the store.
    """
    return node if platform in ("", ALL) else narrow(node, platform)


def narrow(node: Node, platform: str) -> Node:
    """As `select`, but that an empty ``platform`` takes what `choose` takes then."""
    manifest = node.manifest
    if manifest is None or not manifest.is_index:
        return node
    chosen = {one.digest for one in choose(manifest, platform)}
    kept = tuple(one for one in node.children if one.descriptor.digest in chosen)
    if len(kept) == 1:
        return kept[0]
    return node if len(kept) == len(node.children) else _reduced(manifest, kept)


def _reduced(manifest: Manifest, kept: tuple[Node, ...]) -> Node:
    made = reduced(manifest, {one.descriptor.digest for one in kept})
    return Node(descriptor=made.descriptor, present=True, manifest=made, children=kept)


def reduced(index: Manifest, kept: Collection[Digest]) -> Manifest:
    """An index like ``index`` that names only the manifests ``kept``."""
    digests = set(map(str, kept))
    document = json.loads(index.raw)
    document["manifests"] = [one for one in document["manifests"] if one["digest"] in digests]
    raw = json.dumps(document, separators=(",", ":")).encode()
    return Manifest.parse(raw, index.media_type, Digest.of(raw, index.digest.algorithm))


def without_foreign(node: Node) -> Node:
    """``node`` without the layers that come from where their URLs say, which are neither
    needed here nor sent. One without URLs is a layer like all others."""
    if not node.children:
        return node
    kept = tuple(
        without_foreign(one)
        for one in node.children
        if not (one.descriptor.media_type in FOREIGN_LAYERS and one.descriptor.urls)
    )
    return dataclasses.replace(node, children=kept)


def missing(node: Node) -> str:
    """What is not in the store, for people: the platforms, or the digests."""
    if node.manifest is not None and node.manifest.is_index:
        lacking = [one.descriptor for one in node.children if not one.complete]
        return f"{len(lacking)} of {len(node.children)} parts are missing: {platforms(lacking)}"
    absent = [str(one.descriptor.digest) for one in node.walk() if not one.present]
    return f"{', '.join(absent[:3])}{'…' if len(absent) > 3 else ''} missing"
