"""Names to addresses, without a caller ever being stuck in the system's resolver."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from ..cancel import Cancellation
from ..errors import UnreachableRegistryError

__all__ = ["Address", "Resolver"]

# family, socket address
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class _Lookup:
    """One look-up that is under way, and what came of it. ``takers`` are set at its end;
    they and ``done`` are guarded by the resolver's lock."""

    def __init__(self) -> None:
        self.done = False
        self.takers: set[threading.Event] = set()
        self.addresses: list[Address] = []
        self.error: OSError | None = None


class Resolver:
    """Resolves names in threads of its own, for the system's resolver cannot be interrupted.

    Those who ask for the same name at the same time share one look-up, so that at most one
    thread for each name waits for a dead name server. A thread ends with its look-up, which
    the system's resolver bounds. One lock guards the table of look-ups.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}

    def resolve(
        self, host: str, port: int, *, cancel: Cancellation, timeout: float
    ) -> list[Address]:
        """The addresses of ``host`` in the order in which to try them.

        Raises `CancelledError` and `UnreachableRegistryError`.
        """
        with contextlib.suppress(OSError, UnicodeError):
            return _addresses(host, port, socket.AI_NUMERICHOST)
        wake = threading.Event()
        lookup = self._join(host, port, wake)
        try:
            with cancel.calling(wake.set):
                wake.wait(timeout)
        finally:
            with self._lock:
                lookup.takers.discard(wake)
                done = lookup.done
        cancel.check()
        if not done:
            raise UnreachableRegistryError(
                f"{host}: the name was not resolved within {timeout:g} s", host=host
            )
        if lookup.error is not None:
            again = lookup.error.errno == socket.EAI_AGAIN
            error = UnreachableRegistryError(
                f"{host}: the name cannot be resolved ({lookup.error.strerror})", host=host
            )
            error.retryable = again
            raise error
        return lookup.addresses

    def _join(self, host: str, port: int, wake: threading.Event) -> _Lookup:
        with self._lock:
            lookup = self._running.get((host, port))
            if lookup is not None:
                lookup.takers.add(wake)
                return lookup
            lookup = self._running[host, port] = _Lookup()
            lookup.takers.add(wake)
        threading.Thread(
            target=self._run, args=(lookup, host, port), name=f"resolve-{host}", daemon=True
        ).start()
        return lookup

    def _run(self, lookup: _Lookup, host: str, port: int) -> None:
        try:
            lookup.addresses = _addresses(host, port, 0)
        except OSError as error:
            lookup.error = error
        except UnicodeError as error:  # a label that is too long or empty
            lookup.error = socket.gaierror(socket.EAI_NONAME, str(error))
        finally:
            with self._lock:
                self._running.pop((host, port), None)
                lookup.done = True
                takers = list(lookup.takers)
            for taker in takers:
                taker.set()


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))
