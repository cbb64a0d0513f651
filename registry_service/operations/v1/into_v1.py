"""Copy to a V1 registry, from one of V2 or from another one of V1, not through the disk.

What comes from V2 becomes a chain of images, as in a push; what comes from V1 is sent as it is: the
same ids, the same JSON, the same layers. Each layer is verified while it is relayed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Final

from ...cancel import Cancellation
from ...descriptor import Descriptor
from ...errors import DigestMismatchError, LayerError, ManifestError, StoreError
from ...manifest import MANIFEST_LIMIT, Manifest
from ...observe import Observer, Settled
from ...reference import Reference
from ...session.relay import Relay, RelayFile
from ...session.source import RegistrySource
from ...session.streaming import fill
from ...session.v1.client import V1Client
from ...session.v2 import V2Client
from ...store import LayerBook
from ...transport import Readable
from ...transport.retry import RetryPolicy
from ...v1.chain import chain_of
from ...v1.image import V1Image
from ..content import ALL, check_fits, choose, names_platform, platform_of
from ..schema1 import platform_of_step
from .push import Planned, check_alone, push
from .relay import LayerRelay
from .sending import Outgoing, Seen, Sending, tag_to_put
from .source import Described, V1Source, tag_of

__all__ = ["copy_between_v1", "copy_into_v1"]

_DEEPEST: Final = 8
_STATE: Final = "copied"
_JSON: Final = "application/json"  # what the protocol says that an image is


def copy_into_v1(
    source: Reference,
    target: Reference,
    *,
    origin: V2Client,
    client: V1Client,
    book: LayerBook,
    seen: Seen,
    policy: RetryPolicy,
    platform: str = "",
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Copy an image of V2 as a chain; returns what it is at its source. Of an index the one image,
    or that of ``platform``. What speaks against it is said before anything is sent."""
    tag_to_put(target)
    content = RegistrySource(origin, source.repository)

    def opener(blob: Descriptor) -> Readable:
        data = blob.inline
        if data is not None:
            return io.BytesIO(data)
        return _Relayed(
            Relay(
                blob,
                lambda offset: content.open(blob, offset, cancel),
                policy=policy,
                cancel=cancel,
                observer=observer,
            )
        )

    plan = _planned(source, origin, platform, opener)

    push(
        target,
        plan,
        client=client,
        opener=opener,
        book=book,
        moved=_STATE,
        seen=seen,
        cancel=cancel,
        observer=observer,
    )
    return plan.descriptor


def _planned(
    source: Reference,
    origin: V2Client,
    platform: str,
    opener: Callable[[Descriptor], Readable],
) -> Planned:
    manifest = origin.get_manifest(source.repository, source.locator)
    if manifest.is_index:
        manifest = _image(source, origin, manifest, platform)
    if manifest.schema1 is not None:
        raise ManifestError(
            f"{source} is of schema 1, which is not copied to V1; a pull makes an OCI image of it, "
            "and that can be pushed"
        )
    config = manifest.config
    raw = b"{}" if config is None else _read(source, config, opener)
    if platform not in ("", ALL) and names_platform(config):
        has = platform_of(raw)
        if has is not None:
            check_fits(source, has, platform)
    try:
        chain = chain_of(raw, manifest)
    except ManifestError as error:
        raise ManifestError(f"{source}: {error}") from None
    assert config is not None  # else it is no chain
    for layer in manifest.layers:
        if layer.urls and origin.blob_size(source.repository, layer.digest) is None:
            raise StoreError(
                f"{source}: the layer {layer.digest} comes from elsewhere, by its URLs, and V1 has "
                "no place for these, so that it cannot be copied there",
                code="incomplete",
            )
    return Planned(descriptor=manifest.descriptor, config=config, chain=chain)


def _read(source: Reference, config: Descriptor, opener: Callable[[Descriptor], Readable]) -> bytes:
    if config.size > MANIFEST_LIMIT:
        raise ManifestError(
            f"{source}: its configuration has {config.size} bytes; {MANIFEST_LIMIT} are allowed"
        )
    memory = memoryview(bytearray(config.size))
    file = opener(config)
    try:
        return bytes(memory[: fill(file, memory)])
    finally:
        file.close()


def _image(source: Reference, origin: V2Client, index: Manifest, platform: str) -> Manifest:
    """The one image of an index, or of an index within it. What builders tell of an image stands
    among them, as one for no platform that there is."""
    for _ in range(_DEEPEST):
        parts = index.manifests if platform in ("", ALL) else choose(index, platform)
        images = {
            one.digest: one for one in parts if one.platform is None or one.platform.os != "unknown"
        }
        found = check_alone(source, list(images.values()))
        index = origin.get_manifest(source.repository, found.digest)
        if not index.is_index:
            return index
    raise ManifestError(f"{source}: indexes nest more than {_DEEPEST} deep")


class _Relayed:
    """A blob that is relayed, as a file that lets go of its source."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._file: RelayFile = relay.open()

    def readinto(self, buffer: memoryview, /) -> int:
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._relay.close()


def copy_between_v1(
    source: Reference,
    target: Reference,
    *,
    origin: V1Source,
    client: V1Client,
    seen: Seen,
    policy: RetryPolicy,
    platform: str = "",
    cancel: Cancellation,
    observer: Observer,
) -> None:
    """Copy an image and all that it lies upon. Each image is told by its id, and the size of its
    layer, the image of the tag last."""
    tag_to_put(target)
    chain = origin.chain(origin.image_id(tag_of(source)))
    if platform not in ("", ALL):
        check_fits(source, platform_of_step(chain[-1].image.value), platform)
    sizes: dict[str, int] = {}
    moving = chain[0]

    def opened(one: Described) -> LayerRelay:
        nonlocal moving
        moving = one
        return LayerRelay(
            one.layer,
            lambda offset: origin.open_layer(one.layer, offset, cancel),
            policy=policy,
            cancel=cancel,
            observer=observer,
        )

    sending = Sending(target, client, cancel, observer, seen)
    top = chain[-1].image.id

    def settle(image: V1Image, moved: bool) -> None:
        observer.settled(
            Settled(
                reference=str(target),
                digest=image.id,
                media_type=_JSON,
                size=sizes[image.id],
                state=_STATE if moved else "exists",
            )
        )

    def settled(image: V1Image) -> None:
        if image.id != top:
            settle(image, image.id in sending.sent)

    sizes.update((one.image.id, one.layer.stated_size or 0) for one in chain)
    outgoing = [Outgoing(image=one.image, open=functools.partial(opened, one)) for one in chain]
    try:
        changed = sending.run(outgoing, settled)
    except (DigestMismatchError, LayerError) as error:
        origin.give_up(moving.layer, error)
        raise
    settle(chain[-1].image, changed)
