"""A credential helper for tests: a real program that keeps secrets in a file, and can misbehave."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["FakeHelper"]

_PROGRAM = """\
#!{python} -IS
import json, os, pathlib, sys
home = pathlib.Path({home!r})
given = sys.stdin.read()
action = sys.argv[1]
with (home / "calls").open("a") as log:
    log.write(json.dumps([sys.argv[1:], given if action != "store" else ""]) + "\\n")
mode = (home / "mode").read_text() if (home / "mode").exists() else ""
kept = home / "kept.json"
secrets = json.loads(kept.read_text()) if kept.exists() else {{}}
if mode == "hang":
    (home / "pid").write_text(str(os.getpid()))
    if os.fork() == 0:
        os.execlp("sleep", "sleep", "600")
    os.execlp("sleep", "sleep", "600")
if mode == "flood":
    while True:
        sys.stdout.write("x" * 65536)
if mode == "leak":
    sys.stderr.write(json.dumps(secrets) + given)
    sys.stdout.write(json.dumps(secrets) + given)
    sys.exit(1)
if mode == "locked":
    sys.stdout.write("the keyring is locked")
    sys.exit(1)
if mode == "garbage":
    sys.stdout.write('["' + json.dumps(secrets)[1:20])
    sys.exit(0)
if action == "get":
    if given not in secrets:
        sys.stdout.write("credentials not found in native keychain\\n")
        sys.exit(1)
    json.dump({{"ServerURL": given, **secrets[given]}}, sys.stdout)
elif action == "store":
    entry = json.loads(given)
    secrets[entry.pop("ServerURL")] = entry
    kept.write_text(json.dumps(secrets))
elif action == "erase":
    secrets.pop(given)
    kept.write_text(json.dumps(secrets))
elif action == "list":
    json.dump({{server: entry["Username"] for server, entry in secrets.items()}}, sys.stdout)
"""


class FakeHelper:
    """``docker-credential-NAME`` in a directory of its own, which goes on the PATH."""

    def __init__(self, place: Path, name: str = "fake") -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.name = name
        program = place / f"docker-credential-{name}"
        program.write_text(_PROGRAM.format(python=sys.executable, home=str(place)))
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """A PATH on which the helper and the system's own programs are."""
        return f"{self.place}:/usr/bin:/bin"

    @property
    def kept(self) -> dict[str, dict[str, str]]:
        """What it keeps: servers to user names and secrets."""
        file = self.place / "kept.json"
        found: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def keep(self, server: str, username: str, secret: str) -> None:
        entry = {"Username": username, "Secret": secret}
        (self.place / "kept.json").write_text(json.dumps({**self.kept, server: entry}))

    @property
    def calls(self) -> list[tuple[list[str], str]]:
        """Its arguments and what it was given, a secret apart, for each time that it ran."""
        file = self.place / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(args, given) for args, given in map(json.loads, lines)]

    def hangs(self) -> bool:
        """Wait until it does."""
        return _until((self.place / "pid").exists)

    def ended(self) -> bool:
        """Wait until it and all that it started are gone, after it has hung."""
        group = int((self.place / "pid").read_text())
        return _until(lambda: not _runs(group))

    def misbehave(self, mode: str) -> None:
        (self.place / "mode").write_text(mode)


def _until(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return True
        pause.wait(0.01)
    return False


def _runs(group: int) -> bool:
    """Whether a process of the group runs; one that has ended and was not collected does not."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
