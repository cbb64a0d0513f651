"""Compressed streams: what they are by their first bytes, and what is in them, piece by piece.

zstd comes from `backports.zstd`, which is the standard library's module of Python 3.14 for the
Pythons before: its decompressor has the interface of those of bz2 and lzma, which gives back no
more than is asked for at a time, and it goes away with the last Python that needs it.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from .errors import ArchiveError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["CHUNK", "LONGEST_MAGIC", "Unpacker", "compression_of", "decompressed", "gzipped"]

#: The most bytes of a piece.
CHUNK: Final = 256 * 1024
#: So many bytes tell what a stream is.
LONGEST_MAGIC: Final = 6

_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
}
# A frame of zstd that holds no content may come first: 0x184D2A50 to 0x184D2A5F, little-endian.
_SKIPPABLE: Final = b"\x2a\x4d\x18"
_MEMORY: Final = 128 * 1024 * 1024  # as zstd's own bound; xz -9 needs 65 MiB
_DAMAGED: Final = (zlib.error, lzma.LZMAError, OSError, EOFError, zstd.ZstdError, ValueError)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's object with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_MAKERS: Final[dict[str, Callable[[], _Decompressor]]] = {
    "gzip": _Gzip,
    "zstd": zstd.ZstdDecompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
    "bzip2": bz2.BZ2Decompressor,
}


def compression_of(start: bytes) -> str:
    """``gzip``, ``zstd``, ``xz`` or ``bzip2`` by the first bytes of a stream; else empty."""
    if start[:1] and start[0] & 0xF0 == 0x50 and start[1:4] == _SKIPPABLE:
        return "zstd"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")


class Unpacker:
    """A compressed stream that is undone while it comes, and may be several of its kind one after
    the other. Belongs to one thread."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._inner = _MAKERS[kind]()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """What comes out of the next bytes, all of which has to be taken.

        However much comes out of little, no piece has more than `CHUNK` bytes. Raises
        `ArchiveError` for a stream that is damaged.
        """
        while True:
            if self._inner.eof:
                if self._kind != "zstd":  # programs that write to tapes fill up with zeros
                    data = bytes(data).lstrip(b"\0")
                if not data:
                    return
                self._inner = _MAKERS[self._kind]()
            try:
                out = self._inner.decompress(data, CHUNK)
            except _DAMAGED as error:
                raise ArchiveError(f"the {self._kind} stream is damaged: {error}") from None
            data = self._inner.unused_data if self._inner.eof else b""
            if out:
                yield out
            elif self._inner.needs_input and not self._inner.eof:
                return

    def end(self) -> None:
        """Nothing follows. Raises `ArchiveError` where something had to."""
        if not self._inner.eof:
            raise ArchiveError(f"the {self._kind} stream is cut off")


def decompressed(pieces: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """What is in the stream, in pieces as `Unpacker.feed` gives them.

    Raises `ArchiveError` for a stream that is damaged or cut off.
    """
    unpacker = Unpacker(kind)
    for piece in pieces:
        yield from unpacker.feed(piece)
    unpacker.end()


def gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces as one gzip stream, always the same for the same bytes: it says no time and no
    name."""
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    for piece in pieces:
        if out := packer.compress(piece):
            yield out
    yield packer.flush()
