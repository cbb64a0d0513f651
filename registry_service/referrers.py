"""Referrers: manifests that say of another one, their subject, that they belong to it.

The forms only: how a list of referrers is kept under a tag where a registry has no referrers
API ('Referrers Tag Schema' of the OCI distribution specification 1.1), and the tags under which
cosign keeps what belongs to an image.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from .descriptor import Descriptor
from .digest import Digest
from .errors import InvalidDigestError, ManifestError
from .manifest import OCI_INDEX, Manifest

__all__ = [
    "COSIGN_SUFFIXES",
    "Companion",
    "cosign_subject",
    "cosign_tag",
    "describe",
    "fallback_tag",
    "index_document",
    "is_fallback_tag",
    "is_list",
    "listed",
    "with_entry",
    "without_entries",
]

#: What cosign keeps of an image: signatures, attestations, SBOMs.
COSIGN_SUFFIXES: Final = ("sig", "att", "sbom")

_NO_TAG: Final = re.compile(r"[^A-Za-z0-9_.-]")
_FALLBACK: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}-[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A manifest that belongs to the one with the digest ``subject``.

    It says so itself (a referrer), or, with a ``suffix`` of `COSIGN_SUFFIXES`, its tag does.
    """

    subject: Digest
    descriptor: Descriptor
    suffix: str = ""

    @property
    def locator(self) -> str:
        """What it is put under in a registry: cosign's tag, or its own digest."""
        if self.suffix:
            return cosign_tag(self.subject, self.suffix)
        return str(self.descriptor.digest)


def fallback_tag(subject: Digest) -> str:
    """The tag under which the referrers of ``subject`` are listed without an API.

    >>> fallback_tag(Digest.of(b""))[:20]
    'sha256-e3b0c44298fc1'
    """
    return f"{_tag_text(subject.algorithm)[:32]}-{_tag_text(subject.hex)[:64]}"


def is_fallback_tag(tag: str) -> bool:
    """Whether a tag has the form of `fallback_tag`, for one of the usual algorithms."""
    return _FALLBACK.fullmatch(tag) is not None


def is_list(tag: str, descriptor: Descriptor) -> bool:
    """Whether what ``tag`` stands for is a list of referrers, by its form; what is under a tag
    of its own digest is not."""
    return (
        is_fallback_tag(tag)
        and descriptor.media_type == OCI_INDEX
        and fallback_tag(descriptor.digest) != tag
    )


def cosign_tag(subject: Digest, suffix: str) -> str:
    """The tag of cosign's for ``suffix``, one of `COSIGN_SUFFIXES`."""
    return f"{_tag_text(subject.algorithm)}-{_tag_text(subject.hex)}.{suffix}"


def cosign_subject(tag: str) -> tuple[Digest, str] | None:
    """What a tag of cosign's belongs to, and its suffix; None for every other tag.

    >>> cosign_subject(cosign_tag(Digest.of(b""), "sig")) == (Digest.of(b""), "sig")
    True
    """
    name, _, suffix = tag.rpartition(".")
    algorithm, _, encoded = name.partition("-")
    if suffix not in COSIGN_SUFFIXES:
        return None
    try:
        return Digest(algorithm=algorithm, hex=encoded), suffix
    except InvalidDigestError:
        return None


def describe(manifest: Manifest) -> Descriptor:
    """A manifest as it stands in a list of referrers: with its kind and its annotations."""
    kind = manifest.artifact_type
    if not kind and manifest.config is not None:
        kind = manifest.config.media_type
    return Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=len(manifest.raw),
        annotations=manifest.annotations,
        artifact_type=kind,
    )


def index_document(raw: bytes | None) -> dict[str, Any]:
    """The index that ``raw`` is, which keeps what is not understood here; an empty one of
    None."""
    document: dict[str, Any]
    if raw is None:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    else:
        document = json.loads(raw)
        document["manifests"] = document.get("manifests") or []
    return document


def with_entry(document: Mapping[str, Any], entry: Descriptor) -> dict[str, Any]:
    """The index with ``entry`` in it, once."""
    digest = str(entry.digest)
    entries = document["manifests"]
    places = [place for place, one in enumerate(entries) if one.get("digest") == digest]
    kept = [one for one in entries if one.get("digest") != digest]
    kept.insert(places[0] if places else len(kept), entry.to_json())
    return {**document, "manifests": kept}


def without_entries(document: Mapping[str, Any], digests: Iterable[Digest]) -> dict[str, Any]:
    """The index without the entries of these digests."""
    gone = {str(digest) for digest in digests}
    kept = [one for one in document["manifests"] if one.get("digest") not in gone]
    return {**document, "manifests": kept}


def listed(values: Any, artifact_type: str = "") -> Iterator[Descriptor]:
    """The descriptors of the list ``manifests`` of an index, of that kind if one is given.

    A list that is null is empty. Raises `ManifestError`, which says where.
    """
    if values is None:
        return
    if not isinstance(values, list):
        raise ManifestError("manifests: a list is expected")
    for place, value in enumerate(values):
        descriptor = Descriptor.from_json(value, f"manifests[{place}]")
        if artifact_type in ("", descriptor.artifact_type):
            yield descriptor


def _tag_text(text: str) -> str:
    return _NO_TAG.sub("-", text)
