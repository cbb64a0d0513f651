"""The connections of both sides, without a socket and without a clock.

Messages and the time go in; messages to send gather in ``outgoing``, and what the owner must
act on comes back as events. Times are seconds of any one monotonic clock. An object of this
module belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TypeAlias

from ..errors import ConnectionLostError, EngineError, ProtocolError
from ..records import End, Log, Progress, Record
from ..status import Status
from .codec import MessageError
from .limits import Limits
from .messages import (
    COSTLY,
    Accepted,
    Ack,
    Attach,
    Bye,
    Cancel,
    Credit,
    Detach,
    Drain,
    Error,
    Hello,
    Input,
    Message,
    Output,
    Ping,
    Pong,
    ProgressReport,
    Submit,
    Supply,
    Type,
    Unknown,
    Welcome,
)
from .state import RECEIVE, SEND, Happening, Machine, Phase, StreamState, step

__all__ = [
    "FEATURES",
    "VERSIONS",
    "AcceptedEvent",
    "Arrived",
    "ClientConnection",
    "Draining",
    "Event",
    "Failed",
    "Incoming",
    "Lost",
    "Progressed",
    "Pulse",
    "Ready",
    "RemoteError",
    "ServerConnection",
    "Terms",
    "error_of",
]

#: The versions that this package speaks, the newest minor one of each major one.
VERSIONS: tuple[tuple[int, int], ...] = ((1, 0),)
#: What an engine of this package serves beside what every engine does.
FEATURES: tuple[str, ...] = ("submit", "credit", "cancel", "detach", "progress", "drain")

Incoming: TypeAlias = Message | Output | ProgressReport | Unknown
_MOST = 2**63 - 1
_LIMITS = Limits()
#: An ERROR that names neither request nor job ends the session, unless it has one of these.
_HARMLESS = frozenset({"unsupported", "limit"})
_SHORTEST = 0.01  # seconds; a heartbeat below it would be all that a peer does


class Pulse:
    """Decides when to ask the other side for a sign of life, and when it is dead.

    Any message is a sign. After ``interval`` seconds of silence a ping is due; the other side
    is dead when ``misses`` pings, an interval apart, had no answer. Pings are counted, not
    seconds, so that a process that was itself stopped does not bury everyone when it wakes.
    """

    __slots__ = ("_asked", "_next", "interval", "misses", "number")

    def __init__(self, interval: float, misses: int, now: float) -> None:
        self.interval = interval
        self.misses = misses
        self.number = 0
        self._asked = 0
        self._next = now + interval

    @property
    def due(self) -> float:
        """When `tick` has something to do, unless a sign comes first."""
        return self._next

    def heard(self, now: float) -> None:
        self._asked = 0
        self._next = now + self.interval

    def tick(self, now: float) -> Ping | None:
        """The ping that is due, if one is. Raises `ConnectionLostError` for a dead peer."""
        if now < self._next:
            return None
        if self._asked >= self.misses:
            silent = self._asked * self.interval
            raise ConnectionLostError(f"the other side was silent for {silent:g} seconds")
        self._asked += 1
        self.number += 1
        self._next = now + self.interval
        return Ping(number=self.number)


# the engine's side


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an engine offers: ``heartbeat`` in seconds, dead after ``misses`` of them;
    ``jobs`` is how many one session may follow at a time."""

    engine: str
    epoch: str
    limits: Limits = _LIMITS
    heartbeat: float = 10.0
    misses: int = 3
    jobs: int = 256
    features: tuple[str, ...] = FEATURES

    def __post_init__(self) -> None:
        if not _SHORTEST <= self.heartbeat <= 3600:
            raise ValueError(f"the heartbeat is from {_SHORTEST} to 3600 seconds")
        if self.misses < 1 or self.jobs < 1:
            raise ValueError("misses and jobs are at least 1")

    @property
    def lease(self) -> float:
        """After so many silent seconds a session ends."""
        return self.heartbeat * (self.misses + 1)


class _Allowance:
    """The credit of one stream, as its engine counts it: totals from the stream's beginning."""

    __slots__ = ("bytes", "messages", "sent_bytes", "sent_messages")

    def __init__(self, messages: int, size: int) -> None:
        self.messages = messages
        self.bytes = size
        self.sent_messages = 0
        self.sent_bytes = 0


class ServerConnection:
    """One session as the engine sees it.

    `feed` answers what the protocol itself answers, and returns the messages that the owner
    must act on: Submit, Cancel, Credit, Detach, Bye. Each Submit is answered through
    `accepted` or `refused`.
    """

    def __init__(self, terms: Terms, *, token: str, principal: str, now: float) -> None:
        self.terms = terms
        self.token = token
        self.principal = principal
        self.phase = Phase.NEW
        self.client = ""
        self.outgoing: list[Message] = []
        self._pulse = Pulse(terms.heartbeat, terms.misses, now)
        self._streams: dict[str, _Allowance] = {}

    @property
    def open(self) -> bool:
        return self.phase in (Phase.READY, Phase.DRAINING)

    @property
    def due(self) -> float:
        return self._pulse.due

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that this session follows."""
        return tuple(self._streams)

    def feed(self, message: Incoming, now: float) -> list[Message]:
        """Take a message in. Raises nothing: a breach is answered, and closes the session."""
        self._pulse.heard(now)
        if isinstance(message, Unknown):
            self._unsupported(f"type {message.code:#04x}", message.request, message.job)
            return []
        if isinstance(message, (Output, ProgressReport)):
            return self._breach(ProtocolError("output comes from the engine, not from a client"))
        if not self.open and not isinstance(message, Hello):
            self._send(
                Error(
                    code="no-session",
                    status=Status.TRY_AGAIN,
                    retryable=True,
                    message="there is no session of this connection; begin one with HELLO",
                )
            )
            return []
        try:
            self._step(RECEIVE[message.TYPE])
        except ProtocolError as error:
            return self._breach(error)
        return self._act(message)

    def bad(self, error: MessageError, now: float) -> list[Message]:
        """Take in what could not be read. Unless only its size was wrong, the session ends."""
        self._pulse.heard(now)
        if error.fatal:
            return self._breach(error)
        self._send(error_of(error, request=error.request, job=error.job))
        return []

    def _act(self, message: Message) -> list[Message]:
        match message:
            case Hello():
                self._greet(message)
            case Ping():
                self._send(Pong(number=message.number))
            case Pong():
                pass
            case Submit():
                return self._submit(message)
            case Credit():
                return [message] if self._grant(message) else []
            case Detach():
                return [message] if self._streams.pop(message.job, None) is not None else []
            case Attach() | Ack() | Input() | Supply():
                self._unsupported(message.TYPE.name, getattr(message, "request", None), message.job)
            case _:
                return [message]
        return []

    def _greet(self, hello: Hello) -> None:
        version = _common(hello.versions)
        if version is None:
            self._send(
                Error(
                    code="version",
                    message="no common version of the protocol",
                    versions=VERSIONS,
                )
            )
            self.phase = Phase.CLOSED
            return
        self.client = hello.client or ""
        self._send(
            Welcome(
                version=version,
                engine=self.terms.engine,
                epoch=self.terms.epoch,
                session=self.token,
                principal=self.principal,
                heartbeat=self.terms.heartbeat,
                lease=self.terms.lease,
                features=self.terms.features,
                limits={**self.terms.limits.to_map(), "jobs": self.terms.jobs},
            )
        )

    def _submit(self, message: Submit) -> list[Message]:
        if len(self._streams) >= self.terms.jobs:
            self._send(
                Error(
                    code="limit",
                    request=message.request,
                    retryable=True,
                    message=f"this session follows {self.terms.jobs} jobs, and no more are "
                    "allowed; wait for some to end",
                )
            )
            return []
        if message.credit_messages < 1 or message.credit_bytes < 1:
            error = ProtocolError("a SUBMIT gives a credit of at least one message and one byte")
            self.refused(message.request, error)
            return []
        return [message]

    def _grant(self, message: Credit) -> bool:
        allowance = self._streams.get(message.job)
        if allowance is None:  # it ended while the credit was on its way
            return False
        allowance.messages = max(allowance.messages, message.messages)
        allowance.bytes = max(allowance.bytes, message.bytes)
        return True

    # what the owner says

    def accepted(self, submit: Submit, job: str, *, existed: bool) -> bool:
        """Answer a Submit. False where this session follows that job already: then it is
        refused, since output that came twice could not be told apart."""
        if job in self._streams:
            self._send(
                Error(
                    code="following",
                    request=submit.request,
                    message=f"this session follows job {job} already",
                )
            )
            return False
        self._streams[job] = _Allowance(submit.credit_messages, submit.credit_bytes)
        self._send(Accepted(request=submit.request, job=job, existed=existed))
        return True

    def refused(self, request: int, error: EngineError) -> None:
        self._send(error_of(error, request=request))

    def failed(self, job: str, error: EngineError) -> None:
        """Answer a request about a job with an error."""
        self._send(error_of(error, job=job))

    def allowance(self, job: str) -> tuple[int, int]:
        """The messages and bytes of credit that are left (bytes below 0 when overdrawn)."""
        stream = self._streams.get(job)
        if stream is None:
            return (0, 0)
        return (stream.messages - stream.sent_messages, stream.bytes - stream.sent_bytes)

    def spent(self, job: str, messages: int, size: int) -> None:
        """Note that so much was sent that costs credit."""
        stream = self._streams.get(job)
        if stream is not None:
            stream.sent_messages += messages
            stream.sent_bytes += size

    def finished(self, job: str) -> None:
        """Note that the end of a job was sent."""
        self._streams.pop(job, None)

    def drain(self, reason: str, grace: float | None = None) -> None:
        if self.phase is Phase.READY:
            self._send(Drain(reason=reason, grace=grace))

    def close(self, error: EngineError | None = None) -> None:
        """End the session, saying why where there is a reason."""
        if self.phase is not Phase.CLOSED:
            if error is not None:
                self._send(error_of(error))
            self.phase = Phase.CLOSED

    def probe(self) -> None:
        """Ask for a sign of life out of turn."""
        if self.open:
            self._send(Ping())

    def tick(self, now: float) -> None:
        """Send the ping that is due. Raises `ConnectionLostError` when the client is dead."""
        ping = self._pulse.tick(now)
        if ping is not None and self.open:
            self._send(ping)

    # inner

    def _send(self, message: Message) -> None:
        if self.phase not in (Phase.NEW, Phase.CLOSED):
            self._step(SEND[message.TYPE])
        self.outgoing.append(message)

    def _step(self, happening: str) -> None:
        after = step(Machine.ENGINE, self.phase, happening)
        assert isinstance(after, Phase)
        self.phase = after

    def _breach(self, error: ProtocolError) -> list[Message]:
        self.close(error)
        return [Bye()]

    def _unsupported(self, what: str, request: int | None, job: str | None) -> None:
        self._send(
            Error(
                code="unsupported",
                request=request,
                job=job,
                message=f"{what} is not served by this engine",
            )
        )


def _common(versions: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The newest version that both sides speak."""
    ours = dict(VERSIONS)
    both = [(major, min(minor, ours[major])) for major, minor in versions if major in ours]
    return max(both, default=None)


def error_of(error: Exception, *, request: int | None = None, job: str | None = None) -> Error:
    """The ERROR that says ``error``: its code, status and whether a retry can help."""
    status = getattr(error, "status", Status.ERROR)
    first = getattr(error, "first", None)
    return Error(
        code=str(getattr(error, "code", "") or "error")[:256],
        status=int(status),
        retryable=bool(getattr(error, "retryable", False)),
        request=request,
        job=job,
        first=first if type(first) is int else None,
        message=str(error),
    )


# the client's side


class RemoteError(EngineError):
    """What an engine answered, with the code and the status that it gave."""

    def __init__(self, message: Error) -> None:
        super().__init__(
            message.message or message.code, code=message.code, retryable=message.retryable
        )
        try:
            self.status = Status(message.status)
        except ValueError:  # a status of a newer engine
            self.status = Status.ERROR


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The session is open."""

    welcome: Welcome


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedEvent:
    request: int
    job: str
    existed: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A record of a job; ``cost`` is the bytes of credit that it takes, 0 for a free one."""

    request: int
    record: Record
    cost: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    request: int
    items: tuple[Progress, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request came to nothing: refused, or lost with the connection."""

    request: int
    error: EngineError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    reason: str
    grace: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The connection is closed; every request has failed before."""

    error: EngineError


Event: TypeAlias = Ready | AcceptedEvent | Arrived | Progressed | Failed | Draining | Lost


class _Stream:
    """One job, from its SUBMIT to its end, as the client sees it."""

    __slots__ = ("bytes", "cancel", "granted", "job", "messages", "request", "seq", "state", "used")

    def __init__(self, submit: Submit) -> None:
        self.request = submit.request
        self.state = StreamState.SUBMITTED
        self.job = ""
        self.seq = 0
        self.messages = submit.credit_messages
        self.bytes = submit.credit_bytes
        self.granted = [submit.credit_messages, submit.credit_bytes]
        self.used = [0, 0]
        self.cancel: str | None = None

    def step(self, happening: str) -> None:
        after = step(Machine.STREAM, self.state, happening)
        assert isinstance(after, StreamState)
        self.state = after


class ClientConnection:
    """One session as its client sees it; requests are known by the numbers it gives them."""

    def __init__(self, *, client: str, now: float, features: tuple[str, ...] = ()) -> None:
        self.phase = Phase.NEW
        self.welcome: Welcome | None = None
        self.limits = Limits()
        self.outgoing: list[Message] = []
        self._client = client
        self._features = features
        self._pulse: Pulse | None = None
        self._over = False
        self._request = 0
        self._streams: dict[int, _Stream] = {}
        self._jobs: dict[str, _Stream] = {}

    @property
    def open(self) -> bool:
        return self.phase in (Phase.READY, Phase.DRAINING)

    @property
    def due(self) -> float | None:
        return None if self._pulse is None else self._pulse.due

    # requests

    def hello(self) -> None:
        self._send(Hello(versions=VERSIONS, features=self._features, client=self._client))

    def next_request(self) -> int:
        self._request += 1
        return self._request

    def submit(self, submit: Submit) -> None:
        """Send a SUBMIT, whose number is one of `next_request`."""
        self._send(submit)
        self._streams[submit.request] = _Stream(submit)

    def consumed(self, request: int, messages: int, size: int) -> None:
        """Grant as much credit again as the reader has used up since the last call."""
        stream = self._streams.get(request)
        if stream is None or stream.state is not StreamState.FOLLOWING:
            return
        stream.granted[0] = min(stream.granted[0] + messages, _MOST)
        stream.granted[1] = min(stream.granted[1] + size, _MOST)
        self._send(Credit(job=stream.job, messages=stream.granted[0], bytes=stream.granted[1]))

    def cancel(self, request: int, reason: str = "") -> None:
        stream = self._streams.get(request)
        if stream is None:
            return
        if stream.job:
            self._send(Cancel(job=stream.job, reason=reason))
        else:
            stream.cancel = reason

    def detach(self, request: int) -> None:
        """Follow a job no more; it goes on, unless it was cancelled."""
        stream = self._streams.get(request)
        if stream is None:
            return
        if stream.state is StreamState.SUBMITTED:
            stream.step(Happening.ABANDON)
        elif stream.state is StreamState.FOLLOWING:
            self._leave(stream)

    def bye(self) -> None:
        if self.open:
            self._send(Bye())
        self.phase = Phase.CLOSED
        self._over = True

    # what comes

    def feed(self, message: Incoming, now: float) -> list[Event]:
        """Take a message in. Raises nothing: a breach closes the connection, as an event."""
        if self._pulse is not None:
            self._pulse.heard(now)
        try:
            if isinstance(message, Output):
                return self._output(message)
            if isinstance(message, ProgressReport):
                return self._progress(message)
            if isinstance(message, Unknown):
                return []
            self._step(RECEIVE[message.TYPE])
            return self._act(message, now)
        except ProtocolError as error:
            return self.lost(error)

    def tick(self, now: float) -> list[Event]:
        """Send the ping that is due; a dead engine closes the connection."""
        if self._pulse is None or not self.open:
            return []
        try:
            ping = self._pulse.tick(now)
        except ConnectionLostError as error:
            return self.lost(error)
        if ping is not None:
            self._send(ping)
        return []

    def lost(self, error: EngineError) -> list[Event]:
        """The connection is no more: every request fails with ``error``."""
        if self._over:
            return []
        self._over = True
        self.phase = Phase.CLOSED
        events: list[Event] = []
        for stream in list(self._streams.values()):
            stream.step(Happening.LOST)
            events.append(Failed(request=stream.request, error=error))
        self._streams.clear()
        self._jobs.clear()
        events.append(Lost(error=error))
        return events

    def _act(self, message: Message, now: float) -> list[Event]:
        match message:
            case Welcome():
                return self._welcomed(message, now)
            case Accepted():
                return self._accepted(message)
            case Error():
                return self._error(message)
            case Drain():
                return [Draining(reason=message.reason, grace=message.grace)]
            case Ping():
                self._send(Pong(number=message.number))
        return []

    def _welcomed(self, welcome: Welcome, now: float) -> list[Event]:
        if _common([welcome.version]) != welcome.version:
            raise ProtocolError("the engine chose a version that was not offered", code="version")
        if welcome.heartbeat < _SHORTEST:
            raise ProtocolError("the engine announced a heartbeat of no time")
        self.welcome = welcome
        self.limits = Limits.from_map(welcome.limits)
        misses = max(1, round(welcome.lease / welcome.heartbeat) - 1)
        self._pulse = Pulse(welcome.heartbeat, misses, now)
        return [Ready(welcome=welcome)]

    def _accepted(self, message: Accepted) -> list[Event]:
        stream = self._streams.get(message.request)
        if stream is None:
            raise ProtocolError("the engine accepted a request that was not made")
        abandoned = stream.state is StreamState.ABANDONED
        stream.step(RECEIVE[Type.ACCEPTED])
        stream.job = message.job
        self._jobs[message.job] = stream
        if stream.cancel is not None:
            self._send(Cancel(job=message.job, reason=stream.cancel))
        if abandoned:
            self._leave(stream)
            return []
        return [AcceptedEvent(request=stream.request, job=message.job, existed=message.existed)]

    def _error(self, message: Error) -> list[Event]:
        error = RemoteError(message)
        if message.request is not None:
            stream = self._streams.get(message.request)
            if stream is None:
                return []
            stream.step(RECEIVE[Type.ERROR])
            if stream.state is StreamState.REFUSED:
                del self._streams[stream.request]
            return [Failed(request=stream.request, error=error)]
        if message.job is not None:
            return self._complaint(message)
        if message.code == "no-session":
            return self.lost(
                ConnectionLostError("the engine ended the session, or was started anew")
            )
        if self.open and message.code in _HARMLESS:
            return []
        return self.lost(error)

    def _complaint(self, message: Error) -> list[Event]:
        """An error about a job that is followed: its reader sees it as a log line."""
        stream = self._jobs.get(message.job or "")
        if stream is None or message.code == "no-job":  # it ended before a cancel arrived
            return []
        line = Log(level="warning", text=message.message, time=0.0, fields={"code": message.code})
        return [Arrived(request=stream.request, record=line, cost=0)]

    def _output(self, output: Output) -> list[Event]:
        stream = self._jobs.get(output.job)
        if stream is None:  # sent before the engine knew that nobody follows it any more
            if not self.open:
                raise ProtocolError("output before the session was open")
            return []
        if output.seq <= stream.seq:  # seen before
            return []
        if output.seq != stream.seq + 1:
            raise ProtocolError(
                f"output {stream.seq + 1} of job {output.job} is missing (got {output.seq})"
            )
        stream.seq = output.seq
        cost = 0
        if output.type in COSTLY:
            cost = output.size
            if stream.used[0] >= stream.granted[0] or stream.used[1] >= stream.granted[1]:
                raise ProtocolError(f"more output of job {output.job} than its credit allows")
            stream.used[0] += 1
            stream.used[1] += cost
        record = output.record
        if type(record) is End:
            stream.step(RECEIVE[Type.END])
            del self._jobs[output.job], self._streams[stream.request]
        if record is None:
            return []
        return [Arrived(request=stream.request, record=record, cost=cost)]

    def _progress(self, report: ProgressReport) -> list[Event]:
        stream = self._jobs.get(report.job)
        if stream is None or not report.items:
            return []
        return [Progressed(request=stream.request, items=report.items)]

    def _leave(self, stream: _Stream) -> None:
        stream.step(SEND[Type.DETACH])
        self._send(Detach(job=stream.job))
        del self._jobs[stream.job], self._streams[stream.request]

    def _send(self, message: Message) -> None:
        self._step(SEND[message.TYPE])
        self.outgoing.append(message)

    def _step(self, happening: str) -> None:
        after = step(Machine.CLIENT, self.phase, happening)
        assert isinstance(after, Phase)
        self.phase = after
