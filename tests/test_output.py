"""The output log: numbers without gaps, credit, waiting, forgetting."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Column, ColumnType, State
from engine.errors import CancelledError, GapError
from engine.output import BATCH_ROWS, Entry, OutputLog, Reader
from engine.records import Data, End, Log, Progress, Record, Rows, StateChange, Text

NUMBER = (Column(name="n", type=ColumnType.INTEGER),)
PLENTY = 10**9


def encode(seq: int, record: Record) -> tuple[bytes, ...]:
    return (f"{seq} {record}".encode(),)


def nothing() -> None:
    pass


def drain(reader: Reader) -> list[Entry]:
    reader.progress()
    return reader.take(messages=PLENTY, size=PLENTY)


def end(state: State = State.OK) -> End:
    return End(state=state, status=0)


def cells(entries: list[Entry]) -> list[int]:
    return [row[0] for e in entries if isinstance(e.record, Rows) for row in e.record.rows]


@given(st.lists(st.sampled_from(["row", "text", "data", "log", "state"]), max_size=60))
def test_numbers_start_at_one_and_have_no_gap(kinds: list[str]) -> None:
    log = OutputLog()
    log.schema(NUMBER)
    sent = 0
    for kind in kinds:
        if kind == "row":
            log.row([sent])
            sent += 1
        elif kind == "text":
            log.append(Text(text="t"))
        elif kind == "data":
            log.append(Data(data=b"d"))
        elif kind == "log":
            log.append(Log(level="info", text="l", time=0.0))
        else:
            log.append(StateChange(state=State.RUNNING))
    log.end(end())
    entries = drain(log.attach(nothing))
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert cells(entries) == list(range(sent))
    assert entries[-1].end


@given(
    st.lists(st.integers(0, 20), max_size=40),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=200),
)
def test_any_credit_gives_every_entry_once_in_order(
    sizes: list[int], grants: list[tuple[int, int]]
) -> None:
    log = OutputLog(encode=encode)
    for size in sizes:
        log.append(Text(text="x" * size))
    log.end(end())
    reader = log.attach(nothing)
    got: list[int] = []
    for messages, size in [*grants, (PLENTY, PLENTY)]:
        taken = reader.take(messages=messages, size=size)
        assert len([entry for entry in taken if not entry.free]) <= messages
        got += [entry.seq for entry in taken]
    assert got == list(range(1, len(sizes) + 2))
    assert reader.exhausted


def test_the_first_row_goes_at_once_and_the_rest_in_batches() -> None:
    log = OutputLog()
    log.schema(NUMBER)
    reader = log.attach(nothing)
    log.row([0])
    assert cells(drain(reader)) == [0]
    for n in range(1, 2 * BATCH_ROWS + 1):
        log.row([n])
    log.end(end())
    batches = [entry for entry in drain(reader) if isinstance(entry.record, Rows)]
    assert cells(batches) == list(range(1, 2 * BATCH_ROWS + 1))
    assert all(len(e.record.rows) <= BATCH_ROWS for e in batches if isinstance(e.record, Rows))
    assert len(batches) <= 5  # by count; a slow machine may add one by the clock


def test_a_batch_that_nothing_follows_falls_due() -> None:
    told = threading.Event()
    log = OutputLog()
    log.schema(NUMBER)
    reader = log.attach(told.set)
    log.row([0])
    log.row([1])
    assert told.is_set()
    got: list[int] = []
    while len(got) < 2:
        got += cells(drain(reader))
        due = reader.due
        assert due is not None or len(got) == 2
    assert got == [0, 1]


def test_single_rows_are_a_message_each() -> None:
    log = OutputLog(single_rows=True)
    log.schema(NUMBER)
    log.rows([[n] for n in range(5)])
    entries = drain(log.attach(nothing))
    assert [len(e.record.rows) for e in entries if isinstance(e.record, Rows)] == [1] * 5


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come to pass within 10 s")


def test_emission_waits_for_a_slow_reader_and_goes_on_when_it_reads() -> None:
    log = OutputLog(encode=encode, quota=1000)
    reader = log.attach(nothing)
    done = threading.Event()

    def produce() -> None:
        for n in range(100):
            log.append(Text(text=f"{n:050}"))
        done.set()

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: log.held > 1000)
    assert not done.is_set()
    assert log.held < 1200  # one entry over the quota at the most
    seen: list[int] = []
    while not done.is_set() or len(seen) < 100:
        seen += [entry.seq for entry in drain(reader)]
    producer.join()
    assert seen == list(range(1, 101))


def test_nothing_is_forgotten_before_the_first_reader_came() -> None:
    log = OutputLog(encode=encode, quota=500)

    def produce() -> None:
        for _ in range(20):
            log.append(Text(text="x" * 100))

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: log.held > 500)
    reader = log.attach(nothing)
    seen: list[int] = []
    while len(seen) < 20:
        seen += [entry.seq for entry in drain(reader)]
    producer.join()
    assert seen == list(range(1, 21))


def test_when_the_last_reader_left_the_oldest_is_forgotten_and_the_job_goes_on() -> None:
    log = OutputLog(encode=encode, quota=1000)
    log.attach(nothing).close()
    for _ in range(100):
        log.append(Text(text="x" * 100))
    assert log.held <= 1000
    assert log.first > 1
    with pytest.raises(GapError) as caught:
        log.attach(nothing)
    assert caught.value.first == log.first
    first = log.first
    rest = drain(log.attach(nothing, after=first - 1))
    assert [entry.seq for entry in rest] == list(range(first, 101))


def test_a_kept_log_can_be_read_again_while_the_quota_has_room() -> None:
    log = OutputLog(encode=encode, quota=100_000, keep=True)
    log.append(Text(text="a"))
    log.end(end())
    first = log.attach(nothing)
    assert len(drain(first)) == 2
    first.close()
    assert len(drain(log.attach(nothing))) == 2


def test_an_abort_wakes_a_waiting_producer() -> None:
    log = OutputLog(encode=encode, quota=100)
    log.attach(nothing)
    raised: list[BaseException] = []

    def produce() -> None:
        try:
            while True:
                log.append(Text(text="x" * 60))
        except CancelledError as error:
            raised.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: log.held > 100)
    log.abort(CancelledError("enough"))
    producer.join(5)
    assert not producer.is_alive()
    assert str(raised[0]) == "enough"


def test_progress_is_the_newest_of_each_key_and_the_last_is_never_lost() -> None:
    log = OutputLog(encode=encode)
    reader = log.attach(nothing)
    for done in range(1000):
        log.progress(Progress(key="a", phase="fetching", done=done))
    assert [item.done for item in reader.progress()] == [999]
    log.progress(Progress(key="a", phase="fetched", done=1000))
    assert reader.progress() == []  # within a quarter of a second
    assert reader.due is not None
    log.end(end())
    assert reader.take(messages=9, size=PLENTY) == []  # the end waits for the progress
    assert [item.phase for item in reader.progress()] == ["fetched"]
    assert reader.take(messages=9, size=PLENTY)[-1].end


def test_a_later_reader_gets_the_progress_as_it_stands() -> None:
    log = OutputLog()
    log.progress(Progress(key="a", phase="fetching", done=5))
    assert [item.done for item in log.attach(nothing).progress()] == [5]


def test_progress_keys_are_bounded() -> None:
    log = OutputLog()
    reader = log.attach(nothing)
    for n in range(1000):
        log.progress(Progress(key=str(n), phase="x", done=n))
    assert len(reader.progress()) == 256


def test_the_end_is_the_last_record() -> None:
    log = OutputLog()
    log.schema(NUMBER)
    log.end(end())
    with pytest.raises(RuntimeError):
        log.append(Text(text="late"))
    with pytest.raises(RuntimeError):
        log.row([1])
    with pytest.raises(RuntimeError):
        log.end(end())
    assert log.wait(0)


def test_one_schema_before_the_rows() -> None:
    log = OutputLog()
    with pytest.raises(ValueError, match="schema first"):
        log.row([1])
    log.schema(NUMBER)
    log.schema(NUMBER)
    with pytest.raises(ValueError, match="one schema"):
        log.schema((Column(name="other"),))
