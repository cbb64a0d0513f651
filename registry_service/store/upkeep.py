"""Keeping the store in order: names that go, content that nobody names, content that is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from io import BufferedReader
from typing import Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import HASHABLE, Digest
from .disk import disk_error
from .layerbook import LayerBook
from .layout import Layout
from .marks import Document, Marks
from .origins import Origins
from .sweep import Swept, collect, sweep_partials

__all__ = ["Upkeep"]

_PIECE: Final = 1024 * 1024


class Upkeep:
    """What keeps a store in order. Thread-safe; each method raises `StoreError`."""

    def __init__(self, layout: Layout, origins: Origins, layers: LayerBook) -> None:
        self._layout = layout
        self._origins = origins
        self._layers = layers

    def remove_names(
        self,
        choose: Callable[[list[tuple[str, Descriptor]]], Collection[str]],
        *,
        cancel: Cancellation | None = None,
    ) -> None:
        """Let the names that ``choose`` picks of all stand for nothing; the content stays.

        Nothing is given a name meanwhile. Where ``choose`` raises, nothing is changed. Raises
        `CancelledError`, when nothing has changed either.
        """
        self._layout.remove_entries(choose, cancel or Cancellation())

    def collect(
        self,
        *,
        grace: float = 0.0,
        dry_run: bool = False,
        only: Collection[Digest] | None = None,
        cancel: Cancellation | None = None,
    ) -> Iterator[Swept]:
        """Remove content that no name leads to; see `sweep.collect`."""
        yield from collect(
            self._layout,
            grace=grace,
            dry_run=dry_run,
            only=only,
            cancel=cancel or Cancellation(),
        )
        if not dry_run and only is None:
            self._origins.tidy(self._has)
            self._layers.tidy(self._has)

    def _has(self, digest: Digest) -> bool:
        return self._layout.size(digest) is not None

    def sweep_partials(self, age: float, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove what nobody took up for ``age`` seconds; see `sweep.sweep_partials`."""
        return sweep_partials(self._layout, age, dry_run=dry_run)

    def led_to(self) -> set[Digest]:
        """All content that names lead to, there or not, as far as it can be read."""
        marks = Marks(self._layout, strict=False)
        marks.add_entries(self._layout.raw_entries(), lambda subject: False)
        marks.look_for_referrers(digest for digest, _ in self._layout.blobs())
        return marks.marked

    def below(self, digest: Digest) -> set[Digest]:
        """That content, and what it leads to, there or not."""
        marks = Marks(self._layout, strict=False)
        marks.add(digest)
        return marks.marked

    def blobs(self) -> Iterator[tuple[Digest, int]]:
        """All content and its size in bytes, in no order."""
        return ((digest, found.st_size) for digest, found in self._layout.blobs())

    def media_type(self, digest: Digest) -> str:
        """What the content says of itself, or empty."""
        document = Document.parse(Marks(self._layout, strict=False).peek(digest))
        return "" if document is None else document.media_type

    def intact(
        self,
        digest: Digest,
        size: int | None = None,
        *,
        repair: bool = False,
        cancel: Cancellation,
        told: Callable[[int], object] = lambda done: None,
    ) -> bool:
        """Whether the content is what its digest says, and of ``size`` bytes if that is given;
        ``told`` hears how many bytes were read. Of digests that cannot be verified, the size
        counts. With ``repair``, what is not what its digest says is moved aside.

        Raises `DoesNotExistError`, `CancelledError`.
        """
        with self._layout.open(digest) as file:
            found = os.fstat(file.fileno())
            good = self._matches(file, digest, found.st_size, cancel, told)
        if not good and repair:
            self._layout.set_aside(digest, found, cancel)
        return good and size in (None, found.st_size)

    def _matches(
        self,
        file: BufferedReader,
        digest: Digest,
        size: int,
        cancel: Cancellation,
        told: Callable[[int], object],
    ) -> bool:
        if digest.algorithm not in HASHABLE:
            return True
        hasher = digest.hasher()
        buffer = memoryview(bytearray(min(size + 1, _PIECE)))
        done = 0
        try:
            while count := file.readinto(buffer):
                cancel.check()
                hasher.update(buffer[:count])
                done += count
                told(done)
        except OSError as error:
            raise disk_error(error, self._layout.path(digest), "read") from error
        return digest.matches(hasher)
