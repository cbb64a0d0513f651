"""The body of a request as it comes off a connection: sized, or in chunks (RFC 9112, 6 and 7)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Final

from .exchange import BodyTruncated
from .flow import Flow

__all__ = ["StreamBody"]

_BUFFER: Final = 1 << 20
_LINE: Final = 8192
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n")


class StreamBody:
    """Reads one body from ``stream``. Owned by the connection's thread.

    ``length`` is None for a chunked body. ``begin`` is called once, before the first byte is
    read. The flow guards what ``chunks`` gives, not what ``drain`` throws away.
    """

    def __init__(
        self,
        stream: io.BufferedReader,
        *,
        length: int | None,
        flow: Flow,
        begin: Callable[[], None],
    ) -> None:
        self.received = 0
        self.begun = False
        self._stream = stream
        self._length = length
        self._flow = flow
        self._begin = begin
        # Bytes to come of the body, or of the current chunk of one sent in chunks.
        self._left = length or 0
        self._ended = length == 0
        self._first_chunk = True

    @property
    def length(self) -> int | None:
        return self._length

    @property
    def ended(self) -> bool:
        """The whole body has been read."""
        return self._ended

    def chunks(self) -> Iterator[memoryview]:
        return self._read(self._flow)

    def read(self, limit: int) -> bytes | None:
        if self._length is not None and self._length > limit:
            return None
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                return None
        return bytes(data)

    def drain(self, limit: int) -> bool:
        """Throw away what is left, up to ``limit`` bytes. Whether that was all."""
        if self._length is not None and self._left > limit:
            return False
        thrown = 0
        try:
            for chunk in self._read(None):
                thrown += len(chunk)
                if thrown > limit:
                    return self._ended
        except BodyTruncated:
            return False
        return self._ended

    def _read(self, flow: Flow | None) -> Iterator[memoryview]:
        if self._ended:
            return
        if not self.begun:
            self.begun = True
            self._begin()
        buffer = memoryview(bytearray(min(_BUFFER, self._length or _BUFFER)))
        while self._more():
            if flow is not None:
                flow.reach(self.received)
            wanted = min(self._left, len(buffer))
            if flow is not None:
                wanted = flow.room(self.received, wanted)
            count = self._fill(buffer[:wanted])
            data: bytes | memoryview = buffer[:count]
            if flow is not None:
                flow.pace(count)
                data = flow.alter(self.received, data)
            self.received += count
            self._left -= count
            if self._length is not None and self._left == 0:
                self._ended = True
            yield memoryview(data)

    def _more(self) -> bool:
        """Whether bytes are to come; reads the head of the next chunk where one is due."""
        if self._ended or self._left:
            return not self._ended
        if not self._first_chunk and self._line() not in (b"\r\n", b"\n"):
            raise BodyTruncated("a chunk does not end where it said")
        self._first_chunk = False
        match = _CHUNK_SIZE.fullmatch(self._line())
        if match is None:
            raise BodyTruncated("a chunk has no size")
        self._left = int(match[1], 16)
        if self._left == 0:
            while self._line() not in (b"\r\n", b"\n"):
                continue
            self._ended = True
        return not self._ended

    def _line(self) -> bytes:
        try:
            line = self._stream.readline(_LINE)
        except OSError as error:
            raise BodyTruncated(str(error)) from None
        if not line.endswith(b"\n"):
            raise BodyTruncated("the body ended within its framing")
        return line

    def _fill(self, view: memoryview) -> int:
        try:
            count = self._stream.readinto1(view)
        except OSError as error:
            raise BodyTruncated(str(error)) from None
        if not count:
            raise BodyTruncated("the body ended before its length")
        return count
