"""The head of an answer: its status line and its fields, and what frames its body (RFC 9112,
sections 4 to 7).

Python's own client reads heads as mail: leniently, where two readers can then disagree on where
an answer ends, and at a cost that is felt when blobs are small and many.
"""

from __future__ import annotations

import dataclasses
import http.client
import re
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import urllib3

__all__ = ["Framing", "Head", "framing", "read_chunk_size", "read_head"]

_LONGEST_LINE: Final = 65_536  # bytes; http.client's limits
_MOST_FIELDS: Final = 100
_MOST_INTERIM: Final = 16
_STATUS: Final = re.compile(r"HTTP/(\d)\.(\d)[ \t]+(\d{3})(?:[ \t]+(.*))?", re.ASCII)
_SCHEME: Final = b"HTTP/"
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Lines(Protocol):
    """A binary file; one that is buffered (`io.BufferedReader`) is read faster."""

    def readline(self, limit: int, /) -> bytes: ...
    def read(self, size: int, /) -> bytes: ...


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


def read_chunk_size(lines: Lines) -> int:
    """The bytes of the chunk that follows; 0 for the last one.

    Raises `http.client.IncompleteRead` for a line that is cut off, as where the connection broke
    between two chunks, and `http.client.HTTPException` for what is none.
    """
    line = _line(lines)
    if not line.endswith(b"\n"):
        raise http.client.IncompleteRead(line)
    found = _CHUNK_SIZE.fullmatch(line.rstrip(b"\r\n"))
    if found is None:
        raise http.client.HTTPException("the size of a chunk is malformed")
    return int(found[1], 16)


def _read_one(lines: Lines) -> Head:
    block = _whole(lines)
    status = _status_line(lines) if block is None else block[0]
    found = _STATUS.fullmatch(status)
    if found is None:
        raise http.client.BadStatusLine(status[:80])
    major, minor, code, reason = found.groups()
    if major != "1" or code < "100":
        raise http.client.BadStatusLine(status[:80])
    return Head(
        version=10 if minor == "0" else 11,
        status=int(code),
        reason=(reason or "").strip(),
        fields=_fields(_rest(lines) if block is None else block[1:]),
    )


def _whole(lines: Lines) -> list[str] | None:
    """The lines of a head that has arrived as a whole, as it mostly has. None where they have
    to be read one by one: there is more to come, or a line ends in its own way."""
    peek = getattr(lines, "peek", None)
    if peek is None:
        return None
    arrived: bytes = peek(1)
    end = arrived.find(b"\r\n\r\n")
    if end < 0:
        return None
    block = arrived[: end + 4]
    if not block.count(b"\n") == block.count(b"\r") == block.count(b"\r\n"):
        return None
    lines.read(len(block))
    return block[:-4].decode("latin-1").split("\r\n")


def _status_line(lines: Lines) -> str:
    line = _line(lines)
    if not line:
        raise http.client.RemoteDisconnected("the server closed the connection without an answer")
    if not line.endswith(b"\n") and _SCHEME.startswith(line[: len(_SCHEME)]):
        raise http.client.IncompleteRead(line)
    return _text(line)


def _rest(lines: Lines) -> Iterator[str]:
    """The lines up to the empty one."""
    while True:
        line = _line(lines)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        text = _text(line)
        if not text:
            return
        yield text


def _fields(lines: Iterable[str]) -> urllib3.HTTPHeaderDict:
    fields = urllib3.HTTPHeaderDict()
    name = value = ""
    for count, text in enumerate(lines, 1):
        if count > _MOST_FIELDS:
            raise http.client.HTTPException(f"more than {_MOST_FIELDS} header lines")
        if text[:1] in (" ", "\t") and name:  # a folded line goes on with the value before it
            value = f"{value} {text.strip()}"
            continue
        if name:
            fields.add(name, value)
        name, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise http.client.HTTPException("a header line is malformed")
        value = value.strip(" \t")
    if name:
        fields.add(name, value)
    _check_length(fields)
    return fields


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
