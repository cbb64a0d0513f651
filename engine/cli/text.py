"""Text that came from elsewhere, made fit for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, *, lines: bool = True) -> str:
    """``text`` without characters that steer a terminal; newlines stay where ``lines``."""
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        char
        if char.isprintable() or char in kept
        else " "
        if char in "\n\r\t"
        else repr(char)[1:-1]
        for char in text
    )
