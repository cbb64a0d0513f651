"""A blob of which neither the size nor the digest is known before its end.

It is read once, in parts that are small enough to be held: a part that did not arrive is sent
again, also from what cannot be read twice. Each part is hashed as it is read, and the request
that closes the upload names the digest.
"""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from ..auth.scope import repository as scope
from ..capabilities import CapabilityTable
from ..digest import Digest
from ..errors import DigestMismatchError, ProtocolError, RegistryError, show_url
from ..transport import Body, BodyError, Readable, Response
from ..transport.retry import RetryPolicy
from .answers import number
from .chunks import received, smaller
from .sender import Sender
from .sending import check_digest, location_of, with_digest

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["PART", "FromStart", "Hashed", "LostUploadError", "Streaming", "fill", "seekable"]

PART: Final = 4 * 1024 * 1024  # bytes; some registries take no larger one
_MOST: Final = 64 * 1024 * 1024  # what is held, where a registry takes no smaller part
_TOO_LARGE: Final = frozenset({413, 416})
_NO_PARTS: Final = frozenset({404, 405, 501})
_LOST: Final = _NO_PARTS | {409, 416}
_HEADERS: Final = {"Content-Type": "application/octet-stream"}


class LostUploadError(RegistryError):
    """The registry has no use for the parts that it was sent; all have to be sent anew."""

    code = "upload"


class Seekable(Readable, Protocol):
    def seek(self, offset: int, /) -> int: ...


@dataclasses.dataclass(slots=True, kw_only=True)
class Hashed:
    """What was read so far: its hash and how many bytes."""

    hasher: _Hash
    size: int = 0

    def whole(self, expected: Digest | None) -> Digest:
        """The digest of it all. Raises `DigestMismatchError` where it is not ``expected``."""
        digest = Digest(algorithm=self.hasher.name, hex=self.hasher.hexdigest())
        if expected is not None and digest != expected:
            raise DigestMismatchError(
                f"what was read has the digest {digest}; {expected} was to be sent",
                expected=str(expected),
                actual=str(digest),
                size=self.size,
            )
        return digest

    def update(self, data: memoryview) -> None:
        self.hasher.update(data)
        self.size += len(data)


class FromStart:
    """A source that can seek, from its start; closing this leaves it open."""

    def __init__(self, source: Seekable) -> None:
        self._source = source
        source.seek(0)

    def readinto(self, buffer: memoryview, /) -> int | None:
        return self._source.readinto(buffer)

    def seek(self, offset: int, /) -> int:
        return self._source.seek(offset)

    def close(self) -> None:
        """Whoever opened the source closes it."""


class Streaming:
    """The upload of ``first`` and of what ``source`` gives after it. Used by one thread.

    ``first`` is a part that was read, and counted in ``hashed``, already; so is each further
    part, into the same memory. ``expected`` is what the whole must be, where that is known;
    ``exists`` asks the registry for a blob.
    """

    def __init__(
        self,
        sender: Sender,
        repository: str,
        source: Readable,
        *,
        first: memoryview,
        hashed: Hashed,
        expected: Digest | None,
        begin: Callable[[], Response],
        exists: Callable[[Digest], bool],
        capabilities: CapabilityTable,
    ) -> None:
        self._sender = sender
        self._repository = repository
        self._scopes = (scope(repository, "pull", "push"),)
        self._source = source
        self._memory = first
        self._hashed = hashed
        self._expected = expected
        self._begin = begin
        self._exists = exists
        self._capabilities = capabilities
        self._policy = RetryPolicy.of(sender.transport.settings)
        self._offset = 0  # the bytes that the registry has confirmed
        self.location: str | None = None

    def run(self) -> Digest:
        """Send everything, and close the upload; returns the digest.

        Raises `LostUploadError` where it all has to be sent anew, `DigestMismatchError`,
        `BodyError`, and what the transport raises.
        """
        part = self._open()
        while part:
            self._send(part)
            part = self._memory[: fill(self._source, self._memory)]
            self._hashed.update(part)
        digest = self._hashed.whole(self._expected)
        self._finish(digest)
        return digest

    def _open(self) -> memoryview:
        """Open the upload; the first part, as large as the registry wants its parts."""
        with self._begin() as response:
            if response.status != 202:
                raise response.error()
            self.location = location_of(response, self._repository, self._sender)
            wanted = number(response.headers.get("OCI-Chunk-Min-Length")) or 0
        if wanted <= len(self._memory):
            return self._memory
        if wanted > _MOST:
            raise LostUploadError(
                f"{self._sender.endpoint.host} takes parts of {wanted} bytes and more, which is "
                "too much to hold of what can be read only once"
            )
        held, self._memory = self._memory, memoryview(bytearray(wanted))
        self._memory[: len(held)] = held
        count = fill(self._source, self._memory[len(held) :])
        self._hashed.update(self._memory[len(held) : len(held) + count])
        return self._memory[: len(held) + count]

    def _send(self, part: memoryview) -> None:
        """Send a part, all of it or what is left of it after a failure."""
        begin = self._offset
        attempt = 0
        while (sent := self._offset - begin) < len(part):
            try:
                self._patch(part[sent:])
            except RegistryError as error:
                attempt = 0 if self._offset - begin > sent else attempt
                self._pause(error, attempt)
                attempt += 1
                self._ask(begin, begin + len(part))
            else:
                attempt = 0

    def _patch(self, rest: memoryview) -> None:
        assert self.location is not None
        most = self._capabilities.of(self._sender.endpoint.host).chunk_limit
        piece = rest if most is None else rest[:most]
        end = self._offset + len(piece)
        with self._sender.send(
            "PATCH",
            self.location,
            scopes=self._scopes,
            headers={**_HEADERS, "Content-Range": f"{self._offset}-{end - 1}"},
            body=Body(opener=lambda: io.BytesIO(piece), length=len(piece)),
            retries=0,
            patient=True,
        ) as response:
            if response.status not in (200, 201, 202, 204):
                self._refused(response, len(piece))
                return
            has = received(response.headers.get("Range"), end)
            if response.status == 201 or not self._offset < has <= end:
                self._capabilities.learn(self._sender.endpoint.host, chunks=False)
                raise LostUploadError(
                    f"{show_url(response.url)}: parts of an upload are not added up"
                )
            if response.headers.get("Location"):
                self.location = location_of(response, self._repository, self._sender)
        self._offset = has

    def _refused(self, response: Response, length: int) -> None:
        error = response.error()
        if error.http_status in _NO_PARTS and not self._offset:
            self._capabilities.learn(self._sender.endpoint.host, chunks=False)
        size = smaller(length) if error.http_status in _TOO_LARGE else None
        if size is None:
            raise LostUploadError(str(error)) if error.http_status in _LOST else error
        self._capabilities.learn(self._sender.endpoint.host, chunk_limit=size)
        self._ask(self._offset, self._offset + length)

    def _pause(self, error: RegistryError, attempt: int) -> None:
        """Wait before the part is sent again. Raises ``error`` where that is no use."""
        self._sender.cancel.check()
        wait = None
        if error.retryable and attempt < self._policy.retries:
            asked = getattr(error, "retry_after", None)
            wait = self._policy.wait(attempt, asked, random.random())
        if wait is None:
            raise error
        self._sender.observer.log(
            "warning", f"{error}; sending the part again", wait=round(wait, 2), attempt=attempt + 1
        )
        self._sender.cancel.wait(wait)
        self._sender.cancel.check()

    def _ask(self, begin: int, end: int) -> None:
        """How far the registry is: it has to be in the part that is held."""
        assert self.location is not None
        try:
            with self._sender.send("GET", self.location, scopes=self._scopes) as response:
                has = -1
                if response.status in (200, 202, 204):
                    has = received(response.headers.get("Range"), -1)
                    if response.headers.get("Location"):
                        self.location = location_of(response, self._repository, self._sender)
        except ProtocolError:
            has = -1
        if not begin <= has <= end:
            raise LostUploadError(
                f"{self._sender.endpoint.host} no longer has what was sent of an upload to "
                f"{self._repository}"
            )
        self._offset = has

    def _finish(self, digest: Digest) -> None:
        attempt = 0
        while self.location is not None:
            try:
                self._close(digest)
            except RegistryError as error:
                self._pause(error, attempt)
                attempt += 1
                try:
                    self._ask(self._offset, self._offset)
                except LostUploadError:  # it may have been closed, and the answer been lost
                    if not self._exists(digest):
                        raise
                    self.location = None

    def _close(self, digest: Digest) -> None:
        assert self.location is not None
        with self._sender.send(
            "PUT",
            with_digest(self.location, str(digest)),
            scopes=self._scopes,
            headers=_HEADERS,
            body=b"",
            retries=0,
            patient=True,
        ) as response:
            if response.status not in (201, 202, 204):
                raise response.error()
            check_digest(response, digest)
            sure = response.status == 201 or "Docker-Content-Digest" in response.headers
        self.location = None
        if not sure and not self._exists(digest):
            raise LostUploadError(
                f"{self._sender.endpoint.host} took all of {digest}, answered "
                f"{response.status} and does not have it"
            )


def seekable(source: Readable) -> Seekable | None:
    """``source``, if it can be read again."""
    return cast(Seekable, source) if hasattr(source, "seek") else None


def fill(source: Readable, buffer: memoryview) -> int:
    """Read until ``buffer`` is full or ``source`` ends; the number of bytes. Raises
    `BodyError` where it cannot be read."""
    count = 0
    while count < len(buffer):
        try:
            read = source.readinto(buffer[count:]) or 0
        except OSError as error:
            raise BodyError(f"what is to be sent cannot be read: {error}") from error
        if not read:
            break
        count += read
    return count
