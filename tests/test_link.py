"""The client's end of a connection against a peer that does what it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import zmq
from support_server import directory

from engine.endpoints import Endpoint
from engine.link import Link, connect
from engine.records import End, Record, Rows, Schema
from engine.spec import Column
from engine.status import State
from engine.wire.client_side import Arrived, Event, Lost
from engine.wire.codec import encode, encode_record
from engine.wire.messages import Accepted, Submit, Welcome

_JOB = "1a2b"


class Peer:
    """A ROUTER that greets its one client, and sends what a test wants."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.bind(endpoint)
        self.client = b""

    def greet(self) -> None:
        self.client = self.receive()
        self.send(
            encode(
                Welcome(
                    version=(1, 0),
                    engine="a peer of the tests",
                    epoch="0",
                    session="0",
                    principal="nobody",
                    heartbeat=10.0,
                    lease=40.0,
                    features=(),
                    limits={},
                )
            )
        )

    def receive(self) -> bytes:
        assert self.socket.poll(5000), "the client said nothing"
        return self.socket.recv_multipart()[0]

    def send(self, frames: tuple[bytes, ...]) -> None:
        self.socket.send_multipart((self.client, *frames))

    def close(self) -> None:
        self.socket.close(linger=5000)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def linked(context: zmq.Context[zmq.Socket[bytes]], peer: Peer, endpoint: str) -> Link:
    greeting = threading.Thread(target=peer.greet)
    greeting.start()
    link = connect(context, Endpoint.parse(endpoint), 5.0)
    greeting.join()
    return link


def records(events: list[Event]) -> list[Record]:
    return [event.record for event in events if isinstance(event, Arrived)]


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_what_was_sent_before_the_connection_ended_arrives(
    context: zmq.Context[zmq.Socket[bytes]], scheme: str
) -> None:
    """However late the client looks: an engine that shuts down sends the ends of its jobs and
    closes, and ZeroMQ hands over what came and the loss at the same time."""
    with directory() as place:
        peer = Peer(context, f"ipc://{place}/s" if scheme == "ipc" else "tcp://127.0.0.1:*")
        endpoint = str(peer.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        link = linked(context, peer, endpoint)
        link.submit(
            message := Submit(request=1, name="j", credit_messages=9, credit_bytes=9999),
            encode(message),
        )
        peer.receive()
        peer.send(encode(Accepted(request=1, job=_JOB, existed=False)))
        sent: tuple[Record, ...] = (
            Schema(columns=(Column(name="n"),)),
            Rows(rows=(("one",), ("two",))),
            End(state=State.FAILED, status=75, code="shutting-down", message="it shut down"),
        )
        for seq, record in enumerate(sent, start=1):
            peer.send(encode_record(_JOB, seq, record))
        peer.close()
        assert link.monitor.poll(5000), "the end of the connection was not told"
        events = link.disconnected()
        link.close()
    assert records(events) == list(sent)
    assert isinstance(events[-1], Lost)
