"""The names of V1: images by their ids, repositories as NAMESPACE/NAME, tags. Pure functions.

The registry lets pass more than accounts of an index may be called; what it lets pass is safe as
the name of a file.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LIBRARY", "full_name", "is_image_id", "is_repository", "is_tag", "short_name"]

LIBRARY: Final = "library"
_ID: Final = re.compile(r"[a-f0-9]{16}|[a-f0-9]{64}")
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def is_image_id(text: str) -> bool:
    """Whether ``text`` is an image's id: 64 hexadecimal digits in lower case, once 16."""
    return _ID.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Whether ``text`` is the name of a repository, with its namespace."""
    namespace, _, name = text.partition("/")
    return bool(_PART.fullmatch(namespace) and _PART.fullmatch(name))


def full_name(text: str) -> str:
    """The repository's name with its namespace, ``library`` where it has none.

    Raises ValueError for what is no name of a repository.
    """
    namespace, slash, name = text.rstrip("/").partition("/")
    if not slash:
        namespace, name = LIBRARY, namespace
    whole = f"{namespace}/{name}"
    if not is_repository(whole):
        raise ValueError(f"{text!r} is no name of a repository")
    return whole


def short_name(repository: str) -> str:
    """How an index shows a repository: without ``library/``."""
    return repository.removeprefix(f"{LIBRARY}/")
