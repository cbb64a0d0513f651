"""What is known of each registry: learned from its answers, and used for the next requests.

A registry does not say what it can do; it shows. Whoever talks to one notes what it saw, so that
what a registry refuses is not tried again for each blob, and so that people can look.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Capabilities", "CapabilityTable"]

_MOST = 1000  # registries that are remembered


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a registry has shown so far; None where it has not come up.

    ``host`` is ``host[:port]``. ``api`` is ``v1`` or ``v2``, ``server`` what it calls its
    version, ``scheme`` http or https, ``auth`` basic, bearer or none; of V1 token for an index, and
    empty where its ping did not tell. ``ranges``: parts of blobs
    are served; ``mounts``: blobs are taken over from other repositories; ``referrers``: their API
    is served; ``deletes``: manifests can be deleted; ``chunks``: uploads in several parts are
    taken. ``chunk_limit`` is the largest part of an upload that it was seen to take where it
    refused a larger one, in bytes. ``rate_limit`` and ``rate_remaining`` are what it said of its
    quota. ``seen`` is the time of its last answer, in seconds since the epoch.
    """

    host: str
    api: str = ""
    server: str = ""
    scheme: str = ""
    auth: str = ""
    ranges: bool | None = None
    mounts: bool | None = None
    referrers: bool | None = None
    deletes: bool | None = None
    chunks: bool | None = None
    chunk_limit: int | None = None
    rate_limit: int | None = None
    rate_remaining: int | None = None
    seen: float = 0.0


class CapabilityTable:
    """The registries of a process; thread-safe, by one lock. ``clock`` gives seconds since
    the epoch. Of too many registries the one that was heard of least lately is forgotten."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, Capabilities] = {}

    def of(self, host: str) -> Capabilities:
        """What is known of ``host``, which may be nothing."""
        with self._lock:
            return self._known.get(host) or Capabilities(host=host)

    def learn(self, host: str, **shown: Any) -> None:
        """``host`` has shown this: fields of `Capabilities`."""
        with self._lock:
            known = self._known.pop(host, None) or Capabilities(host=host)
            self._known[host] = dataclasses.replace(known, seen=self._clock(), **shown)
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]

    def all(self) -> list[Capabilities]:
        """Every registry that is known, by host."""
        with self._lock:
            return sorted(self._known.values(), key=lambda one: one.host)
