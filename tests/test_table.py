"""Tables: typed cells, sorting, and the forms in which people want them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Column, ColumnType, Table
from engine.cli.cells import json_line
from engine.errors import TableError

COLUMNS = (
    Column(name="name"),
    Column(name="stars", type=ColumnType.INTEGER),
    Column(name="raw", type=ColumnType.BYTES),
    Column(name="more", type=ColumnType.JSON),
)
ROWS = st.tuples(
    st.none() | st.text(),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.binary(),
    st.none() | st.lists(st.integers()) | st.dictionaries(st.text(), st.booleans()),
)


@given(st.lists(ROWS))
def test_json_out_and_in_is_the_same_table(rows: list[tuple[Any, ...]]) -> None:
    table = Table(COLUMNS, rows)
    assert Table.from_json(table.to_json(), COLUMNS) == table


@given(st.lists(st.tuples(st.text().filter(lambda t: "\0" not in t), st.integers(0, 99))))
def test_csv_reads_back(rows: list[tuple[str, int]]) -> None:
    table = Table(COLUMNS[:2], rows)
    read = list(csv.reader(io.StringIO(table.to_csv(), newline="")))
    assert read[0] == ["name", "stars"]
    assert read[1:] == [[name, str(stars)] for name, stars in rows]


def test_sort_is_numeric_where_both_cells_are() -> None:
    table = Table([Column(name="n")], [["10"], ["9"], ["100"], ["b"], ["a"], [None]])
    table.sort("n")
    assert table.column("n") == ["9", "10", "100", "a", "b", None]
    table.sort("n", reverse=True)
    assert table.column("n") == ["b", "a", "100", "10", "9", None]


def test_sort_puts_what_is_no_number_last() -> None:
    nan = float("nan")
    table = Table([Column(name="n", type=ColumnType.FLOAT)], [[2.0], [nan], [1.0], [None], [0.0]])
    table.sort("n")
    assert table.column("n")[:3] == [0.0, 1.0, 2.0]
    table.sort("n", reverse=True)
    assert table.column("n")[:3] == [2.0, 1.0, 0.0]


def test_sort_tells_large_numbers_apart() -> None:
    table = Table([Column(name="n")], [[str(2**53 + 1)], [str(2**53)], [" 1.5"]])
    table.sort("n")
    assert table.column("n") == [" 1.5", str(2**53), str(2**53 + 1)]


def test_a_column_may_be_named_self() -> None:
    table = Table([Column(name="self")])
    table.add(self="x")
    assert table.rows == [("x",)]


def test_sort_is_stable() -> None:
    table = Table(COLUMNS[:2], [("b", 1), ("a", 1), ("c", 0)])
    table.sort("stars")
    assert table.column("name") == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (("a",), "1 cells for 4 columns"),
        ((1, 1, b"", None), "'name' takes string, not int"),
        (("a", "1", b"", None), "'stars' takes integer, not str"),
        (("a", True, b"", None), "'stars' takes integer, not bool"),
        (("a", 2**64, b"", None), "over 64 bits"),
        (("a", 1, "text", None), "'raw' takes bytes, not str"),
        (("a", 1, b"", {1}), "'more' takes json, not set"),
        (("a", 1, b"", [object()]), "no JSON form"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused_by_the_column_s_name(
    cells: tuple[Any, ...], words: str
) -> None:
    table = Table(COLUMNS)
    with pytest.raises(TableError, match=words):
        table.add(*cells)
    assert len(table) == 0


def test_rows_by_name_and_an_unknown_column() -> None:
    table = Table(COLUMNS)
    table.add(stars=3, name="x")
    assert table[0] == ("x", 3, None, None)
    with pytest.raises(TableError, match="no column 'nome'; there are name, stars"):
        table.add(nome="x")


def test_columns_are_taken_from_json_where_none_are_given() -> None:
    table = Table.from_json('[{"a": 1, "b": "x"}, {"a": 2.5, "c": [1]}]')
    assert [(c.name, str(c.type)) for c in table.columns] == [
        ("a", "float"),
        ("b", "string"),
        ("c", "json"),
    ]
    assert table.to_dicts()[1] == {"a": 2.5, "b": None, "c": [1]}


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[" * 100_000, '[{"": 1}]'])
def test_json_that_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(TableError):
        Table.from_json(text)


def test_html_escapes_the_cells() -> None:
    shown = Table([Column(name="<b>")], [["<script>"]])._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_bytes_are_base64_in_json() -> None:
    table = Table([Column(name="raw", type=ColumnType.BYTES)], [[b"\x00\xff"]])
    assert json.loads(table.to_json()) == [{"raw": "AP8="}]


def test_json_has_no_nan_and_no_infinity() -> None:
    inf = float("inf")
    table = Table(
        [Column(name="x", type=ColumnType.FLOAT), Column(name="y", type=ColumnType.JSON)],
        [(float("nan"), {"a": [inf]}), (-inf, 1.5)],
    )
    assert table.to_json() == '[{"x": null, "y": {"a": [null]}}, {"x": null, "y": 1.5}]'
    assert json_line({"x": inf}) == '{"x": null}'


def test_to_pandas_and_to_arrow_give_the_cells() -> None:
    table = Table(COLUMNS[:2], [("a", 1), ("b", None)])
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(TableError, match=r"registry-engine\[pandas\]"):
            table.to_pandas()
    else:
        assert list(table.to_pandas()["name"]) == ["a", "b"]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(TableError, match=r"registry-engine\[arrow\]"):
            table.to_arrow()
    else:
        assert table.to_arrow().column("stars").to_pylist() == [1, None]
