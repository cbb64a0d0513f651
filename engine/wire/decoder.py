"""Frames to messages: whatever arrives gives a message or a `MessageError`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]

from ..errors import ProtocolError
from ..records import Data, End, Log, Need, Progress, Record, Rows, Schema, StateChange, Text
from ..spec import Column, ColumnType
from ..status import State
from . import messages
from .framing import DEFAULT, MAGIC, body_limit, check_shape, openers
from .limits import Limits
from .messages import Incoming, Message, Output, ProgressReport, Type, Unknown, layout

__all__ = ["MessageError", "decode"]


class MessageError(ProtocolError):
    """A message that cannot be read. Where its header could be, it says whose it was.

    ``code`` is ``limit`` where only a size was wrong, ``version`` for another major version
    of the protocol, else ``protocol``. ``fatal``: the peer cannot be trusted with more.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "protocol",
        request: int | None = None,
        job: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.request = request
        self.job = job

    @property
    def fatal(self) -> bool:
        return self.code != "limit"


def decode(frames: Sequence[bytes], limits: Limits = DEFAULT) -> Incoming:
    """The message of these frames. Raises `MessageError`, and nothing else."""
    code = _check_prefix(frames, limits)
    header = _decode_header(frames[1], limits)
    read = _READERS.get(code)
    if read is None:
        return Unknown(code=code, request=_own(header, "request"), job=_own(header, "job"))
    body = frames[2] if len(frames) > 2 else b""
    most = body_limit(code, limits)
    if len(body) > most:
        raise MessageError(
            f"a {Type(code).name} of {len(body)} bytes; at most {most} are taken",
            code="limit",
            request=_own(header, "request"),
            job=_own(header, "job"),
        )
    try:
        return read(header, body, limits, sum(map(len, frames)))
    except MessageError:
        raise
    except (ProtocolError, ValueError, TypeError) as error:
        raise MessageError(
            str(error) if isinstance(error, ProtocolError) else f"a bad {Type(code).name}",
            request=_own(header, "request"),
            job=_own(header, "job"),
        ) from None


def _check_prefix(frames: Sequence[bytes], limits: Limits) -> int:
    if not 2 <= len(frames) <= limits.frames:
        raise MessageError(f"a message of {len(frames)} frames; it has 2 to {limits.frames}")
    prefix = frames[0]
    if len(prefix) != 6 or prefix[:3] != MAGIC[:3]:
        raise MessageError("no prefix of this protocol")
    if prefix[3] != MAGIC[3]:
        raise MessageError("another version of the protocol", code="version")
    if len(frames[1]) > limits.header:
        raise MessageError(f"a header of {len(frames[1])} bytes; at most {limits.header} are taken")
    return prefix[4]


def _decode_header(data: bytes, limits: Limits) -> dict[str, Any]:
    header = _unpack(data, limits, 1)  # the map itself
    if type(header) is not dict:
        raise MessageError("a header that is no map")
    return header


def _unpack(data: bytes, limits: Limits, own: int = 0) -> Any:
    """One msgpack value. With no more openers than ``own``, nothing nests that must not."""
    value = _value(data, limits)
    if openers(data) > own:
        try:
            check_shape(value, limits)
        except ProtocolError as error:
            raise MessageError(str(error)) from None
    return value


def _value(data: bytes, limits: Limits, *, use_list: bool = True) -> Any:
    """One msgpack value, however deep it nests."""
    try:
        return msgpack.unpackb(  # no text or bytes in it can be longer than it is itself
            data,
            strict_map_key=True,
            max_array_len=limits.elements,
            max_map_len=limits.elements,
            max_ext_len=0,
            ext_hook=_no_extension,
            use_list=use_list,
        )
    except MessageError:
        raise
    except Exception as error:  # msgpack raises of many kinds, all of them for bad content
        raise MessageError(f"no msgpack that is taken here ({type(error).__name__})") from None


def _no_extension(code: int, data: bytes) -> Any:
    raise MessageError("msgpack extension types are not taken")


def _own(header: Mapping[str, Any], name: str) -> Any:
    """``request`` or ``job`` of a header that may be bad otherwise, or None."""
    value = header.get(name)
    if name == "request":
        return value if type(value) is int and 0 <= value < 2**63 else None
    return value if type(value) is str and 0 < len(value) <= 64 else None


def _reader(cls: type[Message]) -> Callable[..., Message]:
    """A function from header and body to a message of that class."""
    fields = layout(cls)
    apart = {*cls.BODY, cls.TEXT, cls.BYTES}
    required = frozenset(name for name, _, needed in fields if needed)
    names = [name for name, _, _ in fields if name not in apart]

    def read(header: dict[str, Any], body: bytes, limits: Limits, size: int) -> Message:
        values = {
            name: _tupled(value) if type(value) is list else value
            for name in names
            if (value := header.get(name)) is not None
        }
        if cls.TEXT and body:
            values[cls.TEXT] = str(body, "utf-8", "replace")
        elif cls.BYTES:
            values[cls.BYTES] = body
        elif cls.BODY and body:
            found = _unpack(body, limits)
            if type(found) is not dict:
                raise MessageError("a body that is no map", request=_own(header, "request"))
            for name in cls.BODY:
                if name in found:
                    values[name] = found[name] if cls is messages.Supply else _tupled(found[name])
        if not required <= values.keys():
            missing = next(name for name, _, needed in fields if needed and name not in values)
            raise ProtocolError(f"{cls.TYPE.name}: {missing!r} is missing")
        return cls(**values)

    return read


def _tupled(value: Any) -> Any:
    """Arrays as tuples, since messages do not change."""
    return tuple(map(_tupled, value)) if type(value) is list else value


def _job_of(header: dict[str, Any]) -> tuple[str, int]:
    job, seq = header.get("job"), header.get("seq")
    if type(job) is not str or not 0 < len(job) <= 64:
        raise ProtocolError("output without the 'job' that it is of")
    if type(seq) is not int or seq < 1:
        raise ProtocolError("output without its number 'seq'")
    return job, seq


def _expect(header: Mapping[str, Any], name: str, *kinds: type, default: Any = None) -> Any:
    value = header.get(name, default)
    if type(value) not in kinds:
        raise ProtocolError(f"{name!r} is wanted as {' or '.join(k.__name__ for k in kinds)}")
    return value


def _rows_in(header: dict[str, Any], body: bytes, limits: Limits) -> Rows:
    """Rows as tuples. Each is one opener and the batch is one, so that without more of them no
    cell is an array, and tuples, which are cheaper, are the same all the way down."""
    count = header.get("count")
    if type(count) is not int or not 0 <= count <= limits.elements:
        raise ProtocolError("'count' is wanted as an integer from 0")
    flat = openers(body) <= count + 1
    rows = _value(body, limits, use_list=False) if flat else _unpack(body, limits)
    kind = tuple if flat else list
    if type(rows) is not kind or not set(map(type, rows)) <= {kind}:
        raise ProtocolError("rows that are no array of arrays")
    if count != len(rows):
        raise ProtocolError("'count' is not the number of rows")
    return Rows(rows=rows if flat else tuple(map(tuple, rows)))


def _schema_in(header: dict[str, Any], body: bytes, limits: Limits) -> Schema:
    columns = _unpack(body, limits)
    if type(columns) is not list:
        raise ProtocolError("columns that are no array")
    return Schema(columns=tuple(map(_column, columns)))


def _column(item: Any) -> Column:
    if type(item) is not list or len(item) < 2 or not all(type(part) is str for part in item[:2]):
        raise ProtocolError("a column that is no [name, type]")
    name, kind = item[:2]
    known = kind in ColumnType.__members__.values()  # a type of a later version: any value
    return Column(name=name, type=ColumnType(kind) if known else ColumnType.JSON)


def _text_in(header: dict[str, Any], body: bytes, limits: Limits) -> Text:
    stream = _expect(header, "stream", str, default="stdout")
    return Text(text=str(body, "utf-8", "replace"), stream=stream)


def _data_in(header: dict[str, Any], body: bytes, limits: Limits) -> Data:
    return Data(data=bytes(body))


def _log_in(header: dict[str, Any], body: bytes, limits: Limits) -> Log:
    found = _unpack(body, limits)
    if type(found) is not dict:
        raise ProtocolError("a log line that is no map")
    return Log(
        level=_expect(header, "level", str, default="info"),
        time=_expect(header, "time", float, int, default=0.0),
        text=_expect(found, "text", str, default=""),
        fields=_expect(found, "fields", dict, default={}),
    )


def _state_in(header: dict[str, Any], body: bytes, limits: Limits) -> StateChange | None:
    state = _STATES.get(_expect(header, "state", str))
    attempt = _expect(header, "attempt", int, default=1)
    if state is None:  # one of a later version
        return None
    return StateChange(state=state, attempt=attempt)


def _need_in(header: dict[str, Any], body: bytes, limits: Limits) -> Need:
    details = _unpack(body, limits) if body else {}
    if type(details) is not dict:
        raise ProtocolError("details that are no map")
    return Need(what=_expect(header, "what", str), details=details)


def _end_in(header: dict[str, Any], body: bytes, limits: Limits) -> End:
    status = _expect(header, "status", int)
    state = _STATES.get(_expect(header, "state", str))
    if state is None:  # an end of a later version
        state = State.FAILED if status else State.OK
    if not state.ended:
        raise ProtocolError(f"{state} is no end")
    started = header.get("started")
    return End(
        state=state,
        status=status,
        code=_expect(header, "code", str, default=""),
        message=str(body, "utf-8", "replace"),
        retryable=_expect(header, "retryable", bool, default=False),
        rows=_expect(header, "rows", int, default=0),
        bytes=_expect(header, "bytes", int, default=0),
        attempt=_expect(header, "attempt", int, default=1),
        created=_expect(header, "created", float, int, default=0.0),
        started=None if started is None else _expect(header, "started", float, int),
        ended=_expect(header, "ended", float, int, default=0.0),
    )


def _progress_in(header: dict[str, Any], body: bytes, limits: Limits, size: int) -> ProgressReport:
    job, _ = _job_of({**header, "seq": 1})
    items = _unpack(body, limits)
    if type(items) is not list:
        raise ProtocolError("progress that is no array")
    return ProgressReport(job=job, items=tuple(map(_progress_item, items)))


def _progress_item(item: Any) -> Progress:
    kinds = [str, str, int, int]
    if type(item) is not list or [type(part) for part in item[:4]] != kinds:
        raise ProtocolError("progress that is no [key, phase, done, total]")
    return Progress(key=item[0], phase=item[1], done=item[2], total=item[3])


_STATES: dict[str, State] = {str(state): state for state in State}


def _output(
    type_: Type, read: Callable[[dict[str, Any], bytes, Limits], Record | None]
) -> Callable[..., Output]:
    def made(header: dict[str, Any], body: bytes, limits: Limits, size: int) -> Output:
        job, seq = _job_of(header)
        record = read(header, body, limits)
        return Output(type=type_, job=job, seq=seq, record=record, size=size)

    return made


_READERS: dict[int, Callable[..., Message | Output | ProgressReport]] = {
    **{
        cls.TYPE: _reader(cls)
        for name in messages.__all__
        if dataclasses.is_dataclass(cls := getattr(messages, name))
        and isinstance(cls, type)
        and issubclass(cls, Message)
        and cls is not Message
    },
    Type.SCHEMA: _output(Type.SCHEMA, _schema_in),
    Type.ROWS: _output(Type.ROWS, _rows_in),
    Type.TEXT: _output(Type.TEXT, _text_in),
    Type.DATA: _output(Type.DATA, _data_in),
    Type.LOG: _output(Type.LOG, _log_in),
    Type.STATE: _output(Type.STATE, _state_in),
    Type.NEED: _output(Type.NEED, _need_in),
    Type.END: _output(Type.END, _end_in),
    Type.PROGRESS: _progress_in,
}
