"""The store: content by digest, names for it, and the one way in for bytes from elsewhere."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    CancelledError,
    DigestMismatchError,
    DoesNotExistError,
    GoneError,
    StoreError,
)
from ..manifest import MANIFEST_LIMIT
from ..observe import LogCallback, ProgressCallback
from ..reference import Reference
from ..referrers import Companion
from ..upgrade import Layer
from ..v1.layer import StatedLayer
from .arrivals import Arrival, Arrivals, LayerSource
from .layerbook import LayerBook
from .layout import Layout
from .leases import Lease
from .memory import MemorySource
from .origins import Claim, Origins
from .retry import RetryPolicy
from .source import Source
from .ticket import Ticket
from .transfers import Transfer, Transfers
from .upkeep import Upkeep
from .workers import Workers

__all__ = ["Store"]

AnyTicket = TypeVar("AnyTicket", bound=Ticket[Any])

_CLOSING: Final = 5.0  # seconds
_REMEMBERED: Final = 65_536  # files
_SETTLED: Final = 2_000_000_000  # nanoseconds; some file systems count in twos of seconds
_SMALL: Final = 64 * 1024  # bytes that are verified in less time than it takes to ask for them


class Store:
    """An OCI image layout in ``images`` that several threads and processes share.

    ``ingest`` keeps what is not complete yet; it is of the same file system. At most
    ``workers`` blobs move at a time. Both directories are made for their owner only.

    Every method may be called from any thread. Each that touches the disk raises `StoreError`,
    and `DiskFullError` where no space is left; the content of the store is whole whatever
    fails. What is brought or put is durable once a name leads to it (`tag`).
    """

    def __init__(
        self, images: Path, ingest: Path, *, workers: int = 4, retry: RetryPolicy | None = None
    ) -> None:
        self._layout = Layout(images, ingest)
        #: Where content came from.
        self.origins = Origins(ingest)
        #: What was learned of the layers of V1.
        self.layers = LayerBook(ingest)
        #: The names that go, the sweep, and what is damaged.
        self.upkeep = Upkeep(self._layout, self.origins, self.layers)
        # In which state a file was verified; single operations of a dict need no lock.
        self._verified: dict[Digest, tuple[int, int, int]] = {}
        pool, policy = Workers(workers), retry or RetryPolicy()
        self._transfers = Transfers(self._layout, pool, policy)
        self._arrivals = Arrivals(self._layout, pool, policy, self.layers, self._has_layer)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def images(self) -> Path:
        """The directory of the OCI layout."""
        return self._layout.images

    @property
    def scratch(self) -> Path:
        """A directory for what is under way, of the store's file system."""
        return self._layout.ingest

    def close(self, timeout: float = _CLOSING) -> bool:
        """End every transfer, with an error for its takers, and the threads that move bytes.

        What was brought so far is kept for the next time. False when a source held its thread
        for longer than ``timeout`` seconds.
        """
        self._arrivals.close()
        return self._transfers.close(timeout)

    # content

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the content is here; with ``size``, and has that many bytes."""
        found = self._layout.size(digest)
        return found is not None and size in (None, found)

    def has_whole(self, descriptor: Descriptor, cancel: Cancellation | None = None) -> bool:
        """Whether the content is here. Of large content the size has to be enough; small content
        is read, once for each state that its file is in, and moved aside where it is damaged.

        Raises `StoreError`, `CancelledError`.
        """
        digest, size = descriptor.digest, descriptor.size
        found = self._layout.stat(digest)
        if found is None or found.st_size != size:
            return False
        state = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        if size > _SMALL or self._verified.get(digest) == state:
            return True
        with contextlib.suppress(DoesNotExistError):
            if self.upkeep.intact(digest, repair=True, cancel=cancel or Cancellation()):
                self._remember(digest, state)
                return True
        return False

    def size(self, digest: Digest) -> int:
        """Its size in bytes. Raises `DoesNotExistError`."""
        found = self._layout.size(digest)
        if found is None:
            raise DoesNotExistError(f"blob {digest} in the store")
        return found

    def open(self, digest: Digest) -> BufferedReader:
        """The content as a file to read, which the caller closes. Raises `DoesNotExistError`."""
        return self._layout.open(digest)

    def read(self, digest: Digest, limit: int = MANIFEST_LIMIT) -> bytes:
        """The content of a manifest or a configuration, verified.

        Raises `DoesNotExistError`, `StoreError` for more than ``limit`` bytes, and
        `DigestMismatchError` for a file that was damaged.
        """
        return self._layout.read(digest, limit)

    def put(self, raw: bytes, media_type: str, digest: Digest | None = None) -> Descriptor:
        """Keep a manifest's bytes, and return what names them. What was damaged is made good.

        Raises `DigestMismatchError` when they are not what ``digest`` names.
        """
        actual = Digest.of(raw, digest.algorithm if digest else "sha256")
        if digest is not None and actual != digest:
            raise DigestMismatchError(
                f"{len(raw)} bytes for {digest} have the digest {actual}",
                expected=str(digest),
                actual=str(actual),
                size=len(raw),
            )
        descriptor = Descriptor(media_type=media_type, digest=actual, size=len(raw))
        if not self._is_whole(descriptor):
            self._layout.put(actual, raw)
        return descriptor

    def _is_whole(self, descriptor: Descriptor) -> bool:
        """Whether the content is here, all of it and undamaged."""
        if not self.has(descriptor.digest, descriptor.size):
            return False
        with contextlib.suppress(DoesNotExistError):
            return self.upkeep.intact(descriptor.digest, cancel=Cancellation())
        return False

    # transfers

    def ensure(
        self,
        descriptor: Descriptor,
        source: Source,
        *,
        cancel: Cancellation | None = None,
        progress: ProgressCallback | None = None,
        log: LogCallback | None = None,
        claim: Claim | None = None,
    ) -> Transfer:
        """See to it that the content is here; return a ticket at once.

        However many ask for the same content, in this process or another, it is fetched once,
        verified while it comes, and from where an earlier transfer left off. Small content that
        is here is verified too, and fetched again where it is damaged. `cancel` ends this
        taker's part; the transfer goes on for others, and ends with its last taker.

        ``progress`` is called with the digest, the phase (``fetching``, ``verifying`` for what
        was there already) and the bytes done and in all; ``log`` with what went wrong and is
        tried again. Both are called from other threads.

        With a ``claim``, what the store has, or is fetching, serves its repository only when
        that has shown that it has it (see `store.origins`); without one, whatever is here is the
        taker's.

        Raises `StoreError` on a closed store; whatever else fails, `Transfer.wait` raises:
        what the source raised, `DigestMismatchError`, `DiskFullError`, `CancelledError`.
        """
        inline = _inline(descriptor)
        if inline is not None:
            claim = None  # who has the manifest has this
        ticket = Transfer(descriptor, inline or source, progress, log, claim)
        try:
            here = self.has_whole(descriptor, cancel)
            if here and (claim is None or claim.holds(descriptor.digest)):
                ticket.settle("exists")
        except (StoreError, CancelledError) as error:
            ticket.settle(None, error)
        if ticket.settled:
            return ticket
        if cancel is not None and cancel.cancelled:
            ticket.leave()
        else:
            self._transfers.start(ticket, cancel)
        return ticket

    def _remember(self, digest: Digest, state: tuple[int, int, int]) -> None:
        # The clock of files is coarse: what has just changed could change again unseen.
        if time.time_ns() - max(state[1:]) < _SETTLED:
            return
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[digest] = state

    def layer(
        self, host: str, stated: StatedLayer, cancel: Cancellation | None = None
    ) -> Layer | None:
        """The layer of V1 of which the registry of ``host`` says that, where it is here.

        Asked by who was given the image's JSON by that registry. Raises `StoreError`.
        """
        found = self.layers.find(host, stated)
        return found if found and self._has_layer(found, cancel) else None

    def receive(
        self,
        stated: StatedLayer,
        source: LayerSource,
        *,
        claim: Claim,
        pin: Callable[[Digest], object] = lambda digest: None,
        cancel: Cancellation | None = None,
        progress: ProgressCallback | None = None,
        log: LogCallback | None = None,
    ) -> Arrival:
        """See to it that a layer of V1 is here, of which nobody may know the digest; return a
        ticket at once.

        However many ask for it, in this process or another, it is fetched once, looked into while
        it comes, and from where an earlier transfer left off. It is kept compressed with gzip: as
        it came, or else compressed here. ``cancel`` ends this taker's part; then another one goes
        on. ``stated`` is what the registry has told this very caller (see `store.layerbook`), and
        ``claim`` says of which registry and repository.

        ``pin`` is told the digest before the content is in its place; ``progress`` is called with
        the image's id, the phase (as in `ensure`, and ``converting``) and the bytes done and in
        all; ``log`` as in `ensure`. All of them are called from other threads.

        Raises `StoreError` on a closed store; whatever else fails, `Arrival.wait` raises: what
        the source raised, `LayerError`, `DigestMismatchError`, `DiskFullError`,
        `CancelledError`.
        """
        ticket = Arrival(self._arrivals, stated, source, claim, pin=pin, progress=progress, log=log)
        self._arrivals.start(ticket, cancel)
        return ticket

    def _has_layer(self, layer: Layer, cancel: Cancellation | None) -> bool:
        descriptor = Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
        return self.has_whole(descriptor, cancel)

    def settled(
        self, tickets: Iterable[AnyTicket], cancel: Cancellation | None = None
    ) -> Iterator[AnyTicket]:
        """The tickets in the order in which they settle; ``wait`` tells each one's end.

        Raises `CancelledError` at the cancellation, which takes all of them out.
        """
        waiting = list(tickets)
        ends: queue.SimpleQueue[AnyTicket | None] = queue.SimpleQueue()
        for ticket in waiting:
            ticket.on_settled(ends.put)
        cancel = cancel or Cancellation()
        with cancel.calling(lambda: ends.put(None)):
            for _ in waiting:
                end = ends.get()
                if end is None or cancel.cancelled:
                    for ticket in waiting:
                        ticket.leave()
                    raise CancelledError()
                yield end

    # names

    def lease(self) -> Lease:
        """Keeps what an operation brings, or reads, from being swept until it is closed."""
        return Lease(self._layout)

    def tag(
        self,
        reference: Reference | str,
        descriptor: Descriptor,
        needs: Collection[Digest] = (),
        *,
        cancel: Cancellation | None = None,
    ) -> None:
        """Let ``reference`` name ``descriptor``, and nothing else any more.

        Durable, with the content that is here, when it returns. Raises `DoesNotExistError`
        when the content is not in the store; `GoneError` when content that it ``needs`` is not
        there any more, and then the name is as it was; and `CancelledError`, when nothing has
        changed: another process may hold the index for a while.
        """
        self.size(descriptor.digest)
        wanted = dict.fromkeys((descriptor.digest, *needs))
        gone = self._layout.set_entry(str(reference), descriptor, cancel or Cancellation(), wanted)
        if gone:
            raise GoneError(
                f"{reference}: {gone[0]} was removed from the store meanwhile; try again",
                digests=list(map(str, gone)),
            )

    def untag(self, reference: Reference | str, *, cancel: Cancellation | None = None) -> bool:
        """Let ``reference`` name nothing; the content stays. False if it did so before.

        Raises `CancelledError`, as `tag`.
        """
        return self._layout.remove_entry(str(reference), cancel or Cancellation())

    def resolve(self, reference: Reference | str) -> Descriptor | None:
        """What ``reference`` names, or None."""
        name = str(reference)
        return next((found for known, found in self._layout.entries() if known == name), None)

    def keep_companion(self, companion: Companion, *, cancel: Cancellation | None = None) -> None:
        """Keep what belongs to another manifest, which need not be here. It gets no name.

        Durable, with the content that is here, when it returns. Raises `DoesNotExistError`
        when its content is not in the store, and `CancelledError`, as `tag`.
        """
        self.size(companion.descriptor.digest)
        self._layout.set_companion(companion, cancel or Cancellation())

    def companions(self) -> list[Companion]:
        """Everything that belongs to some manifest, in the order in which it came."""
        return self._layout.companions()

    def forget_companions(
        self, gone: Callable[[Companion], bool], *, cancel: Cancellation | None = None
    ) -> int:
        """Forget those for which ``gone`` is true, and say how many; the content stays.

        Raises `CancelledError`, as `tag`.
        """
        return self._layout.remove_companions(gone, cancel or Cancellation())

    def references(self) -> list[tuple[str, Descriptor]]:
        """Every name and what it names, in the order in which they came."""
        return self._layout.entries()


def _inline(descriptor: Descriptor) -> Source | None:
    """A source of the content that the descriptor carries in itself, if it is the right one."""
    data = descriptor.inline
    if data is None:
        return None
    source = MemorySource()
    source.add(data, algorithm=descriptor.digest.algorithm)
    return source
