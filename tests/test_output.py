"""The output log: numbers without gaps, credit, waiting, forgetting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Column, ColumnType, State
from engine.errors import CancelledError, GapError, TableError
from engine.output import BATCH_ROWS, PROGRESS_KEYS, PROGRESS_PACE, Entry, OutputLog, Reader
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


def test_a_column_name_that_stands_twice_is_refused() -> None:
    log = OutputLog()
    with pytest.raises(TableError, match="stands twice"):
        log.schema([Column(name="a"), Column(name="a")])
    assert (log.last, log.columns) == (0, None)


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
    for n in range(3 * PROGRESS_KEYS):
        log.progress(Progress(key=str(n), phase="x", done=n))
    assert len(reader.progress()) == PROGRESS_KEYS


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


# what cannot be encoded, and who must not suffer from it


def picky(seq: int, record: Record) -> tuple[bytes, ...]:
    if isinstance(record, Rows) and any(row[0] < 0 for row in record.rows):
        raise TableError("a row that has no form")
    return encode(seq, record)


def test_a_batch_that_cannot_be_encoded_hurts_neither_reader_nor_end() -> None:
    log = OutputLog(encode=picky)
    log.schema(NUMBER)
    reader = log.attach(nothing)
    log.row([1])
    log.row([-1])  # it waits for its batch
    while (due := reader.due) is not None and due > time.monotonic():
        threading.Event().wait(0.002)
    assert [entry.seq for entry in drain(reader)] == [1, 2]
    log.append(StateChange(state=State.CANCELLING))
    error = log.settle()
    assert isinstance(error, TableError)
    assert log.settle() is None
    assert log.rows_emitted == 1
    log.end(end(State.FAILED))
    entries = drain(reader)
    assert [entry.seq for entry in entries] == [3, 4]
    assert entries[-1].end


def test_the_next_row_tells_of_a_batch_that_could_not_be_encoded() -> None:
    log = OutputLog(encode=picky)
    log.schema(NUMBER)
    log.row([1])
    log.row([-1])
    log.append(StateChange(state=State.RUNNING))  # flushes
    with pytest.raises(TableError):
        log.row([2])
    log.row([2])
    log.rows([[3]])
    log.end(end())
    assert log.rows_emitted == 3


def test_what_is_offered_never_waits() -> None:
    log = OutputLog(encode=encode, quota=100)
    log.attach(nothing)
    line = Log(level="info", text="x" * 60, time=0.0)
    assert log.offer(line)
    assert not log.offer(line)
    log.append(line, wait=False)
    assert log.last == 2


def test_what_a_reader_remembers_of_progress_is_bounded() -> None:
    log = OutputLog()
    reader = log.attach(nothing)
    for n in range(50):
        log.progress(Progress(key=str(n), phase="x", done=n))
        reader.progress()
        reader._shown[str(n)] -= 1.0  # a second ago
        reader._turned -= 1.0
    reader.progress()
    assert len(reader._shown) == 0


def test_of_a_thousand_keys_the_last_progress_of_each_is_shown() -> None:
    log = OutputLog()
    reader = log.attach(nothing)
    for phase in ("fetching", "fetched"):
        for n in range(1000):
            log.progress(Progress(key=str(n), phase=phase, done=n))
        if phase == "fetching":
            reader.progress()
    log.end(end())
    assert sorted(int(item.key) for item in reader.progress()) == list(range(1000))


def test_many_keys_at_once_wake_a_reader_once_a_turn() -> None:
    log = OutputLog()
    wakes: list[None] = []
    reader = log.attach(lambda: wakes.append(None))

    def move(*keys: str) -> int:
        before = len(wakes)
        for key in keys:
            log.progress(Progress(key=key, phase="x", done=1))
        return len(wakes) - before

    assert move("first") == 1, "it is shown at once"
    assert [item.key for item in reader.progress()] == ["first"]
    assert move(*map(str, range(50))) == 1
    assert reader.progress() == [], "so soon after the first"
    due = reader.due
    assert due is not None
    assert due <= time.monotonic() + PROGRESS_PACE, "the reader knows when to look again"
    assert move(*map(str, range(50, 60))) == 0
    reader._turned -= 1.0  # a second later
    assert len(reader.progress()) == 60
    assert move("first") == 1, "it waits for its quarter of a second, and nobody is awaited"
    assert reader.progress() == []
    assert reader.due is not None
    assert move("another") == 1, "it is due sooner than what is awaited"


def test_a_key_that_moves_is_kept_before_one_that_rests() -> None:
    log = OutputLog()
    for n in range(PROGRESS_KEYS):
        log.progress(Progress(key=str(n), phase="x", done=0))
    log.progress(Progress(key="0", phase="x", done=1))
    log.progress(Progress(key="new", phase="x", done=1))
    shown = {item.key for item in log.attach(nothing).progress()}
    assert {"0", "new"} <= shown
    assert "1" not in shown
