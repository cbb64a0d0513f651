"""The connections of a server, by their descriptors: how many, and which have said who they are.

ZeroMQ accepts whoever connects, tells of it through a monitor, and keeps a connection for as long
as its other end does. It knows no bound and no time for the first message, and aborts the process
that has no descriptor left. So the server counts what the monitors tell, and shuts down what is
over the bound or does not greet in time; ZeroMQ then closes it as if its client had gone. It may
accept some before that is done: descriptors have to be left for these.

Owned by the thread that reads the monitors.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

__all__ = ["Connections", "shut_down"]


class Connections:
    """At most ``most`` connections, of which each has ``patience`` seconds to greet."""

    def __init__(self, most: int, patience: float) -> None:
        self.most = most
        self._patience = patience
        self._strangers: dict[int, float] = {}  # descriptor to the time at which it must be known
        self._known: set[int] = set()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def accepted(self, descriptor: int, now: float) -> bool:
        """Note a new connection. False where it is one too many, and is to be shut down."""
        self.ended(descriptor)  # an earlier one of the same number
        if len(self) >= self.most:
            return False
        self._strangers[descriptor] = now + self._patience
        return True

    def greeted(self, descriptor: int) -> None:
        """The connection has said who it is."""
        if self._strangers.pop(descriptor, None) is not None:
            self._known.add(descriptor)

    def parted(self, descriptor: int, now: float) -> None:
        """Its session has ended: it may greet anew, or go."""
        if descriptor in self._known:
            self._known.discard(descriptor)
            self._strangers[descriptor] = now + self._patience

    def ended(self, descriptor: int) -> None:
        self._strangers.pop(descriptor, None)
        self._known.discard(descriptor)

    def overdue(self, now: float) -> list[int]:
        """Those that have been silent for too long, each named once."""
        late = [descriptor for descriptor, until in self._strangers.items() if until <= now]
        for descriptor in late:
            del self._strangers[descriptor]
        return late


def shut_down(descriptor: int, addresses: Iterable[object]) -> bool:
    """Shut down the socket behind ``descriptor``, which is ZeroMQ's own; whether it was one of
    these local addresses.

    A descriptor may have been closed, and given to another file, since the monitor told of it:
    so the file is looked at through a duplicate, which cannot change its meaning any more.
    """
    try:
        duplicate = os.dup(descriptor)
    except OSError:
        return False
    try:
        found = socket.socket(fileno=duplicate)
    except OSError:  # not a socket
        os.close(duplicate)
        return False
    with found, contextlib.suppress(OSError):
        if _local(found) in addresses:
            found.shutdown(socket.SHUT_RDWR)
            return True
    return False


def _local(found: socket.socket) -> object:
    """The path of a Unix socket, the port of another one."""
    name = found.getsockname()
    return name if found.family == socket.AF_UNIX else name[1]
