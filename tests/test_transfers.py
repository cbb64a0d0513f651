"""Transfers: one movement for many takers, whatever the sources do."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_store import (
    PATIENCE,
    QUICK,
    Fault,
    FaultySource,
    HeldSource,
    eventually,
    make_store,
    names,
)

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    DoesNotExistError,
    InvalidDigestError,
    LoginRequiredError,
    ProtocolError,
    RegistryHTTPError,
    StoreError,
)
from registry_service.store import BlobStream, MemorySource, RetryPolicy, Source, Store
from registry_service.store.ingest import Partial, partial_name
from registry_service.store.layout import Layout
from registry_service.store.workers import Workers

CONTENT = os.urandom(700_000)  # more than two buffers


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path) as store:
        yield store


def content_of(store: Store, descriptor: Descriptor) -> bytes:
    with store.open(descriptor.digest) as file:
        return file.read()


# one taker


@pytest.mark.parametrize("size", [0, 1, 8192, 262_143, 262_144, 262_145, 700_000])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_is_brought_once(store: Store, tmp_path: Path, size: int, algorithm: str) -> None:
    source = MemorySource()
    descriptor = source.add(CONTENT[:size], algorithm=algorithm)
    assert store.ensure(descriptor, source).wait() == "fetched"
    assert content_of(store, descriptor) == CONTENT[:size]
    again = store.ensure(descriptor, source)
    assert again.settled and again.wait() == "exists" and again.result() == "exists"
    assert len(source.opened) == (1 if size else 0)  # what is empty is known
    assert names(tmp_path / "ingest") == []


def test_a_blob_of_another_size_is_not_trusted(store: Store) -> None:
    source = MemorySource()
    descriptor = source.add(CONTENT)
    store.ensure(descriptor, source).wait()
    path = store.images / "blobs" / "sha256" / descriptor.digest.hex
    path.write_bytes(CONTENT[:-1])
    assert not store.has(descriptor.digest, descriptor.size)
    assert store.ensure(descriptor, source).wait() == "fetched"
    assert content_of(store, descriptor) == CONTENT


def test_inline_content_is_not_fetched(store: Store) -> None:
    descriptor = Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1, data=b"x")
    empty = MemorySource()
    assert store.ensure(descriptor, empty).wait() == "fetched"
    assert store.read(descriptor.digest) == b"x"
    assert empty.opened == []


@pytest.mark.parametrize("data", [b"y", b"xx"])
def test_wrong_inline_content_is_fetched_all_the_same(store: Store, data: bytes) -> None:
    source = MemorySource([b"x"])
    descriptor = Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1, data=data)
    assert store.ensure(descriptor, source).wait() == "fetched"
    assert len(source.opened) == 1


def test_an_error_of_the_source_is_the_takers(store: Store, tmp_path: Path) -> None:
    descriptor = Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1)
    with pytest.raises(DoesNotExistError):
        store.ensure(descriptor, MemorySource()).wait()
    eventually(lambda: names(tmp_path / "ingest") == [])


def test_an_algorithm_that_cannot_be_verified_is_refused(store: Store) -> None:
    digest = Digest.parse("blake3:" + "0" * 64)
    source = MemorySource()
    with pytest.raises(InvalidDigestError, match="cannot be verified"):
        store.ensure(Descriptor(media_type="a/b", digest=digest, size=1), source).wait()
    assert source.opened == []


# wrong bytes, and not enough of them


def test_wrong_bytes_leave_nothing(store: Store, tmp_path: Path) -> None:
    source = FaultySource(CONTENT, [Fault(corrupt=300_000)] * 99)
    with pytest.raises(DigestMismatchError) as caught:
        store.ensure(source.descriptor, source).wait()
    assert caught.value.expected == str(source.descriptor.digest)
    assert caught.value.actual.startswith("sha256:")
    assert caught.value.actual != caught.value.expected
    assert caught.value.size == len(CONTENT)
    assert not store.has(source.descriptor.digest)
    assert names(tmp_path / "ingest") == []
    assert source.offsets == [0, 0]  # a second try, and no more
    assert source.closed == 2


def test_a_byte_that_went_wrong_once_is_fetched_again(store: Store) -> None:
    source = FaultySource(CONTENT, [Fault(corrupt=3)])
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert content_of(store, source.descriptor) == CONTENT


def test_more_bytes_than_were_said_are_cut_off(store: Store, tmp_path: Path) -> None:
    source = FaultySource(CONTENT, [Fault(more=10**6, silent=True)] * 9)
    with pytest.raises(DigestMismatchError, match="more than the 700000 bytes"):
        store.ensure(source.descriptor, source).wait()
    assert not store.has(source.descriptor.digest)
    assert names(tmp_path / "ingest") == []


@pytest.mark.parametrize("said", [1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_source_that_says_another_size_is_not_read(
    store: Store, tmp_path: Path, said: int
) -> None:
    source = FaultySource(CONTENT)
    descriptor = dataclasses.replace(source.descriptor, size=said)
    with pytest.raises(
        DigestMismatchError, match=f"has 700000 bytes, its descriptor says {said}$"
    ) as caught:
        store.ensure(descriptor, source).wait()
    assert caught.value.size == len(CONTENT)
    assert source.offsets == [0, 0]  # a second try, and no more
    eventually(lambda: names(tmp_path / "ingest") == [])


def test_what_is_fetched_again_is_no_gain(store: Store) -> None:
    class Short(FaultySource):
        """It has less than its descriptor says, and no byte after that."""

        def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
            if offset >= len(self.content):
                self.offsets.append(offset)
                raise RegistryHTTPError(http_status=416, method="GET", url="http://h/")
            return super().open(descriptor, offset, cancel)

    source = Short(CONTENT, [Fault(silent=True)] * 99)
    descriptor = dataclasses.replace(source.descriptor, size=len(CONTENT) + 1)
    with pytest.raises(ConnectionBrokenError, match="ended after 700000 of 700001 bytes"):
        store.ensure(descriptor, source).wait()
    assert source.offsets == [0, len(CONTENT), 0]


@pytest.mark.parametrize("drop", [True, False])
def test_a_transfer_goes_on_where_it_broke(store: Store, drop: bool) -> None:
    source = FaultySource(CONTENT, [Fault(after=200_000, drop=drop)] * 3)
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [0, 200_000, 400_000, 600_000]
    assert content_of(store, source.descriptor) == CONTENT


def test_a_source_that_cannot_begin_in_the_middle_is_read_past_it(store: Store) -> None:
    source = FaultySource(CONTENT, [Fault(after=300_000), Fault(ignore_offset=True, piece=7000)])
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert content_of(store, source.descriptor) == CONTENT


def test_a_stream_that_cannot_be_closed_has_delivered_all_the_same(store: Store) -> None:
    class Stream:
        offset = 0
        length = 1

        def __init__(self) -> None:
            self.rest = b"x"

        def readinto(self, buffer: memoryview, /) -> int:
            count = len(self.rest)
            buffer[:count], self.rest = self.rest, b""
            return count

        def close(self) -> None:
            raise OSError("already closed")

    class Breaking(Source):
        def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
            return Stream()

    descriptor = Descriptor(media_type="a/b", digest=Digest.of(b"x"), size=1)
    assert store.ensure(descriptor, Breaking()).wait() == "fetched"


def test_a_source_that_begins_elsewhere_is_refused(store: Store) -> None:
    source = FaultySource(CONTENT, [Fault(after=9), Fault(wrong_offset=True)])
    with pytest.raises(ProtocolError, match="asked for the bytes from 9 on"):
        store.ensure(source.descriptor, source).wait()


def test_a_source_that_gives_nothing_is_given_up(store: Store) -> None:
    source = FaultySource(CONTENT, [Fault(after=0)] * 99)
    with pytest.raises(ConnectionBrokenError):
        store.ensure(source.descriptor, source).wait()
    assert len(source.offsets) == QUICK.fruitless


def test_a_trickle_is_given_up(store: Store, tmp_path: Path) -> None:
    source = FaultySource(CONTENT, [Fault(after=1)] * 999)
    with pytest.raises(ConnectionBrokenError):
        store.ensure(source.descriptor, source).wait()
    assert len(source.offsets) == QUICK.failures
    eventually(lambda: names(tmp_path / "ingest") != [])  # kept for the next one


def test_a_registry_that_is_down_is_asked_twice(store: Store) -> None:
    down = RegistryHTTPError(http_status=503, method="GET", url="http://h/")
    source = FaultySource(CONTENT, [Fault(refuse=down)] * 99)
    with pytest.raises(RegistryHTTPError):
        store.ensure(source.descriptor, source).wait()
    assert source.offsets == [0, 0]


def test_a_refusal_is_final(store: Store) -> None:
    source = FaultySource(CONTENT, [Fault(refuse=LoginRequiredError("no"))] * 99)
    with pytest.raises(LoginRequiredError):
        store.ensure(source.descriptor, source).wait()
    assert source.offsets == [0]


def test_a_partial_file_that_the_server_cannot_continue_is_begun_anew(store: Store) -> None:
    beyond = RegistryHTTPError(http_status=416, method="GET", url="http://h/")
    source = FaultySource(CONTENT, [Fault(after=10), Fault(refuse=beyond)])
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [0, 10, 0]


def test_what_was_fetched_outlives_a_source_that_cannot_continue_it(store: Store) -> None:
    begun = FaultySource(CONTENT, [Fault(after=600_000), *[Fault(after=0)] * 9])
    with pytest.raises(ConnectionBrokenError):
        store.ensure(begun.descriptor, begun).wait()
    beyond = RegistryHTTPError(http_status=416, method="GET", url="http://h/")
    odd = FaultySource(CONTENT, [Fault(refuse=beyond)] * 9)
    with pytest.raises(RegistryHTTPError):
        store.ensure(odd.descriptor, odd).wait()
    source = FaultySource(CONTENT)
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [600_000]


@pytest.mark.parametrize("size", [1, 650_000, len(CONTENT) + 1])
def test_what_was_fetched_outlives_a_descriptor_that_says_another_size(
    store: Store, size: int
) -> None:
    begun = FaultySource(CONTENT, [Fault(after=600_000), *[Fault(after=0)] * 9])
    with pytest.raises(ConnectionBrokenError):
        store.ensure(begun.descriptor, begun).wait()
    wrong = dataclasses.replace(begun.descriptor, size=size)
    odd = FaultySource(CONTENT, [Fault(silent=True)] * 9)
    with pytest.raises((DigestMismatchError, ConnectionBrokenError)):
        store.ensure(wrong, odd).wait()
    source = FaultySource(CONTENT)
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [600_000]


def test_retries_are_told(store: Store) -> None:
    told: list[tuple[str, str, dict[str, Any]]] = []
    source = FaultySource(CONTENT, [Fault(after=5)])

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append((level, text, fields))

    store.ensure(source.descriptor, source, log=log).wait()
    ((level, text, fields),) = told
    assert level == "warning"
    assert "tried again" in text and "the connection was dropped" in text
    assert fields == {"digest": str(source.descriptor.digest)}


def test_a_pause_before_a_retry_holds_no_worker(tmp_path: Path) -> None:
    busy = RegistryHTTPError(http_status=429, method="GET", url="http://h/", retry_after=60)
    waiting = FaultySource(CONTENT, [Fault(refuse=busy)])
    other = FaultySource(b"other")
    told = threading.Event()
    with make_store(tmp_path, workers=1, retry=RetryPolicy()) as store:
        cancel = Cancellation()
        ticket = store.ensure(
            waiting.descriptor, waiting, cancel=cancel, log=lambda *_, **__: told.set()
        )
        assert told.wait(PATIENCE)
        assert store.ensure(other.descriptor, other).wait() == "fetched"
        assert not ticket.settled
        cancel.cancel()
        with pytest.raises(CancelledError):
            ticket.wait()


# a partial file that is there already


def test_a_later_transfer_takes_up_a_partial_file(tmp_path: Path) -> None:
    dropping = FaultySource(CONTENT, [Fault(after=123_456)] + [Fault(after=0)] * 99)
    with make_store(tmp_path) as store, pytest.raises(ConnectionBrokenError):
        store.ensure(dropping.descriptor, dropping).wait()
    phases: list[tuple[str, int]] = []
    whole = FaultySource(CONTENT)
    with make_store(tmp_path) as store:
        ticket = store.ensure(
            whole.descriptor,
            whole,
            progress=lambda _, phase, done, __: phases.append((phase, done)),
        )
        assert ticket.wait() == "fetched"
        assert content_of(store, whole.descriptor) == CONTENT
    assert whole.offsets == [123_456]
    assert phases[0] == ("verifying", 123_456)
    assert phases[-1] == ("fetching", len(CONTENT))


def test_a_partial_file_that_was_not_read_yet_stays(tmp_path: Path) -> None:
    source = FaultySource(CONTENT)
    with make_store(tmp_path) as store:
        partial = tmp_path / "ingest" / partial_name(source.descriptor, "")
        partial.write_bytes(CONTENT[:1000])
        cancel = Cancellation()
        layout = Layout(tmp_path / "images", tmp_path / "ingest")
        claimed = Partial.claim(layout, source.descriptor)
        assert claimed is not None
        cancel.cancel()
        with pytest.raises(CancelledError):
            claimed.resume(memoryview(bytearray(100)), cancel, lambda phase, done: None)
        claimed.close()
        assert partial.read_bytes() == CONTENT[:1000]
        assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [1000]


@pytest.mark.parametrize(
    ("found", "offsets"),
    [
        (b"?" * 1000, [1000, 0]),  # wrong: noticed at the end, and begun anew
        (b"?" * len(CONTENT), [0]),  # wrong and complete
        (b"?" * (len(CONTENT) + 1), [0]),  # too long to be a part
        (CONTENT, []),  # complete: only its name was missing
        (b"", [0]),
    ],
)
def test_whatever_lies_in_a_partial_file_is_verified(
    tmp_path: Path, found: bytes, offsets: list[int]
) -> None:
    source = FaultySource(CONTENT)
    with make_store(tmp_path) as store:
        (tmp_path / "ingest" / partial_name(source.descriptor, "")).write_bytes(found)
        assert store.ensure(source.descriptor, source).wait() == "fetched"
        assert content_of(store, source.descriptor) == CONTENT
    assert source.offsets == offsets
    assert names(tmp_path / "ingest") == []


# several takers


def test_many_takers_share_one_movement(store: Store) -> None:
    source = HeldSource([CONTENT])
    descriptor = source.add(CONTENT)
    tickets = [store.ensure(descriptor, source) for _ in range(20)]
    assert source.reached.wait(PATIENCE)
    tickets += [store.ensure(descriptor, source) for _ in range(20)]
    source.release()
    assert {ticket.wait() for ticket in tickets} == {"fetched"}
    assert len(source.opened) == 1


@pytest.mark.parametrize("deaf", [False, True])
def test_a_taker_that_is_cancelled_leaves_at_once(store: Store, deaf: bool) -> None:
    source = HeldSource(before=300_000, deaf=deaf)
    descriptor = source.add(CONTENT)
    first, second = Cancellation(), Cancellation()
    leaving = store.ensure(descriptor, source, cancel=first)
    staying = store.ensure(descriptor, source, cancel=second)
    assert source.reached.wait(PATIENCE)
    begin = time.monotonic()
    first.cancel()
    with pytest.raises(CancelledError):
        leaving.wait()
    assert time.monotonic() - begin < 0.5
    assert not staying.settled
    source.release()
    assert staying.wait() == "fetched"
    assert len(source.opened) == 1
    assert not source.cancelled.is_set()


def test_the_last_taker_to_leave_ends_the_movement(store: Store, tmp_path: Path) -> None:
    source = HeldSource(before=300_000)
    descriptor = source.add(CONTENT)
    cancels = [Cancellation() for _ in range(3)]
    tickets = [store.ensure(descriptor, source, cancel=cancel) for cancel in cancels]
    assert source.reached.wait(PATIENCE)
    for cancel in cancels[:2]:
        cancel.cancel()
    assert not source.cancelled.is_set()
    cancels[2].cancel()
    assert source.cancelled.wait(PATIENCE)
    assert all(ticket.settled for ticket in tickets)
    # What was brought is kept, and the next transfer goes on from there.
    whole = FaultySource(CONTENT)
    assert store.ensure(descriptor, whole).wait() == "fetched"
    assert whole.offsets == [300_000]
    assert names(tmp_path / "ingest") == []


def test_a_wait_can_be_cancelled_too(store: Store) -> None:
    source = HeldSource()
    ticket = store.ensure(source.add(CONTENT), source)
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        ticket.wait(cancel)
    assert ticket.settled


def test_who_is_cancelled_already_moves_nothing(store: Store) -> None:
    source = MemorySource()
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        store.ensure(source.add(CONTENT), source, cancel=cancel).wait()
    assert source.opened == []


def test_a_queued_movement_that_nobody_wants_is_withdrawn(tmp_path: Path) -> None:
    held = HeldSource()
    never = MemorySource()
    with make_store(tmp_path, workers=1) as store:
        cancel = Cancellation()
        first = store.ensure(held.add(CONTENT), held)
        assert held.reached.wait(PATIENCE)
        second = store.ensure(never.add(b"x"), never, cancel=cancel)
        cancel.cancel()
        with pytest.raises(CancelledError):
            second.wait()
        held.release()
        first.wait()
        other = never.add(b"y")
        store.ensure(other, never).wait()
    assert [digest for digest, _ in never.opened] == [other.digest]


def test_a_failure_of_one_source_fails_its_taker_only(tmp_path: Path) -> None:
    held = HeldSource()
    forbidden = FaultySource(CONTENT, [Fault(refuse=LoginRequiredError("no"))] * 99)
    good = FaultySource(CONTENT)
    told: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(text)

    with make_store(tmp_path, workers=1) as store:
        blocker = store.ensure(held.add(b"in the way"), held)  # so that both are one movement
        refused = store.ensure(forbidden.descriptor, forbidden)
        served = store.ensure(good.descriptor, good, log=log)
        held.release()
        with pytest.raises(LoginRequiredError):
            refused.wait()
        assert served.wait() == "fetched"
        assert blocker.wait() == "fetched"
    assert forbidden.offsets == [0]
    assert "another source is asked after: no" in told[0]


def test_each_source_is_asked_for_what_its_own_taker_named(tmp_path: Path) -> None:
    """Where a blob may come from besides is said by who asks, and by no other."""

    class Noting(FaultySource):
        def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
            asked.append(descriptor.urls)
            return super().open(descriptor, offset, cancel)

    asked: list[tuple[str, ...]] = []
    held = HeldSource()
    lacking = Noting(CONTENT, [Fault(refuse=DoesNotExistError("blob"))] * 9)
    good = Noting(CONTENT)
    with make_store(tmp_path, workers=1) as store:
        store.ensure(held.add(b"in the way"), held)  # so that both are one movement
        first = store.ensure(dataclasses.replace(lacking.descriptor, urls=("a",)), lacking)
        second = store.ensure(dataclasses.replace(good.descriptor, urls=("b",)), good)
        held.release()
        with pytest.raises(DoesNotExistError):
            first.wait()
        assert second.wait() == "fetched"
    assert asked == [("a",), ("b",)]


def test_a_source_that_breaks_when_its_taker_leaves_is_replaced(store: Store) -> None:
    class Session(HeldSource):
        """Its session is its taker's: it ends with it."""

        def __init__(self, mine: Cancellation) -> None:
            super().__init__(before=300_000)
            self.mine = mine

        def hold(self, cancel: Cancellation) -> None:
            super().hold(self.mine)

    mine = Cancellation()
    session = Session(mine)
    descriptor = session.add(CONTENT)
    first = store.ensure(descriptor, session, cancel=mine)
    assert session.reached.wait(PATIENCE)
    follower = FaultySource(CONTENT)
    second = store.ensure(descriptor, follower)
    mine.cancel()
    with pytest.raises(CancelledError):
        first.wait()
    assert second.wait() == "fetched"
    assert follower.offsets == [300_000]
    assert content_of(store, descriptor) == CONTENT


def test_wrong_bytes_of_one_source_are_made_good_by_another(tmp_path: Path) -> None:
    held = HeldSource()
    wrong = FaultySource(CONTENT, [Fault(corrupt=1)] * 99)
    good = FaultySource(CONTENT)
    with make_store(tmp_path, workers=1) as store:
        blocker = store.ensure(held.add(b"in the way"), held)
        tickets = [
            store.ensure(wrong.descriptor, wrong),
            store.ensure(good.descriptor, good),
        ]
        held.release()
        assert [ticket.wait() for ticket in [*tickets, blocker]] == ["fetched"] * 3
        assert content_of(store, good.descriptor) == CONTENT
    assert (wrong.offsets, good.offsets) == ([0], [0])


# progress


def test_progress_grows_to_the_whole(store: Store) -> None:
    seen: list[tuple[str, str, int, int]] = []
    source = FaultySource(CONTENT, [Fault(piece=10_000)])
    store.ensure(source.descriptor, source, progress=lambda *told: seen.append(told)).wait()
    assert seen[0] == (str(source.descriptor.digest), "fetching", 0, len(CONTENT))
    assert seen[-1] == (str(source.descriptor.digest), "fetching", len(CONTENT), len(CONTENT))
    done = [told[2] for told in seen]
    assert done == sorted(done)


@pytest.mark.parametrize("where", ["ready", "elsewhere"])
def test_a_source_that_breaks_its_promises_lets_nobody_wait(store: Store, where: str) -> None:
    class Broken(FaultySource):
        def ready(self, descriptor: Descriptor, /) -> float:
            if where == "ready":
                raise ValueError("a fault of the program")
            return 0.0

        def elsewhere(self, descriptor: Descriptor, error: Exception, /) -> bool:
            raise ValueError("a fault of the program")

    source = Broken(CONTENT, [Fault(after=9)])
    with pytest.raises(ValueError, match="a fault of the program"):
        store.ensure(source.descriptor, source).wait()
    assert store.ensure(source.descriptor, FaultySource(CONTENT)).wait() == "fetched"


def test_progress_that_fails_hurts_its_own_taker_only(store: Store) -> None:
    held = HeldSource()
    descriptor = held.add(CONTENT)

    def broken(*_: object) -> None:
        raise ValueError("broken")

    failing = store.ensure(descriptor, held, progress=broken)
    passing = store.ensure(descriptor, held)
    held.release()
    with pytest.raises(ValueError, match="broken"):
        failing.wait()
    assert passing.wait() == "fetched"


# several tickets


def test_tickets_come_in_the_order_in_which_they_settle(store: Store) -> None:
    held, quick = HeldSource(), MemorySource()
    late = store.ensure(held.add(CONTENT), held)
    soon = store.ensure(quick.add(b"soon"), quick)
    order = []
    for ticket in store.settled([late, soon]):
        order.append(ticket)
        held.release()
    assert order == [soon, late]


def test_a_cancelled_round_of_tickets_is_left(store: Store) -> None:
    held = HeldSource()
    tickets = [store.ensure(held.add(bytes([n])), held) for n in range(9)]
    cancel = Cancellation()
    assert held.reached.wait(PATIENCE)
    threading.Timer(0.01, cancel.cancel).start()
    with pytest.raises(CancelledError):
        list(store.settled(tickets, cancel))
    assert all(ticket.settled for ticket in tickets)
    assert list(store.settled([])) == []


def test_an_unsettled_ticket_has_no_result(store: Store) -> None:
    held = HeldSource()
    ticket = store.ensure(held.add(b"x"), held)
    with pytest.raises(RuntimeError, match="not settled"):
        ticket.result()
    held.release()
    ticket.wait()


# threads


def test_no_more_blobs_move_than_there_are_workers(tmp_path: Path) -> None:
    held = HeldSource()
    with make_store(tmp_path, workers=3) as store:
        tickets = [store.ensure(held.add(bytes([n])), held) for n in range(10)]
        eventually(lambda: len(held.opened) == 3)
        moving = [one for one in threading.enumerate() if one.name.startswith("transfer-")]
        assert len(moving) == 3
        assert len(held.opened) == 3
        held.release()
        for ticket in tickets:
            ticket.wait()
    assert not any(one.name.startswith("transfer-") for one in threading.enumerate())


def test_idle_workers_end() -> None:
    workers = Workers(2, name="idle-test", idle=0.01)
    done = threading.Event()
    workers.submit(lambda _: done.set())
    assert done.wait(PATIENCE)
    eventually(lambda: not any(one.name.startswith("idle-test") for one in threading.enumerate()))
    done.clear()
    workers.submit(lambda _: done.set())  # and come back
    assert done.wait(PATIENCE)
    assert workers.close(PATIENCE)
    assert not workers.submit(lambda _: None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_step_that_raises_costs_no_place() -> None:
    workers = Workers(1, name="raise-test")
    done = threading.Event()

    def fail(_: memoryview) -> None:
        raise ValueError("a fault of the program")

    workers.submit(fail)
    eventually(lambda: not any(one.name.startswith("raise-test") for one in threading.enumerate()))
    workers.submit(lambda _: done.set())
    assert done.wait(PATIENCE)
    assert workers.close(PATIENCE)


def test_workers_take_steps_when_they_are_due() -> None:
    workers = Workers(1, name="due-test")
    order: list[str] = []
    done = threading.Event()

    def step(name: str) -> None:
        order.append(name)
        if len(order) == 2:
            done.set()

    workers.submit(lambda _: step("late"), 0.05)
    workers.submit(lambda _: step("soon"))
    assert done.wait(PATIENCE)
    assert order == ["soon", "late"]
    assert workers.close(PATIENCE)


def test_who_asks_for_little_does_not_wait_for_who_asks_for_much(tmp_path: Path) -> None:
    order: list[str] = []

    class Told(MemorySource):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
            order.append(self.name)
            return super().open(descriptor, offset, cancel)

    held, much, little = HeldSource(), Told("much"), Told("little")
    with make_store(tmp_path, workers=1) as store:
        tickets = [store.ensure(held.add(b"in the way"), held)]
        assert held.reached.wait(PATIENCE)
        tickets += [store.ensure(much.add(bytes([n])), much) for n in range(6)]
        tickets += [store.ensure(little.add(bytes([n, n])), little) for n in range(2)]
        held.release()
        for ticket in tickets:
            ticket.wait()
    assert order == ["much", "little", "much", "little", "much", "much", "much", "much"]


def test_no_thread_to_be_had_is_an_error_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    source = MemorySource()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StoreError, match="no thread for a transfer"):
            store.ensure(source.add(b"x"), source).wait()
    assert store.ensure(source.add(b"x"), source).wait() == "fetched"


def test_the_pause_before_a_retry_grows_and_has_an_end() -> None:
    policy = RetryPolicy(first=1.0, most=5.0, patience=60.0)
    assert [policy.pause(tries, 1.0) for tries in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]
    assert policy.pause(3, 0.0) == 2  # spread over the upper half
    assert policy.pause(1, 1.0, asked=20) == 20
    assert policy.pause(1, 1.0, asked=3600) == 60
    assert policy.pause(2, 1.0, asked=0) == 2


def test_at_least_one_worker_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 workers"):
        make_store(tmp_path, workers=0)


def test_closing_ends_everything_in_order(tmp_path: Path) -> None:
    held = HeldSource(before=1000)
    store = make_store(tmp_path, workers=2)
    tickets = [store.ensure(held.add(CONTENT[n:]), held) for n in range(4)]
    assert held.reached.wait(PATIENCE)
    assert store.close()
    for ticket in tickets:
        with pytest.raises(StoreError, match="closed"):
            ticket.wait()
    with pytest.raises(StoreError, match="closed"):
        store.ensure(held.add(b"x"), held)
    assert not any(one.name.startswith("transfer-") for one in threading.enumerate())
    assert list((tmp_path / "images" / "blobs" / "sha256").iterdir()) == []


def test_closing_does_not_wait_for_ever(tmp_path: Path) -> None:
    deaf = HeldSource(deaf=True)
    store = make_store(tmp_path)
    ticket = store.ensure(deaf.add(CONTENT), deaf)
    assert deaf.reached.wait(PATIENCE)
    assert not store.close(timeout=0.05)
    with pytest.raises(StoreError):
        ticket.wait()
    deaf.release()
    assert store.close()


# everything at once

faults = st.builds(
    Fault,
    refuse=st.sampled_from([None, None, None, ConnectionBrokenError("no"), OSError("odd")]),
    ignore_offset=st.booleans(),
    wrong_offset=st.integers(0, 9).map(lambda n: n == 0),
    corrupt=st.none() | st.integers(0, 10**6),
    more=st.sampled_from([0, 0, 0, 1]),
    after=st.none() | st.integers(0, 500_000),
    drop=st.booleans(),
    piece=st.sampled_from([2**30, 4096, 33_333]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 400_000),
    st.lists(st.lists(faults, max_size=5), min_size=1, max_size=3),
)
def test_no_fault_ever_leaves_a_wrong_blob(size: int, plans: list[list[Fault]]) -> None:
    content = CONTENT[:size]
    with tempfile.TemporaryDirectory() as name, make_store(Path(name)) as store:
        sources = [FaultySource(content, plan) for plan in plans]
        tickets = [store.ensure(source.descriptor, source) for source in sources]
        ends = list(store.settled(tickets))
        assert len(ends) == len(tickets)
        descriptor = sources[0].descriptor
        blobs = list((Path(name) / "images" / "blobs" / "sha256").iterdir())
        assert [path.read_bytes() for path in blobs] in ([], [content])
        # A good source completes it, whatever the others left.
        good = FaultySource(content)
        store.ensure(descriptor, good).wait()
        assert content_of(store, descriptor) == content
        assert names(Path(name) / "ingest") == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=12))
def test_takers_that_come_and_go_never_hang(plan: list[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name, make_store(Path(name), workers=2) as store:
        source = MemorySource()
        descriptors = [source.add(CONTENT[n : 300_000 + n]) for n in range(3)]
        tickets = []
        for which, leaves in plan:
            cancel = Cancellation()
            ticket = store.ensure(descriptors[which], source, cancel=cancel)
            tickets.append((ticket, leaves))
            if leaves:
                threading.Thread(target=cancel.cancel).start()
        for ticket, leaves in tickets:
            try:
                ticket.wait()
            except CancelledError:
                assert leaves
        for descriptor in descriptors:
            if store.has(descriptor.digest):
                assert content_of(store, descriptor) in source._blobs.values()


def test_blobs_that_wait_for_another_try_have_no_files_open(tmp_path: Path) -> None:
    opened: list[Descriptor] = []
    policy = dataclasses.replace(QUICK, first=60.0, most=60.0)

    class Broken(MemorySource):
        def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
            opened.append(descriptor)
            raise ConnectionBrokenError("it broke")

    source = Broken()
    with make_store(tmp_path, retry=policy) as store:
        for number in range(40):
            store.ensure(source.add(b"%d" % number), source)
        eventually(lambda: len(opened) == 40)
        eventually(lambda: not list(store.scratch.glob("*.partial")))
