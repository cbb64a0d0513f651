"""The sweep: content that no name leads to is removed, while others go on working.

Why nothing is lost to which a name leads, now or a moment later:

1. Content is removed only under the lock of ``index.json``, in short turns, and only what no entry
   of the index leads to at that moment: the index is read again in each turn.
2. A name is given only under the same lock, and only when all that the operation relies on is there
   at that moment (`Layout.set_entry`). Who finds something missing fetches it again and asks again.

   So of a removal and a naming one comes first. After the naming, the content is led to, and stays;
   after the removal, the naming notices.
3. That alone is safe; so that nothing is fetched twice either, what running operations have
   fetched or read is pinned (`leases`), and what is young is left alone: other tools write
   their blobs first and then the index, and know nothing of our locks.

Whenever it is interrupted, what is left is content without a name, which the next sweep takes.
An entry of the index goes before the content that only it leads to.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from ..cancel import Cancellation
from ..digest import Digest
from .disk import disk_error, is_at, sweep, try_lock
from .entries import subject_of
from .layout import Layout
from .leases import pinned
from .marks import Document, Marks

__all__ = ["Swept", "collect", "sweep_partials"]

_TURN: Final = 0.05  # seconds for which others wait for the lock at most
_PAUSE: Final = 0.02  # seconds between two turns, in which who waits for the lock gets it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Content that no name leads to. ``state`` is ``removed``; ``removable`` where nothing was to
    be removed; ``kept`` for what is young, or relied on by something that runs. ``size`` is in
    bytes; ``media_type`` is what the content says of itself, or empty."""

    digest: Digest
    media_type: str
    size: int
    state: str


def collect(
    layout: Layout,
    *,
    grace: float,
    dry_run: bool,
    cancel: Cancellation,
    only: Collection[Digest] | None = None,
) -> Iterator[Swept]:
    """Remove the content that no name leads to, and give each blob when that is done.

    What was written within the last ``grace`` seconds stays. With ``only``, nothing but what
    these led to is looked at.

    Raises `StoreError`, code ``damaged``, before anything is removed where a document to which a
    name leads cannot be read; `CancelledError`.
    """
    run = _Sweep(layout, grace, dry_run)
    waiting = run.candidates(cancel, only)
    while waiting:
        cancel.check()
        yield from run.turn(waiting, cancel)
        if waiting:
            cancel.wait(_PAUSE)
    if not dry_run:
        run.forget_orphans(cancel)


class _Sweep:
    def __init__(self, layout: Layout, grace: float, dry_run: bool) -> None:
        self._layout = layout
        self._grace = grace
        self._dry_run = dry_run
        self._marks = Marks(layout)
        self._pins: set[Digest] = set()

    def candidates(
        self, cancel: Cancellation, only: Collection[Digest] | None
    ) -> collections.deque[Digest]:
        """What no name seems to lead to; each turn looks again."""
        # The pins before the index: what is pinned no more by then is in the index.
        self._pins = pinned(self._layout.ingest)
        self._marks.add_entries(self._layout.raw_entries(), self._alive)
        here = []
        for digest, _ in self._layout.blobs():
            cancel.check()
            here.append(digest)
            self._marks.look_for_referrers((digest,))
        wanted = None
        if only is not None:
            gone = Marks(self._layout, strict=False)
            gone.look_for_referrers(here)
            gone.add(*only)
            wanted = gone.marked
        return collections.deque(
            digest
            for digest in here
            if digest not in self._marks.marked and (wanted is None or digest in wanted)
        )

    def turn(self, waiting: collections.deque[Digest], cancel: Cancellation) -> list[Swept]:
        """Remove some of what waits, under the lock."""
        done = []
        until = time.monotonic() + _TURN
        with self._layout.locked(cancel) as entries:
            self._pins = pinned(self._layout.ingest)
            self._marks.add_entries(entries, self._alive)
            self._marks.look_again()
            while waiting:
                swept = self._take(waiting.popleft())
                if swept is not None:
                    done.append(swept)
                if time.monotonic() >= until:
                    break
        return done

    def forget_orphans(self, cancel: Cancellation) -> None:
        """Remove the entries of what belonged to content that is gone."""

        def orphan(entry: Any) -> bool:
            subject = subject_of(entry)
            return subject is not None and not (
                subject in self._marks.marked
                or subject in self._pins
                or self._layout.size(subject) is not None
            )

        def change(entries: list[Any]) -> list[Any]:
            self._pins = pinned(self._layout.ingest)
            return [entry for entry in entries if not orphan(entry)]

        self._layout.change(change, cancel)

    def _take(self, digest: Digest) -> Swept | None:
        if digest in self._marks.marked:
            return None
        found = self._stat(digest)
        if found is None:
            return None
        document = Document.parse(self._marks.peek(digest))
        media_type = "" if document is None else document.media_type
        state = "removable" if self._dry_run else "removed"
        if digest in self._pins or self._young(found):
            state = "kept"
        elif not self._dry_run:
            self._layout.remove(digest)
        return Swept(digest=digest, media_type=media_type, size=found.st_size, state=state)

    def _alive(self, subject: Digest) -> bool:
        """Whether what belongs to ``subject`` stays, though no name leads to it (yet)."""
        if subject in self._pins:
            return True
        found = self._stat(subject)
        return found is not None and self._young(found)

    def _stat(self, digest: Digest) -> os.stat_result | None:
        try:
            return self._layout.path(digest).stat()
        except OSError:
            return None

    def _young(self, found: os.stat_result) -> bool:
        return time.time() - found.st_mtime < self._grace


def sweep_partials(layout: Layout, age: float, *, dry_run: bool) -> tuple[int, int]:
    """Remove what transfers left and nobody took up for ``age`` seconds, quarantined content of
    that age, and forgotten temporary files; how many files that were, and their bytes.

    A partial file that somebody has open is locked, and stays.
    """
    count = size = 0
    now = time.time()
    aside = layout.ingest / "quarantine"
    for path in (*layout.ingest.glob("*.partial"), *aside.glob("*")):
        try:
            found = path.lstat()
            old = stat.S_ISREG(found.st_mode) and now - found.st_mtime >= age
            if old and _remove_unlocked(path, dry_run):
                count += 1
                size += found.st_size
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(error, path, "remove") from error
    if not dry_run:
        sweep(layout.ingest)
    return count, size


def _remove_unlocked(path: Path, dry_run: bool) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not try_lock(fd, path) or not is_at(os.fstat(fd), str(path)):
            return False
        if not dry_run:
            path.unlink()
    finally:
        os.close(fd)
    return True
