"""One blob on its way to a registry: opened, sent in one part or several, gone on with.

A small blob goes whole, with the request that closes its upload. A larger one goes in parts, each
of which the registry confirms. After a failure the registry is asked how far it is; what it has is
not sent again. Where it cannot say, or knows the upload no more, another one is begun.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ..auth.scope import repository as scope
from ..capabilities import CapabilityTable
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    DigestMismatchError,
    InvalidDigestError,
    LoginRequiredError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    show_url,
)
from ..ledger import Ledger, UploadKey
from ..observe import ProgressCallback
from ..transport import Body, Readable, Response
from .answers import number
from .chunks import Parts, received, smaller
from .sender import Sender

__all__ = ["Sending", "check_digest", "location_of", "with_digest"]

_BINARY: Final = {"Content-Type": "application/octet-stream"}
_TOO_LARGE: Final = frozenset({413, 416})
_NO_PARTS: Final = frozenset({404, 405, 501})
_SKIPPED: Final = 256 * 1024
_NOTED: Final = 1024 * 1024  # bytes; what is smaller is sent again sooner than it is noted


class Sending:
    """The upload of one blob. Belongs to one thread, from `run` to `run` for each try.

    ``location`` is where the upload is, None before there is one; ``offset`` how many bytes
    the registry has confirmed, ``furthest`` how many it ever had, in whichever upload; ``opening``
    says that a failure was one of opening the upload.
    """

    def __init__(
        self,
        sender: Sender,
        repository: str,
        descriptor: Descriptor,
        opener: Callable[[], Readable],
        *,
        begin: Callable[[], Response],
        exists: Callable[[], bool],
        progress: ProgressCallback,
        capabilities: CapabilityTable,
        chunk: int,
        ledger: Ledger,
        location: str | None = None,
    ) -> None:
        self._sender = sender
        self.repository = repository
        self._descriptor = descriptor
        self._opener = opener
        self._begin = begin
        self._exists = exists
        self._progress = progress
        self._capabilities = capabilities
        self._ledger = ledger
        self._chunk = chunk
        self._least = 0
        self._key = UploadKey(
            registry=sender.endpoint.url, repository=repository, digest=str(descriptor.digest)
        )
        self._noting = False
        self._sure = location is not None  # an upload that was just opened is empty
        self.location = location
        self.offset = 0
        self.furthest = 0
        self.opening = False

    def __enter__(self) -> Sending:
        self._noting = self._descriptor.size >= _NOTED and self._ledger.claim(self._key)
        if self._noting and self.location is None:
            self.location = self._ledger.recall(self._key)
        return self

    def __exit__(self, *_: object) -> None:
        if self._noting:
            self._ledger.release(self._key)

    @property
    def kept(self) -> bool:
        """Whether the upload can be gone on with later, so that it is not to be cancelled."""
        return self._noting and self.location is not None

    def run(self) -> None:
        """Send what the registry lacks, and close the upload.

        Raises what the transport raises, `RegistryHTTPError`, `DigestMismatchError`,
        `ProtocolError`. It can be called again then.
        """
        self.opening = False
        if self.location is not None and not self._sure:
            self._ask()
        if self.location is None:
            self._open()
        self._sure = False  # until the next answer
        while not self._fits():
            self._send_part()
        self._finish()

    def forget(self) -> None:
        """The upload is of no use any more: another one is begun by the next `run`."""
        if self._noting:
            self._ledger.drop(self._key)
        self.location = None
        self.offset = 0

    # where the upload is

    def _open(self) -> None:
        self.opening = True
        with self._begin() as response:
            if response.status != 202:
                raise response.error()
            self._least = number(response.headers.get("OCI-Chunk-Min-Length")) or 0
            self._moved(response)
        self.offset = 0
        self.opening = False

    def _ask(self) -> None:
        """How far the registry is. It is no failure where it cannot say."""
        assert self.location is not None
        try:
            with self._sender.send("GET", self.location, scopes=self._scopes) as response:
                if response.status not in (200, 202, 204):
                    self.forget()
                    return
                offset = received(response.headers.get("Range"), -1)
                if not 0 <= offset <= self._descriptor.size:
                    self.forget()
                    return
                self._moved(response, needed=False)
        except (ProtocolError, LoginRequiredError):  # what is wrong in earnest, the next one says
            self.forget()
            return
        if offset:
            self._sender.observer.log(
                "info", f"{self._descriptor.digest}: the registry has {offset} bytes already"
            )
        self._reached(offset)

    def _reached(self, offset: int) -> None:
        self.offset = offset
        self.furthest = max(self.furthest, offset)

    def _moved(self, response: Response, *, needed: bool = True) -> None:
        """Take over where the registry says that the upload goes on."""
        if needed or response.headers.get("Location"):
            self.location = location_of(response, self.repository, self._sender)
        if self._noting and self.location is not None:
            self._ledger.note(self._key, self.location)

    # sending

    @property
    def _scopes(self) -> tuple[str, ...]:
        return (scope(self.repository, "pull", "push"),)

    @property
    def _parts(self) -> Parts:
        known = self._capabilities.of(self._sender.endpoint.host)
        return Parts(wanted=self._chunk, least=self._least, most=known.chunk_limit)

    def _fits(self) -> bool:
        """Whether the rest goes with the request that closes the upload."""
        left = self._descriptor.size - self.offset
        if not left or self._capabilities.of(self._sender.endpoint.host).chunks is False:
            return True
        # After bytes that were confirmed, some registries want the closing request empty.
        return not self.offset and left <= self._parts.size

    def _send_part(self) -> None:
        assert self.location is not None
        length = self._parts.next(self.offset, self._descriptor.size)
        headers = {**_BINARY, "Content-Range": f"{self.offset}-{self.offset + length - 1}"}
        with self._sender.send(
            "PATCH",
            self.location,
            scopes=self._scopes,
            headers=headers,
            body=self._body(length),
            retries=0,
            patient=True,
        ) as response:
            if response.status not in (200, 201, 202, 204):
                self._part_refused(response, length)
                return
            end = received(response.headers.get("Range"), self.offset + length)
            if response.status == 201 or not self.offset < end <= self.offset + length:
                # It took the part for the whole, or says that it has something else.
                self._learn(chunks=False)
                self.forget()
                raise _again(f"{show_url(response.url)}: parts of an upload are not added up")
            self._moved(response, needed=False)
        self._reached(end)

    def _part_refused(self, response: Response, length: int) -> None:
        """A part was not taken: a smaller one may be, or the whole in one piece."""
        error = response.error()
        if error.http_status in _NO_PARTS and not self.offset:
            self._learn(chunks=False)
            self.forget()
            self._open()
            return
        if error.http_status not in _TOO_LARGE:
            raise error
        before = self.offset
        self._ask()
        if self.location is not None and self.offset > before:
            return  # it had more than was thought
        self._shrink(length, error)
        if self.location is None:
            self._open()

    def _finish(self) -> None:
        assert self.location is not None
        digest = self._descriptor.digest
        length = self._descriptor.size - self.offset
        headers = dict(_BINARY)
        if self.offset and length:
            headers["Content-Range"] = f"{self.offset}-{self._descriptor.size - 1}"
        with self._sender.send(
            "PUT",
            with_digest(self.location, str(digest)),
            scopes=self._scopes,
            headers=headers,
            body=self._body(length) if length or not self.offset else b"",
            retries=0,
            patient=True,
        ) as response:
            if response.status not in (201, 202, 204):
                error = response.error()
                if error.http_status == 413 and length > 1:
                    self._shrink(length, error)
                    raise _again(str(error))
                raise error
            check_digest(response, digest)
            sure = response.status == 201 or "Docker-Content-Digest" in response.headers
        if not sure and not self._exists():
            raise _again(
                f"{self._sender.endpoint.host} took all of {digest}, answered "
                f"{response.status} and does not have it"
            )
        if self._noting:
            self._ledger.drop(self._key)
        self.location = None

    def _shrink(self, length: int, error: RegistryHTTPError) -> None:
        """Send smaller parts from now on, to this registry. Raises ``error`` where there are
        none."""
        size = smaller(length)
        if size is None or size < self._least:
            raise error
        self._learn(chunk_limit=size)
        self._sender.observer.log(
            "info",
            f"{self._sender.endpoint.host} takes no part of {length} bytes; "
            f"parts of {size} are tried",
        )

    def _learn(self, *, chunks: bool | None = None, chunk_limit: int | None = None) -> None:
        shown: dict[str, object] = {}
        if chunks is not None:
            shown["chunks"] = chunks
        if chunk_limit is not None:
            shown["chunk_limit"] = chunk_limit
        self._capabilities.learn(self._sender.endpoint.host, **shown)

    def _body(self, length: int) -> Body:
        begin, total, digest = self.offset, self._descriptor.size, str(self._descriptor.digest)
        return Body(
            opener=lambda: _from(self._opener(), begin),
            length=length,
            progress=lambda sent: self._progress(digest, "pushing", begin + sent, total),
        )


def _again(message: str) -> RegistryError:
    """A failure after which the same is tried another way."""
    return RegistryError(message, code="upload", retryable=True)


def _from(source: Readable, offset: int) -> Readable:
    """``source`` from ``offset`` on."""
    if not offset:
        return source
    seek = getattr(source, "seek", None)
    if seek is not None:
        with contextlib.suppress(io.UnsupportedOperation):
            seek(offset)
            return source
    buffer = memoryview(bytearray(_SKIPPED))
    while offset:
        count = source.readinto(buffer[: min(offset, _SKIPPED)]) or 0
        if not count:
            source.close()
            raise OSError(f"it ended {offset} bytes before the place to go on from")
        offset -= count
    return source


def location_of(response: Response, repository: str, sender: Sender) -> str:
    """Where the upload is: absolute, relative, without a scheme, with a query or not.
    Raises `ProtocolError`."""
    location = response.headers.get("Location")
    if not location:
        raise ProtocolError(
            f"{response.method} {show_url(response.url)}: the upload of {repository} was "
            "opened without a Location"
        )
    return sender.follow(response, location)


def with_digest(location: str, digest: str) -> str:
    """The location with the digest added; what it has itself stays as it is, byte for byte."""
    parts = urlsplit(location)
    query = f"{parts.query}&digest={digest}" if parts.query else f"digest={digest}"
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def check_digest(response: Response, wanted: Digest) -> None:
    """The digest that the server says it has is the one that was sent. Servers that say none,
    or one of another algorithm, are not contradicted. Raises `DigestMismatchError`."""
    stated = response.headers.get("Docker-Content-Digest")
    if not stated:
        return
    try:
        digest = Digest.parse(stated.strip())
    except InvalidDigestError:
        return
    if digest.algorithm == wanted.algorithm and digest != wanted:
        raise DigestMismatchError(
            f"{response.method} {show_url(response.url)}: the registry says that it got "
            f"{digest}; {wanted} was sent",
            expected=str(wanted),
            actual=str(digest),
        )
