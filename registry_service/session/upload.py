"""Uploads: opening them, sending blobs through them, and what is left of them at the end."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

from ..auth.scope import repository as scope
from ..cancel import Cancellation
from ..capabilities import CapabilityTable
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    ConnectionBrokenError,
    DigestMismatchError,
    RegistryError,
    RegistryHTTPError,
    UnreachableRegistryError,
)
from ..ledger import Ledger, MemoryLedger
from ..observe import ProgressCallback, no_progress
from ..transport import Readable, Response
from ..transport.retry import RetryPolicy
from .sender import Sender
from .sending import Sending, check_digest, location_of
from .streaming import PART, Hashed, Streaming, fill

__all__ = ["Uploads", "check_digest"]

# An upload that the server knows no more, or not at that place: a new one can do.
_LOST: Final = frozenset({404, 409, 416})
_GIVE_UP: Final = 3.0  # seconds in all for cancelling what is left over
_GIVE_UP_CANCELLED: Final = 0.5
_BINARY: Final = "application/octet-stream"
_FAILURES: Final = 64  # of one blob, however much each try gains


class Uploads:
    """The uploads of one client; thread-safe. One lock guards the table of open ones.

    An upload that a refused mount opened waits here for the put of its blob. What is open at
    `close` is cancelled at the server, as far as that goes quickly, unless ``ledger`` keeps
    where it is: then a later push goes on with it. ``exists`` asks whether a repository has a
    blob.
    """

    def __init__(
        self,
        sender: Sender,
        base: str,
        *,
        exists: Callable[[str, Digest], bool],
        ledger: Ledger | None = None,
        capabilities: CapabilityTable | None = None,
    ) -> None:
        self._sender = sender
        self._base = base
        self._exists = exists
        self._durable = ledger is not None
        self._ledger = ledger or MemoryLedger()
        self._capabilities = capabilities or CapabilityTable()
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], str] = {}
        self._left: list[tuple[str, str]] = []  # location and repository

    def keep(self, repository: str, digest: Digest, response: Response) -> None:
        """The upload that ``response`` opened waits for the put of ``digest``."""
        location = location_of(response, repository, self._sender)
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
        """Send the blob; a try that fails for a reason that can pass goes on from where the
        registry is. Returns the digest, which the registry has confirmed."""
        with Sending(
            self._sender,
            repository,
            descriptor,
            opener,
            begin=lambda: self._begin(repository, descriptor.digest.algorithm),
            exists=lambda: self._exists(repository, descriptor.digest),
            progress=progress,
            capabilities=self._capabilities,
            chunk=self._sender.transport.settings.chunk(self._sender.endpoint.url),
            ledger=self._ledger,
            location=self._take(repository, descriptor.digest),
        ) as sending:
            try:
                self._send(sending, descriptor)
            except BaseException:
                if not (self._durable and sending.kept):
                    self._give_up(sending)
                raise
        return descriptor.digest

    def stream(
        self,
        repository: str,
        source: Readable,
        *,
        hashed: Hashed,
        expected: Digest | None,
    ) -> Digest:
        """Send what ``source`` gives, to its end, hashing it while it is read.

        Raises `LostUploadError` where the registry wants it whole or all of it anew, and as
        `put` does.
        """
        memory = memoryview(bytearray(PART))
        first = memory[: fill(source, memory)]
        hashed.update(first)
        if len(first) < len(memory):
            digest = hashed.whole(expected)
            small = Descriptor(media_type=_BINARY, digest=digest, size=len(first))
            return self.put(repository, small, lambda: io.BytesIO(first), no_progress)
        streaming = Streaming(
            self._sender,
            repository,
            source,
            first=first,
            hashed=hashed,
            expected=expected,
            begin=lambda: self._begin(repository, hashed.hasher.name),
            exists=lambda digest: self._exists(repository, digest),
            capabilities=self._capabilities,
        )
        try:
            return streaming.run()
        finally:
            if streaming.location is not None:
                with self._lock:
                    self._left.append((streaming.location, repository))

    def _begin(self, repository: str, algorithm: str) -> Response:
        """Open an upload. A registry that hashes what comes has to know of other digests."""
        plain = algorithm == "sha256"
        return self.start(repository, "" if plain else f"?digest-algorithm={algorithm}")

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
            left, self._left = self._left, []
            left += [(location, name) for (name, _), location in self._waiting.items()]
            self._waiting.clear()
        cancelled = self._sender.cancel.cancelled
        self._cancel(left, _GIVE_UP_CANCELLED if cancelled else _GIVE_UP)

    def _send(self, sending: Sending, descriptor: Descriptor) -> None:
        settings = self._sender.transport.settings
        policy = RetryPolicy.of(settings)
        attempt = failures = furthest = 0
        while True:
            try:
                sending.run()
                return
            except RegistryError as error:
                self._sender.cancel.check()
                if sending.furthest > furthest:  # what only comes back is no gain
                    attempt, furthest = 0, sending.furthest
                failures += 1
                wait = None
                tried = sending.opening  # by the transport, as often as it helps
                if not tried and attempt < policy.retries and _passing(error, failures):
                    asked = getattr(error, "retry_after", None)
                    wait = policy.wait(attempt, asked, random.random())
                if wait is None:
                    raise
                if isinstance(error, DigestMismatchError) or _is_lost(error) or _is_wrong(error):
                    self._give_up(sending)
                attempt += 1
                self._sender.observer.log(
                    "warning",
                    f"{error}; sending {descriptor.digest} again",
                    wait=round(wait, 2),
                    attempt=attempt,
                )
                self._sender.cancel.wait(wait)
                self._sender.cancel.check()

    def _give_up(self, sending: Sending) -> None:
        """Begin anew; what may be left of this upload is cancelled in the end."""
        if sending.location is not None:
            with self._lock:
                self._left.append((sending.location, sending.repository))
        sending.forget()

    def _take(self, repository: str, digest: Digest) -> str | None:
        with self._lock:
            return self._waiting.pop((repository, str(digest)), None)

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


def _is_lost(error: RegistryError) -> bool:
    return isinstance(error, RegistryHTTPError) and error.http_status in _LOST


def _is_wrong(error: RegistryError) -> bool:
    return isinstance(error, RegistryHTTPError) and error.has("DIGEST_INVALID")


def _passing(error: RegistryError, failures: int) -> bool:
    if failures >= _FAILURES:
        return False
    if isinstance(error, RegistryHTTPError):
        # What a byte that was changed on the way looks like, once; twice, it is what was read.
        once = _is_wrong(error) and failures == 1
        return error.retryable or error.http_status in _LOST or once
    if error.code == "upload":
        return True
    kinds = (ConnectionBrokenError, DigestMismatchError, UnreachableRegistryError)
    return error.retryable and isinstance(error, kinds)
