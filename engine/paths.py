"""Where the daemon keeps its state and listens, when nobody says otherwise.

Functions of the environment that is handed in; nothing here reads the process's own.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SOCKET_NAME", "default_endpoint", "default_state_dir", "endpoint_in"]

SOCKET_NAME = "engine.sock"


def default_state_dir(environ: Mapping[str, str], uid: int) -> Path:
    """``/var/lib/registry-engine`` for root, else ``$XDG_STATE_HOME/registry-engine``.

    Without a ``HOME`` the user database says where the home is. XDG asks that a relative
    ``XDG_STATE_HOME`` is ignored; ``~/.local/state`` stands in then.
    """
    if uid == 0:
        return Path("/var/lib/registry-engine")
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        base = f"{home if home.startswith('/') else pwd.getpwuid(uid).pw_dir}/.local/state"
    return Path(base) / "registry-engine"


def endpoint_in(state_dir: Path) -> str:
    """The endpoint of a daemon that keeps its state in ``state_dir``."""
    return f"ipc://{state_dir / SOCKET_NAME}"


def default_endpoint(environ: Mapping[str, str], uid: int) -> str:
    """The endpoint of the daemon of user ``uid``."""
    return endpoint_in(default_state_dir(environ, uid))
