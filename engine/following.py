"""What both clients have in common: the view of one job that a client follows.

No socket, no thread. `Followed` turns the records of a job into what its reader sees, and
keeps the account of the credit that the reader has used up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from .env import Env
from .errors import (
    ConflictError,
    ConnectionLostError,
    EngineError,
    JobFailedError,
    LimitError,
    NotAllowedError,
    ProtocolError,
    ShuttingDownError,
    UnknownJobError,
    UsageError,
)
from .records import Data, End, Log, Need, Progress, Record, Rows, Schema, StateChange, Text
from .spec import Column
from .status import Status
from .table import Table
from .wire.messages import Submit

__all__ = [
    "Callbacks",
    "Credits",
    "Event",
    "Followed",
    "Request",
    "Row",
    "Window",
    "failure",
    "refusal",
    "row_type",
    "table_of",
]


class Row(tuple[Any, ...]):
    """One row: a tuple of cells that can also be taken by the names of the columns.

    >>> row = row_type((Column(name="name"), Column(name="stars")))(("alpine", 9))
    >>> row["name"], row[1], dict(row)
    ('alpine', 9, {'name': 'alpine', 'stars': 9})
    """

    __slots__ = ()
    _places: ClassVar[Mapping[str, int]] = {}

    def __getitem__(self, key: Any) -> Any:
        if type(key) is str:
            try:
                return tuple.__getitem__(self, self._places[key])
            except KeyError:
                known = ", ".join(self._places)
                raise KeyError(f"no column {key!r}; there are {known}") from None
        return tuple.__getitem__(self, key)

    def keys(self) -> KeysView[str]:
        """The names of the columns; with them a row is a mapping to ``dict()``."""
        return self._places.keys()

    def get(self, name: str, default: Any = None) -> Any:
        place = self._places.get(name)
        return default if place is None else tuple.__getitem__(self, place)

    def to_dict(self) -> dict[str, Any]:
        return dict(zip(self._places, self, strict=True))

    def __repr__(self) -> str:
        cells = (f"{name}={cell!r}" for name, cell in zip(self._places, self, strict=True))
        return f"Row({', '.join(cells)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_remade, (tuple(self._places), tuple(self)))


def row_type(columns: Sequence[Column]) -> type[Row]:
    """The class of the rows of these columns. One class a job keeps a row as cheap as a tuple."""
    places = {column.name: place for place, column in enumerate(columns)}
    return type("Row", (Row,), {"__slots__": (), "_places": places})


def _remade(names: tuple[str, ...], cells: tuple[Any, ...]) -> Row:
    return row_type([Column(name=name) for name in names])(cells)


#: What `events` gives, in the order in which the job emitted it; progress is newest-wins.
Event: TypeAlias = Schema | Row | Text | Data | Log | Progress | StateChange | Need | End


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Functions that are called, on the reader's own thread, while a job is read."""

    on_progress: Callable[[Progress], None] | None = None
    on_log: Callable[[Log], None] | None = None
    on_text: Callable[[Text], None] | None = None
    on_state: Callable[[StateChange], None] | None = None

    def tell(self, event: Any) -> None:
        call: Callable[[Any], None] | None = None
        match event:
            case Progress():
                call = self.on_progress
            case Log():
                call = self.on_log
            case Text():
                call = self.on_text
            case StateChange():
                call = self.on_state
        if call is not None:
            call(event)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of an engine, as its client says it. ``deadline`` in seconds."""

    name: str
    args: tuple[str, ...] = ()
    env: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    key: str | None = None
    deadline: float | None = None
    priority: int = 0
    detach: bool = True
    single_rows: bool = False

    def message(self, number: int, window: Window) -> Submit:
        """The SUBMIT. Raises `UsageError` for what cannot be said in one."""
        for arg in self.args:
            if not isinstance(arg, str):
                raise UsageError(f"an argument is text, not {type(arg).__name__}")
        try:
            return Submit(
                request=number,
                name=self.name,
                args=self.args,
                env=dict(Env(self.env)) if self.env else {},
                key=self.key or None,
                deadline=self.deadline,
                priority=self.priority,
                detach=self.detach,
                single_rows=self.single_rows,
                credit_messages=window.messages,
                credit_bytes=window.bytes,
            )
        except ProtocolError as error:
            raise UsageError(str(error)) from None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much output of one job may be under way, unread by its reader."""

    messages: int = 64
    bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        if self.messages < 1 or self.bytes < 1:
            raise ValueError("a window has room for one message and one byte at least")


class Credits:
    """What a reader has used up of its window, and when to ask for more: at the half."""

    __slots__ = ("_bytes", "_messages", "_most_bytes", "_most_messages")

    def __init__(self, window: Window) -> None:
        self._messages = self._bytes = 0
        self._most_messages = (window.messages + 1) // 2
        self._most_bytes = (window.bytes + 1) // 2

    def use(self, cost: int) -> tuple[int, int] | None:
        """Note one message read; the messages and bytes to grant anew, when it is time."""
        self._messages += 1
        self._bytes += cost
        if self._messages < self._most_messages and self._bytes < self._most_bytes:
            return None
        grant = (self._messages, self._bytes)
        self._messages = self._bytes = 0
        return grant


class Followed:
    """A job as its reader sees it so far."""

    def __init__(self, request: Request, callbacks: Callbacks) -> None:
        self.request = request
        self.callbacks = callbacks
        self.columns: tuple[Column, ...] = ()
        self.end: End | None = None
        self.rest: Iterator[Row] = iter(())  # rows that were taken in and not read yet
        self._row: type[Row] = Row
        self._width = 0

    def take(self, record: Record | Progress) -> Event | None:
        """Take a record in: its rows are in ``rest`` then; anything else is the event."""
        if isinstance(record, Rows):
            self.rest = iter(self._rows(record))
            return None
        if isinstance(record, Schema):
            self.columns = record.columns
            self._row = row_type(record.columns)
            self._width = len(record.columns)
        elif isinstance(record, End):
            self.end = record
        self.callbacks.tell(record)
        return record

    def drop(self) -> None:
        """Forget the rows that were not read."""
        self.rest = iter(())

    def _rows(self, record: Rows) -> list[Row]:
        rows = record.rows
        if not set(map(len, rows)) <= {self._width}:
            raise ProtocolError("a row that does not fit its columns")
        return list(map(self._row, rows))

    def check_end(self) -> None:
        """Raise `JobFailedError` where the job ended otherwise than well."""
        if self.end is not None and self.end.status != Status.OK:
            raise failure(self.request.name, self.end)


def failure(job: str, end: End) -> JobFailedError:
    """The error that an end other than a good one is, to who wanted the results."""
    return JobFailedError(
        end.message or f"{job} ended as {end.state} (status {end.status})",
        job=job,
        code=end.code or str(end.state),
        status=end.status,
        retryable=end.retryable,
    )


def table_of(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    table = Table(columns)
    table.rows.extend(map(tuple, rows))
    return table


_CLASSES: Mapping[str, type[EngineError]] = {
    cls.code: cls
    for cls in (
        ConflictError,
        ConnectionLostError,
        LimitError,
        NotAllowedError,
        ShuttingDownError,
        UnknownJobError,
    )
}


def refusal(error: EngineError) -> EngineError:
    """An engine's answer as the error that the engine itself raised, where there is a class.

    The message is the engine's own; a code without a class stays with the root's.
    """
    if error.status is Status.USAGE:
        usage = UsageError(str(error))
        usage.code = error.code
        return usage
    cls = _CLASSES.get(error.code)
    if cls is None or isinstance(error, cls):
        return error
    return cls(str(error), retryable=error.retryable)
