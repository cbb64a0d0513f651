"""`enginectl` at a terminal: tables, bars, the question that Ctrl-C asks, the password."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_daemon import Daemon

from engine.cli.terminal import Bars
from engine.records import Progress
from registry_service.testing import Registry

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program on a terminal of 100 by 30 cells. ``seen`` is what it wrote, escapes left out;
    ``raw`` is everything."""

    def __init__(self, daemon: Daemon, *args: str, stdout: int | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli", "--connect", daemon.endpoint, *args],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env={**daemon.environ, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = ""

    @property
    def seen(self) -> str:
        return _ESCAPES.sub("", self.raw)

    def expect(self, text: str, seconds: float = 20.0) -> None:
        """Wait until ``text`` was written after what was expected before."""
        start, deadline = getattr(self, "_from", 0), time.monotonic() + seconds
        while text not in self.seen[start:]:
            assert self._read(deadline), f"no {text!r} in {self.seen[start:]!r}"
        self._from = self.seen.index(text, start) + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, seconds: float = 20.0) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        left = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([self._master], [], [], left)
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def in_flight(daemon: Daemon) -> int:
    """How many jobs there are beside this question."""
    rows = {row["name"]: row["value"] for row in daemon.ctl_json("info")}
    return int(rows["jobs.in_flight"]) - 1


def start(
    opened: list[Terminal], daemon: Daemon, *args: str, stdout: int | None = None
) -> Terminal:
    opened.append(Terminal(daemon, *args, stdout=stdout))
    return opened[-1]


def test_a_table_is_drawn_to_fit(trial_daemon: Daemon, terminals: list[Terminal]) -> None:
    shown = start(terminals, trial_daemon, "commands")
    assert shown.end() == 0
    assert "\x1b[1mNAME" in shown.raw
    assert all(len(line) <= 100 for line in shown.seen.splitlines())


def test_nothing_a_job_says_steers_the_terminal(
    trial_daemon: Daemon, terminals: list[Terminal]
) -> None:
    for words in (("kinds",), ("say",), ("fail", "1")):
        shown = start(terminals, trial_daemon, *words)
        shown.end()
        assert "\x1b[31mred" not in shown.raw
        assert "\x1b[2J" not in shown.raw
        assert r"\x1b[" in shown.seen


def test_rows_stand_above_the_bars(trial_daemon: Daemon, terminals: list[Terminal]) -> None:
    shown = start(terminals, trial_daemon, "hang")
    shown.expect("REFERENCE")
    shown.expect("here")
    shown.expect("123.5 kB")
    shown.expect("sha256:cdcdcdcdcdcd")
    shown.expect("10/100 bytes")
    shown.type("\x03")
    shown.expect("[c]ancel it")
    shown.type("c\n")
    assert shown.end() == 130
    assert "enginectl: the job was cancelled by its client" in shown.seen
    assert shown.raw.rstrip().endswith("client")
    assert "\x1b[?25h" in shown.raw  # the cursor is back


def test_data_in_a_pipe_and_bars_on_the_terminal(
    trial_daemon: Daemon, terminals: list[Terminal], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as out:
        args = ("--output", "json", "hang")
        shown = start(terminals, trial_daemon, *args, stdout=out.fileno())
        shown.expect("sha256:cdcdcdcdcdcd")
        shown.type("\x03")
        shown.expect("[c]ancel it")
        shown.type("\x03")  # a second one cancels
        assert shown.end() == 130
    assert "here" not in shown.seen
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert line.startswith('{"reference": "here"')


def test_going_on_and_detaching(trial_daemon: Daemon, terminals: list[Terminal]) -> None:
    shown = start(terminals, trial_daemon, "hang", "--deadline", "4")
    shown.expect("sha256:cdcdcdcdcdcd")
    shown.type("\x03")
    shown.expect("[g]o on?")
    shown.type("what\n")
    shown.expect("[g]o on?")
    shown.type("g\n")
    asked = len(shown.raw)
    shown.expect("sha256:cdcdcdcdcdcd")  # the bars are back
    # and nothing that stood there before is erased for them
    assert "\x1b[1A" not in shown.raw[asked:].partition("sha256:cdcdcdcdcdcd")[0]
    shown.type("\x03")
    shown.expect("[g]o on?")
    shown.type("d\n")
    assert shown.end() == 0, shown.seen
    assert re.search(r"enginectl: job [0-9a-f]+ goes on", shown.seen)
    assert in_flight(trial_daemon) == 1
    deadline = time.monotonic() + 20
    while in_flight(trial_daemon):
        assert time.monotonic() < deadline


def test_the_end_of_the_input_at_the_question_cancels(
    trial_daemon: Daemon, terminals: list[Terminal]
) -> None:
    shown = start(terminals, trial_daemon, "hang")
    shown.expect("sha256:cdcdcdcdcdcd")
    shown.type("\x03")
    shown.expect("[g]o on?")
    shown.type("\x04")
    assert shown.end() == 130
    assert shown.seen.count("[g]o on?") == 1


class TerminalText(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_sum_of_the_bars_is_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "70")
    out = TerminalText()
    bars = Bars(out)
    for name in ("one", "two", "three", "total"):
        bars.update(Progress(key=name, phase="fetching", done=1, total=10))
    bars.stop()
    frame = list(filter(str.strip, _ESCAPES.sub("", out.getvalue()).splitlines()))[-5:]
    assert [line.split()[0] for line in frame] == [
        "one", "two", "three", "total", "total",
    ]  # fmt: skip
    assert "4/40 bytes" in frame[-1]
    assert max(map(len, frame)) == 67  # a ^C that the terminal shows stays on the line


def test_a_job_that_ends_while_it_is_asked_about_ends_the_program(
    trial_daemon: Daemon, terminals: list[Terminal]
) -> None:
    shown = start(terminals, trial_daemon, "hang", "--deadline", "3")
    shown.expect("sha256:cdcdcdcdcdcd")
    shown.type("\x03")
    shown.expect("[g]o on?")
    assert shown.end() == 124  # nobody has answered
    assert "enginectl: the deadline of the job has passed" in shown.seen


def test_a_job_that_ends_after_a_question_ends_the_program(
    trial_daemon: Daemon, terminals: list[Terminal]
) -> None:
    shown = start(terminals, trial_daemon, "hang", "--deadline", "1.5")
    shown.expect("sha256:cdcdcdcdcdcd")
    shown.type("\x03")
    shown.expect("[g]o on?")
    shown.type("g\n")
    assert shown.end() == 124


def test_the_password_is_asked_for_and_not_shown(
    trial_daemon: Daemon, terminals: list[Terminal]
) -> None:
    with Registry(users={"ann": "correct horse"}) as registry:
        shown = start(terminals, trial_daemon, "auth", registry.host, "-u", "ann")
        shown.expect("Password for ann:")
        shown.type("correct horse\n")
        assert shown.end() == 0
    assert "Login Succeeded" in shown.seen
    assert "horse" not in shown.seen


def test_a_login_asks_for_the_name_and_the_password(
    trial_daemon: Daemon, terminals: list[Terminal], tmp_path: Path
) -> None:
    at_home = dataclasses.replace(
        trial_daemon, environ={**trial_daemon.environ, "HOME": str(tmp_path)}
    )
    with Registry(users={"ann": "correct horse"}) as registry:
        shown = start(terminals, at_home, "login", registry.host)
        shown.expect("User name:")
        shown.type("ann\n")
        shown.expect("Password for ann:")
        shown.type("correct horse\n")
        assert shown.end() == 0
    assert "Login Succeeded" in shown.seen
    assert "horse" not in shown.seen
    assert registry.host in (tmp_path / ".docker" / "config.json").read_text()
