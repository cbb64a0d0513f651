"""What the headers of an answer say of the content, and how far that is believed; documents."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ..descriptor import Descriptor
from ..digest import HASHABLE, Digest
from ..documents import most_values
from ..errors import DigestMismatchError, DoesNotExistError, InvalidDigestError, ManifestError
from ..media import MANIFEST_TYPES, SCHEMA1_TYPES, VAGUE_TYPES
from ..transport import Response

__all__ = [
    "absent",
    "described",
    "digest_of",
    "header_digest",
    "is_encoded",
    "is_whole",
    "load_json",
    "number",
    "stated_digest",
    "verified",
]

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MOST_VALUES: Final = 1_000_000  # of a document


def load_json(raw: bytes) -> Any:
    """The document that ``raw`` is. Raises ValueError for what is no JSON, is nested too deep, or
    has so many values that they would take many times the room of their text."""
    if most_values(raw) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES} values")
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def absent(response: Response, what: str) -> DoesNotExistError:
    """The error of an answer that says that ``what`` is not there."""
    return DoesNotExistError(
        what,
        http_status=response.status,
        method=response.method,
        url=response.url,
        errors=response.errors(),
    )


def verified(raw: bytes, digest: Digest, what: str) -> bytes:
    """``raw``, which is what ``digest`` names. Raises `DigestMismatchError`."""
    actual = Digest.of(raw, digest.algorithm)
    if actual != digest:
        raise DigestMismatchError(
            f"{what} {digest}: the {len(raw)} bytes that came have the digest {actual}",
            expected=str(digest),
            actual=str(actual),
            size=len(raw),
        )
    return raw


def digest_of(reference: str | Digest) -> Digest | None:
    """The digest that a reference is, None for a tag: a tag has no colon."""
    if isinstance(reference, Digest):
        return reference
    return Digest.parse(reference) if ":" in reference else None


def header_digest(response: Response) -> Digest | None:
    """The digest that the server gives what it answers with."""
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", "").strip())
    except InvalidDigestError:
        return None


def stated_digest(response: Response) -> Digest | None:
    """The digest that the server says the body has, if it is one that can be verified."""
    digest = header_digest(response)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    # Of schema 1 it is a name, and not always one that the bytes can be held to.
    if digest is None or digest.algorithm not in HASHABLE or kind in SCHEMA1_TYPES:
        return None
    return digest


def described(response: Response, reference: str | Digest) -> Descriptor | None:
    """The descriptor in the headers of an answer to HEAD, None if they are too few.

    For a digest, it is the digest that counts, not what the server says of it. Of a kind that
    is not known here, an answer without the digest may be anything, such as a proxy's page.
    """
    size = number(response.headers.get("Content-Length"))
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    stated = (header_digest if kind in SCHEMA1_TYPES else stated_digest)(response)
    digest = digest_of(reference) or stated
    if digest is None or not size or kind in VAGUE_TYPES:
        return None
    if kind not in (*MANIFEST_TYPES, *SCHEMA1_TYPES) and stated != digest:
        return None
    try:
        return Descriptor(media_type=kind, digest=digest, size=size)
    except ManifestError:  # a type that is none
        return None


def is_encoded(response: Response) -> bool:
    """Whether the body is compressed on its way, so that its length is not the content's."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return encoding not in ("", "identity")


def is_whole(response: Response) -> bool:
    """Whether a part that nobody asked for is all there is."""
    _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    return response.length is not None and total.strip() == str(response.length)


def number(text: str | None) -> int | None:
    """The number that a header holds, None where it holds none, or one past all sizes."""
    found = _NUMBER.fullmatch((text or "").strip())
    return int(found[0]) if found else None
