"""A part of a layer as the original registry gives it, which is not as RFC 9110 says.

Its Content-Range lacks the unit. It counts what was asked for, not what there is: a range that
is open at its end is one byte too long, one that goes past the end as much as it goes, and the
connection breaks off where the layer ends. Less than two bytes are refused (416), also the last
one; a suffix, and whatever else it does not understand, gets the whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from ..content import Content, Reader
from ..exchange import Exchange
from ..faults import FaultKind
from ..message import Response, Span

__all__ = ["ranged_as_original"]

_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")


def ranged_as_original(
    exchange: Exchange, layer: Content, headers: tuple[tuple[str, str], ...]
) -> Response:
    """All of a layer, or the part that a GET's Range header names; the faults of ranges too."""
    request = exchange.request
    span = Span(content=layer, offset=0, length=layer.size)
    whole = Response(status=200, headers=headers, body=span)
    wanted = request.headers.get("range", "") if request.method == "GET" else ""
    if wanted and exchange.faults.strikes(FaultKind.NO_RANGE):
        return whole
    whole = whole.having(("Accept-Ranges", "bytes"))
    found = _RANGE.fullmatch(wanted)
    if found is None:
        return whole
    first, last = int(found[1]), int(found[2] or layer.size)
    if last <= first:
        return dataclasses.replace(whole, status=416, body=b"")
    if first > 0 and exchange.faults.strikes(FaultKind.WRONG_RANGE):
        first = 0
    content = layer if last < layer.size else _Overstated(layer, last + 1)
    span = Span(content=content, offset=first, length=last - first + 1)
    where = f"{first}-{last}/{layer.size}"
    return dataclasses.replace(whole, status=206, body=span).having(("Content-Range", where))


class _Overstated:
    """Content that says a size of more than there is, and ends before."""

    def __init__(self, content: Content, size: int) -> None:
        self._content = content
        self.size = size

    @contextlib.contextmanager
    def open(self) -> Iterator[Reader]:
        with self._content.open() as reader:
            yield _ShortReader(reader, self._content.size)


class _ShortReader:
    def __init__(self, reader: Reader, size: int) -> None:
        self._reader = reader
        self._size = size

    @property
    def file(self) -> BinaryIO | None:
        return None

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        if offset >= self._size:
            raise OSError("the content ends here")
        return self._reader.read_at(offset, min(length, self._size - offset))
