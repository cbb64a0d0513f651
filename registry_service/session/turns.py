"""Turns: who changes one thing at a registry, when several jobs of a process would."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator

from ..cancel import Cancellation

__all__ = ["Turns"]


class Turns:
    """One holder for each key at a time; thread-safe.

    The condition guards the set of keys that are held. It is held for moments only: requests
    are sent by who has the turn, outside it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._held: set[Hashable] = set()

    @contextlib.contextmanager
    def hold(self, key: Hashable, cancel: Cancellation) -> Iterator[None]:
        """Hold ``key`` for as long as the block runs. Raises `CancelledError`."""
        with cancel.calling(self._wake), self._changed:
            while key in self._held:
                cancel.check()
                self._changed.wait()
            cancel.check()
            self._held.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(key)
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
