"""Servers that are left alone for a while because they do not answer: decisions only."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from ..errors import (
    ConnectionBrokenError,
    RegistryError,
    RegistryHTTPError,
    UnreachableRegistryError,
)

__all__ = ["Breakers"]


@dataclasses.dataclass(slots=True)
class _State:
    """``failures`` in a row; ``until`` when it is left alone; ``rests`` how often in a row it
    was; ``tried`` until when somebody tries it after that."""

    failures: int = 0
    rests: int = 0
    until: float = 0.0
    tried: float = 0.0


class Breakers:
    """Who answers and who does not, for all the jobs of a process; thread-safe.

    A server that cannot be reached is left alone at once, one that fails in another way after
    ``failures`` times in a row; first for ``first`` seconds, then for twice as long each time, up
    to ``most``. After that one request tries it, and the others wait for what comes of that, at
    most ``trial`` seconds. An answer, be it a refusal, makes it good again. ``clock`` gives
    seconds that never go back. One lock guards the table.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        first: float = 15.0,
        most: float = 300.0,
        trial: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._first = first
        self._most = most
        self._trial = trial
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, _State] = {}

    def closed_for(self, name: str) -> float:
        """Seconds for which ``name`` is still left alone; 0 where it may be asked. Where it is
        time to try it again, that is for whoever asks first."""
        with self._lock:
            state = self._states.get(name)
            if state is None or not state.until:
                return 0.0
            now = self._clock()
            if now < max(state.until, state.tried):
                return max(state.until, state.tried) - now
            state.tried = now + self._trial
            return 0.0

    def answered(self, name: str) -> None:
        """It did what it was asked, or said clearly that it does not."""
        with self._lock:
            self._states.pop(name, None)

    def failed(self, name: str, error: Exception) -> float:
        """It did not. Seconds for which it is left alone from now, 0 where it is not yet."""
        if not _dead(error):
            if isinstance(error, RegistryError) and error.code != "cancelled":
                self.answered(name)
            return 0.0
        asked = getattr(error, "retry_after", None) or 0.0
        with self._lock:
            state = self._states.setdefault(name, _State())
            state.failures += 1
            now = self._clock()
            sure = isinstance(error, UnreachableRegistryError) or asked > 0 or state.tried > now
            if not sure and state.failures < self._failures:
                return 0.0
            if now >= state.until:  # others that were under way do not count again
                rest = min(self._most, self._first * 2.0 ** min(state.rests, 16))
                state.rests += 1
                state.until = now + max(rest, min(asked, self._most))
            state.tried = 0.0
            return state.until - now


def _dead(error: Exception) -> bool:
    """Whether the error says that the server is not well, rather than that it refuses."""
    if isinstance(error, RegistryHTTPError):
        return error.http_status >= 500 or error.http_status == 429
    return isinstance(error, (ConnectionBrokenError, UnreachableRegistryError))
