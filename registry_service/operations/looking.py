"""Looking at an image without bringing it anywhere: its manifests and configurations, of the
store or of a registry."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, TypeAlias

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import DoesNotExistError, ManifestError, PlatformError, StoreError
from ..manifest import Manifest
from ..reference import Reference
from ..session.reader import ImageReader
from ..store import Store
from .content import ALL, check_fits, choose, find, names_platform, platform_of, read_manifest
from .v1.look import json_on_v1
from .versions import Reader, V1Client, needs_v2

__all__ = [
    "CONFIG_LIMIT",
    "Looker",
    "Part",
    "digest_of",
    "document",
    "look_remote",
    "look_stored",
]

CONFIG_LIMIT: Final = 4 * 1024 * 1024

_DEEPEST: Final = 8
_NO_MANIFEST: Final = ("whose images have no manifest", "pull it, and the store has one")


class Part(enum.Enum):
    """What is wanted of an image, by the words that people write."""

    MANIFEST = "manifest"
    CONFIG = "config"
    DIGEST = "digest"


class Looker:
    """Where manifests and configurations come from: the store."""

    source = "store"

    def __init__(self, store: Store) -> None:
        self._store = store

    def manifest(self, descriptor: Descriptor) -> Manifest | None:
        """None for what is not there."""
        if not self._store.has(descriptor.digest, descriptor.size):
            return None
        return read_manifest(self._store, descriptor)

    def blob(self, descriptor: Descriptor) -> bytes | None:
        """A configuration; None for what is not there."""
        if not self._store.has(descriptor.digest, descriptor.size):
            return None
        return self._store.read(descriptor.digest, CONFIG_LIMIT)


#: What a name stands for, and where its parts are looked for.
Found: TypeAlias = tuple[Looker, Descriptor, Manifest]


class _Remote(Looker):
    source = "registry"

    def __init__(self, client: ImageReader, repository: str) -> None:
        self._client = client
        self._repository = repository

    def manifest(self, descriptor: Descriptor) -> Manifest | None:
        inline = descriptor.inline
        if inline is not None:
            return Manifest.parse(inline, descriptor.media_type, descriptor.digest)
        return self._client.get_manifest(self._repository, str(descriptor.digest))

    def blob(self, descriptor: Descriptor) -> bytes | None:
        inline = descriptor.inline
        if inline is not None:
            return inline
        return self._client.read_blob(self._repository, descriptor, limit=CONFIG_LIMIT)


def look_stored(reference: Reference, store: Store) -> Found | None:
    """What the name stands for in the store."""
    top = _stored(reference, store)
    if top is None:
        return None
    reader = Looker(store)
    manifest = reader.manifest(top)
    if manifest is None:
        raise ManifestError(f"the store has {reference} by name, but not its manifest")
    return reader, top, manifest


def look_remote(reference: Reference, client: ImageReader) -> Found:
    """What the name stands for over there."""
    manifest = client.get_manifest(reference.repository, reference.locator)
    return _Remote(client, reference.repository), manifest.descriptor, manifest


def _stored(reference: Reference, store: Store) -> Descriptor | None:
    try:
        return find(store, reference)
    except StoreError as error:
        if error.code != "not-in-store":  # damage is told, and hidden by nothing
            raise
        return None


def digest_of(
    reference: Reference,
    *,
    store: Store,
    connect: Callable[[], Reader],
    remote: bool = False,
    platform: str = "",
) -> Digest:
    """The digest of what the name stands for, or of the image of one platform. A registry is
    not asked for a manifest where its word for the digest is enough."""
    if platform:
        found = None if remote else look_stored(reference, store)
        found = found or look_remote(reference, needs_v2(connect(), *_NO_MANIFEST))
        return _image(reference, found, platform)[1].digest
    top = None if remote else _stored(reference, store)
    if top is None:
        client = needs_v2(connect(), *_NO_MANIFEST)
        top = client.head_manifest(reference.repository, reference.locator)
    if top is None:
        raise DoesNotExistError(f"manifest {reference}")
    return top.digest


def document(
    reference: Reference,
    part: Part,
    *,
    store: Store,
    connect: Callable[[], Reader],
    remote: bool = False,
    platform: str = "",
) -> bytes:
    """The manifest that the name stands for, or the configuration of its image, byte for byte.

    ``platform`` takes the image of one platform of an index; for a configuration, this
    machine's without one. Of a registry that speaks V1 it is the image's own JSON; a manifest
    such a one has not. Raises `PlatformError`, `ManifestError` where there is none.
    """
    found = None if remote else look_stored(reference, store)
    if found is None:
        client = connect()
        if part is Part.CONFIG and isinstance(client, V1Client):
            return json_on_v1(reference, client, platform)
        found = look_remote(reference, needs_v2(client, *_NO_MANIFEST))
    if part is Part.MANIFEST and not platform:
        return found[2].raw
    reader, manifest = _image(reference, found, platform)
    if part is Part.MANIFEST:
        return manifest.raw
    if manifest.config is None:
        raise ManifestError(f"{reference}: {manifest.media_type} has no configuration")
    raw = reader.blob(manifest.config)
    if raw is None:
        raise _absent(reference, manifest.config)
    return raw


def _image(reference: Reference, found: Found, platform: str) -> tuple[Looker, Manifest]:
    """The image of one platform, this machine's without a wish."""
    reader, top, manifest = found
    for _ in range(_DEEPEST):
        if not manifest.is_index:
            break
        parts = choose(manifest, platform)
        if len(parts) != 1:
            what = platform or "its index"
            raise PlatformError(f"{reference}: {what} is {len(parts)} images; name one platform")
        part = reader.manifest(parts[0])
        if part is None:
            raise _absent(reference, parts[0])
        manifest = part
    else:
        raise ManifestError(f"{top.digest}: indexes nest more than {_DEEPEST} deep")
    if platform and platform != ALL and names_platform(manifest.config):
        raw = reader.blob(manifest.config)
        has = None if raw is None else platform_of(raw)
        if has is not None:
            check_fits(reference, has, platform)
    return reader, manifest


def _absent(reference: Reference, descriptor: Descriptor) -> StoreError:
    what = f" ({descriptor.platform})" if descriptor.platform else ""
    return StoreError(
        f"the store does not have {descriptor.digest}{what} of {reference}; ask its registry "
        "('remote'), or pull it",
        code="incomplete",
    )
