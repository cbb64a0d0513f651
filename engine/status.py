"""Exit statuses and job states: the two vocabularies that every part of the engine shares."""

from __future__ import annotations

import enum

__all__ = ["State", "Status"]


class Status(enum.IntEnum):
    """How a job ended, as a process exit status.

    ``enginectl`` exits with the number, so a script sees the same value whether it asks the
    shell or reads the end of the job.
    """

    OK = 0
    ERROR = 1
    USAGE = 2
    UNREACHABLE = 69  # EX_UNAVAILABLE: the daemon cannot be reached
    TRY_AGAIN = 75  # EX_TEMPFAIL: interrupted
    DEADLINE = 124  # as timeout(1)
    NOT_ALLOWED = 126
    UNKNOWN_JOB = 127
    CANCELLED = 130  # as a shell shows SIGINT


class State(enum.StrEnum):
    """Where a job is in its life. The last four are ends, and an end is written once."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"

    @property
    def ended(self) -> bool:
        return self in _ENDS


_ENDS = frozenset({State.OK, State.FAILED, State.CANCELLED, State.TIMED_OUT})
