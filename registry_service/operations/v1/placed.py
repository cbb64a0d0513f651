"""Which repository of a registry got a blob, from where another one there may mount it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from ...digest import Digest

__all__ = ["Placed"]

_MOST: Final = 20_000


class Placed:
    """What the copies of a process put where; thread-safe, by one lock. Of too many, the one that
    was of use least lately is forgotten.

    Whether somebody may mount a blob from a repository that another one has put it into, the
    registry says.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, Digest], str] = OrderedDict()

    def find(self, host: str, digest: Digest) -> str | None:
        """A repository of the registry at ``host`` that got the blob."""
        with self._lock:
            found = self._known.get((host, digest))
            if found is not None:
                self._known.move_to_end((host, digest))
        return found

    def record(self, host: str, repository: str, digest: Digest) -> None:
        with self._lock:
            self._known.setdefault((host, digest), repository)
            self._known.move_to_end((host, digest))
            while len(self._known) > _MOST:
                self._known.popitem(last=False)

    def forget(self, host: str, digest: Digest) -> None:
        """It cannot be mounted from where it was put."""
        with self._lock:
            self._known.pop((host, digest), None)
