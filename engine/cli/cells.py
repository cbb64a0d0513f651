"""Cells as text: for people, for columns in a pipe, for CSV and for JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from ..spec import Column, ColumnType
from ..table import jsonable
from .text import printable

__all__ = [
    "Kind",
    "csv_cell",
    "human_size",
    "json_line",
    "kind_of",
    "plain",
    "short_key",
    "shown",
]


class Kind:
    """How a column is shown to people: by what function of a cell that is not None, aligned
    ``right`` as numbers are, cut where it does not fit or folded. A number is never cut.

    Rows that come later may be longer than those that are known: a column is not narrower than
    ``least``, and is as wide as ``roomy`` where there is room to spare. Where a table is too
    wide, the lowest ``rank`` gives way first."""

    __slots__ = ("folds", "least", "rank", "right", "roomy", "show")

    def __init__(
        self,
        show: Callable[[Any], str],
        *,
        least: int = 0,
        roomy: int = 0,
        right: bool = False,
        folds: bool = False,
        rank: int = 2,
    ) -> None:
        self.show = show
        self.least = least
        self.roomy = roomy
        self.right = right
        self.folds = folds
        self.rank = rank


_LONGEST_NESTED = 60  # characters of a nested value, on a terminal
_DIGEST = re.compile(r"[a-z0-9+._-]+:[0-9a-f]{32,}")
_NUMBER = 3  # the rank of what must not be cut


def kind_of(column: Column) -> Kind:
    """The kind of a column, by its type and, for sizes and digests, its name."""
    if column.type is ColumnType.INTEGER:
        if column.name == "size" or column.name.endswith(("_size", "_bytes")):
            return Kind(human_size, right=True, least=8, rank=_NUMBER)
        return Kind(str, right=True, roomy=12, rank=_NUMBER)
    if column.type is ColumnType.FLOAT:
        return Kind(lambda cell: f"{cell:g}", right=True, roomy=12, rank=_NUMBER)
    if column.type is ColumnType.BOOLEAN:
        return Kind(lambda cell: "yes" if cell else "no", least=3)
    if column.type is ColumnType.TIME:
        return Kind(_moment, least=19)
    if column.name == "digest" or column.name.endswith("_digest"):
        return Kind(_short_digest, least=19)
    if column.name == "media_type":
        return Kind(_short_media_type, roomy=42, rank=0)
    if column.name in ("state", "status", "phase"):
        return Kind(_text, least=8, roomy=11)
    return Kind(_words, folds=True, roomy=24, rank=1)


def shown(kind: Kind, cell: Any) -> str:
    """A cell for a person: on one line, nothing in it that steers the terminal."""
    return "" if cell is None else printable(kind.show(cell), lines=False)


def plain(cell: Any) -> str:
    """A cell for columns in a pipe: the whole value, on one line."""
    return printable(csv_cell(cell), lines=False)


def csv_cell(cell: Any) -> str:
    """None is empty, truth is true or false, bytes are base64, nested values JSON."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return _text(cell)


def short_key(key: str) -> str:
    """What progress is keyed by, short: a digest by its first digits."""
    text = _short_digest(printable(key, lines=False))
    return text if len(text) <= 40 else f"{text[:19]}…{text[-20:]}"


def json_line(value: Any, *, ascii: bool = False) -> str:
    """One line of JSON; bytes are base64 text, NaN and infinity null. ``ascii`` writes all
    other characters as the escapes of JSON."""
    return json.dumps(jsonable(value), ensure_ascii=ascii, allow_nan=False)


def human_size(size: int) -> str:
    """Bytes in the units of a thousand that registries and disks are sold by."""
    if size < 0:
        return "?"
    if size < 1000:
        return f"{size} B"
    number = size / 1000
    units = iter("kMGTPE")
    unit = next(units)
    while number >= 999.95 and (larger := next(units, "")):
        number /= 1000
        unit = larger
    return f"{number:.1f} {unit}B"


def _moment(cell: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(cell))
    except (OverflowError, ValueError, OSError):  # no moment that the calendar has
        return str(cell)


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (bytes, list, tuple, dict)):
        value = jsonable(cell)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return str(cell)


def _words(cell: Any) -> str:
    """Names as a list; of other nested values the beginning: who wants all of a document has
    the other formats."""
    if isinstance(cell, str):
        return _short_digest(cell) if _DIGEST.fullmatch(cell) else cell
    if isinstance(cell, (list, tuple)) and all(isinstance(item, str) for item in cell):
        return ", ".join(cell)
    text = _text(cell)
    if isinstance(cell, (list, tuple, dict)) and len(text) > _LONGEST_NESTED:
        return f"{text[: _LONGEST_NESTED - 1]}…"
    return text


def _short_digest(cell: Any) -> str:
    text = _text(cell)
    algorithm, colon, value = text.partition(":")
    return f"{algorithm}:{value[:12]}" if colon and len(value) >= 32 else text


def _short_media_type(cell: Any) -> str:
    return _text(cell).removeprefix("application/").removeprefix("vnd.")
