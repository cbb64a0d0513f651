"""The log of requests, for tests to look at and to wait for."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["LoggedRequest", "RequestLog"]

_KEPT: Final = 100_000
_SHOWN: Final = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRequest:
    """One request, as far as it has come.

    It is in the log from before the first byte of its answer is sent, so a client that has an
    answer finds its request; ``done`` says that the numbers are final.

    - ``status``: None when no answer was given.
    - ``received``, ``sent``: bytes of the bodies, without framing and headers.
    - ``user``: empty for nobody known. ``scheme``: of the Authorization header, or empty.
    - ``range``: the Range header, or empty.
    - ``headers``: lower-case names; what Authorization and Cookie said is left out.
    - ``faults``: the kinds that struck. ``complete``: the whole answer was sent.
    """

    number: int
    connection: int
    method: str
    path: str
    query: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, str]
    scheme: str
    range: str
    user: str
    status: int | None
    received: int
    sent: int
    faults: tuple[str, ...]
    complete: bool
    done: bool

    def __str__(self) -> str:
        parts = [self.method, self.path, str(self.status or "-")]
        parts += [f"in={self.received}", f"out={self.sent}"]
        if self.user:
            parts.append(f"user={self.user}")
        if self.range:
            parts.append(self.range)
        if self.faults:
            parts.append(f"faults={','.join(self.faults)}")
        if not self.complete:
            parts.append("incomplete" if self.done else "under way")
        return " ".join(parts)


class RequestLog:
    """The last 100,000 requests, in the order in which their answers began. Thread-safe.

    One condition guards the table. ``on_done`` is called, outside of it, with each request that
    has ended, in its connection's thread.
    """

    def __init__(self, on_done: Callable[[LoggedRequest], object] | None = None) -> None:
        self._changed = threading.Condition()
        self._entries: collections.OrderedDict[int, LoggedRequest] = collections.OrderedDict()
        self._on_done = on_done
        self._number = 0
        self._cleared = 0

    def number(self) -> int:
        """A number for a request that has come in."""
        with self._changed:
            self._number += 1
            return self._number

    def record(self, entry: LoggedRequest) -> None:
        """Add a request, or put what is known now in place of what was."""
        with self._changed:
            if entry.number > self._cleared:
                self._entries[entry.number] = entry
            while len(self._entries) > _KEPT:
                self._entries.popitem(last=False)
            self._changed.notify_all()
        if entry.done and self._on_done is not None:
            self._on_done(entry)

    def entries(self) -> list[LoggedRequest]:
        with self._changed:
            return list(self._entries.values())

    def clear(self) -> None:
        """Forget every request that has come in, also those that are under way."""
        with self._changed:
            self._entries.clear()
            self._cleared = self._number

    def wait_for(
        self, predicate: Callable[[list[LoggedRequest]], object], timeout: float
    ) -> list[LoggedRequest]:
        """Wait until ``predicate`` of the log is true, and return the log.

        Raises TimeoutError after ``timeout`` seconds, with the end of the log.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                entries = list(self._entries.values())
                if predicate(entries):
                    return entries
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        shown = "\n".join(f"  {entry}" for entry in entries[-_SHOWN:]) or "  none"
        raise TimeoutError(f"not seen within {timeout} s; the last requests:\n{shown}")
