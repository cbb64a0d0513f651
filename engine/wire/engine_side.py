"""One session as the engine sees it, without a socket and without a clock."""

from __future__ import annotations

import dataclasses

from ..errors import EngineError, ProtocolError
from ..status import Status
from .codec import MessageError
from .limits import Limits
from .messages import (
    Accepted,
    Ack,
    Attach,
    Bye,
    Credit,
    Detach,
    Drain,
    Error,
    Hello,
    Incoming,
    Input,
    Message,
    Output,
    Ping,
    Pong,
    ProgressReport,
    Submit,
    Supply,
    Unknown,
    Welcome,
)
from .peer import SHORTEST_HEARTBEAT, VERSIONS, Pulse, common_version, error_of
from .state import RECEIVE, SEND, Machine, Phase, step

__all__ = ["FEATURES", "ServerConnection", "Terms"]

#: What an engine of this package serves beside what every engine does.
FEATURES: tuple[str, ...] = ("submit", "credit", "cancel", "detach", "progress", "drain")
_LIMITS = Limits()


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
        if not SHORTEST_HEARTBEAT <= self.heartbeat <= 3600:
            raise ValueError(f"the heartbeat is from {SHORTEST_HEARTBEAT} to 3600 seconds")
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
                    status=int(Status.TRY_AGAIN),
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
        version = common_version(hello.versions)
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
