"""Telling systemd how the daemon is: the datagrams of sd_notify(3).

A daemon that systemd did not start has no ``NOTIFY_SOCKET``, and nothing is sent.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier", "watchdog_seconds"]


class Notifier:
    """Sends to one address: a path, or an abstract name that begins with ``@``."""

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notifier:
        return cls(environ.get("NOTIFY_SOCKET", ""))

    def alive(self) -> None:
        """Said by a thread that must not wait; one that is lost has another before long."""
        self._send("WATCHDOG=1", wait=0)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, state: str, *, wait: float = 1.0) -> None:
        if not self._address:
            return
        # a notice that cannot be sent is no reason to stop: systemd's own timeout tells of it
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(wait)
            sock.sendto(state.encode(), self._address)


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """How often the process ``pid`` has to say that it is alive, twice in the time that the
    manager waits (sd_watchdog_enabled); None where nobody waits for it."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    micros = environ.get("WATCHDOG_USEC", "")
    if not (micros.isascii() and micros.isdigit()) or int(micros) == 0:
        return None
    return int(micros) / 2_000_000
