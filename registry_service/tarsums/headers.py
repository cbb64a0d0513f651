"""A block of 512 bytes as the header of an entry.

Read as Docker's tar reader did it: every number is a signed one of 64 bits, names are bytes, and
fields that a format lacks are empty. Numbers of devices count for devices only. The prefix of a
name counts in GNU's format too, where other programs keep times in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from ..errors import TarError

__all__ = ["BLOCK", "Entry", "decimal", "number", "read_header", "text"]

BLOCK: Final = 512

_DEVICES: Final = (b"3", b"4")
_DIGITS: Final = b"01234567"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The header of an entry: the bytes of its texts, ``mtime`` in seconds since 1970.

    ``stored`` counts the bytes that follow in the archive, ``size`` those of the file, which are
    more where a file is sparse. ``mode`` is the field as it stands, which may say the type too.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    typeflag: bytes
    linkname: bytes
    uname: bytes = b""
    gname: bytes = b""
    devmajor: int = 0
    devminor: int = 0
    xattrs: Mapping[bytes, bytes] = dataclasses.field(default_factory=dict)
    stored: int


def read_header(block: bytes, at: int) -> Entry:
    """The header that ``block`` is, which is not all zeros. ``at`` is its place in the archive.

    Raises `TarError`.
    """
    _verify(block, at)
    size = _number(block[124:136], at)
    typeflag = block[156:157]
    name = text(block[:100])
    uname = gname = prefix = b""
    major = minor = 0
    if block[257:263] == b"ustar\0" or block[257:265] == b"ustar  \0":
        uname, gname = text(block[265:297]), text(block[297:329])
        if typeflag in _DEVICES:
            major, minor = _number(block[329:337], at), _number(block[337:345], at)
        prefix = text(block[345:500])
        if block[257:263] == b"ustar\0" and block[508:] == b"tar\0":  # star has times there
            prefix = text(block[345:476])
            _number(block[476:488], at)
            _number(block[488:500], at)
    return Entry(
        name=prefix + b"/" + name if prefix else name,
        mode=_number(block[100:108], at),
        uid=_number(block[108:116], at),
        gid=_number(block[116:124], at),
        size=size,
        mtime=_number(block[136:148], at),
        typeflag=typeflag,
        linkname=text(block[157:257]),
        uname=uname,
        gname=gname,
        devmajor=major,
        devminor=minor,
        stored=size,
    )


def text(field: bytes) -> bytes:
    """``field`` up to its first NUL."""
    return field.partition(b"\0")[0]


def number(field: bytes) -> int | None:
    """A number in octal, or in base 256 where the first bit is set; None where it is neither."""
    if field[0] & 0x80:
        return _signed(int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big"))
    digits = text(field.strip(b" \0"))
    if digits.strip(_DIGITS):
        return None
    return int(digits, 8) if digits else 0


def decimal(digits: bytes) -> int | None:
    """A number of 64 bits with or without a sign; None where it is none."""
    unsigned = digits[1:] if digits[:1] in (b"+", b"-") else digits
    if not unsigned.isdigit():
        return None
    significant = unsigned.lstrip(b"0")
    if len(significant) > 19:  # more than 64 bits have
        return None
    value = int(significant or b"0")
    if digits[:1] == b"-":
        value = -value
    return value if -(2**63) <= value < 2**63 else None


def _number(field: bytes, at: int) -> int:
    value = number(field)
    if value is None:
        raise TarError(f"the header at byte {at} of the archive has a malformed number: {field!r}")
    return value


def _verify(block: bytes, at: int) -> None:
    rest = block[:148] + b" " * 8 + block[156:]
    given, unsigned = number(block[148:156]), sum(rest)
    # some old programs added the bytes as signed
    if given not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
        raise TarError(
            f"the archive is damaged: the header at byte {at} has a wrong checksum"
            if at
            else "this is no tar archive: its first block is no header"
        )


def _signed(value: int) -> int:
    """The lowest 64 bits, the first of which is the sign."""
    value &= 2**64 - 1
    return value - 2**64 if value >> 63 else value
