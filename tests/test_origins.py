"""Where content came from, and whom it may serve: the record, and transfers with claims."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_store import Fault, FaultySource, HeldSource, damage, eventually, make_store

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    DigestMismatchError,
    DoesNotExistError,
    RegistryError,
    StoreError,
)
from registry_service.operations.keeping import claim_of_file
from registry_service.store import BlobStream, Claim, MemorySource, Origins, Source, Store

ONE, TWO = Digest.of(b"1"), Digest.of(b"2")
CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path) as made:
        yield made


class Asked:
    """A registry's word on what a repository has, and how often it was asked for it."""

    def __init__(self, answer: bool | Exception = True) -> None:
        self.answer = answer
        self.count = 0

    def __call__(self, descriptor: Descriptor, cancel: Cancellation) -> bool:
        self.count += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def claim(store: Store, host: str, repository: str, probe: Asked | None = None) -> Claim:
    return Claim(
        origins=store.origins, host=host, repository=repository, probe=probe or Asked(False)
    )


# the record


def test_what_is_recorded_is_known_to_all(tmp_path: Path) -> None:
    mine, other = Origins(tmp_path), Origins(tmp_path)
    assert not other.has("h.io", "a", ONE)
    mine.record("h.io", "a", ONE)
    assert other.has("h.io", "a", ONE)
    assert other.host_has("h.io", ONE)
    assert not other.has("h.io", "b", ONE)
    assert not other.has("h.io", "a", TWO)
    assert not other.host_has("i.io", ONE)
    other.record("h.io", "b", TWO)
    assert mine.has("h.io", "b", TWO)
    assert Origins(tmp_path).has("h.io", "a", ONE)


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    origins = Origins(tmp_path)
    origins.record("[::1]:5000", "a", ONE)
    (path,) = (tmp_path / "origins").iterdir()
    before = path.stat()
    origins.record("[::1]:5000", "a", ONE)
    assert path.stat() == before


def test_a_host_names_no_other_file(tmp_path: Path) -> None:
    Origins(tmp_path).record("../x", "a", ONE)
    assert [path.name for path in (tmp_path / "origins").iterdir()] == ["..%2Fx"]


@given(torn=st.integers(0, 200), rest=st.sampled_from(["", "\n", "\0\0\0"]))
def test_a_torn_record_grants_nothing(
    tmp_path_factory: pytest.TempPathFactory, torn: int, rest: str
) -> None:
    root = tmp_path_factory.mktemp("torn")
    origins = Origins(root)
    origins.record("h.io", "team/app", ONE)
    (path,) = (root / "origins").iterdir()
    whole = path.read_text()
    path.write_text(whole[:torn] + rest)
    late = Origins(root)
    assert not late.has("h.io", "team/ap", ONE)
    late.record("h.io", "b", TWO)
    assert Origins(root).has("h.io", "b", TWO)
    intact = any(line.endswith(" .") for line in (whole[:torn] + rest).split("\n"))
    assert late.has("h.io", "team/app", ONE) == intact


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    mine, other = Origins(tmp_path), Origins(tmp_path)
    mine.record("h.io", "a", ONE)
    mine.record("h.io", "b", TWO)
    assert other.has("h.io", "a", ONE)
    mine.tidy(lambda digest: digest == TWO)
    for origins in (mine, other):
        assert not origins.has("h.io", "a", ONE)
        assert origins.has("h.io", "b", TWO)


def test_the_sweep_forgets_what_it_removes(store: Store) -> None:
    source = MemorySource([CONTENT])
    mine = claim(store, "h.io", "a")
    descriptor = source.add(CONTENT)
    assert store.ensure(descriptor, source, claim=mine).wait() == "fetched"
    assert mine.holds(descriptor.digest)
    assert len(list(store.upkeep.collect())) == 1
    assert not mine.holds(descriptor.digest)


# transfers


def test_a_first_fetch_asks_nothing_more_and_a_second_nothing_at_all(store: Store) -> None:
    source, probe = FaultySource(CONTENT), Asked()
    mine = claim(store, "h.io", "a", probe)
    assert store.ensure(source.descriptor, source, claim=mine).wait() == "fetched"
    assert store.ensure(source.descriptor, source, claim=mine).wait() == "exists"
    assert (source.offsets, probe.count) == ([0], 0)


def test_another_repository_of_the_registry_is_asked_about_once(store: Store) -> None:
    source, probe = FaultySource(CONTENT), Asked()
    store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    other = claim(store, "h.io", "b", probe)
    assert store.ensure(source.descriptor, source, claim=other).wait() == "exists"
    assert store.ensure(source.descriptor, source, claim=other).wait() == "exists"
    assert (source.offsets, probe.count) == ([0], 1)


@pytest.mark.parametrize("answer", [False, DoesNotExistError("blob")])
def test_a_repository_without_the_blob_does_not_get_it(
    store: Store, answer: bool | Exception
) -> None:
    source = FaultySource(CONTENT)
    store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    other = claim(store, "h.io", "b", Asked(answer))
    with pytest.raises(DoesNotExistError):
        store.ensure(source.descriptor, source, claim=other).wait()
    assert not other.holds(source.descriptor.digest)


def test_another_registry_has_to_send_the_bytes(store: Store) -> None:
    source = FaultySource(CONTENT)
    probe = Asked(True)  # its word would cost it nothing
    store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    far = claim(store, "evil.io", "a", probe)
    with pytest.raises(DoesNotExistError):
        store.ensure(source.descriptor, MemorySource(), claim=far).wait()
    lying = FaultySource(CONTENT, [Fault(corrupt=700_000)] * 9)
    with pytest.raises(DigestMismatchError, match="bytes that came have the digest"):
        store.ensure(source.descriptor, lying, claim=far).wait()
    assert not far.holds(source.descriptor.digest)
    right = FaultySource(CONTENT, [Fault(after=500_000)])
    assert store.ensure(source.descriptor, right, claim=far).wait() == "exists"
    assert right.offsets[0] == 0 and right.offsets[1] > 0  # it goes on where it broke
    assert far.holds(source.descriptor.digest)
    assert probe.count == 0


@pytest.mark.parametrize("here", [False, True])
def test_who_sends_wrong_bytes_does_not_learn_where(store: Store, here: bool) -> None:
    """Or he could guess another's content byte by byte: all that he notices is the same, whether
    it is here or not."""
    source = FaultySource(CONTENT)
    if here:
        store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    read: list[int] = []

    class Guessing(FaultySource):
        def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
            stream = super().open(descriptor, offset, cancel)
            reading = stream.readinto

            def readinto(buffer: memoryview, /) -> int:
                read.append(reading(buffer[:100_000]))
                return read[-1]

            stream.readinto = readinto  # type: ignore[method-assign]
            return stream

    phases: set[str] = set()
    guess = Guessing(CONTENT, [Fault(corrupt=7)] * 9)
    with pytest.raises(DigestMismatchError, match="bytes that came have the digest"):
        store.ensure(
            guess.descriptor,
            guess,
            claim=claim(store, "evil.io", "a"),
            progress=lambda name, phase, done, total: phases.add(phase),
        ).wait()
    assert guess.offsets == [0, 0]
    assert sum(read) == 2 * len(CONTENT)
    assert phases == {"fetching"}


def test_damage_that_a_comparison_finds_is_healed(store: Store) -> None:
    source = FaultySource(CONTENT)
    store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    damage(store, source.descriptor.digest)
    far = claim(store, "i.io", "a")
    assert store.ensure(source.descriptor, source, claim=far).wait() == "fetched"
    assert store.read(source.descriptor.digest) == CONTENT


def test_who_has_the_bytes_in_the_manifest_needs_no_proof(store: Store) -> None:
    store.put(b"inline", "a/b")
    carried = Descriptor(media_type="a/b", digest=Digest.of(b"inline"), size=6, data=b"inline")
    ticket = store.ensure(carried, MemorySource(), claim=claim(store, "evil.io", "a"))
    assert ticket.wait() == "exists"


def test_without_a_claim_the_store_is_the_takers(store: Store) -> None:
    blob = store.put(b"x", "a/b")
    assert store.ensure(blob, MemorySource()).wait() == "exists"


# in flight


def test_who_may_not_have_it_does_not_join_what_is_in_flight(store: Store) -> None:
    source = HeldSource(before=1000)
    descriptor = source.add(CONTENT)
    first = store.ensure(descriptor, source, claim=claim(store, "h.io", "a"))
    assert source.reached.wait(10)
    probe = Asked(False)
    with pytest.raises(DoesNotExistError):  # while the other still moves
        store.ensure(descriptor, source, claim=claim(store, "h.io", "b", probe)).wait()
    assert not first.settled
    source.release()
    assert first.wait() == "fetched"
    assert probe.count == 1
    assert len(source.opened) == 1


def test_who_may_have_it_joins(store: Store) -> None:
    source = HeldSource(before=1000)
    descriptor = source.add(CONTENT)
    first = store.ensure(descriptor, source, claim=claim(store, "h.io", "a"))
    assert source.reached.wait(10)
    probe = Asked(True)
    same = store.ensure(descriptor, source, claim=claim(store, "h.io", "a", probe))
    other = claim(store, "h.io", "b", probe)
    joined = store.ensure(descriptor, source, claim=other)
    eventually(lambda: probe.count == 1)
    source.release()
    assert [one.wait() for one in (first, same, joined)] == ["fetched"] * 3
    assert len(source.opened) == 1
    assert other.holds(descriptor.digest)


def test_a_taker_of_the_same_repository_whose_fetch_failed_has_no_right_yet(
    store: Store,
) -> None:
    """The first taker's source refuses; another repository's brings the blob. What the registry
    refused the one, the other taker of that repository has to ask for."""
    held = HeldSource()
    descriptor = held.add(CONTENT)
    refusing = _RefusingWhenReleased(held)
    first = store.ensure(descriptor, refusing, claim=claim(store, "h.io", "a"))
    assert held.reached.wait(10)
    probe = Asked(False)
    second = store.ensure(descriptor, refusing, claim=claim(store, "h.io", "a", probe))
    right = MemorySource([CONTENT])
    third = store.ensure(descriptor, right, claim=claim(store, "h.io", "b", Asked(True)))
    eventually(lambda: "moving" in repr(third))
    held.release()
    with pytest.raises(DoesNotExistError):
        first.wait()
    with pytest.raises(DoesNotExistError):
        second.wait()
    assert third.wait() == "fetched"


class _RefusingWhenReleased(Source):
    def __init__(self, held: HeldSource) -> None:
        self._held = held

    def open(self, descriptor: Descriptor, offset: int, cancel: Cancellation, /) -> BlobStream:
        self._held.hold(cancel)
        raise DoesNotExistError(f"blob {descriptor.digest}")


def test_another_registry_does_not_notice_what_is_in_flight(store: Store) -> None:
    source = HeldSource(before=1000)
    descriptor = source.add(CONTENT)
    first = store.ensure(descriptor, source, claim=claim(store, "h.io", "a"))
    assert source.reached.wait(10)
    evil, honest = MemorySource(), MemorySource([CONTENT])
    bad = store.ensure(descriptor, evil, claim=claim(store, "evil.io", "a", Asked(True)))
    good = store.ensure(descriptor, honest, claim=claim(store, "i.io", "a"))
    assert good.wait() == "fetched"
    with pytest.raises(DoesNotExistError):
        bad.wait()
    assert not first.settled
    source.release()
    assert first.wait() == "fetched"
    assert [offset for _, offset in honest.opened] == [0]


def test_the_rest_of_another_registry_s_partial_file_is_not_had_by_its_end(
    store: Store,
) -> None:
    """Who knows only the end of a blob must not get its beginning."""
    descriptor, ingest = _begin(store, CONTENT, 600_000)
    tail = b"\0" * 600_000 + CONTENT[600_000:]
    evil = FaultySource(tail)
    with pytest.raises(RegistryError):
        store.ensure(descriptor, evil, claim=claim(store, "evil.io", "a")).wait()
    assert evil.offsets[0] == 0
    assert not store.has(descriptor.digest)
    honest = FaultySource(CONTENT)
    assert store.ensure(descriptor, honest, claim=claim(store, "h.io", "a")).wait() == "fetched"
    assert honest.offsets == [600_000]  # nor cost what was fetched
    assert list(ingest.glob("*.partial")) == []


def test_a_registry_goes_on_with_its_own_partial_file(store: Store) -> None:
    descriptor, _ = _begin(store, CONTENT, 600_000)
    source = FaultySource(CONTENT)
    assert store.ensure(descriptor, source, claim=claim(store, "h.io", "a")).wait() == "fetched"
    assert source.offsets == [600_000]


def test_what_a_registry_began_is_gone_on_with_though_another_s_is_here(store: Store) -> None:
    """It has to send what it has not sent yet, and no more."""
    descriptor, ingest = _begin(store, CONTENT, 600_000)
    far, near = claim(store, "i.io", "a"), claim(store, "h.io", "a")
    store.ensure(descriptor, FaultySource(CONTENT), claim=far).wait()
    source = FaultySource(CONTENT)
    assert store.ensure(descriptor, source, claim=near).wait() == "fetched"
    assert source.offsets == [600_000]
    assert near.holds(descriptor.digest)
    assert list(ingest.glob("*.partial")) == []


def test_what_lacks_only_its_name_is_asked_for_and_not_fetched_again(store: Store) -> None:
    descriptor, _ = _begin(store, CONTENT, len(CONTENT))
    probe, source = Asked(False), FaultySource(CONTENT)
    with pytest.raises(DoesNotExistError):
        store.ensure(descriptor, source, claim=claim(store, "h.io", "b", probe)).wait()
    mine = claim(store, "h.io", "a", Asked(True))
    assert store.ensure(descriptor, source, claim=mine).wait() == "fetched"
    assert source.offsets == []
    assert mine.holds(descriptor.digest)


def test_an_archive_has_to_have_what_another_one_began_with(store: Store) -> None:
    source = HeldSource(before=600_000)
    descriptor = source.add(CONTENT)
    ticket = store.ensure(descriptor, source, claim=claim_of_file())
    assert source.reached.wait(10)
    ticket.leave()
    tail = FaultySource(b"\0" * 600_000 + CONTENT[600_000:])
    with pytest.raises(DigestMismatchError):
        store.ensure(descriptor, tail, claim=claim_of_file()).wait()
    assert not store.has(descriptor.digest)


def test_what_is_in_its_place_is_on_record(store: Store, tmp_path: Path) -> None:
    """Or another process that sees it there would have its registry send it again."""
    seen: list[bool] = []

    class Noting(Origins):
        def record(self, host: str, repository: str, digest: Digest) -> None:
            seen.append(store.has(digest))
            super().record(host, repository, digest)

    source = FaultySource(CONTENT)
    own = Claim(origins=Noting(tmp_path / "ingest"), host="h.io", repository="a", probe=Asked())
    store.ensure(source.descriptor, source, claim=own).wait()
    assert seen == [False]


def _begin(store: Store, content: bytes, count: int) -> tuple[Descriptor, Path]:
    """The first bytes of a blob, of the registry h.io."""
    source = HeldSource(before=count)
    descriptor = source.add(content)
    ticket = store.ensure(descriptor, source, claim=claim(store, "h.io", "a"))
    assert source.reached.wait(10)
    ticket.leave()
    with pytest.raises(CancelledError):
        ticket.wait()
    return descriptor, store.images.parent / "ingest"


# ends


def test_a_question_can_be_given_up(store: Store) -> None:
    source = FaultySource(CONTENT)
    store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    asked, freed = threading.Event(), threading.Event()

    def probe(descriptor: Descriptor, cancel: Cancellation) -> bool:
        with cancel.calling(freed.set):
            asked.set()
            assert freed.wait(20)
        cancel.check()
        return True

    other = Claim(origins=store.origins, host="h.io", repository="b", probe=probe)
    cancel = Cancellation()
    ticket = store.ensure(source.descriptor, source, claim=other, cancel=cancel)
    assert asked.wait(10)
    cancel.cancel()
    with pytest.raises(CancelledError):
        ticket.wait()
    assert freed.wait(10)


def test_closing_ends_questions(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    source = FaultySource(CONTENT)
    store.ensure(source.descriptor, source, claim=claim(store, "h.io", "a")).wait()
    asked, freed = threading.Event(), threading.Event()

    def probe(descriptor: Descriptor, cancel: Cancellation) -> bool:
        with cancel.calling(freed.set):
            asked.set()
            assert freed.wait(20)
        return False

    other = Claim(origins=store.origins, host="h.io", repository="b", probe=probe)
    ticket = store.ensure(source.descriptor, source, claim=other)
    assert asked.wait(10)
    assert store.close()
    with pytest.raises(StoreError, match="closed"):
        ticket.wait()


def test_who_comes_when_a_movement_ends_finds_it_or_its_record(tmp_path: Path) -> None:
    """One who comes while the record is written neither fetches again nor is refused."""
    late: list[str] = []

    class Slow(Origins):
        def record(self, host: str, repository: str, digest: Digest) -> None:
            if repository == "a" and not late:
                late.append("begun")
                ticket = store.ensure(wanted, source, claim=own)
                ticket.on_settled(lambda one: late.append(one.result()))
            super().record(host, repository, digest)

    source = FaultySource(CONTENT)
    wanted = source.descriptor
    with make_store(tmp_path) as store:
        own = Claim(origins=Slow(tmp_path / "ingest"), host="h.io", repository="a", probe=Asked())
        assert store.ensure(wanted, source, claim=own).wait() == "fetched"
        eventually(lambda: len(late) == 2)
    assert late == ["begun", "fetched"]
    assert source.offsets == [0]
