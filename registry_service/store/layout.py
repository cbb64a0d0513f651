"""The OCI image layout: content by digest, and an index of what has a name.

::

    images/oci-layout            the version of the layout
    images/index.json            descriptors; see `store.entries`
    images/blobs/ALGORITHM/HEX   content; a file is here only when it is whole and verified
    ingest/quarantine/…          content that was found to be damaged, moved aside

`index.json` is changed under the lock ``ingest/index.lock``, by any process that uses this
module; other tools know nothing of the lock, so that a change of theirs at the same moment can
be lost, but their entries are kept. Readers need no lock: the file is replaced, never changed.
A blob's bytes are synced before it gets its place, the directories of the blobs only before a name
is written: many small blobs cost one such sync, and a name that survives a crash leads to content
that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    DigestMismatchError,
    DoesNotExistError,
    InvalidDigestError,
    StoreError,
)
from ..manifest import OCI_INDEX
from ..referrers import Companion
from .disk import (
    disk_error,
    file_lock,
    is_at,
    make_directory,
    replace_file,
    sweep,
    sync_directory,
)
from .entries import (
    belonging,
    companion_of,
    name_of,
    named,
    naming,
    same_place,
    without,
)

__all__ = ["Layout"]

_EMPTY: Final = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
_LOCK_TIMEOUT: Final = 30.0
_LOOK: Final = 0.05  # seconds between two looks at the cancellation in a wait for the mutex


class Layout:
    """An OCI image layout in ``images``; what is being written lies in ``ingest``.

    The two are made where they are missing, and must be of one file system. Thread-safe: the
    mutex ``_mutex`` is for the threads of this process, so that one of them polls the file
    lock and no more; it is taken before the file lock and never together with another.
    """

    def __init__(self, images: Path, ingest: Path) -> None:
        self.images = images
        self.ingest = ingest
        self._blobs = images / "blobs"
        self._index = images / "index.json"
        self._marker = images / "oci-layout"
        self._mutex = threading.Lock()
        for directory in (ingest, self._blobs / "sha256"):
            make_directory(directory)
        if images.stat().st_dev != ingest.stat().st_dev:
            raise StoreError(f"{images} and {ingest} must be on one file system")
        sweep(ingest)
        self._start()

    # content

    def path(self, digest: Digest) -> Path:
        """Where the content is, or would be."""
        return Path(self.place(digest))

    def place(self, digest: Digest) -> str:
        """As `path`, in text: to make a Path costs as much as what is done with it."""
        return f"{self._blobs}/{digest.algorithm}/{digest.hex}"

    def size(self, digest: Digest) -> int | None:
        """The size in bytes of content that is here, else None."""
        found = self.stat(digest)
        return None if found is None else found.st_size

    def stat(self, digest: Digest) -> os.stat_result | None:
        """What the system says of the content's file, None where there is none."""
        path = self.place(digest)
        try:
            found = os.stat(path)  # noqa: PTH116 - see `place`
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk_error(error, path, "examine") from error
        return found if stat.S_ISREG(found.st_mode) else None

    def open(self, digest: Digest) -> BufferedReader:
        """The content as a file. Raises `DoesNotExistError`."""
        path = self.path(digest)
        try:
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise DoesNotExistError(f"blob {digest} in the store") from None
        except OSError as error:
            raise disk_error(error, path, "open") from error

    def read(self, digest: Digest, limit: int) -> bytes:
        """The content, verified, of at most ``limit`` bytes.

        Raises `DoesNotExistError`, `StoreError` for content that is larger, and
        `DigestMismatchError` for content that was damaged since it was written.
        """
        path = self.path(digest)
        with self.open(digest) as file:
            try:
                content = file.read(limit + 1)
            except OSError as error:
                raise disk_error(error, path, "read") from error
        if len(content) > limit:
            raise StoreError(f"{path} is larger than the {limit} bytes that are read at once")
        actual = Digest.of(content, digest.algorithm)
        if actual != digest:
            raise DigestMismatchError(
                f"{path} is damaged: its {len(content)} bytes have the digest {actual}; "
                "remove it and pull again",
                expected=str(digest),
                actual=str(actual),
                size=len(content),
            )
        return content

    def put(self, digest: Digest, content: bytes) -> None:
        """Keep ``content``, which has that digest."""
        self.prepare(digest)
        replace_file(self.path(digest), content, self.ingest)

    def prepare(self, digest: Digest) -> None:
        """Make the directory that the content goes to."""
        make_directory(self.path(digest).parent)

    # names

    def entries(self) -> list[tuple[str, Descriptor]]:
        """Each name and what it names, in the order of the index.

        Entries of other tools that have no name, or are no descriptors, are passed over.
        """
        return named(self.raw_entries())

    def set_entry(
        self,
        name: str,
        descriptor: Descriptor,
        cancel: Cancellation,
        needs: Collection[Digest] = (),
    ) -> list[Digest]:
        """Let ``name`` name ``descriptor`` and nothing else. Durable when it returns.

        What of ``needs`` is not here is returned, and then nothing was changed: it is looked for
        under the lock under which content is removed, so that no name comes to lead to what
        was removed meanwhile. Raises `CancelledError`, and nothing has changed.
        """
        cancel.check()
        self._sync_blobs()
        entry = naming(name, descriptor)
        missing: list[Digest] = []

        def change(entries: list[Any]) -> list[Any]:
            missing.extend(one for one in needs if self.size(one) is None)
            if missing:
                return entries
            kept, places = without(entries, name)
            kept.insert(places[0] if places else len(kept), entry)
            return kept

        self.change(change, cancel)
        return missing

    def remove_entry(self, name: str, cancel: Cancellation) -> bool:
        """Let ``name`` name nothing. False when it did so before. Durable when it returns.

        Raises `CancelledError`, and nothing has changed.
        """
        removed = False

        def change(entries: list[Any]) -> list[Any]:
            nonlocal removed
            kept, places = without(entries, name)
            removed = bool(places)
            return kept

        self.change(change, cancel)
        return removed

    def remove_entries(
        self,
        choose: Callable[[list[tuple[str, Descriptor]]], Collection[str]],
        cancel: Cancellation,
    ) -> None:
        """Let the names that ``choose`` picks of all name nothing, all or, where it raises,
        none. Durable when it returns. Raises `CancelledError`, and nothing has changed."""

        def change(entries: list[Any]) -> list[Any]:
            gone = choose(named(entries))
            return [entry for entry in entries if name_of(entry) not in gone]

        self.change(change, cancel)

    # upkeep

    @contextlib.contextmanager
    def locked(self, cancel: Cancellation) -> Iterator[list[Any]]:
        """Hold the lock of the index; gives its entries, those of other tools too. Content is
        removed under it only. It is held for moments. Raises `CancelledError`."""
        with self._locked(cancel):
            yield self.raw_entries()

    def barrier(self, cancel: Cancellation) -> None:
        """Return when nobody removes content who had begun before the call."""
        with self._locked(cancel):
            pass

    def raw_entries(self) -> list[Any]:
        return _manifests(self._read(), self._index)

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """All content, in no order; files whose names are no digests are passed over."""
        try:
            directories = [one.name for one in os.scandir(self._blobs) if one.is_dir()]
            for algorithm in directories:
                with os.scandir(self._blobs / algorithm) as entries:
                    yield from _digests(algorithm, entries)
        except OSError as error:
            raise disk_error(error, self._blobs, "list") from error

    def remove(self, digest: Digest) -> bool:
        """Remove content; False if there was none. Called with the lock held (`locked`)."""
        path = self.path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_error(error, path, "remove") from error
        return True

    def set_aside(self, digest: Digest, found: os.stat_result, cancel: Cancellation) -> bool:
        """Move damaged content to the quarantine, if it is still the file ``found``.

        False where it was replaced or removed meanwhile. It is done under the lock, so that
        no name can be given meanwhile to what relied on it. Raises `CancelledError`.
        """
        quarantine = self.ingest / "quarantine"
        make_directory(quarantine)
        path = self.path(digest)
        target = quarantine / f"{digest.algorithm}-{digest.hex}.{time.time_ns()}"
        with self._locked(cancel):
            if not is_at(found, str(path)):
                return False
            try:
                path.rename(target)
                os.utime(target)
            except OSError as error:
                raise disk_error(error, path, "move aside") from error
        return True

    # what belongs to others

    def companions(self) -> list[Companion]:
        """What belongs to some manifest, in the order of the index."""
        found = (companion_of(entry) for entry in _manifests(self._read(), self._index))
        return [one for one in found if one is not None]

    def set_companion(self, companion: Companion, cancel: Cancellation) -> None:
        """Keep an entry for ``companion``, once. Durable when it returns.

        The tag of one with a suffix is its place: what was there before goes.
        """
        self._sync_blobs()
        entry = belonging(companion)

        def change(entries: list[Any]) -> list[Any]:
            places = [n for n, one in enumerate(entries) if same_place(one, companion)]
            left = [one for one in entries if not same_place(one, companion)]
            left.insert(places[0] if places else len(left), entry)
            return left

        self.change(change, cancel)

    def remove_companions(self, gone: Callable[[Companion], bool], cancel: Cancellation) -> int:
        """Remove the entries for which ``gone`` is true; how many they were."""
        count = 0

        def change(entries: list[Any]) -> list[Any]:
            nonlocal count
            left = [one for one in entries if (c := companion_of(one)) is None or not gone(c)]
            count = len(entries) - len(left)
            return left

        self.change(change, cancel)
        return count

    def _sync_blobs(self) -> None:
        try:
            directories = [one.path for one in os.scandir(self._blobs) if one.is_dir()]
        except OSError as error:
            raise disk_error(error, self._blobs, "list") from error
        for directory in (str(self._blobs), *directories):
            sync_directory(directory)

    # the index file

    def _start(self) -> None:
        """Make what a layout needs; refuse a layout of another version."""
        if not (self._marker.exists() and self._index.exists()):
            with self._locked(Cancellation()):
                self._make()
        version = _load(self._marker).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise StoreError(f"{self._marker}: an image layout of version {version!r} is not known")

    def _make(self) -> None:
        """Make the files of a layout where they are missing. The lock is held."""
        if not self._marker.exists():
            replace_file(self._marker, _dump({"imageLayoutVersion": "1.0.0"}), self.ingest)
        if not self._index.exists():
            replace_file(self._index, _dump(_EMPTY), self.ingest)
            sync_directory(self.images)

    def _read(self) -> dict[str, Any]:
        """The index; a file that somebody removed names nothing."""
        try:
            return _load(self._index)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return _EMPTY
            raise

    @contextlib.contextmanager
    def _locked(self, cancel: Cancellation) -> Iterator[None]:
        """The index is this thread's alone. Raises `CancelledError`, whatever is waited for."""
        while not self._mutex.acquire(timeout=_LOOK):
            cancel.check()
        try:
            with file_lock(self.ingest / "index.lock", _LOCK_TIMEOUT, cancel):
                yield
        finally:
            self._mutex.release()

    def change(self, change: Callable[[list[Any]], list[Any]], cancel: Cancellation) -> None:
        """Replace the entries by what ``change`` makes of them, named or not. Called with the lock
        held. Durable when it returns. Raises `CancelledError`, and nothing has changed."""
        with self._locked(cancel):
            self._make()
            document = self._read()
            before = _manifests(document, self._index)
            after = change(list(before))
            if after != before:
                cancel.check()  # who gave up must not find it done
                replace_file(self._index, _dump({**document, "manifests": after}), self.ingest)
            sync_directory(self.images)  # also of one who was killed before he came to that


def _digests(
    algorithm: str, entries: Iterator[os.DirEntry[str]]
) -> Iterator[tuple[Digest, os.stat_result]]:
    for entry in entries:
        try:
            digest = Digest(algorithm=algorithm, hex=entry.name)
            if entry.is_file(follow_symlinks=False):
                yield digest, entry.stat(follow_symlinks=False)
        except (InvalidDigestError, FileNotFoundError):
            continue


def _manifests(document: dict[str, Any], path: Path) -> list[Any]:
    entries = document.get("manifests")
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise StoreError(f"{path} is damaged: 'manifests' is not a list")
    return entries


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise disk_error(error, path, "read") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    if not isinstance(document, dict):
        raise StoreError(f"{path} is damaged: it is not a JSON object")
    return document


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
