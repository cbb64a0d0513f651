"""The head of an answer: its status line and its fields (RFC 9112, sections 4 to 6).

Python's own client reads heads as mail: leniently, where two readers can then disagree on where
an answer ends, and at a cost that is felt when blobs are small and many.
"""

from __future__ import annotations

import dataclasses
import http.client
import re
from typing import Final, Protocol

import urllib3

__all__ = ["Framing", "Head", "framing", "read_head"]

_LONGEST_LINE: Final = 65_536  # bytes; http.client's limits
_MOST_FIELDS: Final = 100
_MOST_INTERIM: Final = 16
_STATUS: Final = re.compile(r"HTTP/(\d)\.(\d)[ \t]+(\d{3})(?:[ \t]+(.*))?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Lines(Protocol):
    def readline(self, limit: int, /) -> bytes: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """``version`` is 10 or 11, as http.client counts; a field that comes twice is kept twice,
    the length apart."""

    version: int
    status: int
    reason: str
    fields: urllib3.HTTPHeaderDict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """Where the body ends: after ``length`` bytes, with its last chunk, or, where there is
    neither, with the connection. ``closes``: the connection serves no other request."""

    chunked: bool
    length: int | None
    closes: bool


def read_head(lines: Lines) -> Head:
    """Read the head of the answer; interim ones (1xx) are passed over.

    Raises `http.client.RemoteDisconnected` where nothing comes, `http.client.IncompleteRead`
    for a head that is cut off, and `http.client.HTTPException` for what is none.
    """
    for _ in range(_MOST_INTERIM):
        head = _read_one(lines)
        if head.status == 101 or head.status >= 200:
            return head
    raise http.client.HTTPException(f"more than {_MOST_INTERIM} interim answers")


def framing(head: Head, method: str) -> Framing:
    """How the body that follows ``head``, the answer to ``method``, is framed."""
    bodyless = method == "HEAD" or head.status in (204, 304) or head.status < 200
    chunked = not bodyless and head.fields.get("Transfer-Encoding", "").lower() == "chunked"
    stated = head.fields.get("Content-Length")
    length = 0 if bodyless else None if chunked or stated is None else int(stated)
    connection = head.fields.get("Connection", "").lower()
    closes = "keep-alive" not in connection if head.version == 10 else "close" in connection
    endless = length is None and not chunked
    return Framing(chunked=chunked, length=length, closes=closes or endless)


def _read_one(lines: Lines) -> Head:
    line = _line(lines)
    if not line:
        raise http.client.RemoteDisconnected("the server closed the connection without an answer")
    found = _STATUS.fullmatch(_text(line))
    if found is None:
        raise http.client.BadStatusLine(_text(line)[:80])
    major, minor, status, reason = found.groups()
    if major != "1" or status < "100":
        raise http.client.BadStatusLine(_text(line)[:80])
    return Head(
        version=10 if minor == "0" else 11,
        status=int(status),
        reason=(reason or "").strip(),
        fields=_read_fields(lines),
    )


def _read_fields(lines: Lines) -> urllib3.HTTPHeaderDict:
    fields = urllib3.HTTPHeaderDict()
    name = value = ""
    for _ in range(_MOST_FIELDS + 1):
        line = _line(lines)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        text = _text(line)
        if text[:1] in (" ", "\t") and name:  # a folded line goes on with the value before it
            value = f"{value} {text.strip()}"
            continue
        if name:
            fields.add(name, value)
        if not text:
            _check_length(fields)
            return fields
        name, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise http.client.HTTPException("a header line is malformed")
        value = value.strip(" \t")
    raise http.client.HTTPException(f"more than {_MOST_FIELDS} header lines")


def _check_length(fields: urllib3.HTTPHeaderDict) -> None:
    """Lengths that are said more than once must be one."""
    stated = fields.get("Content-Length")
    if stated is None:
        return
    lengths = {length.strip() for length in stated.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) < 20):
        raise http.client.HTTPException("the Content-Length is malformed")
    fields["Content-Length"] = length


def _line(lines: Lines) -> bytes:
    line = lines.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise http.client.LineTooLong("line of the head")
    return line


def _text(line: bytes) -> str:
    return line.decode("latin-1").rstrip("\r\n")
