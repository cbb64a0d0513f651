"""How much there may be in a document of JSON, told before it is made."""

from __future__ import annotations

__all__ = ["most_values"]


def most_values(raw: bytes) -> int:
    """How many values the text ``raw`` has at most. Each takes tens of bytes, however short it is:
    4 MiB of empty maps are 100 MiB."""
    return 1 + sum(raw.count(mark) for mark in (b",", b"[", b"{"))
