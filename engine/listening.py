"""Binding ROUTER sockets: permissions, the lock against a second daemon, stale files.

A Unix socket is made here and handed to ZeroMQ, since the mode of its file must be right from
the first moment on: it is set on the socket before the bind, so that no time passes in which
others could connect. ``PATH.lock`` is locked as long as somebody listens at ``PATH``; the file
stays behind, for removing it would let two daemons lock two files of the same name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import zmq

from .endpoints import Endpoint
from .errors import ConfigError, EngineError, NotAllowedError

__all__ = ["Listener", "check_allowed", "descriptor_of", "principal_of"]

_BACKLOG = 512


class Listener:
    """A bound ROUTER and what belongs to it.

    The thread that polls ``socket`` owns it; `close` is called from that thread, or from any
    when it has ended. ``endpoint`` is the real one, its port included.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], endpoint: str, path: Path | None, lock: int | None
    ) -> None:
        self.socket = socket
        self.endpoint = endpoint
        #: What the accepted sockets have as their own end: the path, or the port.
        self.local: object = str(path) if path else int(endpoint.rpartition(":")[2])
        self._path = path
        self._inode = None if path is None else path.stat().st_ino
        self._lock = lock

    @classmethod
    def open(cls, router: zmq.Socket[bytes], endpoint: Endpoint, *, open_tcp: bool) -> Listener:
        """Bind ``router``. Raises `ConfigError` for an endpoint that is not to be used, else
        `EngineError` with the code ``endpoint``; the router is left to its owner then."""
        if endpoint.scheme == "ipc":
            return cls._open_ipc(router, Path(endpoint.path))
        check_allowed(endpoint, open_tcp=open_tcp)
        host = "127.0.0.1" if endpoint.host == "localhost" else endpoint.host  # bound by address
        with _explained(str(endpoint)):
            router.bind(f"tcp://{host}:{endpoint.port or '*'}")
        bound = router.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return cls(router, bound.decode().rstrip("\0"), None, None)

    @classmethod
    def _open_ipc(cls, router: zmq.Socket[bytes], path: Path) -> Listener:
        with _explained(f"ipc://{path}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(path)
            try:
                _clear(path)
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
                    made.setblocking(False)
                    os.fchmod(made.fileno(), 0o600)  # the file gets the mode of the socket
                    made.bind(str(path))
                    made.listen(_BACKLOG)
                    router.setsockopt(zmq.USE_FD, made.fileno())
                    router.bind(f"ipc://{path}")
                    made.detach()  # the router closes it
                return cls(router, f"ipc://{path}", path, lock)
            except BaseException:
                os.close(lock)
                raise

    def close(self, linger: float) -> None:
        """Close the socket, its file and the lock. What was sent has ``linger`` seconds."""
        self.socket.close(linger=round(linger * 1000))
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_allowed(endpoint: Endpoint, *, open_tcp: bool) -> None:
    """Raises `ConfigError` for a port that nobody said is to be open."""
    if endpoint.scheme == "tcp" and not open_tcp:
        raise ConfigError(
            f"{endpoint}: an open port lets everyone who reaches it run jobs; where that is "
            "wanted, set security.open_tcp = true"
        )


def descriptor_of(frame: zmq.Frame) -> int | None:
    """The descriptor of the connection that a frame came from; None where ZeroMQ does not say."""
    try:
        found = frame.get(zmq.SRCFD)
    except (zmq.ZMQError, ValueError):
        return None
    return found if isinstance(found, int) and found >= 0 else None


def principal_of(frame: zmq.Frame) -> str:
    """Who sent a frame: ``uid:N`` by the kernel's word for a Unix socket, ``tcp:ADDRESS`` else.

    Raises `NotAllowedError` where nobody says.
    """
    try:
        peer = frame.get("Peer-Address")
    except zmq.ZMQError:
        peer = ""
    if not isinstance(peer, str) or not peer:
        raise NotAllowedError("nobody says who you are")
    parts = peer.split(":")
    if len(parts) == 4 and parts[0] == "localhost" and parts[1].isdigit():
        return f"uid:{parts[1]}"
    return f"tcp:{peer}"


def _lock(path: Path) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise EngineError(
            f"another engine listens at ipc://{path}: stop it, or choose another state "
            "directory or endpoint",
            code="endpoint",
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on; anything else in the way is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EngineError(f"{path} is there and is no socket; it is left alone", code="endpoint")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise EngineError(f"another program listens at ipc://{path}", code="endpoint")


@contextlib.contextmanager
def _explained(endpoint: str) -> Iterator[None]:
    """Turn the errors of a bind into clear ones."""
    try:
        yield
    except (OSError, zmq.ZMQError) as error:
        reason = {
            errno.EADDRINUSE: "the address is in use",
            errno.EACCES: "permission denied",
            errno.ENODEV: "no interface of this machine has that address",
            errno.EADDRNOTAVAIL: "this machine does not have that address",
        }.get(error.errno or 0, error.strerror or str(error))
        raise EngineError(f"cannot listen at {endpoint}: {reason}", code="endpoint") from error
