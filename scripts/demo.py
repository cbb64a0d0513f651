"""A demonstration: a daemon, a registry, and what a person does with them.

Both run on loopback with their state in a temporary directory. Nothing is left behind: the
children are ended and the directory is removed on every way out.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import bcrypt

from engine.endpoints import SOCKET_PATH_BYTES
from registry_service.platform import Platform
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image, random_index

USER = "demo"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
#: So slow that the bars can be seen to move.
RATE = 6_000_000
LAYER_BYTES = 4_000_000

DESCRIPTIONS = {
    "demo/app": {"description": "An application for two platforms", "star_count": 42},
    "demo/base": {"description": "What it stands on", "star_count": 7, "is_official": True},
}


class StoppedError(Exception):
    """A signal asked for the end."""


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="demo-", dir=place_for_all()) as place:
            return demonstrate(Path(place))
    except (KeyboardInterrupt, StoppedError):
        print("\ndemo: stopped", file=sys.stderr)
        return 130
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def place_for_all() -> str:
    """Where everything goes: the usual place, or /tmp where the daemon's socket would have a
    longer path there than the kernel takes."""
    usual = tempfile.gettempdir()
    longest = os.fsencode(f"{usual}/demo-12345678/state/engine.sock")
    return usual if len(longest) <= SOCKET_PATH_BYTES else "/tmp"


class DemoError(Exception):
    """What a person is told when the demonstration cannot go on."""


def demonstrate(place: Path) -> int:
    password = secrets.token_urlsafe(12)
    say("A registry with two images in it, behind a password; and the engine's daemon.")
    root = fill_registry(place / "registry", place / "htpasswd", password)
    registry = [
        sys.executable, "-m", "registry_service.testing", "--listen", "127.0.0.1:0",
        "--root", str(root), "--htpasswd", str(place / "htpasswd"),
        "--fault", f"slow:rate={RATE},path=/blobs/",
    ]  # fmt: skip
    daemon = [sys.executable, "-m", "engine.daemon", "--state-dir", str(place / "state")]
    with (
        running(registry, "registry ready ", place / "registry.log") as url,
        running(daemon, "engined ready ", place / "engined.log") as endpoint,
    ):
        host = url.partition("://")[2]
        show_commands(host, password, {**os.environ, "ENGINE_CONNECT": endpoint})
    say("The daemon and the registry have ended. That was all.")
    return 0


def show_commands(host: str, password: str, environ: Mapping[str, str]) -> None:
    login = f"-u {USER} --password-stdin"

    def ctl(line: str, *, secret: bool = False) -> None:
        enginectl(line, environ, stdin=f"{password}\n" if secret else "")

    say("Are the credentials good?")
    ctl(f"auth {host} {login}", secret=True)
    say("What is there? The registry searches, most stars first.")
    ctl(f"search {host}/demo {login}", secret=True)
    say("Pull an image for this machine. Each row is a part that is now in the store.")
    ctl(f"pull {host}/demo/base:1.0 {login}", secret=True)
    say("Once more: nothing is fetched twice.")
    ctl(f"pull {host}/demo/base:1.0 {login}", secret=True)
    say("An image for two platforms, both of them, and what the store has now.")
    ctl(f"pull {host}/demo/app:1.0 --platform all {login}", secret=True)
    ctl("images")
    say("Give it another name, and push it under that name.")
    ctl(f"tag {host}/demo/app:1.0 {host}/demo/copy:2.0")
    ctl(f"push {host}/demo/copy:2.0 {login}", secret=True)
    say("The pushed image is found in the registry, with the digest that was pulled.")
    ctl(f"search {host}/demo/copy {login}", secret=True)
    ctl(f"tags {host}/demo/copy {login}", secret=True)
    ctl(f"pull {host}/demo/copy:2.0 --platform all {login}", secret=True)


def fill_registry(root: Path, htpasswd: Path, password: str) -> Path:
    """Make a registry's content on disk, and its password file."""
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=5)).decode()
    htpasswd.write_text(f"{USER}:{hashed}\n")
    root.mkdir()
    (root / "search.json").write_text(json.dumps(DESCRIPTIONS))
    with Registry(root=root) as registry:
        here = str(Platform.here())
        base = random_image(seed=1, layers=5, layer_size=LAYER_BYTES, platform=here)
        push_image(registry, "demo/base", "1.0", base)
        push_image(registry, "demo/app", "1.0", random_index(seed=2, layer_size=LAYER_BYTES))
    return root


@contextlib.contextmanager
def running(command: Sequence[str], ready: str, log: Path) -> Iterator[str]:
    """A child that has said that it is ready; gives the first word after that.

    It is in a session of its own, so that Ctrl-C reaches it through here alone.
    """
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as child,
    ):
        try:
            yield wait_ready(child, ready, log)
        finally:
            end(child)


def wait_ready(child: subprocess.Popen[str], ready: str, log: Path) -> str:
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], START_SECONDS)
    line = child.stdout.readline() if readable else ""
    if not line.startswith(ready):
        raise DemoError(f"{child.args!r} did not start:\n{log.read_text()}")
    return line.removeprefix(ready).split()[0]


def end(child: subprocess.Popen[str]) -> None:
    """End a child: in order, and for certain."""
    child.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while child.poll() is None:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, StoppedError, subprocess.TimeoutExpired):
            child.kill()  # somebody is in a hurry


def enginectl(line: str, environ: Mapping[str, str], stdin: str) -> None:
    """Run a command as if somebody had typed it. Raises `DemoError` where it fails."""
    print(f"\033[1m$ enginectl {line}\033[0m" if sys.stdout.isatty() else f"$ enginectl {line}")
    sys.stdout.flush()
    command = [sys.executable, "-m", "engine.cli", *shlex.split(line)]
    done = subprocess.run(command, input=stdin, text=True, env=dict(environ))
    if done.returncode != 0:
        raise DemoError(f"'enginectl {line}' ended with status {done.returncode}")


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise StoppedError


if __name__ == "__main__":
    sys.exit(main())
