"""What goes into an archive, and the archive's bytes: the same bytes for the same images, always.

An OCI archive keeps every blob as it is. A docker-archive is what Docker 25 writes: an OCI layout
of images whose layers are not compressed, with ``manifest.json`` and ``repositories`` beside it, so
that every docker, podman, skopeo and containerd finds what it knows. To learn how large a layer is
without its compression it is read once before, and verified against its diff id on the way.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from ..cancel import Cancellation
from ..compression import CHUNK, LONGEST_MAGIC, compression_of, decompressed
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import ArchiveError, DigestMismatchError
from ..manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from ..observe import Observer
from ..reference import Reference
from ..referrers import Companion
from ..store import REF_NAME, Content
from .docker import CONFIG_LIMIT, MANIFEST, OCI_CONFIG, OCI_LAYER, diff_ids, made
from .oci import IMAGE_NAME, INDEX, LAYOUT, blob_name
from .tar import end, header, padding

__all__ = ["Form", "Picked", "Plan", "plan"]

_REPOSITORIES: Final = "repositories"


class Form(enum.Enum):
    """The kinds of archives, by the words that people write."""

    DOCKER = "docker"
    OCI = "oci"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """An image that goes into an archive, with its manifest, which need not be in the store:
    it may be an index of chosen platforms. ``parts`` are all that it is made of, itself too,
    and what ``companions`` are made of, which go into an OCI archive along with it."""

    name: Reference
    descriptor: Descriptor
    manifest: Manifest
    parts: tuple[Descriptor, ...]
    companions: tuple[Companion, ...] = ()


#: Gives the bytes of one member, from its start.
_Opener = Callable[[], Iterator[bytes]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    size: int
    opener: _Opener


class Plan:
    """An archive that can be written: its members are known, and how large each is.

    ``size`` is that of the archive, in bytes.
    """

    def __init__(
        self, entries: Mapping[str, _Entry], cancel: Cancellation, observer: Observer
    ) -> None:
        self._entries = dict(sorted(entries.items()))
        self._cancel = cancel
        self._observer = observer
        size = sum(
            len(header(name, entry.size)) + entry.size + padding(entry.size)
            for name, entry in self._entries.items()
        )
        self.size = size + len(end(size))

    def pieces(self) -> Iterator[bytes]:
        """The archive's bytes. Raises `DigestMismatchError` for content that was damaged in the
        store, `CancelledError`, `StoreError`."""
        written = 0
        for piece in self._pieces():
            self._cancel.check()
            yield piece
            written += len(piece)
            self._observer.progress("archive", "saving", written, self.size)
        yield end(written)
        self._observer.progress("archive", "saving", self.size, self.size)

    def _pieces(self) -> Iterator[bytes]:
        for name, entry in self._entries.items():
            yield header(name, entry.size)
            done = 0
            for piece in entry.opener():
                done += len(piece)
                if done > entry.size:
                    break
                yield piece
            if done != entry.size:
                raise ArchiveError(f"{name} has another size than the {entry.size} bytes it had")
            if padding(done):
                yield bytes(padding(done))


def plan(
    images: Sequence[Picked],
    form: Form,
    *,
    content: Content,
    cancel: Cancellation,
    observer: Observer,
) -> Plan:
    """The archive of ``images``. Raises `ArchiveError` for what is no image of a
    docker-archive, and `DigestMismatchError` for layers that are not what they should be."""
    planner = _Planner(content, cancel, observer)
    if form is Form.OCI:
        planner.oci(images)
    else:
        planner.docker(images)
    return Plan(planner.entries, cancel, observer)


class _Planner:
    def __init__(self, content: Content, cancel: Cancellation, observer: Observer) -> None:
        self.entries: dict[str, _Entry] = {}
        self._content = content
        self._cancel = cancel
        self._observer = observer
        self._layers: dict[Digest, Descriptor] = {}  # diff ids, and what they are here

    # OCI

    def oci(self, images: Sequence[Picked]) -> None:
        for image in images:
            for part in image.parts:
                self.blob(part)
            self.text(blob_name(image.manifest.digest), image.manifest.raw)
        self.layout(
            [(image.descriptor, image.name) for image in images],
            [one for image in images for one in image.companions],
        )

    def blob(self, part: Descriptor) -> None:
        opener = partial(self.stored, part.digest, part.size)
        self.entries[blob_name(part.digest)] = _Entry(size=part.size, opener=opener)

    def layout(
        self, entries: Sequence[tuple[Descriptor, Reference]], companions: Sequence[Companion] = ()
    ) -> None:
        """What belongs to an image has no name: its subject says what it is, to those who know
        referrers, or cosign's tag, which no other tool takes for an image's name."""
        self.document(LAYOUT, {"imageLayoutVersion": "1.0.0"})
        manifests = []
        for entry, name in entries:
            known = _name_of(name, entry)
            notes = {} if known is None else {IMAGE_NAME: str(known), REF_NAME: str(known)}
            plain = dataclasses.replace(entry, platform=None, data=None, annotations=notes)
            manifests.append(plain.to_json())
        for one in {(each.descriptor.digest, each.locator): each for each in companions}.values():
            notes = {REF_NAME: one.locator} if one.suffix else {}
            plain = dataclasses.replace(one.descriptor, platform=None, data=None, annotations=notes)
            manifests.append(plain.to_json())
        self.document(INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})

    def document(self, name: str, value: Any) -> None:
        self.text(name, json.dumps(value, separators=(",", ":")).encode() + b"\n")

    def text(self, name: str, raw: bytes) -> None:
        self.entries[name] = _Entry(size=len(raw), opener=lambda: iter([raw]))

    # docker

    def docker(self, images: Sequence[Picked]) -> None:
        tags: dict[str, list[str]] = {}  # by the file of the configuration, as Docker lists them
        layers: dict[str, list[str]] = {}
        tops: dict[str, dict[str, str]] = {}
        found = []
        for image in images:
            config, parts = self.parts(image)
            file = blob_name(config.digest)
            layers[file] = [blob_name(part.digest) for part in parts]
            names = tags.setdefault(file, [])
            if image.name.tag is not None:
                names.append(f"{image.name.name}:{image.name.tag}")
                if parts:
                    tops.setdefault(image.name.name, {})[image.name.tag] = parts[-1].digest.hex
            raw = made(config, parts)
            manifest = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(raw), size=len(raw))
            self.text(blob_name(manifest.digest), raw)
            found.append((manifest, image.name))
        self.layout(found)
        listed = [
            {"Config": file, "RepoTags": tags[file] or None, "Layers": layers[file]}
            for file in tags
        ]
        self.document(MANIFEST, listed)
        if tops:
            self.document(_REPOSITORIES, tops)

    def parts(self, image: Picked) -> tuple[Descriptor, list[Descriptor]]:
        """The configuration and the layers, uncompressed, as the archive has them."""
        manifest = image.manifest
        if manifest.config is None:
            raise self.no_image(image, "it has no configuration")
        config = dataclasses.replace(manifest.config, media_type=OCI_CONFIG, data=None)
        try:
            ids = diff_ids(self._content.read(config.digest, CONFIG_LIMIT))
        except ArchiveError as error:
            raise self.no_image(image, str(error)) from None
        if len(ids) != len(manifest.layers):
            raise self.no_image(
                image, f"it has {len(manifest.layers)} layers and {len(ids)} diff ids"
            )
        self.blob(config)
        layers = [self.layer(*pair) for pair in zip(manifest.layers, ids, strict=True)]
        return Descriptor(media_type=OCI_CONFIG, digest=config.digest, size=config.size), layers

    def layer(self, layer: Descriptor, diff_id: Digest) -> Descriptor:
        known = self._layers.get(diff_id)
        if known is None:
            pieces = self.stored(layer.digest, layer.size)
            start = _first(pieces)
            kind = compression_of(start[:LONGEST_MAGIC])
            if kind or layer.digest != diff_id:
                size = self.measure(layer, kind, diff_id)
            else:
                size = layer.size
            known = Descriptor(media_type=OCI_LAYER, digest=diff_id, size=size)
            self._layers[diff_id] = known
            opener = partial(self.unpacked, layer, kind, diff_id)
            self.entries[blob_name(diff_id)] = _Entry(size=size, opener=opener)
        return known

    def measure(self, layer: Descriptor, kind: str, diff_id: Digest) -> int:
        size = 0
        for piece in self.unpacked(layer, kind, diff_id):
            self._cancel.check()
            size += len(piece)
            self._observer.progress(str(layer.digest), "unpacking", size, -1)
        self._observer.progress(str(layer.digest), "unpacking", size, size)
        return size

    def unpacked(self, layer: Descriptor, kind: str, diff_id: Digest) -> Iterator[bytes]:
        pieces = self.stored(layer.digest, layer.size)
        if not kind:
            return _verified(pieces, diff_id, "layer")
        return _verified(decompressed(pieces, kind), diff_id, "layer")

    def stored(self, digest: Digest, size: int) -> Iterator[bytes]:
        return _verified(self.raw(digest, size), digest, "blob")

    def raw(self, digest: Digest, size: int) -> Iterator[bytes]:
        buffer = memoryview(bytearray(min(CHUNK, max(size, 1))))
        stream = self._content.open(digest)
        try:
            while count := stream.readinto(buffer):
                self._cancel.check()
                yield bytes(buffer[:count])
        finally:
            stream.close()

    def no_image(self, image: Picked, why: str) -> ArchiveError:
        return ArchiveError(
            f"{image.name} cannot be in a docker-archive: {why}; save it in the format 'oci'"
        )


def _name_of(name: Reference, descriptor: Descriptor) -> Reference | None:
    """The name under which the archive has that: a digest in it must be the image's own, which
    it no longer is where one platform stands for its index, or layers are unpacked."""
    if name.digest in (None, descriptor.digest):
        return name
    return None if name.tag is None else name.with_tag(name.tag)


def _first(pieces: Iterator[bytes]) -> bytes:
    for piece in pieces:
        return piece
    return b""


def _verified(pieces: Iterator[bytes], digest: Digest, what: str) -> Iterator[bytes]:
    """The same pieces; the last of them comes only if all are what the digest says."""
    hasher = digest.hasher()
    size, held = 0, b""
    for piece in pieces:
        if held:
            yield held
        held = piece
        hasher.update(piece)
        size += len(piece)
    if not digest.matches(hasher):
        actual = f"{digest.algorithm}:{hasher.hexdigest()}"
        raise DigestMismatchError(
            f"{what} {digest} of the store is damaged: its {size} bytes have the digest {actual}; "
            "remove it and pull again",
            expected=str(digest),
            actual=actual,
            size=size,
        )
    if held:
        yield held
