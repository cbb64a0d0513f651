"""Messages to frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import msgpack  # type: ignore[import-untyped]

from ..errors import LimitError, ProtocolError, TableError
from ..records import Data, End, Log, Need, Progress, Record, Rows, Schema, StateChange, Text
from .framing import DEFAULT, PREFIXES, body_limit, check_shape, openers
from .limits import Limits
from .messages import Message, Output, ProgressReport, Type, layout

__all__ = ["PROGRESS_ITEMS", "check_submit", "encode", "encode_progress", "encode_record"]

#: How many items one PROGRESS carries at the most; an encoder makes several messages of more.
PROGRESS_ITEMS = 64
_CLIPPED = 16 * 1024  # characters of a message's text; four bytes each at the worst
_LOG_TEXT = 32 * 1024  # bytes; as many words as may be fields fit into a message beside it
_LOG_FIELDS = 32
_WORD = 256  # bytes of a word, so that a header of a few, and 64 items of progress, always fit


def encode(message: Message | Output | ProgressReport) -> tuple[bytes, ...]:
    """The frames of a message. Raises `LimitError` for a header that is too long."""
    if isinstance(message, Message):
        return _encode_message(message)
    if isinstance(message, ProgressReport):
        return encode_progress(message.job, message.items)
    if message.record is None:
        raise ProtocolError("a record that was not understood cannot be passed on")
    return encode_record(message.job, message.seq, message.record)


def _encode_message(message: Message) -> tuple[bytes, ...]:
    cls = type(message)
    names = _HEADERS.get(cls)
    if names is None:
        apart = {*cls.BODY, cls.TEXT, cls.BYTES}
        names = _HEADERS[cls] = tuple(name for name, _, _ in layout(cls) if name not in apart)
    header = {name: value for name in names if (value := getattr(message, name)) is not None}
    head = (PREFIXES[cls.TYPE], _header(header))
    if cls.BODY:
        return (*head, _pack({name: getattr(message, name) for name in cls.BODY}))
    if cls.TEXT:
        text = getattr(message, cls.TEXT)
        return (*head, _text(text)) if text else head
    if cls.BYTES:
        return (*head, getattr(message, cls.BYTES))
    return head


#: The fields of each class that are in its header; filled as they are used.
_HEADERS: dict[type[Message], tuple[str, ...]] = {}


def encode_record(
    job: str, seq: int, record: Record, limits: Limits = DEFAULT
) -> tuple[bytes, ...]:
    """The frames of the ``seq``-th record of ``job``. Thread-safe.

    Raises `TableError` for a cell that has no form on the wire (nested too deep, too many
    elements, a key that is no text) and for too many columns, `LimitError` for a record that
    is larger than a message may be.
    """
    type_, header, body = _ENCODERS[type(record)](record, limits)
    head = _pack({"job": job, "seq": seq, **header})
    if body is None:
        return (PREFIXES[type_], head)
    most = body_limit(type_, limits)
    if len(body) > most:
        raise LimitError(
            f"{len(body)} bytes of output in one {type_.name}; at most {most} go into a message: "
            "emit it in smaller parts"
        )
    if isinstance(record, Rows):
        _check_cells(record.rows, body, limits)
    return (PREFIXES[type_], head, body)


def _rows_out(record: Rows, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    return Type.ROWS, {"count": len(record.rows)}, _pack(record.rows)


def _schema_out(record: Schema, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    if len(record.columns) > limits.elements:  # a row is an array of as many
        raise TableError(
            f"{len(record.columns)} columns; the limit 'elements' is {limits.elements}"
        )
    columns = [[column.name, str(column.type)] for column in record.columns]
    return Type.SCHEMA, {}, _pack(columns)


def _text_out(record: Text, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    return Type.TEXT, {"stream": record.stream}, record.text.encode("utf-8", "replace")


def _data_out(record: Data, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    return Type.DATA, {}, record.data


def _log_out(record: Log, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    text = _cut(record.text, _LOG_TEXT)
    fields = {_shown(key): value for key, value in record.fields.items()}
    body = _pack_or_none({"text": text, "fields": fields}, limits)
    if body is None:  # a log line must not fail a job: what has no form is shown as text
        shown = {key: _shown(value) for key, value in islice(fields.items(), _LOG_FIELDS)}
        body = _pack({"text": text, "fields": shown})
    return Type.LOG, {"level": _word(record.level), "time": float(record.time)}, body


def _state_out(record: StateChange, limits: Limits) -> tuple[Type, dict[str, Any], None]:
    return Type.STATE, {"state": str(record.state), "attempt": record.attempt}, None


def _need_out(record: Need, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    body = _pack_or_none(dict(record.details), limits)
    if body is None:
        raise LimitError(f"the details of a need for {record.what} have no form on the wire")
    return Type.NEED, {"what": _word(record.what)}, body


def _end_out(record: End, limits: Limits) -> tuple[Type, dict[str, Any], bytes]:
    header = {
        "state": str(record.state),
        "status": int(record.status),
        "code": _word(record.code),
        "retryable": record.retryable,
        "rows": record.rows,
        "bytes": record.bytes,
        "attempt": record.attempt,
        "created": float(record.created),
        "started": None if record.started is None else float(record.started),
        "ended": float(record.ended),
    }
    return Type.END, header, _text(record.message)


_ENCODERS: Mapping[type, Callable[[Any, Limits], tuple[Type, dict[str, Any], bytes | None]]] = {
    Rows: _rows_out,
    Schema: _schema_out,
    Text: _text_out,
    Data: _data_out,
    Log: _log_out,
    StateChange: _state_out,
    Need: _need_out,
    End: _end_out,
}


def encode_progress(job: str, items: Iterable[Progress]) -> tuple[bytes, ...]:
    """The frames of a PROGRESS. Of ``items`` at most `PROGRESS_ITEMS` fit."""
    body = _pack([[_word(item.key), _word(item.phase), item.done, item.total] for item in items])
    return (PREFIXES[Type.PROGRESS], _pack({"job": job}), body)


def _pack(value: Any) -> bytes:
    try:
        try:
            packed: bytes = msgpack.packb(value)
        except UnicodeEncodeError:  # a lone surrogate; the other way of packing is slower
            packed = msgpack.packb(value, unicode_errors="replace")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TableError(f"a value that has no form on the wire: {error}") from None
    return packed


def _pack_or_none(value: Any, limits: Limits) -> bytes | None:
    """None too where a peer would refuse it: too large, too deep, or with keys of other types."""
    try:
        packed = _pack(value)
        if len(packed) > limits.control:
            return None
        check_shape(value, limits)
    except (TableError, ProtocolError):
        return None
    return packed


def _shown(value: Any) -> str:
    try:
        return _word(str(value))
    except Exception:
        return f"<{type(value).__name__}>"


def _word(text: str) -> str:
    return text if 4 * len(text) <= _WORD else _cut(text, _WORD)


def _cut(text: str, most: int) -> str:
    """``text`` without what goes beyond ``most`` bytes."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most else data[:most].decode("utf-8", "ignore")


def _text(text: str) -> bytes:
    clipped = text if len(text) <= _CLIPPED else text[: _CLIPPED - 1] + "…"
    return clipped.encode("utf-8", "replace")


def _header(values: Mapping[str, Any]) -> bytes:
    packed = _pack(values)
    if len(packed) > DEFAULT.header:
        raise LimitError(f"a header of {len(packed)} bytes; at most {DEFAULT.header} may be sent")
    return packed


def _check_cells(rows: Sequence[Sequence[Any]], body: bytes, limits: Limits) -> None:
    """Raise `TableError` where a JSON cell is something that the other side must refuse."""
    if openers(body) <= len(rows) + 1:
        return
    for cell in chain.from_iterable(rows):
        if isinstance(cell, (list, tuple, dict)):
            try:
                check_shape(cell, limits, around=2)
            except ProtocolError as error:
                raise TableError(f"a cell that has no form on the wire: {error}") from None


def check_submit(frames: Sequence[bytes], limits: Limits) -> None:
    """Raise `LimitError` where a SUBMIT is more than its engine takes.

    Only a size would be answered to the submission alone; the rest would be a breach, which
    ends the session with every run of the client.
    """
    if len(frames[1]) > limits.header:
        raise LimitError(
            f"the job's name and key make a header of {len(frames[1])} bytes; the engine takes at "
            f"most {limits.header}"
        )
    if len(frames[2]) > limits.submit:
        raise LimitError(
            f"arguments and environment have {len(frames[2])} bytes; the engine takes at most "
            f"{limits.submit}: hand large content over as a file"
        )
    if len(frames[2]) > limits.elements:  # fewer bytes have no array of so many elements
        try:
            check_shape(msgpack.unpackb(frames[2]), limits)
        except ProtocolError as error:
            raise LimitError(
                f"arguments or environment are more than the engine takes: {error}"
            ) from None
