"""Images to test with: random, and the same again for the same seed.

Layers are real gzip-compressed tar archives with directories and files of random bytes.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

__all__ = [
    "Image",
    "ImageIndex",
    "Receiver",
    "push_image",
    "push_synthetic_image",
    "random_image",
    "random_index",
    "random_layer",
]

Media = Literal["oci", "docker"]

_CREATED: Final = "2024-01-01T00:00:00Z"
_MTIME: Final = 1_704_067_200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Types:
    manifest: str
    index: str
    config: str
    layer: str
    plain_layer: str


_TYPES: Final[dict[str, _Types]] = {
    "oci": _Types(
        manifest="application/vnd.oci.image.manifest.v1+json",
        index="application/vnd.oci.image.index.v1+json",
        config="application/vnd.oci.image.config.v1+json",
        layer="application/vnd.oci.image.layer.v1.tar+gzip",
        plain_layer="application/vnd.oci.image.layer.v1.tar",
    ),
    "docker": _Types(
        manifest="application/vnd.docker.distribution.manifest.v2+json",
        index="application/vnd.docker.distribution.manifest.list.v2+json",
        config="application/vnd.docker.container.image.v1+json",
        layer="application/vnd.docker.image.rootfs.diff.tar.gzip",
        plain_layer="application/vnd.docker.image.rootfs.diff.tar",
    ),
}


class Receiver(Protocol):
    """What images are pushed to: a `Registry`, or a stand-in of a test."""

    def put_blob(self, repository: str, data: bytes) -> str: ...

    def put_manifest(
        self, repository: str, tag: str | None, raw: bytes, media_type: str
    ) -> str: ...


class SyntheticReceiver(Receiver, Protocol):
    """One that can also serve made-up blobs."""

    def put_synthetic(self, repository: str, size: int, pattern: bytes = b"\0") -> str: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image for one platform: its manifest's bytes, its config's, and its layers'."""

    manifest: bytes
    media_type: str
    digest: str
    config: bytes
    layers: tuple[bytes, ...]
    platform: str

    @property
    def blobs(self) -> dict[str, bytes]:
        """Config and layers by their digests."""
        return {_digest(data): data for data in (self.config, *self.layers)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """An index, or Docker manifest list, with its images."""

    manifest: bytes
    media_type: str
    digest: str
    images: tuple[Image, ...]


def random_layer(seed: int, size: int = 4096, files: int = 3) -> tuple[bytes, str]:
    """A layer with ``files`` files of ``size`` random bytes in all, and its diff id.

    The diff id is the digest of the archive before compression. The layer is a little larger
    than ``size``: random bytes do not compress.
    """
    rng = random.Random(f"layer {seed}")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo(f"data-{seed}")
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, _MTIME
        tar.addfile(folder)
        for number in range(files):
            share = size // files + (size % files if number == 0 else 0)
            info = tarfile.TarInfo(f"data-{seed}/file-{number}")
            info.size, info.mode, info.mtime = share, 0o644, _MTIME
            tar.addfile(info, io.BytesIO(rng.randbytes(share)))
    raw = archive.getvalue()
    return gzip.compress(raw, compresslevel=1, mtime=0), _digest(raw)


def random_image(
    seed: int,
    layers: int = 3,
    layer_size: int = 4096,
    media: Media = "oci",
    platform: str = "linux/amd64",
) -> Image:
    """An image whose content depends on the arguments alone.

    ``layer_size`` is of each layer, in bytes. ``platform`` is ``os/architecture[/variant]``.
    """
    numbers = random.Random(f"image {seed} {platform}")
    made = [random_layer(numbers.getrandbits(32), layer_size) for _ in range(layers)]
    return _image(
        layers=[data for data, _ in made],
        descriptors=[_descriptor(_TYPES[media].layer, data) for data, _ in made],
        diff_ids=[diff_id for _, diff_id in made],
        media=media,
        platform=platform,
        comment=f"random image {seed}",
    )


def random_index(
    seed: int,
    platforms: Sequence[str] = ("linux/amd64", "linux/arm64/v8"),
    layers: int = 2,
    layer_size: int = 4096,
    media: Media = "oci",
) -> ImageIndex:
    """An index with a random image for each platform."""
    images = tuple(random_image(seed, layers, layer_size, media, one) for one in platforms)
    entries = [
        {
            **_descriptor(image.media_type, image.manifest),
            "platform": _platform(image.platform),
        }
        for image in images
    ]
    media_type = _TYPES[media].index
    raw = _json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    return ImageIndex(manifest=raw, media_type=media_type, digest=_digest(raw), images=images)


def push_image(
    registry: Receiver, repository: str, tag: str | None, image: Image | ImageIndex
) -> str:
    """Put an image, or an index with all its images, into a registry. Returns its digest.

    Nothing goes over the network. The images of an index get no tags of their own.
    """
    if isinstance(image, ImageIndex):
        for one in image.images:
            push_image(registry, repository, None, one)
    else:
        for data in image.blobs.values():
            registry.put_blob(repository, data)
    return registry.put_manifest(repository, tag, image.manifest, image.media_type)


def push_synthetic_image(
    registry: SyntheticReceiver,
    repository: str,
    tag: str,
    sizes: Sequence[int],
    media: Media = "oci",
    platform: str = "linux/amd64",
) -> Image:
    """Put an image with layers of so many zero bytes each, which nobody holds.

    For soak tests: sizes may be of many GiB. Zeros are an empty tar archive, so the image is a
    valid one; multiples of 512 and at least 1024 bytes keep it so. The image that is returned
    has no layers in memory.
    """
    descriptors = [
        {
            "mediaType": _TYPES[media].plain_layer,
            "digest": registry.put_synthetic(repository, size),
            "size": size,
        }
        for size in sizes
    ]
    image = _image(
        layers=[],
        descriptors=descriptors,
        diff_ids=[str(one["digest"]) for one in descriptors],
        media=media,
        platform=platform,
        comment="synthetic image",
    )
    push_image(registry, repository, tag, image)
    return image


def _image(
    *,
    layers: Sequence[bytes],
    descriptors: Sequence[dict[str, Any]],
    diff_ids: Sequence[str],
    media: Media,
    platform: str,
    comment: str,
) -> Image:
    types = _TYPES[media]
    config = _json(
        {
            "created": _CREATED,
            **_platform(platform),
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            "history": [
                {"created": _CREATED, "created_by": f"layer {number}", "comment": comment}
                for number in range(len(diff_ids))
            ],
        }
    )
    raw = _json(
        {
            "schemaVersion": 2,
            "mediaType": types.manifest,
            "config": _descriptor(types.config, config),
            "layers": list(descriptors),
        }
    )
    return Image(
        manifest=raw,
        media_type=types.manifest,
        digest=_digest(raw),
        config=config,
        layers=tuple(layers),
        platform=platform,
    )


def _platform(text: str) -> dict[str, str]:
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ValueError(f"platform {text!r} is not of the form os/architecture[/variant]")
    return dict(zip(("os", "architecture", "variant"), parts, strict=False))


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
