"""Everything the engine raises.

::

    EngineError                 the root: code, status, retryable
    ├── UsageError              wrong arguments or environment (2); carries the usage line
    │   └── EnvError            an environment value that is not what was asked for; names the key
    ├── TableError              cells that do not fit their columns
    ├── DuplicateJobError       a second handler of the same name
    ├── UnknownJobError         no such job (127)
    ├── NotAllowedError         not allowed here (126)
    ├── ConflictError           the same idempotency key with other work
    ├── GapError                output that was asked for is kept no more
    ├── LimitError              over a limit that the engine announced
    ├── CancelledError          the job was cancelled (130)
    ├── DeadlineError           the job's deadline passed (124)
    ├── NeedError               the client could not or would not supply what a job needs
    ├── ShuttingDownError       the engine takes no new jobs (75)
    ├── ConnectionLostError     the connection ended while a job was followed (75)
    ├── UnreachableError        no daemon answers at the endpoint (69)
    ├── ProtocolError           the peer broke the wire protocol
    ├── ConfigError             a configuration file or value that cannot be used
    ├── InstallError            a service could not install itself
    └── JobFailedError          a job followed by a client ended otherwise than well

A handler may raise any exception that has the three attributes ``code`` (str), ``status``
(int) and ``retryable`` (bool): they reach the client as they are. No error of this package
carries a secret in its text.
"""

from __future__ import annotations

from .status import Status

__all__ = [
    "CancelledError",
    "ConfigError",
    "ConflictError",
    "ConnectionLostError",
    "DeadlineError",
    "DuplicateJobError",
    "EngineError",
    "EnvError",
    "GapError",
    "InstallError",
    "JobFailedError",
    "LimitError",
    "NeedError",
    "NotAllowedError",
    "ProtocolError",
    "ShuttingDownError",
    "TableError",
    "UnknownJobError",
    "UnreachableError",
    "UsageError",
]


class EngineError(Exception):
    """The root. ``code`` is a stable word, ``status`` an exit status, ``retryable`` a hint."""

    code = "error"
    status = Status.ERROR
    retryable = False

    def __init__(
        self, message: str, *, code: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class UsageError(EngineError):
    """Wrong arguments or environment. ``usage`` is the job's usage line, or empty."""

    code = "usage"
    status = Status.USAGE

    def __init__(self, message: str, *, usage: str = "") -> None:
        super().__init__(f"{message}\nUsage: {usage}" if usage else message)
        self.usage = usage


class EnvError(UsageError):
    """An environment value that is not what was asked for. ``key`` names it."""

    code = "environment"

    def __init__(self, key: str, problem: str, *, usage: str = "") -> None:
        super().__init__(f"{key}: {problem}", usage=usage)
        self.key = key
        self.problem = problem


class TableError(EngineError):
    code = "table"


class DuplicateJobError(EngineError):
    code = "duplicate-job"


class UnknownJobError(EngineError):
    code = "unknown-job"
    status = Status.UNKNOWN_JOB


class NotAllowedError(EngineError):
    code = "not-allowed"
    status = Status.NOT_ALLOWED


class ConflictError(EngineError):
    code = "conflict"


class GapError(EngineError):
    """The log begins later than what was asked for. ``first`` is the oldest number kept."""

    code = "gap"

    def __init__(self, first: int) -> None:
        super().__init__(f"the output before number {first} is kept no more")
        self.first = first


class LimitError(EngineError):
    code = "limit"


class CancelledError(EngineError):
    code = "cancelled"
    status = Status.CANCELLED


class DeadlineError(EngineError):
    code = "deadline"
    status = Status.DEADLINE


class NeedError(EngineError):
    code = "need"


class ShuttingDownError(EngineError):
    code = "shutting-down"
    status = Status.TRY_AGAIN
    retryable = True


class ConnectionLostError(EngineError):
    code = "connection-lost"
    status = Status.TRY_AGAIN
    retryable = True


class UnreachableError(EngineError):
    code = "unreachable"
    status = Status.UNREACHABLE
    retryable = True


class ProtocolError(EngineError):
    code = "protocol"


class ConfigError(EngineError):
    code = "configuration"
    status = Status.USAGE


class InstallError(EngineError):
    code = "install"


class JobFailedError(EngineError):
    """A job that a client followed ended otherwise than well; the end's own words."""

    def __init__(self, message: str, *, job: str, code: str, status: int, retryable: bool) -> None:
        super().__init__(message, code=code, retryable=retryable)
        self.job = job
        try:
            self.status = Status(status)
        except ValueError:  # a status of a newer engine, or of a service's own
            self.status = Status.ERROR
        self.exit_status = status
