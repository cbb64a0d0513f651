"""Places that are not as the store left them: no permission, other things in the way, damage."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - while it may be read; see `place`
import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_store import FaultySource, age, damage, make_store, put_image, swept

from registry_service.cancel import Cancellation
from registry_service.digest import Digest
from registry_service.errors import DoesNotExistError, StoreError
from registry_service.manifest import MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST
from registry_service.observe import Observer
from registry_service.operations.verify import verify
from registry_service.store import MemorySource, Store
from registry_service.store.disk import file_lock
from registry_service.store.leases import pinned

CONTENT = bytes(range(256)) * 4000
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of somebody who is not root, as whom the test goes on: mode bits hold then."""
    root = Path(tempfile.mkdtemp())
    before = os.geteuid()
    if before == 0:
        os.chown(root, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield root
    finally:
        os.seteuid(before)
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(root)


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with make_store(place) as made:
        yield made


@contextlib.contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


def blob_path(store: Store, digest: Digest) -> Path:
    return store.images / "blobs" / digest.algorithm / digest.hex


def checked(store: Store, **options: Any) -> dict[str, str]:
    found = verify(store, cancel=Cancellation(), observer=Observer(), **options)
    return {one.digest: one.state for one in found}


# permissions


def test_a_place_that_may_not_be_written_costs_nothing_that_was_fetched(store: Store) -> None:
    source = FaultySource(CONTENT)
    with mode(store.images / "blobs" / "sha256", 0o500):
        with pytest.raises(StoreError, match=r"cannot write .*blobs/sha256/.*Permission denied"):
            store.ensure(source.descriptor, source).wait()
        with pytest.raises(StoreError, match=r"cannot write .*blobs/sha256/.*Permission denied"):
            store.put(b"raw", "a/b")
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [0]


def test_an_ingest_that_may_not_be_written_changes_nothing(store: Store, place: Path) -> None:
    kept = store.put(b"raw", "a/b")
    store.tag("h.io/a:1", kept)
    source = FaultySource(CONTENT)
    with mode(place / "ingest", 0o500):
        with pytest.raises(StoreError, match=r"cannot open .*\.partial: Permission denied"):
            store.ensure(source.descriptor, source).wait()
        with pytest.raises(StoreError, match=r"index\.json: Permission denied"):
            store.tag("h.io/b:1", kept)
        with store.lease() as lease, pytest.raises(StoreError, match=r"\.lease: Permission denied"):
            lease.pin([kept.digest])
    assert store.references() == [("h.io/a:1", kept)]


def test_an_index_that_may_not_be_read_is_said_and_left_alone(store: Store) -> None:
    kept = store.put(b"raw", "a/b")
    store.tag("h.io/a:1", kept)
    with mode(store.images / "index.json", 0):
        for ask in (store.references, lambda: store.tag("h.io/b:1", kept), lambda: swept(store)):
            with pytest.raises(StoreError, match=r"cannot read .*index\.json: Permission denied"):
                ask()
    assert store.references() == [("h.io/a:1", kept)]


def test_a_sweep_that_may_not_read_something_removes_nothing(store: Store, place: Path) -> None:
    loose, image = store.put(b"loose", "a/b"), put_image(store, 1)
    store.tag("h.io/a:1", image)
    lease = place / "ingest" / "1-2.lease"
    lease.write_text(f"{loose.digest} .\n")
    for path in (lease, blob_path(store, image.digest), blob_path(store, loose.digest)):
        with mode(path, 0), pytest.raises(StoreError, match=f"{path}: Permission denied"):
            swept(store)
        assert store.has(loose.digest)


def test_what_cannot_be_removed_is_said(store: Store, place: Path) -> None:
    loose = store.put(b"loose", "a/b")
    partial = place / "ingest" / "sha256-1.partial"
    partial.write_bytes(b"12345")
    age(partial, 100)
    denied = pytest.raises(StoreError, match=r"cannot remove .*Permission denied")
    with mode(store.images / "blobs" / "sha256", 0o500), denied:
        swept(store)
    with mode(place / "ingest", 0o500), denied:
        store.upkeep.sweep_partials(50)
    assert swept(store) == {str(loose.digest): "removed"}
    assert store.upkeep.sweep_partials(50) == (1, 5)


def test_verify_goes_on_after_what_it_cannot_read(store: Store) -> None:
    first, second = put_image(store, 1), put_image(store, 2)
    store.tag("h.io/a:1", first)
    loose = store.put(b'{"loose": 1}', "a/b")
    broken = damage(store, second.digest)
    with mode(blob_path(store, loose.digest), 0):
        states = checked(store, repair=True)
    assert states.pop(str(loose.digest)) == "unreadable"
    assert states.pop(str(second.digest)) == "quarantined"
    assert set(states.values()) == {"ok", "unreferenced"}
    assert store.has(loose.digest) and not broken.exists()
    with mode(blob_path(store, first.digest), 0):
        assert checked(store)[str(first.digest)] == "unreadable"


# other things in the way


def test_a_directory_in_the_place_of_a_blob_is_no_content(store: Store) -> None:
    source = FaultySource(CONTENT)
    path = blob_path(store, source.descriptor.digest)
    path.mkdir()
    size = path.stat().st_size
    assert not store.has(source.descriptor.digest, size)
    with pytest.raises(DoesNotExistError):
        store.tag("h.io/a:1", source.descriptor)
    with pytest.raises(StoreError, match=f"cannot write {path}: Is a directory"):
        store.ensure(source.descriptor, source).wait()
    path.rmdir()
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert source.offsets == [0]


def test_a_file_in_the_place_of_a_directory_is_named(store: Store) -> None:
    source = MemorySource()
    descriptor = source.add(b"x", algorithm="sha512")
    (store.images / "blobs" / "sha512").write_text("")
    with pytest.raises(StoreError, match=r"blobs/sha512.*Not a directory"):
        store.ensure(descriptor, source).wait()


def test_a_layout_that_loses_its_blobs_is_an_error_and_heals(store: Store) -> None:
    kept = store.put(b"raw", "a/b")
    (store.images / "blobs").rename(store.images / "away")
    with pytest.raises(DoesNotExistError):
        store.tag("h.io/a:1", kept)
    with pytest.raises(StoreError, match=r"cannot list .*blobs"):
        swept(store)
    with pytest.raises(StoreError, match=r"cannot list .*blobs"):
        store._layout.set_entry("h.io/a:1", kept, Cancellation())
    assert store.put(b"raw", "a/b") == kept
    store.tag("h.io/a:1", kept)


def test_a_place_of_which_the_parent_may_not_be_read_can_be_a_store(place: Path) -> None:
    with mode(place, 0o300), make_store(place) as made:
        kept = made.put(b"raw", "a/b")
        made.tag("h.io/a:1", kept)
        assert made.references() == [("h.io/a:1", kept)]


def test_what_is_no_file_among_the_partial_ones_is_left_alone(store: Store, place: Path) -> None:
    other = place / "ingest" / "x.partial"
    other.mkdir()
    age(other, 100)
    assert store.upkeep.sweep_partials(50) == (0, 0)


def test_a_store_is_opened_while_another_process_holds_the_index(store: Store, place: Path) -> None:
    with file_lock(place / "ingest" / "index.lock", 1.0), make_store(place) as other:
        assert other.references() == []


# what a killed process, or a full disk, left


def test_a_lease_is_written_to_its_last_line(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {Digest.of(b"%d" % number) for number in range(9)}
    write = os.write
    with store.lease() as lease, monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        lease.pin(digests)
        assert pinned(place / "ingest") == digests


def test_a_pin_that_failed_half_way_spoils_no_later_one(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    write = os.write

    def full(fd: int, data: memoryview) -> int:
        if len(data) < 70:
            raise OSError(28, "No space left on device")
        return write(fd, data[:20])

    with store.lease() as lease:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match="No space left"):
                lease.pin([one])
        lease.pin([two])
        assert pinned(place / "ingest") == {two}


def test_a_name_is_durable_though_another_who_gave_it_was_killed_at_that(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.put(b"raw", "a/b")
    store.tag("h.io/a:1", kept)
    synced: list[str] = []
    monkeypatch.setattr(
        "registry_service.store.layout.sync_directory", lambda path: synced.append(str(path))
    )
    store.tag("h.io/a:1", kept)
    assert str(store.images) in synced


# damage


@pytest.mark.parametrize("said", [1, 4000])
def test_what_is_as_its_digest_says_is_not_moved_aside_for_its_size(
    store: Store, said: int
) -> None:
    """Somebody's manifest that says another size is wrong, not the content, which others have."""
    config, layer = store.put(b"{}", "a/b"), store.put(b"layer", "a/b")
    wrong = dataclasses.replace(layer, size=said)
    document = {"config": config.to_json(), "layers": [wrong.to_json()]}
    raw = json.dumps({"schemaVersion": 2, **document}).encode()
    store.tag("h.io/a:1", store.put(raw, OCI_MANIFEST))
    states = checked(store, repair=True)
    assert states[str(layer.digest)] == "damaged"
    assert store.read(layer.digest) == b"layer"


@pytest.mark.parametrize("size", [1, 500, 64 * 1024])
def test_small_content_that_is_damaged_is_fetched_again(store: Store, size: int) -> None:
    source = FaultySource(CONTENT[:size])
    store.ensure(source.descriptor, source).wait()
    damage(store, source.descriptor.digest)
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert store.read(source.descriptor.digest) == source.content
    assert store.ensure(source.descriptor, source).wait() == "exists"


def test_small_content_is_read_again_only_when_its_file_has_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Digest] = []
    intact = store.upkeep.intact

    def watched(digest: Digest, **options: Any) -> bool:
        read.append(digest)
        return intact(digest, **options)

    monkeypatch.setattr(store.upkeep, "intact", watched)
    source = FaultySource(CONTENT[:500])
    digest = source.descriptor.digest
    store.ensure(source.descriptor, source).wait()
    for _ in range(3):
        assert store.ensure(source.descriptor, source).wait() == "exists"
    assert read == [digest] * 3, "what has just come could change again unseen"
    monkeypatch.setattr("registry_service.store.store._SETTLED", 0)
    for _ in range(3):
        assert store.ensure(source.descriptor, source).wait() == "exists"
    assert read == [digest] * 4
    damage(store, digest)
    assert store.ensure(source.descriptor, source).wait() == "fetched"
    assert store.read(digest) == source.content


def test_a_document_that_is_too_large_keeps_all_that_it_mentions(store: Store) -> None:
    image = put_image(store, 1)
    padding = {"annotations": {"x": " " * MANIFEST_LIMIT}}
    document = {"schemaVersion": 2, **padding, "manifests": [image.to_json()]}
    raw = json.dumps(document).encode()
    store.tag("h.io/a:1", store.put(raw, OCI_INDEX))
    loose = store.put(b"loose", "a/b")
    assert swept(store) == {str(loose.digest): "removed"}


@pytest.mark.parametrize("shift", [-90, -70, -1, 0, 1])
def test_what_lies_across_two_pieces_of_a_large_document_is_found(store: Store, shift: int) -> None:
    image = put_image(store, 1)
    start = b'{"schemaVersion": 2, "x": "'
    end = f'", "manifests": [{{"digest": "{image.digest}"}}]}}'.encode()
    before = end.index(b"sha256:")
    filling = 5 * 1024 * 1024 - len(start) - before + shift
    raw = start + b" " * filling + end + b" " * MANIFEST_LIMIT
    store.tag("h.io/a:1", store.put(raw, OCI_INDEX))
    assert swept(store) == {}
