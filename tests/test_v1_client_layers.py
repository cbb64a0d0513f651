"""Layers that the V1 client fetches."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from scripted import Request, closed_port
from support_v1_client import (
    IDS,
    LAYER,
    LAYER_PATH,
    TOKEN,
    Answers,
    client,
    serving,
    v1,
)

from registry_service.cancel import Cancellation
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    DoesNotExistError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    UnreachableRegistryError,
)
from registry_service.observe import Observer
from registry_service.settings import RegistrySettings


class Shelf:
    """A server's layer, which it can send in parts, and break off."""

    def __init__(
        self,
        *,
        ranges: bool = True,
        overstates: bool = False,
        breaks: int = 0,
        after: int = 100_000,
        refuses: int = 0,
    ) -> None:
        self.ranges = ranges
        self.overstates = overstates  # as the original registry does
        self.breaks = breaks
        self.after = after
        self.refuses = refuses
        self.asked: list[str] = []

    def __call__(self, request: Request) -> None:
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        if self.refuses:
            self.refuses -= 1
            request.drop()
            return
        fields = {"Accept-Ranges": "bytes"} if self.ranges else {}
        start, end, status = 0, len(LAYER) - 1, 200
        if wanted and self.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, start = 206, int(first)
            end = int(last) if last else end + self.overstates
            if self.overstates and end - start + 1 < 2:
                request.answer(416)
                return
            fields["Content-Range"] = f"{start}-{end}/{len(LAYER)}"
        body = LAYER[start : end + 1]
        if self.breaks:
            self.breaks -= 1
            request.answer(status, body[: self.after], fields, length=end - start + 1)
            request.drop()
        else:
            request.answer(status, body, fields, length=end - start + 1)


def test_a_layer_is_opened_from_some_place_on() -> None:
    with serving({LAYER_PATH: Shelf()}) as server, client(server.url) as made:
        with made.open_layer(IDS[0], v1(server), TOKEN) as blob:
            assert (blob.offset, blob.length) == (0, len(LAYER))
            assert blob.read(len(LAYER)) == LAYER
        with made.open_layer(IDS[0], v1(server), TOKEN, 1000) as blob:
            assert (blob.offset, blob.length) == (1000, len(LAYER) - 1000)
            assert blob.read(len(LAYER)) == LAYER[1000:]


def test_a_registry_that_sends_no_parts_begins_anew() -> None:
    with (
        serving({LAYER_PATH: Shelf(ranges=False)}) as server,
        client(server.url) as made,
        made.open_layer(IDS[0], v1(server), TOKEN, 1000) as blob,
    ):
        assert (blob.offset, blob.read(len(LAYER))) == (0, LAYER)


@pytest.mark.parametrize("size", [-1, len(LAYER)])
@pytest.mark.parametrize("offset", [1, 1000, len(LAYER) - 2])
def test_the_original_registry_announces_one_byte_too_many(offset: int, size: int) -> None:
    shelf = Shelf(overstates=True)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.open_layer(IDS[0], v1(server), TOKEN, offset, size=size) as blob,
    ):
        assert (blob.offset, blob.length) == (offset, len(LAYER) - offset)
        got = memoryview(bytearray(len(LAYER) + 10))
        count = 0
        while more := blob.readinto(got[count:]):
            count += more
    assert got[:count] == LAYER[offset:]


def test_the_last_byte_alone_is_asked_for_together_with_the_one_before() -> None:
    shelf = Shelf(overstates=True)
    offset = len(LAYER) - 1
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.open_layer(IDS[0], v1(server), TOKEN, offset, size=len(LAYER)) as blob,
    ):
        assert (blob.offset, blob.length, blob.read(10)) == (offset, 1, LAYER[-1:])
    assert shelf.asked == [f"bytes={offset - 1}-{offset}"]


def test_a_layer_that_is_not_there() -> None:
    with serving({}) as server, client(server.url) as made:
        with pytest.raises(DoesNotExistError, match="layer of the image"):
            made.open_layer(IDS[0], v1(server), TOKEN)
        with pytest.raises(DoesNotExistError):
            made.read_layer(IDS[0], v1(server), TOKEN)


def test_a_layer_that_breaks_is_gone_on_with() -> None:
    shelf = Shelf(breaks=3)
    sleeps: list[float] = []
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url, sleeps=sleeps) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER)) as layer,
    ):
        assert layer.length == len(LAYER)
        assert layer.read() == LAYER
    last = len(LAYER) - 1
    assert shelf.asked == ["", *(f"bytes={place}-{last}" for place in (100_000, 200_000, 300_000))]
    assert len(sleeps) == 3


@pytest.mark.parametrize(("ranges", "size"), [(False, len(LAYER)), (True, -1)])
def test_a_layer_that_cannot_be_gone_on_with_breaks(ranges: bool, size: int) -> None:
    shelf = Shelf(ranges=ranges, breaks=1)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, size) as layer,
        pytest.raises(ConnectionBrokenError),
    ):
        layer.read()
    assert shelf.asked == [""]


def test_a_layer_is_asked_for_five_times_with_growing_pauses() -> None:
    sleeps: list[float] = []
    slow = RegistrySettings(retry_wait_max=30)
    shelf = Shelf(refuses=100)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url, settings=slow, sleeps=sleeps) as made,
        pytest.raises(ConnectionBrokenError),
    ):
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER))
    assert sleeps == [5.0, 10.0, 15.0, 20.0]
    assert len(shelf.asked) == 5


def test_a_layer_that_comes_at_the_fifth_time() -> None:
    shelf = Shelf(refuses=4)
    with (
        serving({LAYER_PATH: shelf}) as server,
        client(server.url) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER)) as layer,
    ):
        assert layer.read() == LAYER


def test_a_layer_of_another_size_than_was_said() -> None:
    with (
        serving({LAYER_PATH: Shelf()}) as server,
        client(server.url) as made,
        pytest.raises(ProtocolError, match="said 5 bytes, and sends 600000"),
    ):
        made.read_layer(IDS[0], v1(server), TOKEN, 5)


@pytest.mark.parametrize("ranges", [{}, {"Accept-Ranges": "bytes"}])
def test_a_layer_in_chunks_has_no_more_bytes_than_was_said(ranges: dict[str, str]) -> None:
    chunks = b"3\r\nabc\r\n" * 10 + b"0\r\n\r\n"
    answer = (200, chunks, {"Transfer-Encoding": "chunked", **ranges})
    with serving({LAYER_PATH: answer}) as server, client(server.url) as made:
        with made.read_layer(IDS[0], v1(server), TOKEN, 30) as layer:
            assert (layer.length, layer.read()) == (30, b"abc" * 10)
        with (
            made.read_layer(IDS[0], v1(server), TOKEN, 29) as layer,
            pytest.raises(ProtocolError, match="said 29 bytes, and sends more"),
        ):
            layer.read()
    assert len(server.requests) == 2


def test_what_will_not_be_better_is_not_tried_again() -> None:
    answers: Answers = {LAYER_PATH: (403, {"error": "no"}, {})}
    with (
        serving(answers) as server,
        client(server.url) as made,
        pytest.raises(RegistryHTTPError, match="403"),
    ):
        made.read_layer(IDS[0], v1(server), TOKEN)
    assert len(server.requests) == 1


def test_a_cancellation_ends_the_wait_for_a_layer() -> None:
    cancel = Cancellation()
    sending = threading.Event()

    def stalling(request: Request) -> None:
        request.answer(200, LAYER[:1000], {"Accept-Ranges": "bytes"}, length=len(LAYER))
        sending.set()
        request.hang()

    def then_cancel() -> None:
        sending.wait(30)
        cancel.cancel()

    with (
        serving({LAYER_PATH: stalling}) as server,
        client(server.url, cancel=cancel) as made,
        made.read_layer(IDS[0], v1(server), TOKEN, len(LAYER)) as layer,
    ):
        stopper = threading.Thread(target=then_cancel)
        stopper.start()
        with pytest.raises(CancelledError):
            layer.read()
        stopper.join(30)


def test_a_lost_registry_is_told_of() -> None:
    lost: list[int] = []
    with (
        client(f"http://127.0.0.1:{closed_port()}", on_lost=lambda: lost.append(1)) as made,
        pytest.raises(UnreachableRegistryError),
    ):
        made.repository_data("app")
    assert lost == [1]


def test_tries_that_failed_are_told() -> None:
    told: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        told.append(text)

    observer = Observer(log=log)
    with (
        serving({LAYER_PATH: Shelf(refuses=1)}) as server,
        client(server.url, observer=observer) as made,
    ):
        made.read_layer(IDS[0], v1(server), TOKEN).close()
    assert any("trying again" in text for text in told)
    assert issubclass(ConnectionBrokenError, RegistryError)
