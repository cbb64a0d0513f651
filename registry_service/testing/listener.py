"""Accepting connections, and ending them all.

The accept thread owns the listening socket; each connection's thread owns its socket. One lock
guards the table of connections. All threads have ended when `Listener.close` returns.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from typing import Final

from .connection import Connection, Services

__all__ = ["Listener"]

_BACKLOG: Final = 128
_END: Final = 10.0
# The pause after a failed accept, when the process has no file descriptor left, say.
_PAUSE: Final = 0.1


class Listener:
    """Serves the connections that arrive at a bound socket, each in a thread."""

    def __init__(self, sock: socket.socket, services: Services) -> None:
        self._sock = sock
        self._services = services
        self._lock = threading.Lock()
        self._served: dict[int, tuple[Connection, threading.Thread]] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="registry-accept", daemon=True)

    def start(self) -> None:
        self._sock.listen(_BACKLOG)
        self._sock.setblocking(False)
        self._thread.start()

    def close(self, grace: float) -> None:
        """Accept no more; let requests under way end within ``grace`` seconds; end the rest.

        Sets ``draining`` first, and ``stopping`` once the grace is over. Raises RuntimeError if
        a thread does not end.
        """
        self._services.draining.set()
        self._wake.send(b"x")
        self._thread.join()
        self._sock.close()
        self._wake.close()
        self._woken.close()
        with self._lock:
            served = list(self._served.values())
        for connection, _ in served:
            if connection.idle:
                connection.interrupt()
        self._join([thread for _, thread in served], grace)
        self._services.stopping.set()
        self._services.holds.close()
        for connection, _ in served:
            connection.interrupt()
        alive = self._join([thread for _, thread in served], _END)
        if alive:
            raise RuntimeError(f"{alive} connections of the registry did not end within {_END} s")

    def _accept(self) -> None:
        number = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._services.draining.is_set():
                selector.select()
                if self._services.draining.is_set():
                    return
                try:
                    sock, _ = self._sock.accept()
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError:
                    self._services.draining.wait(_PAUSE)
                    continue
                number += 1
                self._serve(sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        connection = Connection(sock, number, self._services)
        thread = threading.Thread(
            target=connection.run, name=f"registry-connection-{number}", daemon=True
        )
        with self._lock:
            ended = [key for key, (_, one) in self._served.items() if not one.is_alive()]
            for key in ended:
                del self._served[key]
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._served[number] = (connection, thread)
                return
        # No thread could be started: the peer is told by the closed connection.
        sock.close()

    @staticmethod
    def _join(threads: list[threading.Thread], timeout: float) -> int:
        """Wait for threads to end. How many have not."""
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)
