"""Manifests: the documents that say what an image is made of, byte for byte as they came.

Understood are Docker's schema 2 and manifest list, the OCI manifest (artifacts too) and index,
the OCI artifact manifest of the 1.1 release candidates, and Docker's schema 1, signed or not.

A document's own media type and the one that a server gave with it must agree: a document that
can be read as two kinds could otherwise name one content to one client and another to the next.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from .descriptor import Descriptor, annotations_from_json
from .digest import Digest
from .errors import DigestMismatchError, ManifestError
from .media import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_SIGNED,
    SCHEMA1_TYPES,
    SCHEMA1_UNSIGNED,
    VAGUE_TYPES,
)
from .schema1 import ManifestData, payload

__all__ = [
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "INDEX_TYPES",
    "MANIFEST_LIMIT",
    "MANIFEST_TYPES",
    "OCI_ARTIFACT",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "SCHEMA1_TYPES",
    "Manifest",
]

#: The bytes that a manifest may have. Registries take 4 MiB; some keep larger ones.
MANIFEST_LIMIT: Final = 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A document of ``media_type``, the bytes ``raw``, and what it refers to.

    An image has ``config`` and ``layers``, an index ``manifests``; an artifact may be either.
    Layers may repeat and may be none. One of schema 1 has ``schema1`` and nothing of these: its
    layers come without a size. Raises `ManifestError` when ``raw`` is not a document of
    ``media_type``; ``digest`` is taken as it is, `parse` verifies it.
    """

    raw: bytes = dataclasses.field(repr=False)
    media_type: str
    digest: Digest
    config: Descriptor | None = dataclasses.field(init=False, repr=False, compare=False)
    layers: tuple[Descriptor, ...] = dataclasses.field(init=False, repr=False, compare=False)
    manifests: tuple[Descriptor, ...] = dataclasses.field(init=False, repr=False, compare=False)
    subject: Descriptor | None = dataclasses.field(init=False, repr=False, compare=False)
    artifact_type: str = dataclasses.field(init=False, repr=False, compare=False)
    annotations: Mapping[str, str] = dataclasses.field(init=False, repr=False, compare=False)
    schema1: ManifestData | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        document = _load(self.raw)
        if _media_type(document, self.media_type) != self.media_type:
            raise ManifestError(f"{self.media_type!r} is no media type of a manifest")
        for field, value in _parts(document, self.media_type).items():
            object.__setattr__(self, field, value)

    @classmethod
    def parse(
        cls, raw: bytes, media_type: str | None = None, digest: Digest | None = None
    ) -> Manifest:
        """The manifest that ``raw`` is.

        ``media_type`` is the Content-Type that came with it, if any; its parameters are
        ignored, and a type that says nothing (text/plain, application/json,
        application/octet-stream) is replaced by the document's own. ``digest`` is what it must
        have; without it, it is the sha256 of the bytes, of schema 1 that of its payload.

        Raises `DigestMismatchError` for other bytes, `ManifestError` for a document that is no
        manifest, saying where (``layers[3].digest``), or is of a kind not supported.
        """
        raw = bytes(raw)
        if len(raw) > MANIFEST_LIMIT:
            raise ManifestError(
                f"a manifest of {len(raw)} bytes is refused; {MANIFEST_LIMIT} are allowed"
            )
        actual = _actual(raw, digest)
        if digest is not None and actual != digest:
            raise DigestMismatchError(
                f"manifest {digest}: the {len(raw)} bytes that came have the digest {actual}",
                expected=str(digest),
                actual=str(actual),
                size=len(raw),
            )
        return cls(raw=raw, media_type=_media_type(_load(raw), media_type or ""), digest=actual)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """What must be kept for this to be complete, each digest once: the configuration and
        the layers, or the manifests. The subject is not among them."""
        config = () if self.config is None else (self.config,)
        found: dict[Digest, Descriptor] = {}
        for child in (*config, *self.layers, *self.manifests):
            found.setdefault(child.digest, child)
        return tuple(found.values())

    @property
    def descriptor(self) -> Descriptor:
        """What names this manifest in an index or a store."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.raw))

    def __bytes__(self) -> bytes:
        return self.raw


def _actual(raw: bytes, wanted: Digest | None) -> Digest:
    """The digest of the bytes. Of a signed schema 1 it is that of the payload; some registries
    name it by all of its bytes, which say the same, so that ``wanted`` may be either."""
    algorithm = wanted.algorithm if wanted else "sha256"
    whole = Digest.of(raw, algorithm)
    if whole == wanted:
        return whole
    try:
        document = _load(raw)
        if document.get("schemaVersion") == 1:
            return Digest.of(payload(raw, document), algorithm)
    except ManifestError:
        if wanted is None:
            raise
    return whole


def _load(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # The start often tells more than the parser: an HTML page of a proxy, say.
        start = raw[:40].decode("utf-8", "replace")
        raise ManifestError(f"the manifest is not JSON: {error}; it begins {start!r}") from None
    if not isinstance(document, dict):
        raise ManifestError("the manifest is not a JSON object")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _media_type(document: Mapping[str, Any], given: str) -> str:
    """The type of the document, of what it says itself and what was given with it."""
    stated = given.partition(";")[0].strip().lower()
    own = document.get("mediaType") or ""
    if not isinstance(own, str):
        raise ManifestError("mediaType: text is expected")
    version = document.get("schemaVersion")
    if stated in VAGUE_TYPES:
        stated = own or _kind(document)
    both_old = own in SCHEMA1_TYPES and stated in SCHEMA1_TYPES  # signed or not, it is one kind
    if own and own != stated and not both_old:
        raise ManifestError(f"mediaType: the document says {own!r}, its server {stated!r}")
    if stated not in (*MANIFEST_TYPES, *SCHEMA1_TYPES):
        raise ManifestError(
            f"{stated!r} is no media type of a manifest; supported are {', '.join(MANIFEST_TYPES)}"
        )
    expected = 1 if stated in SCHEMA1_TYPES else 2
    if stated != OCI_ARTIFACT and (version != expected or version is True):
        raise ManifestError(f"schemaVersion: {expected} is expected, not {_brief(version)}")
    return stated


def _kind(document: Mapping[str, Any]) -> str:
    """The type of a document that nobody named; only OCI ones and schema 1 may go without."""
    if document.get("schemaVersion") == 1 and document.get("fsLayers") is not None:
        return SCHEMA1_SIGNED if document.get("signatures") else SCHEMA1_UNSIGNED
    if document.get("manifests") is not None:
        return OCI_INDEX
    if document.get("config") is not None:
        return OCI_MANIFEST
    raise ManifestError(
        "neither the server nor the document says its media type, and it has neither "
        "'manifests' nor 'config'"
    )


def _parts(document: Mapping[str, Any], media_type: str) -> dict[str, Any]:
    if media_type in SCHEMA1_TYPES:
        return {**_NOTHING, "schema1": ManifestData.from_json(document)}
    index, artifact = media_type in INDEX_TYPES, media_type == OCI_ARTIFACT
    foreign = ("config", "layers") if index else ("manifests",)
    for field in foreign:
        if document.get(field) is not None:
            raise ManifestError(f"{field}: a document of {media_type} must not have it")
    if not index and not artifact and document.get("config") is None:
        raise ManifestError("config: it is missing")
    layers: tuple[Descriptor, ...] = ()
    if not index:
        layers = _several(document, "blobs" if artifact else "layers", required=not artifact)
    return {
        "config": None if index or artifact else _one(document, "config"),
        "layers": layers,
        "manifests": _several(document, "manifests", required=True) if index else (),
        "subject": _one(document, "subject"),
        "artifact_type": _artifact_type(document),
        "annotations": annotations_from_json(document),
        "schema1": None,
    }


# What a manifest of schema 1 has of the others' parts. Not changed by anyone.
_NOTHING: Final[Mapping[str, Any]] = {
    "config": None,
    "layers": (),
    "manifests": (),
    "subject": None,
    "artifact_type": "",
    "annotations": {},
}


def _several(document: Mapping[str, Any], field: str, *, required: bool) -> tuple[Descriptor, ...]:
    if required and field not in document:
        raise ManifestError(f"{field}: it is missing")
    values = document.get(field)
    if values is None:  # how Go writes an empty list
        return ()
    if not isinstance(values, list):
        raise ManifestError(f"{field}: a list is expected")
    return tuple(
        Descriptor.from_json(value, f"{field}[{place}]") for place, value in enumerate(values)
    )


def _one(document: Mapping[str, Any], field: str) -> Descriptor | None:
    value = document.get(field)
    return None if value is None else Descriptor.from_json(value, field)


def _artifact_type(document: Mapping[str, Any]) -> str:
    value = document.get("artifactType")
    if value is not None and not isinstance(value, str):
        raise ManifestError("artifactType: text is expected")
    return value or ""


def _brief(value: object) -> str:
    text = json.dumps(value)
    return "nothing" if value is None else text if len(text) <= 40 else f"{text[:37]}…"
