"""Layers of V1 on their way into the store: fetched once, resumed, verified, or not kept."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import fcntl
import gzip
import lzma
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_disk import small_disk
from support_store import QUICK, Fault, age, eventually, make_store, names
from support_v1_layers import (
    HOST,
    LayerOf,
    claim_on,
    leftovers,
    receive,
    stated,
    tar_of,
    tgz_of,
)

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DigestMismatchError,
    DiskFullError,
    LayerError,
    RegistryHTTPError,
    StoreError,
)
from registry_service.media import OCI_LAYER
from registry_service.store import BlobStream, LayerSource, Store, arrivals, partial
from registry_service.store.arriving import arriving_name

GZIP = f"{OCI_LAYER}+gzip"
PATIENCE = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path) as made:
        yield made


class Held(LayerOf):
    """A layer of which ``before`` bytes come, and no more until `go` is set or it is cancelled."""

    def __init__(self, data: bytes, before: int) -> None:
        super().__init__(data)
        self.before = before
        self.reached = threading.Event()
        self.go = threading.Event()

    def open(self, offset: int, cancel: Cancellation, /) -> BlobStream:
        return _HeldStream(self, super().open(offset, cancel), cancel)


class Paused(LayerOf):
    """A layer whose host may not be asked until ``open_gate`` is set; ``asked`` counts."""

    def __init__(self, data: bytes, open_gate: threading.Event) -> None:
        super().__init__(data)
        self.open_gate = open_gate
        self.asked = 0

    def ready(self) -> float:
        self.asked += 1
        return 0.0 if self.open_gate.is_set() else 0.01


class _HeldStream:
    def __init__(self, source: Held, inner: BlobStream, cancel: Cancellation) -> None:
        self._source, self._inner, self._cancel = source, inner, cancel
        self._left = source.before
        self.offset, self.length = inner.offset, inner.length

    def readinto(self, buffer: memoryview, /) -> int:
        if self._left:
            count = self._inner.readinto(buffer[: self._left])
            self._left -= count
            return count
        self._source.reached.set()
        with self._cancel.calling(self._source.go.set):
            assert self._source.go.wait(PATIENCE)
        self._cancel.check()
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()


def test_a_layer_that_is_compressed_with_gzip_is_kept_as_it_came(store: Store) -> None:
    data = tgz_of(1)
    source = LayerOf(data)
    arrived = receive(store, stated(data), source).wait()
    assert arrived.outcome == "fetched"
    layer = arrived.layer
    assert (layer.digest, layer.size, layer.media_type) == (Digest.of(data), len(data), GZIP)
    assert layer.diff_id == Digest.of(tar_of(1))
    with store.open(layer.digest) as file:
        assert file.read() == data
    assert store.origins.has(HOST, "test/app", layer.digest)
    again = receive(store, stated(data), source).wait()
    assert (again.layer, again.outcome) == (layer, "exists")
    assert source.offsets == [0]
    assert names(store.scratch) == ["layers"]


@pytest.mark.parametrize("compress", [bytes, bz2.compress, lzma.compress])
def test_any_other_layer_is_compressed_once_and_always_alike(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    data = compress(tar_of(2))
    digests = set()
    for place in ("one", "two"):
        with make_store(tmp_path / place) as store:
            layer = receive(store, stated(data), LayerOf(data)).wait().layer
            with store.open(layer.digest) as file:
                assert gzip.decompress(file.read()) == tar_of(2)
            assert layer.diff_id == Digest.of(tar_of(2))
            assert store.size(layer.digest) == layer.size
            assert names(store.scratch) == ["layers"]
            assert receive(store, stated(data), LayerOf(b"")).wait().outcome == "exists"
            digests.add(layer.digest)
    assert len(digests) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 19_000), max_size=6), st.booleans(), st.booleans())
def test_what_broke_off_is_gone_on_with_where_it_broke(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int], says: bool, plain: bool
) -> None:
    data = tar_of(3) if plain else tgz_of(3)
    source = LayerOf(data, [Fault(after=count, silent=not says) for count in breaks])
    description = stated(data) if says else stated(data, size=-1, checksum_payload="")
    with make_store(tmp_path_factory.mktemp("store")) as store:
        for _ in range(10):  # nothing gained so many times in a row ends one try
            try:
                arrived = receive(store, description, source).wait()
                break
            except Exception as error:
                assert "was dropped" in str(error)
        assert arrived.layer.diff_id == Digest.of(tar_of(3))
        place = 0
        for offset, count in zip(source.offsets, [*breaks, len(data)], strict=False):
            if offset != place:  # all was there, which nobody had said
                assert (place, says) == (len(data), False)
                break
            place = min(len(data), place + count)
        assert names(store.scratch) == ["layers"]


def test_twenty_who_want_one_layer_fetch_it_once(store: Store) -> None:
    data = tgz_of(4, 300_000)
    sources = [Held(data, 1000) for _ in range(20)]
    tickets = [receive(store, stated(data), one) for one in sources]
    eventually(lambda: any(one.reached.is_set() for one in sources))
    for one in sources:
        one.go.set()
    ends = {ticket.wait().outcome for ticket in tickets}
    assert ends == {"fetched"}
    assert [offset for one in sources for offset in one.offsets] == [0]


def test_who_waits_for_another_one_can_give_up(store: Store) -> None:
    data = tgz_of(5)
    holder, other = Held(data, 100), LayerOf(data)
    first = receive(store, stated(data), holder)
    assert holder.reached.wait(PATIENCE)
    cancel = Cancellation()
    second = receive(store, stated(data), other, cancel=cancel)
    cancel.cancel()
    with pytest.raises(CancelledError):
        second.wait()
    holder.go.set()
    assert first.wait().outcome == "fetched"
    assert other.offsets == []


def test_where_the_holder_is_cancelled_the_next_goes_on(store: Store) -> None:
    data = tgz_of(6)
    holder, other = Held(data, 7000), LayerOf(data)
    cancel = Cancellation()
    first = receive(store, stated(data), holder, cancel=cancel)
    assert holder.reached.wait(PATIENCE)
    second = receive(store, stated(data), other)
    cancel.cancel()
    with pytest.raises(CancelledError):
        first.wait()
    assert second.wait().layer.digest == Digest.of(data)
    assert other.offsets == [7000]


def test_where_the_holder_may_not_go_on_the_next_does_with_his_own_source(store: Store) -> None:
    data = tgz_of(7)
    refused = RegistryHTTPError(http_status=403, method="GET", url="http://registry.test/")
    holder = LayerOf(data, [Fault(after=5000), Fault(refuse=refused)])
    with pytest.raises(RegistryHTTPError):
        receive(store, stated(data), holder).wait()
    other = LayerOf(data)
    assert receive(store, stated(data), other).wait().outcome == "fetched"
    assert other.offsets == [5000]


def test_registries_share_neither_what_came_nor_what_is_on_its_way(store: Store) -> None:
    data = tgz_of(8)
    broken = LayerOf(data, [Fault(refuse=RegistryHTTPError(http_status=404, method="", url=""))])
    receive(store, stated(data), LayerOf(data)).wait()
    other = claim_on(store, "other.test")
    assert store.layer("other.test", stated(data)) is None
    with pytest.raises(RegistryHTTPError):
        receive(store, stated(data), broken, claim=other).wait()
    assert not store.origins.has("other.test", "test/app", Digest.of(data))
    own = LayerOf(data)
    assert receive(store, stated(data), own, claim=other).wait().outcome == "fetched"
    assert own.offsets == [0]


@pytest.mark.parametrize(
    "other", [{"size": 7}, {"checksum_payload": f"sha256:{'0' * 64}"}], ids=["size", "checksum"]
)
def test_of_what_is_not_what_the_registry_says_nothing_is_kept(
    store: Store, other: dict[str, Any]
) -> None:
    data = tgz_of(9)
    with pytest.raises(DigestMismatchError, match="the layer of image"):
        receive(store, stated(data, **other), LayerOf(data)).wait()
    assert leftovers(store) == []


@pytest.mark.parametrize(
    "data", [b"no archive" * 1000, gzip.compress(b"none" * 1000), tgz_of(1)[:-5], b"\x1f\x8bjunk"]
)
def test_of_what_is_no_layer_nothing_is_kept(store: Store, data: bytes) -> None:
    with pytest.raises(LayerError, match="the layer of image"):
        receive(store, stated(data), LayerOf(data)).wait()
    assert leftovers(store) == []


def test_a_byte_that_was_spoiled_on_its_way_is_fetched_again(store: Store) -> None:
    data = tgz_of(10)
    source = LayerOf(data, [Fault(corrupt=9000)])
    assert receive(store, stated(data), source).wait().layer.digest == Digest.of(data)
    assert source.offsets == [0, 0]
    source = LayerOf(tgz_of(11), [Fault(corrupt=9000)])
    says = stated(tgz_of(11), seed=2, size=-1, checksum_payload="")
    assert receive(store, says, source).wait().layer.digest == Digest.of(tgz_of(11))


def test_a_partial_file_that_was_damaged_is_thrown_away(store: Store) -> None:
    data = tgz_of(12)
    broken = LayerOf(data, [Fault(after=8000), *[Fault(refuse=OSError("gone"))] * 9])
    with pytest.raises(OSError, match="gone"):
        receive(store, stated(data), broken).wait()
    path = store.scratch / arriving_name(HOST, stated(data))
    content = bytearray(path.read_bytes())
    assert len(content) == 8000
    content[4000] ^= 1
    path.write_bytes(content)
    source = LayerOf(data)
    assert receive(store, stated(data), source).wait().layer.digest == Digest.of(data)
    assert source.offsets in ([8000, 0], [0])  # as soon as it was noticed
    assert names(store.scratch) == ["layers"]


def test_a_layer_that_changed_over_there_is_fetched_anew(store: Store) -> None:
    old, new = tgz_of(13), tgz_of(14)
    broken = LayerOf(old, [Fault(after=8000), *[Fault(refuse=OSError("gone"))] * 9])
    says = stated(new, size=-1, checksum_payload="")
    with pytest.raises(OSError, match="gone"):
        receive(store, says, broken).wait()
    layer = receive(store, says, LayerOf(new)).wait().layer
    assert layer.digest == Digest.of(new)


def test_where_no_part_is_given_what_is_here_is_compared(store: Store) -> None:
    data = tgz_of(15)
    source = LayerOf(data, [Fault(after=8000), Fault(ignore_offset=True)])
    assert receive(store, stated(data), source).wait().layer.digest == Digest.of(data)
    assert source.offsets == [0, 8000]


def test_where_the_disk_is_full_nothing_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview, offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial, "write_all", full)
    data = tgz_of(16)
    with pytest.raises(DiskFullError, match=f"{len(data)} bytes more are needed"):
        receive(store, stated(data), LayerOf(data)).wait()
    assert leftovers(store) == []


def test_where_the_disk_is_full_while_a_layer_is_compressed_nothing_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview, offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry_service.store.arriving.write_all", full)
    data = tar_of(17)
    with pytest.raises(DiskFullError):
        receive(store, stated(data), LayerOf(data)).wait()
    assert leftovers(store) == []


def test_a_disk_that_is_full_when_a_layer_is_compressed(tmp_path: Path) -> None:
    data = tar_of(26, 600_000)
    with small_disk(tmp_path / "disk", "1m") as disk, make_store(disk) as store:
        with pytest.raises(DiskFullError):
            receive(store, stated(data), LayerOf(data)).wait()
        assert leftovers(store) == []
        small = tar_of(27, 100_000)
        receive(store, stated(small, seed=2), LayerOf(small)).wait()


def test_a_process_that_holds_the_file_and_hangs_is_told_of(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_STALLED", 0.2)
    data = tgz_of(18)
    path = store.scratch / arriving_name(HOST, stated(data))
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="see whether it hangs"):
            receive(store, stated(data), LayerOf(data)).wait()
    assert receive(store, stated(data), LayerOf(data)).wait().outcome == "fetched"


def test_what_another_process_brought_meanwhile_is_found(store: Store, tmp_path: Path) -> None:
    data = tgz_of(19)
    holder, other = Held(data, 100), LayerOf(data)
    with make_store(tmp_path) as second:
        first = receive(second, stated(data), holder)
        assert holder.reached.wait(PATIENCE)
        waiting = receive(store, stated(data), other)
        eventually(lambda: waiting._polls > 2)
        holder.go.set()
        assert waiting.wait().layer == first.wait().layer
    assert other.offsets == []


def test_closing_the_store_ends_every_wait(tmp_path: Path) -> None:
    data = tgz_of(20)
    store = make_store(tmp_path)
    holder = Held(data, 4000)
    tickets = [receive(store, stated(data), holder)]
    assert holder.reached.wait(PATIENCE)
    tickets.append(receive(store, stated(data), Held(data, 0)))
    assert store.close(PATIENCE)
    for ticket in tickets:
        with pytest.raises(StoreError, match="closed"):
            ticket.wait()
    with pytest.raises(StoreError, match="closed"):
        receive(store, stated(data), holder)
    with make_store(tmp_path) as again:
        source = LayerOf(data)
        receive(again, stated(data), source).wait()
        assert source.offsets == [4000]


@pytest.mark.parametrize("data", [tgz_of(28), tar_of(28)], ids=["as it came", "compressed here"])
def test_where_it_cannot_be_pinned_it_is_not_there_and_need_not_come_again(
    store: Store, data: bytes
) -> None:
    def pin(digest: Digest) -> None:
        raise StoreError("the operation is over")

    with pytest.raises(StoreError, match="is over"):
        receive(store, stated(data), LayerOf(data), pin=pin).wait()
    assert leftovers(store) == [arriving_name(HOST, stated(data))]
    source = LayerOf(b"")
    assert receive(store, stated(data), source).wait().outcome == "fetched"
    assert source.offsets == []
    assert names(store.scratch) == ["layers"]


def test_what_comes_is_pinned_before_it_is_there(store: Store) -> None:
    data = tgz_of(21)
    seen = []

    def pin(digest: Digest) -> None:
        seen.append((digest, store.has(digest)))

    receive(store, stated(data), LayerOf(data), pin=pin).wait()
    assert seen == [(Digest.of(data), False)]


def test_the_sweep_takes_what_nobody_goes_on_with_and_forgets_what_is_gone(store: Store) -> None:
    data, other = tgz_of(22), tgz_of(23)
    layer = receive(store, stated(data), LayerOf(data)).wait().layer
    holder = Held(other, 5000)
    ticket = receive(store, stated(other, seed=2), holder)
    assert holder.reached.wait(PATIENCE)
    path = store.scratch / arriving_name(HOST, stated(other, seed=2))
    age(path, 1000)
    assert store.upkeep.sweep_partials(10) == (0, 0)  # somebody has it
    ticket.leave()
    eventually(lambda: not store._arrivals.held(path.name))
    age(path, 1000)
    assert store.upkeep.sweep_partials(10) == (1, 5000)
    assert store.layer(HOST, stated(data)) == layer
    store.tag("registry.test/a:1", Descriptor(media_type=GZIP, digest=layer.digest, size=1))
    list(store.upkeep.collect())
    assert store.layers.find(HOST, stated(data)) == layer
    store.untag("registry.test/a:1")
    assert [one.state for one in store.upkeep.collect()] == ["removed"]
    assert store.layers.find(HOST, stated(data)) is None
    assert receive(store, stated(data), LayerOf(data)).wait().outcome == "fetched"


def test_a_source_with_several_places_goes_on_at_the_next(store: Store) -> None:
    data = tgz_of(24)

    class Several(LayerSource):
        def __init__(self) -> None:
            lost = RegistryHTTPError(http_status=404, method="GET", url="")
            self.places = [LayerOf(data, [Fault(after=3000), Fault(refuse=lost)]), LayerOf(data)]

        def open(self, offset: int, cancel: Cancellation, /) -> BlobStream:
            return self.places[0].open(offset, cancel)

        def elsewhere(self, error: Exception, /) -> bool:
            return len(self.places) > 1 and bool(self.places.pop(0))

    source = Several()
    assert receive(store, stated(data), source).wait().layer.digest == Digest.of(data)
    assert source.places[0].offsets == [3000]


def test_an_operation_that_is_over_pins_nothing_more(store: Store) -> None:
    lease = store.lease()
    lease.pin([Digest.of(b"a")])
    lease.close()
    with pytest.raises(StoreError, match="is over"):
        lease.pin([Digest.of(b"b")])
    assert names(store.scratch) == []


@pytest.mark.parametrize("data", [tgz_of(1), tar_of(1)])
def test_a_directory_of_blobs_that_went_away_is_made_again(store: Store, data: bytes) -> None:
    (store.images / "blobs" / "sha256").rmdir()
    layer = receive(store, stated(data), LayerOf(data)).wait().layer
    with store.open(layer.digest) as file:
        assert Digest.of(file.read()) == layer.digest


def open_partials(store: Store) -> int:
    """How many partial files of the store this process has open."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            place = path.readlink()
            count += place.parent == store.scratch and ".partial" in place.name
    return count


def test_layers_that_wait_until_their_host_may_be_asked_have_no_files_open(store: Store) -> None:
    data, open_gate = tgz_of(1), threading.Event()
    sources = [Paused(data, open_gate) for _ in range(60)]
    tickets = [receive(store, stated(data, seed), one) for seed, one in enumerate(sources)]
    eventually(lambda: all(one.asked > 1 for one in sources))
    assert open_partials(store) < len(tickets) // 2
    open_gate.set()
    assert {one.wait().outcome for one in tickets} == {"fetched"}
    assert [one.offsets for one in sources] == [[0]] * len(sources)
    assert leftovers(store) == [f"blobs/sha256/{Digest.of(data).hex}", f"layers/{HOST}"]


def test_layers_that_wait_for_another_try_have_no_files_open(tmp_path: Path) -> None:
    data = tgz_of(1)
    opened: list[int] = []
    policy = dataclasses.replace(QUICK, first=60.0, most=60.0)

    class Broken(LayerOf):
        def open(self, offset: int, cancel: Cancellation, /) -> BlobStream:
            opened.append(offset)
            raise ConnectionBrokenError("it broke")

    with make_store(tmp_path, retry=policy) as store:
        tickets = [receive(store, stated(data, seed), Broken(data)) for seed in range(60)]
        eventually(lambda: len(opened) == len(tickets))
        eventually(lambda: open_partials(store) < 2)
        assert not any(one.settled for one in tickets)  # they wait, and have not failed
        for one in tickets:
            one.leave()
