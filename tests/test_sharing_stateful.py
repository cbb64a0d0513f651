"""Takers of several repositories, registries and processes, whose sources break and who give up:
whatever the order, nobody gets what his repository has not, and nothing is sent twice."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import shutil
import tempfile
import threading
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support_store import make_store, swept

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import CancelledError, ConnectionBrokenError, DoesNotExistError
from registry_service.store import BlobStream, Claim, MemorySource, Source, Store, Transfer
from registry_service.store.ingest import partial_name

BLOBS = [bytes([number]) * size for number, size in enumerate((10, 300_000, 600_000))]
HOSTS, REPOSITORIES = ("h.io", "i.io"), ("a", "b")
#: After how many bytes each stream of a source breaks, the last ones of them never.
BREAKS = st.lists(st.integers(0, 400_000), max_size=6)


@dataclasses.dataclass(frozen=True)
class Wish:
    """What one taker wants, and what befalls him."""

    store: int
    host: str
    repository: str
    blob: int
    breaks: list[int]
    leaves: bool


WISHES = st.builds(
    Wish,
    store=st.integers(0, 1),
    host=st.sampled_from(HOSTS),
    repository=st.sampled_from(REPOSITORIES),
    blob=st.integers(0, len(BLOBS) - 1),
    breaks=BREAKS,
    leaves=st.booleans(),
)


class Wire:
    """What the registries sent in one round."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: dict[tuple[str, Digest], int] = {}
        self.sent: collections.Counter[tuple[str, Digest]] = collections.Counter()

    def opened(self, key: tuple[str, Digest], offset: int) -> None:
        with self._lock:
            self.first.setdefault(key, offset)

    def gave(self, key: tuple[str, Digest], count: int) -> None:
        with self._lock:
            self.sent[key] += count


class Remote(Source):
    """A repository for one taker."""

    def __init__(self, wish: Wish, has: bool, wire: Wire) -> None:
        self._key = wish.host, Digest.of(BLOBS[wish.blob])
        self._breaks = list(wish.breaks)
        self._inner = MemorySource([BLOBS[wish.blob]] if has else [])
        self._wire = wire

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        stream = self._inner.open(descriptor, offset, cancel)
        self._wire.opened(self._key, offset)
        return _Breaking(stream, self._breaks.pop(0) if self._breaks else None, self)

    def gave(self, count: int) -> None:
        self._wire.gave(self._key, count)


class _Breaking:
    def __init__(self, stream: BlobStream, left: int | None, source: Remote) -> None:
        self.offset, self.length = stream.offset, stream.length
        self._stream = stream
        self._left = left
        self._source = source

    def readinto(self, buffer: memoryview, /) -> int:
        if self._left is None:
            count = self._stream.readinto(buffer)
        elif not self._left:
            raise ConnectionBrokenError("it broke")
        else:
            count = self._stream.readinto(buffer[: self._left])
            self._left -= count
        self._source.gave(count)
        return count

    def close(self) -> None:
        self._stream.close()


class Sharing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = [make_store(self.root), make_store(self.root)]
        self.rights: dict[tuple[str, str], set[int]] = {}

    @initialize(
        rights=st.fixed_dictionaries(
            {
                (host, repository): st.sets(st.integers(0, len(BLOBS) - 1))
                for host in HOSTS
                for repository in REPOSITORIES
            }
        )
    )
    def give_rights(self, rights: dict[tuple[str, str], set[int]]) -> None:
        self.rights = rights

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.root)

    def may(self, wish: Wish) -> bool:
        return wish.blob in self.rights[wish.host, wish.repository]

    def partial(self, host: str, descriptor: Descriptor) -> int:
        """How much of it is there of that registry."""
        path = self.root / "ingest" / partial_name(descriptor, host)
        return path.stat().st_size if path.exists() else 0

    def ask(self, wish: Wish, wire: Wire, cancel: Cancellation) -> Transfer:
        store = self.stores[wish.store]
        claim = Claim(
            origins=store.origins,
            host=wish.host,
            repository=wish.repository,
            probe=lambda descriptor, cancel: self.may(wish),
        )
        source = Remote(wish, self.may(wish), wire)
        return store.ensure(_descriptor(BLOBS[wish.blob]), source, claim=claim, cancel=cancel)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=6))
    def bring(self, wishes: list[Wish]) -> None:
        """All at once."""
        wire = Wire()
        descriptors = [_descriptor(blob) for blob in BLOBS]
        begun = {
            (host, one.digest): self.partial(host, one) for host in HOSTS for one in descriptors
        }
        cancels = [Cancellation() for _ in wishes]
        tickets = [
            self.ask(wish, wire, cancel) for wish, cancel in zip(wishes, cancels, strict=True)
        ]
        for wish, cancel in zip(wishes, cancels, strict=True):
            if wish.leaves:
                cancel.cancel()
        for wish, ticket in zip(wishes, tickets, strict=True):
            self.check_end(wish, ticket)
        self.settle()
        for key, offset in wire.first.items():
            assert offset == begun[key], "what was fetched travelled again"
        for blob, descriptor in zip(BLOBS, descriptors, strict=True):
            hosts = {wish.host for wish in wishes if BLOBS[wish.blob] is blob}
            if len(hosts) == 1:  # else one of them may have had to show what another brought
                key = hosts.pop(), descriptor.digest
                had = self.had.get(descriptor.digest, False)
                assert had or wire.sent[key] <= len(blob) - begun[key], "sent twice"

    def check_end(self, wish: Wish, ticket: Transfer) -> None:
        try:
            ticket.wait()
        except DoesNotExistError:
            assert not self.may(wish)
        except CancelledError:
            assert wish.leaves
        except ConnectionBrokenError:
            assert wish.breaks
        else:
            assert self.may(wish), f"{wish} got what it may not have"
            assert self.stores[wish.store].has(ticket.descriptor.digest)

    def settle(self) -> None:
        """Wait until nobody holds a partial file any more: who left does not wait for that."""
        for store in self.stores:
            assert store.close()
        self.stores = [make_store(self.root), make_store(self.root)]

    @rule()
    def sweep(self) -> None:
        swept(self.stores[0])

    @rule()
    def forget_partials(self) -> None:
        self.stores[0].upkeep.sweep_partials(-1.0)
        assert not list((self.root / "ingest").glob("*.partial"))

    @rule(host=st.sampled_from(HOSTS))
    def lose_the_record(self, host: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.root / "ingest" / "origins" / host).unlink()

    @invariant()
    def what_is_there_is_right(self) -> None:
        store: Store = self.stores[0]
        self.had = {digest: True for digest, _ in store.upkeep.blobs()}
        for digest in self.had:
            assert store.upkeep.intact(digest, cancel=Cancellation())


def _descriptor(blob: bytes) -> Descriptor:
    return Descriptor(media_type="a/b", digest=Digest.of(blob), size=len(blob))


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)
