"""Looking at an image of a V1 registry: what its chain says, and what it becomes where that is
known already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...cancel import Cancellation
from ...observe import Observer
from ...platform import Platform
from ...reference import Reference
from ...session.v1.client import V1Client
from ...store import LayerBook
from ...upgrade import Layer, Step, UpgradedImage, upgrade
from ..content import ALL, check_fits
from ..schema1 import platform_of_step
from .source import Described, V1Source, tag_of

__all__ = ["Seen", "json_on_v1", "look_on_v1"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is to see of an image of V1. ``digest`` and ``media_type`` are those of the OCI
    image that it becomes, empty as long as one of its layers never came; ``size`` counts, in bytes,
    what is known. ``layers`` are the lowest first, each by the ``id`` of its image, and by its
    descriptor where it came before. ``config`` is the image's own JSON."""

    digest: str
    media_type: str
    size: int
    platform: Platform
    layers: tuple[Mapping[str, Any], ...]
    config: Mapping[str, Any]


def look_on_v1(
    reference: Reference, client: V1Client, book: LayerBook, platform: str, observer: Observer
) -> Seen:
    """The image of a tag; nothing of its layers is fetched. Raises `PlatformError` where it is for
    none of the platforms that are asked for."""
    source = _source(reference, client, observer)
    chain = source.chain(source.image_id(tag_of(reference)))
    top = chain[-1].image
    has = _checked(reference, top.value, platform)
    known = {
        one.image.id: book.find(source.host, one.layer) for one in chain if not one.image.empty
    }
    layers = tuple(_shown(one, known[one.image.id]) for one in chain if one.image.id in known)
    made = _made(chain, known)
    if made is None:
        stated = (one.layer.stated_size or 0 for one in chain if one.image.id in known)
        return Seen(
            digest="",
            media_type="",
            size=len(top.raw) + sum(stated),
            platform=has,
            layers=layers,
            config=top.value,
        )
    manifest = made.manifest
    return Seen(
        digest=str(manifest.digest),
        media_type=manifest.media_type,
        size=len(manifest.raw) + sum(one.size for one in manifest.children),
        platform=has,
        layers=layers,
        config=top.value,
    )


def json_on_v1(reference: Reference, client: V1Client, platform: str) -> bytes:
    """The image's own JSON, byte for byte. Raises as `look_on_v1` does."""
    source = _source(reference, client, Observer())
    image = source.described(source.image_id(tag_of(reference))).image
    _checked(reference, image.value, platform)
    return image.raw


def _source(reference: Reference, client: V1Client, observer: Observer) -> V1Source:
    # What ends the client's requests is the client's own.
    return V1Source(client, reference, cancel=Cancellation(), observer=observer)


def _checked(reference: Reference, top: Mapping[str, Any], platform: str) -> Platform:
    has = platform_of_step(top)
    if platform not in ("", ALL):
        check_fits(reference, has, platform)
    return has


def _shown(one: Described, layer: Layer | None) -> Mapping[str, Any]:
    shown: dict[str, Any] = {"id": one.image.id}
    if layer is not None:
        shown |= {"mediaType": layer.media_type, "digest": str(layer.digest), "size": layer.size}
    elif one.layer.stated_size is not None:
        shown["size"] = one.layer.stated_size
    return shown


def _made(chain: Sequence[Described], known: Mapping[str, Layer | None]) -> UpgradedImage | None:
    """What the chain becomes; None where a layer is not known."""
    if None in known.values():
        return None
    return upgrade([Step(value=one.image.value, layer=known.get(one.image.id)) for one in chain])
