"""OCI archives: a tar of an OCI image layout, as skopeo, podman and Docker 25 write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    ArchiveError,
    InvalidDigestError,
    InvalidReferenceError,
    ManifestError,
    RegistryError,
)
from ..manifest import MANIFEST_LIMIT, MANIFEST_TYPES, OCI_INDEX, Manifest
from ..reference import Reference
from ..referrers import Companion, cosign_subject
from ..store import REF_NAME
from .content import Archive, ArchivedImage, read_document
from .file import ArchiveFile
from .tar import Member, Members

__all__ = ["IMAGE_NAME", "INDEX", "LAYOUT", "blob_name", "read_layout"]

LAYOUT: Final = "oci-layout"
INDEX: Final = "index.json"
#: The annotation of the index in which containerd, Docker and BuildKit keep the whole name.
IMAGE_NAME: Final = "io.containerd.image.name"

_LAYOUT_LIMIT: Final = 64 * 1024


def blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def read_layout(file: ArchiveFile, members: Members) -> Archive:
    """The archive whose ``index.json`` that is. Raises `ArchiveError`."""
    _check_version(file, members)
    index = members.file(INDEX)
    if index is None:
        raise ArchiveError(f"{file.path} has no {INDEX}")
    raw = read_document(file, index, MANIFEST_LIMIT)
    try:
        entries = Manifest.parse(raw, OCI_INDEX).manifests
    except ManifestError as error:
        raise ArchiveError(f"{file.path}: {INDEX}: {error}") from None
    places = _blobs(members)
    images, companions = [], []
    for image in _images(entries):
        found = None if image.names else _companion(file, image, places)
        if found is None:
            images.append(image)
        else:
            companions.append(found)
    return Archive(file, images, places, companions=companions)


def _companion(
    file: ArchiveFile, image: ArchivedImage, places: Mapping[Digest, Member]
) -> Companion | None:
    """What an entry without an image's name is, where it belongs to another manifest of the
    archive: one that names its subject, or one under the tag that cosign gives it."""
    descriptor = image.descriptor
    for label in image.labels:
        known = cosign_subject(label)
        if known is not None and known[0] in places:
            return Companion(subject=known[0], descriptor=descriptor, suffix=known[1])
    member = places.get(descriptor.digest)
    if image.labels or member is None:
        return None
    try:
        raw = read_document(file, member, MANIFEST_LIMIT)
        subject = Manifest.parse(raw, descriptor.media_type, descriptor.digest).subject
    except RegistryError as error:
        raise ArchiveError(f"{file.path}: {member.name}: {error}") from None
    if subject is None or subject.digest not in places:
        return None
    return Companion(subject=subject.digest, descriptor=descriptor)


def _check_version(file: ArchiveFile, members: Members) -> None:
    member = members.file(LAYOUT)
    if member is None:
        raise ArchiveError(f"{file.path} is no OCI archive: it has no {LAYOUT}")
    try:
        version = json.loads(read_document(file, member, _LAYOUT_LIMIT))["imageLayoutVersion"]
    except (ValueError, RecursionError, KeyError, TypeError):
        version = None
    if not isinstance(version, str) or not version.startswith("1."):
        raise ArchiveError(f"{file.path}: an image layout of version {version!r:.40} is not known")


def _blobs(members: Members) -> dict[Digest, Member]:
    found = {}
    for name in members:
        parts = name.split("/")
        if len(parts) != 3 or parts[0] != "blobs":
            continue
        try:
            digest = Digest(algorithm=parts[1], hex=parts[2])
        except InvalidDigestError:
            continue
        member = members.file(name)
        if member is not None:
            found[digest] = member
    return found


def _images(entries: tuple[Descriptor, ...]) -> list[ArchivedImage]:
    """The images of the index, each once, whatever number of names it has."""
    found: dict[Digest, tuple[Descriptor, dict[Reference, None], dict[str, None]]] = {}
    for entry in entries:
        if entry.media_type not in MANIFEST_TYPES:
            continue
        plain = Descriptor(media_type=entry.media_type, digest=entry.digest, size=entry.size)
        _, names, labels = found.setdefault(entry.digest, (plain, {}, {}))
        label = entry.annotations.get(REF_NAME, "")
        text = entry.annotations.get(IMAGE_NAME) or label
        name = _reference(text)
        if name is not None:
            names[name] = None
        if label:
            labels[label] = None
    return [
        ArchivedImage(descriptor=descriptor, names=tuple(names), labels=tuple(labels))
        for descriptor, names, labels in found.values()
    ]


def _reference(text: str) -> Reference | None:
    """The image's name. One word alone is a tag of a repository that nobody named."""
    if not any(mark in text for mark in "/:@"):
        return None
    try:
        return Reference.parse(text)
    except InvalidReferenceError:
        return None
