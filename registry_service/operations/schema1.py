"""Images of schema 1: pulled as the OCI images that they stand for, and shown.

What was converted is remembered where the name is: the entry of the store's index carries the
digest that the registry has (`CONVERTED_FROM`), so that an unchanged image is not fetched and
converted again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DoesNotExistError, InvalidDigestError, PlatformError
from ..inflate import diff_id
from ..media import OCI_CONFIG, OCI_LAYER
from ..observe import Observer
from ..platform import Platform
from ..schema1 import ManifestData, layers_of
from ..session.reader import ImageReader
from ..store import Store
from ..upgrade import Layer, Step, UpgradedImage, upgrade
from .content import tree

__all__ = [
    "CONVERTED_FROM",
    "Shown",
    "converted_from",
    "origin_of",
    "platform_of_schema1",
    "platform_of_step",
    "show",
    "upgraded",
]

#: The annotation of a name in the store whose image was made of another one of its registry.
CONVERTED_FROM: Final = "io.registry-engine.converted-from"


def origin_of(store: Store, known: Descriptor) -> Digest | None:
    """What an image of the store was converted from; None also where it is not complete."""
    text = known.annotations.get(CONVERTED_FROM)
    if text is None:
        return None
    try:
        digest = Digest.parse(text)
    except InvalidDigestError:
        return None
    return digest if tree(store, known).complete else None


def converted_from(descriptor: Descriptor, origin: Digest) -> Descriptor:
    """``descriptor``, which remembers what it was made of."""
    annotations = {**descriptor.annotations, CONVERTED_FROM: str(origin)}
    return dataclasses.replace(descriptor, annotations=annotations)


def upgraded(
    data: ManifestData,
    *,
    repository: str,
    client: ImageReader,
    store: Store,
    fetch: Callable[[Sequence[Descriptor]], object],
    cancel: Cancellation,
    observer: Observer,
) -> UpgradedImage:
    """The OCI image. Its layers are brought by ``fetch`` and its configuration is kept; its
    manifest is not yet. Each layer is read once, to find out its diff id."""
    old = layers_of(data)
    wanted = dict.fromkeys(step.blob_sum for step in old if not step.empty)
    layers = [
        Descriptor(
            media_type=f"{OCI_LAYER}+gzip",
            digest=digest,
            size=_size(digest, repository, client, store),
        )
        for digest in wanted
    ]
    fetch(layers)
    found = {layer.digest: _examined(layer, store, cancel, observer) for layer in layers}
    steps = [
        Step(value=one.compatibility, layer=None if one.empty else found[one.blob_sum])
        for one in old
    ]
    made = upgrade(steps, architecture=data.architecture)
    store.put(made.config, OCI_CONFIG)
    return made


def _size(digest: Digest, repository: str, client: ImageReader, store: Store) -> int:
    """How many bytes a blob has, which schema 1 does not say."""
    if store.has(digest):
        return store.size(digest)
    size = client.blob_size(repository, digest)
    if size is None:
        raise DoesNotExistError(f"blob {repository}@{digest}")
    return size


def _examined(layer: Descriptor, store: Store, cancel: Cancellation, observer: Observer) -> Layer:
    def report(done: int) -> None:
        observer.progress(str(layer.digest), "converting", done, layer.size)

    with store.open(layer.digest) as file:
        found, compressed = diff_id(file, cancel, report)
    media_type = f"{OCI_LAYER}+gzip" if compressed else OCI_LAYER
    return Layer(digest=layer.digest, size=layer.size, diff_id=found, media_type=media_type)


def platform_of_schema1(data: ManifestData) -> Platform:
    """The platform, as the topmost history has it."""
    return platform_of_step(data.compatibility(0), data.architecture)


def platform_of_step(top: Mapping[str, Any], architecture: str = "") -> Platform:
    """The platform of an image of which ``top`` is the topmost step, in schema 1 or in V1. What it
    does not say is as Docker had it at the time. Raises `PlatformError`, which names the field."""
    try:
        found = Platform.from_json(top)
    except PlatformError as error:
        raise PlatformError(f"the JSON of the image's topmost step: {error}") from None
    if found is not None and found.os and found.architecture:
        return found
    architecture = str(top.get("architecture") or architecture or "amd64")
    return Platform(os=str(top.get("os") or "linux"), architecture=architecture)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What there is to see of a schema 1 manifest. ``layers`` are the lowest first, each with
    its digest alone; ``config`` is the topmost history."""

    platform: Platform
    created: str
    layers: tuple[Mapping[str, Any], ...]
    config: Mapping[str, Any]


def show(data: ManifestData) -> Shown:
    config = data.compatibility(0)
    return Shown(
        platform=platform_of_schema1(data),
        created=str(config.get("created") or ""),
        layers=tuple({"digest": str(one.blob_sum)} for one in reversed(data.fs_layers)),
        config=config,
    )
