"""The blocking client against a real server."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_server import COLUMNS, Daemon, directory, serving, until

from engine import Column, ColumnType, Job, State, Status
from engine.client import Client, Run
from engine.errors import (
    ConfigError,
    ConflictError,
    ConnectionLostError,
    EngineError,
    JobFailedError,
    LimitError,
    ShuttingDownError,
    UnknownJobError,
    UnreachableError,
    UsageError,
)
from engine.following import Window, row_type
from engine.records import Data, End, Log, Progress, Schema, StateChange, Text
from engine.server import ServerSettings
from engine.wire.limits import Limits


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for the tests that leave it as it was."""
    with serving() as daemon:
        yield daemon


@pytest.fixture
def client(shared: Daemon) -> Iterator[Client]:
    with Client(shared.endpoint) as one:
        yield one


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with serving() as one:
        yield one


# results


def test_rows_are_iterated(client: Client) -> None:
    run = client.run("rows", env={"count": 250})
    rows = list(run)
    assert rows == [("row", number) for number in range(250)]
    assert run.columns == COLUMNS
    assert run.end is not None
    assert (run.end.status, run.end.rows) == (0, 250)
    assert len(run.id) > 8
    assert list(run) == []


def test_a_row_is_a_tuple_with_names() -> None:
    row = row_type(COLUMNS)(("alpine", 9))
    name, number = row
    assert (name, number) == ("alpine", 9)
    assert (row["name"], row[1], row[:1]) == ("alpine", 9, ("alpine",))
    assert dict(row) == row.to_dict() == {"name": "alpine", "number": 9}
    assert (row.get("number"), row.get("colour"), row.get("colour", "red")) == (9, None, "red")
    assert repr(row) == "Row(name='alpine', number=9)"
    with pytest.raises(KeyError, match="there are name, number"):
        row["colour"]
    again = pickle.loads(pickle.dumps(row))
    assert (again, again["number"]) == (row, 9)


def test_a_table_is_collected(client: Client) -> None:
    table = client.run("rows", env={"count": 3}).table()
    assert table.columns == COLUMNS
    assert table.to_dicts()[2] == {"name": "row", "number": 2}


def test_text_is_collected(client: Client) -> None:
    assert client.run("greet", "wörld").text() == "hello wörld\n"
    assert client.run("mixed").text() == "text\n\ufffd\x00"


def test_everything_comes_in_the_order_of_emission(client: Client) -> None:
    everything = list(client.run("mixed").events())
    progress = [event for event in everything if isinstance(event, Progress)]
    assert progress[-1] == Progress(key="layer", phase="fetch", done=10, total=10)
    seen = [event for event in everything if not isinstance(event, Progress)]
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["StateChange", "Text", "Data", "Log", "Schema", "Row", "End"]
    assert everything[-1] is seen[-1]
    assert seen[1] == Text(text="text\n")
    assert seen[2] == Data(data=b"\xff\x00")
    assert isinstance(seen[3], Log)
    assert (seen[3].level, seen[3].text, seen[3].fields) == (
        "warning",
        "careful",
        {"where": "here"},
    )
    assert seen[4] == Schema(columns=COLUMNS)


def test_callbacks_are_called_while_the_run_is_read(client: Client) -> None:
    logs: list[Log] = []
    texts: list[Text] = []
    states: list[StateChange] = []
    progress: list[Progress] = []
    run = client.run(
        "mixed",
        on_log=logs.append,
        on_text=texts.append,
        on_state=states.append,
        on_progress=progress.append,
    )
    assert [row["name"] for row in run] == ["a"]
    assert [line.text for line in logs] == ["careful"]
    assert texts == [Text(text="text\n")]
    assert states == [StateChange(state=State.RUNNING)]
    assert progress[-1].done == 10


@pytest.mark.parametrize(
    "progress",
    [("k", "p", 2**70), ("k", "p", None), ("k", "p", "x"), (1, "p", 2), ("k", None, 2),
     ("k", "p", float("nan"))],
)  # fmt: skip
def test_progress_that_is_none_fails_its_own_job_alone(
    daemon: Daemon, progress: tuple[Any, ...]
) -> None:
    daemon.engine.register("wrong", lambda job: job.progress(*progress))
    with Client(daemon.endpoint) as client:
        other = client.run("gated")
        assert daemon.started.wait(10)
        end = client.run("wrong").wait()
        assert (end.status, end.code) == (Status.ERROR, "internal")
        daemon.gate.set()
        assert other.wait().status == Status.OK


def test_output_that_cannot_be_sent_ends_its_own_stream_alone(daemon: Daemon) -> None:
    def wrong(job: Job) -> None:
        made = Progress(key="k", phase="p", done=0)
        object.__setattr__(made, "done", 2**70)  # which `Progress` does not let pass
        job.output.progress(made)
        assert job.wait_cancelled(10)

    daemon.engine.register("wrong", wrong)
    with Client(daemon.endpoint) as client:
        other = client.run("gated")
        assert daemon.started.wait(10)
        run = client.run("wrong")
        end = run.wait()
        assert (end.state, end.code) == (State.FAILED, "internal")
        until(lambda: run.id not in {task.id for task in daemon.dispatcher.tasks()})
        daemon.gate.set()
        assert other.wait().status == Status.OK


def test_more_elements_than_the_limit_fail_their_own_job_alone(daemon: Daemon) -> None:
    def wide(job: Job) -> None:
        job.schema([Column(name="value", type=ColumnType.JSON)])
        job.row([1] * 70_000)

    daemon.engine.register("wide", wide)
    with Client(daemon.endpoint) as client:
        other = client.run("gated")
        assert daemon.started.wait(10)
        with pytest.raises(LimitError, match="'elements'"):
            client.run("greet", *["x"] * 70_000)
        with pytest.raises(JobFailedError, match="'elements'"):
            client.run("wide").table()
        daemon.gate.set()
        assert other.wait().status == Status.OK


def test_under_the_lowest_limits_jobs_emit_what_they_like_and_end() -> None:
    def emit(job: Job) -> Status:
        job.schema([Column(name="text")])
        for _ in range(200):
            job.row("😀" * 1000)
        job.write("😀" * 100_000)
        job.write(b"x" * 100_000)
        for number in range(100):
            job.progress(f"{number}" + "😀" * 300, "😀" * 300, number)
        return job.error("😀" * 100_000)

    limits = Limits(
        header=1024, control=65536, submit=4096, output=524_288, frames=3, nesting=8, elements=256
    )
    with serving(ServerSettings(limits=limits)) as daemon, Client(daemon.endpoint) as client:
        daemon.engine.register("emit", emit)
        run = client.run("emit")
        assert len(client.run("emit").wait(20).message) > 10_000
        end = run.wait(20)
        assert (end.code, end.rows) == ("error", 200)


def test_progress_is_newest_wins_and_the_last_one_is_never_lost(client: Client) -> None:
    seen: list[Progress] = []
    end = client.run("progress", on_progress=seen.append).wait()
    assert end.status == 0
    for key in "ab":
        of_key = [item.done for item in seen if item.key == key]
        assert of_key == sorted(of_key)
        assert of_key[-1] == 999
        assert len(of_key) < 100


def test_reading_goes_on_where_it_stopped(client: Client) -> None:
    run = client.run("rows", env={"count": 250})
    rows = iter(run)
    assert [next(rows) for _ in range(150)][-1] == ("row", 149)
    assert next(iter(run)) == ("row", 150)
    assert len(run.table()) == 99
    again = client.run("rows", env={"count": 250})
    next(iter(again))
    assert again.wait().rows == 250


def test_one_row_a_message_where_it_is_asked_for(client: Client) -> None:
    rows = list(client.run("rows", env={"count": 20}, single_rows=True))
    assert len(rows) == 20


@pytest.mark.parametrize("window", [Window(messages=1), Window(bytes=1), Window()])
def test_a_small_window_gives_the_same(shared: Daemon, window: Window) -> None:
    with Client(shared.endpoint, window=window) as client:
        rows = list(client.run("rows", env={"count": 5000}))
        assert rows == [("row", number) for number in range(5000)]


def test_values_of_the_environment_may_be_native(client: Client) -> None:
    env = {"text": "a=b", "list": ["x", 1], "map": {"k": None}, "flag": True, "number": 1.0,
           "unset": None}  # fmt: skip
    assert dict(client.run("env", env=env)) == {
        "text": "a=b",
        "list": '["x", 1]',
        "map": '{"k": null}',
        "flag": "true",
        "number": "1.0",
    }


# endings


def test_a_job_that_failed_raises_after_its_rows(client: Client) -> None:
    run = client.run("fail")
    rows = iter(run)
    assert next(rows) == ("one", 1)
    with pytest.raises(JobFailedError, match="the shelf is empty") as caught:
        next(rows)
    error = caught.value
    assert (error.job, error.code, error.status) == ("fail", "empty-shelf", Status.ERROR)
    assert error.retryable
    for read in (Run.table, Run.text):
        with pytest.raises(JobFailedError):
            read(client.run("fail"))
    end = client.run("fail").wait()
    assert (end.state, end.status, end.code) == (State.FAILED, 1, "empty-shelf")
    assert isinstance(list(client.run("fail").events())[-1], End)


def test_an_unknown_job_is_127(client: Client) -> None:
    with pytest.raises(UnknownJobError, match="no such job: 'grete'; did you mean 'greet'") as one:
        client.run("grete")
    assert one.value.status is Status.UNKNOWN_JOB


def test_wrong_usage_is_2_with_the_usage_line(client: Client) -> None:
    with pytest.raises(UsageError, match="one argument too many\nUsage: usage") as caught:
        client.run("usage", "x")
    assert caught.value.status is Status.USAGE
    with pytest.raises(UsageError, match="argument is text"):
        client.run("usage", 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'name'"):
        client.run("")
    with pytest.raises(UsageError, match="deadline"):
        client.run("empty", deadline=-1)
    with pytest.raises(UsageError, match="priority"):
        client.run("empty", priority=1000)


def test_a_submission_that_is_too_large_is_refused_before_it_is_sent(client: Client) -> None:
    with pytest.raises(LimitError, match="hand large content over as a file"):
        client.run("greet", "x" * (2 << 20))
    assert client.run("empty").wait().status == 0


def test_the_same_key_gives_the_same_job(client: Client) -> None:
    first = client.run("greet", "you", key="once")
    assert first.text() == "hello you\n"
    again = client.run("greet", "you", key="once")
    assert (again.id, again.existed, first.existed) == (first.id, True, False)
    assert again.text() == "hello you\n"
    with pytest.raises(ConflictError, match="other work"):
        client.run("greet", "her", key="once")


def test_one_client_follows_a_job_once(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        run = client.run("gated", key="k")
        with pytest.raises(EngineError, match="already") as caught:
            client.run("gated", key="k")
        assert caught.value.code == "following"
        daemon.gate.set()
        assert run.wait().status == 0


def test_a_deadline_ends_a_job_with_124(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        end = client.run("stuck", deadline=0.05).wait(timeout=5)
    assert (end.state, end.status, end.code) == (State.TIMED_OUT, 124, "deadline")


def test_cancel_ends_a_job_with_130(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        states: list[StateChange] = []
        run = client.run("stuck", on_state=states.append)
        assert daemon.started.wait(5)
        run.cancel("enough")
        end = run.wait(timeout=5)
        assert (end.state, end.status, end.message) == (State.CANCELLED, 130, "enough")
        assert [one.state for one in states] == [State.RUNNING, State.CANCELLING]
        run.cancel()  # over; nothing happens


def test_cancel_reaches_a_job_that_waits_for_its_reader(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        run = client.run("flood")
        next(iter(run))
        run.cancel()
        assert run.wait(timeout=5).status == 130


def test_waiting_may_be_bounded(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        run = client.run("gated")
        with pytest.raises(TimeoutError, match=run.id):
            run.wait(timeout=0.01)
        daemon.gate.set()
        assert run.wait(timeout=5).status == 0


# leaving


def test_a_run_that_is_closed_leaves_the_job_alone(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        with client.run("gated") as run:
            assert daemon.started.wait(5)
        (task,) = daemon.dispatcher.tasks()
        with pytest.raises(ConnectionLostError, match="closed"):
            run.wait()
        daemon.gate.set()
        assert task.log.wait(5)
        assert task.state is State.OK


def test_a_run_that_nobody_holds_holds_up_nobody(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        next(iter(client.run("flood")))
        gc.collect()
        (task,) = daemon.dispatcher.tasks()
        before = daemon.emitted
        until(lambda: daemon.emitted > before + 20_000)
        assert task.log.held <= 5 * 1024 * 1024


def test_a_reader_that_stops_holds_up_its_own_job_alone(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        slow = client.run("flood")
        rows = iter(slow)
        next(rows)
        task = next(one for one in daemon.dispatcher.tasks() if one.name == "flood")
        until(lambda: task.log.held > 4 * 1024 * 1024)
        assert len(client.run("rows", env={"count": 20_000}).table()) == 20_000
        assert task.log.held < 5 * 1024 * 1024
        held_at = daemon.emitted
        for _ in range(10_000):
            next(rows)
        until(lambda: daemon.emitted > held_at)
        slow.cancel()
        slow.wait()


def test_many_threads_share_a_client(client: Client) -> None:
    results: list[int] = []

    def work() -> None:
        results.extend(len(client.run("rows", env={"count": 300}).table()) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [300] * 40


def test_close_fails_what_is_being_read(daemon: Daemon) -> None:
    client = Client(daemon.endpoint)
    run = client.run("gated")
    failed: list[EngineError] = []

    def read() -> None:
        try:
            run.wait()
        except ConnectionLostError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    client.close()
    thread.join(5)
    assert "closed" in str(failed[0])
    client.close()
    with pytest.raises(ConnectionLostError, match="closed"):
        client.run("empty")
    until(lambda: daemon.server.sessions == 0)
    assert not [one for one in threading.enumerate() if one.name == "engine-client"]


def test_a_client_that_is_forgotten_is_closed(daemon: Daemon) -> None:
    client = Client(daemon.endpoint)
    client.run("empty").wait()
    del client
    gc.collect()
    until(lambda: daemon.server.sessions == 0)


# engines that are not there, or go away


def test_an_engine_that_is_not_there_is_told_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="is engined running") as caught:
        Client("ipc:///nonexistent/engine.sock")
    assert caught.value.status is Status.UNREACHABLE
    with pytest.raises(UnreachableError, match="not known"):
        Client("tcp://host.invalid:7000")
    assert time.monotonic() - begun < 3
    with pytest.raises(ConfigError):
        Client("nonsense")
    with pytest.raises(ValueError, match="timeout"):
        Client("ipc:///x", timeout=0)


def test_what_is_no_engine_is_told_after_the_timeout() -> None:
    with directory() as place, socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(place / "mute.sock"))
        mute.listen()
        with pytest.raises(UnreachableError, match=r"no engine answered within 0\.1 s"):
            Client(f"ipc://{place}/mute.sock", timeout=0.1)


def test_an_engine_that_stops_loses_the_run_and_the_next_run_connects_anew() -> None:
    with directory() as place:
        first = Daemon(place)
        first.start()
        with Client(first.endpoint) as client:
            run = client.run("stuck")
            epoch = client.welcome.epoch
            first.server.close()
            with pytest.raises(ConnectionLostError, match="closed the connection") as caught:
                run.wait(timeout=5)
            assert caught.value.status is Status.TRY_AGAIN
            with pytest.raises(UnreachableError):
                client.run("empty")
            first.stop()
            second = Daemon(place)
            second.start()
            try:
                assert client.run("empty").wait().status == 0
                assert client.welcome.epoch != epoch
            finally:
                client.close()
                second.stop()


def test_a_draining_engine_refuses_new_jobs_and_serves_those_that_run(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        run = client.run("gated")
        daemon.server.drain()
        drained = threading.Thread(target=daemon.dispatcher.drain, args=(10,))
        drained.start()
        until(lambda: client.draining and daemon.dispatcher.draining)
        with pytest.raises(ShuttingDownError) as caught:
            client.run("empty")
        assert caught.value.status is Status.TRY_AGAIN
        daemon.gate.set()
        assert run.wait().status == 0
        drained.join(5)


def test_an_engine_that_hangs_is_found_dead() -> None:
    """Heartbeats of the client: the engine's I/O thread is held, its connection stays up."""
    with serving(ServerSettings(heartbeat=0.05)) as daemon, Client(daemon.endpoint) as client:
        run = client.run("stuck")
        held = threading.Event()
        loop = daemon.server._loop
        assert loop is not None
        loop.call(held.wait, 10)
        try:
            with pytest.raises(ConnectionLostError, match="silent"):
                run.wait(timeout=5)
        finally:
            held.set()


def test_a_busy_reader_is_not_taken_for_dead() -> None:
    with serving(ServerSettings(heartbeat=0.05)) as daemon, Client(daemon.endpoint) as client:
        run = client.run("gated")
        assert not threading.Event().wait(0.5)  # busy with other things, for ten heartbeats
        daemon.gate.set()
        assert run.wait(timeout=5).status == 0


def test_an_engine_that_does_not_accept_in_time_is_not_left_with_a_job(daemon: Daemon) -> None:
    with Client(daemon.endpoint, timeout=0.2) as client:
        held, entered = threading.Event(), threading.Event()

        def hang() -> None:
            entered.set()
            held.wait(10)

        daemon.server.call(hang)
        assert entered.wait(5)
        with pytest.raises(ConnectionLostError, match=r"did not accept stuck within 0\.2 s"):
            client.run("stuck")
        held.set()
        # cancelled as soon as it was accepted, whether its handler had begun by then or not
        until(lambda: daemon.dispatcher._information()["jobs.ended"] == 1)
        assert not daemon.dispatcher.tasks()


def test_a_fault_of_the_client_fails_its_runs(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(daemon.endpoint) as client:
        run = client.run("gated")
        list(zip(range(2), run.events(), strict=False))  # the state and the log line

        def fault(*_: object) -> None:
            raise ZeroDivisionError("oh")

        with monkeypatch.context() as patch:
            patch.setattr(client._core, "_happened", fault)
            daemon.gate.set()
            with pytest.raises(ConnectionLostError, match="the client failed: oh"):
                run.wait(timeout=5)
        assert client.run("empty").wait().status == 0


def test_output_whose_beginning_is_gone_is_refused() -> None:
    with serving(quota=16 * 1024) as daemon, Client(daemon.endpoint) as client:
        run = client.run("rows", env={"count": 20_000}, key="k")
        assert len(run.table()) == 20_000
        with pytest.raises(EngineError, match="kept no more") as caught:
            client.run("rows", env={"count": 20_000}, key="k")
        assert caught.value.code == "gap"


_STOPPED = """
import sys, time
from engine.client import Client
client = Client(sys.argv[1])
rows = iter(client.run("flood"))
next(rows)
print("reading", flush=True)
for row in rows: pass
"""


def rss() -> int:
    """This process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_stopped_client_costs_bounded_memory_and_others_nothing(daemon: Daemon) -> None:
    stopped = subprocess.Popen(
        [sys.executable, "-c", _STOPPED, daemon.endpoint], stdout=subprocess.PIPE, text=True
    )
    try:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "reading\n"
        stopped.send_signal(19)  # SIGSTOP
        (task,) = daemon.dispatcher.tasks()
        until(lambda: task.log.held > 4 * 1024 * 1024)
        emitted, memory = daemon.emitted, rss()
        with Client(daemon.endpoint) as client:
            begun = time.monotonic()
            count = sum(1 for _ in client.run("rows", env={"count": 200_000}))
            taken = time.monotonic() - begun
        assert count == 200_000
        assert taken < 10
        assert daemon.emitted - emitted < 2000  # its own job waits
        assert rss() - memory < 32 * 1024 * 1024
        stopped.send_signal(18)  # SIGCONT: it goes on where it was
        until(lambda: daemon.emitted > emitted + 10_000)
    finally:
        stopped.kill()
        stopped.wait()
        assert stopped.stdout is not None
        stopped.stdout.close()
    until(lambda: daemon.server.sessions == 0, timeout=5)


_COUNTING = """
import sys
from engine.client import Client
from engine.following import Window
client = Client(sys.argv[1], window=Window(messages=100_000, bytes=1 << 30))
run = client.run("flood")
count = 0
for row in run:
    count += 1
    if count == 1: print("reading", flush=True)
print(count, run.end.rows)
client.close()
"""


def test_a_client_that_was_stopped_gets_all_that_a_full_pipe_held_up() -> None:
    """Its credit has no end here: what bounds the memory is the pipe, and then the log."""
    with serving(ServerSettings(send_queue=4), quota=256 * 1024) as daemon:
        counting = subprocess.Popen(
            [sys.executable, "-c", _COUNTING, daemon.endpoint], stdout=subprocess.PIPE, text=True
        )
        try:
            assert counting.stdout is not None
            assert counting.stdout.readline() == "reading\n"
            counting.send_signal(19)  # SIGSTOP
            (task,) = daemon.dispatcher.tasks()
            until(lambda: task.log.held > 256 * 1024)
            with Client(daemon.endpoint) as client:
                assert client.run("empty").wait().status == 0
            emitted = daemon.emitted
            counting.send_signal(18)  # SIGCONT
            until(lambda: daemon.emitted > emitted + 1000)
            daemon.gate.set()
            count, rows = counting.stdout.read().split()
            assert count == rows
            assert int(rows) > emitted
            assert counting.wait(10) == 0
        finally:
            counting.kill()
            counting.wait()
            assert counting.stdout is not None
            counting.stdout.close()


_IMPORTS = """
import sys
import engine
assert not {"zmq", "msgpack", "requests", "structlog"} & set(sys.modules), "engine"
import engine.client, engine.aio
loaded = {name for name in sys.modules if name.startswith("engine.")}
unwanted = {"engine.server", "engine.serving", "engine.listening", "engine.wire.engine_side"}
assert not {"requests", "structlog"} & set(sys.modules), "client"
assert not unwanted & loaded, unwanted & loaded
"""


def test_the_clients_load_nothing_of_the_server() -> None:
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)


def test_without_an_endpoint_the_daemon_of_this_user_is_meant(tmp_path: Path) -> None:
    """Where `engined` and `enginectl` look too."""
    code = (
        "import os; os.getuid = lambda: 1000\n"
        "from engine.client import Client\n"
        "from engine.errors import UnreachableError\n"
        "try: Client()\n"
        "except UnreachableError as error: print(error)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"{tmp_path}/registry-engine/engine.sock" in shown.stdout
