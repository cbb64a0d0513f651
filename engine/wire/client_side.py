"""One session as its client sees it, without a socket and without a clock."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

from ..errors import ConnectionLostError, EngineError, ProtocolError
from ..records import End, Log, Progress, Record
from ..status import Status
from .limits import Limits
from .messages import (
    COSTLY,
    Accepted,
    Bye,
    Cancel,
    Credit,
    Detach,
    Drain,
    Error,
    Hello,
    Incoming,
    Message,
    Output,
    Ping,
    Pong,
    ProgressReport,
    Submit,
    Type,
    Unknown,
    Welcome,
)
from .peer import SHORTEST_HEARTBEAT, VERSIONS, Pulse, common_version
from .state import RECEIVE, SEND, Happening, Machine, Phase, StreamState, step

__all__ = [
    "AcceptedEvent",
    "Arrived",
    "ClientConnection",
    "Draining",
    "Event",
    "Failed",
    "Lost",
    "Progressed",
    "Ready",
    "RemoteError",
]

_MOST = 2**63 - 1
#: An ERROR that names neither request nor job ends the session, unless it has one of these.
_HARMLESS = frozenset({"unsupported", "limit"})


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

    def submit(self, submit: Submit) -> None:
        """Send a SUBMIT; its number is one that was not used before."""
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
        if common_version([welcome.version]) != welcome.version:
            raise ProtocolError("the engine chose a version that was not offered", code="version")
        if welcome.heartbeat < SHORTEST_HEARTBEAT:
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
