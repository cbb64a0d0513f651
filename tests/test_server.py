"""The server at real endpoints: binding, permissions, sessions that end, peers that mean harm."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from support_server import Daemon, directory, serving, until

from engine import Engine, EngineError
from engine.client import Client
from engine.connections import Connections, shut_down
from engine.dispatch import Dispatcher, Submission
from engine.endpoints import Endpoint, reach
from engine.errors import ConfigError, NotAllowedError, UnreachableError
from engine.executors.local import LocalExecutor
from engine.following import Window
from engine.paths import default_endpoint, default_state_dir
from engine.server import Server, ServerSettings
from engine.wire.codec import MAGIC, decode, encode, encode_record
from engine.wire.limits import Limits
from engine.wire.messages import (
    Accepted,
    Cancel,
    Credit,
    Detach,
    Drain,
    Error,
    Hello,
    Incoming,
    Message,
    Output,
    Ping,
    Pong,
    Submit,
    Type,
    Welcome,
)

FAST = ServerSettings(heartbeat=0.05, misses=3)


class Peer:
    """A bare DEALER that says what it is told to."""

    def __init__(self, endpoint: str, identity: bytes = b"") -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(linger=0)

    def send(self, message: Message) -> None:
        self.socket.send_multipart(encode(message))

    def take(self, timeout: float = 5.0) -> Incoming:
        assert self.socket.poll(round(timeout * 1000)), "no answer came"
        return decode(self.socket.recv_multipart())

    def until(self, kind: type, timeout: float = 5.0) -> Incoming:
        while not isinstance(message := self.take(timeout), kind):
            pass
        return message

    def greet(self) -> Welcome:
        self.send(Hello(versions=((1, 0),)))
        welcome = self.take()
        assert isinstance(welcome, Welcome)
        return welcome

    def submit(self, name: str, number: int = 1, **more: object) -> str:
        values = {"credit_messages": 64, "credit_bytes": 1 << 20, **more}
        self.send(Submit(request=number, name=name, **values))  # type: ignore[arg-type]
        accepted = self.until(Accepted)
        assert isinstance(accepted, Accepted)
        return accepted.job


def refusal(peer: Peer) -> Error:
    error = peer.until(Error)
    assert isinstance(error, Error)
    return error


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with serving() as one:
        yield one


# endpoints


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no endpoint"),
        ("/run/engine.sock", "no endpoint"),
        ("udp://x:1", "no endpoint"),
        ("ipc://", "no path"),
        ("ipc://@engine", "no permissions"),
        ("ipc:///" + "x" * 107, "108 bytes"),
        ("tcp://localhost", "HOST:PORT"),
        ("tcp://:7000", "HOST:PORT"),
        ("tcp://a:b", "no port"),
        ("tcp://a:70000", "no port"),
        ("tcp://::1:7000", "brackets"),
    ],
)
def test_a_bad_endpoint_is_a_clear_error(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    "text", ["ipc:///run/e.sock", "tcp://127.0.0.1:7000", "tcp://[::1]:*", "tcp://*:80"]
)
def test_an_endpoint_comes_back_as_it_was_written(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


def test_the_default_endpoint_is_the_users_own() -> None:
    assert default_endpoint({}, 0) == "ipc:///var/lib/registry-engine/engine.sock"
    home = {"HOME": "/home/ada"}
    assert str(default_state_dir(home, 1000)) == "/home/ada/.local/state/registry-engine"
    home["XDG_STATE_HOME"] = "/var/ada"
    assert default_endpoint(home, 1000) == "ipc:///var/ada/registry-engine/engine.sock"
    home["XDG_STATE_HOME"] = "relative"
    assert str(default_state_dir(home, 1000)) == "/home/ada/.local/state/registry-engine"


def test_the_socket_is_its_owners_alone_whatever_the_umask() -> None:
    with directory() as place:
        daemon = Daemon(place / "made")
        before = os.umask(0)
        try:
            daemon.start()
        finally:
            os.umask(before)
        try:
            assert stat.S_IMODE(daemon.path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(Path(f"{daemon.path}.lock").stat().st_mode) == 0o600
            with Client(daemon.endpoint) as client:
                assert client.welcome.principal == f"uid:{os.getuid()}"
        finally:
            daemon.stop()
        assert not daemon.path.exists()


def test_a_second_daemon_on_the_path_is_refused_and_the_first_goes_on(daemon: Daemon) -> None:
    second = Daemon(daemon.path.parent)
    with pytest.raises(EngineError, match="another engine listens") as caught:
        second.start()
    assert caught.value.code == "endpoint"
    second.stop()
    with Client(daemon.endpoint) as client:
        assert client.run("empty").wait().status == 0


def test_a_stale_socket_is_cleared() -> None:
    with directory() as place:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place / "engine.sock"))
        daemon = Daemon(place)
        daemon.start()
        try:
            with Client(daemon.endpoint) as client:
                assert client.run("empty").wait().status == 0
        finally:
            daemon.stop()


def test_what_is_no_socket_or_another_programs_is_left_alone() -> None:
    with directory() as place:
        daemon = Daemon(place)
        daemon.path.write_text("precious")
        with pytest.raises(EngineError, match="no socket"):
            daemon.start()
        assert daemon.path.read_text() == "precious"
        daemon.path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(daemon.path))
            other.listen()
            with pytest.raises(EngineError, match="another program"):
                daemon.start()
        daemon.stop()


def test_all_endpoints_are_bound_or_none() -> None:
    with directory() as place, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first = f"ipc://{place}/engine.sock"
        daemon = Daemon(
            place,
            endpoints=(first, f"tcp://127.0.0.1:{port}"),
            settings=ServerSettings(open_tcp=True),
        )
        with pytest.raises(EngineError, match="in use"):
            daemon.start()
        assert not (place / "engine.sock").exists()
        daemon.stop()


def test_tcp_is_refused_unless_it_is_wanted_in_so_many_words() -> None:
    with directory() as place:
        daemon = Daemon(place, endpoints=("tcp://127.0.0.1:0",))
        with pytest.raises(ConfigError, match=r"security\.open_tcp"):
            daemon.start()
        daemon.stop()


def test_tcp_reports_its_real_port() -> None:
    settings = ServerSettings(open_tcp=True)
    with serving(settings, endpoints=("tcp://127.0.0.1:*", "tcp://localhost:0")) as daemon:
        for endpoint in daemon.server.endpoints:
            assert Endpoint.parse(endpoint).port > 0
            with Client(endpoint) as client:
                assert client.run("greet", "tcp").text() == "hello tcp\n"
                assert client.welcome.principal.startswith("tcp:127.0.0.1")


def test_an_endpoint_of_another_machine_is_a_clear_error() -> None:
    with directory() as place:
        daemon = Daemon(
            place, endpoints=("tcp://192.0.2.1:7000",), settings=ServerSettings(open_tcp=True)
        )
        with pytest.raises(EngineError, match="this machine"):
            daemon.start()
        daemon.stop()


def test_reach_tells_the_ways_of_not_being_there_apart(daemon: Daemon) -> None:
    reach(Endpoint.parse(daemon.endpoint), 1)
    with pytest.raises(UnreachableError, match=r"no socket.*is engined running"):
        reach(Endpoint.parse("ipc:///nonexistent/engine.sock"), 1)
    left = daemon.path.parent / "left.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(left))
    with pytest.raises(UnreachableError, match="nobody listens"):
        reach(Endpoint.parse(f"ipc://{left}"), 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnreachableError, match="nobody listens"):
        reach(Endpoint.parse(f"tcp://127.0.0.1:{port}"), 1)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_is_told_that_permission_is_denied(daemon: Daemon) -> None:
    daemon.path.parent.chmod(0o755)  # so that it is the socket's own mode that refuses
    program = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError: print('denied')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(daemon.path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "denied\n"


# sessions


def test_info_shows_the_server(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        info = {row["name"]: row["value"] for row in client.run("info")}
    assert info["server.endpoints"] == [daemon.endpoint]
    assert info["server.sessions"] == 1
    assert info["server.protocol"] == "EJP/1.0"
    assert info["limits.submit"] == Limits().submit


def test_a_client_that_leaves_without_a_word_is_freed_at_once(daemon: Daemon) -> None:
    peer = Peer(daemon.endpoint)
    peer.greet()
    until(lambda: daemon.server.sessions == 1)
    peer.__exit__()
    until(lambda: daemon.server.sessions == 0, timeout=3)


def test_a_client_that_is_silent_is_freed() -> None:
    with serving(FAST) as daemon, Peer(daemon.endpoint) as peer:
        peer.greet()
        job = peer.submit("stuck", detach=False)
        assert daemon.started.wait(5)
        # it hears the pings and does not answer
        until(lambda: daemon.server.sessions == 0)
        until(lambda: daemon.dispatcher.get(job) is None)
        pings = 0
        while peer.socket.poll(0):
            pings += isinstance(peer.take(), Ping)
        assert pings == 3
        peer.send(Ping(number=1))
        assert refusal(peer).code == "no-session"


def test_answers_to_pings_keep_a_session() -> None:
    with serving(FAST) as daemon, Peer(daemon.endpoint) as peer:
        peer.greet()
        for _ in range(8):
            ping = peer.until(Ping)
            assert isinstance(ping, Ping)
            peer.send(Pong(number=ping.number))
        assert daemon.server.sessions == 1


@pytest.mark.parametrize("detach", [True, False])
def test_a_job_dies_with_its_client_only_if_it_was_to(daemon: Daemon, detach: bool) -> None:
    with Client(daemon.endpoint) as client:
        client.run("gated", detach=detach)
        assert daemon.started.wait(5)
        (task,) = daemon.dispatcher.tasks()
    until(lambda: daemon.server.sessions == 0)
    if detach:
        assert not task.job.cancelled
        daemon.gate.set()
    assert task.log.wait(5)
    assert task.state == ("ok" if detach else "cancelled")


def test_a_routing_id_of_ones_own_is_refused(daemon: Daemon) -> None:
    with Peer(daemon.endpoint, identity=b"somebody") as peer:
        peer.send(Hello(versions=((1, 0),)))
        assert refusal(peer).code == "not-allowed"
    assert daemon.server.sessions == 0


def test_sessions_are_bounded() -> None:
    with serving(ServerSettings(sessions=1)) as daemon, Client(daemon.endpoint):
        with pytest.raises(EngineError, match="no more are allowed") as caught:
            Client(daemon.endpoint)
        assert caught.value.code == "limit"


def test_jobs_of_a_session_are_bounded() -> None:
    with serving(ServerSettings(jobs_per_session=2)) as daemon, Client(daemon.endpoint) as client:
        runs = [client.run("gated") for _ in range(2)]
        with pytest.raises(EngineError, match="wait for some"):
            client.run("empty")
        daemon.gate.set()
        for run in runs:
            run.wait()
        assert client.run("empty").wait().status == 0


def test_who_may_not_run_a_job_is_told() -> None:
    asked = []

    def authorise(principal: str, name: str) -> bool:
        asked.append((principal, name))
        return name != "greet"

    with serving(ServerSettings(authorise=authorise)) as daemon, Client(daemon.endpoint) as client:
        with pytest.raises(NotAllowedError, match="may not run greet"):
            client.run("greet", "x")
        assert client.run("empty").wait().status == 0
    assert asked == [(f"uid:{os.getuid()}", "greet"), (f"uid:{os.getuid()}", "empty")]


def test_cancel_of_what_is_not_there_is_answered(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer:
        peer.greet()
        peer.send(Cancel(job="nowhere"))
        error = refusal(peer)
        assert (error.code, error.job) == ("no-job", "nowhere")


def test_cancel_of_another_principals_job_is_refused() -> None:
    endpoints = ("tcp://127.0.0.1:0",)
    with directory() as place:
        ipc = f"ipc://{place}/engine.sock"
        daemon = Daemon(place, endpoints=(ipc, *endpoints), settings=ServerSettings(open_tcp=True))
        daemon.start()
        try:
            with Client(ipc) as owner, Peer(daemon.server.endpoints[1]) as other:
                run = owner.run("gated")
                other.greet()
                other.send(Cancel(job=run.id))
                assert refusal(other).code == "not-allowed"
                daemon.gate.set()
                assert run.wait().status == 0
        finally:
            daemon.stop()


def test_a_detached_reader_is_sent_no_more(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer:
        peer.greet()
        job = peer.submit("gated")
        until(lambda: peer.socket.poll(0) == 0 or peer.take() is None)
        peer.send(Detach(job=job))
        peer.send(Ping(number=9))
        peer.until(Pong)
        task = daemon.dispatcher.get(job)
        assert task is not None
        daemon.gate.set()
        assert task.log.wait(5)
        peer.send(Ping(number=10))
        assert peer.take() == Pong(number=10)


def test_drain_is_told_to_those_that_are_there_and_those_that_come(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer, Peer(daemon.endpoint) as late:
        peer.greet()
        daemon.server.drain("for repairs", 5)
        assert peer.take() == Drain(reason="for repairs", grace=5)
        late.greet()
        assert late.take() == Drain(reason="for repairs", grace=5)


def test_the_end_of_a_job_is_sent_before_the_server_closes() -> None:
    with directory() as place:
        daemon = Daemon(place)
        daemon.start()
        with Client(daemon.endpoint) as client:
            run = client.run("gated")
            daemon.stop()
            end = run.wait()
            assert end.state in ("ok", "cancelled")


def test_close_may_be_called_again_and_without_a_start() -> None:
    with directory() as place:
        daemon = Daemon(place)
        daemon.server.close()
        daemon.start()
        daemon.server.close()
        daemon.server.close()
        daemon.stop()
        assert not [one for one in threading.enumerate() if one.name == "engine-io"]


# peers that are broken or mean harm


def frames(type_: int, header: bytes, *more: bytes) -> list[bytes]:
    return [MAGIC + bytes((type_, 0)), header, *more]


@pytest.mark.parametrize(
    "sent",
    [
        [b"GET / HTTP/1.1"],
        [b"EJP1\x70\x00", b"\xc1"],
        [b"EJP1\x70\x00", b"\x80", b"", b"", b"", b""],
        [b"EJP1\x02\x00", b"\x80"],
        frames(Type.ROWS, b"\x83\xa3job\xa1a\xa3seq\x01\xa5count\x00", b"\x90"),
    ],
)
def test_a_breach_is_answered_and_ends_the_session(daemon: Daemon, sent: list[bytes]) -> None:
    with Client(daemon.endpoint) as client, Peer(daemon.endpoint) as peer:
        peer.greet()
        peer.socket.send_multipart(sent)
        assert refusal(peer).code == "protocol"
        until(lambda: daemon.server.sessions == 1)
        assert client.run("empty").wait().status == 0  # others are not touched


def test_an_unknown_type_is_answered_and_the_session_goes_on(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer:
        peer.greet()
        peer.socket.send_multipart(frames(0x3E, b"\x81\xa7request\x05"))
        error = refusal(peer)
        assert (error.code, error.request) == ("unsupported", 5)
        peer.send(Ping(number=2))
        assert peer.take() == Pong(number=2)


def test_another_major_version_is_told_which_ones_there_are(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer:
        peer.send(Hello(versions=((9, 1),)))
        error = refusal(peer)
        assert (error.code, error.versions) == ("version", ((1, 0),))
        peer.socket.send_multipart([b"EJP9\x01\x00", b"\x80"])
        assert refusal(peer).code == "version"


def test_a_submission_a_little_over_the_limit_is_told_so() -> None:
    settings = ServerSettings(limits=Limits(submit=65536, output=512 * 1024))
    with serving(settings) as daemon, Peer(daemon.endpoint) as peer:
        peer.greet()
        peer.send(
            Submit(
                request=3,
                name="empty",
                credit_messages=1,
                credit_bytes=1,
                args=("x" * 65536,),
            )
        )
        error = refusal(peer)
        assert (error.code, error.request) == ("limit", 3)
        peer.submit("empty", number=4)


def test_a_frame_far_over_the_limit_drops_the_connection(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer:
        peer.greet()
        peer.socket.send_multipart([b"EJP1\x02\x00", b"\x80", b"x" * (2 << 20)])
        until(lambda: daemon.server.sessions == 0)


def test_the_reading_of_a_job_is_held_to_its_credit(daemon: Daemon) -> None:
    with Peer(daemon.endpoint) as peer:
        peer.greet()
        job = peer.submit("rows", env={"count": "1000"}, credit_messages=3)
        got: list[Output] = []
        while sum(not one.free for one in got) < 3:
            one = peer.take()
            assert isinstance(one, Output)
            got.append(one)
        peer.send(Ping(number=1))
        assert peer.take() == Pong(number=1)  # no more than that came
        peer.send(Credit(job=job, messages=100, bytes=1 << 20))
        while got[-1].type is not Type.END:
            one = peer.take()
            assert isinstance(one, Output)
            got.append(one)
        assert [one.seq for one in got] == list(range(1, len(got) + 1))


def test_a_message_larger_than_the_whole_credit_comes_through(daemon: Daemon) -> None:
    with Client(daemon.endpoint, window=Window(messages=1, bytes=1)) as client:
        assert len(client.run("rows", env={"count": 1000}).table()) == 1000


def test_a_client_that_reads_nothing_is_cut_off_when_its_outbox_is_full() -> None:
    settings = ServerSettings(send_queue=4, outbox=64 * 1024, linger=0.1)
    with serving(settings) as daemon, Peer(daemon.endpoint) as peer:
        peer.socket.setsockopt(zmq.RCVHWM, 1)
        peer.socket.disconnect(daemon.endpoint)
        peer.socket.setsockopt(zmq.RCVBUF, 4096)
        peer.socket.connect(daemon.endpoint)
        peer.greet()
        asked = frames(0x3E, b"\x80")
        for _ in range(200_000):
            try:
                peer.socket.send_multipart(asked, zmq.NOBLOCK)
            except zmq.Again:
                peer.socket.poll(20, zmq.POLLOUT)
            if daemon.server.sessions == 0:
                break
        until(lambda: daemon.server.sessions == 0)


def test_a_fault_of_the_server_ends_the_session_it_struck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here the dispatcher has no encoder; the client does not wait for ever."""
    with directory() as place:
        engine = Engine()
        engine.register("empty", lambda job: None)
        dispatcher = Dispatcher(engine, LocalExecutor())
        server = Server(engine, dispatcher, endpoints=[f"ipc://{place}/engine.sock"])
        server.start()
        with Client(f"ipc://{place}/engine.sock") as client:
            run = client.run("empty")
            with pytest.raises(EngineError, match="its log says where") as caught:
                run.wait(timeout=5)
            assert caught.value.code == "internal"
            assert "needs an encoder" in caplog.text
            until(lambda: server.sessions == 0)
        server.close()


def test_a_fault_of_the_dispatcher_is_no_fault_of_the_session(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(submission: Submission) -> None:
        raise ZeroDivisionError

    with Client(daemon.endpoint) as client:
        with monkeypatch.context() as patch:
            patch.setattr(daemon.dispatcher, "submit", fault)
            with pytest.raises(EngineError, match="failed to take the job") as caught:
                client.run("empty")
            assert caught.value.code == "internal"
        assert client.run("empty").wait().status == 0


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="sessions"):
        ServerSettings(sessions=0)
    with pytest.raises(ValueError, match="linger"):
        ServerSettings(linger=100)
    with pytest.raises(ValueError, match="endpoint"):
        Server(Engine(), Dispatcher(Engine(), LocalExecutor()), endpoints=[])


def test_the_encoder_of_the_dispatcher_is_the_codecs() -> None:
    """The contract between the dispatcher and the server."""
    with directory() as place:
        daemon = Daemon(place)
        task = daemon.dispatcher.submit(Submission(name="empty"))
        assert task.log.wait(5)
        reader = task.log.attach(lambda: None)
        entry = reader.take(messages=1, size=1)[0]
        assert entry.frames is not None
        output = decode(list(entry.frames))
        assert isinstance(output, Output)
        assert output.record is not None
        assert tuple(entry.frames) == encode_record(task.id, 1, output.record)
        assert output.size == entry.size
        daemon.stop()


# connections that are none


def test_a_connection_that_does_not_greet_is_ended() -> None:
    with serving(ServerSettings(handshake=0.2)) as daemon, zmq.Context() as context:
        silent = [context.socket(zmq.DEALER) for _ in range(5)]
        monitors = [one.get_monitor_socket(zmq.EVENT_DISCONNECTED) for one in silent]
        try:
            for one in silent:
                one.setsockopt(zmq.RECONNECT_IVL, -1)
                one.connect(daemon.endpoint)
            for monitor in monitors:
                assert monitor.poll(5000), "the connection was kept"
            until(lambda: daemon.server.connections == 0)
            with Client(daemon.endpoint) as client:
                client.run("empty").wait()
                threading.Event().wait(0.5)  # longer than a stranger may be silent
                assert client.run("empty").wait().status == 0
        finally:
            for one in silent:
                one.disable_monitor()
                one.close(linger=0)
            for monitor in monitors:
                monitor.close(linger=0)


def test_connections_are_bounded() -> None:
    settings = ServerSettings(handshake=30, sessions=1)
    with (
        serving(settings) as daemon,
        Client(daemon.endpoint) as client,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(settings.connections + 50):
            one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.settimeout(5)
            one.connect(str(daemon.path))
        until(lambda: daemon.server.connections == settings.connections)
        assert client.run("empty").wait().status == 0
        stack.close()
        until(lambda: daemon.server.connections == 1)


def test_the_descriptor_of_another_file_is_left_alone(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other, (tmp_path / "file").open("w") as file:
        assert not shut_down(one.fileno(), {"/somewhere/else"})
        assert not shut_down(file.fileno(), {"/somewhere/else"})
        assert not shut_down(10_000, {"/somewhere/else"})
        one.send(b"x")
        assert other.recv(1) == b"x"


def test_what_is_noted_of_connections() -> None:
    noted = Connections(2, 1.0)
    assert noted.accepted(5, 0.0)
    assert noted.accepted(6, 0.5)
    assert not noted.accepted(7, 0.5)
    noted.greeted(5)
    assert noted.overdue(1.4) == []
    assert noted.overdue(1.5) == [6]
    assert noted.overdue(9.0) == []
    noted.parted(5, 10.0)
    assert noted.overdue(11.0) == [5]
    assert len(noted) == 0
    noted.ended(5)
    assert noted.accepted(5, 20.0)
    assert noted.accepted(5, 21.0)  # the end of the first was not told
    assert len(noted) == 1
