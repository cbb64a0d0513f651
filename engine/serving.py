"""The sessions of a server: what its I/O thread does with messages and with jobs' output.

The thread ``engine-io`` owns everything here, and never waits: a client that does not read
has its messages held in its own bounded outbox, and what it follows waits in the jobs' logs.
The threads of handlers only ever tell it that a log has grown.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from .connections import Connections, shut_down
from .dispatch import Dispatcher, Submission, Task
from .errors import ConnectionLostError, EngineError, LimitError, NotAllowedError, TableError
from .frames import readable, receive_rest, send
from .listening import Listener, descriptor_of, principal_of
from .loop import Loop, Timer
from .output import Reader
from .records import End
from .status import State, Status
from .wire.codec import (
    PROGRESS_ITEMS,
    MessageError,
    decode,
    encode,
    encode_progress,
    encode_record,
)
from .wire.engine_side import ServerConnection, Terms
from .wire.limits import Limits
from .wire.messages import Bye, Cancel, Credit, Detach, Hello, Incoming, Message, Submit

__all__ = ["ServerSettings", "Sessions"]

_log = logging.getLogger("engine.server")

_TURN = 64  # messages taken from a socket, or sent of one job, before others have their turn
_TURN_BYTES = 1024 * 1024
_FIRST_RETRY, _LAST_RETRY = 0.002, 0.1  # seconds between attempts at a full pipe
_COMPLAINT = 1.0  # seconds between two lines on connections that were refused
_LAST_WORDS = 0.02  # seconds from a connection's end to its session's
_EVENT = struct.Struct("=Hi")  # what a monitor tells: the event and a value, here a descriptor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server treats its clients. Times in seconds.

    ``open_tcp`` allows ports that anyone can use. ``handshake`` is what a new connection has
    to say what it is. ``sessions`` bounds the clients,
    ``jobs_per_session`` what one of them may follow at a time. ``send_queue`` is the messages
    that ZeroMQ holds for a client, ``outbox`` the bytes that are held beyond these before the
    session is ended. ``authorise`` is asked with the principal and the job's name.
    """

    open_tcp: bool = False
    heartbeat: float = 10.0
    misses: int = 3
    handshake: float = 3.0
    linger: float = 2.0
    limits: Limits = dataclasses.field(default_factory=Limits)
    sessions: int = 1000
    jobs_per_session: int = 256
    send_queue: int = 256
    outbox: int = 8 * 1024 * 1024
    authorise: Callable[[str, str], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("sessions", "jobs_per_session", "send_queue", "outbox", "misses"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        if self.handshake <= 0 or not 0 <= self.linger <= 60:
            raise ValueError("handshake is above 0, linger from 0 to 60 seconds")

    @property
    def connections(self) -> int:
        """How many connections there may be: those of the sessions, and some that are still to
        greet, or are on their way out."""
        return self.sessions + 64


class _Follower:
    """One job's reader for one session. Owned by the I/O thread."""

    __slots__ = ("closed", "held", "job", "reader", "session", "timer")

    def __init__(self, session: _Session, job: str) -> None:
        self.session = session
        self.job = job
        self.reader: Reader | None = None
        self.timer: Timer | None = None
        self.held = False  # waits for the session's outbox
        self.closed = False


class _Session:
    """One client. Owned by the I/O thread."""

    __slots__ = ("bound", "conn", "descriptor", "followers", "listener", "outbox", "outbox_size",
                 "retry", "retry_timer", "rid")  # fmt: skip

    def __init__(
        self, listener: Listener, rid: bytes, conn: ServerConnection, descriptor: int | None
    ) -> None:
        self.listener = listener
        self.rid = rid
        self.descriptor = descriptor
        self.conn = conn
        self.outbox: deque[Sequence[bytes]] = deque()
        self.outbox_size = 0
        self.retry = _FIRST_RETRY
        self.retry_timer: Timer | None = None
        self.followers: dict[str, _Follower] = {}
        self.bound: dict[str, Task] = {}  # what dies with the session


class Sessions:
    """Every client of a server. All methods belong to the loop's thread, but for ``len``."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: ServerSettings,
        terms: Terms,
        loop: Loop,
        *,
        monitors: Sequence[zmq.Socket[bytes]],
        addresses: frozenset[object],
    ) -> None:
        self.settings = settings
        self.connections = Connections(settings.connections, settings.handshake)
        self.quiet = threading.Event()  # after `begin_close`: nothing is left to be sent
        self._dispatcher = dispatcher
        self._terms = terms
        self._loop = loop
        self._monitors = monitors
        self._addresses = addresses
        self._sessions: dict[tuple[str, bytes], _Session] = {}
        self._descriptors: dict[int, _Session] = {}
        self._draining: tuple[str, float | None] | None = None
        self._closing = False
        self._refused = 0  # connections, since that was said last
        self._complained = -_COMPLAINT
        loop.at(time.monotonic() + self._tick_seconds, self._tick)

    def __len__(self) -> int:
        return len(self._sessions)

    # receiving

    def readable(self, listener: Listener) -> None:
        socket = listener.socket
        for _ in range(_TURN):
            if not readable(socket):
                return
            rid = socket.recv(zmq.NOBLOCK)
            session = self._sessions.get((listener.endpoint, rid))
            if session is None:
                self._stranger(listener, rid)
                continue
            frames = receive_rest(socket, socket.recv(), self.settings.limits.frames)
            try:
                self._take(session, frames)
            except Exception:
                self._fault(session)

    def _stranger(self, listener: Listener, rid: bytes) -> None:
        """A message of a connection that has no session: a HELLO, or too late."""
        socket = listener.socket
        frame = socket.recv(copy=False)
        frames = receive_rest(socket, frame.bytes, self.settings.limits.frames)
        self.told()  # of the end of an earlier connection that had the same descriptor
        descriptor = descriptor_of(frame)
        try:
            principal = principal_of(frame)
            if rid[:1] != b"\0":  # a chosen one could be taken for another client's
                raise NotAllowedError("a client chooses no routing id of its own")
            if len(self._sessions) >= self.settings.sessions:
                raise LimitError(
                    f"{len(self._sessions)} clients are connected, and no more are allowed",
                    retryable=True,
                )
            refusal: EngineError | None = None
        except (NotAllowedError, LimitError) as error:
            principal, refusal = "nobody", error
        now = time.monotonic()
        conn = ServerConnection(
            self._terms, token=secrets.token_hex(16), principal=principal, now=now
        )
        session = _Session(listener, rid, conn, descriptor)
        if refusal is not None:
            conn.close(refusal)
        else:
            self._feed(conn, frames, now)
        if conn.open:
            self._sessions[listener.endpoint, rid] = session
            if descriptor is not None:
                self._descriptors[descriptor] = session
                self.connections.greeted(descriptor)
            if self._draining is not None:
                conn.drain(*self._draining)
        self._deliver(session)

    def _feed(self, conn: ServerConnection, frames: Sequence[bytes], now: float) -> list[Message]:
        try:
            message: Incoming = decode(frames, self.settings.limits)
        except MessageError as error:
            return conn.bad(error, now)
        if isinstance(message, Hello) and self._closing:
            return []
        return conn.feed(message, now)

    def _take(self, session: _Session, frames: Sequence[bytes]) -> None:
        for message in self._feed(session.conn, frames, time.monotonic()):
            match message:
                case Submit():
                    self._submit(session, message)
                case Credit():
                    follower = session.followers.get(message.job)
                    if follower is not None:
                        self._pump(follower)
                case Cancel():
                    self._cancel(session, message)
                case Detach():
                    self._unfollow(session, message.job)
                case Bye():
                    self._deliver(session)
                    self._end(session, "")
        self._deliver(session)
        if session.outbox:  # it is alive: perhaps it reads now
            self._flush(session)

    def _submit(self, session: _Session, message: Submit) -> None:
        conn = session.conn
        try:
            task, existed = self._accept(conn.principal, message)
        except EngineError as error:
            conn.refused(message.request, error)
            return
        except Exception:
            _log.exception("a submission of %s failed", message.name)
            problem = "the engine failed to take the job; its log says where"
            conn.refused(message.request, EngineError(problem, code="internal"))
            return
        if not message.detach and not existed:
            self._bind(session, task)
        self._follow(session, task, message, existed)

    def _accept(self, principal: str, message: Submit) -> tuple[Task, bool]:
        authorise = self.settings.authorise
        if authorise is not None and not authorise(principal, message.name):
            raise NotAllowedError(f"{principal} may not run {message.name} here")
        submission = Submission(
            name=message.name,
            args=message.args,
            env=message.env,
            principal=principal,
            key=message.key or "",
            deadline=message.deadline,
            priority=message.priority,
            detach=message.detach,
            single_rows=message.single_rows,
        )
        task = self._dispatcher.submit(submission)
        return task, task.submission is not submission

    def _follow(self, session: _Session, task: Task, message: Submit, existed: bool) -> None:
        follower = _Follower(session, task.id)
        try:
            reader = task.log.attach(lambda: self._poke(follower))
        except EngineError as error:  # the beginning is kept no more
            session.conn.refused(message.request, error)
            return
        if not session.conn.accepted(message, task.id, existed=existed):
            reader.close()
            return
        follower.reader = reader
        session.followers[task.id] = follower
        self._deliver(session)
        self._pump(follower)

    def _bind(self, session: _Session, task: Task) -> None:
        if len(session.bound) > 2 * self.settings.jobs_per_session:
            for job in [job for job, one in session.bound.items() if one.state.ended]:
                del session.bound[job]
        session.bound[task.id] = task

    def _cancel(self, session: _Session, message: Cancel) -> None:
        task = self._dispatcher.get(message.job)
        if task is None or task.state.ended:
            error = EngineError(f"no job {message.job} is in flight", code="no-job")
            session.conn.failed(message.job, error)
        elif task.principal != session.conn.principal:
            error = NotAllowedError(f"job {message.job} belongs to another principal")
            session.conn.failed(message.job, error)
        else:
            self._dispatcher.cancel(message.job, reason=message.reason[:1000])

    # sending

    def _poke(self, follower: _Follower) -> None:
        """Any thread: the log of a follower's job has grown."""
        self._loop.call(self._pump, follower)

    def _pump(self, follower: _Follower) -> None:
        """Send what the reader has and the credit allows, one turn of it."""
        try:
            self._pump_turn(follower)
        except TableError:
            self._unsendable(follower)
        except Exception:
            self._fault(follower.session)

    def _pump_turn(self, follower: _Follower) -> None:
        reader, session = follower.reader, follower.session
        if follower.closed or reader is None:
            return
        if session.outbox:
            follower.held = True
            return
        follower.held = False
        conn, job = session.conn, follower.job
        while True:
            messages, size = conn.allowance(job)
            entries = reader.take(messages=min(messages, _TURN), size=min(size, _TURN_BYTES))
            costly = [entry.size for entry in entries if not entry.free]
            conn.spent(job, len(costly), sum(costly))
            for entry in entries:
                if entry.frames is None:
                    raise TypeError("the dispatcher of a server needs an encoder")
                self._send(session, entry.frames)
            if reader.exhausted:
                conn.finished(job)
                self._unfollow(session, job)
                return
            progress = reader.progress()
            for start in range(0, len(progress), PROGRESS_ITEMS):
                items = progress[start : start + PROGRESS_ITEMS]
                self._send(session, encode_progress(job, items))
            if job not in session.followers:  # the session ended while it was sent to
                return
            if session.outbox:
                follower.held = True
                return
            if costly:  # there may be more; but others first
                self._poke(follower)
                return
            if not progress:
                break
        self._schedule(follower, reader.due)

    def _schedule(self, follower: _Follower, due: float | None) -> None:
        timer = follower.timer
        if due is None or (timer is not None and timer.call is not None and timer.when <= due):
            return
        if timer is not None:
            timer.cancel()

        def fire() -> None:
            follower.timer = None
            self._pump(follower)

        follower.timer = self._loop.at(due, fire)

    def _deliver(self, session: _Session) -> None:
        """Send what the connection has to say."""
        outgoing = session.conn.outgoing
        if outgoing:
            session.conn.outgoing = []
            for message in outgoing:
                self._send(session, encode(message))

    def _send(self, session: _Session, frames: Sequence[bytes]) -> None:
        if not session.outbox:
            try:
                send(session.listener.socket, (session.rid, *frames))
                return
            except zmq.Again:
                pass
            except zmq.ZMQError as error:
                self._unreachable(session, error)
                return
        session.outbox.append(frames)
        session.outbox_size += sum(map(len, frames))
        if session.outbox_size > self.settings.outbox:
            self._end(session, "it does not read what it asked for")
        elif session.retry_timer is None:
            self._retry_later(session)

    def _retry_later(self, session: _Session) -> None:
        when = time.monotonic() + session.retry
        session.retry = min(session.retry * 2, _LAST_RETRY)
        session.retry_timer = self._loop.at(when, lambda: self._flush(session))

    def _flush(self, session: _Session) -> None:
        """Try again to send what a full pipe held up."""
        if session.retry_timer is not None:
            session.retry_timer.cancel()
            session.retry_timer = None
        while session.outbox:
            frames = session.outbox[0]
            try:
                send(session.listener.socket, (session.rid, *frames))
            except zmq.Again:
                self._retry_later(session)
                return
            except zmq.ZMQError as error:
                self._unreachable(session, error)
                return
            session.outbox.popleft()
            session.outbox_size -= sum(map(len, frames))
        session.retry = _FIRST_RETRY
        for follower in tuple(session.followers.values()):
            if follower.held:
                self._poke(follower)
        if self._closing:
            self._check_quiet()

    # endings

    def _unreachable(self, session: _Session, error: zmq.ZMQError) -> None:
        if error.errno != zmq.EHOSTUNREACH:
            _log.error("sending to a client failed: %s", error)
        self._end(session, "its client is gone")

    def _fault(self, session: _Session) -> None:
        """A fault of ours: its client must not wait for what will not come."""
        _log.exception("serving a client of %s failed", session.conn.principal)
        problem = "the engine failed to serve this session; its log says where"
        session.conn.close(EngineError(problem, code="internal"))
        self._deliver(session)
        self._end(session, "the engine failed to serve it")

    def _unsendable(self, follower: _Follower) -> None:
        """A job emitted what has no form on the wire: its stream has its end here, and the
        other streams of the session have not."""
        _log.exception("the output of job %s cannot be sent", follower.job)
        assert follower.reader is not None  # who has none sends nothing
        end = End(
            state=State.FAILED,
            status=Status.ERROR,
            code="internal",
            message="the engine failed to send the job's output; its log says where",
            ended=time.time(),
        )
        self._send(follower.session, encode_record(follower.job, follower.reader.taken + 1, end))
        follower.session.conn.finished(follower.job)
        self._unfollow(follower.session, follower.job)
        self._dispatcher.cancel(follower.job, reason="the job's output cannot be sent")

    def _unfollow(self, session: _Session, job: str) -> None:
        follower = session.followers.pop(job, None)
        if follower is None:
            return
        follower.closed = True
        if follower.timer is not None:
            follower.timer.cancel()
        if follower.reader is not None:
            follower.reader.close()
        if self._closing:
            self._check_quiet()

    def _end(self, session: _Session, reason: str) -> None:
        """Free everything that a session has; what was to die with it is cancelled."""
        if self._sessions.pop((session.listener.endpoint, session.rid), None) is None:
            return
        if reason:
            _log.info("a session of %s ended: %s", session.conn.principal, reason)
        session.conn.close()
        if session.retry_timer is not None:
            session.retry_timer.cancel()
        session.outbox.clear()
        session.outbox_size = 0
        descriptor = session.descriptor
        if descriptor is not None and self._descriptors.get(descriptor) is session:
            del self._descriptors[descriptor]
            self.connections.parted(descriptor, time.monotonic())
        for job in tuple(session.followers):
            self._unfollow(session, job)
        for task in session.bound.values():
            if not task.state.ended:
                self._dispatcher.cancel(task.id, reason="the client of the job went away")

    # time

    @property
    def _tick_seconds(self) -> float:
        return min(1.0, self.settings.heartbeat / 4, self.settings.handshake / 2)

    def _tick(self) -> None:
        """Pings that are due, and sessions that are dead."""
        now = time.monotonic()
        self._loop.at(now + self._tick_seconds, self._tick)
        self._hurry(now)
        for session in tuple(self._sessions.values()):
            if session.conn.due > now:
                continue
            try:
                session.conn.tick(now)
            except ConnectionLostError as error:
                self._end(session, str(error))
            else:
                self._deliver(session)

    def told(self) -> None:
        """Take in what the monitors tell: who connected, and whose connection ended."""
        for monitor in self._monitors:
            while True:
                try:
                    event, _ = monitor.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                kind, descriptor = _EVENT.unpack(event)
                if kind == zmq.EVENT_ACCEPTED:
                    self._connected(descriptor)
                else:
                    self._disconnected(descriptor)

    def _connected(self, descriptor: int) -> None:
        now = time.monotonic()
        if self.connections.accepted(descriptor, now):
            return
        shut_down(descriptor, self._addresses)
        self._refused += 1
        if now >= self._complained + _COMPLAINT:  # a rush of them must not flood the log
            _log.warning(
                "%d refused: there are %d connections", self._refused, len(self.connections)
            )
            self._refused, self._complained = 0, now

    def _disconnected(self, descriptor: int) -> None:
        self.connections.ended(descriptor)
        session = self._descriptors.pop(descriptor, None)
        if session is not None:  # what it said last may not be read yet
            when = time.monotonic() + _LAST_WORDS
            self._loop.at(when, lambda: self._end(session, "its client is gone"))

    def _hurry(self, now: float) -> None:
        """Shut down the connections that have been silent for too long."""
        for descriptor in self.connections.overdue(now):
            _log.info("a connection was ended: it did not say what it is in time")
            shut_down(descriptor, self._addresses)

    # the end

    def drain(self, reason: str, grace: float | None) -> None:
        self._draining = (reason, grace)
        for session in tuple(self._sessions.values()):
            session.conn.drain(reason, grace)
            self._deliver(session)

    def begin_close(self) -> None:
        self._closing = True
        for session in tuple(self._sessions.values()):
            for follower in tuple(session.followers.values()):
                self._pump(follower)
        self._check_quiet()

    def _check_quiet(self) -> None:
        """Whether nothing is left that could still be sent."""
        for session in self._sessions.values():
            if session.outbox or any(map(self._ending, session.followers)):
                return
        self.quiet.set()

    def _ending(self, job: str) -> bool:
        task = self._dispatcher.get(job)
        return task is None or task.state.ended

    def end_all(self) -> None:
        for session in tuple(self._sessions.values()):
            self._end(session, "")
