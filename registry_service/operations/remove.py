"""Remove and gc: names go from the store, and what no name leads to any more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import InvalidReferenceError, StoreError
from ..observe import Observer
from ..reference import Reference
from ..store import Store, Swept

__all__ = ["PARTIAL_AGE", "Removed", "gc", "remove"]

#: After how many seconds what an interrupted transfer left is given up.
PARTIAL_AGE: Final = 7 * 86400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A name that was removed (``untagged``); or, ``reference`` being empty, content that went
    with it, the state as `Swept` has it."""

    reference: str
    digest: str
    state: str


def remove(
    store: Store,
    references: Sequence[Reference],
    *,
    prune: bool = False,
    cancel: Cancellation,
) -> Iterator[Removed]:
    """Remove the names of these images, all or, where one is not in the store, none.

    A digest without a tag removes every name of its repository that stands for it. The content
    stays until `gc`; with ``prune``, what only these names led to goes at once.

    Raises `StoreError`, code ``not-in-store``, `CancelledError`.
    """
    gone: dict[str, Descriptor] = {}

    def choose(names: list[tuple[str, Descriptor]]) -> set[str]:
        gone.clear()
        for reference in references:
            gone.update(_meant(reference, names))
        return set(gone)

    store.upkeep.remove_names(choose, cancel=cancel)
    for name, descriptor in sorted(gone.items()):
        yield Removed(reference=name, digest=str(descriptor.digest), state="untagged")
    if prune:
        roots = {descriptor.digest for descriptor in gone.values()}
        for swept in store.upkeep.collect(only=roots, cancel=cancel):
            yield Removed(reference="", digest=str(swept.digest), state=swept.state)


def _meant(reference: Reference, names: Sequence[tuple[str, Descriptor]]) -> dict[str, Descriptor]:
    """The names that ``reference`` asks to remove. Raises `StoreError` where there is none."""
    exact = {name: found for name, found in names if name == str(reference)}
    if reference.digest is not None:
        for name, found in names:
            known = _parsed(name)
            if known is None or known.name != reference.name or found.digest != reference.digest:
                continue
            if reference.tag in (None, known.tag):
                exact[name] = found
    if not exact:
        raise StoreError(
            f"the store has no image {reference}, and nothing was removed; 'images' lists what "
            "there is",
            code="not-in-store",
        )
    return exact


def _parsed(name: str) -> Reference | None:
    try:
        return Reference.parse(name, default_tag=None)
    except InvalidReferenceError:
        return None


def gc(
    store: Store,
    *,
    grace: float,
    dry_run: bool = False,
    partial_age: float = PARTIAL_AGE,
    cancel: Cancellation,
    observer: Observer,
) -> Iterator[Swept]:
    """Remove what no name leads to, and what interrupted transfers left long ago.

    ``grace`` and ``partial_age`` are in seconds. Raises `StoreError`, `CancelledError`.
    """
    yield from store.upkeep.collect(grace=grace, dry_run=dry_run, cancel=cancel)
    cancel.check()
    count, size = store.upkeep.sweep_partials(partial_age, dry_run=dry_run)
    if count:
        what = "would be removed" if dry_run else "were removed"
        observer.log("info", f"{count} files of transfers that nobody took up {what}, {size} bytes")
