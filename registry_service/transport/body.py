"""A request's body: streamed from something that can be opened again for another try."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Generator
from typing import Protocol

from ..cancel import Cancellation
from ..errors import RegistryError
from .connection import BLOCK

__all__ = ["Body", "BodyError", "Readable"]


class Readable(Protocol):
    """What a body is read from: any binary file object is one."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


class BodyError(RegistryError):
    """What was to be sent could not be read, or is not as long as was said."""

    code = "upload-source"


def _no_progress(sent: int) -> None:
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """``length`` bytes from what ``opener`` opens, from its start at each call. With None, all
    that there is; it is sent in chunks (RFC 9112, section 7.1), which a server of HTTP/1.0 does
    not understand.

    ``progress`` gets the number of bytes handed to the socket so far, and starts again from
    0 with another try.
    """

    opener: Callable[[], Readable]
    length: int | None
    progress: Callable[[int], object] = _no_progress

    @classmethod
    def of(cls, data: bytes) -> Body:
        return cls(opener=lambda: io.BytesIO(data), length=len(data))

    def blocks(self, cancel: Cancellation) -> Generator[memoryview, None, None]:
        """The bytes, in blocks that are valid until the next is asked for."""
        whole = self.length
        buffer = memoryview(bytearray(BLOCK if whole is None else min(BLOCK, max(whole, 1))))
        sent = 0
        try:
            source = self.opener()
        except OSError as error:
            raise BodyError(f"what is to be sent cannot be opened: {error}") from error
        try:
            self.progress(0)
            while whole is None or sent < whole:
                cancel.check()
                count = self._read(source, buffer if whole is None else buffer[: whole - sent])
                if not count and whole is None:
                    break
                if not count:
                    raise BodyError(f"what is to be sent ended after {sent} of {whole} bytes")
                yield buffer[:count]
                sent += count
                self.progress(sent)
        finally:
            source.close()

    @staticmethod
    def _read(source: Readable, buffer: memoryview) -> int:
        try:
            return source.readinto(buffer) or 0
        except OSError as error:
            # As it is, urllib3 would take it for the socket's.
            raise BodyError(f"what is to be sent cannot be read: {error}") from error
