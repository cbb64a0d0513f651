"""What a job's output is made of.

A job's output is one numbered, append-only log of records. The numbers start at 1 and have
no gaps; `Progress` alone is not numbered, since of it only the newest counts. Records are
values: valid once constructed, never changed.

Rows are positional (lists of cells in the order of the schema's columns), so that a batch
costs no repeated keys on the wire or in the journal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .spec import Column
from .status import State

__all__ = [
    "Cell",
    "Data",
    "End",
    "Log",
    "Need",
    "Progress",
    "Record",
    "Rows",
    "Schema",
    "StateChange",
    "Text",
]

#: None, bool, int (64 bits), float, str, bytes, or JSON made of these (a ``json`` column).
Cell: TypeAlias = Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The columns of the rows that follow. At most one a job, before its first row."""

    columns: tuple[Column, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch of rows, each a sequence of cells in the order of the schema."""

    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text for the job's standard output (``stdout``) or standard error (``stderr``)."""

    text: str
    stream: str = "stdout"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Bytes for the job's standard output."""

    data: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One log line. ``time`` is in seconds since the epoch; ``fields`` are JSON values."""

    level: str
    text: str
    time: float
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """The job entered ``state``, in its ``attempt``-th attempt (from 1)."""

    state: State
    attempt: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The job waits until its client supplies ``what``; ``details`` say for what purpose."""

    what: str
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last record of every job, written once.

    ``created``, ``started`` and ``ended`` are seconds since the epoch (``started`` is None
    for a job that never ran); ``rows`` and ``bytes`` count what it emitted.
    """

    state: State
    status: int
    code: str = ""
    message: str = ""
    retryable: bool = False
    rows: int = 0
    bytes: int = 0
    attempt: int = 1
    created: float = 0.0
    started: float | None = None
    ended: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one thing has come: ``done`` of ``total``, -1 where the total is not known.

    Raises `TypeError` and `ValueError`, since what cannot be sent would otherwise be found on
    a thread that serves others too. A float that is handed in loses its fraction.
    """

    key: str
    phase: str
    done: int
    total: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not isinstance(self.phase, str):
            raise TypeError("progress has a key and a phase that are text")
        for name in ("done", "total"):
            value = getattr(self, name)
            if type(value) is not int:
                value = _whole(name, value)
                object.__setattr__(self, name, value)
            if value not in _NUMBERS:
                raise ValueError(f"progress: {name} has over 64 bits")


_NUMBERS = range(-(2**63), 2**64)  # what the wire can carry


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, (int, float)):
        raise TypeError(f"progress: {name} is wanted as a number, not as {type(value).__name__}")
    if value != value or value in (math.inf, -math.inf):
        raise ValueError(f"progress: {name} is {value}, which is no number of anything")
    return int(value)


Record: TypeAlias = Schema | Rows | Text | Data | Log | StateChange | Need | End
