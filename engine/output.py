"""A job's output: one numbered, append-only log, and the readers of it.

The job's handler appends; whoever follows the job reads, each at its own pace. A record gets
its number when it is appended, and its frames then too where the log was given an encoder, so
that every reader sends the same bytes. What all readers have taken is forgotten, oldest
first, once the log holds more than its quota; while a reader has not taken it, emission
waits instead. A slow reader so holds up its own job's emission and nothing else.

One mutex guards all of it. Callbacks are called without it, from the thread that appended.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from .errors import EngineError, GapError, TableError
from .records import Data, End, Log, Need, Progress, Record, Rows, Schema, StateChange, Text
from .spec import Column
from .table import RowChecker

__all__ = ["Encoder", "Entry", "OutputLog", "Reader"]

#: From a record and its number to its frames on the wire.
Encoder: TypeAlias = Callable[[int, Record], Sequence[bytes]]

BATCH_ROWS = 100
BATCH_BYTES = 64 * 1024
BATCH_SECONDS = 0.020
PROGRESS_SECONDS = 0.25  # between two of one key
PROGRESS_PACE = 0.02  # between two turns of all keys, so that many small ones cost few messages
PROGRESS_KEYS = 1024
_OVERHEAD = 64  # what a record costs beside its content, in the in-process estimate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A numbered record. ``frames`` where the log encodes, else ``record``.

    ``size`` is what it costs a reader in bytes of credit; a ``free`` entry costs none.
    """

    seq: int
    record: Record | None
    frames: Sequence[bytes] | None
    size: int
    free: bool
    end: bool = False


class OutputLog:
    """The output of one job.

    ``quota`` is how many bytes may lie in the log before emission waits for the readers
    (None: no bound, and everything is kept). Until the first reader came, emission waits at
    the quota too, so that nothing of a job's beginning is lost; when the last reader has
    left, the oldest output is forgotten instead, and the job goes on.

    With ``keep``, what was taken stays readable for a later reader as long as the quota has
    room for it.
    """

    def __init__(
        self,
        *,
        encode: Encoder | None = None,
        quota: int | None = None,
        single_rows: bool = False,
        keep: bool = False,
    ) -> None:
        self._encode = encode
        self._quota = quota
        self._keep = keep or quota is None
        self._batch_rows = 1 if single_rows else BATCH_ROWS
        self._mutex = threading.Lock()
        self._room = threading.Condition(self._mutex)
        self._finished = threading.Condition(self._mutex)
        self._waiting = 0  # who waits for room; telling nobody costs as much as telling someone
        self._entries: dict[int, Entry] = {}
        self._first = 1
        self._last = 0
        self._held = 0
        self._readers: list[Reader] = []
        self._claimed = False
        self._columns: tuple[Column, ...] | None = None
        self._check: RowChecker | None = None
        self._pending: list[Sequence[Any]] = []
        self._pending_size = 0
        self._pending_due = 0.0
        self._fault: Exception | None = None  # why rows were lost, until somebody was told
        self._idle_since = 0.0  # when the last batch went; the first row after a pause goes at once
        self._progress: dict[str, Progress] = {}
        self._end: End | None = None
        self._aborted: EngineError | None = None
        self.rows_emitted = 0
        self.bytes_emitted = 0

    # the producing side

    @property
    def columns(self) -> tuple[Column, ...] | None:
        return self._columns

    def schema(self, columns: Iterable[Column]) -> None:
        """Say what the rows are made of: once, before the first row."""
        columns = tuple(columns)
        with self._mutex:
            if self._columns is not None:
                if self._columns == columns:
                    return
                raise ValueError("a job has one schema, and it was given already")
            if len({column.name for column in columns}) != len(columns):
                raise TableError("a column name stands twice")
            self._append(Schema(columns=columns))
            self._columns, self._check = columns, RowChecker(columns)
        self._notify()

    def row(self, cells: Sequence[Any]) -> None:
        """Append one row. Waits while the readers are a quota behind.

        Raises `TableError` where the cells do not fit the columns. What only its encoding
        shows, when a batch is full, is raised by this row or the next; the batch is lost.
        """
        check = self._check
        if check is None:
            raise ValueError("rows need a schema first")
        size = check(cells)
        with self._mutex:
            if self._fault is not None:
                self._raise_fault()
            wake = self._add_row(cells, size)
            if wake:
                self._raise_fault()
                self._wait_for_room()
        if wake:
            self._notify()

    def rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append many rows, as `row` does; faster where they are a list already."""
        if not isinstance(rows, (list, tuple)):
            for cells in rows:
                self.row(cells)
            return
        check = self._check
        if check is None:
            raise ValueError("rows need a schema first")
        for start in range(0, len(rows), self._batch_rows):
            batch = rows[start : start + self._batch_rows]
            if check.many(batch) > BATCH_BYTES and len(batch) > 1:
                for cells in batch:
                    self.row(cells)
                continue
            with self._mutex:
                self._flush()
                self._raise_fault()
                self._append(Rows(rows=batch))
                self._idle_since = time.monotonic()
                self.rows_emitted += len(batch)
                self._wait_for_room()
            self._notify()

    def append(self, record: Record, *, wait: bool = True) -> None:
        """Append text, data, a log line, a state or a need; rows that are pending go first.

        States and needs never wait for the readers, nor does anything without ``wait``.
        """
        with self._mutex:
            self._flush()
            self._append(record)
            if wait and not isinstance(record, (StateChange, Need)):
                self._wait_for_room()
        self._notify()

    def offer(self, record: Record) -> bool:
        """Append a record where the quota has room for it; never wait. Whether it had."""
        with self._mutex:
            if self._quota is not None and self._held > self._quota:
                self._trim()
                if self._held > self._quota:
                    return False
            self._flush()
            self._append(record)
        self._notify()
        return True

    def settle(self) -> Exception | None:
        """Append the rows that are pending. The error where rows were lost, for they could
        not be encoded, and nobody has been told yet."""
        with self._mutex:
            self._flush()
            fault, self._fault = self._fault, None
        self._notify()
        return fault

    def progress(self, progress: Progress) -> None:
        """Note how far one thing has come; of each key only the newest counts."""
        with self._mutex:
            if self._end is not None:
                return
            _keep_newest(self._progress, progress)
            wake = [reader for reader in self._readers if reader._note(progress)]
        for reader in wake:
            reader.notify()

    def end(self, end: End) -> None:
        """Append the end. It is written once, and nothing comes after it."""
        with self._mutex:
            self._flush()
            self._append(end)
            self._end = end
            self._finished.notify_all()
            self._room.notify_all()
        self._notify()

    def abort(self, error: EngineError) -> None:
        """From now on raise ``error`` where emission would wait for a reader."""
        with self._mutex:
            self._aborted = error
            self._room.notify_all()

    # the reading side

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def ending(self) -> End | None:
        return self._end

    @property
    def first(self) -> int:
        """The oldest number that is kept (one past `last` where none is)."""
        return self._first

    @property
    def last(self) -> int:
        return self._last

    @property
    def held(self) -> int:
        """How many bytes lie in the log."""
        return self._held

    def attach(self, notify: Callable[[], None], after: int = 0) -> Reader:
        """A reader of all that comes after number ``after``. Raises `GapError` where some of
        it is kept no more. ``notify`` may be called from any thread and must return at once."""
        with self._mutex:
            if after + 1 < self._first:
                raise GapError(self._first)
            reader = Reader(self, notify, after, dict(self._progress))
            self._readers.append(reader)
            self._claimed = True
        return reader

    def release(self) -> None:
        """No reader will come: forget the oldest output rather than wait for one."""
        with self._mutex:
            self._claimed = True
            self._trim()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it has come."""
        with self._mutex:
            return self._finished.wait_for(lambda: self._end is not None, timeout)

    def records(self) -> list[Record]:
        """Every record that is kept, oldest first (only where the log does not encode)."""
        with self._mutex:
            self._flush()
            return [entry.record for entry in self._entries.values() if entry.record is not None]

    # with the mutex held

    def _add_row(self, cells: Sequence[Any], size: int) -> bool:
        """Whether the readers should be told."""
        if self._end is not None:
            raise RuntimeError("the job has ended: no rows after that")
        pending = self._pending
        begun = not pending
        if begun:
            self._pending_due = self._idle_since + BATCH_SECONDS
        pending.append(cells)
        self._pending_size += size
        self.rows_emitted += 1
        if (
            len(pending) >= self._batch_rows
            or self._pending_size >= BATCH_BYTES
            or time.monotonic() >= self._pending_due
        ):
            self._flush()
            return True
        return begun

    def _flush(self) -> None:
        """Append the rows that are pending. It raises nothing: who flushes is often not who
        emitted them (a reader, a cancel, the end)."""
        if self._pending:
            rows, self._pending, self._pending_size = self._pending, [], 0
            try:
                self._append(Rows(rows=rows))
            except Exception as error:
                self._fault = error
                self.rows_emitted -= len(rows)
            self._idle_since = time.monotonic()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _flush_due(self) -> None:
        if self._pending and time.monotonic() >= self._pending_due:
            self._flush()

    def _append(self, record: Record) -> None:
        if self._end is not None:
            raise RuntimeError("the job has ended: no output after that")
        seq = self._last + 1
        try:
            frames = None if self._encode is None else self._encode(seq, record)
        except OverflowError:
            raise TableError("a number has over 64 bits") from None
        size = _estimate(record) if frames is None else sum(map(len, frames))
        self._entries[seq] = Entry(
            seq=seq,
            record=record if frames is None else None,
            frames=frames,
            size=size,
            free=not isinstance(record, (Rows, Text, Data, Log)),
            end=isinstance(record, End),
        )
        self._last = seq
        self._held += size
        self.bytes_emitted += size
        if self._claimed and not self._readers:
            self._trim()

    def _wait_for_room(self) -> None:
        if self._quota is None or self._held <= self._quota:
            return
        self._trim()
        if self._held <= self._quota:
            return
        # the readers must hear of what lies there before anyone waits for them
        self._mutex.release()
        try:
            self._notify()
        finally:
            self._mutex.acquire()
        self._waiting += 1
        try:
            self._room.wait_for(self._may_go_on)
        finally:
            self._waiting -= 1
        if self._held > self._quota and self._aborted is not None:
            raise self._aborted

    def _may_go_on(self) -> bool:
        assert self._quota is not None
        return self._held <= self._quota or self._aborted is not None or self._end is not None

    def _trim(self) -> None:
        """Forget, oldest first, what nobody is going to take."""
        if self._quota is None:
            return
        if self._readers:
            taken = min(reader._taken for reader in self._readers)
        else:
            taken = self._last if self._claimed else 0
        bound = self._quota if self._keep or not self._readers else 0
        while self._first <= taken and self._held > bound:
            entry = self._entries.pop(self._first)
            self._first += 1
            self._held -= entry.size
        if self._waiting:
            self._room.notify_all()

    # without the mutex

    def _notify(self) -> None:
        for reader in tuple(self._readers):
            if not reader._told:
                reader._told = True
                reader.notify()


class Reader:
    """One consumer's place in a log. It belongs to one thread, except `notify`."""

    def __init__(
        self,
        log: OutputLog,
        notify: Callable[[], None],
        after: int,
        progress: dict[str, Progress],
    ) -> None:
        self._log = log
        self.notify = notify
        self._taken = after
        self._told = False
        self._dirty = progress
        self._shown: dict[str, float] = {}
        self._turned = 0.0  # when progress was last taken
        self._awaited = math.inf  # when the reader looks at its progress without being told
        self.exhausted = False

    @property
    def taken(self) -> int:
        """The number of the last entry that was taken."""
        return self._taken

    def take(self, *, messages: int, size: int) -> list[Entry]:
        """What comes next, as far as that much credit allows.

        Free entries always come; another needs one of ``messages`` and some of ``size`` left,
        so that the last one may overdraw ``size``. The end waits until `progress` was taken.
        """
        log = self._log
        taken: list[Entry] = []
        with log._mutex:
            self._told = False
            log._flush_due()
            while (entry := log._entries.get(self._taken + 1)) is not None:
                if not entry.free:
                    if messages < 1 or size < 1:
                        break
                    messages -= 1
                    size -= entry.size
                if entry.end:
                    if self._dirty:
                        break
                    self.exhausted = True
                self._taken = entry.seq
                taken.append(entry)
            if taken:
                log._trim()
        return taken

    def progress(self) -> list[Progress]:
        """The newest of each key that is due: at most 4 a second, all of them at the end."""
        with self._log._mutex:
            now = time.monotonic()
            self._awaited = math.inf
            ended = self._log._end is not None
            due = [item for key, item in self._dirty.items() if ended or self._due(key) <= now]
            for item in due:
                del self._dirty[item.key]
                self._shown[item.key] = now
            if due:
                self._turned = now
            if len(self._shown) > len(self._dirty):  # what was shown long ago binds no more
                self._shown = {
                    key: when for key, when in self._shown.items() if now - when < PROGRESS_SECONDS
                }
        return due

    @property
    def due(self) -> float | None:
        """When (monotonic) a batch or a progress falls due that nobody will tell of."""
        log = self._log
        with log._mutex:
            self._awaited = min(map(self._due, self._dirty), default=math.inf)
            batch = log._pending_due if log._pending else math.inf
        due = min(self._awaited, batch)
        return None if due == math.inf else due

    def close(self) -> None:
        """Read no more. What this reader alone held up goes on."""
        log = self._log
        with log._mutex:
            if self in log._readers:
                log._readers.remove(self)
                log._trim()
                log._room.notify_all()

    def _note(self, progress: Progress) -> bool:
        """Take note; whether the reader's thread must hear of it."""
        _keep_newest(self._dirty, progress)
        due = self._due(progress.key)
        sooner = due < self._awaited
        if sooner:
            self._awaited = due
        return sooner

    def _due(self, key: str) -> float:
        """When (monotonic) the progress of ``key`` may be shown."""
        return max(self._shown.get(key, 0.0) + PROGRESS_SECONDS, self._turned + PROGRESS_PACE)


def _keep_newest(kept: dict[str, Progress], progress: Progress) -> None:
    """Put ``progress`` last; of too many keys the one that rested longest is forgotten."""
    kept.pop(progress.key, None)
    kept[progress.key] = progress
    if len(kept) > PROGRESS_KEYS:
        del kept[next(iter(kept))]


def _estimate(record: Record) -> int:
    if isinstance(record, Rows):
        cells = (cell for row in record.rows for cell in row)
        return _OVERHEAD + sum(len(c) if isinstance(c, (str, bytes)) else 8 for c in cells)
    if isinstance(record, Data):
        return _OVERHEAD + len(record.data)
    if isinstance(record, (Text, Log)):
        return _OVERHEAD + len(record.text)
    return _OVERHEAD
