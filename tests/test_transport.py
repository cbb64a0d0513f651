from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Authority, Request, closed_port, scripted
from test_gate import Turned

from registry_service.errors import (
    ConnectionBrokenError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    RegistryTimeoutError,
    UnreachableRegistryError,
    show_url,
)
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.settings import RegistrySettings
from registry_service.transport import Body, Response, Transport
from registry_service.transport.request import Request as Asked

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(RegistrySettings(retries=0)) as transport:
        yield transport


def read_all(response: Response, size: int = 300_000) -> bytes:
    buffer = memoryview(bytearray(size))
    parts = []
    while count := response.readinto(buffer):
        parts.append(bytes(buffer[:count]))
    return b"".join(parts)


# what comes back


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_body_arrives_whole_however_it_is_framed(transport: Transport, framing: str) -> None:
    def handler(request: Request) -> None:
        if framing == "length":
            request.answer(body=DATA)
        elif framing == "chunked":
            parts = [DATA[at : at + 70_000] for at in range(0, len(DATA), 70_000)]
            raw = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            request.answer(body=raw + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
        else:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + DATA)
            request.drop()

    with scripted(handler) as server:
        response = transport.request("GET", server.url)
        assert response.length == (len(DATA) if framing == "length" else None)
        assert read_all(response) == DATA
        assert response.readinto(memoryview(bytearray(1))) == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_encoding_of_the_content_is_undone(transport: Transport, encoding: str) -> None:
    packed = gzip.compress(DATA) if encoding == "gzip" else zlib.compress(DATA)
    with scripted(
        lambda request: request.answer(body=packed, headers={"Content-Encoding": encoding})
    ) as server:
        response = transport.request("GET", server.url)
        assert response.length is None
        assert hashlib.sha256(read_all(response)).digest() == hashlib.sha256(DATA).digest()
    assert server.requests[0][2]["Accept-Encoding"] == "identity"


def test_an_encoding_that_is_not_known_is_an_error(transport: Transport) -> None:
    with (
        scripted(
            lambda request: request.answer(body=b"x", headers={"Content-Encoding": "lzma"})
        ) as server,
        pytest.raises(ProtocolError, match="'lzma'"),
    ):
        transport.request("GET", server.url)


@pytest.mark.parametrize("sent", ["", "3\r\nabc\r\n", "3\r\nabc\r\n4", "3\r\nabc\r\n0"])
def test_chunks_that_break_off_can_be_asked_for_again(transport: Transport, sent: str) -> None:
    def handler(request: Request) -> None:
        request.answer(body=sent, headers={"Transfer-Encoding": "chunked"})
        request.drop()

    with scripted(handler) as server, pytest.raises(ConnectionBrokenError) as caught:
        read_all(transport.request("GET", server.url))
    assert caught.value.retryable


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_cut_short_is_an_error(transport: Transport, chunked: bool) -> None:
    def handler(request: Request) -> None:
        if chunked:
            request.answer(body=b"400\r\nabc", headers={"Transfer-Encoding": "chunked"})
        else:
            request.answer(body=b"abc", length=1024)
        request.drop()

    with scripted(handler) as server, pytest.raises(ConnectionBrokenError) as caught:
        read_all(transport.request("GET", server.url))
    assert caught.value.retryable


def test_the_body_after_the_length_belongs_to_nobody(transport: Transport) -> None:
    with scripted(lambda request: request.answer(body=b"abcdef", length=3)) as server:
        assert read_all(transport.request("GET", server.url)) == b"abc"
        assert read_all(transport.request("GET", server.url)) == b"abc"


def test_no_http_at_all_is_a_protocol_error(transport: Transport) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        request.drop()

    with scripted(handler) as server, pytest.raises(ProtocolError, match="not HTTP"):
        transport.request("GET", server.url)


@pytest.mark.parametrize("length", [10, 17, 40])
def test_a_head_that_is_cut_off_is_a_broken_connection(transport: Transport, length: int) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: y\r\n\r\n"[:length])
        request.drop()

    with scripted(handler) as server, pytest.raises(ConnectionBrokenError):
        transport.request("GET", server.url)


def test_a_malformed_head_is_refused_and_no_secret_is_logged(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nthis is no header\r\nContent-Length: 0\r\n\r\n")
        request.drop()

    with scripted(handler) as server, pytest.raises(ProtocolError, match="malformed") as caught:
        transport.request("GET", f"{server.url}/?X-Amz-Signature=5ecret")
    assert "5ecret" not in caplog.text
    assert "5ecret" not in str(caught.value)


def test_a_reason_holds_nothing_that_a_terminal_obeys(transport: Transport) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(
            b"HTTP/1.1 500 \x1b[2J" + b"Bad " * 500 + b"\r\nContent-Length: 0\r\n\r\n"
        )

    with scripted(handler) as server:
        error = transport.request("GET", server.url).error()
    assert "[2JBad" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 \x1b[2J\r\n\r\n",
        b"SSH \x1b[2J \x9b2J \x00\r\n\r\n",
        b"HTTP/1.1 302 Away\r\nLocation: /\x1b[2J\x9b2J\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Away\r\nLocation: ftp://\x1b[2J\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: \x1b[2J\r\n\r\n",
    ],
)
def test_no_error_holds_what_a_terminal_obeys(transport: Transport, raw: bytes) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(raw)
        request.drop()

    with scripted(handler) as server, pytest.raises(RegistryError) as caught:
        transport.request("GET", server.url)
    assert str(caught.value).isprintable()


def test_a_url_that_no_text_can_hold_is_shown() -> None:
    assert show_url("https://h/a\ud800\x1b[2J") == "https://h/a%3F%1B[2J"


def test_user_information_in_a_url_is_not_sent(transport: Transport) -> None:
    with scripted(lambda request: request.answer()) as server:
        transport.request("GET", f"http://me:5ecret@{server.host}/a").close()
        transport.request(
            "GET", f"http://me:5ecret@{server.host}/b", headers={"Authorization": "Bearer t"}
        ).close()
    assert "Authorization" not in server.requests[0][2]
    assert server.requests[1][2]["Authorization"] == "Bearer t"


def test_the_target_of_a_url_arrives_as_it_is(transport: Transport) -> None:
    target = "/v2/a%2Fb/~x?sig=a%2Bb+c%3D%3d&q=%E4&e="
    with scripted(lambda request: request.answer()) as server:
        transport.request("GET", f"{server.url}{target}#part").close()
        transport.request("GET", f"{server.url}?n=1").close()
    assert server.paths() == [target.replace("%3d", "%3D"), "/?n=1"]


def test_a_redirect_that_is_refused_is_over() -> None:
    """Its connection, and its place among those that its host allows at once, are free again."""
    rules = HostRules(limits=HostLimits(concurrent=1))
    settings = RegistrySettings(retries=0, hosts=HostTable(default=rules))

    def handler(request: Request) -> None:
        request.answer(302, b"a body", {"Location": "ftp://elsewhere/"})

    with scripted(handler) as server, Transport(settings) as transport:
        for _ in range(3):
            with pytest.raises(ProtocolError, match="no http or https URL"):
                transport.request("GET", server.url)


def test_no_repr_of_a_request_shows_a_secret() -> None:
    request = Asked(
        method="POST",
        url="https://h/token",
        headers={"Authorization": "Basic pl4nted"},
        body=Body.of(b"password=pl4nted"),
        sealed=True,
        form=b"password=pl4nted",
        secret=None,
        connect=5.0,
        read=60.0,
        total=None,
        whole=0,
    )
    assert "pl4nted" not in repr(request)
    assert "pl4nted" not in repr(request.veil)


def test_read_has_a_limit(transport: Transport) -> None:
    with scripted(lambda request: request.answer(body=b"a" * 1001)) as server:
        with pytest.raises(ProtocolError, match="more than the 1000 bytes"):
            transport.request("GET", server.url).read(1000)
        assert len(transport.request("GET", server.url).read(1001)) == 1001


def test_cookies_are_dropped_and_the_user_agent_is_a_list() -> None:
    settings = RegistrySettings(user_agent=("enginectl/1.0",))
    with (
        scripted(lambda request: request.answer(headers={"Set-Cookie": "sid=1"})) as server,
        Transport(settings) as transport,
    ):
        for _ in range(2):
            transport.request("GET", server.url).close()
    assert all("Cookie" not in headers for _, _, headers in server.requests)
    assert server.requests[0][2]["User-Agent"].startswith("enginectl/1.0 registry-engine/")


def test_the_environment_is_left_alone(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    with scripted(lambda request: request.answer()) as server:
        transport.request("GET", server.url).close()
        transport.request("GET", server.url, headers={"Authorization": "Bearer t"}).close()
    assert "Authorization" not in server.requests[0][2]
    assert server.requests[1][2]["Authorization"] == "Bearer t"


def test_several_headers_of_one_name_are_kept_apart(transport: Transport) -> None:
    with scripted(lambda request: request.answer(headers={"Link": ["<a>", "<b>"]})) as server:
        response = transport.request("GET", server.url)
    assert response.header_values("link") == ["<a>", "<b>"]


# what goes out


class _Source(io.BytesIO):
    opened = 0

    def __init__(self) -> None:
        super().__init__(DATA)
        _Source.opened += 1


def test_a_body_is_streamed_with_its_length_and_told(transport: Transport) -> None:
    got: list[bytes] = []
    told: list[int] = []

    def handler(request: Request) -> None:
        got.append(request.read_body())
        request.answer(201)

    with scripted(handler) as server:
        body = Body(opener=_Source, length=len(DATA), progress=told.append)
        assert transport.request("PUT", server.url, body=body).status == 201
    assert got == [DATA]
    assert server.requests[0][2]["Content-Length"] == str(len(DATA))
    assert told[0] == 0 and told[-1] == len(DATA) and told == sorted(told)
    assert max(b - a for a, b in itertools.pairwise(told)) <= 256 * 1024


def test_an_empty_body_says_so(transport: Transport) -> None:
    with scripted(lambda request: request.answer(202)) as server:
        transport.request("POST", server.url, body=b"").close()
    assert server.requests[0][2]["Content-Length"] == "0"
    assert "Transfer-Encoding" not in server.requests[0][2]


def test_a_source_that_is_too_short_is_told_as_such(transport: Transport) -> None:
    def handler(request: Request) -> None:
        request.read_body()

    with scripted(handler) as server, pytest.raises(RegistryError, match="ended after 3 of 10"):
        body = Body(opener=lambda: io.BytesIO(b"abc"), length=10)
        transport.request("PUT", server.url, body=body)


def test_a_source_that_cannot_be_read_is_told_as_such(transport: Transport) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    def absent() -> io.BytesIO:
        raise FileNotFoundError(2, "No such file or directory", "blob")

    with scripted(lambda request: request.answer()) as server:
        for opener, words in ((Broken, "cannot be read"), (absent, "cannot be opened")):
            with pytest.raises(RegistryError, match=words):
                transport.request("PUT", server.url, body=Body(opener=opener, length=10))


def test_an_answer_before_the_body_was_taken_is_read(transport: Transport) -> None:
    """A server that refuses an upload need not read it."""

    def handler(request: Request) -> None:
        request.answer(413, {"errors": [{"code": "SIZE_INVALID", "message": "too big"}]})
        request.connection.recv(100_000)
        request.drop()

    with (
        scripted(handler) as server,
        transport.request("PUT", server.url, body=b"a" * 100_000) as response,
    ):
        assert response.status == 413


def test_a_body_of_unknown_length_is_sent_in_chunks(transport: Transport) -> None:
    got: list[bytes] = []
    told: list[int] = []

    def handler(request: Request) -> None:
        got.append(request.read_body())
        request.answer(201)

    with scripted(handler) as server:
        body = Body(opener=_Source, length=None, progress=told.append)
        for _ in range(2):  # on one connection: the chunks have an end
            assert transport.request("PUT", server.url, body=body).status == 201
        empty = Body(opener=io.BytesIO, length=None)
        assert transport.request("PUT", server.url, body=empty).status == 201
        after = transport.request("PUT", server.url, body=b"abc")
        assert after.status == 201
    assert got == [DATA, DATA, b"", b"abc"]
    for _, _, headers in server.requests[:3]:
        assert headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in headers
    assert told[0] == 0 and max(told) == len(DATA)


@pytest.mark.parametrize("length", [len(DATA), None])
def test_a_body_goes_at_the_pace_that_its_host_allows(length: int | None) -> None:
    clock = Turned()
    limits = HostLimits(bytes_per_second=len(DATA) // 10, concurrent=1)
    settings = RegistrySettings(hosts=HostTable(default=HostRules(limits=limits)))

    def handler(request: Request) -> None:
        request.read_body()
        request.answer(201)

    with scripted(handler) as server, Transport(settings, clock=clock) as transport:
        body = Body(opener=_Source, length=length)
        assert transport.request("PUT", server.url, body=body).status == 201
    assert sum(clock.waits) == pytest.approx(10, rel=0.2)


class _Unending(io.RawIOBase):
    """What has no end, and counts what was read of it."""

    count = 0

    def readinto(self, buffer: Any, /) -> int:
        self.count += len(buffer)
        return len(buffer)


@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_before_the_chunks_end_is_read(tls: bool, tmp_path: Path) -> None:
    """A server that has heard enough answers, and closes the connection."""

    def handler(request: Request) -> None:
        request.answer(409, {"error": "Image already exists"})
        request.drop()

    authority = Authority(tmp_path) if tls else None
    settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,))
    with scripted(handler, authority) as server, Transport(settings) as transport:
        for _ in range(3):
            body = Body(opener=_Unending, length=None)
            with transport.request("PUT", server.url, body=body) as response:
                assert response.status == 409
                assert "already exists" in str(response.error())


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_answers_and_reads_no_more_is_sent_no_more(tls: bool, tmp_path: Path) -> None:
    """It would wait for an end of the chunks that never comes."""
    sources: list[_Unending] = []

    def opener() -> _Unending:
        sources.append(_Unending())
        return sources[-1]

    def handler(request: Request) -> None:
        request.rfile.readline()
        request.answer(401, {"error": "Requires authorization"}, {"Connection": "keep-alive"})
        request.hang()

    # Over TLS nobody sees what has come before the server has taken nothing for some time.
    settings = RegistrySettings(
        retries=0, certs_dirs=(tmp_path,), read_timeout=1 if tls else 60, commit_timeout=1
    )
    authority = Authority(tmp_path) if tls else None
    with (
        scripted(handler, authority) as server,
        Transport(settings) as transport,
        transport.request("PUT", server.url, body=Body(opener=opener, length=None)) as response,
    ):
        assert response.status == 401
        assert "Requires authorization" in str(response.error())
    (source,) = sources
    assert source.closed
    assert source.count < 1 << 30


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_takes_no_chunks_and_says_nothing(tls: bool, tmp_path: Path) -> None:
    settings = RegistrySettings(retries=0, certs_dirs=(tmp_path,), read_timeout=1)
    authority = Authority(tmp_path) if tls else None
    with (
        scripted(lambda request: request.hang(), authority) as server,
        Transport(settings) as transport,
        pytest.raises(RegistryTimeoutError),
    ):
        transport.request("PUT", server.url, body=Body(opener=_Unending, length=None))


def test_chunks_go_on_after_an_answer_that_is_none_yet(transport: Transport) -> None:
    got: list[bytes] = []

    def handler(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        got.append(request.read_body())
        request.answer(200)

    with scripted(handler) as server:
        body = Body(opener=_Source, length=None)
        assert transport.request("PUT", server.url, body=body).status == 200
    assert got == [DATA]


def test_one_transport_serves_many_threads(transport: Transport) -> None:
    def handler(request: Request) -> None:
        request.answer(body=request.path)

    wrong: list[str] = []
    with scripted(handler) as server:

        def run(number: int) -> None:
            for turn in range(20):
                path = f"/{number}/{turn}"
                if transport.request("GET", server.url + path).read(100) != path.encode():
                    wrong.append(path)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert wrong == []
    assert len(server.requests) == 160


# errors


def test_the_error_of_an_answer_says_what_the_server_said(transport: Transport) -> None:
    body = {"errors": [{"code": "DENIED", "message": "no\x1b[31m\nentry", "detail": {"a": 1}}]}
    with scripted(lambda request: request.answer(403, body)) as server:
        error = transport.request("GET", f"{server.url}/x?sig=hush&n=5").error("ask the owner")
    assert isinstance(error, RegistryHTTPError)
    assert (error.http_status, error.method, error.retryable) == (403, "GET", False)
    assert error.has("DENIED") and error.code == "http-403"
    assert "hush" not in str(error) and "n=5" in str(error)
    assert "DENIED: no [31m entry" in str(error) and "ask the owner" in str(error)
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("plain words", "plain words"),
        ("<html>a page</html>", "500 Internal Server Error"),
        ('{"details": "incorrect username or password"}', "incorrect username"),
        ('{"errors": [7, {"message": "m"}]}', "7; m"),
        ("a" * 100_000, "500 Internal Server Error"),
        (b"\xff\xfe\x00", "500"),
    ],
)
def test_any_error_body_will_do(transport: Transport, body: Any, words: str) -> None:
    with scripted(lambda request: request.answer(500, body)) as server:
        error = transport.request("GET", server.url).error()
    assert words in str(error)
    assert len(str(error)) < 2000
    assert error.retryable


def test_hosts_that_do_not_answer(transport: Transport) -> None:
    for url in (f"http://127.0.0.1:{closed_port()}/", f"https://[::1]:{closed_port()}/"):
        with pytest.raises(UnreachableRegistryError, match="no connection") as caught:
            transport.request("GET", url)
        assert caught.value.retryable
    with pytest.raises(UnreachableRegistryError, match="cannot be resolved") as caught:
        transport.request("GET", f"http://{'a' * 64}.invalid/")
    assert not caught.value.retryable


def test_what_cannot_be_sent_is_refused(transport: Transport) -> None:
    for url, headers in (("ftp://h/", {}), ("http://127.0.0.1/", {"X": "a\r\nb: c"})):
        with pytest.raises(ProtocolError, match="cannot be sent"):
            transport.request("GET", url, headers=headers)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "https://me:pw@h:1/p?X-Amz-Signature=abc&digest=sha256:1#f",
            "https://h:1/p?X-Amz-Signature=…&digest=sha256:1",
        ),
        ("http://[::1", "(a malformed URL)"),
        ("https://h/token?service=s&account=me", "https://h/token?service=s&account=…"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert show_url(url) == shown
