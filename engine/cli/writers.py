"""Where rows, text and bytes go on standard output, in each of the formats.

A writer takes what a job emits, in order. `PlainWriter` holds the first rows back until it
knows how wide the columns are; `flush` says that no more rows come for now.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, Any, Protocol

from ..spec import Column
from .cells import csv_cell, json_line, plain
from .text import printable

__all__ = ["CsvWriter", "JsonWriter", "PlainWriter", "RawWriter", "Writer"]

#: So many rows decide how wide the columns are.
SAMPLE_ROWS = 200
#: A longer cell moves the rest of its own row only.
WIDEST = 100


class Writer(Protocol):
    """``held`` tells whether rows wait for a `flush`."""

    @property
    def held(self) -> bool: ...
    def schema(self, columns: Sequence[Column]) -> None: ...
    def row(self, cells: Sequence[Any]) -> None: ...
    def text(self, text: str) -> None: ...
    def data(self, data: bytes) -> None: ...
    def flush(self) -> None: ...


class JsonWriter:
    """One object a line, written as it comes: a row by the names of its columns, text and
    bytes under ``text`` and ``data`` (base64)."""

    held = False

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        # the stream's own escapes for what its encoding does not have are not those of JSON
        self._ascii = not (getattr(out, "encoding", None) or "utf-8").lower().startswith("utf")
        self._names: tuple[str, ...] = ()

    def schema(self, columns: Sequence[Column]) -> None:
        self._names = tuple(column.name for column in columns)

    def row(self, cells: Sequence[Any]) -> None:
        self._write(dict(zip(self._names, cells, strict=True)))

    def text(self, text: str) -> None:
        self._write({"text": text})

    def data(self, data: bytes) -> None:
        self._write({"data": data})

    def flush(self) -> None:
        self._out.flush()

    def _write(self, value: dict[str, Any]) -> None:
        self._out.write(f"{json_line(value, ascii=self._ascii)}\n")
        self._out.flush()


class RawWriter:
    """Text and bytes as they are; on a terminal, without what would steer it."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._terminal = out.isatty()

    def text(self, text: str) -> None:
        self.flush()
        self._out.write(printable(text) if self._terminal else text)
        self._out.flush()

    def data(self, data: bytes) -> None:
        if self._terminal:
            self.text(data.decode("utf-8", "backslashreplace"))
            return
        self.flush()
        if isinstance(self._out, io.TextIOWrapper):
            self._out.buffer.write(data)
            self._out.buffer.flush()
        else:
            self._out.write(data.decode("utf-8", "replace"))

    def flush(self) -> None:
        self._out.flush()


class CsvWriter(RawWriter):
    """CSV with a heading, written as it comes. Lines end as they do on this system."""

    held = False

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        import csv  # for those alone who ask for it

        # the csv module quotes the characters of its line end, and both of them need quotes
        self._writer = csv.writer(self, lineterminator="\r\n")

    def write(self, line: str) -> None:
        """For the csv module: one line, with its own end."""
        self._out.write(line.removesuffix("\r\n") + "\n")

    def schema(self, columns: Sequence[Column]) -> None:
        self._writer.writerow([column.name for column in columns])
        self._out.flush()

    def row(self, cells: Sequence[Any]) -> None:
        self._writer.writerow([csv_cell(cell) for cell in cells])
        self._out.flush()


class PlainWriter(RawWriter):
    """Columns aligned with spaces, two between them, under a heading."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self._columns: Sequence[Column] = ()
        self._pending: list[list[str]] = []
        self._widths: list[int] = []

    @property
    def held(self) -> bool:
        return bool(self._pending)

    def schema(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def row(self, cells: Sequence[Any]) -> None:
        self._pending.append([plain(cell) for cell in cells])
        if self._widths or len(self._pending) >= SAMPLE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are held, under the heading where it has not been written."""
        if self._columns and not self._widths:
            heading = [column.name.upper() for column in self._columns]
            self._pending.insert(0, heading)
            self._widths = [
                max(min(len(cell), WIDEST) for cell in column)
                for column in zip(*self._pending, strict=True)
            ]
        for row in self._pending:
            self._out.write(f"{self._line(row)}\n")
        self._pending.clear()
        self._out.flush()

    def _line(self, row: Sequence[str]) -> str:
        cells = (cell.ljust(width) for cell, width in zip(row, self._widths, strict=True))
        return "  ".join(cells).rstrip()
