"""How ``enginectl`` says what is wrong."""

from __future__ import annotations

import contextlib
from typing import IO

from .text import printable

__all__ = ["complain"]


def complain(message: str, err: IO[str]) -> None:
    """One error on standard error; what came from elsewhere cannot steer the terminal."""
    with contextlib.suppress(OSError):  # the exit status still tells
        err.write(f"enginectl: {printable(message)}\n")
        err.flush()
