"""Configurations that follow each other: a job keeps the one with which it began."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ..hostrules import HostTable
from .call import Shared

__all__ = ["Generations"]


class Generations:
    """What jobs share, by the configuration that was in force when they began; thread-safe.

    One lock guards which is in force and how many jobs run with each; nothing waits while it is
    held. An older one lets go of its connections when its last job has ended, but ends nothing: a
    transfer that others have joined goes on with what its first taker brought.
    """

    def __init__(self, first: Shared) -> None:
        self._lock = threading.Lock()
        self._current = first
        self._jobs: dict[Shared, int] = {}

    @contextlib.contextmanager
    def use(self) -> Iterator[Shared]:
        """What is in force now, for one job, to its end."""
        with self._lock:
            shared = self._current
            self._jobs[shared] = self._jobs.get(shared, 0) + 1
        try:
            yield shared
        finally:
            with self._lock:
                self._jobs[shared] -= 1
                over = not self._jobs[shared]
                if over:
                    del self._jobs[shared]
                over = over and shared is not self._current
            if over:
                shared.registries.retire()

    def renew(self, hosts: HostTable) -> None:
        """Let ``hosts`` hold for the jobs that begin from now on. What is the same as before
        changes nothing. For one thread at a time."""
        before = self._current
        if before.registries.settings.hosts == hosts:
            return
        made = before.renewed(hosts)
        made.registries.prepare()
        with self._lock:
            self._current = made
            over = before not in self._jobs
        if over:
            before.registries.retire()

    def close(self) -> None:
        """End the transfers and the connections, of older configurations too."""
        with self._lock:
            current, older = self._current, [one for one in self._jobs if one is not self._current]
        current.close()
        for one in older:
            one.registries.close()
