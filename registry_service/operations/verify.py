"""Verify: whether the store has what its names lead to, and whether it is what it should be."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    CancelledError,
    DigestMismatchError,
    DoesNotExistError,
    ManifestError,
    StoreError,
)
from ..manifest import Manifest
from ..observe import Observer
from ..reference import Reference
from ..store import Store
from .content import find, held, is_manifest, read_manifest

__all__ = ["GOOD", "Checked", "verify"]

#: The states that are nothing to worry about.
GOOD: Final = frozenset({"ok", "absent", "unreferenced"})

_THREADS: Final = 2
_AHEAD: Final = 8  # blobs that are handed to the threads at a time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One blob. ``state``:

    - ``ok``: it is what its digest says; ``unreferenced``: so it is, but no name leads to it;
    - ``damaged``: it is not; ``quarantined``: nor was it, and it was moved aside, so that the next
      pull fetches it;
    - ``unreadable``: the disk, or its permissions, did not let it be read;
    - ``missing``: it is not there; ``absent``: nor need it be: a platform that was not pulled, or
      content that comes from elsewhere.

    ``size`` is in bytes; ``reference`` is the first name that leads to it, or empty.
    """

    digest: str
    media_type: str
    size: int
    state: str
    reference: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    digest: Digest
    media_type: str
    size: int
    reference: str
    state: str  # if it is what it should be


def verify(
    store: Store,
    references: Sequence[Reference] = (),
    *,
    repair: bool = False,
    cancel: Cancellation,
    observer: Observer,
) -> Iterator[Checked]:
    """Read every blob of these images, or of the whole store, and tell each once.

    At most two blobs are read at a time. With ``repair``, what is damaged is moved aside.
    Progress is told as ``verifying``. Raises `StoreError` for an image that is not in the
    store, `CancelledError`.
    """
    plan = _Plan(store, cancel)
    named = (
        [(one, find(store, one)) for one in references]
        if references
        else sorted(held(store), key=lambda one: str(one[0]))
    )
    for reference, descriptor in named:
        plan.add(str(reference), descriptor)
    if not references:
        plan.add_others()
    yield from plan.missing()
    check = _Checker(store, repair, observer)
    yield from check.all(plan.items, cancel)


class _Plan:
    """What is to be read, each blob once. Holds some hundred bytes for each."""

    def __init__(self, store: Store, cancel: Cancellation) -> None:
        self.items: list[_Item] = []
        self._store = store
        self._cancel = cancel
        self._seen: set[Digest] = set()
        self._lacking: dict[Digest, _Item] = {}

    def add(self, reference: str, descriptor: Descriptor) -> None:
        """An image, with all that it leads to."""
        self._add(reference, descriptor, "missing")

    def add_others(self) -> None:
        """What no image of ours leads to: content of other tools' entries, and of nobody."""
        kept = self._store.upkeep.led_to()
        for digest, size in self._store.upkeep.blobs():
            self._cancel.check()
            if digest in self._seen:
                continue
            self.items.append(
                _Item(
                    digest=digest,
                    media_type=self._store.upkeep.media_type(digest),
                    size=size,
                    reference="",
                    state="ok" if digest in kept else "unreferenced",
                )
            )

    def missing(self) -> Iterator[Checked]:
        for item in self._lacking.values():
            yield _checked(item, item.state)

    def _add(self, reference: str, descriptor: Descriptor, lacking: str) -> None:
        waiting = [(descriptor, lacking)]
        while waiting:
            self._cancel.check()
            one, lacking = waiting.pop()
            here = self._store.has(one.digest)
            item = _Item(
                digest=one.digest,
                media_type=one.media_type,
                size=one.size,
                reference=reference,
                state="ok" if here else lacking,
            )
            if not here:
                known = self._lacking.get(one.digest)
                if known is None or known.state == "absent":  # one who needs it is enough
                    self._lacking[one.digest] = item
            elif one.digest not in self._seen:
                self._seen.add(one.digest)
                self.items.append(item)
                waiting.extend(self._children(one))

    def _children(self, descriptor: Descriptor) -> list[tuple[Descriptor, str]]:
        if not is_manifest(descriptor):
            return []
        try:
            manifest = read_manifest(self._store, descriptor)
        except (DigestMismatchError, DoesNotExistError, ManifestError, StoreError):
            return []  # it is told when it is read itself
        return [(child, self._lacking_state(manifest, child)) for child in manifest.children]

    def _lacking_state(self, manifest: Manifest, child: Descriptor) -> str:
        """What it means that ``child`` is not there. Of an index, what was not chosen is not
        pulled; but something of it was."""
        if manifest.is_index:
            chosen = any(self._store.has(one.digest) for one in manifest.children)
            return "absent" if chosen else "missing"
        return "absent" if child.urls else "missing"


class _Checker:
    """Reads blobs in two threads, which end with `all`."""

    def __init__(self, store: Store, repair: bool, observer: Observer) -> None:
        self._store = store
        self._repair = repair
        self._observer = observer

    def all(self, items: Sequence[_Item], cancel: Cancellation) -> Iterator[Checked]:
        """Each when it was read."""
        inner = Cancellation()
        waiting = iter(items)
        running: set[concurrent.futures.Future[Checked | None]] = set()
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="verify")
        try:
            with cancel.calling(inner.cancel):
                while True:
                    while len(running) < _AHEAD and (item := next(waiting, None)) is not None:
                        running.add(pool.submit(self._check, item, inner))
                    if not running:
                        return
                    done, running = concurrent.futures.wait(
                        running, return_when=concurrent.futures.FIRST_COMPLETED
                    )
                    for one in done:
                        found = one.result()
                        if found is not None:
                            yield found
        except CancelledError:
            cancel.check()
            raise
        finally:
            inner.cancel()
            pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, item: _Item, cancel: Cancellation) -> Checked | None:
        cancel.check()
        size = item.size if item.reference else None
        try:
            good = self._store.upkeep.intact(
                item.digest,
                size,
                repair=self._repair,
                cancel=cancel,
                told=self._teller(item),
            )
        except DoesNotExistError:  # swept, or moved aside, meanwhile
            return _checked(item, "missing") if item.reference else None
        except StoreError as error:  # of the others there is more to say
            self._observer.log("error", str(error), digest=str(item.digest))
            return _checked(item, "unreadable")
        if good:
            return _checked(item, item.state)
        aside = self._repair and not self._store.has(item.digest)
        return _checked(item, "quarantined" if aside else "damaged")

    def _teller(self, item: _Item) -> Callable[[int], object]:
        key = str(item.digest)
        return lambda done: self._observer.progress(key, "verifying", done, item.size)


def _checked(item: _Item, state: str) -> Checked:
    return Checked(
        digest=str(item.digest),
        media_type=item.media_type,
        size=item.size,
        state=state,
        reference=item.reference,
    )
