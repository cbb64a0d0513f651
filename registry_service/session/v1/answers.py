"""Documents of bounded size, and what headers say of an image."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

from ...errors import AlreadyExistsError, ManifestError, ProtocolError, RegistryHTTPError, show_url
from ...transport import Response
from ...v1.image import JSON_LIMIT, V1Image, check_ancestry, is_image_id
from ...v1.values import ImgData
from ..answers import load_json, number

__all__ = [
    "LIST_LIMIT",
    "MISMATCH",
    "ImageJSON",
    "failure",
    "read_ancestry",
    "read_image",
    "read_images",
    "read_tags",
]

#: The code of the error of a registry that got other bytes than it was told of.
MISMATCH: Final = "checksum-mismatch"
#: Bytes of the list of a repository's images or tags.
LIST_LIMIT: Final = 32 * 1024 * 1024

_LONGEST_TAG: Final = 256
_PAYLOAD: Final = re.compile(r"(?<![A-Za-z0-9+:.])sha256:[0-9a-f]{64}(?![0-9A-Za-z])")
_TARSUM: Final = re.compile(r"tarsum(?:\.[a-z0-9]{1,16})?\+[a-z0-9]{1,16}:[0-9a-f]{32,128}")
# What the original registry says of an image that it has: to its JSON or layer, to its checksum.
_EXISTS: Final = ("image already exists", "cannot set this image checksum")
_MISMATCH: Final = ("checksum mismatch",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageJSON:
    """An image's JSON, byte for byte, and what the headers say of its layer: its ``size`` in
    bytes, -1 where they do not, the sha256 of the JSON, a newline and the layer
    (``sha256:…``), and its TarSum; both may be empty."""

    raw: bytes
    size: int = -1
    checksum_payload: str = ""
    checksum: str = ""


def read_image(response: Response, image_id: str) -> ImageJSON:
    """Raises `ProtocolError` for what is no JSON object, or that of another image."""
    raw = response.read(JSON_LIMIT)
    try:
        V1Image.parse(raw, image_id)
    except ManifestError as error:
        raise _wrong(response, str(error)) from None
    size = number(response.headers.get("X-Docker-Size"))
    # One registry has all checksums in one header, one in several, one the TarSum in either.
    said = " ".join(
        value
        for name in ("X-Docker-Checksum-Payload", "X-Docker-Payload-Checksum", "X-Docker-Checksum")
        for value in response.header_values(name)
    )
    payload, tarsum = _PAYLOAD.search(said), _TARSUM.search(said)
    return ImageJSON(
        raw=raw,
        size=-1 if size is None else size,
        checksum_payload=payload[0] if payload else "",
        checksum=tarsum[0] if tarsum else "",
    )


def read_ancestry(response: Response, image_id: str) -> list[str]:
    """The ids, ``image_id`` first. Raises `ProtocolError` for what is no such list, or goes round
    in a circle."""
    found = _document(response.read(JSON_LIMIT), response)
    if not isinstance(found, list):
        raise _wrong(response, "an ancestry is a list of image ids")
    try:
        return list(check_ancestry(found, image_id))
    except ManifestError as error:
        raise _wrong(response, str(error)) from None


def read_tags(response: Response, broken: dict[str, str] | None = None) -> dict[str, str]:
    """The tags with the ids of their images. Those of what is no id go into ``broken``, with what
    it is. Raises `ProtocolError` for what is no such map, and for these where that is None."""
    found = _document(response.read(LIST_LIMIT), response)
    if not isinstance(found, dict):
        raise _wrong(response, "the tags of a repository are a map")
    good: dict[str, str] = {}
    for tag, image_id in found.items():
        if not 0 < len(tag) <= _LONGEST_TAG:
            raise _wrong(
                response, f"the tag {tag[:80]!r} has {len(tag)} characters, of 1 to {_LONGEST_TAG}"
            )
        if is_image_id(image_id):
            good[tag] = image_id
        elif broken is not None:
            broken[tag] = str(image_id)[:80]
        else:
            raise _wrong(
                response, f"the tag {tag[:80]!r} is of {str(image_id)[:80]!r}, which is no image id"
            )
    return good


def read_images(response: Response) -> list[ImgData]:
    """The images of an index's list. Raises `ProtocolError` for what is no list of them."""
    found = _document(response.read(LIST_LIMIT), response)
    if not isinstance(found, list):
        raise _wrong(response, "the images of a repository are a list")
    try:
        return [ImgData.from_json(one) for one in found]
    except ProtocolError as error:
        raise _wrong(response, str(error)) from None


def failure(response: Response) -> RegistryHTTPError:
    """The answer as an error: `AlreadyExistsError` where it says that the image is there already,
    and one of the code `MISMATCH` where it got other bytes than a checksum stands for. Reads and
    closes it."""
    refused = response.status >= 400
    exists, mismatch = (refused and response.says(*words) for words in (_EXISTS, _MISMATCH))
    if exists:
        return AlreadyExistsError(
            http_status=response.status,
            method=response.method,
            url=response.url,
            errors=response.errors(),
        )
    error = response.error()
    if mismatch:
        error.code = MISMATCH
    return error


def _document(raw: bytes, response: Response) -> Any:
    try:
        return load_json(raw)
    except ValueError as error:
        raise _wrong(response, f"it is not JSON: {error}") from None


def _wrong(response: Response, what: str) -> ProtocolError:
    return ProtocolError(
        f"{show_url(response.url)}: the answer cannot be used: {response.hide(what)}"
    )
