"""The lists of images that an index has of repositories. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .message import V1Error

__all__ = ["checked", "merged"]


def checked(data: Any) -> list[dict[str, Any]]:
    """A list of objects that have an ``id``. Raises `V1Error` for JSON that is no such list."""
    if data is None:
        raise V1Error("Error Decoding JSON")
    if not isinstance(data, list):
        raise V1Error("Invalid data")
    for one in data:
        if not isinstance(one, dict) or not isinstance(one.get("id"), str):
            raise V1Error("Invalid data")
    return data


def merged(new: Iterable[dict[str, Any]], old: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both lists in one, each image once, with a checksum where either has one."""
    found: dict[str, dict[str, Any]] = {}
    for one in (*new, *old):
        image_id = one["id"]
        if "checksum" not in found.get(image_id, {}):
            checksum = one.get("checksum")
            found[image_id] = {"id": image_id, **({"checksum": checksum} if checksum else {})}
    return list(found.values())
