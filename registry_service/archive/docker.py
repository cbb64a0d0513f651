"""docker-archive: what ``docker save`` writes, old layout and new, and what kaniko and others do.

``manifest.json`` lists the images: the file of the configuration, those of the layers, and the
names. What is no name is left out of these with a warning. An image becomes an OCI image: the
configuration as it is, the layers as they lie in the archive (most are not compressed, so that
their digests are the diff ids), and a manifest that is made of both, always the same for the same
archive. A layer that is compressed in a way for which OCI has no media type is decompressed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from ..cancel import Cancellation
from ..compression import LONGEST_MAGIC, compression_of, decompressed
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    ArchiveError,
    DigestMismatchError,
    InvalidDigestError,
    InvalidReferenceError,
)
from ..manifest import MANIFEST_LIMIT, OCI_MANIFEST
from ..observe import Observer
from ..reference import Reference
from .content import Archive, ArchivedImage, read_document
from .file import ArchiveFile, ScratchFile
from .tar import Member, Members

__all__ = ["CONFIG_LIMIT", "MANIFEST", "OCI_CONFIG", "OCI_LAYER", "diff_ids", "made", "read_docker"]

MANIFEST: Final = "manifest.json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG_LIMIT: Final = 4 * 1024 * 1024

_MOST_IMAGES: Final = 1000
_MOST_LAYERS: Final = 1000
# A name that tells readers that there is none, or no tag: as a whole, or after the repository.
_NONE: Final = "<none>"
# Compressions that an OCI layer may have, and the end of its media type then.
_SUFFIXES: Final = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
# A file that is named after its digest, in each layout that is known.
_NAMED: Final = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


def read_docker(
    file: ArchiveFile,
    members: Members,
    scratch: Path,
    cancel: Cancellation,
    observer: Observer,
) -> Archive:
    """The archive whose ``manifest.json`` that is.

    Compressed layers are read once, for their digests, and compared with their diff ids; what
    is not compressed has its diff id as its digest, and is verified when it is used. ``scratch``
    is a directory for what comes out of layers that are decompressed. Raises `ArchiveError`,
    `DigestMismatchError`, `DiskFullError`.
    """
    with _Reader(file, members, scratch, cancel, observer) as reader:
        for place, entry in enumerate(_entries(file, members)):
            cancel.check()
            where = f"{file.path}: {MANIFEST}: image {place + 1}"
            try:
                reader.add(entry)
            except ArchiveError as error:
                raise ArchiveError(f"{where}: {error}") from None
            if entry.fault:
                observer.log("warning", f"{where}: left out of its names: {entry.fault}")
        return reader.archive()


def made(config: Descriptor, layers: list[Descriptor]) -> bytes:
    """The manifest of an OCI image, the same bytes for the same parts."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def diff_ids(config: bytes) -> tuple[Digest, ...]:
    """The diff ids of an image's configuration. Raises `ArchiveError` where it has none."""
    try:
        document = json.loads(config)
        texts = document["rootfs"].get("diff_ids") or []
        return tuple(Digest.parse(text) for text in texts)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ArchiveError("the configuration is none of an image: it has no rootfs") from None
    except InvalidDigestError as error:
        raise ArchiveError(f"the configuration: rootfs.diff_ids: {error}") from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """``labels`` are tags that are no references; ``fault`` says of one of them why, and how
    many more there are."""

    config: str
    layers: tuple[str, ...]
    names: tuple[Reference, ...]
    labels: tuple[str, ...]
    fault: str


def _entries(file: ArchiveFile, members: Members) -> Iterator[_Entry]:
    member = members.file(MANIFEST)
    if member is None:
        raise ArchiveError(f"{file.path} is no docker-archive: it has no {MANIFEST}")
    try:
        document = json.loads(read_document(file, member, MANIFEST_LIMIT))
    except (ValueError, RecursionError):
        raise ArchiveError(f"{file.path}: {MANIFEST} is not JSON") from None
    if not isinstance(document, list) or not 0 < len(document) <= _MOST_IMAGES:
        raise ArchiveError(f"{file.path}: {MANIFEST}: a list of 1 to {_MOST_IMAGES} is expected")
    for place, value in enumerate(document):
        try:
            yield _entry(value)
        except ArchiveError as error:
            raise ArchiveError(f"{file.path}: {MANIFEST}[{place}]: {error}") from None


def _entry(value: Any) -> _Entry:
    if not isinstance(value, dict) or not isinstance(value.get("Config"), str):
        raise ArchiveError("an object with a Config is expected")
    layers = _texts(value, "Layers")
    if len(layers) > _MOST_LAYERS:
        raise ArchiveError(f"{len(layers)} layers; {_MOST_LAYERS} are allowed")
    names, labels, fault = [], [], ""
    for text in _texts(value, "RepoTags"):
        if text in ("", _NONE) or text.endswith(f":{_NONE}"):
            continue  # an image without a name, as some tools list it
        try:
            names.append(Reference.parse(text))
        except InvalidReferenceError as error:
            labels.append(text)
            fault = fault or str(error)
    if len(labels) > 1:
        fault += f" (and {len(labels) - 1} more)"
    return _Entry(
        config=value["Config"],
        layers=layers,
        names=tuple(names),
        labels=tuple(labels),
        fault=fault,
    )


def _texts(value: dict[str, Any], field: str) -> tuple[str, ...]:
    found = value.get(field)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ArchiveError(f"{field}: a list of texts is expected")
    return tuple(found)


class _Reader:
    """What is found out while one entry after the other is read."""

    def __init__(
        self,
        file: ArchiveFile,
        members: Members,
        scratch: Path,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._places: dict[Digest, Member] = {}
        self._made: dict[Digest, bytes] = {}
        self._names: dict[Digest, dict[Reference, None]] = {}
        self._labels: dict[Digest, dict[str, None]] = {}
        self._compressed: dict[int, tuple[Digest, Descriptor]] = {}  # by the member's offset
        self._scratch = scratch
        self._unpacked: ScratchFile | None = None
        self._unpacked_places: dict[Digest, Member] = {}
        self._file = file
        self._members = members
        self._cancel = cancel
        self._progress = observer.progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unpacked is not None:
            self._unpacked.close()

    def archive(self) -> Archive:
        unpacked = None
        if self._unpacked is not None:
            unpacked = self._unpacked.opened(), self._unpacked_places
        return Archive(self._file, self.images(), self._places, self._made, unpacked=unpacked)

    def images(self) -> list[ArchivedImage]:
        return [
            ArchivedImage(
                descriptor=Descriptor(
                    media_type=OCI_MANIFEST, digest=digest, size=len(self._made[digest])
                ),
                names=tuple(names),
                labels=tuple(self._labels[digest]),
            )
            for digest, names in self._names.items()
        ]

    def add(self, entry: _Entry) -> None:
        config, ids = self._config(entry.config)
        if len(ids) != len(entry.layers):
            raise ArchiveError(
                f"there are {len(entry.layers)} layers; the configuration has {len(ids)} diff ids"
            )
        layers = [self._layer(name, id) for name, id in zip(entry.layers, ids, strict=True)]
        raw = made(config, layers)
        digest = Digest.of(raw)
        self._made[digest] = raw
        self._names.setdefault(digest, {}).update(dict.fromkeys(entry.names))
        self._labels.setdefault(digest, {}).update(dict.fromkeys(entry.labels))

    def _config(self, name: str) -> tuple[Descriptor, tuple[Digest, ...]]:
        member = self._member(name)
        raw = read_document(self._file, member, CONFIG_LIMIT)
        digest = Digest.of(raw)
        stated = _NAMED.fullmatch(name)
        if stated is not None and stated[1] != digest.hex:
            raise _mismatch(self._file, name, f"sha256:{stated[1]}", str(digest))
        self._places[digest] = member
        return Descriptor(media_type=OCI_CONFIG, digest=digest, size=len(raw)), diff_ids(raw)

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        member = self._member(name)
        start = self._file.read(member.offset, min(LONGEST_MAGIC, member.size))
        kind = compression_of(start)
        if kind:
            return self._examined(name, member, kind, diff_id)
        self._places[diff_id] = member
        return Descriptor(media_type=OCI_LAYER, digest=diff_id, size=member.size)

    def _examined(self, name: str, member: Member, kind: str, diff_id: Digest) -> Descriptor:
        """A compressed layer: its digest is found out, and its diff id verified, on one way. One
        that no OCI layer may be as it is comes out of that way decompressed."""
        known = self._compressed.get(member.offset)
        if known is None:
            outer, inner = hashlib.sha256(), diff_id.hasher()
            pieces = self._hashed(member, kind, outer, inner, str(diff_id))
            place = None if kind in _SUFFIXES else self._keep(name, member, pieces)
            for _ in pieces:
                pass  # they are for the digests alone
            found = Digest(algorithm=diff_id.algorithm, hex=inner.hexdigest())
            if place is not None:
                self._unpacked_places[found] = place
                layer = Descriptor(media_type=OCI_LAYER, digest=found, size=place.size)
            else:
                digest = Digest(algorithm="sha256", hex=outer.hexdigest())
                self._places[digest] = member
                media_type = OCI_LAYER + _SUFFIXES[kind]
                layer = Descriptor(media_type=media_type, digest=digest, size=member.size)
            known = self._compressed[member.offset] = found, layer
        if known[0] != diff_id:
            raise _mismatch(self._file, name, str(diff_id), str(known[0]))
        return known[1]

    def _hashed(
        self, member: Member, kind: str, outer: hashlib._Hash, inner: hashlib._Hash, key: str
    ) -> Iterator[bytes]:
        """What is in a compressed layer; it and the layer are hashed on the way."""

        def counted() -> Iterator[bytes]:
            read = 0
            for piece in self._file.pieces(member.offset, member.size, self._cancel):
                outer.update(piece)
                read += len(piece)
                self._progress(key, "verifying", read, member.size)
                yield piece

        for piece in decompressed(counted(), kind):
            self._cancel.check()
            inner.update(piece)
            yield piece

    def _keep(self, name: str, member: Member, pieces: Iterator[bytes]) -> Member:
        if self._unpacked is None:
            self._unpacked = ScratchFile(self._scratch, self._file.path)
        begin = self._unpacked.append(pieces, self._cancel)
        return Member(name=name, kind=member.kind, offset=begin, size=self._unpacked.size - begin)

    def _member(self, name: str) -> Member:
        member = self._members.file(name.removeprefix("./"))
        if member is None:
            raise ArchiveError(f"{name!r:.200} is named, and is not in the archive")
        return member


def _mismatch(file: ArchiveFile, name: str, expected: str, actual: str) -> DigestMismatchError:
    error = DigestMismatchError(
        f"{file.path}: {name} should have the digest {expected} and has {actual}; "
        "the archive is damaged",
        expected=expected,
        actual=actual,
    )
    error.retryable = False
    return error
