"""A tar stream as its entries, a piece at a time; no file and no waiting.

`entries` is a coroutine: it yields how many bytes it can take, at least 1, and is sent so many or
fewer; at the end of the stream it is sent empty bytes until it returns. What it finds it tells a
`Taker`.

It follows Docker's reader of tar, in what others do differently too: a global pax header is an
entry of its own, and so is whatever header comes after a pax header; every entry has as much
content as its header says, whatever its type; the first of several GNU long names counts; holes of
sparse files are zeros of the content. An archive may end without the two blocks of zeros, and
without the padding of its last entry. Where a pax header gives the size, so much is read, which
that reader did not: it took entries of more than 8 GiB for none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Final, Protocol

from ..cancel import Cancellation
from ..errors import TarError
from .extended import (
    FRAGMENT_LIMIT,
    GNU_IN_BLOCK,
    GNU_IN_HEADER,
    DecimalLines,
    Fragments,
    gnu_fragments,
    merged,
    pax_fragments,
    records,
    sparse_format,
    unfolded,
)
from .headers import BLOCK, Entry, number, read_header, text

__all__ = ["EXTENSION_LIMIT", "HOLE_LIMIT", "Piece", "Taker", "entries"]

Piece = bytes | bytearray | memoryview
Steps = Generator[int, Piece, None]

#: The bytes that a pax header, a long name or the target of a link may have.
EXTENSION_LIMIT: Final = 1024 * 1024
#: The zeros that all sparse files of an archive may have in place of nothing.
HOLE_LIMIT: Final = 16 * 1024**3

_ZEROS: Final = bytes(64 * 1024)
_REST: Final = 1024 * 1024
_PAX, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"L", b"K", b"S"


class Taker(Protocol):
    """Who is told what is in the archive."""

    def begin(self, entry: Entry) -> object: ...
    def content(self, piece: Piece) -> object:
        """The next bytes of the entry, which are good for this call only."""

    def end(self) -> object: ...


def entries(taker: Taker, cancel: Cancellation | None = None) -> Steps:
    """Tell ``taker`` the entries of the archive that is sent. Raises `TarError`, and
    `CancelledError` from within a hole."""
    yield from _Reader(taker, cancel).run()


@dataclasses.dataclass(slots=True, kw_only=True)
class _Found:
    """An entry, its map where it is sparse, and how much of what is stored is not read yet."""

    entry: Entry
    fragments: Fragments | None
    left: int


class _Reader:
    def __init__(self, taker: Taker, cancel: Cancellation | None) -> None:
        self._taker = taker
        self._cancel = cancel
        self._at = 0  # bytes of the archive that were taken
        self._holes = 0

    def run(self) -> Steps:
        missing = 0
        while not missing:
            found = yield from self._next()
            if found is None:
                break
            self._taker.begin(found.entry)
            if found.fragments is None:
                yield from self._content(found, found.left)
            else:
                yield from self._unfold(found)
            self._taker.end()
            missing = yield from self._skip(found.left + -found.entry.stored % BLOCK)
        while (yield _REST):  # what follows the archive's end is not part of it
            pass

    # entries

    def _next(self) -> Generator[int, Piece, _Found | None]:
        """The next entry, with what the headers before it say of it; None at the end."""
        name = link = None
        while True:
            at = self._at
            block = yield from self._header()
            if block is None:
                if name is None and link is None:
                    return None
                raise self._cut()
            found = yield from self._entry(block, at)
            kind = found.entry.typeflag
            if kind == _LONG_NAME:
                content = yield from self._extension(found.entry, at)
                name = text(content) if name is None else name
            elif kind == _LONG_LINK:
                content = yield from self._extension(found.entry, at)
                link = text(content) if link is None else link
            else:
                if kind == _PAX:
                    found = yield from self._extended(found.entry, at)
                if name is not None:
                    found.entry = dataclasses.replace(found.entry, name=name)
                if link is not None:
                    found.entry = dataclasses.replace(found.entry, linkname=link)
                return found

    def _header(self) -> Generator[int, Piece, bytes | None]:
        """The block of the next header; None where the archive ends."""
        block = yield from self._take(BLOCK)
        if len(block) == BLOCK and not any(block):
            block = yield from self._take(BLOCK)
            if len(block) == BLOCK and any(block):
                raise TarError(
                    f"the archive is damaged: byte {self._at - BLOCK} comes after a block of zeros"
                )
            if len(block) == BLOCK:
                return None
        if not block:
            return None
        if len(block) < BLOCK:
            if self._at < BLOCK:
                raise TarError(
                    f"this is no tar archive: it has {self._at} bytes, and a header has {BLOCK}"
                )
            raise self._cut()
        return block

    def _entry(self, block: bytes, at: int) -> Generator[int, Piece, _Found]:
        entry = read_header(block, at)
        fragments = None
        if entry.typeflag == _SPARSE:
            size = number(block[483:495])
            if size is None:
                raise TarError(f"the sparse file at byte {at} of the archive has a malformed size")
            entry = dataclasses.replace(entry, size=size)
            fragments = yield from self._gnu_map(block, at)
        if entry.stored < 0:
            raise _negative(at)
        return _Found(entry=entry, fragments=fragments, left=entry.stored)

    def _gnu_map(self, block: bytes, at: int) -> Generator[int, Piece, Fragments]:
        fragments = gnu_fragments(block[386:482], GNU_IN_HEADER, at)
        more = block[482]
        while more:
            block = yield from self._take(BLOCK)
            if len(block) < BLOCK:
                raise self._cut()
            fragments += gnu_fragments(block[:504], GNU_IN_BLOCK, at)
            more = block[504]
            if len(fragments) > FRAGMENT_LIMIT:
                raise TarError(
                    f"the sparse file at byte {at} of the archive has more than "
                    f"{FRAGMENT_LIMIT} parts"
                )
        return fragments

    def _extended(self, extension: Entry, at: int) -> Generator[int, Piece, _Found]:
        """The entry after a pax header at byte ``at``."""
        content = yield from self._extension(extension, at)
        found = records(content, at)
        at = self._at
        block = yield from self._header()
        if block is None:
            raise self._cut()
        under = yield from self._entry(block, at)
        entry = merged(under.entry, found)
        if entry.stored < 0:
            raise _negative(at)
        form = sparse_format(found)
        fragments, left = under.fragments, entry.stored
        if form:
            if fragments is not None:
                raise TarError(f"the file at byte {at} of the archive is sparse in two ways")
            entry = unfolded(entry, found, at)
            if form == "1.0":
                fragments, left = yield from self._leading_map(left, at)
            else:
                fragments = pax_fragments(found, at)
        return _Found(entry=entry, fragments=fragments, left=left)

    def _leading_map(self, left: int, at: int) -> Generator[int, Piece, tuple[Fragments, int]]:
        """The map before the data of a file, and the bytes of data."""
        lines = DecimalLines(at)
        while not lines.complete:
            if left < BLOCK:
                raise TarError(f"the sparse file at byte {at} of the archive has no complete map")
            block = yield from self._take(BLOCK)
            if len(block) < BLOCK:
                raise self._cut()
            lines.feed(block)
            left -= BLOCK
        return lines.fragments, left

    def _extension(self, entry: Entry, at: int) -> Generator[int, Piece, bytes]:
        """What is in a header that says something of the next entry."""
        if entry.stored > EXTENSION_LIMIT:
            raise TarError(
                f"the extended header at byte {at} of the archive has {entry.stored} bytes; "
                f"{EXTENSION_LIMIT} are allowed"
            )
        content = yield from self._take(entry.stored)
        if len(content) < entry.stored:
            raise self._cut()
        yield from self._skip(-entry.stored % BLOCK)
        return content

    # content

    def _content(self, found: _Found, count: int) -> Steps:
        """Hand on the next ``count`` bytes of what is stored."""
        found.left -= count
        while count:
            piece = yield count
            if not piece:
                raise self._cut()
            self._taker.content(piece)
            count -= len(piece)
            self._at += len(piece)

    def _unfold(self, found: _Found) -> Steps:
        """Hand on a sparse file, with zeros where it has holes."""
        size, place = found.entry.size, 0
        assert found.fragments is not None
        for offset, count in found.fragments:
            if place < offset:
                self._hole(offset - place)
                place = offset
            due = offset + count - place
            if due < 0:
                raise TarError(f"a sparse file before byte {self._at} has parts that overlap")
            ready = min(due, found.left)
            yield from self._content(found, ready)
            place += ready
            if not found.left and place >= size and (ready < due or not due):
                return  # the file is whole, whatever the map has after it
            if ready < due:
                raise TarError(
                    f"a sparse file before byte {self._at} has less data than its map says"
                )
        if place < size:
            self._hole(size - place)

    def _hole(self, count: int) -> None:
        self._holes += count
        if self._holes > HOLE_LIMIT:
            raise TarError(
                f"the sparse files up to byte {self._at} of the archive have {self._holes} bytes "
                f"of holes; {HOLE_LIMIT} are allowed"
            )
        while count:
            if self._cancel is not None:
                self._cancel.check()
            zeros = _ZEROS[:count]
            self._taker.content(zeros)
            count -= len(zeros)

    # bytes

    def _take(self, count: int) -> Generator[int, Piece, bytes]:
        """The next ``count`` bytes; fewer only where the stream ends."""
        taken = bytearray()
        while len(taken) < count:
            piece = yield count - len(taken)
            if not piece:
                break
            taken += piece
            self._at += len(piece)
        return bytes(taken)

    def _skip(self, count: int) -> Generator[int, Piece, int]:
        """Leave out ``count`` bytes; returns how many of them are missing."""
        while count:
            piece = yield count
            if not piece:
                break
            count -= len(piece)
            self._at += len(piece)
        return count

    def _cut(self) -> TarError:
        return TarError(f"the archive is cut off, after {self._at} bytes")


def _negative(at: int) -> TarError:
    return TarError(f"the entry at byte {at} of the archive has a negative size")
