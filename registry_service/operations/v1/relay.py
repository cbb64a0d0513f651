"""A layer of V1 on its way to a registry of V2: in gzip, and checked while it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Self

from ...cancel import Cancellation
from ...compression import CHUNK, compression_of, decompressed, gzipped
from ...errors import ArchiveError, LayerError, RegistryError
from ...observe import Observer
from ...pieces import Pieces
from ...session.blob import RemoteBlob
from ...session.relay import Resumed
from ...session.streaming import fill
from ...store.retry import out_of_range
from ...transport import BodyError
from ...transport.retry import RetryPolicy
from ...v1.layer import CheckedLayer, LayerCheck, StatedLayer

__all__ = ["LayerRelay"]

_PHASE: Final = "copying"


class LayerRelay:
    """The layer as the blob that it becomes: its own bytes where they are gzip, else compressed on
    the way, which gives the same bytes each time. Used by one thread.

    ``opener`` opens the layer from a place on. A registry that breaks off is asked for the rest.
    `seek` to 0 begins anew. The last bytes are given out only when the whole is a layer, and the
    one that the registry says; reading raises `LayerError` and `DigestMismatchError` for another.
    """

    def __init__(
        self,
        stated: StatedLayer,
        opener: Callable[[int], RemoteBlob],
        *,
        policy: RetryPolicy,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._stated = stated
        self._opener = opener
        #: How many bytes the registry has, as far as it said so when it was asked for all.
        self._announced: int | None = None
        self._cancel = cancel
        self._observer = observer
        self._source = Resumed(
            f"the layer of image {stated.image_id}",
            stated.stated_size,
            self._open,
            policy=policy,
            cancel=cancel,
            observer=observer,
        )
        self._pieces = Pieces(self._blob())
        #: What was found out of the layer, and how many bytes its blob has; None before it was read
        #: to its end, which may be before it is begun anew.
        self.found: tuple[CheckedLayer, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    def seek(self, offset: int, /) -> int:
        """To the start, which is the only place that there is to go."""
        if offset:
            raise ValueError("a layer on its way can only be begun anew")
        self._source.go_to(0)
        self._pieces = Pieces(self._blob())
        return 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` as far as is at hand; 0 at the end."""
        return self._pieces.readinto(buffer)

    def _open(self, offset: int) -> RemoteBlob:
        stream = self._opener(offset)
        if not stream.offset:
            self._announced = stream.length
        return stream

    def _blob(self) -> Iterator[bytes]:
        """The blob, of which the last piece comes when the layer has been found right."""
        memory = memoryview(bytearray(CHUNK))
        first = bytes(memory[: self._fill(memory)])
        size, announced = self._stated.stated_size, self._announced
        if size is not None and announced is not None and announced > size:
            raise self._other_size(announced)  # no more is read than is stated
        kind = compression_of(first)
        check = LayerCheck(self._stated)
        layer = self._layer(check, first, memory)
        plain = decompressed(layer, kind) if kind else layer
        before, size = b"", 0
        try:
            for piece in layer if kind == "gzip" else gzipped(plain):
                self._cancel.check()
                if before:
                    yield before
                before = piece
                size += len(piece)
        except LayerError:
            raise
        except ArchiveError as error:  # of what undoes the compression a second time
            raise LayerError(f"the layer of image {self._stated.image_id}: {error}") from None
        self.found = check.finish(self._cancel), size
        if before:
            yield before

    def _layer(self, check: LayerCheck, first: bytes, memory: memoryview) -> Iterator[bytes]:
        """The bytes of the layer as they come."""
        piece = first
        while piece:
            check.update(piece, self._cancel)
            self._observer.progress(
                self._stated.image_id,
                _PHASE,
                self._source.position,
                self._stated.stated_size or -1,
            )
            yield piece
            piece = bytes(memory[: self._fill(memory)])

    def _fill(self, memory: memoryview) -> int:
        """Raises what the registry says for good; it is no fault of who sends the layer on."""
        try:
            return fill(self._source, memory)
        except BodyError as error:
            cause = error.__cause__
            if isinstance(cause, RegistryError) and out_of_range(cause):
                raise self._other_size(self._source.position) from None
            if isinstance(cause, RegistryError) and not cause.retryable:
                raise cause from None
            raise

    def _other_size(self, length: int) -> LayerError:
        return LayerError(
            f"the layer of image {self._stated.image_id}: {self._stated.other_size(length)}"
        )
