"""When a request is made again, and where it goes when it is redirected."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Request, closed_port, scripted

from registry_service.cancel import Cancellation
from registry_service.errors import (
    ConnectionBrokenError,
    ProtocolError,
    RegistryError,
    UnreachableRegistryError,
)
from registry_service.observe import Observer
from registry_service.settings import RegistrySettings
from registry_service.transport import Body, Transport, parse_retry_after
from registry_service.transport.retry import RetryPolicy, parse_retry_at


class Waits:
    """A transport that notes its waits in place of waiting."""

    def __init__(self, **settings: Any) -> None:
        self.seconds: list[float] = []
        self.logs: list[str] = []
        self.observer = Observer(log=self._log)
        self.transport = Transport(
            RegistrySettings(**settings), sleep=self._sleep, dice=lambda: 0.0
        )

    def _sleep(self, seconds: float, cancel: Cancellation) -> None:
        self.seconds.append(seconds)

    def _log(self, level: str, text: str, /, **fields: Any) -> None:
        if level == "warning":
            self.logs.append(text)

    def get(self, url: str, method: str = "GET", **options: Any) -> int:
        with self.transport.request(method, url, observer=self.observer, **options) as response:
            return response.status


@pytest.fixture
def waits() -> Iterator[Waits]:
    waits = Waits(retries=3)
    with waits.transport:
        yield waits


def failing(times: int, act: Any) -> Any:
    """A handler that does ``act`` for ``times`` requests and answers 200 after."""
    left = [times]

    def handler(request: Request) -> None:
        if left[0]:
            left[0] -= 1
            act(request)
        else:
            request.read_body()
            request.answer()

    return handler


def test_an_overloaded_server_is_asked_again_and_that_is_told(waits: Waits) -> None:
    with scripted(failing(2, lambda request: request.answer(503))) as server:
        assert waits.get(server.url) == 200
    assert waits.seconds == [0.125, 0.25]
    assert len(waits.logs) == 2 and "503" in waits.logs[0]


def test_the_last_answer_stands(waits: Waits) -> None:
    with scripted(lambda request: request.answer(502)) as server:
        assert waits.get(server.url) == 502
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 416, 501])
def test_what_a_retry_cannot_help_is_not_retried(waits: Waits, status: int) -> None:
    with scripted(lambda request: request.answer(status)) as server:
        assert waits.get(server.url) == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_failure_is_asked_again_only_where_it_can_have_done_no_harm(
    waits: Waits, status: int
) -> None:
    with scripted(failing(1, lambda request: request.answer(status))) as server:
        assert waits.get(server.url) == 200
    with scripted(failing(1, lambda request: request.answer(status))) as server:
        assert waits.get(server.url, "POST") == status


def test_retry_after_in_seconds_and_as_a_date(waits: Waits) -> None:
    def act(request: Request) -> None:
        date = formatdate(request.server.owner.started + 20, usegmt=True)
        values = ["7", date]
        request.answer(429, headers={"Retry-After": values[len(server.requests) - 1]})

    with scripted(failing(2, act)) as server:
        assert waits.get(server.url, "POST") == 200
    assert 7 <= waits.seconds[0] <= 8
    assert 15 <= waits.seconds[1] <= 21


def test_a_wait_longer_than_is_allowed_is_not_begun() -> None:
    waits = Waits(retries=3, retry_wait_max=5)
    with (
        waits.transport as transport,
        scripted(lambda request: request.answer(429, headers={"Retry-After": "6"})) as server,
    ):
        error = transport.request("GET", server.url).error()
    assert (error.http_status, error.retry_after, error.retryable) == (429, 6.0, True)
    assert waits.seconds == []


def test_a_dropped_connection_is_made_again_where_that_is_safe(waits: Waits) -> None:
    with scripted(failing(1, lambda request: request.drop())) as server:
        assert waits.get(server.url) == 200
    with scripted(failing(1, lambda request: request.drop())) as server:
        with pytest.raises(ConnectionBrokenError):
            waits.get(server.url, "POST", body=b"x")
        assert len(server.requests) == 1
    with scripted(failing(1, lambda request: request.drop())) as server:
        assert waits.get(server.url, "PUT", body=b"x", idempotent=True) == 200


@pytest.mark.parametrize("length", [4, None])
def test_a_body_is_opened_again_for_each_try(waits: Waits, length: int | None) -> None:
    opened, got = [], []

    def opener() -> io.BytesIO:
        opened.append(1)
        return io.BytesIO(b"body")

    def handler(request: Request) -> None:
        got.append(request.read_body())
        request.answer(503 if len(got) < 3 else 201)

    with scripted(handler) as server:
        body = Body(opener=opener, length=length)
        assert waits.get(server.url, "PUT", body=body) == 201
    assert got == [b"body"] * 3 and len(opened) == 3


def test_a_host_that_does_not_answer_is_tried_again_unless_it_is_a_probe(waits: Waits) -> None:
    url = f"http://127.0.0.1:{closed_port()}/"
    with pytest.raises(UnreachableRegistryError):
        waits.get(url, "POST")
    assert len(waits.seconds) == 3
    waits.seconds.clear()
    with pytest.raises(UnreachableRegistryError):
        waits.get(url, probe=True)
    assert waits.seconds == []


@given(
    st.integers(0, 40),
    st.floats(0, 1),
    st.none() | st.floats(0, 1e6),
    st.floats(0.001, 600),
)
def test_no_wait_is_over_the_longest(
    attempt: int, dice: float, retry_after: float | None, longest: float
) -> None:
    policy = RetryPolicy(retries=50, longest=longest)
    wait = policy.wait(attempt, retry_after, dice)
    if wait is None:
        assert retry_after is not None and retry_after > longest
    else:
        assert 0 < wait <= longest or wait == retry_after == 0
        assert retry_after is None or wait >= retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("soon", None),
        ("-3", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 1970 00:00:01 -0000", 1.0),
        ("Mon, 99 Jan 1999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, 0.0) == seconds
    if seconds:
        assert parse_retry_after(value, 1e9) in (0.0, seconds)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("soon", None), ("1030", 30.0), ("1000", 0.0), ("5", 0.0), ("9" * 5000, None)],
)
def test_the_time_at_which_a_hub_may_be_asked_again(
    value: str | None, seconds: float | None
) -> None:
    assert parse_retry_at(value, 1000.0) == seconds


def test_a_time_to_ask_again_is_a_pause(waits: Waits) -> None:
    again = {"X-Retry-After": str(int(time.time()) + 3000)}
    with scripted(lambda request: request.answer(429, headers=again)) as server:
        response = waits.transport.request("GET", server.url, hasty=True)
        after = response.error().retry_after
        assert after is not None
        assert 2000 < after <= 3000


# redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_authorization_stays_within_its_origin(waits: Waits, status: int) -> None:
    headers = {"Authorization": "Bearer t", "X-Mine": "m", "Range": "bytes=5-", "Accept": "a/b"}
    with scripted(lambda request: request.answer(body=b"there")) as there:

        def handler(request: Request) -> None:
            if request.path == "/out":
                request.answer(status, headers={"Location": f"{there.url}/there?sig=1"})
            elif request.path == "/in":
                request.answer(status, headers={"Location": "inner"})
            else:
                request.answer()

        with scripted(handler) as server:
            assert waits.get(f"{server.url}/out", headers=headers) == 200
            assert waits.get(f"{server.url}/in", headers=headers) == 200
    _, path, seen = there.requests[0]
    assert path == "/there?sig=1"
    assert "Authorization" not in seen and "X-Mine" not in seen
    assert (seen["Range"], seen["Accept"]) == ("bytes=5-", "a/b")
    assert server.requests[-1][1] == "/inner"
    assert server.requests[-1][2]["Authorization"] == "Bearer t"


def test_a_redirected_body_is_sent_again(waits: Waits) -> None:
    got: list[tuple[str, bytes]] = []

    def handler(request: Request) -> None:
        got.append((request.path, request.read_body()))
        if request.path == "/a":
            request.answer(307, headers={"Location": "/b"})
        else:
            request.answer(201)

    with scripted(handler) as server:
        body = Body(opener=lambda: io.BytesIO(b"body"), length=4)
        assert waits.get(f"{server.url}/a", "PUT", body=body) == 201
    assert got == [("/a", b"body"), ("/b", b"body")]


def test_see_other_is_got(waits: Waits) -> None:
    def handler(request: Request) -> None:
        request.read_body()
        if request.command == "POST":
            request.answer(303, headers={"Location": "/b"})
        else:
            request.answer()

    with scripted(handler) as server:
        assert waits.get(server.url, "POST", body=b"x") == 200
    assert [method for method, _, _ in server.requests] == ["POST", "GET"]
    assert "Content-Length" not in server.requests[1][2]


def test_redirects_end(waits: Waits) -> None:
    with (
        scripted(lambda request: request.answer(302, headers={"Location": "/"})) as server,
        pytest.raises(ProtocolError, match="more than 10 redirects"),
    ):
        waits.get(server.url)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/", "https://"])
def test_a_redirect_to_something_else_is_refused(waits: Waits, location: str) -> None:
    with (
        scripted(lambda request: request.answer(302, headers={"Location": location})) as server,
        pytest.raises(RegistryError, match="no http or https URL"),
    ):
        waits.get(server.url)


def test_a_redirect_without_a_location_is_an_answer(waits: Waits) -> None:
    with scripted(lambda request: request.answer(304)) as server:
        assert waits.get(server.url) == 304
