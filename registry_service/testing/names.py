"""The grammar of what requests name: repositories, tags, digests, byte ranges. Pure functions.

The rules are those of the OCI distribution specification 1.1 ('Pulling manifests', 'Pushing a
blob in chunks') and of RFC 9110, section 14, for ranges.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = [
    "content_range",
    "digest_of",
    "hasher",
    "is_digest",
    "is_repository",
    "is_tag",
    "parse_range",
]

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_CONTENT_RANGE: Final = re.compile(
    r"(?:bytes )?([0-9]{1,19})-([0-9]{1,19})(?:/(?:[0-9]{1,19}|\*))?"
)
_LONGEST_REPOSITORY: Final = 255


def is_repository(name: str) -> bool:
    """Whether ``name`` is a repository's name, of 255 characters at most."""
    return len(name) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(name) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether ``text`` is a sha256 or sha512 digest, in lower case."""
    return _DIGEST.fullmatch(text) is not None


def hasher(digest: str) -> _Hash:
    """A hash object of the algorithm of ``digest``, which is one (`is_digest`)."""
    return hashlib.new(digest.partition(":")[0])


def digest_of(data: bytes | memoryview, algorithm: str = "sha256") -> str:
    """The digest of ``data``, as ``algorithm:hex``."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The part of ``size`` bytes that a Range header asks for, as offset and length.

    None where the header is to be ignored: other units, several ranges, broken syntax.
    Raises ValueError when the range is well-formed and lies outside the content (416).
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise ValueError(f"no last {match[2]} bytes in {size}")
        return size - length, length
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    if first >= size:
        raise ValueError(f"byte {first} is past the end of {size} bytes")
    return first, min(last, size - 1) - first + 1


def content_range(header: str) -> tuple[int, int]:
    """Offset and length of the chunk that an upload's Content-Range names.

    The distribution specification writes ``FIRST-LAST``, HTTP ``bytes FIRST-LAST/SIZE``; both
    are read. Raises ValueError for anything else.
    """
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise ValueError(f"{header!r} is no content range of the form FIRST-LAST")
    return int(match[1]), int(match[2]) - int(match[1]) + 1
