"""A real `engined` for tests, and `enginectl` against it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Daemon", "Result", "running_daemon"]

_START_SECONDS = 30.0
_PERSONAL = {"DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


@dataclasses.dataclass(frozen=True, slots=True)
class Daemon:
    """``log()`` is what the daemon wrote to its standard error so far."""

    process: subprocess.Popen[str]
    endpoint: str
    state_dir: Path
    log_path: Path
    environ: Mapping[str, str]

    def log(self) -> str:
        return self.log_path.read_text()

    def start_ctl(self, *args: str | Path, **options: Any) -> subprocess.Popen[str]:
        """`enginectl` as a process, with pipes for its streams."""
        return subprocess.Popen(
            [sys.executable, "-m", "engine.cli", "--connect", self.endpoint, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(self.environ),
            **options,
        )

    def run_ctl(self, *args: str | Path, stdin: str = "", timeout: float = 60.0) -> Result:
        """`enginectl`, to its end."""
        with self.start_ctl(*args) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout)
            except BaseException:
                process.kill()
                raise
        return Result(returncode=process.returncode, stdout=stdout, stderr=stderr)

    def ctl(self, *args: str | Path, stdin: str = "") -> str:
        """The standard output of an `enginectl` that ends well."""
        result = self.run_ctl(*args, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def ctl_json(self, *args: str | Path, stdin: str = "") -> list[dict[str, Any]]:
        """The rows of an `enginectl` that ends well."""
        shown = self.ctl("--output", "json", *args, stdin=stdin)
        return [json.loads(line) for line in shown.splitlines()]

    def resident(self) -> int:
        """The daemon's resident memory, in bytes."""
        return self._memory("VmRSS")

    def peak(self) -> int:
        """The most that it was so far."""
        return self._memory("VmHWM")

    def _memory(self, key: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024


@contextlib.contextmanager
def running_daemon(
    state_dir: Path,
    *options: str | Path,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """An `engined` that accepts connections; it is ended by SIGTERM, and must end in order."""
    env = {
        k: v for k, v in os.environ.items() if not k.startswith("ENGINE_") and k not in _PERSONAL
    }
    env["HOME"] = str(state_dir.parent / "home")  # what the tester has must not count
    env.update(environ or {})
    chosen = [] if config is None else ["--config", str(config)]
    log_path = state_dir.parent / f"{state_dir.name}.log"
    with log_path.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.daemon", "--state-dir", str(state_dir)]
            + chosen
            + [str(option) for option in options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
        )
    try:
        line = _ready_line(process, log_path)
        yield Daemon(process, line.split()[2], state_dir, log_path, env)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
    assert status in (0, -signal.SIGKILL), log_path.read_text()


def _ready_line(process: subprocess.Popen[str], log_path: Path) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
    line = process.stdout.readline() if ready else ""
    if not line.startswith("engined ready "):
        process.kill()
        raise AssertionError(f"engined did not start: {line!r}\n{log_path.read_text()}")
    return line
