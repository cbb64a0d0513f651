"""Whether bytes are a tar archive, told while they come; nothing is kept of it but a header."""

from __future__ import annotations

import struct
from typing import Final

from ..errors import LayerError

__all__ = ["TarCheck"]

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_SPACES: Final = 8 * ord(" ")
_WITHOUT_CONTENT: Final = b"123456"  # links, devices, directories, fifos: what they say is no size
_SPARSE: Final = ord("S")
_PAX: Final = ord("x")
_MOST_DIGITS: Final = 19  # of a size: those of 2**63
_PAX_LIMIT: Final = 4 * 1024 * 1024  # bytes of what goes with one member


class TarCheck:
    """Follows the headers of an archive from one to the next. Belongs to one thread.

    The formats are v7, ustar, pax and GNU's, sparse files too. What follows the first block of
    zeros is nobody's, and an archive that ends without one is taken, as tar itself does.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._offset = 0  # of the header
        self._content = 0  # bytes of the member's content that are still to come
        self._padding = 0  # bytes after it, up to the next block
        self._pax: bytearray | None = None  # what comes is the content of a pax header
        self._size: int | None = None  # of the next member, as a pax header has it
        self._more_sparse = False  # a block that belongs to the header comes next
        self._sparse_content = 0
        self._ended = False

    def feed(self, data: bytes | memoryview) -> None:
        """Look at the next bytes. Raises `LayerError`, which says where it is none."""
        view = memoryview(data)
        while view and not self._ended:
            if self._content:
                count = min(len(view), self._content)
                if self._pax is not None:
                    self._pax += view[:count]
                self._content -= count
                if not self._content:
                    self._member_ends()
            elif self._padding:
                count = min(len(view), self._padding)
                self._padding -= count
            else:
                count = min(len(view), _BLOCK - len(self._header))
                self._header += view[:count]
                if len(self._header) == _BLOCK:
                    self._block(bytes(self._header))
                    self._header.clear()
            view = view[count:]

    def end(self) -> None:
        """Nothing follows. Raises `LayerError` where something had to."""
        if not self._ended and (self._content or self._header or self._more_sparse):
            raise LayerError(
                f"its tar archive is cut off within the member at {self._offset}"
                if self._offset or not self._header
                else "it is no tar archive"
            )

    def _block(self, block: bytes) -> None:
        if self._more_sparse:
            self._more_sparse = block[504] != 0
            if not self._more_sparse:
                self._begin(self._sparse_content)
            return
        if block == _ZEROS:
            self._ended = True
            return
        _check_sum(block, self._offset)
        kind = block[156]
        size = _number(block[124:136], self._offset)
        if kind in _WITHOUT_CONTENT:
            size = 0
        elif self._size is not None and kind not in b"xgLK":
            size = self._size
        if kind not in b"xgLK":
            self._size = None
        if kind == _PAX:
            if size > _PAX_LIMIT:
                raise LayerError(f"its tar archive has a pax header of {size} bytes")
            self._pax = bytearray()
        if kind == _SPARSE and block[482]:
            self._more_sparse, self._sparse_content = True, size
            return
        self._begin(size)

    def _begin(self, size: int) -> None:
        self._content, self._padding = size, -size % _BLOCK
        self._offset += _BLOCK + size + self._padding
        if not size:
            self._member_ends()

    def _member_ends(self) -> None:
        if self._pax is not None:
            size = _pax_size(bytes(self._pax))
            self._size = self._size if size is None else size
            self._pax = None


def _check_sum(block: bytes, offset: int) -> None:
    stated = _number(block[148:156], offset)
    rest = block[:148] + block[156:]
    # The first programs added the bytes up as signed ones.
    if stated != sum(rest) + _SPACES and stated != sum(struct.unpack("504b", rest)) + _SPACES:
        raise _none(offset)


def _number(field: bytes, offset: int) -> int:
    if field[0] & 0x80:  # GNU's, in base 256
        if field[0] & 0x40:
            raise _none(offset)
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    text = field.partition(b"\0")[0].strip(b" ")
    if text.strip(b"01234567"):
        raise _none(offset)
    return int(text or b"0", 8)


def _pax_size(records: bytes) -> int | None:
    """The size that a pax header gives to the member after it. Raises `LayerError` for one that no
    file has."""
    found = None
    while records:
        length, _, _ = records.partition(b" ")
        end = int(length) if length.isdigit() and len(length) < 10 else 0
        if not len(length) < end <= len(records):
            break  # what is damaged says nothing
        key, _, value = records[len(length) + 1 : end - 1].partition(b"=")
        if key == b"size" and value.isdigit():
            digits = value.lstrip(b"0")
            if len(digits) > _MOST_DIGITS:
                raise LayerError(
                    f"its tar archive has a pax header with a size of {len(digits)} digits"
                )
            found = int(digits or b"0")
        records = records[end:]
    return found


def _none(offset: int) -> LayerError:
    if not offset:
        return LayerError("it is no tar archive")
    return LayerError(f"its tar archive has no member at {offset}, where one should be")
