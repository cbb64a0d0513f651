"""tar, as far as image archives have it: headers read within bounds, and written.

Read are the formats of POSIX (ustar, pax) and GNU (long names, sizes in base 256). What has no
place in an image archive is refused: devices, fifos, sparse files, names and links that lead
out, two members of one name.
"""

from __future__ import annotations

import dataclasses
import enum
import tarfile
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from ..cancel import Cancellation
from ..errors import ArchiveError

__all__ = ["BLOCK", "Kind", "Member", "Members", "end", "header", "normal", "padding"]

BLOCK: Final = 512
#: The bytes that a name or the target of a link may have, and the members of an archive.
NAME_LIMIT: Final = 512
MEMBER_LIMIT: Final = 65_536

_HEADER_LIMIT: Final = 4 * MEMBER_LIMIT  # a name, a link and a size may come before a member
_EXTENSION_LIMIT: Final = 1024 * 1024
_HOPS: Final = 8  # links that lead to links
_ZEROS: Final = bytes(BLOCK)
_RECORD: Final = 20 * BLOCK
_REFUSED: Final = {b"3": "a device", b"4": "a device", b"6": "a fifo", b"S": "a sparse file"}


class Bytes(Protocol):
    """What a tar is read from."""

    @property
    def size(self) -> int: ...
    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on; fewer at the end."""


class Kind(enum.Enum):
    FILE = enum.auto()
    DIRECTORY = enum.auto()
    SYMLINK = enum.auto()
    HARD_LINK = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """``size`` bytes at ``offset`` of the archive; ``target`` is the name that a link means."""

    name: str
    kind: Kind
    offset: int = 0
    size: int = 0
    target: str = ""


class Members(Mapping[str, Member]):
    """The members of an archive by their names."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members

    @classmethod
    def read(cls, source: Bytes, cancel: Cancellation) -> Members:
        """The table of an archive. Raises `ArchiveError`, which names the member."""
        found: dict[str, Member] = {}
        for member in _members(source, cancel):
            before = found.get(member.name)
            if before is not None and (before.kind, member.kind) != (Kind.DIRECTORY,) * 2:
                raise ArchiveError(f"{_shown(member.name)} is in the archive twice")
            found[member.name] = member
            if len(found) > MEMBER_LIMIT:
                raise ArchiveError(f"the archive has more than {MEMBER_LIMIT} members")
        return cls(found)

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def file(self, name: str) -> Member | None:
        """The file of that name, links followed; None where there is none.

        Raises `ArchiveError` for links that go in a circle.
        """
        asked = name
        for _ in range(_HOPS):
            member = self._members.get(name)
            if member is None or member.kind is Kind.DIRECTORY:
                return None
            if member.kind is Kind.FILE:
                return member
            name = member.target
        raise ArchiveError(f"{_shown(asked)} leads from link to link, more than {_HOPS} times")


def normal(name: str, base: str = "") -> str:
    """``name``, seen from the directory ``base``, as a path from the archive's root.

    Raises `ArchiveError` for one that is absolute or leads out.

    >>> normal("../b/layer.tar", "a")
    'b/layer.tar'
    """
    if name.startswith("/"):
        raise ArchiveError(f"{_shown(name)}: an absolute name has no place in an archive")
    parts = [part for part in base.split("/") if part]
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise ArchiveError(f"{_shown(name)} leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


# reading


def _members(source: Bytes, cancel: Cancellation) -> Iterator[Member]:
    """The members that come to stand in the table, in the archive's order."""
    offset = 0
    extended: dict[str, str] = {}
    for _ in range(_HEADER_LIMIT + 1):  # the last for the end
        cancel.check()
        block = source.read(offset, BLOCK)
        if not block or block == _ZEROS:
            return
        if len(block) < BLOCK:
            if not offset:
                raise ArchiveError("the file is no tar archive")
            raise ArchiveError(f"the archive is cut off, after {offset + len(block)} bytes")
        _check_sum(block, offset)
        kind, size = block[156:157], _number(block[124:136], offset)
        data = offset + BLOCK
        if kind in b"xgLK":
            extended |= _extension(source, kind, data, size)
            offset = data + size + padding(size)
            continue
        member = _member(block, kind, data, size, extended)
        extended = {}
        if member.offset + member.size > source.size:
            raise ArchiveError(
                f"the archive is cut off: {_shown(member.name)} goes on to byte "
                f"{member.offset + member.size}, the archive has {source.size}"
            )
        if member.name:
            yield member
        offset = data + member.size + padding(member.size)
    raise ArchiveError(f"the archive has more than {_HEADER_LIMIT} headers")


def _member(block: bytes, kind: bytes, data: int, size: int, extended: dict[str, str]) -> Member:
    name = extended.get("path") or _name(block)
    if ".." in name.split("/"):
        raise ArchiveError(f"{_shown(name)}: a name with '..' has no place in an archive")
    if kind in b"\x000" and name.endswith("/"):  # how tar wrote directories before ustar
        kind = b"5"
    own = normal(name)
    if not own and kind != b"5":
        raise ArchiveError(f"a member at byte {data - BLOCK} of the archive has no name")
    if kind == b"5":
        return Member(name=own, kind=Kind.DIRECTORY, offset=data)
    if kind in (b"1", b"2"):
        target = extended.get("linkpath") or _text(block[157:257])
        base = own.rpartition("/")[0] if kind == b"2" else ""
        kinds = Kind.SYMLINK if kind == b"2" else Kind.HARD_LINK
        return Member(name=own, kind=kinds, offset=data, target=_linked(own, target, base))
    if kind in (b"0", b"\0", b"7"):
        if "size" in extended:
            size = _decimal(extended["size"])
        return Member(name=own, kind=Kind.FILE, offset=data, size=size)
    what = _REFUSED.get(kind, f"of a type {kind!r} that is not known")
    raise ArchiveError(f"{_shown(own)} is {what}, which has no place in an image archive")


def _linked(name: str, target: str, base: str) -> str:
    try:
        found = normal(target, base)
    except ArchiveError:
        found = ""
    if not found:
        raise ArchiveError(f"{_shown(name)} is a link that leads out: {_shown(target)}")
    return found


def _extension(source: Bytes, kind: bytes, offset: int, size: int) -> dict[str, str]:
    """What a header says of the member that follows: its path, its link's, its size."""
    if size > _EXTENSION_LIMIT:
        raise ArchiveError(f"an extended header of {size} bytes is refused")
    content = source.read(offset, size)
    if len(content) < size:
        raise ArchiveError(f"the archive is cut off, in a header at byte {offset}")
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(content)}
    found = {}
    content = content.rstrip(b"\0")
    at = 0  # a header may be of very many records: what comes after one is not copied
    while at < len(content):
        blank = content.find(b" ", at, at + 9)
        count = _decimal(content[at : max(blank, at)].decode("ascii", "replace"))
        key, equals, value = content[blank + 1 : at + count].partition(b"=")
        at += count
        if not equals or not value.endswith(b"\n"):
            raise ArchiveError(f"an extended header at byte {offset} is malformed")
        if key.startswith(b"GNU.sparse"):
            raise ArchiveError("a sparse file has no place in an image archive")
        if key in (b"path", b"linkpath", b"size"):
            if kind == b"g":
                raise ArchiveError(f"a header for all members must not give their {key.decode()}")
            found[key.decode()] = _text(value[:-1])
    return found


def _check_sum(block: bytes, offset: int) -> None:
    stated = _number(block[148:156], offset)
    rest = block[:148] + b" " * 8 + block[156:]
    # some old programs added the bytes as signed
    if stated not in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest)):
        raise ArchiveError(
            "the file is no tar archive"
            if not offset
            else f"the archive is damaged: the header at byte {offset} has a wrong checksum"
        )


def _number(field: bytes, offset: int) -> int:
    if field[0] == 0x80:  # base 256, for what has no room in octal
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise ArchiveError(f"the header at byte {offset} of the archive has a malformed number")
    return int(text, 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text)) and text != "0":
        raise ArchiveError("an extended header has a malformed number")
    return int(text)


def _name(block: bytes) -> str:
    name, prefix = block[:100], b""
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
    return _text(prefix + b"/" + name if prefix else name)


def _text(raw: bytes) -> str:
    raw = raw.partition(b"\0")[0]
    if len(raw) > NAME_LIMIT:
        raise ArchiveError(f"a name of {len(raw)} bytes is refused; {NAME_LIMIT} are allowed")
    return raw.decode("utf-8", "backslashreplace")


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 100 else f"{name[:97]}…")


# writing


def header(name: str, size: int) -> bytes:
    """The header of a file that anybody may read and that belongs to nobody in particular: the
    same bytes for the same arguments, always."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> int:
    """The bytes after ``size`` bytes of content, up to a whole block."""
    return -size % BLOCK


def end(written: int) -> bytes:
    """What ends an archive of which ``written`` bytes are written."""
    count = 2 * BLOCK
    return bytes(count + -(written + count) % _RECORD)
