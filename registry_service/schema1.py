"""Schema 1: Docker's first manifest, in which the layers' histories stand as JSON in JSON.

It came unsigned, and signed as a 'pretty' JWS: the document with its signatures put in before
its last brace. The digest of a signed one is that of its payload, the document without them,
byte for byte; each signature's protected header tells how to get it: the first ``formatLength``
bytes of what came, and ``formatTail``. The signatures themselves are not verified: they are made
with keys that nobody vouches for, and the digest is what content is asked for by.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from .digest import Digest
from .errors import InvalidDigestError, ManifestError

__all__ = ["FSLayer", "ManifestData", "ManifestHistory", "OldLayer", "layers_of", "payload"]

#: The layer without content that Docker wrote for each step that changed no file.
_EMPTY_BLOB: Final = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FSLayer:
    """A layer, by the digest of its bytes. How many they are is not said."""

    blob_sum: Digest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManifestHistory:
    """What Docker 1.9 and older knew of one layer: JSON, as text."""

    v1_compatibility: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ManifestData:
    """A schema 1 manifest. Layers and history go together, the topmost first.

    Raises `ManifestError` when it is constructed of something else.
    """

    name: str
    tag: str
    architecture: str
    fs_layers: tuple[FSLayer, ...]
    history: tuple[ManifestHistory, ...]
    schema_version: int = 1

    def __post_init__(self) -> None:
        if self.schema_version != 1 or self.schema_version is True:
            raise ManifestError("schemaVersion: 1 is expected")
        if not self.fs_layers:
            raise ManifestError("fsLayers: there is none")
        if len(self.fs_layers) != len(self.history):
            raise ManifestError(
                f"history: {len(self.history)} entries for {len(self.fs_layers)} layers"
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ManifestData:
        """From the document. Raises `ManifestError`, which names the field."""
        return cls(
            name=_text(value, "name"),
            tag=_text(value, "tag"),
            architecture=_text(value, "architecture"),
            fs_layers=tuple(
                FSLayer(blob_sum=_digest(one, place))
                for place, one in enumerate(_objects(value, "fsLayers"))
            ),
            history=tuple(
                ManifestHistory(
                    v1_compatibility=_text(one, "v1Compatibility", f"history[{place}].")
                )
                for place, one in enumerate(_objects(value, "history"))
            ),
            schema_version=value.get("schemaVersion", 0),
        )

    def compatibility(self, place: int) -> dict[str, Any]:
        """The JSON object of one entry of the history. Raises `ManifestError`."""
        where = f"history[{place}].v1Compatibility"
        try:
            found = json.loads(self.history[place].v1_compatibility, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: {error}") from None
        if not isinstance(found, dict):
            raise ManifestError(f"{where}: a JSON object is expected")
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OldLayer:
    """A step of the image's history: its JSON, the blob that came with it, and whether that is
    ``empty``, so that nobody needs to look at it."""

    blob_sum: Digest
    compatibility: Mapping[str, Any]
    empty: bool


def layers_of(data: ManifestData) -> tuple[OldLayer, ...]:
    """The steps of the image, the lowest first. A step that is there twice in a row, as some
    builders wrote it, counts once. Raises `ManifestError` where the chain of parents breaks."""
    steps: list[OldLayer] = []
    below = ""  # the id of the step below
    for place in reversed(range(len(data.history))):
        found = data.compatibility(place)
        own, parent = found.get("id"), found.get("parent")
        if steps and own is not None and own == below:
            continue
        if steps and own is not None and below and parent != below:
            raise ManifestError(
                f"history[{place}].v1Compatibility: its parent is not the entry after it"
            )
        below = own if isinstance(own, str) else ""
        blob_sum = data.fs_layers[place].blob_sum
        empty = found.get("throwaway") is True or str(blob_sum) == _EMPTY_BLOB
        steps.append(OldLayer(blob_sum=blob_sum, compatibility=found, empty=empty))
    return tuple(steps)


def payload(raw: bytes, document: Mapping[str, Any]) -> bytes:
    """The bytes of a schema 1 manifest that its digest is made of: of a signed one those that
    were signed, else all. ``document`` is the JSON object that ``raw`` is.

    Raises `ManifestError` for signatures that do not say what they sign, or not the same.
    """
    signatures = _objects(document, "signatures") if "signatures" in document else []
    if not signatures:
        return raw
    found = {_format(raw, one, place) for place, one in enumerate(signatures)}
    if len(found) != 1:
        raise ManifestError("signatures: they are of different documents")
    length, tail = found.pop()
    signed = raw[:length] + tail
    try:
        same = json.loads(signed) == {k: v for k, v in document.items() if k != "signatures"}
    except (ValueError, RecursionError):
        same = False
    if not same:  # else what is read and what has the digest could be two documents
        raise ManifestError("signatures: what they sign is another document than this one")
    return signed


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _format(raw: bytes, signature: Mapping[str, Any], place: int) -> tuple[int, bytes]:
    where = f"signatures[{place}].protected"
    try:
        header = json.loads(_base64url(_text(signature, "protected", f"signatures[{place}].")))
        length, tail = header["formatLength"], _base64url(header["formatTail"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ManifestError(
            f"{where}: a JSON object with formatLength and formatTail is expected, in base64url"
        ) from None
    if type(length) is not int or not 0 < length <= len(raw):
        raise ManifestError(f"{where}: formatLength is not within the {len(raw)} bytes")
    return length, tail


def _base64url(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _objects(value: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    found = value.get(field)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise ManifestError(f"{field}: a list of objects is expected")
    return found


def _text(value: Mapping[str, Any], field: str, where: str = "") -> str:
    found = value.get(field, "")
    if not isinstance(found, str):
        raise ManifestError(f"{where}{field}: text is expected")
    return found


def _digest(value: Mapping[str, Any], place: int) -> Digest:
    try:
        return Digest.parse(_text(value, "blobSum", f"fsLayers[{place}]."))
    except InvalidDigestError as error:
        raise ManifestError(f"fsLayers[{place}].blobSum: {error}") from None
