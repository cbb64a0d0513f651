"""Messages to frames and back, and what hostile frames come to."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LimitError, ProtocolError, TableError, UnknownJobError
from engine.records import Data, End, Log, Need, Progress, Record, Rows, Schema, StateChange, Text
from engine.spec import Column, ColumnType
from engine.status import State
from engine.wire import messages
from engine.wire.codec import (
    MAGIC,
    PROGRESS_ITEMS,
    MessageError,
    check_submit,
    decode,
    encode,
    encode_progress,
    encode_record,
)
from engine.wire.limits import Limits
from engine.wire.messages import (
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
    layout,
)
from engine.wire.session import error_of

#: The lowest limits that there are.
LEAST = Limits(
    header=1024, control=64 * 1024, submit=4096, output=512 * 1024, frames=3, nesting=8,
    elements=256,
)  # fmt: skip

_characters = st.characters(codec="utf-8")
counts = st.integers(0, 2**63 - 1)
texts = st.text(_characters, max_size=40)
ids = st.text("0123456789abcdef", min_size=1, max_size=64)
words = st.text(_characters, min_size=1, max_size=60)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40)
versions = st.tuples(st.integers(0, 65535), st.integers(0, 65535))
cells = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)

MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    Hello: st.builds(
        Hello,
        versions=st.lists(versions, max_size=4).map(tuple),
        features=st.lists(texts, max_size=4).map(tuple),
        client=st.none() | words,
    ),
    Submit: st.builds(
        Submit,
        request=counts,
        name=words,
        credit_messages=counts,
        credit_bytes=counts,
        priority=st.integers(-100, 100),
        deadline=st.none() | numbers,
        detach=st.booleans(),
        single_rows=st.booleans(),
        key=st.none() | words,
        args=st.lists(texts, max_size=5).map(tuple),
        env=st.dictionaries(texts, texts, max_size=5),
    ),
    Attach: st.builds(
        Attach,
        request=counts,
        job=ids,
        credit_messages=counts,
        credit_bytes=counts,
        after=counts,
    ),
    Credit: st.builds(Credit, job=ids, messages=counts, bytes=counts),
    Ack: st.builds(Ack, job=ids, seq=counts),
    Cancel: st.builds(Cancel, job=ids, reason=texts),
    Input: st.builds(
        Input, job=ids, offset=counts, last=st.booleans(), data=st.binary(max_size=60)
    ),
    Supply: st.builds(Supply, job=ids, need=counts, refused=st.booleans(), value=json_values),
    Detach: st.builds(Detach, job=ids),
    Bye: st.just(Bye()),
    Welcome: st.builds(
        Welcome,
        version=versions,
        engine=words,
        epoch=ids,
        session=ids,
        principal=words,
        heartbeat=numbers,
        lease=numbers,
        features=st.lists(texts, max_size=4).map(tuple),
        limits=st.dictionaries(texts, st.integers(0, 2**40), max_size=4),
    ),
    Accepted: st.builds(Accepted, request=counts, job=ids, existed=st.booleans()),
    Drain: st.builds(Drain, grace=st.none() | numbers, reason=texts),
    Error: st.builds(
        Error,
        code=words,
        status=st.integers(0, 255),
        retryable=st.booleans(),
        request=st.none() | counts,
        job=st.none() | ids,
        first=st.none() | counts,
        versions=st.none() | st.lists(versions, max_size=3).map(tuple),
        message=texts,
    ),
    Ping: st.builds(Ping, number=counts),
    Pong: st.builds(Pong, number=counts),
}

columns = st.builds(Column, name=words, type=st.sampled_from(ColumnType))
RECORDS: dict[type, st.SearchStrategy[Record]] = {
    Schema: st.builds(Schema, columns=st.lists(columns, max_size=5).map(tuple)),
    Rows: st.integers(0, 4).flatmap(
        lambda width: st.builds(
            Rows,
            rows=st.lists(
                st.lists(cells | json_values, min_size=width, max_size=width).map(tuple),
                max_size=6,
            ).map(tuple),
        )
    ),
    Text: st.builds(Text, text=texts, stream=st.sampled_from(["stdout", "stderr"])),
    Data: st.builds(Data, data=st.binary(max_size=60)),
    Log: st.builds(
        Log,
        level=words,
        text=texts,
        time=st.floats(0, 2e9),
        fields=st.dictionaries(texts, json_values, max_size=3),
    ),
    StateChange: st.builds(StateChange, state=st.sampled_from(State), attempt=st.integers(1, 10)),
    Need: st.builds(Need, what=words, details=st.dictionaries(texts, json_values, max_size=3)),
    End: st.builds(
        End,
        state=st.sampled_from([state for state in State if state.ended]),
        status=st.integers(0, 255),
        code=texts,
        message=texts,
        retryable=st.booleans(),
        rows=counts,
        bytes=counts,
        attempt=st.integers(1, 10),
        created=st.floats(0, 2e9),
        started=st.none() | st.floats(0, 2e9),
        ended=st.floats(0, 2e9),
    ),
}


def test_every_message_of_the_module_is_tried_here() -> None:
    made = {
        cls
        for name in messages.__all__
        if isinstance(cls := getattr(messages, name), type)
        and issubclass(cls, Message)
        and cls is not Message
    }
    assert made == set(MESSAGES)
    output = {Type.SCHEMA, Type.ROWS, Type.TEXT, Type.DATA, Type.LOG, Type.STATE, Type.NEED}
    assert {cls.TYPE for cls in made} | output | {Type.END, Type.PROGRESS} == set(Type)


@given(st.one_of(*MESSAGES.values()))
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.one_of(*RECORDS.values()), ids, st.integers(1, 2**63 - 1))
def test_a_record_comes_back_as_it_went(record: Record, job: str, seq: int) -> None:
    frames = encode_record(job, seq, record)
    output = decode(frames)
    assert isinstance(output, Output)
    assert (output.job, output.seq, output.record) == (job, seq, record)
    assert output.size == sum(map(len, frames))
    assert encode(output) == frames


@given(
    ids,
    st.lists(
        st.builds(
            Progress,
            key=texts,
            phase=texts,
            done=counts,
            total=st.integers(-1, 2**63 - 1),
        ),
        max_size=5,
    ),
)
def test_progress_comes_back_as_it_went(job: str, items: list[Progress]) -> None:
    report = ProgressReport(job=job, items=tuple(items))
    assert decode(encode_progress(job, items)) == report
    assert encode(report) == encode_progress(job, items)


# what comes from a peer that is broken or means harm


def frames_of(type_: int, header: Any, *more: bytes) -> list[bytes]:
    return [MAGIC + bytes((type_, 0)), msgpack.packb(header), *more]


def refused(frames: list[bytes], **kinds: Any) -> MessageError:
    with pytest.raises(MessageError) as caught:
        decode(frames, **kinds)
    return caught.value


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_random_frames_raise_nothing_else(frames: list[bytes]) -> None:
    try:
        decode(frames)
    except ProtocolError:
        pass
    else:
        raise AssertionError("random frames make no message")


@given(st.integers(0, 255), st.binary(max_size=100), st.lists(st.binary(max_size=100), max_size=2))
def test_random_content_behind_a_good_prefix_raises_nothing_else(
    type_: int, header: bytes, body: list[bytes]
) -> None:
    with contextlib.suppress(ProtocolError):
        decode([MAGIC + bytes((type_, 0)), header, *body])


@given(
    st.sampled_from([int(type_) for type_ in Type]),
    st.dictionaries(
        st.sampled_from(
            ["job", "seq", "request", "name", "count", "state", "status", "versions", "code",
             "stream", "level", "time", "what", "credit_messages", "credit_bytes", "messages",
             "bytes", "args", "limits", "started", "attempt"]
        ),
        json_values | st.floats() | st.binary(max_size=8),
    ),
    json_values,
)  # fmt: skip
def test_wrong_types_in_good_msgpack_raise_nothing_else(
    type_: int, header: dict[str, Any], body: Any
) -> None:
    with contextlib.suppress(ProtocolError):
        decode(frames_of(type_, header, msgpack.packb(body)))


@given(st.one_of(*MESSAGES.values()), st.data())
def test_a_flipped_byte_raises_nothing_else(message: Message, data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in encode(message)]
    frame = data.draw(st.sampled_from([frame for frame in frames if frame]))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ProtocolError):
        decode([bytes(frame) for frame in frames])


def test_unknown_header_keys_spare_frames_and_flags_are_passed_over() -> None:
    frames = frames_of(Type.PING, {"number": 7, "colour": "red"}, b"spare", b"spare")
    frames[0] = MAGIC + bytes((Type.PING, 0xFF))
    assert decode(frames) == Ping(number=7)


def test_an_unknown_type_is_a_message_with_whom_it_concerns() -> None:
    assert decode(frames_of(0x3E, {"request": 5, "job": "ab"})) == Unknown(
        code=0x3E, request=5, job="ab"
    )
    assert decode(frames_of(0x3E, {"request": "no", "job": 1})) == Unknown(code=0x3E)


def test_another_major_version_is_told_apart() -> None:
    error = refused([b"EJP2\x01\x00", msgpack.packb({})])
    assert error.code == "version"


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [MAGIC + b"\x70\x00"],
        [MAGIC + b"\x70\x00", b"\x80", b"", b"", b""],
        [b"HTTP/1", b"\x80"],
        [MAGIC + b"\x70", b"\x80"],
        [MAGIC + b"\x70\x00", b"\x90"],
        [MAGIC + b"\x70\x00", b""],
        [MAGIC + b"\x70\x00", b"\x80\x80"],
    ],
)
def test_what_is_no_message_is_fatal(frames: list[bytes]) -> None:
    assert refused(frames).fatal


def test_a_header_over_its_limit_is_refused() -> None:
    assert refused(frames_of(Type.PING, {"number": 1, "x": "y" * 5000})).fatal


def test_a_body_over_its_limit_says_whose_it_was_and_is_not_fatal() -> None:
    header = {"request": 9, "name": "x", "credit_messages": 1, "credit_bytes": 1}
    error = refused(frames_of(Type.SUBMIT, header, b"x" * 5000), limits=Limits(submit=4096))
    assert (error.code, error.request, error.fatal) == ("limit", 9, False)


def test_each_kind_of_message_has_its_own_limit() -> None:
    limits = Limits(control=65536, submit=8192, output=524_288)
    rows = {"job": "a", "seq": 1, "stream": "stdout"}
    decode(frames_of(Type.TEXT, rows, b"x" * 524_288), limits)
    assert refused(frames_of(Type.TEXT, rows, b"x" * 524_289), limits=limits).code == "limit"
    cancel = {"job": "a"}
    decode(frames_of(Type.CANCEL, cancel, b"x" * 65536), limits)
    assert refused(frames_of(Type.CANCEL, cancel, b"x" * 65537), limits=limits).code == "limit"


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def test_nesting_is_bounded() -> None:
    header = {"job": "a", "need": 1}
    good = b"\x81\xa5value" + nested(15)
    assert isinstance(decode(frames_of(Type.SUPPLY, header, good)), Supply)
    refused(frames_of(Type.SUPPLY, header, b"\x81\xa5value" + nested(16)))
    refused(frames_of(Type.SUPPLY, header, b"\x81\xa5value" + nested(1000)))
    refused(frames_of(Type.SUPPLY, header, b"\x81\xa5value" + nested(60_000)))


def test_nesting_in_rows_is_bounded_whatever_count_says() -> None:
    row = {"job": "a", "seq": 1, "count": 1}
    decode(frames_of(Type.ROWS, row, b"\x91\x91" + nested(14)))
    refused(frames_of(Type.ROWS, row, b"\x91\x91" + nested(15)))
    refused(frames_of(Type.ROWS, {**row, "count": 60_000}, b"\x91\x91" + nested(15)))


def test_counts_of_elements_are_bounded() -> None:
    limits = Limits(elements=256)
    good = msgpack.packb({"args": ["x"] * 256})
    header = {"request": 1, "name": "x", "credit_messages": 1, "credit_bytes": 1}
    decode(frames_of(Type.SUBMIT, header, good), limits)
    bad = msgpack.packb({"args": ["x"] * 257})
    refused(frames_of(Type.SUBMIT, header, bad), limits=limits)
    claimed = b"\x81\xa4args\xdd\xff\xff\xff\xff"  # four thousand million, and then nothing
    refused(frames_of(Type.SUBMIT, header, claimed))


@pytest.mark.parametrize(
    "body", [b"\x81\xa1x\xd4\x01\x00", b"\x81\xa1x\xd6\xff\x00\x00\x00\x00", b"\xc7\x00\x05"]
)
def test_extension_types_are_refused(body: bytes) -> None:
    refused(frames_of(Type.SUPPLY, {"job": "a", "need": 1}, body))


def test_keys_that_are_no_text_are_refused() -> None:
    refused(frames_of(Type.SUPPLY, {"job": "a", "need": 1}, b"\x81\x01\x02"))
    refused(frames_of(Type.SUPPLY, {"job": "a", "need": 1}, b"\x81\xc4\x01a\x02"))


def test_what_is_missing_or_of_the_wrong_type_is_named_without_its_content() -> None:
    assert "'job'" in str(refused(frames_of(Type.CANCEL, {})))
    body = msgpack.packb({"env": {"authConfig": {"password": "s3cret"}}})
    header = {"request": 1, "name": "x", "credit_messages": 1, "credit_bytes": 1}
    error = refused(frames_of(Type.SUBMIT, header, body))
    assert "'env'" in str(error)
    assert "s3cret" not in str(error)
    assert error.request == 1


def test_secrets_of_a_submission_are_not_in_its_repr() -> None:
    submit = Submit(
        request=1, name="x", credit_messages=1, credit_bytes=1, env={"authConfig": "s3cret"}
    )
    assert "s3cret" not in repr(submit)
    assert "s3cret" not in repr(Supply(job="a", need=1, value="s3cret"))


# what later versions may say


def test_words_of_a_later_version_do_no_harm() -> None:
    state = decode(frames_of(Type.STATE, {"job": "a", "seq": 1, "state": "pondering"}))
    assert isinstance(state, Output)
    assert state.record is None
    end = decode(frames_of(Type.END, {"job": "a", "seq": 1, "state": "evicted", "status": 1}))
    assert isinstance(end, Output)
    assert isinstance(end.record, End)
    assert end.record.state is State.FAILED
    schema = decode(
        frames_of(Type.SCHEMA, {"job": "a", "seq": 1}, msgpack.packb([["x", "colour", 1]]))
    )
    assert isinstance(schema, Output)
    assert schema.record == Schema(columns=(Column(name="x", type=ColumnType.JSON),))
    with pytest.raises(ProtocolError, match="not understood"):
        encode(state)


# what goes out


def test_a_record_over_the_limit_is_refused_at_the_sender() -> None:
    with pytest.raises(LimitError, match=r"at most 524288 go into a message: .* smaller parts"):
        encode_record("a", 1, Data(data=b"x" * 524_289), LEAST)
    columns = tuple(Column(name=f"{number}{'x' * 1000}") for number in range(100))
    with pytest.raises(LimitError, match="in one SCHEMA; at most 65536 go into"):
        encode_record("a", 1, Schema(columns=columns), LEAST)


def test_cells_that_have_no_form_are_refused_at_the_sender() -> None:
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    with pytest.raises(TableError, match="nest"):
        encode_record("a", 1, Rows(rows=[[deep]]))
    with pytest.raises(TableError, match="key"):
        encode_record("a", 1, Rows(rows=[[{1: 2}]]))
    with pytest.raises(TableError):
        encode_record("a", 1, Rows(rows=[[2**64]]))
    with pytest.raises(TableError):
        encode_record("a", 1, Rows(rows=[[object()]]))


@pytest.mark.parametrize(
    "record",
    [
        Rows(rows=[[[1] * 70_000]]),
        Rows(rows=[["x", {"deeper": [[0] * 70_000]}]]),
        Rows(rows=[[{str(number): 0 for number in range(70_000)}]]),
        Schema(columns=tuple(Column(name=str(number)) for number in range(70_000))),
    ],
)
def test_what_has_too_many_elements_is_refused_at_the_sender(record: Record) -> None:
    with pytest.raises(TableError, match="'elements' is 65536"):
        encode_record("a", 1, record)


@pytest.mark.parametrize("char", ["x", "é", "😀", "\udc80"])
def test_what_a_job_says_of_itself_goes_out_whatever_it_says(char: str) -> None:
    long = char * 100_000
    for record in (
        End(state=State.FAILED, status=1, code=long, message=long, rows=2**63, bytes=2**63),
        Log(level=long, text=long, time=0.0),
        Log(level=long, text=long, time=0.0, fields={f"{n}{long}": long for n in range(40)}),
        Need(what=long),
        StateChange(state=State.RUNNING, attempt=2**63),
    ):
        output = decode(encode_record("j" * 64, 2**63, record, LEAST), LEAST)
        assert isinstance(output, Output)
        assert type(output.record) is type(record)
    item = Progress(key=long, phase=long, done=2**63, total=2**63)
    report = decode(encode_progress("j" * 64, [item] * PROGRESS_ITEMS), LEAST)
    assert isinstance(report, ProgressReport)
    assert len(report.items) == PROGRESS_ITEMS


def test_the_limits_in_force_bound_what_is_sent() -> None:
    tight = Limits(elements=256, nesting=8)
    with pytest.raises(TableError, match="'elements' is 256"):
        encode_record("a", 1, Rows(rows=[[[1] * 257]]), tight)
    with pytest.raises(TableError, match="'nesting' is 8"):
        encode_record("a", 1, Rows(rows=[[[[[[[[[1]]]]]]]]]), tight)
    for record in (
        Rows(rows=[[[1] * 256, [[[[[[1]]]]]]]]),
        Log(level="info", text="t", time=0.0, fields={"long": [1] * 257, "deep": [[[[[[[1]]]]]]]}),
    ):
        assert isinstance(decode(encode_record("a", 1, record, tight), tight), Output)


def test_text_that_is_no_unicode_goes_out_with_marks_in_it() -> None:
    for record in (Rows(rows=[["a\udc80"]]), Text(text="a\udc80"), Log(
        level="info", text="a\udc80", time=0.0, fields={"x": "\udc80"}
    )):  # fmt: skip
        output = decode(encode_record("a", 1, record))
        assert isinstance(output, Output)
        assert "a?" in repr(output.record)


def test_a_log_line_goes_out_whatever_its_fields_are() -> None:
    line = Log(level="info", text="x" * 100_000, time=0.0, fields={"o": {1, 2}, "k": {3: 4}})
    output = decode(encode_record("a", 1, line))
    assert isinstance(output, Output)
    assert isinstance(output.record, Log)
    assert output.record.fields == {"o": "{1, 2}", "k": "{3: 4}"}


def test_a_log_line_goes_out_whose_fields_cannot_be_shown() -> None:
    class Mute:
        def __str__(self) -> str:
            raise ValueError("no words")

    line = Log(level="info", text="t", time=0.0, fields={"mute": Mute(), "n": 1})
    output = decode(encode_record("a", 1, line))
    assert isinstance(output, Output)
    assert isinstance(output.record, Log)
    assert output.record.fields == {"mute": "<Mute>", "n": "1"}


def test_a_long_message_is_clipped_and_not_lost() -> None:
    output = decode(encode_record("a", 1, End(state=State.FAILED, status=1, message="é" * 100_000)))
    assert isinstance(output, Output)
    assert isinstance(output.record, End)
    assert output.record.message.endswith("é…")
    error = decode(encode(Error(code="x", message="y" * 100_000)))
    assert isinstance(error, Error)
    assert len(error.message) == 16 * 1024


def test_a_submission_over_the_engines_limit_is_refused_at_the_client() -> None:
    submit = Submit(request=1, name="x", credit_messages=1, credit_bytes=1, args=("x" * 5000,))
    with pytest.raises(LimitError, match="file"):
        check_submit(encode(submit), Limits(submit=4096))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"args": ("x",) * 70_000}, "'elements' is 65536"),
        ({"env": {str(number): "" for number in range(70_000)}}, "'elements' is 65536"),
        ({"name": "é" * 256, "key": "é" * 256}, "a header of 1[0-9]{3} bytes"),
    ],
)
def test_a_submission_that_would_be_a_breach_is_refused_at_the_client(
    more: dict[str, Any], problem: str
) -> None:
    values = {"request": 1, "name": "x", "credit_messages": 1, "credit_bytes": 1, **more}
    with pytest.raises(LimitError, match=problem):
        check_submit(encode(Submit(**values)), Limits(header=1024))


def test_a_message_is_checked_where_it_is_made() -> None:
    with pytest.raises(ProtocolError, match="'job'"):
        Credit(job="", messages=1, bytes=1)
    with pytest.raises(ProtocolError, match="'messages'"):
        Credit(job="a", messages=-1, bytes=1)
    with pytest.raises(ProtocolError, match="'messages'"):
        Credit(job="a", messages=True, bytes=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ping(number=1).number = 2  # type: ignore[misc]


def test_an_error_says_what_the_exception_said() -> None:
    error = error_of(UnknownJobError("no such job: 'x'"), request=4)
    assert (error.code, error.status, error.request) == ("unknown-job", 127, 4)


def test_limits_come_from_a_peer_with_sense() -> None:
    assert Limits.from_map({"submit": 8192, "output": True, "control": -1, "x": 1}) == Limits(
        submit=8192
    )
    assert Limits.from_map(Limits(frames=5).to_map()) == Limits(frames=5)
    with pytest.raises(ValueError, match="header"):
        Limits(header=10)


def test_the_layout_names_every_field() -> None:
    for cls in MESSAGES:
        assert [name for name, _, _ in layout(cls)] == [
            field.name for field in dataclasses.fields(cls)
        ]
