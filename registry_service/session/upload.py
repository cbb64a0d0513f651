"""Uploads: open one, send the whole blob, give up those that are left over."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from ..auth.scope import repository as scope
from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    ConnectionBrokenError,
    DigestMismatchError,
    InvalidDigestError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    UnreachableRegistryError,
    show_url,
)
from ..observe import ProgressCallback
from ..transport import Body, Readable, Response
from ..transport.retry import RetryPolicy
from .sender import Sender

__all__ = ["Uploads", "check_digest"]

_BINARY: Final = {"Content-Type": "application/octet-stream"}
# An upload that the server knows no more, or not at that place: a new one can do.
_LOST: Final = frozenset({404, 409, 416})
_GIVE_UP: Final = 3.0  # seconds in all for cancelling what is left over
_GIVE_UP_CANCELLED: Final = 0.5


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


class Uploads:
    """The uploads of one client; thread-safe. One lock guards the table of open ones.

    An upload that a refused mount opened waits here for the put of its blob. What is open at
    `close` is cancelled at the server, as far as that goes quickly.
    """

    def __init__(self, sender: Sender, base: str) -> None:
        self._sender = sender
        self._base = base
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], str] = {}
        self._open: dict[str, str] = {}  # location to repository

    def keep(self, repository: str, digest: Digest, response: Response) -> None:
        """The upload that ``response`` opened waits for the put of ``digest``."""
        location = self._located(response, repository)
        with self._lock:
            before = self._waiting.pop((repository, str(digest)), None)
            self._waiting[repository, str(digest)] = location
        if before is not None:
            self._cancel([(before, repository)], _GIVE_UP_CANCELLED)

    def put(
        self,
        repository: str,
        descriptor: Descriptor,
        opener: Callable[[], Readable],
        progress: ProgressCallback,
    ) -> Digest:
        """Send the blob; a try that fails for a reason that can pass is made again with an
        upload of its own. Returns the digest, which the server has confirmed."""
        settings = self._sender.transport.settings
        policy = RetryPolicy(retries=settings.retries, longest=settings.retry_wait_max)
        attempt = 0
        while True:
            # The transport tries again to open an upload; to send the blob again is for here.
            location = self._take(repository, descriptor.digest) or self._open_one(repository)
            try:
                self._send(location, repository, descriptor, opener, progress)
                return descriptor.digest
            except RegistryError as error:
                self._sender.cancel.check()
                wait = None
                if attempt < policy.retries and _passing(error):
                    asked = getattr(error, "retry_after", None)
                    wait = policy.wait(attempt, asked, random.random())
                if wait is None:
                    raise
                attempt += 1
                self._sender.observer.log(
                    "warning",
                    f"{error}; sending {descriptor.digest} again",
                    wait=round(wait, 2),
                    attempt=attempt,
                )
                self._sender.cancel.wait(wait)
                self._sender.cancel.check()

    def start(self, repository: str, query: str = "", scopes: Sequence[str] = ()) -> Response:
        """POST for an upload, or, with a query and the scopes that it needs, for a mount."""
        return self._sender.send(
            "POST",
            f"{self._base}{quote(repository)}/blobs/uploads/{query}",
            scopes=scopes or (scope(repository, "pull", "push"),),
            body=b"",
            idempotent=True,
        )

    def close(self) -> None:
        """Cancel what is open at the server; that it fails is no matter."""
        with self._lock:
            left = [*self._open.items()]
            left += [(location, name) for (name, _), location in self._waiting.items()]
            self._open.clear()
            self._waiting.clear()
        cancelled = self._sender.cancel.cancelled
        self._cancel(left, _GIVE_UP_CANCELLED if cancelled else _GIVE_UP)

    def _take(self, repository: str, digest: Digest) -> str | None:
        with self._lock:
            location = self._waiting.pop((repository, str(digest)), None)
            if location is not None:
                self._open[location] = repository
            return location

    def _open_one(self, repository: str) -> str:
        with self.start(repository) as response:
            if response.status != 202:
                raise response.error()
            location = self._located(response, repository)
        with self._lock:
            self._open[location] = repository
        return location

    def _send(
        self,
        location: str,
        repository: str,
        descriptor: Descriptor,
        opener: Callable[[], Readable],
        progress: ProgressCallback,
    ) -> None:
        digest = str(descriptor.digest)
        body = Body(
            opener=opener,
            length=descriptor.size,
            progress=lambda sent: progress(digest, "pushing", sent, descriptor.size),
        )
        with self._sender.send(
            "PUT",
            _with_digest(location, digest),
            scopes=(scope(repository, "pull", "push"),),
            headers=_BINARY,
            body=body,
            patient=True,
            retries=0,
        ) as response:
            if response.status not in (201, 202, 204):
                raise response.error()
            check_digest(response, descriptor.digest)
        with self._lock:
            self._open.pop(location, None)

    def _located(self, response: Response, repository: str) -> str:
        """Where the upload is: absolute, relative, without a scheme, with a query or not."""
        location = response.headers.get("Location")
        if not location:
            raise ProtocolError(
                f"{response.method} {show_url(response.url)}: the upload of {repository} was "
                "opened without a Location"
            )
        return self._sender.at_home(urljoin(response.url, location))

    def _cancel(self, uploads: list[tuple[str, str]], seconds: float) -> None:
        if not uploads:
            return
        enough = Cancellation()
        timer = threading.Timer(seconds, enough.cancel)
        timer.name = "uploads-give-up"
        timer.daemon = True
        timer.start()
        try:
            for location, repository in uploads:
                if enough.cancelled:
                    break
                self._delete(location, repository, enough)
        finally:
            timer.cancel()

    def _delete(self, location: str, repository: str, enough: Cancellation) -> None:
        try:
            self._sender.send(
                "DELETE",
                location,
                scopes=(scope(repository, "pull", "push"),),
                idempotent=False,
                cancel=enough,
            ).close()
        except RegistryError as error:
            self._sender.observer.log("debug", f"an upload stays open: {error}")


def _with_digest(location: str, digest: str) -> str:
    """The location with the digest added; what it has itself stays as it is, byte for byte."""
    parts = urlsplit(location)
    query = f"{parts.query}&digest={digest}" if parts.query else f"digest={digest}"
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _passing(error: RegistryError) -> bool:
    if isinstance(error, RegistryHTTPError):
        return error.retryable or error.http_status in _LOST
    kinds = (ConnectionBrokenError, DigestMismatchError, UnreachableRegistryError)
    return error.retryable and isinstance(error, kinds)
