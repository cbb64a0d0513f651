"""Layers on their way in: from some place on, and as a file that goes on where it broke."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ...cancel import Cancellation
from ...errors import ConnectionBrokenError, ProtocolError, RegistryError
from ...transport import Response
from ..answers import absent, is_encoded, is_whole, number
from ..blob import RemoteBlob, range_start
from .names import image_url
from .sender import Sender

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["LayerReader", "Layers"]

_TRIES: Final = 5
_STEP: Final = 5.0  # seconds, by which each pause is longer than the one before
_FAILURES: Final = 32  # in all, of one reading


class Layers:
    """The layers of the registries of one client; thread-safe."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def open(
        self,
        image_id: str,
        registry: str,
        token: Sequence[str],
        offset: int = 0,
        *,
        size: int = -1,
        hasty: bool = False,
        retries: int | None = None,
        cancel: Cancellation | None = None,
    ) -> RemoteBlob:
        """The bytes of a layer, from ``offset`` on or from 0, as the result's own says. ``size``
        is that of the layer where it is known, else -1.

        Raises `DoesNotExistError`, and `RegistryHTTPError` with the status 416 where the layer
        has no byte there.
        """
        url = image_url(registry, image_id, "layer")

        def ask(headers: dict[str, str]) -> Response:
            return self._sender.send(
                "GET",
                url,
                token=token,
                headers=headers,
                hasty=hasty,
                retries=retries,
                cancel=cancel,
            )

        # The original registry refuses to send less than two bytes.
        early = offset > 1 and offset == size - 1
        start = offset - early
        # Its length of an open range is one too many, that of a closed one is right.
        end = size - 1 if size > offset else ""
        response = ask({"Range": f"bytes={start}-{end}"} if offset else {})
        if response.status == 206:
            stated = range_start(response.headers.get("Content-Range"))
            # Of content that is encoded, the places are those of other bytes.
            if stated == start and not is_encoded(response) and (offset or is_whole(response)):
                blob = RemoteBlob(response, start, length=_length(response, start))
                return _past(blob, start, offset)
            response.close()  # a part, and not the one that was asked for: then rather the whole
            response = ask({})
        if response.status == 200:
            return RemoteBlob(response, 0)
        if response.status == 404:
            raise absent(response, f"layer of the image {image_id}")
        raise response.error()

    def read(self, image_id: str, registry: str, token: Sequence[str], size: int) -> LayerReader:
        """A layer as a file. ``size`` is what the registry says of it, -1 where it does not."""
        return LayerReader(
            lambda offset: self.open(image_id, registry, token, offset, size=size, retries=0),
            what=f"layer of the image {image_id}",
            size=size,
            pause=self._pause,
        )

    def _pause(self, tries: int, error: RegistryError) -> None:
        """Wait after ``tries`` that failed, the last with ``error``, which is raised where the
        server asks for a longer wait than is allowed."""
        longest = self._sender.transport.settings.retry_wait_max
        wait = min(tries * _STEP, longest)
        asked = getattr(error, "retry_after", None)
        if asked is not None and asked > longest:
            raise error
        wait = max(wait, asked or 0.0)
        self._sender.observer.log(
            "warning", f"{error}; trying again", wait=round(wait, 2), attempt=tries
        )
        self._sender.transport.pause(wait, self._sender.cancel)


def _length(response: Response, start: int) -> int | None:
    """How many bytes a part from ``start`` to the end has, by what is said of the whole: the
    original registry announces one more."""
    total = number(response.headers.get("Content-Range", "").rpartition("/")[2])
    if total is None or response.length is None or response.length != total - start + 1:
        return response.length
    return total - start


def _past(blob: RemoteBlob, start: int, offset: int) -> RemoteBlob:
    """``blob`` without what was asked for only so that the server would send something."""
    if start < offset:
        try:
            if not blob.readinto(memoryview(bytearray(offset - start))):
                raise ConnectionBrokenError(f"the layer ended before byte {offset}")
        except BaseException:
            blob.close()
            raise
        blob.offset = offset
        if blob.length is not None:
            blob.length -= offset - start
    return blob


class LayerReader(io.RawIOBase):
    """The bytes of a layer, in order. Used by one thread; close it, or use it in a ``with``.

    ``length`` is their number, -1 where the registry does not say it before the end. They are
    not verified: of a layer nothing is known before it is here.

    A connection that is not made is tried five times, with pauses that grow. One that breaks is
    gone on with where the registry says that it can (``Accept-Ranges: bytes``) and the size is
    known; else the break is raised. ``pause`` waits between tries.
    """

    def __init__(
        self,
        opener: Callable[[int], RemoteBlob],
        *,
        what: str,
        size: int,
        pause: Callable[[int, RegistryError], object],
    ) -> None:
        super().__init__()
        self._opener = opener
        self._what = what
        self._pause = pause
        self._position = 0
        self._fruitless = 0
        self._failures = 0
        self._size = size if size > 0 else -1
        first = self._first()
        self._stream: RemoteBlob | None = first
        self._resumable = first.ranges and self._size > 0
        if first.length is not None and self._size > 0 and first.length != self._size:
            self.close()
            raise ProtocolError(
                f"{what}: the registry said {self._size} bytes, and sends {first.length}"
            )
        self.length = self._size if first.length is None else first.length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.closed:
            raise ValueError("the layer is closed")
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        while True:
            try:
                count = self._read(view)
            except RegistryError as error:
                self._drop()
                if not self._resumable:
                    raise
                self._again(error)
            else:
                self._position += count
                self._fruitless = 0 if count else self._fruitless
                return count

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()

    def _read(self, view: memoryview) -> int:
        if self._stream is None:
            self._stream = self._opener(self._position)
            self._skip(self._stream, view)
        count = self._stream.readinto(view)
        if not count and self._position < self._size:
            raise ConnectionBrokenError(
                f"{self._what}: it ended after {self._position} of {self._size} bytes"
            )
        if self._position + count > self._size > 0:
            raise ProtocolError(
                f"{self._what}: the registry said {self._size} bytes, and sends more"
            )
        return count

    def _first(self) -> RemoteBlob:
        while True:
            try:
                return self._opener(0)
            except RegistryError as error:
                self._again(error)

    def _again(self, error: RegistryError) -> None:
        """Wait before another try. Raises ``error`` where that is no use."""
        self._fruitless += 1
        self._failures += 1
        if not error.retryable or self._fruitless >= _TRIES or self._failures >= _FAILURES:
            raise error
        self._pause(self._fruitless, error)

    def _skip(self, stream: RemoteBlob, buffer: memoryview) -> None:
        """Read past what is known already, from a registry that begins anew."""
        left = self._position - stream.offset
        while left > 0:
            count = stream.readinto(buffer[: min(len(buffer), left)])
            if not count:
                raise ConnectionBrokenError(f"{self._what}: it ended {left} bytes too early")
            left -= count

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(RegistryError):
                stream.close()
