"""Faults, hold points and the log of the test registry."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_registry_http import call, connected

from registry_service.testing import Fault, FaultKind, LoggedRequest, Registry
from registry_service.testing.faults import FaultSet, path_matches
from registry_service.testing.images import push_image, random_image
from registry_service.testing.message import Request

DATA = hashlib.shake_256(b"faults").digest(400_000)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def path(registry: Registry) -> str:
    return f"/v2/test/app/blobs/{registry.put_blob('test/app', DATA)}"


def request(method: str = "GET", path: str = "/v2/") -> Request:
    return Request(
        method=method, target=path, path=path, query={}, headers={}, secure=False, host="x"
    )


def broken_get(registry: Registry, path: str) -> bytes:
    """What a GET gives before it breaks off."""
    with connected(registry) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        return bytes(caught.value.partial)


# how they are written


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (
            "drop:after=65536,path=/blobs/,times=2",
            Fault(kind=FaultKind.DROP, after=65536, path="/blobs/", times=2),
        ),
        (
            "stall:after=1000,seconds=30",
            Fault(kind=FaultKind.STALL, after=1000, seconds=30.0),
        ),
        ("status:code=503,times=3", Fault(kind=FaultKind.STATUS, code=503, times=3)),
        (
            "status:code=429,retry-after=2,form=date",
            Fault(kind=FaultKind.STATUS, code=429, retry_after=2, form="date"),
        ),
        ("corrupt:offset=10", Fault(kind=FaultKind.CORRUPT, offset=10)),
        ("short", Fault(kind=FaultKind.SHORT)),
        ("wrong-range", Fault(kind=FaultKind.WRONG_RANGE)),
        ("no-range:method=get", Fault(kind=FaultKind.NO_RANGE, method="GET")),
        (
            "slow:rate=1000,probability=0.5,seed=7",
            Fault(kind=FaultKind.SLOW, rate=1000, probability=0.5, seed=7),
        ),
        ("drop:reset=yes,skip=1", Fault(kind=FaultKind.DROP, reset=True, skip=1)),
        (
            "redirect:to=http://127.0.0.1:1",
            Fault(kind=FaultKind.REDIRECT, to="http://127.0.0.1:1"),
        ),
        ("lost-answer", Fault(kind=FaultKind.LOST_ANSWER)),
    ],
)
def test_faults_are_read(spec: str, fault: Fault) -> None:
    assert Fault.parse(spec) == fault


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "there are drop, stall"),
        ("explode", "no fault 'explode'; there are drop, stall"),
        ("drop:after", "'after' is not of the form key=value"),
        ("drop:after=", "not of the form key=value"),
        ("drop:after=x", "whole number"),
        ("drop:after=1,after=2", "given twice"),
        ("drop:seconds=2", "has no key 'seconds'; it takes after, reset, path"),
        ("drop:reset=maybe", "yes or no"),
        ("stall", "seconds= is missing"),
        ("stall:seconds=nan", "between 0 and 86400"),
        ("slow:rate=0", "1 or more bytes"),
        ("status", "code= is missing"),
        ("status:code=200", "between 400 and 599"),
        ("status:code=503,form=date", "together with retry-after"),
        ("redirect:to=ftp://x", "http://"),
        ("redirect:to=http://x,code=404", "one of 301"),
        ("drop:times=0", "1 or more"),
        ("drop:probability=0", "above 0"),
        ("drop:probability=x", "a number"),
    ],
)
def test_faults_that_cannot_be_read_say_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match="fault") as caught:
        Fault.parse(spec)
    assert message in str(caught.value)


@given(st.text(alphabet="dropstal:=,0123456789abcdef-", max_size=40))
def test_reading_a_fault_gives_one_or_a_value_error(spec: str) -> None:
    try:
        fault = Fault.parse(spec)
    except ValueError as error:
        assert str(error)
    else:
        assert isinstance(fault, Fault)


def test_a_value_is_checked_like_a_text() -> None:
    with pytest.raises(ValueError, match="has no key 'seconds'"):
        Fault(kind=FaultKind.DROP, seconds=1.0)


def test_a_path_is_matched_as_a_part_or_a_pattern() -> None:
    assert path_matches(None, "/v2/a")
    assert path_matches("/blobs/", "/v2/a/blobs/x")
    assert not path_matches("/blobs/", "/v2/a/manifests/x")
    assert path_matches("/v2/*/manifests/1.?", "/v2/a/b/manifests/1.0")
    assert not path_matches("*/manifests", "/v2/a/manifests/1")


# when they strike


def test_times_and_skip_count_strikes() -> None:
    faults = FaultSet(["status:code=503,times=2,skip=1"])
    struck = [faults.of(request()).strikes(FaultKind.STATUS) is not None for _ in range(5)]
    assert struck == [False, True, True, False, False]


def test_probability_is_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> list[bool]:
        faults = FaultSet([f"drop:probability=0.5,seed={seed}"])
        return [faults.of(request()).strikes(FaultKind.DROP) is not None for _ in range(200)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 60 < sum(drawn(1)) < 140


def test_times_holds_with_many_threads() -> None:
    faults = FaultSet()
    switch = faults.add("drop:times=100")
    hits: list[int] = []

    def strike() -> None:
        hits.append(
            sum(faults.of(request()).strikes(FaultKind.DROP) is not None for _ in range(50))
        )

    threads = [threading.Thread(target=strike) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(hits) == switch.hits == 100


def test_a_fault_is_switched_on_and_off(registry: Registry) -> None:
    switch = registry.add_fault("status:code=503")
    assert call(registry, "GET", "/v2/").status == 503
    assert switch.hits == 1
    switch.remove()
    switch.remove()
    assert call(registry, "GET", "/v2/").status == 200
    registry.add_fault(Fault(kind=FaultKind.STATUS, code=500))
    registry.clear_faults()
    assert call(registry, "GET", "/v2/").status == 200


# what they do


def test_status_with_retry_after_in_seconds_and_as_a_date(registry: Registry) -> None:
    registry.add_fault("status:code=429,retry-after=2,times=1,path=/v2/")
    answer = call(registry, "GET", "/v2/")
    assert (answer.status, answer.codes) == (429, ["TOOMANYREQUESTS"])
    assert answer.header("Retry-After") == "2"
    registry.add_fault("status:code=503,retry-after=100,form=date,times=1")
    answer = call(registry, "GET", "/v2/")
    when = email.utils.parsedate_to_datetime(answer.header("Retry-After")).timestamp()
    assert 95 < when - time.time() <= 100
    assert registry.requests[-1].faults == ("status",)


def test_drop_without_a_place_closes_before_anything_is_done(registry: Registry) -> None:
    of = "sha256:" + hashlib.sha256(DATA).hexdigest()
    registry.add_fault("drop:method=POST,times=1")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        call(registry, "POST", f"/v2/a/blobs/uploads/?digest={of}", DATA)
    assert not registry.has_blob("a", of)
    assert call(registry, "POST", f"/v2/a/blobs/uploads/?digest={of}", DATA).status == 201


def test_lost_answer_closes_after_everything_is_done(registry: Registry) -> None:
    of = "sha256:" + hashlib.sha256(DATA).hexdigest()
    registry.add_fault("lost-answer:method=POST,times=1")
    with pytest.raises(http.client.RemoteDisconnected):
        call(registry, "POST", f"/v2/a/blobs/uploads/?digest={of}", DATA)
    assert registry.has_blob("a", of)


@pytest.mark.parametrize("after", [0, 1, 65536, 399_999])
def test_drop_sends_so_many_bytes_exactly(registry: Registry, path: str, after: int) -> None:
    switch = registry.add_fault(f"drop:after={after},path=/blobs/,times=1")
    assert broken_get(registry, path) == DATA[:after]
    assert call(registry, "GET", path).body == DATA
    assert switch.hits == 1
    first = registry.requests[0]
    assert (first.sent, first.complete, first.faults) == (after, False, ("drop",))


def test_drop_past_the_end_does_not_strike(registry: Registry, path: str) -> None:
    switch = registry.add_fault(f"drop:after={len(DATA)},times=1")
    assert call(registry, "GET", path).body == DATA
    assert call(registry, "HEAD", path).status == 200
    assert switch.hits == 0


def test_drop_with_a_reset(registry: Registry, path: str) -> None:
    registry.add_fault("drop:reset=yes")
    with pytest.raises(ConnectionResetError):
        call(registry, "GET", path)


def test_drop_of_an_upload_keeps_so_many_bytes(registry: Registry) -> None:
    where = call(registry, "POST", "/v2/a/blobs/uploads/").header("Location")
    registry.add_fault("drop:after=100000,method=PATCH,times=1")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        call(registry, "PATCH", where, DATA)
    status = call(registry, "GET", where)
    assert status.header("Range") == "0-99999"
    of = "sha256:" + hashlib.sha256(DATA).hexdigest()
    closing = f"{status.header('Location')}&digest={of}"
    assert call(registry, "PUT", closing, DATA[100_000:]).status == 201
    assert registry.blob("a", of) == DATA


def test_corrupt_changes_one_byte_of_the_content(registry: Registry, path: str) -> None:
    registry.add_fault("corrupt:offset=70000")
    got = call(registry, "GET", path).body
    assert [at for at in range(len(DATA)) if got[at] != DATA[at]] == [70_000]
    part = call(registry, "GET", path, headers={"Range": "bytes=69999-70001"}).body
    assert part[1] == DATA[70_000] ^ 0xFF
    clean = call(registry, "GET", path, headers={"Range": "bytes=70001-"}).body
    assert clean == DATA[70_001:]


def test_corrupt_changes_an_upload(registry: Registry) -> None:
    registry.add_fault("corrupt:method=POST,times=1")
    of = "sha256:" + hashlib.sha256(DATA).hexdigest()
    answer = call(registry, "POST", f"/v2/a/blobs/uploads/?digest={of}", DATA)
    assert answer.codes == ["DIGEST_INVALID"]


@pytest.mark.parametrize(("spec", "kept"), [("short", 200_000), ("short:after=7", 7)])
def test_short_is_a_whole_answer_with_fewer_bytes(
    registry: Registry, path: str, spec: str, kept: int
) -> None:
    registry.add_fault(spec)
    answer = call(registry, "GET", path)
    assert answer.header("Content-Length") == str(kept)
    assert answer.body == DATA[:kept]


def test_short_cuts_a_manifest_too(registry: Registry) -> None:
    image = random_image(1)
    push_image(registry, "a", "1", image)
    registry.add_fault("short:after=10,path=/manifests/")
    answer = call(registry, "GET", "/v2/a/manifests/1")
    assert answer.body == image.manifest[:10]
    assert answer.header("Docker-Content-Digest") == image.digest


def test_no_range_answers_with_everything(registry: Registry, path: str) -> None:
    registry.add_fault("no-range:times=1")
    assert call(registry, "GET", path).body == DATA
    answer = call(registry, "GET", path, headers={"Range": "bytes=5-"})
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Accept-Ranges"] is None
    assert call(registry, "GET", path, headers={"Range": "bytes=5-"}).status == 206


def test_wrong_range_answers_with_another_part_and_says_so(registry: Registry, path: str) -> None:
    registry.add_fault("wrong-range")
    answer = call(registry, "GET", path, headers={"Range": "bytes=5-9"})
    assert (answer.status, answer.body) == (206, DATA[:10])
    assert answer.header("Content-Range") == f"bytes 0-9/{len(DATA)}"
    assert call(registry, "GET", path, headers={"Range": "bytes=0-4"}).body == DATA[:5]


def test_redirect_points_to_the_same_target_elsewhere(registry: Registry, path: str) -> None:
    registry.add_fault("redirect:to=http://127.0.0.1:1/,path=/blobs/")
    answer = call(registry, "GET", f"{path}?x=1")
    assert answer.status == 307
    assert answer.header("Location") == f"http://127.0.0.1:1{path}?x=1"


def test_slow_limits_the_rate(registry: Registry) -> None:
    small = f"/v2/a/blobs/{registry.put_blob('a', DATA[:20_000])}"
    registry.add_fault("slow:rate=100000,after=10000")
    before = time.monotonic()
    assert call(registry, "GET", small).body == DATA[:20_000]
    assert 0.09 < time.monotonic() - before < 5


def test_stall_pauses_at_its_place_and_ends_with_the_registry() -> None:
    with Registry(faults=["stall:after=1000,seconds=3600"]) as registry:
        path = f"/v2/a/blobs/{registry.put_blob('a', DATA)}"
        with connected(registry) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.read(1000) == DATA[:1000]
            registry.wait_for(lambda seen: seen and seen[0].sent == 0 and not seen[0].done)
            before = time.monotonic()
            registry.stop()
            assert time.monotonic() - before < 5
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()


def test_a_short_stall_delays_and_no_more(registry: Registry, path: str) -> None:
    registry.add_fault("stall:seconds=0.05,times=1")
    registry.add_fault("stall:seconds=0.05,after=5,times=1")
    before = time.monotonic()
    assert call(registry, "GET", path).body == DATA
    assert time.monotonic() - before > 0.09
    (entry,) = registry.wait_for(lambda seen: seen[0].done)
    assert entry.faults == ("stall", "stall")


def test_faults_in_a_body_leave_error_answers_alone(registry: Registry, path: str) -> None:
    switch = registry.add_fault("drop:after=1,times=1")
    assert call(registry, "GET", "/v2/none/tags/list").status == 404
    assert switch.hits == 0


# holds


def test_a_hold_that_cannot_be_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="times="):
        registry.hold(times=0)
    with pytest.raises(ValueError, match="after="):
        registry.hold(after=-1)


def test_a_request_is_held_until_released(registry: Registry, path: str) -> None:
    answers: list[int] = []
    with registry.hold(path="/blobs/", times=1) as hold:
        thread = threading.Thread(target=lambda: answers.append(call(registry, "GET", path).status))
        thread.start()
        assert hold.entered.wait(10)
        assert (hold.waiting, answers) == (1, [])
        assert call(registry, "GET", "/v2/").status == 200
        assert call(registry, "GET", path).status == 200
    thread.join(10)
    assert answers == [200]
    assert hold.waiting == 0


def test_a_request_is_held_in_the_middle_of_its_answer(registry: Registry, path: str) -> None:
    with registry.hold(method="GET", after=5000) as hold, connected(registry) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.read(5000) == DATA[:5000]
        assert hold.entered.wait(10)
        hold.release()
        assert response.read() == DATA[5000:]


def test_an_upload_is_held_in_its_middle(registry: Registry) -> None:
    where = call(registry, "POST", "/v2/a/blobs/uploads/").header("Location")
    answers: list[Any] = []
    hold = registry.hold(method="PATCH", after=1000)
    thread = threading.Thread(target=lambda: answers.append(call(registry, "PATCH", where, DATA)))
    thread.start()
    assert hold.entered.wait(10)
    assert call(registry, "GET", where).header("Range") == "0-999"
    hold.release()
    thread.join(10)
    assert answers[0].header("Range") == f"0-{len(DATA) - 1}"


def test_a_hold_ends_with_the_registry(path: str, registry: Registry) -> None:
    hold = registry.hold()
    with connected(registry) as connection:
        connection.request("GET", path)
        assert hold.entered.wait(10)
        registry.stop()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            connection.getresponse()


def test_grace_lets_a_request_end(registry: Registry, path: str) -> None:
    with connected(registry) as connection:
        hold = registry.hold(after=10)
        connection.request("GET", path)
        assert hold.entered.wait(10)
        stop = threading.Thread(target=registry.stop, args=(30.0,))
        stop.start()
        refused = False
        while not refused:
            try:
                socket.create_connection(("127.0.0.1", registry.port), 1).close()
            except OSError:
                refused = True
        hold.release()
        assert connection.getresponse().read() == DATA
        stop.join(10)
        assert not stop.is_alive()


# the log


def test_the_log_tells_what_was_asked_and_moved(registry: Registry, path: str) -> None:
    call(registry, "GET", f"{path}?a=1&a=2", headers={"Range": "bytes=1-3", "X-Mine": "yes"})
    of = "sha256:" + hashlib.sha256(DATA).hexdigest()
    call(registry, "POST", f"/v2/a/blobs/uploads/?digest={of}", DATA)
    seen = registry.wait_for(lambda entries: [entry.done for entry in entries] == [True, True])
    got, posted = seen
    assert (got.method, got.path, got.status, got.sent) == ("GET", path, 206, 3)
    assert (got.range, got.query) == ("bytes=1-3", {"a": ("1", "2")})
    assert got.headers["x-mine"] == "yes"
    assert (posted.received, posted.status, posted.complete) == (len(DATA), 201, True)
    assert "206" in str(got)
    registry.clear_requests()
    assert registry.requests == []


def test_a_request_is_in_the_log_when_its_answer_is_there(registry: Registry) -> None:
    for number in range(1, 50):
        call(registry, "HEAD", "/v2/")
        assert len(registry.requests) == number


def test_waiting_for_what_does_not_come_tells_what_came(registry: Registry) -> None:
    call(registry, "GET", "/v2/")
    with pytest.raises(TimeoutError, match="GET /v2/ 200"):
        registry.wait_for(lambda entries: len(entries) > 1, timeout=0.05)


def test_a_callback_sees_each_request_once_when_it_is_done() -> None:
    seen: list[LoggedRequest] = []
    done = threading.Semaphore(0)

    def note(entry: LoggedRequest) -> None:
        seen.append(entry)
        done.release()

    with Registry(on_request=note) as registry:
        push_image(registry, "a", "1", random_image(1))
        call(registry, "GET", "/v2/")
        call(registry, "GET", "/v2/a/manifests/1")
        assert done.acquire(timeout=10)
        assert done.acquire(timeout=10)
    assert sorted(entry.path for entry in seen) == ["/v2/", "/v2/a/manifests/1"]
    assert all(entry.done for entry in seen)
