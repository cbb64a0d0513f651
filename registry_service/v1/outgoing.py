"""A layer on its way to a V1 registry: in gzip, and known to be what its image says that it is.

In V1 an image has an id and no digest: whoever sends other bytes than an id stands for gives these
to everybody who shares the image. So a layer is verified while it is sent, against its digest and
against the diff id that went into the image's id, and an upload of other bytes does not end.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol

from ..cancel import Cancellation
from ..compression import CHUNK, LONGEST_MAGIC, Unpacker, compression_of
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import ArchiveError, ManifestError, StoreError
from ..pieces import Pieces

__all__ = ["OutgoingLayer"]

_GZIP_FILE: Final = 31  # zlib's word for a gzip header, which has no time and no name then


class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...
    def close(self) -> None: ...


class OutgoingLayer:
    """Reads as the layer in gzip: its own bytes where they are, else compressed on the way, which
    gives the same bytes each time. Belongs to one thread.

    ``source`` has the blob ``layer`` from its start and is closed with this; ``report`` is told
    how many of its bytes were read. Reading raises `StoreError` for other bytes than the digest
    names, `ManifestError` for another diff id or a damaged stream, both before the end is told,
    and `CancelledError`.
    """

    def __init__(
        self,
        source: _Readable,
        layer: Descriptor,
        diff_id: Digest,
        cancel: Cancellation,
        report: Callable[[int], object] = lambda done: None,
    ) -> None:
        self._source = source
        self._layer = layer
        self._diff_id = diff_id
        self._cancel = cancel
        self._report = report
        #: Whether the layer's own bytes are sent, as far as it was looked into.
        self.unchanged = False
        self._gzip = self._gzipped()
        self._pieces = Pieces(self._gzip)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as is at hand; 0 at the end, which is told only where all of it
        was right."""
        return self._pieces.readinto(buffer)

    def close(self) -> None:
        self._gzip.close()
        self._source.close()

    def _gzipped(self) -> Generator[bytes, None, None]:
        blob, plain = self._layer.digest.hasher(), self._diff_id.hasher()
        done = 0
        kind: str | None = None
        unpacker: Unpacker | None = None
        packer = zlib.compressobj(wbits=_GZIP_FILE)
        for piece in self._read():
            self._cancel.check()
            if kind is None:
                kind = compression_of(piece)
                unpacker = Unpacker(kind) if kind else None
                self.unchanged = kind == "gzip"
            blob.update(piece)
            done += len(piece)
            for inner in self._feed(unpacker, piece):
                plain.update(inner)
                if kind != "gzip":
                    yield packer.compress(inner)
            if kind == "gzip":
                yield piece
            self._report(done)
        self._check(blob.hexdigest(), plain.hexdigest(), unpacker)
        if kind != "gzip":
            yield packer.flush()

    def _read(self) -> Iterator[bytes]:
        """The blob in pieces, of which the first tells what it is."""
        buffer = memoryview(bytearray(CHUNK))
        start = 0
        while count := self._source.readinto(buffer[start:]) or 0:
            start += count
            if start >= LONGEST_MAGIC:
                yield bytes(buffer[:start])
                start = 0
        if start:
            yield bytes(buffer[:start])

    def _feed(self, unpacker: Unpacker | None, piece: bytes) -> Iterator[bytes]:
        if unpacker is None:
            yield piece
            return
        try:
            for inner in unpacker.feed(piece):
                self._cancel.check()
                yield inner
        except ArchiveError as error:
            raise ManifestError(f"layer {self._layer.digest}: {error}") from None

    def _check(self, blob: str, plain: str, unpacker: Unpacker | None) -> None:
        digest = self._layer.digest
        if blob != digest.hex:
            raise StoreError(
                f"layer {digest}: what is kept under its digest are other bytes, and they were not "
                "sent to the end; see 'verify'",
                code="damaged",
            )
        try:
            if unpacker is not None:
                unpacker.end()
        except ArchiveError as error:
            raise ManifestError(f"layer {digest}: {error}") from None
        if plain != self._diff_id.hex:
            raise ManifestError(
                f"layer {digest}: its diff id is {self._diff_id.algorithm}:{plain}, the image's "
                f"configuration says {self._diff_id}; nobody could tell what its id stands for"
            )
