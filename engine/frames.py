"""Multipart messages on a socket, without waiting.

For the thread that owns the socket. What `zmq.Socket.send_multipart` does besides costs as
much as the sending; here every part is known to be bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

__all__ = ["readable", "receive_rest", "send"]

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.SNDMORE) | _NOBLOCK
_EVENTS, _POLLIN, _RCVMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message is there. Asking costs a third of what `zmq.Again` does."""
    return bool(int(socket.getsockopt(_EVENTS)) & _POLLIN)


def send(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> None:
    """Send all parts, or raise `zmq.Again` (no room) or another `zmq.ZMQError`."""
    last = len(parts) - 1
    for place, part in enumerate(parts):
        socket.send(part, _MORE if place < last else _NOBLOCK)


def receive_rest(socket: zmq.Socket[bytes], first: bytes, most: int) -> list[bytes]:
    """The parts of a message whose first one was received; of too many, one over ``most``."""
    parts = [first]
    while socket.getsockopt(_RCVMORE):
        part = socket.recv()
        if len(parts) <= most:
            parts.append(part)
    return parts
