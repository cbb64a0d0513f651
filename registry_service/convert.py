"""Docker's manifests as OCI's, and OCI's as Docker's: pure, one document at a time.

Media types are put in each other's place, and what Docker has no field for is left out and
told. All else stays as it was, fields that are not known here too; the bytes of configurations
and layers are the same in both.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any, Final

from .descriptor import Descriptor
from .digest import Digest
from .errors import ManifestError, RegistryError
from .manifest import Manifest
from .media import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    OCI_ARTIFACT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    TO_DOCKER,
    TO_OCI,
)

__all__ = ["Converted", "Format", "FormatError", "convert", "convertible"]

# The fields that OCI has and Docker has not.
_OCI_FIELDS: Final = ("artifactType", "subject", "annotations")
_OCI_DESCRIPTOR_FIELDS: Final = ("artifactType", "annotations", "data")


class FormatError(RegistryError):
    code = "format"
    status = 2


class Format(enum.Enum):
    OCI = "oci"
    DOCKER = "docker"

    @classmethod
    def parse(cls, text: str) -> Format:
        """Raises an error of status 2."""
        try:
            return cls(text.strip().lower())
        except ValueError:
            raise FormatError(f"format: {text!r} is neither 'oci' nor 'docker'") from None

    @property
    def types(self) -> Mapping[str, str]:
        """The media types of the other format, and what each is in this one."""
        return TO_OCI if self is Format.OCI else TO_DOCKER


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """``manifest`` is the document as it was where it is of the format already. ``lost`` names
    what the format has no place for, such as ``layers[0].annotations``."""

    manifest: Manifest
    lost: tuple[str, ...] = ()


def convertible(manifest: Manifest, target: Format) -> bool:
    """Whether the format has words for it. OCI has for everything; Docker has none for
    artifacts: a configuration or a layer that is no image's."""
    if target is Format.OCI or manifest.is_index:
        return manifest.schema1 is None
    if manifest.media_type == DOCKER_MANIFEST:
        return True
    known = (*TO_DOCKER, *TO_OCI)
    return (
        manifest.media_type == OCI_MANIFEST
        and manifest.config is not None
        and manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG)
        and all(layer.media_type in known for layer in manifest.layers)
    )


def convert(
    manifest: Manifest, target: Format, children: Mapping[Digest, Descriptor | None] | None = None
) -> Converted:
    """``manifest`` in the other format.

    ``children`` says what the manifests of an index have become (media type, digest and size
    count): None leaves one out, one that is not named stays. Raises `ManifestError` for what
    the format has no words for.
    """
    if not convertible(manifest, target):
        what = manifest.artifact_type or (manifest.config and manifest.config.media_type)
        raise ManifestError(
            f"{manifest.digest} is no image ({what or manifest.media_type}), and so there is no "
            f"{target.value} manifest for it"
        )
    document = json.loads(manifest.raw)
    lost: list[str] = []
    strips = target is Format.DOCKER and manifest.media_type in (OCI_INDEX, OCI_MANIFEST)
    if manifest.media_type in INDEX_TYPES:
        media_type = OCI_INDEX if target is Format.OCI else DOCKER_LIST
        document["manifests"] = _children(document.get("manifests") or [], children or {}, lost)
        parts = [("manifests", document["manifests"])]
    elif manifest.media_type == OCI_ARTIFACT:
        return Converted(manifest=manifest)
    else:
        media_type = OCI_MANIFEST if target is Format.OCI else DOCKER_MANIFEST
        parts = [("config", [document["config"]]), ("layers", document.get("layers") or [])]
        if target is Format.OCI and manifest.media_type == DOCKER_MANIFEST:
            _name_config(document["config"])
    for field, found in parts:
        for place, one in enumerate(found):
            one["mediaType"] = target.types.get(one["mediaType"], one["mediaType"])
            if strips:
                where = field if field == "config" else f"{field}[{place}]"
                lost.extend(_stripped(one, f"{where}.", _OCI_DESCRIPTOR_FIELDS))
    if strips:
        lost.extend(_stripped(document, "", _OCI_FIELDS))
    if document.get("mediaType") or media_type != manifest.media_type:
        document["mediaType"] = media_type
    if document == json.loads(manifest.raw):
        return Converted(manifest=manifest)
    raw = json.dumps(document, separators=(",", ":")).encode()
    return Converted(
        manifest=Manifest.parse(raw, media_type, Digest.of(raw, manifest.digest.algorithm)),
        lost=tuple(lost),
    )


def _children(
    entries: list[dict[str, Any]],
    children: Mapping[Digest, Descriptor | None],
    lost: list[str],
) -> list[dict[str, Any]]:
    kept = []
    for place, entry in enumerate(entries):
        digest = Digest.parse(entry["digest"])
        if digest not in children:
            kept.append(entry)
            continue
        became = children[digest]
        if became is None:
            lost.append(f"manifests[{place}]")
            continue
        changed = {
            "mediaType": became.media_type,
            "digest": str(became.digest),
            "size": became.size,
        }
        if became.digest != digest:
            entry.pop("data", None)  # it is the content of the old one
        kept.append({**entry, **changed})
    if entries and not kept:
        raise ManifestError("nothing in the index is an image, and so nothing of it can be kept")
    return kept


def _name_config(config: dict[str, Any]) -> None:
    """Some builders gave the configuration of a Docker manifest no type of its own."""
    if config["mediaType"] == "application/octet-stream":
        config["mediaType"] = OCI_CONFIG


def _stripped(value: dict[str, Any], where: str, fields: tuple[str, ...]) -> list[str]:
    """Take the fields out; the names of those that said something."""
    return [f"{where}{field}" for field in fields if value.pop(field, None)]
