"""What a person at a terminal sees: tables and progress bars, drawn by rich.

This module alone imports rich, and it is imported where there is a terminal only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from ..records import Progress as ProgressRecord
from ..spec import Column
from .cells import Kind, kind_of, short_key, shown
from .text import printable
from .writers import SAMPLE_ROWS, RawWriter

__all__ = ["Bars", "TableWriter", "column_widths"]

_GAP = 2
_NARROWEST = 10
_MOST_BARS = 8
_TOTAL = "total"
_ECHO = len("^C") + 1


class TableWriter(RawWriter):
    """A table whose columns fit the terminal. ``console`` may be changed between calls: to
    the one that draws the bars, so that rows come to stand above them. ``more`` says that
    further rows may come, for whose cells the columns take the room that is left."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self.own_console = Console(file=out, highlight=False)
        self.console = self.own_console
        self.more = True
        self._columns: Sequence[Column] = ()
        self._kinds: list[Kind] = []
        self._pending: list[list[str]] = []
        self._widths: list[int] = []

    @property
    def held(self) -> bool:
        return bool(self._pending)

    def schema(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._kinds = [kind_of(column) for column in columns]

    def row(self, cells: Sequence[Any]) -> None:
        pairs = zip(self._kinds, cells, strict=True)
        self._pending.append([shown(kind, cell) for kind, cell in pairs])
        if self._widths or len(self._pending) >= SAMPLE_ROWS:
            self.flush()

    def text(self, text: str) -> None:
        self.flush()
        self.console.print(Text(printable(text)), end="", soft_wrap=True)

    def flush(self) -> None:
        """Draw the rows that are held, under the heading where it has not been drawn."""
        if not self._columns or (self._widths and not self._pending):
            return
        total = self.console.width
        if not self._widths:
            names = [printable(column.name.upper(), lines=False) for column in self._columns]
            rows = [names, *self._pending]
            self._widths = column_widths(rows, self._kinds, total, more=self.more)
            self._draw(self._widths, [names], "bold")
        for widths, alike in groupby(self._pending, self._widths_of):
            self._draw(widths, alike)
        self._pending.clear()

    def _widths_of(self, row: Sequence[str]) -> list[int]:
        """The widths for one row: a number that is wider than its column moves the others."""
        wanted = [
            max(width, cell_len(cell)) if kind.right else width
            for width, kind, cell in zip(self._widths, self._kinds, row, strict=True)
        ]
        if wanted == self._widths:
            return self._widths
        return _narrowed(wanted, self._kinds, self.console.width)

    def _draw(self, widths: Sequence[int], rows: Iterable[Sequence[str]], style: str = "") -> None:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
        for kind, width in zip(self._kinds, widths, strict=True):
            table.add_column(
                width=width,
                justify="right" if kind.right else "left",
                overflow="fold" if kind.folds or kind.right else "ellipsis",
                no_wrap=not (kind.folds or kind.right),
            )
        for row in rows:
            table.add_row(*map(Text, row), style=style)
        self.console.print(table)


def column_widths(
    rows: Sequence[Sequence[str]], kinds: Sequence[Kind], total: int, *, more: bool = False
) -> list[int]:
    """The width of each column so that a row fits ``total`` cells, as far as that can be:
    the lowest rank gives way first, the widest of it most.

    Where ``more`` rows may come, the columns that may need it share the room that is left; what
    then is still left goes to the last one, where it moves nothing.
    """
    wanted = [
        max(kind.least, *(cell_len(cell) for cell in column))
        for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)
    ]
    return _widened(wanted, kinds, total) if more else _narrowed(wanted, kinds, total)


def _widened(wanted: list[int], kinds: Sequence[Kind], total: int) -> list[int]:
    spare = total - _GAP * len(wanted) - sum(wanted)
    if spare <= 0:
        return _narrowed(wanted, kinds, total)
    growing = [place for place, kind in enumerate(kinds) if wanted[place] < kind.roomy]
    while spare and growing:
        narrowest = min(growing, key=lambda place: wanted[place])
        wanted[narrowest] += 1
        spare -= 1
        if wanted[narrowest] >= kinds[narrowest].roomy:
            growing.remove(narrowest)
    if kinds[-1].folds:
        wanted[-1] += spare
    return wanted


def _narrowed(wanted: list[int], kinds: Sequence[Kind], total: int) -> list[int]:
    room = total - _GAP * len(wanted)
    for rank in sorted({kind.rank for kind in kinds}):
        narrow = [place for place, kind in enumerate(kinds) if kind.rank == rank]
        while sum(wanted) > room and narrow:
            widest = max(narrow, key=lambda place: wanted[place])
            if wanted[widest] <= _NARROWEST:
                break
            wanted[widest] -= 1
    return wanted


class _Lines(Progress):
    """What moves, in the order it came, and the sum of it last."""

    def get_renderables(self) -> Iterable[RenderableType]:
        tasks = sorted(self.tasks, key=lambda task: task.fields["last"])
        yield _Short(self.make_tasks_table(tasks))


class _Short:
    """With room at the end of the lines for the ``^C`` that a terminal shows: were it to go on
    to a further line, rich would erase the wrong ones."""

    def __init__(self, lines: RenderableType) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Constrain(self._lines, max(1, options.max_width - _ECHO))


class Bars:
    """One bar for each thing that moves, at most a screenful, and one for all of them.

    rich draws them on a thread of its own, which ends with `stop`.
    """

    def __init__(self, err: IO[str]) -> None:
        self.console = Console(file=err, highlight=False)
        self._progress: Progress | None = None  # while they are drawn
        self._moving: dict[str, ProgressRecord] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._total: TaskID | None = None

    @property
    def drawn(self) -> bool:
        return self._progress is not None

    def update(self, record: ProgressRecord) -> None:
        """Show how far one thing has come; what has come to its end leaves the screen."""
        key = record.key
        self._seen[key] = (record.done, max(record.total, record.done))
        if 0 <= record.total <= record.done:
            self._moving.pop(key, None)
        elif key in self._moving or len(self._moving) < self._room:
            self._moving[key] = record
        if self._progress is None:
            self.start()
        else:
            self._show(self._progress, key)
            self._sum(self._progress)

    def start(self) -> None:
        """Draw the bars where they are not. Each time rich gets a new start: it would go back
        to where it drew last, and erase what has been written there since."""
        if self._progress is not None or not self._seen:
            return
        progress = self._made()
        self._tasks.clear()
        self._total = None
        for key in self._moving:
            self._show(progress, key)
        self._sum(progress)
        progress.start()
        self._progress = progress

    def stop(self) -> None:
        """Take the bars off the screen; `start` brings them back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.console.print(Text(line), soft_wrap=True)

    @property
    def _room(self) -> int:
        return max(1, min(_MOST_BARS, self.console.height - 3))

    def _made(self) -> Progress:
        return _Lines(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[phase]}", markup=False),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self.console,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _show(self, progress: Progress, key: str) -> None:
        record = self._moving.get(key)
        task = self._tasks.get(key)
        if record is None:
            if task is not None:
                progress.remove_task(self._tasks.pop(key))
            return
        if task is None:
            task = progress.add_task(short_key(key), total=None, phase="", last=False)
            self._tasks[key] = task
        total = record.total if record.total >= 0 else None
        progress.update(task, completed=record.done, total=total, phase=_word(record.phase))

    def _sum(self, progress: Progress) -> None:
        if len(self._seen) < 2:
            return
        done = sum(pair[0] for pair in self._seen.values())
        total = sum(pair[1] for pair in self._seen.values())
        if self._total is None:
            self._total = progress.add_task(_TOTAL, total=total, phase="", last=True)
        ended = sum(pair[0] >= pair[1] for pair in self._seen.values())
        phase = f"{ended} of {len(self._seen)}"
        progress.update(self._total, completed=done, total=total, phase=phase)


def _word(phase: str) -> str:
    return printable(phase, lines=False)[:16]
