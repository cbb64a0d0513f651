"""The sweep: what goes, what stays, and what it does beside those who work on the store."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_store import (
    HeldSource,
    age,
    damage,
    make_store,
    names,
    put_image,
    put_index,
    swept,
)

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import CancelledError, DoesNotExistError, GoneError, StoreError
from registry_service.referrers import Companion
from registry_service.store import MemorySource, Store, sweep
from registry_service.store.disk import file_lock
from registry_service.store.entries import SUBJECT
from registry_service.store.layout import Layout
from registry_service.store.marks import Document


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path) as made:
        yield made


def here(store: Store) -> set[Digest]:
    return {digest for digest, _ in store.upkeep.blobs()}


def write_entries(store: Store, *entries: dict[str, Any]) -> None:
    """As another tool does it: without our lock."""
    path = store.images / "index.json"
    document = json.loads(path.read_text())
    document["manifests"].extend(entries)
    path.write_text(json.dumps(document))


def test_what_a_name_leads_to_stays_and_the_rest_goes(store: Store) -> None:
    index = put_index(store, put_image(store, 1), put_image(store, 2))
    store.tag("h.io/a:1", index)
    kept = here(store)
    loose = put_image(store, 3)
    gone = swept(store)
    assert str(loose.digest) in gone
    assert set(gone.values()) == {"removed"}
    assert len(gone) == 3  # one layer is shared
    assert here(store) == kept
    store.untag("h.io/a:1")
    assert {Digest.parse(one) for one in swept(store)} == kept
    assert here(store) == set()


def test_what_a_dry_run_tells_is_what_goes(store: Store) -> None:
    put_image(store, 1)
    before = here(store)
    told = swept(store, dry_run=True)
    assert set(told.values()) == {"removable"}
    assert here(store) == before
    assert swept(store).keys() == told.keys()


def test_the_young_stay(store: Store) -> None:
    old, young = (store.put(text, "a/b") for text in (b"old", b"young"))
    age(store.images / "blobs" / "sha256" / old.digest.hex, 100)
    assert swept(store, grace=50) == {str(old.digest): "removed", str(young.digest): "kept"}
    assert here(store) == {young.digest}


def test_rows_say_what_content_says_of_itself(store: Store) -> None:
    image = put_image(store, 1)
    types = {one.digest: one.media_type for one in store.upkeep.collect()}
    assert types.pop(image.digest) == image.media_type
    assert set(types.values()) == {""}


def test_content_of_other_tools_entries_stays(store: Store) -> None:
    nameless, odd = put_image(store, 1), put_image(store, 2)
    kept = here(store)
    write_entries(
        store,
        nameless.to_json(),
        {**odd.to_json(), "mediaType": "application/vnd.of-some-kind"},
        {"digest": "nonsense"},
        {},
    )
    assert swept(store) == {}
    assert here(store) == kept


def test_a_part_of_an_unknown_type_is_followed(store: Store) -> None:
    image = put_image(store, 1)
    odd = Descriptor(media_type="application/vnd.odd", digest=image.digest, size=image.size)
    store.tag("h.io/a:1", put_index(store, odd))
    assert swept(store) == {}


def test_a_manifest_that_is_a_layer_elsewhere_is_followed_too(store: Store) -> None:
    inner = put_image(store, 1)
    document = {"config": inner.to_json(), "layers": [inner.to_json()]}
    outer = store.put(json.dumps(document).encode(), inner.media_type)
    store.tag("h.io/a:1", outer)
    store.tag("h.io/b:1", put_index(store, inner))
    assert swept(store) == {}


def test_what_belongs_to_an_image_stays_with_it(store: Store) -> None:
    image = put_image(store, 1)
    signature = put_image(store, 2, subject=image)
    put_image(store, 3, subject=signature)
    store.tag("h.io/a:1", image)
    assert swept(store) == {}
    store.untag("h.io/a:1")
    swept(store)
    assert here(store) == set()


def test_a_signature_does_not_keep_its_image(store: Store) -> None:
    image = put_image(store, 1)
    signature = put_image(store, 2, subject=image)
    store.tag("h.io/a:sig", signature)
    gone = swept(store)
    assert str(image.digest) in gone
    assert str(signature.digest) not in gone


def test_entries_that_belong_to_an_image_go_with_it(store: Store) -> None:
    image = put_image(store, 1)
    other = put_image(store, 2)  # names no subject itself
    write_entries(store, {**other.to_json(), "annotations": {SUBJECT: str(image.digest)}})
    store.tag("h.io/a:1", image)
    assert swept(store) == {}
    store.untag("h.io/a:1")
    assert str(other.digest) in swept(store)
    assert json.loads((store.images / "index.json").read_text())["manifests"] == []


def test_a_damaged_manifest_stops_the_sweep_before_it_begins(store: Store) -> None:
    image = put_image(store, 1)
    store.tag("h.io/a:1", image)
    put_image(store, 2)
    before = here(store)
    path = damage(store, image.digest)
    for content in (path.read_bytes(), b"", b"\0" * image.size):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="is damaged"):
            swept(store)
        assert here(store) == before


def test_only_what_was_asked_for_is_looked_at(store: Store) -> None:
    first, second = put_image(store, 1), put_image(store, 2)
    loose = put_image(store, 3)
    signature = put_image(store, 4, subject=first)
    store.tag("h.io/b:1", second)
    gone = swept(store, only={first.digest})
    assert {str(first.digest), str(signature.digest)} <= gone.keys()
    assert {loose.digest, second.digest} <= here(store)


def test_a_sweep_can_be_cancelled(store: Store) -> None:
    put_image(store, 1)
    cancel = Cancellation()
    cancel.cancel()
    before = here(store)
    with pytest.raises(CancelledError):
        swept(store, cancel=cancel)
    assert here(store) == before


# beside others


def test_what_is_pinned_stays_until_the_lease_ends(store: Store) -> None:
    blob = store.put(b"relied on", "a/b")
    with store.lease() as lease:
        assert lease.secure([blob.digest]) == []
        assert swept(store) == {str(blob.digest): "kept"}
    assert names(store.images.parent / "ingest") == []
    assert swept(store) == {str(blob.digest): "removed"}


def test_who_pins_what_is_gone_is_told(store: Store) -> None:
    blob = store.put(b"gone", "a/b")
    swept(store)
    with store.lease() as lease:
        assert lease.secure([blob.digest]) == [blob.digest]


def test_a_lease_that_pins_nothing_writes_nothing(store: Store, tmp_path: Path) -> None:
    with store.lease() as lease:
        lease.pin([])
        assert names(tmp_path / "ingest") == []


def test_a_lease_of_a_process_that_died_counts_for_nothing(store: Store, tmp_path: Path) -> None:
    blob = store.put(b"x", "a/b")
    (tmp_path / "ingest" / "1-2.lease").write_text(f"{blob.digest}\n")
    assert swept(store) == {str(blob.digest): "removed"}
    assert names(tmp_path / "ingest") == []


def test_a_name_is_not_given_to_what_went_away(store: Store) -> None:
    image = put_image(store, 1)
    layer = store.put(b"layer 1", "a/b")
    store.tag("h.io/a:1", image)
    (store.images / "blobs" / "sha256" / layer.digest.hex).unlink()
    with pytest.raises(GoneError, match="removed from the store meanwhile") as caught:
        store.tag("h.io/b:1", image, [layer.digest])
    assert caught.value.digests == (str(layer.digest),)
    assert [name for name, _ in store.references()] == ["h.io/a:1"]


def test_what_gets_its_name_in_the_middle_of_a_sweep_stays(store: Store) -> None:
    image = put_image(store, 1)
    kept = here(store)
    loose = [store.put(b"%d" % number, "a/b").digest for number in range(2000)]
    sweeping = store.upkeep.collect()
    seen = {next(sweeping).digest}  # one turn is over, and others wait
    lost = kept - here(store)
    if not lost:
        store.tag("h.io/a:1", image, kept)
    seen |= {one.digest for one in sweeping}
    assert seen >= set(loose)
    assert here(store) == (set() if lost else kept)


class Between(Cancellation):
    """Does something when a sweep has looked at everything, and has removed nothing yet."""

    def __init__(self, blobs: int, then: Callable[[], object]) -> None:
        super().__init__()
        self._left = blobs  # it asks once for each, and once before each turn
        self._then = then

    def check(self) -> None:
        super().check()
        self._left -= 1
        if self._left < 0:
            then, self._then = self._then, lambda: None
            then()


def test_what_a_platform_that_comes_in_the_middle_of_a_sweep_needs_stays(store: Store) -> None:
    """Its layers were in the store before, of an interrupted pull; the index had its name."""
    first, second = put_image(store, 1), put_image(store, 2)
    store.tag("h.io/a:1", put_index(store, first, second))
    kept = here(store)
    path = store.images / "blobs" / "sha256" / second.digest.hex
    manifest = path.read_bytes()
    path.unlink()
    cancel = Between(len(here(store)), lambda: store.put(manifest, second.media_type))
    assert swept(store, cancel=cancel) == {}
    assert here(store) == kept


def test_what_comes_just_when_it_is_looked_for_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_image(store, 1)
    store.tag("h.io/a:1", image)
    kept = here(store)
    path = store.images / "blobs" / "sha256" / image.digest.hex
    manifest = path.read_bytes()
    path.unlink()

    class Late(Layout):
        def open(self, digest: Digest) -> BufferedReader:
            try:
                return super().open(digest)
            except DoesNotExistError:
                path.write_bytes(manifest)
                raise

    late = Late(store.images, store.scratch)
    assert not list(sweep.collect(late, grace=0, dry_run=False, cancel=Cancellation()))
    assert here(store) == kept


def test_what_belongs_to_an_image_that_is_on_its_way_is_not_forgotten(store: Store) -> None:
    """A pull brings what belongs to an image before the image itself."""
    image, other = put_image(store, 1), put_image(store, 2)
    (store.images / "blobs" / "sha256" / image.digest.hex).unlink()
    companion = Companion(subject=image.digest, descriptor=other)
    needed = here(store)
    loose = store.put(b"loose", "a/b")
    with store.lease() as lease:
        lease.pin(needed)

        def pull() -> None:
            lease.pin([image.digest])
            store.keep_companion(companion)

        class Late(Layout):
            def change(
                self, change: Callable[[list[Any]], list[Any]], cancel: Cancellation
            ) -> None:
                pull()
                super().change(change, cancel)

        late = Late(store.images, store.scratch)
        gone = sweep.collect(late, grace=0, dry_run=False, cancel=Cancellation())
        assert [one.digest for one in gone if one.state == "removed"] == [loose.digest]
        assert store.companions() == [companion]


def test_a_transfer_goes_on_beside_a_sweep(store: Store) -> None:
    source = HeldSource(before=1000)
    descriptor = source.add(bytes(range(256)) * 40)
    ticket = store.ensure(descriptor, source)
    assert source.reached.wait(10)
    assert swept(store) == {}
    assert store.upkeep.sweep_partials(0.0) == (0, 0)  # it is locked
    source.release()
    assert ticket.wait() == "fetched"
    store.tag("h.io/a:1", descriptor, [descriptor.digest])
    assert swept(store) == {}


def test_what_transfers_left_long_ago_goes(store: Store, tmp_path: Path) -> None:
    ingest = tmp_path / "ingest"
    old, young = (ingest / f"sha256-{letter * 64}.partial" for letter in "ab")
    for path in (old, young):
        path.write_bytes(b"12345")
    age(old, 100)
    assert store.upkeep.sweep_partials(50, dry_run=True) == (1, 5)
    assert names(ingest) == [old.name, young.name]
    assert store.upkeep.sweep_partials(50) == (1, 5)
    assert names(ingest) == [young.name]


def test_who_waits_for_the_index_gets_it_between_two_turns(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_TURN", 0.02)
    image = put_image(store, 1)
    needed = here(store)
    for number in range(6000):
        (store.images / "blobs/sha256" / Digest.of(b"%d" % number).hex).write_bytes(b"")
    with make_store(tmp_path) as other, other.lease() as lease:
        lease.pin([image.digest])
        sweeping = store.upkeep.collect()
        next(sweeping)
        naming = threading.Thread(target=other.tag, args=("h.io/a:1", image))
        naming.start()
        for _ in sweeping:
            if not naming.is_alive():
                break
        left = here(store) - needed
        naming.join(20)
    assert left  # the sweep was not over


@pytest.mark.parametrize("what", ["collect", "remove_names"])
def test_who_waits_for_the_index_can_be_cancelled(store: Store, what: str) -> None:
    image = put_image(store, 1)
    store.tag("h.io/a:1", image)
    put_image(store, 2)
    before = here(store)
    cancel = Between(len(before) if what == "collect" else 0, lambda: cancel.cancel())
    ends: list[BaseException] = []

    def work() -> None:
        try:
            if what == "collect":
                swept(store, cancel=cancel)
            else:
                store.upkeep.remove_names(lambda names: {name for name, _ in names}, cancel=cancel)
        except CancelledError as error:
            ends.append(error)

    with file_lock(store.scratch / "index.lock", 1.0):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)  # the lock would be waited for longer
        assert len(ends) == 1
    assert here(store) == before
    assert [name for name, _ in store.references()] == ["h.io/a:1"]


def test_many_names_and_sweeps_at_once_lose_nothing(tmp_path: Path) -> None:
    """Writers that bring, name and forget images, sweepers that never rest."""
    ends: list[BaseException] = []
    stop = threading.Event()

    def work(number: int) -> None:
        source = MemorySource()
        blobs = [source.add(b"shared"), source.add(b"own %d" % number)]
        document = {"config": blobs[0].to_json(), "layers": [blobs[1].to_json()]}
        raw = json.dumps(document).encode()
        try:
            with make_store(tmp_path) as mine:
                for turn in range(10):
                    bring(mine, source, blobs, raw, f"h.io/w{number}:{turn % 3}")
        except BaseException as error:
            ends.append(error)

    def bring(
        mine: Store, source: MemorySource, blobs: list[Descriptor], raw: bytes, name: str
    ) -> None:
        while True:
            for ticket in [mine.ensure(one, source) for one in blobs]:
                ticket.wait()
            top = mine.put(raw, "application/vnd.oci.image.manifest.v1+json")
            try:
                mine.tag(name, top, [one.digest for one in blobs])
            except (GoneError, DoesNotExistError):
                continue
            break
        for one in (*blobs, top):
            assert mine.has(one.digest, one.size), f"{name} leads to what is not there"
        mine.untag(name)

    def sweep_on() -> None:
        try:
            with make_store(tmp_path) as mine:
                while not stop.is_set():
                    swept(mine)
        except BaseException as error:
            ends.append(error)

    writers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    sweeper = threading.Thread(target=sweep_on)
    for thread in (*writers, sweeper):
        thread.start()
    for thread in writers:
        thread.join(100)
    stop.set()
    sweeper.join(20)
    assert ends == []


# documents


def test_a_document_names_its_parts() -> None:
    digest = str(Digest.of(b"1"))
    one = {"digest": digest}
    for value, field in (
        ({"manifests": [one]}, "parts"),
        ({"config": one}, "leaves"),
        ({"layers": [one, {}, 3]}, "leaves"),
        ({"blobs": [one]}, "leaves"),
        ({"fsLayers": [{"blobSum": digest}]}, "leaves"),
    ):
        document = Document.parse(json.dumps(value).encode())
        assert document is not None
        assert getattr(document, field) == (Digest.parse(digest),)
    document = Document.parse(json.dumps({"subject": one}).encode())
    assert document is not None and document.subject == Digest.parse(digest)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "config", "layers", "manifests", "subject", "mediaType"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(_JSON)
def test_whatever_a_document_says_it_is_read(value: Any) -> None:
    document = Document.parse(json.dumps(value).encode())
    assert (document is None) == (not isinstance(value, dict))


@given(st.binary(max_size=50))
def test_whatever_bytes_there_are_they_are_read(raw: bytes) -> None:
    for content in (raw, b"{" + raw):
        document = Document.parse(content)
        assert document is None or document.parts == ()
