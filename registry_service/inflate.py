"""The digest of a layer before compression (its 'diff id'), a piece of the layer at a time."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import BinaryIO, Final

from .cancel import Cancellation
from .digest import Digest
from .errors import ManifestError

__all__ = ["EMPTY_DIFF_ID", "diff_id"]

#: Of a tar archive with nothing in it: two blocks of zeros.
EMPTY_DIFF_ID: Final = Digest.of(bytes(1024))

_CHUNK: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"
_OTHERS: Final = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def diff_id(
    file: BinaryIO, cancel: Cancellation, report: Callable[[int], object] = lambda done: None
) -> tuple[Digest, bool]:
    """The digest of what ``file`` holds uncompressed, and whether it was compressed with gzip.

    At most a few hundred kilobytes are in memory, however well it is compressed. ``report`` is
    told how many bytes of the file were read. Raises `ManifestError` for a damaged file or
    another compression, `CancelledError`.
    """
    hasher = hashlib.sha256(usedforsecurity=False)
    head = file.read(_CHUNK)
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ManifestError(f"a layer that is compressed with {name} cannot be converted")
    compressed = head.startswith(_GZIP)
    inflater = zlib.decompressobj(wbits=31) if compressed else None
    done = 0
    chunk = head
    while chunk:
        cancel.check()
        done += len(chunk)
        if inflater is None:
            hasher.update(chunk)
        else:
            inflater = _inflate(inflater, chunk, hasher.update, cancel)
        report(done)
        chunk = file.read(_CHUNK)
    if inflater is not None and not inflater.eof:
        raise ManifestError("a layer's gzip stream is cut short")
    return Digest(algorithm="sha256", hex=hasher.hexdigest()), compressed


def _inflate(
    inflater: zlib._Decompress,
    data: bytes,
    take: Callable[[bytes], object],
    cancel: Cancellation,
) -> zlib._Decompress:
    """Hand on what ``data`` inflates to; returns what inflates the bytes after it. A gzip file
    may be of several members, one after the other, and zeros may fill it up."""
    while data:
        if inflater.eof:
            data = data.lstrip(b"\0")
            if not data:
                break
            inflater = zlib.decompressobj(wbits=31)
        try:
            take(inflater.decompress(data, _CHUNK))
        except zlib.error as error:
            raise ManifestError(f"a layer's gzip stream is damaged: {error}") from None
        cancel.check()
        data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    return inflater
