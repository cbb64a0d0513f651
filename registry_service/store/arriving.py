"""Content on its way in of which nobody knows the digest before it is here: layers of V1.

Its partial file is one for each registry and all that the registry says of the layer
(`layerbook.layer_key`). It has the bytes as they came, and so it is resumed as any other: those
that are there are looked at again, and what the registry sends goes on from their end. A layer that
is not compressed, or not with gzip, is compressed when all of it is here, into another file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from typing import Final

from ..cancel import Cancellation
from ..compression import CHUNK, Unpacker, gzipped
from ..digest import Digest
from ..errors import DigestMismatchError, LayerError
from ..media import OCI_LAYER
from ..upgrade import Layer
from ..v1.layer import CheckedLayer, LayerCheck, StatedLayer
from .disk import FILE_MODE, temporary_in, write_all
from .layerbook import layer_key
from .layout import Layout
from .partial import Opened, PartialFile, Report, open_partial

__all__ = ["Arriving", "arriving_name"]

_BEAT: Final = 5.0  # seconds between two signs of life
_GZIP: Final = f"{OCI_LAYER}+gzip"


class Arriving(PartialFile):
    """The partial file of one layer, open and locked, and what was found out of it so far."""

    def __init__(self, layout: Layout, stated: StatedLayer, opened: Opened) -> None:
        super().__init__(
            layout, opened, f"the layer of image {stated.image_id}", stated.stated_size
        )
        self._stated = stated
        self._check_of_layer = LayerCheck(stated)
        self._packed = ""  # the file with the compressed layer, where that is another one
        self._beaten = 0.0

    @classmethod
    def claim(cls, layout: Layout, host: str, stated: StatedLayer) -> Arriving | None:
        """The partial file of that layer, made where there is none; None while another has it.
        Raises `StoreError`."""
        opened = open_partial(layout, arriving_name(host, stated))
        return None if opened is None else cls(layout, stated, opened)

    @property
    def complete(self) -> bool:
        """Whether it has as many bytes as the registry says. Where it does not say, nothing but
        the end of what it sends tells."""
        return self.position == self._size

    def verified(self, cancel: Cancellation, report: Report) -> Layer:
        """What the layer is to become, in a file that waits for `commit`.

        Raises `LayerError`, `DigestMismatchError`, and nothing is kept; `StoreError`,
        `CancelledError`.
        """
        try:
            found = self._check_of_layer.finish(cancel)
        except (LayerError, DigestMismatchError):
            self.discard()
            raise
        if found.compression == "gzip":
            return Layer(
                digest=found.digest, size=found.size, diff_id=found.diff_id, media_type=_GZIP
            )
        return self._pack(found, cancel, report)

    def commit(self, layer: Layer) -> None:
        """Make what was verified the blob. It is closed then, whatever comes of it. Raises
        `StoreError`."""
        packed, self._packed = self._packed, ""
        if not packed:
            self.settle_as(layer.digest)
            return
        try:
            self._put(packed, layer.digest)
        except OSError as error:
            _remove(packed)
            self._fail(error, packed)
        else:
            self.discard()
        finally:
            self.close()

    def _shut(self) -> None:
        packed, self._packed = self._packed, ""
        if packed:  # it did not come to `commit`
            _remove(packed)
        super()._shut()

    def beat(self) -> None:
        """Show who waits for this file that it is being worked at."""
        now = time.monotonic()
        if now - self._beaten >= _BEAT:
            self._beaten = now
            os.utime(self._fd)

    def _other_size(self, length: int | None) -> str:
        return self._stated.other_size(length)

    def _take(self, data: memoryview, cancel: Cancellation) -> None:
        try:
            self._check_of_layer.update(data, cancel)
        except LayerError:
            self.discard()
            raise

    def _pack(self, found: CheckedLayer, cancel: Cancellation, report: Report) -> Layer:
        """Compress what is here into a file beside it."""
        path = str(temporary_in(self._layout.ingest, "layer"))
        hasher = hashlib.sha256()
        size = 0
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                for piece in gzipped(self._plain(found, cancel, report)):
                    write_all(fd, memoryview(piece), size)
                    hasher.update(piece)
                    size += len(piece)
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _remove(path)
            self._fail(error, path)
        except BaseException:
            _remove(path)
            raise
        self._packed = path
        digest = Digest(algorithm="sha256", hex=hasher.hexdigest())
        return Layer(digest=digest, size=size, diff_id=found.diff_id, media_type=_GZIP)

    def _plain(self, found: CheckedLayer, cancel: Cancellation, report: Report) -> Iterator[bytes]:
        """The archive that is in the file, piece by piece."""
        unpacker = Unpacker(found.compression) if found.compression else None
        offset = 0
        while piece := os.pread(self._fd, CHUNK, offset):
            cancel.check()
            self.beat()
            offset += len(piece)
            report("converting", offset)
            for plain in (piece,) if unpacker is None else unpacker.feed(piece):
                cancel.check()
                yield plain


def arriving_name(host: str, stated: StatedLayer) -> str:
    """The name of the partial file, which is a file's name everywhere."""
    whose = hashlib.sha256(f"{layer_key(stated)} {host}".encode()).hexdigest()[:32]
    return f"layer-{stated.image_id[:12]}-{whose}.partial"


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - see `Layout.place`
