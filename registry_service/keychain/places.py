"""Which files hold a user's credentials, in the order in which they are asked.

Functions of the environment that is handed in; nothing here reads the process's own.
"""

from __future__ import annotations

import dataclasses
import pwd
from collections.abc import Mapping
from pathlib import Path

from ..constants import CONFIGFILE

__all__ = ["Place", "docker_config", "places_of"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """``named`` is the variable that names the file, which must be there then; empty for a
    place where a file may be. One that is ``shared`` lies below a directory that root may have made
    and closed to others: then nothing is there."""

    path: Path
    named: str = ""
    shared: bool = False


def places_of(environ: Mapping[str, str], uid: int) -> tuple[Place, ...]:
    """The files of the user ``uid``; `Keychain` stores in the first.

    ``REGISTRY_AUTH_FILE`` names the only one. Otherwise: Docker's ``config.json`` (in
    ``DOCKER_CONFIG`` or ``~/.docker``), podman's ``auth.json`` (in ``XDG_RUNTIME_DIR``, then in
    ``XDG_CONFIG_HOME``), and ``~/.dockercfg``.
    """
    named = environ.get("REGISTRY_AUTH_FILE", "")
    if named:
        return (Place(path=Path(named).absolute(), named="REGISTRY_AUTH_FILE"),)
    home = _home(environ, uid)
    # where there is no directory for the session, podman has one for each user
    session = environ.get("XDG_RUNTIME_DIR", "").startswith("/")
    runtime = _directory(environ, "XDG_RUNTIME_DIR", Path("/run")) / "containers"
    if not session:
        runtime /= str(uid)
    config = _directory(environ, "XDG_CONFIG_HOME", home / ".config")
    return (
        Place(path=docker_config(environ, uid)),
        Place(path=runtime / "auth.json", shared=not session),
        Place(path=config / "containers" / "auth.json"),
        Place(path=home / CONFIGFILE),
    )


def docker_config(environ: Mapping[str, str], uid: int) -> Path:
    """Docker's ``config.json`` of the user ``uid``."""
    named = environ.get("DOCKER_CONFIG", "")
    directory = Path(named).absolute() if named else _home(environ, uid) / ".docker"
    return directory / "config.json"


def _directory(environ: Mapping[str, str], name: str, default: Path) -> Path:
    """XDG asks that a relative path is ignored."""
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else default


def _home(environ: Mapping[str, str], uid: int) -> Path:
    home = environ.get("HOME", "")
    if home.startswith("/"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:  # a user without a name, as in some containers
        return Path("/")
