"""The head of an answer, read by ourselves; http.client is asked where both should agree."""

from __future__ import annotations

import http.client
import io
import itertools
import socket
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry_service.transport.head import (
    Framing,
    Head,
    Lines,
    framing,
    read_chunk_size,
    read_head,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GOOD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nLink: <a>\r\nlink: <b>\r\n"
    b"Content-Length: 3\r\nX-Empty:\r\n\r\n"
)


def read(raw: bytes) -> Head:
    return read_head(io.BytesIO(raw))


class _Socket:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def reference(raw: bytes, method: str) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast(socket.socket, _Socket(raw)), method=method)
    response.begin()
    return response


def test_a_head_is_taken_apart() -> None:
    file = io.BytesIO(GOOD + b"abc")
    head = read_head(file)
    assert (head.version, head.status, head.reason) == (11, 200, "OK")
    assert head.fields["content-type"] == "text/plain"
    assert head.fields.getlist("LINK") == ["<a>", "<b>"]
    assert head.fields["X-Empty"] == ""
    assert file.read() == b"abc", "what follows the head is left alone"


names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: name.lower() not in ("content-length", "transfer-encoding", "connection")
)
values = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=40
)


@given(st.lists(st.tuples(names, values), max_size=20), st.sampled_from(["\r\n", "\n"]))
def test_every_field_comes_back(fields: list[tuple[str, str]], end: str) -> None:
    lines = ["HTTP/1.1 200 OK", *(f"{name}:  {value} " for name, value in fields), "", ""]
    head = read(end.join(lines).encode("latin-1"))
    for name, _ in fields:
        wanted = [value.strip(" \t") for known, value in fields if known.lower() == name.lower()]
        assert head.fields.getlist(name) == wanted


class _Pieces(io.RawIOBase):
    """What arrives in pieces, as it does from a socket."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._pieces:
            return 0
        view = memoryview(buffer)
        piece, rest = self._pieces[0][: len(view)], self._pieces[0][len(view) :]
        self._pieces[:1] = [rest] if rest else []
        view[: len(piece)] = piece
        return len(piece)


def outcome(file: Lines) -> object:
    try:
        head = read_head(file)
    except http.client.HTTPException as error:
        return type(error)
    return head.version, head.status, head.reason, list(head.fields.iteritems()), file.read(99)


heads = st.lists(
    st.sampled_from(
        [b"HTTP/1.1 200 OK", b"\r\n", b"\r\n", b"\n", b"\r", b"Link: <a>", b" a", b"X:\xe9 ", b":"]
    ),
    max_size=12,
).map(b"".join)


@given(heads.map(lambda some: b"HTTP/1.1 200 OK\r\n" + some) | heads, st.data())
@example(GOOD + b"abc", None)
@example(b"\r\n\r\n", None)
@example(b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, None)
@example(b"HTTP/1.1 200 OK\n\nbody\r\n\r\n", None)
def test_a_head_reads_the_same_however_it_arrives(raw: bytes, data: st.DataObject | None) -> None:
    cuts = [] if data is None else data.draw(st.lists(st.integers(0, len(raw)), max_size=4))
    bounds = [0, *sorted(cuts), len(raw)]
    pieces = [raw[start:end] for start, end in itertools.pairwise(bounds)]
    assert outcome(io.BufferedReader(_Pieces(pieces))) == outcome(io.BytesIO(raw))


@given(st.integers(min_value=1, max_value=len(GOOD) - 1))
def test_a_head_that_is_cut_off_is_none(length: int) -> None:
    with pytest.raises(http.client.IncompleteRead):
        read(GOOD[:length])


def test_no_head_at_all_is_a_connection_that_was_closed() -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        read(b"")


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    head = read(interim + GOOD)
    assert head.status == 200
    assert head.fields.getlist("Link") == ["<a>", "<b>"]


def test_interim_answers_have_an_end() -> None:
    with pytest.raises(http.client.HTTPException, match="interim"):
        read(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)


def test_a_folded_line_goes_on_with_its_value() -> None:
    assert read(b"HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\n c\r\n\r\n").fields["X"] == "a b c"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nothing\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: into nothing\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n" + b" b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(raw: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        read(raw)


def test_a_length_that_is_said_twice_is_one() -> None:
    head = read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n")
    assert head.fields["Content-Length"] == "5"
    assert framing(head, "GET").length == 5


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304", "404 Not Found"])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: Chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 7\r\n",
        b"Content-Length: 5\r\nConnection: close\r\n",
        b"Content-Length: 5\r\nConnection: Keep-Alive\r\n",
    ],
)
def test_the_body_ends_where_http_client_says(
    fields: bytes, version: str, status: str, method: str
) -> None:
    raw = f"{version} {status}\r\n".encode() + fields + b"\r\n"
    ours = framing(read(raw), method)
    theirs = reference(raw, method)
    bodyless = method == "HEAD" or status[:3] in ("204", "304")
    assert ours.length == theirs.length
    assert ours.chunked == (False if bodyless else theirs.chunked)
    if not bodyless:
        assert ours.closes == theirs.will_close


def test_a_body_without_an_end_ends_with_the_connection() -> None:
    assert framing(read(b"HTTP/1.1 200 OK\r\n\r\n"), "GET") == Framing(
        chunked=False, length=None, closes=True
    )


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"0\r\n", 0),
        (b"4a\r\n", 74),
        (b"4A\n", 74),
        (b"000000004a \r\n", 74),
        (b"4a;name=value\r\n", 74),
        (b"4a ; name\r\n", 74),
    ],
)
def test_the_size_of_a_chunk(line: bytes, size: int) -> None:
    file = io.BytesIO(line + b"content")
    assert read_chunk_size(file) == size
    assert file.read() == b"content"


@pytest.mark.parametrize("line", [b"", b"4", b"4a", b"4a;name=", b"0", b"0\r"])
def test_the_size_of_a_chunk_that_is_cut_off_is_none(line: bytes) -> None:
    with pytest.raises(http.client.IncompleteRead):
        read_chunk_size(io.BytesIO(line))


@pytest.mark.parametrize(
    "line",
    [
        b"\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b"1_0\r\n",
        b" 5\r\n",
        b"xyz\r\n",
        b"f" * 17 + b"\r\n",
        b"5" * 70_000 + b"\r\n",
        b"5;" + b"x" * 70_000 + b"\r\n",
    ],
)
def test_what_is_no_size_of_a_chunk(line: bytes) -> None:
    with pytest.raises(http.client.HTTPException) as caught:
        read_chunk_size(io.BytesIO(line))
    assert not isinstance(caught.value, http.client.IncompleteRead)
