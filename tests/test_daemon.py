"""The daemon as a process: its start, its signals, its end, and what keeps it from starting."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support_daemon import Daemon, Result, running_daemon

from engine.client import Client
from engine.config import Config, parse
from engine.daemon import changed_for_restart
from engine.errors import UnreachableError
from engine.notify import Notifier, watchdog_seconds
from engine.version import __version__


def engined(*args: str | Path, **environ: str) -> Result:
    """An `engined` that is expected to end by itself."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("ENGINE_")}
    done = subprocess.run(
        [sys.executable, "-m", "engine.daemon", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=30,
        env=env | environ,
    )
    return Result(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        pause.wait(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# the start


def test_one_line_says_that_it_is_ready_and_the_state_is_private(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    state.parent.mkdir()
    with running_daemon(state) as daemon:
        assert daemon.endpoint == f"ipc://{state}/engine.sock"
        assert mode(state) == 0o700
        assert mode(state / "engine.sock") == 0o600
        assert mode(state / "engine.lock") == 0o600
        assert (state / "engine.lock").read_text() == f"{daemon.process.pid}\n"
        assert "uptime" in daemon.ctl("info")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(10) == 0
        assert daemon.process.stdout is not None
        assert daemon.process.stdout.read() == ""
        assert not (state / "engine.sock").exists()


def test_every_endpoint_is_named_with_its_real_port(tmp_path: Path) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[security]\nopen_tcp = true\n")
    listen = ["--listen", f"ipc://{tmp_path}/a.sock", "--listen", "tcp://127.0.0.1:0"]
    with running_daemon(tmp_path / "state", *listen, config=config) as daemon:
        rows = {row["name"]: row["value"] for row in daemon.ctl_json("info")}
        ipc, tcp = rows["server.endpoints"]
        assert ipc == daemon.endpoint == f"ipc://{tmp_path}/a.sock"
        assert tcp.startswith("tcp://127.0.0.1:")
        assert not tcp.endswith(":0")
        assert daemon.run_ctl("--connect", tcp, "commands").returncode == 0


def test_the_environment_says_where_too(tmp_path: Path) -> None:
    done = engined(
        "--check", ENGINE_STATE_DIR=str(tmp_path / "s"), ENGINE_CONFIG=str(tmp_path / "missing")
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"engined: {tmp_path}/missing: there is no such file\n"


def test_check_looks_and_makes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[service.registry]\nretries = 2\n")
    done = engined("--check", "--config", config, "--state-dir", tmp_path / "state")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"engined: {config}: the configuration can be used\n"
    assert not (tmp_path / "state").exists()


def test_version() -> None:
    assert engined("--version").stdout == f"engined {__version__}\n"


# what keeps it from starting: one clear line, no traceback


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        ("[log]\nlevel = 3\n", 2, "log.level: "),
        ("[service.registry]\nretries = 'x'\n", 2, "engined.toml: service.registry.retries: "),
        ("[service.registry]\nnope = 1\n", 2, "engined.toml: service.registry.nope: no such key"),
        ("[service.nope]\n", 2, "service.nope: no such service is installed; there are: "),
        ("[engine]\nlisten = ['tcp://127.0.0.1:0']\n", 2, "security.open_tcp"),
        ("[engine]\nlisten = ['ipc:///proc/none/x']\n", 1, "ipc:///proc/none/x"),
        ("[engine]\nlisten = ['ipc:///a/x', 'ipc:///a/x']\n", 2, "ipc:///a/x is named twice"),
        ("[wire]\nheartbeat_interval = 0.0001\n", 2, "wire.heartbeat_interval"),
        ("[wire]\nheartbeat_interval = 86400\n", 2, "wire.heartbeat_interval"),
    ],
)
def test_what_the_configuration_gets_wrong(
    tmp_path: Path, config: str, status: int, message: str
) -> None:
    path = tmp_path / "engined.toml"
    path.write_text(config)
    done = engined("--config", path, "--state-dir", tmp_path / "state")
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("engined: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_check_looks_at_the_endpoints_too(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    done = engined("--check", "--state-dir", deep)
    assert (done.returncode, "at most 107" in done.stderr) == (2, True)
    done = engined("--check", "--listen", "tcp://127.0.0.1:0")
    assert (done.returncode, "security.open_tcp" in done.stderr) == (2, True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    state = tmp_path / "state"
    shell = f'exec "$0" -m engine.daemon --state-dir "$1" {closed}'
    with subprocess.Popen(["/bin/sh", "-c", shell, sys.executable, state]) as process:
        try:
            until(lambda: (state / "engine.sock").exists())
            descriptors = Path(f"/proc/{process.pid}/fd")
            streams = [str((descriptors / str(number)).readlink()) for number in range(3)]
        finally:
            process.terminate()
            status = process.wait(20)
    assert status == 0
    numbers = {"<": 0, ">": 1, "2": 2}
    for word in closed.split():
        assert streams[numbers[word[0]]] == "/dev/null"


def test_an_output_that_is_full_does_not_spoil_the_end(tmp_path: Path) -> None:
    state = tmp_path / "state"
    shell = 'exec "$0" -m engine.daemon --state-dir "$1" >/dev/full'
    with subprocess.Popen(["/bin/sh", "-c", shell, sys.executable, state]) as process:
        try:
            until(lambda: reaches(f"ipc://{state}/engine.sock"))
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_a_second_daemon_on_the_same_state_directory_is_refused(trial_daemon: Daemon) -> None:
    state = trial_daemon.state_dir
    done = engined("--state-dir", state, "--listen", f"ipc://{state}/other.sock")
    assert done.returncode == 1
    pid = trial_daemon.process.pid
    assert done.stderr == (
        f"engined: {state}: another engined (process {pid}) uses this state directory\n"
    )
    assert trial_daemon.run_ctl("info").returncode == 0


def test_a_second_daemon_on_the_same_socket_is_refused(
    trial_daemon: Daemon, tmp_path: Path
) -> None:
    done = engined("--state-dir", tmp_path / "state", "--listen", trial_daemon.endpoint)
    assert done.returncode == 1
    assert "another engine listens" in done.stderr
    assert trial_daemon.run_ctl("info").returncode == 0


def test_a_state_directory_that_cannot_be_or_that_everybody_may_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = engined("--state-dir", tmp_path / "file" / "state")
    assert (done.returncode, "cannot be used" in done.stderr) == (1, True)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = engined("--state-dir", tmp_path / "open")
    assert (done.returncode, "chmod it to 0700" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:x", "ModuleNotFoundError"),
        ("trial_service:nothing", "AttributeError"),
        ("builtins:object", "has no install(engine)"),
        ("trial_service:Service", "the service zweite could not be installed: there is a handler"),
    ],
)
def test_a_service_that_cannot_be_installed_is_named(
    tmp_path: Path, trial_path: str, value: str, message: str
) -> None:
    about = tmp_path / "second-1.dist-info"
    about.mkdir()
    # the name comes late in the alphabet, so that the trial service is there first
    (about / "entry_points.txt").write_text(f"[engine.services]\nzweite = {value}\n")
    path = f"{trial_path}{os.pathsep}{tmp_path}"
    done = engined("--state-dir", tmp_path / "state", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the service zweite" in done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_distributions_with_a_service_of_one_name(tmp_path: Path, trial_path: str) -> None:
    about = tmp_path / "second-1.dist-info"
    about.mkdir()
    (about / "entry_points.txt").write_text("[engine.services]\ntrial = trial_service:Service\n")
    path = f"{trial_path}{os.pathsep}{tmp_path}"
    done = engined("--check", PYTHONPATH=path)
    assert done.returncode == 1
    assert "the service trial is brought by second and trial-service" in done.stderr


def test_a_service_gets_its_section(tmp_path: Path, trial_path: str) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[service.trial]\ngreeting = 'good day'\n")
    environ = {"PYTHONPATH": trial_path}
    with running_daemon(tmp_path / "state", config=config, environ=environ) as daemon:
        assert daemon.ctl("settings") == "good day"


def limited(daemon: Path, files: str, *options: str) -> subprocess.Popen[str]:
    """An `engined` that may have so many open files (soft:hard, as for prlimit)."""
    return subprocess.Popen(
        [
            *("prlimit", f"--nofile={files}", sys.executable, "-m", "engine.daemon"),
            *("--state-dir", str(daemon), *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(one: socket.socket) -> bool:
    """Whether the other end has hung up; what it had said before is of no interest."""
    try:
        while one.recv(4096, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def reaches(endpoint: str) -> bool:
    try:
        Client(endpoint).close()
    except UnreachableError:
        return False
    return True


def test_more_connections_than_files_do_not_end_the_daemon(tmp_path: Path) -> None:
    with limited(tmp_path / "s", "128:1000") as process, contextlib.ExitStack() as stack:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("engined ready")
            path = str(tmp_path / "s" / "engine.sock")
            most = 1000 - 320  # the rest is for the daemon's own files, and for some at the door
            made: list[socket.socket] = []
            for count in range(1, 1201):
                one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                one.connect(path)  # waits while the queue of the socket is full
                made.append(one)
                if count % 100 == 0:  # a greater rush than the door holds does end it
                    until(lambda: sum(map(ended, made)) >= len(made) - most, 60)
            stack.close()
            until(lambda: reaches(f"ipc://{path}"), 60)  # when it has seen the others' ends
            with Client(f"ipc://{path}") as client:
                rows = {row["name"]: row["value"] for row in client.run("info")}
        finally:
            process.terminate()
            _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert rows["limits.sessions"] == 1000 - 64 - 320
    assert "fewer sessions than configured" in stderr
    assert 0 < stderr.count("refused: there are 680 connections") < 100  # of 520


def test_too_few_files_for_a_daemon(tmp_path: Path) -> None:
    with limited(tmp_path / "s", "200:200") as process:
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "200 open files are too few" in stderr
    assert len(stderr.splitlines()) == 1


# signals


def test_sigterm_lets_a_job_end_within_the_grace(tmp_path: Path, trial_path: str) -> None:
    with running_daemon(tmp_path / "state", environ={"PYTHONPATH": trial_path}) as daemon:
        release = tmp_path / "release"
        with daemon.start_ctl("stubborn", release) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
            daemon.process.send_signal(signal.SIGTERM)
            until(lambda: '"stopping"' in daemon.log())
            late = daemon.run_ctl("echo", "late")
            assert late.returncode == 75
            assert "shutting down" in late.stderr
            release.touch()
            assert client.wait(10) == 0
        assert daemon.process.wait(10) == 0
        assert '"orderly": true' in daemon.log()


def test_after_the_grace_jobs_are_cancelled_and_their_clients_told(
    tmp_path: Path, trial_path: str
) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[shutdown]\ngrace = 0.1\n")
    environ = {"PYTHONPATH": trial_path}
    with (
        running_daemon(tmp_path / "state", config=config, environ=environ) as daemon,
        daemon.start_ctl("--output", "json", "hang") as client,
    ):
        assert client.stdout is not None
        client.stdout.readline()
        daemon.process.send_signal(signal.SIGTERM)
        _, stderr = client.communicate(timeout=10)
        assert client.returncode == 75
        assert "the engine shut down" in stderr
        assert daemon.process.wait(10) == 0


def test_a_second_signal_hastens(tmp_path: Path, trial_path: str) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[shutdown]\ngrace = 600\n")
    environ = {"PYTHONPATH": trial_path}
    with (
        running_daemon(tmp_path / "state", config=config, environ=environ) as daemon,
        daemon.start_ctl("--output", "json", "hang") as client,
    ):
        assert client.stdout is not None
        client.stdout.readline()
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: '"stopping"' in daemon.log())
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(10) == 0
        client.communicate(timeout=10)
        assert client.returncode == 75


def test_a_job_that_never_stops_does_not_keep_the_daemon(tmp_path: Path, trial_path: str) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[shutdown]\ngrace = 0\nstop = 0.2\n")
    environ = {"PYTHONPATH": trial_path}
    with (
        running_daemon(tmp_path / "state", config=config, environ=environ) as daemon,
        daemon.start_ctl("stubborn", tmp_path / "never") as client,
    ):
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n"
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(10) == 0
        assert '"orderly": false' in daemon.log()
        client.communicate(timeout=10)
        assert client.returncode == 75


def test_sighup_reloads_what_can_be_and_names_what_cannot(tmp_path: Path) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("[log]\nlevel = 'warning'\n[queues]\nslow = 3\n")
    with running_daemon(tmp_path / "state", config=config) as daemon:
        config.write_text("[log]\nlevel = 'debug'\n[limits]\njobs_per_principal = 7\nheader = 8192")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "need a restart" in daemon.log())
        assert '"keys": ["limits.header"]' in daemon.log()
        rows = {row["name"]: row["value"] for row in daemon.ctl_json("info")}
        assert rows["limits.jobs_per_principal"] == 7
        assert rows["limits.header"] == 4096
        assert '"started"' in daemon.log()  # a line of level debug


def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("")
    with running_daemon(tmp_path / "state", config=config) as daemon:
        config.write_text("[log]\nlevel = 'loud'\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "the old one stays" in daemon.log())
        assert "'loud' is none of" in daemon.log()
        assert daemon.run_ctl("info").returncode == 0


def test_the_keys_that_need_a_restart() -> None:
    new = parse(
        b"[engine]\nlisten = ['ipc:///x']\n[shutdown]\ngrace = 1\n[queues]\na = 1\n"
        b"[log]\nlevel = 'debug'\nformat = 'json'\n[service.x]\ny = 1\n",
        source="x",
    )
    assert changed_for_restart(Config(), new) == ["engine.listen", "log.format", "service.x"]
    assert changed_for_restart(new, new) == []


# the service manager


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        with running_daemon(tmp_path / "state", environ={"NOTIFY_SOCKET": str(path)}) as daemon:
            assert manager.recv(100) == b"READY=1"
            daemon.process.send_signal(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(100) == b"READY=1"
            daemon.process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"


def test_the_service_manager_is_told_that_the_daemon_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "notify.sock"
    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "100000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        with running_daemon(tmp_path / "state", environ=environ):
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_how_often_the_service_manager_wants_to_hear(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environ, 7) == seconds


def test_a_service_manager_that_does_not_read_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    filler.sendto(b"x", str(path))
        begun = time.monotonic()
        Notifier(str(path)).alive()
        assert time.monotonic() - begun < 0.5


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).ready()
    name = f"{os.getpid()}-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(10)
        Notifier(f"@{name}").stopping()
        assert manager.recv(100) == b"STOPPING=1"
