"""The parts of the command line by themselves: cells, widths, words and writers."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.cells import csv_cell, human_size, kind_of, plain, short_key, shown
from engine.cli.jobs import option_flag
from engine.cli.options import read_duration, read_pairs
from engine.cli.presenter import Presenter
from engine.cli.terminal import TableWriter, column_widths
from engine.cli.text import printable
from engine.cli.writers import SAMPLE_ROWS, CsvWriter, JsonWriter, PlainWriter, RawWriter, Writer
from engine.records import Schema, Text
from engine.spec import Column, ColumnType
from engine.table import jsonable


class TerminalText(io.StringIO):
    def isatty(self) -> bool:
        return True


DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (36_000_000, "36.0 MB"),
        (2**63, "9.2 EB"),
        (10**22, "10000.0 EB"),
        (-1, "?"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("name", "type", "cell", "text"),
    [
        ("size", ColumnType.INTEGER, 1500, "1.5 kB"),
        ("star_count", ColumnType.INTEGER, 1500, "1500"),
        ("digest", ColumnType.STRING, DIGEST, "sha256:0123456789ab"),
        ("digest", ColumnType.STRING, "none", "none"),
        ("ratio", ColumnType.FLOAT, 0.5, "0.5"),
        ("good", ColumnType.BOOLEAN, False, "no"),
        ("when", ColumnType.TIME, float("nan"), "nan"),
        ("when", ColumnType.TIME, -1e20, "-1e+20"),
        ("when", ColumnType.TIME, 2**62, "4611686018427387904"),
        ("media_type", ColumnType.STRING, "application/vnd.oci.image.index.v1+json",
         "oci.image.index.v1+json"),
        ("platforms", ColumnType.JSON, ["a", "b"], "a, b"),
        ("config", ColumnType.JSON, {"a": 1}, '{"a": 1}'),
        ("config", ColumnType.JSON, {"a": "b" * 60}, f'{{"a": "{"b" * 52}…'),
        ("config", ColumnType.JSON, ["a" * 70], "a" * 70),
        ("subject", ColumnType.STRING, DIGEST, "sha256:0123456789ab"),
        ("reference", ColumnType.STRING, f"a/b@{DIGEST}", f"a/b@{DIGEST}"),
        ("name", ColumnType.STRING, None, ""),
        ("name", ColumnType.STRING, "a\x1b[2J\nb", r"a\x1b[2J b"),
    ],
)  # fmt: skip
def test_cells_for_people(name: str, type: ColumnType, cell: Any, text: str) -> None:
    assert shown(kind_of(Column(name=name, type=type)), cell) == text


@given(st.text())
def test_what_is_shown_cannot_steer_a_terminal(text: str) -> None:
    assert printable(text, lines=False).isprintable()
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()
    assert plain(text).isprintable()
    assert short_key(text).isprintable()
    assert len(short_key(text)) <= 40 or text.count(":")


@given(st.text(st.characters(categories=["L", "N", "P"])))
def test_printable_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(
    st.lists(st.lists(st.text(max_size=60), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(40, 200),
)
def test_columns_fit_the_terminal(rows: list[list[str]], total: int) -> None:
    kinds = [kind_of(Column(name=name)) for name in ("reference", "media_type", "description")]
    widths = column_widths(rows, kinds, total)
    assert sum(widths) + 2 * len(widths) <= total
    assert all(width >= 0 for width in widths)


def test_the_columns_that_matter_least_give_way_first() -> None:
    kinds = [kind_of(Column(name=name)) for name in ("reference", "media_type", "digest")]
    assert column_widths([["r" * 30, "m" * 30, "d" * 19]], kinds, 85) == [30, 30, 19]
    assert column_widths([["r" * 30, "m" * 30, "d" * 19]], kinds, 70) == [30, 15, 19]
    assert column_widths([["r" * 30, "m" * 30, "d" * 19]], kinds, 50) == [15, 10, 19]


def test_where_more_rows_may_come_the_room_that_is_left_is_shared() -> None:
    text, number = kind_of(Column(name="a")), kind_of(Column(name="n", type=ColumnType.INTEGER))
    assert column_widths([["x", "1"]], [text, number], 80) == [1, 1]
    assert column_widths([["x", "1"]], [text, number], 80, more=True) == [24, 12]
    assert column_widths([["1", "x"]], [number, text], 80, more=True) == [12, 64]
    assert column_widths([["x" * 60, "1"]], [text, number], 70, more=True) == [60, 6]
    assert column_widths([["x" * 60, "1"]], [text, number], 50, more=True) == [45, 1]


@pytest.mark.parametrize("total", [24, 40, 80])
def test_numbers_are_never_cut(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    monkeypatch.setenv("COLUMNS", str(total))
    monkeypatch.setenv("TERM", "xterm")
    out = TerminalText()
    writer = TableWriter(out)
    writer.schema([Column(name="a"), Column(name="n", type=ColumnType.INTEGER), Column(name="b")])
    writer.row(("x", 1, "y"))
    writer.flush()
    writer.row(("hello", 2**63, "world"))
    writer.row(("x", 12, "y"))
    writer.flush()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "…" not in shown
    assert re.sub(r"\D", "", shown) == f"1{2**63}12"
    assert (str(2**63) in shown) is (total == 80)  # where there is room, on one line
    assert "hello" in shown
    assert "world" in shown
    assert max(map(len, shown.splitlines())) <= total


@pytest.mark.parametrize("kind", [TableWriter, CsvWriter])
def test_bytes_on_a_terminal_do_not_steer_it(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[TerminalText], RawWriter]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = TerminalText()
    kind(out).data(b"\x1b[31m\xff\xc3\xa9\n")
    assert out.getvalue() == "\\x1b[31m\\xff\u00e9\n"


# what is shown while a question is asked


def test_what_comes_while_a_question_is_asked_is_shown_after_it() -> None:
    out, err = io.StringIO(), io.StringIO()
    presenter = Presenter("csv", out=out, err=err)
    presenter.take(Schema(columns=COLUMNS))
    before = out.getvalue()
    with presenter.paused():
        presenter.take((1, 2))
        presenter.take(Text(text="t\n"))
        assert out.getvalue() == before
    assert out.getvalue() == f"{before}1,2\nt\n"
    presenter.close()


def test_what_waits_for_the_answer_is_bounded() -> None:
    out, err = io.StringIO(), io.StringIO()
    presenter = Presenter("csv", out=out, err=err)
    presenter.take(Schema(columns=COLUMNS))
    taken: list[int] = []

    def follow() -> None:
        for number in range(20):
            presenter.take(("x" * 1_000_000, number))
            taken.append(number)

    follower = threading.Thread(target=follow, daemon=True)
    with presenter.paused():
        follower.start()
        follower.join(0.3)
        assert len(taken) < 10
    follower.join(10)
    presenter.close()
    written = [line.rpartition(",")[2] for line in out.getvalue().splitlines()]
    assert written == ["b", *map(str, range(20))]


# words


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("0.5", 0.5), ("90s", 90), ("1.5m", 90), ("2h", 7200)]
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(None, None, text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "1w", "1e9", "99999999999", "٣"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time to come"):
        read_duration(None, None, text)


def test_the_last_of_a_repeated_key_counts() -> None:
    assert list(read_pairs(["a=1", "b=2", "a=3"]).items()) == [("b", "2"), ("a", "3")]


@pytest.mark.parametrize(
    ("name", "flag"),
    [("authConfig", "--auth-config"), ("limit", "--limit"), ("is_big", "--is-big"),
     ("a.b", "--a-b"), ("URL", "--u-r-l")],
)  # fmt: skip
def test_the_flag_of_an_option(name: str, flag: str) -> None:
    assert option_flag(name) == flag


# writers

CELL = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
COLUMNS = (Column(name="a", type=ColumnType.JSON), Column(name="b", type=ColumnType.JSON))


@given(st.lists(st.tuples(CELL, CELL)))
def test_json_lines_read_back(rows: list[tuple[Any, Any]]) -> None:
    out = io.StringIO()
    writer = JsonWriter(out)
    writer.schema(COLUMNS)
    for row in rows:
        writer.row(row)
    read = [json.loads(line) for line in out.getvalue().split("\n")[:-1]]
    assert read == [{"a": jsonable(a), "b": jsonable(b)} for a, b in rows]


@given(st.lists(st.tuples(CELL, CELL)))
def test_csv_reads_back(rows: list[tuple[Any, Any]]) -> None:
    out = io.StringIO(newline="")
    writer = CsvWriter(out)
    writer.schema(COLUMNS)
    for row in rows:
        writer.row(row)
    out.seek(0)
    assert list(csv.reader(out)) == [["a", "b"], *[[csv_cell(a), csv_cell(b)] for a, b in rows]]


@given(st.lists(st.tuples(CELL, CELL), max_size=10))
def test_plain_columns_are_one_line_a_row(rows: list[tuple[Any, Any]]) -> None:
    out = io.StringIO()
    writer = PlainWriter(out)
    writer.schema(COLUMNS)
    for row in rows:
        writer.row(row)
    writer.flush()
    lines = out.getvalue().split("\n")[:-1]
    assert len(lines) == len(rows) + 1
    assert lines[0].split() == ["A", "B"]


def test_plain_columns_stream_once_the_widths_are_known() -> None:
    out = io.StringIO()
    writer: Writer = PlainWriter(out)
    writer.schema(COLUMNS)
    for number in range(SAMPLE_ROWS - 1):
        writer.row((number, number))
    assert (writer.held, out.getvalue()) == (True, "")
    writer.row((0, 0))
    assert writer.held is False
    before = len(out.getvalue())
    writer.row(("x" * 500, "y"))
    assert out.getvalue()[before:] == f"{'x' * 500}  y\n"
