"""Endpoints: where an engine listens, and whether somebody does.

Pure but for `reach`, which connects a plain socket once, so that a client says at once and in
clear words what ZeroMQ would only retry in silence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket

from .errors import ConfigError, UnreachableError

__all__ = ["SOCKET_PATH_BYTES", "Endpoint", "reach"]

#: What the kernel's address of a Unix socket holds, without its closing NUL.
SOCKET_PATH_BYTES = 107


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """``ipc`` with a path, or ``tcp`` with a host and a port (0: any that is free)."""

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """``ipc://PATH`` or ``tcp://HOST:PORT``. Raises `ConfigError`."""
        scheme, mark, rest = text.partition("://")
        if mark and scheme == "ipc":
            return cls(scheme="ipc", path=_checked_path(text, rest))
        if mark and scheme == "tcp":
            host, port = _host_and_port(text, rest)
            return cls(scheme="tcp", host=host, port=port)
        raise ConfigError(f"{text!r} is no endpoint: ipc://PATH and tcp://HOST:PORT are")

    def __str__(self) -> str:
        if self.scheme == "ipc":
            return f"ipc://{self.path}"
        return f"tcp://{self.host}:{self.port or '*'}"


def _checked_path(text: str, path: str) -> str:
    if not path or "\0" in path:
        raise ConfigError(f"{text!r} names no path")
    if path.startswith("@"):
        raise ConfigError(f"{text!r}: a socket without a file has no permissions; name a path")
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the path of the socket has {size} bytes, and the kernel takes at most "
            f"{SOCKET_PATH_BYTES}: {path}"
        )
    return path


def _host_and_port(text: str, rest: str) -> tuple[str, int]:
    host, mark, port = rest.rpartition(":")
    if not mark or not host or "/" in rest:
        raise ConfigError(f"{text!r}: tcp://HOST:PORT is wanted")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"{text!r}: an IPv6 address stands in brackets: tcp://[::1]:7000")
    if port == "*":
        return host, 0
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"{text!r}: {port!r} is no port; 0 to 65535, or *, is")
    return host, int(port)


def reach(endpoint: Endpoint, timeout: float) -> None:
    """Return when somebody listens at ``endpoint``, else raise `UnreachableError`.

    ``timeout``, in seconds, is for tcp; a Unix socket answers at once, and one whose queue is
    full counts as a listener.
    """
    try:
        if endpoint.scheme == "ipc":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    probe.connect(endpoint.path)
        else:
            host = endpoint.host.strip("[]")
            socket.create_connection((host, endpoint.port), timeout).close()
    except OSError as error:
        raise UnreachableError(f"{_problem(endpoint, error)} ({endpoint})") from None


def _problem(endpoint: Endpoint, error: OSError) -> str:
    ipc = endpoint.scheme == "ipc"
    match error:
        case FileNotFoundError():
            return "there is no socket of an engine; is engined running?"
        case ConnectionRefusedError() if ipc:
            return "the socket is there and nobody listens on it; is engined running?"
        case ConnectionRefusedError():
            return "nobody listens there; is engined running?"
        case PermissionError():
            return "permission denied: the engine belongs to another user"
        case TimeoutError():
            return "no answer in time; is engined running?"
        case socket.gaierror():
            return f"the host {endpoint.host} is not known"
        case _:
            return f"{error.strerror or error}; is engined running?"
