"""In what parts a blob is sent, and what an answer says of it. Pure decisions."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

__all__ = ["Parts", "received", "smaller"]

_MIB: Final = 1024 * 1024
# Proxies refuse requests of over 100 MB, some registries parts of over 4 MiB.
_STEPS: Final = (64 * _MIB, 16 * _MIB, 4 * _MIB, _MIB)
_RANGE: Final = re.compile(r"(?:bytes[ =:]*)?0-([0-9]{1,18})", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of an upload: ``wanted`` bytes each, at least ``least`` (what the registry
    asks for), at most ``most`` (what it was seen to take; None where that is not known)."""

    wanted: int
    least: int = 0
    most: int | None = None

    @property
    def size(self) -> int:
        size = self.wanted if self.most is None else min(self.wanted, self.most)
        return max(size, self.least, 1)

    def next(self, offset: int, total: int) -> int:
        """The bytes of the part that begins at ``offset``."""
        return min(self.size, total - offset)


def received(header: str | None, otherwise: int) -> int:
    """How many bytes a registry has, by its Range header: ``0-N``, both ends counted.

    ``0-0`` stands for one byte and for none, and is read as none. ``otherwise`` counts where
    there is no such header, or one that cannot be read.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None:
        return otherwise
    last = int(found[1])
    return last + 1 if last else 0


def smaller(length: int) -> int | None:
    """The size to try after a part of ``length`` bytes was too large; None where that was the
    smallest."""
    return next((step for step in _STEPS if step < length), None)
