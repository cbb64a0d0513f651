"""From a job's events to what stands on standard output and standard error."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from ..records import Data, Log, Progress, Schema, Text
from .text import printable
from .writers import CsvWriter, JsonWriter, PlainWriter, Writer

if TYPE_CHECKING:
    from .terminal import Bars, TableWriter

__all__ = ["Presenter"]

#: So many characters of what a job emits wait for the answer to a question.
_KEPT = 4 * 1024 * 1024
#: Rows wait no longer than this for others, before their columns get their widths.
_HOLD_SECONDS = 0.4


class Presenter:
    """Shows one job. Data goes to ``out``, everything else to ``err``.

    A terminal gets drawn tables and moving bars, anything else plain columns and no progress.
    One lock guards it all: `take` is called by who follows the job, `paused` by who asks a
    question, and a timer writes the rows that were held back for their widths. What is taken
    while a question is asked is kept and shown after it, so that who follows the job comes to
    its end; beyond a bound it waits instead.
    """

    def __init__(self, output: str, *, out: IO[str], err: IO[str], verbose: bool = False) -> None:
        self._err = err
        self._verbose = verbose
        self._lock = threading.RLock()
        self._resumed = threading.Condition(self._lock)
        self._paused = False
        self._kept: deque[Any] = deque()
        self._kept_size = 0
        self._timer: threading.Timer | None = None
        self._closed = False
        self._table: TableWriter | None = None
        self._bars: Bars | None = None
        self._shows_progress = err.isatty()
        self._writer = self._writer_of(output, out)
        self._one_terminal = out.isatty() and _same(out, err)

    def _writer_of(self, output: str, out: IO[str]) -> Writer:
        if output == "json":
            return JsonWriter(out)
        if output == "csv":
            return CsvWriter(out)
        if out.isatty():
            from .terminal import TableWriter

            self._table = TableWriter(out)
            return self._table
        return PlainWriter(out)

    def take(self, event: Any) -> None:
        """Show what the job emitted, or keep it while a question is asked."""
        with self._lock:
            while self._paused:
                if self._kept_size < _KEPT:
                    self._kept.append(event)
                    self._kept_size += len(str(event))
                    return
                self._resumed.wait()
            self._show_kept()
            self._show(event)

    def close(self) -> None:
        """Write what is held back, and take the bars off the screen."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._show_kept()
            if self._bars is not None:
                self._bars.stop()
                self._above(None)
            if self._table is not None:
                self._table.more = False
            self._writer.flush()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold everything still, the bars off the screen, for as long as the block runs."""
        with self._lock:
            bars = self._bars if self._bars is not None and self._bars.drawn else None
            if bars is not None:
                bars.stop()
            self._paused = True
        try:
            yield
        finally:
            with self._lock:
                self._paused = False
                if bars is not None and not self._closed:
                    bars.start()
                with contextlib.suppress(OSError):  # who follows meets a broken pipe itself
                    self._show_kept()
                self._hold()
                self._resumed.notify_all()

    def _show_kept(self) -> None:
        while self._kept:
            self._show(self._kept[0])
            self._kept.popleft()
        self._kept_size = 0

    def _show(self, event: Any) -> None:
        if isinstance(event, tuple):
            self._writer.row(event)
            self._hold()
            return
        match event:
            case Schema():
                self._writer.schema(event.columns)
            case Progress():
                self._progress(event)
            case Text(stream="stderr"):
                self._say(event.text.removesuffix("\n"))
            case Text():
                self._writer.text(event.text)
            case Data():
                self._writer.data(event.data)
            case Log() if self._verbose or event.level in ("warning", "error"):
                self._say(f"{event.level}: {event.text}")

    def _progress(self, record: Progress) -> None:
        if not self._shows_progress:
            return
        if self._bars is None:
            from .terminal import Bars

            if self._writer.held:
                self._writer.flush()
            self._bars = Bars(self._err)
            self._above(self._bars)
        self._bars.update(record)

    def _above(self, bars: Bars | None) -> None:
        """Where bars and rows share a terminal, who draws the bars prints the rows too."""
        if self._table is not None and self._one_terminal:
            self._table.console = self._table.own_console if bars is None else bars.console

    def _say(self, line: str) -> None:
        line = printable(line)
        with contextlib.suppress(OSError):  # the data, and the exit status, do without it
            if self._bars is not None and self._bars.drawn:
                self._bars.say(line)
            else:
                self._err.write(f"{line}\n")
                self._err.flush()

    def _hold(self) -> None:
        if self._writer.held and self._timer is None:
            self._timer = threading.Timer(_HOLD_SECONDS, self._release)
            self._timer.daemon = True
            self._timer.start()

    def _release(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # who follows meets a broken pipe itself
            self._timer = None
            if not self._closed and not self._paused:
                self._writer.flush()


def _same(out: IO[str], err: IO[str]) -> bool:
    try:
        return os.fstat(out.fileno()).st_rdev == os.fstat(err.fileno()).st_rdev
    except (OSError, ValueError):
        return False
