"""The one table of legal transitions, and the diagrams that are made from it.

Three machines: the connection as its client sees it, the same as the engine sees it, and one
job's stream at the client. What is not in the table is a breach of the protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from ..errors import ProtocolError
from .messages import Type

__all__ = [
    "RECEIVE",
    "SEND",
    "TABLE",
    "Happening",
    "Machine",
    "Phase",
    "StreamState",
    "mermaid",
    "step",
]


class Machine(enum.StrEnum):
    CLIENT = "client"
    ENGINE = "engine"
    STREAM = "stream"


class Phase(enum.StrEnum):
    """Where a connection is."""

    NEW = "new"
    GREETING = "greeting"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


class StreamState(enum.StrEnum):
    """Where the output of one job is, for the client that submitted it."""

    SUBMITTED = "submitted"
    ABANDONED = "abandoned"
    FOLLOWING = "following"
    DETACHED = "detached"
    ENDED = "ended"
    REFUSED = "refused"
    LOST = "lost"


class Happening(enum.StrEnum):
    """What moves a machine and is no message."""

    LOST = "lost"  # the other side is silent, gone, or not to be trusted
    ABANDON = "abandon"  # the reader left before the job was accepted


#: The words of the table for a message that is sent or received.
SEND: Mapping[Type, str] = {type_: f"send {type_.name}" for type_ in Type}
RECEIVE: Mapping[Type, str] = {type_: f"receive {type_.name}" for type_ in Type}

_State: TypeAlias = Phase | StreamState
_NEW, _GREETING, _READY = Phase.NEW, Phase.GREETING, Phase.READY
_DRAINING, _CLOSED = Phase.DRAINING, Phase.CLOSED
_OUTPUT = "SCHEMA ROWS TEXT DATA LOG PROGRESS STATE NEED END"
_REQUESTS = "SUBMIT ATTACH CREDIT ACK CANCEL INPUT SUPPLY DETACH"

_ROWS: tuple[tuple[Machine, _State, str, str, _State], ...] = (
    (Machine.CLIENT, _NEW, "send", "HELLO", _GREETING),
    (Machine.CLIENT, _NEW, "", "lost", _CLOSED),
    (Machine.CLIENT, _GREETING, "receive", "WELCOME", _READY),
    (Machine.CLIENT, _GREETING, "receive", "ERROR", _CLOSED),
    (Machine.CLIENT, _GREETING, "", "lost", _CLOSED),
    *(
        row
        for phase in (_READY, _DRAINING)
        for row in (
            (Machine.CLIENT, phase, "send", _REQUESTS, phase),
            (Machine.CLIENT, phase, "receive", f"ACCEPTED {_OUTPUT} ERROR", phase),
            (Machine.CLIENT, phase, "send", "PING PONG", phase),
            (Machine.CLIENT, phase, "receive", "PING PONG", phase),
            (Machine.CLIENT, phase, "receive", "DRAIN", _DRAINING),
            (Machine.CLIENT, phase, "send", "BYE", _CLOSED),
            (Machine.CLIENT, phase, "", "lost", _CLOSED),
        )
    ),
    (Machine.ENGINE, _NEW, "receive", "HELLO", _GREETING),
    (Machine.ENGINE, _NEW, "send", "ERROR", _CLOSED),
    (Machine.ENGINE, _GREETING, "send", "WELCOME", _READY),
    (Machine.ENGINE, _GREETING, "send", "ERROR", _CLOSED),
    *(
        row
        for phase in (_READY, _DRAINING)
        for row in (
            (Machine.ENGINE, phase, "receive", _REQUESTS, phase),
            (Machine.ENGINE, phase, "send", f"ACCEPTED {_OUTPUT} ERROR", phase),
            (Machine.ENGINE, phase, "send", "PING PONG", phase),
            (Machine.ENGINE, phase, "receive", "PING PONG", phase),
            (Machine.ENGINE, phase, "send", "DRAIN", _DRAINING),
            (Machine.ENGINE, phase, "receive", "BYE", _CLOSED),
            (Machine.ENGINE, phase, "", "lost", _CLOSED),
        )
    ),
    (Machine.STREAM, StreamState.SUBMITTED, "receive", "ACCEPTED", StreamState.FOLLOWING),
    (Machine.STREAM, StreamState.SUBMITTED, "receive", "ERROR", StreamState.REFUSED),
    (Machine.STREAM, StreamState.SUBMITTED, "", "abandon", StreamState.ABANDONED),
    (Machine.STREAM, StreamState.SUBMITTED, "", "lost", StreamState.LOST),
    (Machine.STREAM, StreamState.ABANDONED, "receive", "ACCEPTED", StreamState.FOLLOWING),
    (Machine.STREAM, StreamState.ABANDONED, "receive", "ERROR", StreamState.REFUSED),
    (Machine.STREAM, StreamState.ABANDONED, "", "lost", StreamState.LOST),
    (
        Machine.STREAM,
        StreamState.FOLLOWING,
        "receive",
        _OUTPUT.removesuffix(" END"),
        StreamState.FOLLOWING,
    ),
    (Machine.STREAM, StreamState.FOLLOWING, "receive", "ERROR", StreamState.FOLLOWING),
    (Machine.STREAM, StreamState.FOLLOWING, "receive", "END", StreamState.ENDED),
    (Machine.STREAM, StreamState.FOLLOWING, "send", "DETACH", StreamState.DETACHED),
    (Machine.STREAM, StreamState.FOLLOWING, "", "lost", StreamState.LOST),
)


def _table() -> dict[tuple[Machine, _State], dict[str, _State]]:
    table: dict[tuple[Machine, _State], dict[str, _State]] = {}
    for machine, state, act, names, after in _ROWS:
        for name in names.split():
            table.setdefault((machine, state), {})[f"{act} {name}".strip()] = after
    return table


#: Machine and state to what may happen there, to the state after it.
TABLE: Mapping[tuple[Machine, _State], Mapping[str, _State]] = _table()


def step(machine: Machine, state: _State, happening: str) -> _State:
    """The state after ``happening``. Raises `ProtocolError` where the table has none."""
    after = TABLE.get((machine, state), {}).get(happening)
    if after is None:
        raise ProtocolError(f"{machine}: {happening!r} is not legal while {state}")
    return after


def mermaid(machine: Machine) -> str:
    """The machine as a mermaid state diagram, its rows in the order of the table."""
    return "\n".join(["stateDiagram-v2", *_lines(machine)]) + "\n"


def _lines(machine: Machine) -> Iterator[str]:
    rows = [row for row in _ROWS if row[0] is machine]
    yield f"    [*] --> {rows[0][1]}"
    for _, state, act, names, after in rows:
        yield f"    {state} --> {after}: {f'{act} {names}'.strip()}"
    for state in dict.fromkeys(row[4] for row in rows):
        if (machine, state) not in TABLE:
            yield f"    {state} --> [*]"
