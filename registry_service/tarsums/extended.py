"""pax: the records before an entry, and what they change of its header; the maps of sparse files.

A map is a list of (offset, count): so many bytes of what is stored belong at that place of the
file, and what lies between is zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..errors import TarError
from .headers import Entry, decimal, number

__all__ = [
    "FRAGMENT_LIMIT",
    "GNU_IN_BLOCK",
    "GNU_IN_HEADER",
    "DecimalLines",
    "Fragments",
    "gnu_fragments",
    "merged",
    "pax_fragments",
    "records",
    "sparse_format",
    "unfolded",
]

Fragments = list[tuple[int, int]]

#: The parts that a sparse file may have.
FRAGMENT_LIMIT: Final = 65_536
#: Of GNU's old format: the entries of its map in a header, and in each block that follows.
GNU_IN_HEADER: Final = 4
GNU_IN_BLOCK: Final = 21

_XATTR: Final = b"SCHILY.xattr."
_SPARSE: Final = b"GNU.sparse."
_OFFSET: Final = b"GNU.sparse.offset"
_COUNT: Final = b"GNU.sparse.numbytes"
_MAP: Final = b"GNU.sparse.map"
_SECONDS: Final = 10**9


def records(content: bytes, at: int) -> dict[bytes, bytes]:
    """Those records of a pax header at byte ``at`` of the archive that count; of a key the last.

    Raises `TarError` for what is no list of records.
    """
    found: dict[bytes, bytes] = {}
    places: list[bytes] = []
    start = 0  # a header may be of very many records: what comes after one is not copied
    while start < len(content):
        blank = content.find(b" ", start)
        count = decimal(content[start : max(blank, start)])
        if count is None or not blank < start + count <= len(content):
            raise TarError(
                f"the extended header at byte {at} of the archive has a record without its length"
            )
        key, equals, value = content[blank + 1 : start + count - 1].partition(b"=")
        if not equals:
            raise TarError(
                f"the extended header at byte {at} of the archive has a record without ="
            )
        start += count
        if key in (_OFFSET, _COUNT):  # the only ones that come more than once
            places.append(value)
        elif key in _FIELDS or key.startswith((_XATTR, _SPARSE)):
            found[key] = value
    if places:
        found[_MAP] = b",".join(places)
    return found


def merged(entry: Entry, found: Mapping[bytes, bytes]) -> Entry:
    """``entry`` with what the records say instead. A number that is none changes nothing."""
    changes: dict[str, Any] = {}
    for key, (field, reads) in _FIELDS.items():
        if key in found:
            value = reads(found[key])
            if value is not None:
                changes[field] = value
    if "size" in changes:
        changes["stored"] = changes["size"]
    xattrs = {key[len(_XATTR) :]: value for key, value in found.items() if key.startswith(_XATTR)}
    if xattrs:
        changes["xattrs"] = xattrs
    return dataclasses.replace(entry, **changes) if changes else entry


def sparse_format(found: Mapping[bytes, bytes]) -> str:
    """``0.0``, ``0.1`` or ``1.0``, where the records say how a file is sparse; else empty."""
    if b"GNU.sparse.major" in found and b"GNU.sparse.minor" in found:
        form = found[b"GNU.sparse.major"] + b"." + found[b"GNU.sparse.minor"]
        return form.decode() if form in (b"0.0", b"0.1", b"1.0") else ""
    if b"GNU.sparse.name" in found and _MAP in found:
        return "0.1"
    return "0.0" if b"GNU.sparse.size" in found else ""


def unfolded(entry: Entry, found: Mapping[bytes, bytes], at: int) -> Entry:
    """``entry`` with the name and the size that a sparse file has when it is whole."""
    changes: dict[str, Any] = {}
    if b"GNU.sparse.name" in found:
        changes["name"] = found[b"GNU.sparse.name"]
    for key in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
        if key in found:
            changes["size"] = _required(found[key], at)
            break
    return dataclasses.replace(entry, **changes) if changes else entry


def pax_fragments(found: Mapping[bytes, bytes], at: int) -> Fragments:
    """The map that the records hold (formats 0.0 and 0.1). Raises `TarError`."""
    count = _required(found.get(b"GNU.sparse.numblocks", b""), at)
    numbers = found.get(_MAP, b"").split(b",")
    _check_count(count, at)
    if len(numbers) != 2 * count:
        raise _malformed(at)
    return _paired([_required(each, at) for each in numbers])


def gnu_fragments(area: bytes, entries: int, at: int) -> Fragments:
    """The map in a header or a block of GNU's old format, up to an entry of zeros."""
    found: Fragments = []
    for place in range(0, 24 * entries, 24):
        offset, count = number(area[place : place + 12]), number(area[place + 12 : place + 24])
        if offset is None or count is None:
            raise _malformed(at)
        if not offset and not count:
            break
        found.append((offset, count))
    return found


class DecimalLines:
    """The map of format 1.0, which stands before the data, in blocks: a number on each line, the
    first of which says how many pairs follow. Fed with blocks as long as it is not complete."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._rest = b""
        self._numbers: list[int] = []
        self._due: int | None = None

    @property
    def complete(self) -> bool:
        return self._due == len(self._numbers)

    @property
    def fragments(self) -> Fragments:
        return _paired(self._numbers)

    def feed(self, block: bytes) -> None:
        """Raises `TarError`."""
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        if not lines:
            raise _malformed(self._at)
        for line in lines:
            if self.complete:
                return
            value = _required(line, self._at)
            if self._due is None:
                _check_count(value, self._at)
                self._due = 2 * value
            else:
                self._numbers.append(value)


def _paired(numbers: Sequence[int]) -> Fragments:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_count(count: int, at: int) -> None:
    if count < 0:
        raise _malformed(at)
    if count > FRAGMENT_LIMIT:
        raise TarError(
            f"the sparse file at byte {at} of the archive has {count} parts; "
            f"{FRAGMENT_LIMIT} are allowed"
        )


def _required(digits: bytes, at: int) -> int:
    value = decimal(digits)
    if value is None:
        raise _malformed(at)
    return value


def _malformed(at: int) -> TarError:
    return TarError(f"the sparse file at byte {at} of the archive has a malformed map")


def _seconds(value: bytes) -> int | None:
    """The whole seconds of a time; what comes after the ninth digit is cut off."""
    whole, point, fraction = value.partition(b".")
    seconds = decimal(whole)
    if not point or seconds is None:
        return seconds
    nanoseconds = decimal(fraction.ljust(9, b"0")[:9])
    if nanoseconds is None:
        return None
    return seconds + nanoseconds // _SECONDS


_FIELDS: Final[dict[bytes, tuple[str, Callable[[bytes], Any]]]] = {
    b"path": ("name", bytes),
    b"linkpath": ("linkname", bytes),
    b"uname": ("uname", bytes),
    b"gname": ("gname", bytes),
    b"uid": ("uid", decimal),
    b"gid": ("gid", decimal),
    b"size": ("size", decimal),
    b"mtime": ("mtime", _seconds),
}
