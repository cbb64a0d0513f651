"""What a person at a terminal sees: tables and progress bars, drawn by rich.

This module alone imports rich, and it is imported where there is a terminal only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console
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


class TableWriter(RawWriter):
    """A table whose columns fit the terminal. ``console`` may be changed between calls: to
    the one that draws the bars, so that rows come to stand above them."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self.own_console = Console(file=out, highlight=False)
        self.console = self.own_console
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
        heading = not self._widths
        names = [printable(column.name.upper(), lines=False) for column in self._columns]
        if heading:
            self._widths = column_widths([names, *self._pending], self._kinds, self.console.width)
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, _GAP, 0, 0),
            show_header=heading,
            header_style="bold",
        )
        for name, kind, width in zip(names, self._kinds, self._widths, strict=True):
            table.add_column(
                name,
                width=width,
                justify="right" if kind.right else "left",
                overflow="fold" if kind.folds else "ellipsis",
                no_wrap=not kind.folds,
            )
        for row in self._pending:
            table.add_row(*map(Text, row))
        self._pending.clear()
        self.console.print(table)


def column_widths(rows: Sequence[Sequence[str]], kinds: Sequence[Kind], total: int) -> list[int]:
    """The width of each column so that a row fits ``total`` cells, as far as that can be:
    the lowest rank gives way first, the widest of it most."""
    wanted = [
        max(kind.least, *(cell_len(cell) for cell in column))
        for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)
    ]
    room = total - _GAP * len(wanted)
    for rank in sorted({kind.rank for kind in kinds}):
        narrow = [place for place, kind in enumerate(kinds) if kind.rank == rank]
        while sum(wanted) > room and narrow:
            widest = max(narrow, key=lambda place: wanted[place])
            if wanted[widest] <= _NARROWEST:
                break
            wanted[widest] -= 1
    return wanted


class Bars:
    """One bar for each thing that moves, at most a screenful, and one for all of them.

    rich draws them on a thread of its own, which ends with `stop`.
    """

    def __init__(self, err: IO[str]) -> None:
        self.console = Console(file=err, highlight=False)
        self._progress = Progress(
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
        self._tasks: dict[str, TaskID] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._total: TaskID | None = None
        self._drawn = False

    @property
    def drawn(self) -> bool:
        return self._drawn

    def update(self, record: ProgressRecord) -> None:
        """Show how far one thing has come; what has come to its end leaves the screen."""
        key = record.key
        known = record.total if record.total >= 0 else None
        self._seen[key] = (record.done, max(record.total, record.done))
        if known is not None and record.done >= known:
            if key in self._tasks:
                self._progress.remove_task(self._tasks.pop(key))
        elif key in self._tasks:
            self._progress.update(
                self._tasks[key], completed=record.done, total=known, phase=_word(record.phase)
            )
        elif len(self._tasks) < self._room:
            self._tasks[key] = self._progress.add_task(
                short_key(key), total=known, completed=record.done, phase=_word(record.phase)
            )
        self._sum()
        self.start()

    def start(self) -> None:
        if not self._drawn and self._seen:
            self._progress.start()
            self._drawn = True

    def stop(self) -> None:
        """Take the bars off the screen; `start` brings them back."""
        if self._drawn:
            self._progress.stop()
            self._drawn = False

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.console.print(Text(line), soft_wrap=True)

    @property
    def _room(self) -> int:
        return max(1, min(_MOST_BARS, self.console.height - 3))

    def _sum(self) -> None:
        if len(self._seen) < 2:
            return
        done = sum(pair[0] for pair in self._seen.values())
        total = sum(pair[1] for pair in self._seen.values())
        if self._total is None:
            self._total = self._progress.add_task(_TOTAL, total=total, phase="")
        ended = sum(pair[0] >= pair[1] for pair in self._seen.values())
        phase = f"{ended} of {len(self._seen)}"
        self._progress.update(self._total, completed=done, total=total, phase=phase)


def _word(phase: str) -> str:
    return printable(phase, lines=False)[:16]
