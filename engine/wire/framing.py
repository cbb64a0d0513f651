"""What both directions of the codec share: the prefix, and the bound on nesting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ProtocolError
from .limits import Limits
from .messages import Type

__all__ = ["DEFAULT", "MAGIC", "PREFIXES", "body_limit", "check_shape", "openers"]

MAGIC = b"EJP1"
PREFIXES: Mapping[Type, bytes] = {type_: MAGIC + bytes((type_, 0)) for type_ in Type}
DEFAULT = Limits()

# Bytes that can begin an array or a map. Text has some of them too, never fewer are begun.
_NO_OPENERS = bytes(
    byte for byte in range(256) if not (0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF)
)


def openers(data: bytes) -> int:
    """At least how many arrays and maps are begun in ``data``: more where text looks so."""
    return len(data.translate(None, _NO_OPENERS))


def check_shape(value: Any, limits: Limits, *, around: int = 0) -> None:
    """Raise `ProtocolError` where arrays and maps lie too deep in each other, where one is too
    long, or a map's key is no text. ``around`` are the arrays that ``value`` itself lies in."""
    depth, elements = limits.nesting - around, limits.elements
    layer = [value]
    for _ in range(depth):
        inner: list[Any] = []
        for item in layer:
            kind = type(item)
            if kind in _CONTAINERS and len(item) > elements:
                raise ProtocolError(
                    f"an array or a map of {len(item)} elements; the limit 'elements' is {elements}"
                )
            if kind is list or kind is tuple:
                inner.extend(one for one in item if type(one) in _CONTAINERS)
            elif kind is dict:
                if not all(type(key) is str for key in item):
                    raise ProtocolError("a key of a map that is no text")
                inner.extend(one for one in item.values() if type(one) in _CONTAINERS)
        if not inner:
            return
        layer = inner
    raise ProtocolError(
        f"arrays and maps nest deeper than {depth}; the limit 'nesting' is {limits.nesting}"
    )


_CONTAINERS = frozenset({list, tuple, dict})


def body_limit(code: int, limits: Limits) -> int:
    if code in _OUTPUT:
        return limits.output
    return limits.submit if code == _SUBMIT else limits.control


_SUBMIT = int(Type.SUBMIT)
_OUTPUT = frozenset(map(int, (Type.ROWS, Type.TEXT, Type.DATA, Type.INPUT)))
