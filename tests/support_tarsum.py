"""Tar archives byte by byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

__all__ = ["END", "Raw", "archive", "pax", "pax_record", "raw", "stored"]

END = bytes(1024)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A header as it shall stand in an archive: numbers as numbers, or as the bytes of a field."""

    name: bytes = b"file"
    mode: int | bytes = 0o100644
    uid: int | bytes = 0
    gid: int | bytes = 0
    size: int | bytes = 0
    mtime: int | bytes = 0
    typeflag: bytes = b"0"
    linkname: bytes = b""
    magic: bytes = b"ustar\x0000"
    uname: bytes = b""
    gname: bytes = b""
    devmajor: int | bytes = 0
    devminor: int | bytes = 0
    rest: bytes = b""

    def block(self) -> bytes:
        head = self.name.ljust(100, b"\0")
        for field in (self.mode, self.uid, self.gid):
            head += _octal(field, 8)
        head += _octal(self.size, 12) + _octal(self.mtime, 12) + b" " * 8 + self.typeflag
        head += self.linkname.ljust(100, b"\0") + self.magic
        head += self.uname.ljust(32, b"\0") + self.gname.ljust(32, b"\0")
        head += _octal(self.devmajor, 8) + _octal(self.devminor, 8) + self.rest
        head = head.ljust(512, b"\0")
        assert len(head) == 512
        return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _octal(value: int | bytes, width: int) -> bytes:
    field = b"%0*o\0" % (width - 1, value) if isinstance(value, int) else value
    assert len(field) == width
    return field


def stored(header: Raw, content: bytes = b"") -> bytes:
    """An entry with its content, padded; the header says the size unless it has one."""
    if header.size == 0:
        header = dataclasses.replace(header, size=len(content))
    return header.block() + content + bytes(-len(content) % 512)


def raw(**fields: int | bytes) -> bytes:
    """An entry without content."""
    return stored(Raw(**fields))  # type: ignore[arg-type]


def pax_record(key: bytes, value: bytes) -> bytes:
    text = b" " + key + b"=" + value + b"\n"
    count = len(text)
    while count != len(text) + len(b"%d" % count):
        count = len(text) + len(b"%d" % count)
    return b"%d" % count + text


def pax(
    records: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]], kind: bytes = b"x"
) -> bytes:
    """An extended header of these records."""
    pairs = records.items() if isinstance(records, Mapping) else records
    content = b"".join(pax_record(key, value) for key, value in pairs)
    return stored(Raw(name=b"pax", typeflag=kind), content)


def archive(*parts: bytes) -> bytes:
    return b"".join(parts) + END
