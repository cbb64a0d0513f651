"""Descriptors: what content is, how large it is and what its digest is.

The shape is that of the OCI image specification, 'OCI Content Descriptors'; Docker's schema 2
has the same one with fewer fields.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from .digest import HASHABLE, Digest
from .errors import InvalidDigestError, ManifestError, PlatformError
from .platform import Platform

__all__ = ["Descriptor"]

_LARGEST: Final = 2**63 - 1
_LONGEST_TYPE: Final = 255


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A piece of content: ``size`` bytes of ``media_type`` whose digest is ``digest``.

    ``data`` is the content itself where a document carries it inline; `inline` verifies it.
    ``annotations`` is not to be changed. Raises `ManifestError` when it is constructed of
    something that is no descriptor.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    urls: tuple[str, ...] = ()
    data: bytes | None = dataclasses.field(default=None, repr=False)
    artifact_type: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.media_type, str) or not _is_type(self.media_type):
            raise ManifestError("mediaType: a media type is expected, such as text/plain")
        if type(self.size) is not int or not 0 <= self.size <= _LARGEST:
            raise ManifestError(f"size: a number of bytes is expected, not {_shown(self.size)}")
        object.__setattr__(self, "annotations", dict(self.annotations))
        object.__setattr__(self, "urls", tuple(self.urls))

    @classmethod
    def from_json(cls, value: Any, where: str = "") -> Descriptor:
        """The descriptor that a JSON object stands for. Unknown fields are ignored.

        ``where`` is its place in the document, such as ``layers[3]``. Raises `ManifestError`,
        which names the place and the field.
        """
        prefix = f"{where}." if where else ""
        if not isinstance(value, Mapping):
            place = where or "descriptor"
            raise ManifestError(f"{place}: an object is expected, not {_shown(value)}")
        try:
            return cls(
                media_type=_text(value, "mediaType", required=True),
                digest=_digest(value),
                size=value.get("size", "nothing"),
                platform=_platform(value),
                annotations=_annotations(value),
                urls=_urls(value),
                data=_data(value),
                artifact_type=_text(value, "artifactType"),
            )
        except ManifestError as error:
            raise ManifestError(f"{prefix}{error}") from None

    @property
    def inline(self) -> bytes | None:
        """The content that it carries in itself, verified; None without it, or for another."""
        data = self.data
        if data is None or len(data) != self.size or self.digest.algorithm not in HASHABLE:
            return None
        return data if Digest.of(data, self.digest.algorithm) == self.digest else None

    def to_json(self) -> dict[str, Any]:
        """The JSON object; what is not set is left out."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.data is not None:
            value["data"] = base64.b64encode(self.data).decode("ascii")
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value


def annotations_from_json(value: Mapping[str, Any]) -> dict[str, str]:
    """The ``annotations`` of a JSON object. Raises `ManifestError`."""
    return _annotations(value)


def _is_type(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_TYPE and text.isprintable() and " " not in text


def _text(value: Mapping[str, Any], field: str, *, required: bool = False) -> str:
    text = value.get(field)
    if text is None and not required:
        return ""
    if not isinstance(text, str):
        raise ManifestError(f"{field}: text is expected, not {_shown(text)}")
    return text


def _digest(value: Mapping[str, Any]) -> Digest:
    try:
        return Digest.parse(_text(value, "digest", required=True))
    except InvalidDigestError as error:
        raise ManifestError(f"digest: {error}") from None


def _platform(value: Mapping[str, Any]) -> Platform | None:
    found = value.get("platform")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise ManifestError(f"platform: an object is expected, not {_shown(found)}")
    try:
        return Platform.from_json(found)
    except PlatformError as error:
        raise ManifestError(f"platform.{error}") from None


def _annotations(value: Mapping[str, Any]) -> dict[str, str]:
    found = value.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ManifestError(f"annotations: an object is expected, not {_shown(found)}")
    for key, text in found.items():
        if not isinstance(text, str):
            raise ManifestError(f"annotations[{key!r}]: text is expected, not {_shown(text)}")
    return dict(found)


def _urls(value: Mapping[str, Any]) -> tuple[str, ...]:
    found = value.get("urls")
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ManifestError("urls: a list of texts is expected")
    return tuple(found)


def _data(value: Mapping[str, Any]) -> bytes | None:
    found = _text(value, "data") if value.get("data") is not None else None
    if found is None:
        return None
    try:
        return base64.b64decode(found, validate=True)
    except (binascii.Error, ValueError):
        raise ManifestError("data: base64 text is expected") from None


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}…")
    if value is None or isinstance(value, (bool, int, float)):
        return "nothing" if value is None else repr(value)[:60]
    return {"list": "a list", "dict": "an object"}.get(type(value).__name__, type(value).__name__)
