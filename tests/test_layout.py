"""The layout on disk: names, content, what other tools and other processes do to it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_services import require
from support_store import make_store, names

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import (
    CancelledError,
    DigestMismatchError,
    DoesNotExistError,
    StoreError,
)
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST
from registry_service.reference import Reference
from registry_service.referrers import Companion
from registry_service.store import REF_NAME, MemorySource, Store
from registry_service.store.entries import SUBJECT, SUFFIX

CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
).encode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_store(tmp_path) as store:
        yield store


def index_of(store: Store) -> dict[str, Any]:
    found = json.loads((store.images / "index.json").read_bytes())
    assert isinstance(found, dict)
    return found


def put_image(store: Store, config: bytes = CONFIG) -> Descriptor:
    """An image without layers."""
    source = MemorySource()
    descriptor = source.add(config, "application/vnd.oci.image.config.v1+json")
    store.ensure(descriptor, source).wait()
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor.to_json(),
        "layers": [],
    }
    return store.put(json.dumps(document).encode(), OCI_MANIFEST)


def test_a_new_store_is_an_empty_layout(store: Store) -> None:
    version = json.loads((store.images / "oci-layout").read_bytes())
    assert version == {"imageLayoutVersion": "1.0.0"}
    assert index_of(store) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    assert store.references() == []


def test_only_its_owner_can_look_into_it(store: Store, tmp_path: Path) -> None:
    put_image(store)
    for path in [tmp_path / "images", tmp_path / "ingest", *tmp_path.glob("*/**/*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_put_keeps_the_bytes_and_names_them(store: Store) -> None:
    descriptor = store.put(b"raw", "a/b")
    assert descriptor == Descriptor(media_type="a/b", digest=Digest.of(b"raw"), size=3)
    assert store.read(descriptor.digest) == b"raw"
    assert store.size(descriptor.digest) == 3
    assert store.put(b"raw", "a/b") == descriptor
    long = Digest.of(b"raw", "sha512")
    assert store.put(b"raw", "a/b", long).digest == long
    assert store.read(long) == b"raw"


def test_put_refuses_other_bytes(store: Store) -> None:
    with pytest.raises(DigestMismatchError):
        store.put(b"raw", "a/b", Digest.of(b"other"))
    assert not store.has(Digest.of(b"raw"))


def test_what_is_not_there_is_said_to_be(store: Store) -> None:
    digest = Digest.of(b"nothing")
    assert not store.has(digest)
    for ask in (store.size, store.open, store.read):
        with pytest.raises(DoesNotExistError, match=f"{digest} in the store does not exist"):
            ask(digest)
    with pytest.raises(DoesNotExistError):
        store.tag("h.io/x:1", Descriptor(media_type="a/b", digest=digest, size=7))
    assert store.resolve("h.io/x:1") is None
    assert not store.untag("h.io/x:1")


def test_damage_is_noticed_when_it_is_read(store: Store) -> None:
    descriptor = store.put(b"raw", "a/b")
    (store.images / "blobs" / "sha256" / descriptor.digest.hex).write_bytes(b"row")
    with pytest.raises(DigestMismatchError, match="is damaged"):
        store.read(descriptor.digest)


def test_put_makes_good_what_was_damaged(store: Store) -> None:
    descriptor = store.put(b"raw", "a/b")
    place = store.images / "blobs" / "sha256" / descriptor.digest.hex
    for damage in (b"row", b"", b"rawer"):
        place.write_bytes(damage)
        assert store.put(b"raw", "a/b") == descriptor
        assert store.read(descriptor.digest) == b"raw"
    written = place.stat().st_ino
    store.put(b"raw", "a/b")  # what is whole is left alone
    assert place.stat().st_ino == written


def test_a_large_blob_is_not_read_at_once(store: Store) -> None:
    descriptor = store.put(b"12345", "a/b")
    assert store.read(descriptor.digest, 5) == b"12345"
    with pytest.raises(StoreError, match="larger than the 4 bytes"):
        store.read(descriptor.digest, 4)


def test_names(store: Store) -> None:
    first, second = store.put(b"1", OCI_MANIFEST), store.put(b"2", OCI_MANIFEST)
    one, two = Reference.parse("h.io/x:1"), Reference.parse("h.io/x:2")
    store.tag(one, first)
    store.tag(two, first)
    assert store.resolve("h.io/x:1") == first
    store.tag(one, second)  # keeps its place
    assert store.references() == [("h.io/x:1", second), ("h.io/x:2", first)]
    assert len(index_of(store)["manifests"]) == 2
    assert store.untag(two)
    assert not store.untag(two)
    assert store.references() == [("h.io/x:1", second)]
    assert store.has(first.digest)  # its name is gone, its content is not


def test_a_name_is_an_annotation_beside_the_others(store: Store) -> None:
    descriptor = store.put(b"1", OCI_MANIFEST)
    named = Descriptor(
        media_type=OCI_MANIFEST,
        digest=descriptor.digest,
        size=1,
        annotations={"k": "v", REF_NAME: "old"},
        data=b"1",
    )
    store.tag("h.io/x:1", named)
    (entry,) = index_of(store)["manifests"]
    assert entry["annotations"] == {"k": "v", REF_NAME: "h.io/x:1"}
    assert "data" not in entry
    found = store.resolve("h.io/x:1")
    assert found is not None and found.annotations == {"k": "v"}


def test_what_other_tools_wrote_is_kept(store: Store) -> None:
    strange: list[Any] = [
        {"mediaType": "a/b", "digest": str(Digest.of(b"x")), "size": 1, "theirs": "\ud800"},
        "no object",
        {"annotations": {REF_NAME: "broken"}},
        {"annotations": 5},
    ]
    document = {"schemaVersion": 2, "manifests": strange, "annotations": {"a": "b"}, "theirs": 1}
    (store.images / "index.json").write_text(json.dumps(document))
    descriptor = store.put(b"1", OCI_MANIFEST)
    store.tag("h.io/x:1", descriptor)
    now = index_of(store)
    assert now["manifests"][:4] == strange
    assert (now["annotations"], now["theirs"]) == ({"a": "b"}, 1)
    assert store.references() == [("h.io/x:1", descriptor)]
    assert store.untag("h.io/x:1")
    assert index_of(store) == document


@pytest.mark.parametrize("text", ["{", "[]", '{"manifests": 5}', "\xff"])
def test_a_damaged_index_is_said_and_left_alone(store: Store, text: str) -> None:
    path = store.images / "index.json"
    path.write_text(text, encoding="latin-1")
    descriptor = store.put(b"1", OCI_MANIFEST)
    for attempt in (store.references, lambda: store.tag("h.io/x:1", descriptor)):
        with pytest.raises(StoreError, match=r"index\.json is damaged"):
            attempt()
    assert path.read_text(encoding="latin-1") == text


def test_an_index_without_entries_is_empty(store: Store) -> None:
    (store.images / "index.json").write_text('{"schemaVersion": 2, "manifests": null}')
    assert store.references() == []


def test_a_layout_whose_files_were_removed_heals(store: Store) -> None:
    descriptor = store.put(b"1", OCI_MANIFEST)
    for name in ("index.json", "oci-layout"):
        (store.images / name).unlink()
    assert store.references() == []
    assert store.resolve("h.io/x:1") is None
    assert not store.untag("h.io/x:1")
    store.tag("h.io/x:1", descriptor)
    assert store.references() == [("h.io/x:1", descriptor)]
    assert (store.images / "oci-layout").exists()


def test_a_layout_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(StoreError, match=r"version '2\.0\.0' is not known"):
        make_store(tmp_path)


def test_a_place_that_cannot_be_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file")
    with pytest.raises(StoreError, match=f"cannot make the directory {tmp_path}/images"):
        make_store(tmp_path)


def test_a_store_that_exists_is_opened_again(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        descriptor = store.put(b"1", OCI_MANIFEST)
        store.tag("h.io/x:1", descriptor)
    (tmp_path / "ingest" / "left.tmp").write_bytes(b"young: perhaps in use")
    with make_store(tmp_path) as store:
        assert store.resolve("h.io/x:1") == descriptor
        assert "left.tmp" in names(tmp_path / "ingest")


def test_forgotten_temporary_files_are_removed(tmp_path: Path) -> None:
    with make_store(tmp_path):
        pass
    left = tmp_path / "ingest" / "left.tmp"
    left.write_bytes(b"old")
    os.utime(left, (0, 0))
    with make_store(tmp_path):
        assert names(tmp_path / "ingest") == []


def test_a_write_that_fails_leaves_the_old_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = store.put(b"1", OCI_MANIFEST)
    store.tag("h.io/x:1", descriptor)
    before = index_of(store)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", fail)
    with pytest.raises(StoreError, match=r"cannot write .*index\.json: Input/output error"):
        store.tag("h.io/x:2", descriptor)
    assert index_of(store) == before
    assert names(tmp_path / "ingest") == []


TAGGER = """
import sys
from pathlib import Path
from registry_service.store import Store
root, who = Path(sys.argv[1]), sys.argv[2]
with Store(root / "images", root / "ingest") as store:
    for number in range(20):
        descriptor = store.put(f"{who} {number}".encode(), "text/plain")
        store.tag(f"h.io/{who}:{number}", descriptor)
        store.tag("h.io/shared:1", descriptor)
"""


def test_names_that_several_processes_give_at_once_are_all_kept(tmp_path: Path) -> None:
    people = ["ann", "ben", "cat"]
    running = [
        subprocess.Popen([sys.executable, "-c", TAGGER, str(tmp_path), who]) for who in people
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    with make_store(tmp_path) as store:
        found = dict(store.references())
        wanted = {f"h.io/{who}:{number}" for who in people for number in range(20)}
        assert set(found) == wanted | {"h.io/shared:1"}
        assert len(store.references()) == len(found)
        assert store.read(found["h.io/ben:7"].digest) == b"ben 7"


# the lock of the index


@contextlib.contextmanager
def held_elsewhere(root: Path) -> Iterator[None]:
    """The lock of the index, held as another process would."""
    with (root / "ingest" / "index.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Watched(Cancellation):
    """A cancellation that knows when somebody waits with an eye on it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = threading.Event()
        self._looks = 0

    def check(self) -> None:
        self._looks += 1
        if self._looks > 3:
            self.waited.set()
        super().check()


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[Exception]]:
    """``work`` under way in a thread, and what it raises."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


@pytest.mark.parametrize("remove", [False, True])
def test_a_wait_for_the_index_ends_with_its_cancellation(
    store: Store, tmp_path: Path, remove: bool
) -> None:
    descriptor = store.put(b"1", OCI_MANIFEST)
    store.tag("h.io/old:1", descriptor)
    first, second = Watched(), Watched()

    def change(cancel: Cancellation) -> None:
        if remove:
            store.untag("h.io/old:1", cancel=cancel)
        else:
            store.tag("h.io/new:1", descriptor, cancel=cancel)

    with held_elsewhere(tmp_path):
        # One of them polls the file's lock, and the other waits for the one.
        waits = [in_thread(functools.partial(change, one)) for one in (first, second)]
        assert first.waited.wait(20) and second.waited.wait(20)
        begun = time.monotonic()
        for cancel in (first, second):
            cancel.cancel()
        for thread, raised in waits:
            thread.join(20)
            assert [type(error) for error in raised] == [CancelledError]
        assert time.monotonic() - begun < 1
    assert store.references() == [("h.io/old:1", descriptor)]


def test_who_is_cancelled_already_names_nothing(store: Store) -> None:
    descriptor = store.put(b"1", OCI_MANIFEST)
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        store.tag("h.io/x:1", descriptor, cancel=cancel)
    assert store.references() == []


def test_a_wait_for_the_index_that_is_not_cancelled_goes_on(store: Store, tmp_path: Path) -> None:
    descriptor = store.put(b"1", OCI_MANIFEST)
    first, second = Watched(), Watched()
    with held_elsewhere(tmp_path):
        gone, _ = in_thread(lambda: store.tag("h.io/x:1", descriptor, cancel=first))
        stays, raised = in_thread(lambda: store.tag("h.io/x:2", descriptor, cancel=second))
        assert first.waited.wait(20) and second.waited.wait(20)
        first.cancel()
        gone.join(20)
        assert stays.is_alive()
    stays.join(20)
    assert raised == []
    assert store.references() == [("h.io/x:2", descriptor)]


@pytest.mark.parametrize("suffix", ["", "sig"])
def test_what_a_registry_notes_does_not_change_what_something_belongs_to(
    store: Store, suffix: str
) -> None:
    notes = {SUFFIX: "att", SUBJECT: str(Digest.of(b"another")), REF_NAME: "h.io/a:1", "k": "v"}
    content = dataclasses.replace(store.put(b"{}", OCI_MANIFEST), annotations=notes)
    store.keep_companion(
        Companion(subject=Digest.of(b"subject"), descriptor=content, suffix=suffix)
    )
    (kept,) = store.companions()
    assert (kept.subject, kept.suffix) == (Digest.of(b"subject"), suffix)
    assert kept.descriptor.annotations == {"k": "v"}
    assert store.references() == []


def test_skopeo_reads_the_layout(store: Store) -> None:
    skopeo = require("skopeo")
    descriptor = put_image(store)
    store.tag(Reference.parse("127.0.0.1:5000/test/app:1.0"), descriptor)
    store.tag(Reference.parse("alpine"), put_image(store, CONFIG + b"\n"))
    done = subprocess.run(
        [skopeo, "inspect", "--raw", f"oci:{store.images}:127.0.0.1:5000/test/app:1.0"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == store.read(descriptor.digest)
    done = subprocess.run(
        [skopeo, "inspect", f"oci:{store.images}:127.0.0.1:5000/test/app:1.0"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["Digest"] == str(descriptor.digest)


def test_what_skopeo_adds_is_kept(store: Store) -> None:
    skopeo = require("skopeo")
    store.tag("h.io/x:1", put_image(store))
    copy = [skopeo, "--insecure-policy", "copy", "--quiet"]
    subprocess.run(
        [*copy, f"oci:{store.images}:h.io/x:1", f"oci:{store.images}:theirs"],
        timeout=60,
        check=True,
    )
    store.tag("h.io/x:2", put_image(store))
    assert {"h.io/x:1", "theirs", "h.io/x:2"} == {name for name, _ in store.references()}
