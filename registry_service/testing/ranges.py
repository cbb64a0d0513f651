"""A part of some content, where a request asks for one (RFC 9110, section 14)."""

from __future__ import annotations

import dataclasses

from .content import Content
from .exchange import Exchange
from .faults import FaultKind
from .message import Response, Span
from .names import parse_range

__all__ = ["RangeOutsideError", "ranged"]


class RangeOutsideError(ValueError):
    """The range lies outside the content (416). ``headers`` say how long that is."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.headers = (("Content-Range", f"bytes */{size}"),)


def ranged(
    exchange: Exchange,
    content: Content,
    headers: tuple[tuple[str, str], ...],
    *,
    etag: str | None = None,
) -> Response:
    """All of the content, or the part that a GET's Range header names; the faults of ranges too.

    If-Range is compared with ``etag``, which the headers have where there is one. Raises
    `RangeOutsideError`.
    """
    request, size = exchange.request, content.size
    whole = Response(status=200, headers=headers, body=Span(content=content, offset=0, length=size))
    wanted = request.headers.get("range") if request.method == "GET" else None
    if wanted is not None and exchange.faults.strikes(FaultKind.NO_RANGE):
        return whole
    whole = whole.having(("Accept-Ranges", "bytes"))
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return whole
    try:
        part = parse_range(wanted, size)
    except ValueError as error:
        raise RangeOutsideError(str(error), size) from None
    if part is None:
        return whole
    offset, length = part
    if offset > 0 and exchange.faults.strikes(FaultKind.WRONG_RANGE):
        offset, length = 0, offset + length
    span = Span(content=content, offset=offset, length=length)
    where = f"bytes {offset}-{offset + length - 1}/{size}"
    return dataclasses.replace(whole, status=206, body=span).having(("Content-Range", where))
