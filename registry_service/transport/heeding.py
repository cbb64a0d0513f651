"""To send, and to heed an answer that says no meanwhile.

What is sent in chunks has no other end than the last of them: a server that has refused it, and
leaves the rest unread, would be waited for until it is given up.
"""

from __future__ import annotations

import re
import select
import socket
import time
from typing import Final

__all__ = ["AnsweredError", "send"]

_PEEKED: Final = 4096  # bytes
_SLICE: Final = 0.2  # seconds between looks at an answer that has begun, and says nothing yet
_INTERIM: Final = rb"HTTP/1\.[01] 1[0-9]{2}[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n"
_REFUSED: Final = re.compile(rb"(?:" + _INTERIM + rb")*HTTP/1\.[01] [345][0-9]{2}")


class AnsweredError(Exception):
    """The server has refused what is being sent."""


def send(sock: socket.socket, data: bytes, timeout: float) -> None:
    """Send all of ``data`` on a socket without TLS, under which nobody can see what has come.

    Raises `AnsweredError` as soon as an answer says no, `TimeoutError` where the server takes
    nothing for ``timeout`` seconds, and OSError.
    """
    rest = memoryview(data)
    both, out = _poll(sock, select.POLLIN | select.POLLOUT), _poll(sock, select.POLLOUT)
    begun = False  # an answer that is no refusal so far, or the end of what the server sends
    until = time.monotonic() + timeout
    while rest:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        ready = out.poll(1000 * min(left, _SLICE)) if begun else both.poll(1000 * left)
        events = ready[0][1] if ready else 0
        if begun or events & select.POLLIN:
            begun = _look(sock)
        if events & ~select.POLLIN:  # also where it is broken: then this says how
            rest = rest[sock.send(rest) :]
            until = time.monotonic() + timeout


def _look(sock: socket.socket) -> bool:
    """Look at what has come. Whether it is the beginning of an answer, or the end."""
    try:
        start = sock.recv(_PEEKED, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    if _REFUSED.match(start):
        raise AnsweredError
    return True


def _poll(sock: socket.socket, events: int) -> select.poll:
    poll = select.poll()
    poll.register(sock, events)
    return poll
