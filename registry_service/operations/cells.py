"""What fits into one row of a job's output.

An image may carry any JSON; a row goes to a client that takes no more than the defaults of
`engine.wire.limits` at once. What fits there fits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ROOM", "too_heavy", "weight"]

#: Bytes of JSON cells in a row: 1 MiB, and 16 KiB of them for the cells that are no JSON.
ROOM: Final = (1024 - 16) * 1024

_DEEPEST: Final = 14
_LONGEST: Final = 65_536
_INTEGERS: Final = range(-(2**63), 2**64)
_LENGTH: Final = 5  # bytes that say what follows and how long it is, at the most
_NUMBER: Final = 9


def too_heavy(values: Mapping[str, Any]) -> dict[str, str]:
    """Which of the values, in their order, do not fit into one row with those before, and why."""
    room = ROOM
    left_out = {}
    for name, value in values.items():
        try:
            heavy = weight(value)
            if heavy > room:
                raise ValueError(f"{heavy} bytes, and the row has room for {room}")
        except ValueError as error:
            left_out[name] = str(error)
        else:
            room -= heavy
    return left_out


def weight(value: Any) -> int:
    """The bytes that ``value``, of JSON, takes up at the most.

    Raises ValueError, which says why, for a value that no row can carry.
    """
    total = 0
    layer = [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for item in layer:
            if not isinstance(item, (dict, list, tuple)):
                total += _plain(item)
                continue
            if len(item) > _LONGEST:
                raise ValueError(f"{len(item)} elements in one array or map; {_LONGEST} may be")
            total += _LENGTH
            if isinstance(item, dict):
                total += sum(map(_plain, item))
                inner.extend(item.values())
            else:
                inner.extend(item)
        if not inner:
            return total
        layer = inner
    if any(isinstance(item, (dict, list, tuple)) for item in layer):
        raise ValueError(f"arrays and maps nest deeper than {_DEEPEST}")
    return total + sum(map(_plain, layer))


def _plain(value: Any) -> int:
    if isinstance(value, str):
        return _LENGTH + len(value.encode("utf-8", "replace"))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("an integer of more than 64 bits")
    return 1 if value is None or isinstance(value, bool) else _NUMBER
