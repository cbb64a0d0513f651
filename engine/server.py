"""The server: ROUTER sockets bound at endpoints, and the one thread that serves them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import zmq

from .dispatch import Dispatcher
from .endpoints import Endpoint
from .engine import Engine
from .listening import Listener
from .loop import Loop
from .serving import ServerSettings, Sessions
from .version import __version__
from .wire.engine_side import FEATURES, Terms
from .wire.peer import VERSIONS

__all__ = ["Server", "ServerSettings"]


class Server:
    """Serves an engine's jobs at ``endpoints``.

    The dispatcher must encode with `engine.wire.codec.encode_record`. `start` binds and
    returns; `close` may be called from any thread, and more than once.
    """

    def __init__(
        self,
        engine: Engine,
        dispatcher: Dispatcher,
        *,
        endpoints: Sequence[str],
        settings: ServerSettings | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("a server needs an endpoint")
        self._dispatcher = dispatcher
        self._wanted = [Endpoint.parse(one) for one in endpoints]
        self.settings = settings or ServerSettings()
        self._terms = Terms(
            engine=f"registry-engine {__version__}",
            epoch=secrets.token_hex(8),
            limits=self.settings.limits,
            heartbeat=self.settings.heartbeat,
            misses=self.settings.misses,
            jobs=self.settings.jobs_per_session,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._loop: Loop | None = None
        self._listeners: list[Listener] = []
        self._monitors: list[zmq.Socket[bytes]] = []
        self._sessions: Sessions | None = None
        self._close_mutex = threading.Lock()
        engine.add_info(self._information)

    # any thread

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it listens, with the real ports. Empty before the start."""
        return tuple(listener.endpoint for listener in self._listeners)

    @property
    def sessions(self) -> int:
        """How many clients are connected."""
        return 0 if self._sessions is None else len(self._sessions)

    @property
    def connections(self) -> int:
        """How many connections there are, with those that have not greeted yet."""
        return 0 if self._sessions is None else len(self._sessions.connections)

    def start(self) -> None:
        """Bind every endpoint, or none. Raises `ConfigError` or `EngineError`."""
        self._context = zmq.Context()
        self._loop = Loop("engine-io")
        try:
            for endpoint in self._wanted:
                self._open(endpoint)
        except BaseException:
            self._loop.close()
            self._release(0)
            self._loop = None
            raise
        sessions = Sessions(
            self._dispatcher,
            self.settings,
            self._terms,
            self._loop,
            monitors=self._monitors,
            addresses=frozenset(listener.local for listener in self._listeners),
        )
        self._sessions = sessions
        for listener in self._listeners:
            self._loop.add(listener.socket, partial(sessions.readable, listener))
        for monitor in self._monitors:
            self._loop.add(monitor, sessions.told)
        self._loop.start()

    def call(self, function: Callable[[], object]) -> None:
        """Have the I/O thread call ``function`` soon, which must not block: while it does, that
        thread is well. Dropped when the server is not running."""
        loop = self._loop
        if loop is not None:
            loop.call(function)

    def drain(self, reason: str = "the engine shuts down", grace: float | None = None) -> None:
        """Tell every client, those that come later too, that no new jobs are taken."""
        if self._loop is not None and self._sessions is not None:
            self._loop.call(self._sessions.drain, reason, grace)

    def close(self) -> None:
        """Send what is ready to be sent, within the linger time, and close everything."""
        with self._close_mutex:
            loop, sessions = self._loop, self._sessions
            if loop is None or sessions is None:
                return
            if loop.alive:
                loop.call(sessions.begin_close)
                sessions.quiet.wait(self.settings.linger)
                loop.call(sessions.end_all)
                loop.close()
            self._release(self.settings.linger)
            self._loop = None

    def _open(self, endpoint: Endpoint) -> None:
        assert self._context is not None
        settings = self.settings
        router = self._context.socket(zmq.ROUTER)
        try:
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            router.setsockopt(zmq.ROUTER_HANDOVER, 0)
            # a little above what is taken, so that a frame a little too long has an answer
            router.setsockopt(zmq.MAXMSGSIZE, settings.limits.frame + 64 * 1024)
            router.setsockopt(zmq.HANDSHAKE_IVL, round(settings.handshake * 1000))
            router.setsockopt(zmq.HEARTBEAT_IVL, round(settings.heartbeat * 1000))
            router.setsockopt(zmq.HEARTBEAT_TIMEOUT, round(self._terms.lease * 1000))
            router.setsockopt(zmq.SNDHWM, settings.send_queue)
            router.setsockopt(zmq.RCVHWM, 64)
            router.setsockopt(zmq.LINGER, round(settings.linger * 1000))
            router.setsockopt(zmq.TCP_KEEPALIVE, 1)
            router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
            router.setsockopt(zmq.IPV6, 1 if endpoint.host.startswith("[") else 0)
            told = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
            self._monitors.append(router.get_monitor_socket(told))
            self._listeners.append(Listener.open(router, endpoint, open_tcp=settings.open_tcp))
        except BaseException:
            router.disable_monitor()
            router.close(linger=0)
            raise

    def _release(self, linger: float) -> None:
        """With the loop's thread ended, or before it began."""
        for listener in self._listeners:
            listener.socket.disable_monitor()
        for monitor in self._monitors:
            monitor.close(linger=0)
        for listener in self._listeners:
            listener.close(linger)
        self._monitors.clear()
        if self._context is not None:
            self._context.term()
            self._context = None

    def _information(self) -> Mapping[str, Any]:
        major, minor = VERSIONS[-1]
        return {
            "server.endpoints": list(self.endpoints),
            "server.sessions": self.sessions,
            "server.connections": self.connections,
            "server.protocol": f"EJP/{major}.{minor}",
            "server.features": list(FEATURES),
            "server.heartbeat": self.settings.heartbeat,
            "limits.sessions": self.settings.sessions,
            "limits.connections": self.settings.connections,
            "limits.jobs_per_session": self.settings.jobs_per_session,
            **{f"limits.{name}": most for name, most in self.settings.limits.to_map().items()},
        }
