"""Tables: named, typed columns and rows, and the forms in which people want them."""

from __future__ import annotations

import base64
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import TableError
from .spec import Column, ColumnType

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["RowChecker", "Table", "jsonable"]

_INTEGERS = range(-(2**63), 2**64)  # what the wire can carry
_NONE = type(None)
_TEXT = {str}
_SIZED = {str, bytes}
_NESTED = {list, dict, tuple}
_ACCEPTED: Mapping[ColumnType, frozenset[type]] = {
    ColumnType.STRING: frozenset({str, _NONE}),
    ColumnType.INTEGER: frozenset({int, _NONE}),
    ColumnType.FLOAT: frozenset({float, int, _NONE}),
    ColumnType.BOOLEAN: frozenset({bool, _NONE}),
    ColumnType.TIME: frozenset({float, int, _NONE}),
    ColumnType.BYTES: frozenset({bytes, _NONE}),
    ColumnType.JSON: frozenset({str, int, float, bool, list, dict, tuple, _NONE}),
}


class RowChecker:
    """Checks rows against columns, and says about how many bytes each has.

    Rows of one table mostly have the same types, so the check of a combination of types is
    done once and its outcome kept: where the texts are, whose lengths make the size.
    """

    __slots__ = ("_columns", "_known", "_types")

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._types = tuple(_ACCEPTED[column.type] for column in self._columns)
        self._known: dict[tuple[type, ...], tuple[int, Callable[[Any], Any] | None]] = {}

    def __call__(self, cells: Sequence[Any]) -> int:
        """The size of a row. Raises `TableError`, which names the column."""
        known = self._known.get(tuple(map(type, cells)))
        if known is None:
            return self._check(cells)
        base, texts = known
        return base if texts is None else base + sum(map(len, texts(cells)))

    def many(self, rows: Sequence[Sequence[Any]]) -> int:
        """The size of several rows, looked at by column. Raises as for one row."""
        size = 8 * len(rows) * len(self._columns)
        try:
            for types, cells in zip(self._types, zip(*rows, strict=True), strict=True):
                kinds = set(map(type, cells))
                if not kinds <= types or not kinds.isdisjoint(_NESTED):
                    break
                if kinds == _TEXT:
                    size += sum(map(len, cells))
                elif not kinds.isdisjoint(_SIZED):
                    size += sum(len(cell) for cell in cells if type(cell) in _SIZED)
            else:
                return size
        except ValueError:  # rows of different lengths, or of another one than the columns
            pass
        return sum(map(self._check, rows))

    def _check(self, cells: Sequence[Any]) -> int:
        kinds = tuple(map(type, cells))
        if len(kinds) != len(self._columns):
            raise TableError(f"a row of {len(kinds)} cells for {len(self._columns)} columns")
        size = 8 * len(kinds)
        nested = False
        for kind, types, column, cell in zip(kinds, self._types, self._columns, cells, strict=True):
            if kind not in types:
                raise TableError(f"column {column.name!r} takes {column.type}, not {kind.__name__}")
            if kind is list or kind is dict or kind is tuple:
                nested = True
                size += len(_json_text(column, cell))
            elif kind is str or kind is bytes:
                size += len(cell)
            elif kind is int and cell not in _INTEGERS:
                raise TableError(f"column {column.name!r}: {cell} has over 64 bits")
        # Nested cells are looked at one by one; of the rest the types say nearly all. An integer
        # that is too large in a later row is found when the row is encoded.
        if not nested and len(self._known) < 64:
            self._remember(kinds)
        return size

    def _remember(self, kinds: tuple[type, ...]) -> None:
        places = [place for place, kind in enumerate(kinds) if kind is str or kind is bytes]
        texts: Callable[[Any], Any] | None = None
        if len(places) > 1:
            texts = operator.itemgetter(*places)
        elif places:
            texts = operator.itemgetter(slice(places[0], places[0] + 1))
        self._known[kinds] = (8 * len(kinds), texts)


class Table:
    """Named, typed columns and rows.

    Rows are tuples in the order of the columns. ``add`` takes the cells by position or by
    name and checks them; a cell that is not given is None.

    >>> table = Table([Column(name="name"), Column(name="stars", type="integer")])
    >>> table.add("alpine", 9); table.add(name="busybox", stars=12)
    >>> table.sort("stars", reverse=True); [row[0] for row in table]
    ['busybox', 'alpine']
    """

    def __init__(self, columns: Iterable[Column], rows: Iterable[Sequence[Any]] = ()) -> None:
        self.columns = tuple(columns)
        self._index = {column.name: place for place, column in enumerate(self.columns)}
        if len(self._index) != len(self.columns):
            raise TableError("a column name stands twice")
        self._check = RowChecker(self.columns)
        self.rows: list[tuple[Any, ...]] = []
        for row in rows:
            self.add(*row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        return self.rows[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return self.columns == other.columns and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]  # a table changes

    def __repr__(self) -> str:
        return f"Table({', '.join(self._index)}; {len(self.rows)} rows)"

    def add(self, /, *cells: Any, **named: Any) -> None:
        """Append a row. Raises `TableError` when the cells do not fit the columns."""
        if named:
            if cells:
                raise TableError("cells by position or by name, not both")
            for name in named:
                self._place(name)
            cells = tuple(named.get(column.name) for column in self.columns)
        self._check(cells)
        self.rows.append(tuple(cells))

    def column(self, name: str) -> list[Any]:
        """The cells of one column."""
        place = self._place(name)
        return [row[place] for row in self.rows]

    def sort(self, key: str, reverse: bool = False) -> None:
        """Sort by a column, in place and stably.

        Cells that are numbers, or texts that read as numbers, compare as numbers; a number
        comes before a text. A cell that is None, or a float that is no number, comes last
        whichever the direction.
        """
        place = self._place(key)
        present = [row for row in self.rows if _ordered(row[place])]
        absent = [row for row in self.rows if not _ordered(row[place])]
        present.sort(key=lambda row: _order(row[place]), reverse=reverse)
        self.rows = present + absent

    # other forms

    def to_dicts(self) -> list[dict[str, Any]]:
        names = tuple(self._index)
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def to_json(self) -> str:
        """A JSON list with one object a row; bytes are base64 text, NaN and infinity null."""
        rows = [jsonable(row) for row in self.to_dicts()]
        return json.dumps(rows, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, columns: Iterable[Column] | None = None) -> Table:
        """The table of a JSON list of objects.

        Without ``columns`` they are taken from the objects, in order of appearance, with a
        type that holds every cell. Raises `TableError`.
        """
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TableError(f"not JSON: {error}") from None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise TableError("not a JSON list of objects")
        if columns is None:
            if any("" in item for item in items):
                raise TableError("a column needs a name, and '' is none")
            columns = _columns_of(items)
        table = cls(columns)
        for item in items:
            for name in item:
                table._place(name)
            table.add(*(_from_json(column, item.get(column.name)) for column in table.columns))
        return table

    def to_csv(self) -> str:
        """RFC 4180 text with a heading; None is empty, nested values are JSON."""
        import csv  # here and below: a client that writes neither starts without it
        import io

        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(self._index)
        writer.writerows([_csv_cell(cell) for cell in row] for row in self.rows)
        return out.getvalue()

    def _repr_html_(self) -> str:
        import html

        def line(tag: str, cells: Iterable[Any]) -> str:
            inner = "".join(f"<{tag}>{html.escape(_csv_cell(cell))}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        head = line("th", self._index)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas DataFrame. Needs pandas (``pip install registry-engine[pandas]``)."""
        try:
            import pandas
        except ImportError as error:
            raise TableError("pandas is not installed: registry-engine[pandas]") from error
        return pandas.DataFrame(self.rows, columns=list(self._index))

    def to_arrow(self) -> pyarrow.Table:
        """A pyarrow Table. Needs pyarrow (``pip install registry-engine[arrow]``)."""
        try:
            import pyarrow
        except ImportError as error:
            raise TableError("pyarrow is not installed: registry-engine[arrow]") from error
        kinds = {
            ColumnType.INTEGER: pyarrow.int64(),
            ColumnType.FLOAT: pyarrow.float64(),
            ColumnType.TIME: pyarrow.float64(),
            ColumnType.BOOLEAN: pyarrow.bool_(),
            ColumnType.BYTES: pyarrow.binary(),
        }
        arrays, fields = [], []
        for place, column in enumerate(self.columns):
            cells = [row[place] for row in self.rows]
            if column.type is ColumnType.JSON:
                cells = [None if cell is None else json.dumps(cell) for cell in cells]
            elif column.type in (ColumnType.FLOAT, ColumnType.TIME):
                cells = [None if cell is None else float(cell) for cell in cells]
            kind = kinds.get(column.type, pyarrow.string())
            arrays.append(pyarrow.array(cells, type=kind))
            fields.append(pyarrow.field(column.name, kind))
        return pyarrow.table(arrays, schema=pyarrow.schema(fields))

    def _place(self, name: str) -> int:
        try:
            return self._index[name]
        except KeyError:
            known = ", ".join(self._index)
            raise TableError(f"no column {name!r}; there are {known}") from None


def _ordered(cell: Any) -> bool:
    """Whether a cell has a place among others: None and NaN have not."""
    return cell is not None and cell == cell


def _order(cell: Any) -> tuple[int, Any]:
    if isinstance(cell, (int, float)):
        return (0, cell)
    if isinstance(cell, str):
        try:
            return (0, int(cell))  # a float would make one of large ones that differ
        except ValueError:
            pass
        try:
            number = float(cell)
        except ValueError:
            return (1, cell)
        return (1, cell) if number != number else (0, number)
    if isinstance(cell, bytes):
        return (2, cell)
    return (3, json.dumps(cell, sort_keys=True))


def jsonable(value: Any) -> Any:
    """``value`` as JSON can carry it: bytes as base64 text, and None for a float that is no
    number or infinite."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json_text(column: Column, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise TableError(f"column {column.name!r}: a value that has no JSON form") from None


def _from_json(column: Column, value: Any) -> Any:
    if column.type is ColumnType.BYTES and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise TableError(f"column {column.name!r}: not base64") from None
    return value


def _csv_cell(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, (bytes, list, tuple, dict)):
        plain = jsonable(cell)
        return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return str(cell)


def _columns_of(items: Iterable[Mapping[str, Any]]) -> list[Column]:
    kinds: dict[str, set[type]] = {}
    for item in items:
        for name, value in item.items():
            kinds.setdefault(name, set()).add(type(value))
    narrow = (ColumnType.STRING, ColumnType.BOOLEAN, ColumnType.INTEGER, ColumnType.FLOAT)
    return [
        Column(
            name=name,
            type=next((kind for kind in narrow if found <= _ACCEPTED[kind]), ColumnType.JSON),
        )
        for name, found in kinds.items()
    ]
