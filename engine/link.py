"""The client's end of a connection: a DEALER, its monitor, and the pure connection object.

Both clients drive one of these, each from the one thread that owns it at the time. Nothing
here waits, but for `connect`, which a thread that may wait calls before it hands the link on.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence

import zmq

from .endpoints import Endpoint, reach
from .errors import ConnectionLostError, EngineError, UnreachableError
from .following import refusal
from .frames import readable, receive_rest, send
from .version import __version__
from .wire.client_side import ClientConnection, Event, Lost, Ready
from .wire.codec import MessageError, decode, encode
from .wire.messages import Submit

__all__ = ["Link", "connect"]

_NEVER = 24 * 3600 * 1000  # milliseconds
_HANDSHAKE = 3000
_HEARTBEAT = 10_000
_LARGEST = 64 * 1024 * 1024  # a frame; what an engine may send is in its WELCOME
_TURN = 128  # messages taken in before whoever owns the link has another turn


class Link:
    """A connection from its first byte on. It is never connected anew: output under way would
    be lost in silence. A client that lost one makes another."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.conn = ClientConnection(client=f"engine-python {__version__}", now=time.monotonic())
        self._pending: deque[Sequence[bytes]] = deque()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        try:
            # With IMMEDIATE, or with no reconnecting at all, ZeroMQ drops what has arrived and
            # was not read yet when a connection ends. So it may reconnect, later than anyone
            # lives to see: the monitor tells of the end, and then the link is closed.
            self.socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
            self.socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE)
            self.socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT)
            self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 4 * _HEARTBEAT)
            self.socket.setsockopt(zmq.MAXMSGSIZE, _LARGEST)
            self.socket.setsockopt(zmq.LINGER, 1000)
            self.socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            self.socket.setsockopt(zmq.IPV6, 1 if endpoint.host.startswith("[") else 0)
            self.monitor: zmq.Socket[bytes] = self.socket.get_monitor_socket(
                zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            )
            self.socket.connect(str(endpoint))
        except BaseException:
            self.socket.close(linger=0)
            raise

    def receive(self) -> tuple[list[Event], bool]:
        """What has arrived, a turn of it, and whether there may be more. Answers are sent."""
        events: list[Event] = []
        more = True
        now = time.monotonic()
        for _ in range(_TURN):
            if not readable(self.socket):
                more = False
                break
            first = self.socket.recv(zmq.NOBLOCK)
            frames = receive_rest(self.socket, first, self.conn.limits.frames)
            try:
                events += self.conn.feed(decode(frames, self.conn.limits), now)
            except MessageError as error:
                events += self.conn.lost(error)
        if self.conn.outgoing or self._pending:  # looking may have shown that it can send now
            self.flush()
        return events, more

    def disconnected(self) -> list[Event]:
        """Whether the monitor tells of the connection's end: then all that had arrived, and
        the loss."""
        told = []
        while True:
            try:
                event, _ = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            told.append(int.from_bytes(event[:2], sys.byteorder))
        if not told:
            return []
        events: list[Event] = []
        more = True
        while more:
            arrived, more = self.receive()
            events += arrived
        silent = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL in told and not self.conn.open
        problem = "nobody answered" if silent else "the engine closed the connection"
        return events + self.conn.lost(ConnectionLostError(problem))

    def submit(self, message: Submit, frames: Sequence[bytes]) -> None:
        """Submit a job, in frames that were made and checked before."""
        self.conn.submit(message)
        self.conn.outgoing.pop()
        self.flush()
        self._pending.append(frames)
        self.flush()

    def flush(self) -> bool:
        """Send what the connection has to say; False while the socket takes no more."""
        if self.conn.outgoing:
            outgoing, self.conn.outgoing = self.conn.outgoing, []
            self._pending.extend(map(encode, outgoing))
        while self._pending:
            try:
                send(self.socket, self._pending[0])
            except zmq.Again:
                return False
            self._pending.popleft()
        return True

    @property
    def attention(self) -> bool:
        """Whether there is something to receive, or room for what waits to be sent. Asking
        takes the descriptor's signal away, so that who relies on it must ask last."""
        wanted = zmq.POLLIN | zmq.POLLOUT if self._pending else zmq.POLLIN
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & wanted)

    def tick(self) -> list[Event]:
        """Pings that are due, and the end of a dead engine."""
        events = self.conn.tick(time.monotonic())
        self.flush()
        return events

    def close(self) -> None:
        """Say good-bye and close the sockets; what was sent has a second to leave, where there
        is still somebody to read it."""
        leaving = self.conn.open
        self.conn.bye()
        leaving = leaving and self.flush()
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=1000 if leaving else 0)


def connect(context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, timeout: float) -> Link:
    """A link with an open session, within ``timeout`` seconds.

    Raises `UnreachableError` where no engine answers, or what the engine answered.
    """
    deadline = time.monotonic() + timeout
    reach(endpoint, timeout)
    link = Link(context, endpoint)
    try:
        link.conn.hello()
        poller = zmq.Poller()
        poller.register(link.monitor, zmq.POLLIN)
        while not link.conn.open:
            wanted = zmq.POLLIN if link.flush() else zmq.POLLIN | zmq.POLLOUT
            poller.register(link.socket, wanted)
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(max(1, round(left * 1000))):
                raise UnreachableError(
                    f"something listens at {endpoint}, and no engine answered within "
                    f"{timeout:g} s; is engined running there?"
                )
            check(link.receive()[0] + link.disconnected(), endpoint)
        return link
    except BaseException:
        link.close()
        raise


def check(events: Sequence[Event], endpoint: Endpoint) -> bool:
    """Whether the handshake is done. Raises what ended it."""
    for event in events:
        if isinstance(event, Lost):
            raise unreachable(event.error, endpoint)
    return any(isinstance(event, Ready) for event in events)


def unreachable(error: EngineError, endpoint: Endpoint) -> EngineError:
    """A handshake's failure, for who wanted to connect."""
    if isinstance(error, ConnectionLostError):
        return UnreachableError(f"the connection ended in the handshake: {error} ({endpoint})")
    return refusal(error)
