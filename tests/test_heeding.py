"""To send, and to heed an answer that says no meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from registry_service.transport.heeding import AnsweredError, send

LARGE = bytes(range(256)) * 40_000  # more than sockets hold


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and the server's."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    theirs.settimeout(30)
    with ours, theirs:
        yield ours, theirs


def reading(theirs: socket.socket) -> tuple[threading.Thread, bytearray]:
    """A server that reads all that comes."""
    got = bytearray()

    def read() -> None:
        while len(got) < len(LARGE) and (data := theirs.recv(100_000)):
            got.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, got


Ends = tuple[socket.socket, socket.socket]

YES = [
    b"",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 201 Created\r\n\r\n",
    b"HTTP/1.1 4",
    b"something else 401",
]
NO = [
    b"HTTP/1.1 401 Unauthorized\r\n",
    b"HTTP/1.0 307",
    b"HTTP/1.1 500 \r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 413 x",
]


@pytest.mark.parametrize("said", YES)
def test_what_says_yes_or_nothing_yet_ends_nothing(ends: Ends, said: bytes) -> None:
    ours, theirs = ends
    theirs.sendall(said)
    thread, got = reading(theirs)
    send(ours, LARGE, 30)
    thread.join(30)
    assert bytes(got) == LARGE
    assert ours.recv(1000) == said if said else True, "what came is still there"


@pytest.mark.parametrize("said", NO)
def test_an_answer_that_says_no_ends_it(ends: Ends, said: bytes) -> None:
    ours, theirs = ends
    theirs.sendall(said)
    with pytest.raises(AnsweredError):
        send(ours, LARGE, 30)
    assert ours.recv(1000) == said, "the answer can be read"


@pytest.mark.parametrize("said", NO)
def test_an_answer_is_heeded_while_the_server_takes_nothing(ends: Ends, said: bytes) -> None:
    ours, theirs = ends
    filled = threading.Event()

    def answer() -> None:
        theirs.recv(1, socket.MSG_PEEK)  # it has begun, and will not go on
        filled.set()
        for place in range(0, len(said), 7):
            theirs.sendall(said[place : place + 7])

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(AnsweredError):
        send(ours, LARGE, 30)
    thread.join(30)
    assert filled.is_set()


def test_a_server_that_takes_nothing_and_says_nothing(ends: Ends) -> None:
    ours, _ = ends
    with pytest.raises(TimeoutError):
        send(ours, LARGE, 0.1)


def test_a_server_that_is_gone(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(BrokenPipeError):
        send(ours, LARGE, 30)


def test_a_socket_that_is_shut_down_meanwhile(ends: Ends) -> None:
    """As a cancellation does."""
    ours, theirs = ends

    def stop() -> None:
        theirs.recv(1, socket.MSG_PEEK)
        ours.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(BrokenPipeError):
        send(ours, LARGE, 30)
    thread.join(30)
