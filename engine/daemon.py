"""``engined``: the engine as a process.

The main thread owns the signals, the start and the stop: it waits for signals and acts on
them. The drain runs on a thread of its own, ``engine-drain``, so that a second signal can hasten
it.

The exit status is 0 after an orderly stop, 2 for a configuration that cannot be used, 1 for
anything else that kept the daemon from starting.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import structlog

from . import logs, notify, plugins
from .config import DEFAULT_FILE, Config, load
from .dispatch import Dispatcher
from .endpoints import Endpoint
from .engine import Engine
from .errors import ConfigError, EngineError, InstallError
from .executors.local import LocalExecutor
from .listening import check_allowed
from .server import Server, ServerSettings
from .signals import WOKEN, SignalPipe
from .status import Status
from .streams import provide_standard_streams, silence_what_is_full
from .version import __version__
from .wire.codec import encode_record
from .wire.limits import Limits

__all__ = ["Daemon", "locked_state", "main"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = structlog.stdlib.get_logger("engine.daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop; the exit status."""
    provide_standard_streams(discard_output=True)  # its log is on standard error
    options = _parser().parse_args(argv)
    environ = dict(os.environ)

    def configuration() -> tuple[Config, Path | None]:
        return load(
            file=options.config, state_dir=options.state_dir, listen=options.listen, environ=environ
        )

    try:
        config, file = configuration()
        logs.configure(level=config.log.level, format=config.log.format, stream=sys.stderr)
        if options.check:
            check(config, config.state_dir(environ, os.getuid()).absolute(), file, environ)
            print(f"engined: {file or 'the defaults'}: the configuration can be used")
            return 0
        os.umask(0o077)
        state_dir = config.state_dir(environ, os.getuid()).absolute()
        with SignalPipe(_SIGNALS, ends=True) as signals, locked_state(state_dir):
            return _run(config, file, state_dir, signals, lambda: configuration()[0], environ)
    except EngineError as error:
        print(f"engined: {error}", file=sys.stderr)
        return int(error.status)
    except OSError as error:
        print(f"engined: {_os_error(error)}", file=sys.stderr)
        return 1
    finally:
        silence_what_is_full()


class Daemon:
    """An engine with its services, its executor, its dispatcher and its server.

    ``start`` accepts clients; ``stop`` ends in order and may be hastened from another thread.
    """

    def __init__(
        self,
        config: Config,
        *,
        state_dir: Path,
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.engine = Engine(
            state_dir=state_dir, config_dir=(file or DEFAULT_FILE).parent, environ=environ
        )
        try:
            install_services(self.engine, config, file)
            self._executor = LocalExecutor(config.queues, ageing=config.engine.priority_ageing)
            self._dispatcher = Dispatcher(
                self.engine,
                self._executor,
                encode=partial(encode_record, limits=server_settings(config).limits),
                quota=config.limits.output_quota,
                most=config.limits.jobs_per_principal,
                on_event=logs.task_events,
            )
            self._server = Server(
                self.engine,
                self._dispatcher,
                endpoints=config.listen(state_dir),
                settings=server_settings(config),
            )
        except BaseException:
            self.engine.shutdown(0)
            raise
        self.engine.add_info(
            lambda: {"state_dir": str(state_dir), "configuration": str(file) if file else None}
        )

    def start(self) -> tuple[str, ...]:
        """Accept clients; the endpoints at which this does. Raises `EngineError`."""
        try:
            self._server.start()
        except BaseException:
            self._executor.shutdown(0)
            self.engine.shutdown(0)
            raise
        return tuple(self._server.endpoints)

    def reload(self, config: Config) -> list[str]:
        """Take from ``config`` what can change while jobs run; the keys that it cannot."""
        logs.set_level(config.log.level)
        default = config.queues["default"]
        gone = dict.fromkeys(self.config.queues.keys() - config.queues.keys(), default)
        self._executor.set_limits({**gone, **config.queues})
        self._dispatcher.quota = config.limits.output_quota
        self._dispatcher.most = config.limits.jobs_per_principal
        left = changed_for_restart(self.config, config)
        self.config = config
        return left

    def beat(self, alive: Callable[[], object]) -> None:
        """Let the I/O thread say that it is alive."""
        self._server.call(alive)

    def stop(self) -> bool:
        """Take no more jobs, let those in flight end, cancel what is over the grace; whether
        every job has ended."""
        shutdown = self.config.shutdown
        self._server.drain(grace=shutdown.grace)
        done = self._dispatcher.drain(shutdown.grace, stop=shutdown.stop)
        self._server.close()  # after it has sent the ends of the jobs
        self._executor.shutdown(0 if not done else shutdown.stop)
        self.engine.shutdown(0, stop=0)
        return done

    def hasten(self) -> None:
        """Cancel what a stop still waits for."""
        self._dispatcher.hasten()


def check(
    config: Config,
    state_dir: Path,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Whether the configuration can be used, its endpoints and its services' sections too.
    Raises `EngineError`. Nothing is made in the state directory."""
    for endpoint in config.listen(state_dir):
        check_allowed(Endpoint.parse(endpoint), open_tcp=config.security.open_tcp)
    engine = Engine(config_dir=(file or DEFAULT_FILE).parent, environ=environ)
    try:
        install_services(engine, config, file)
        server_settings(config)
    finally:
        engine.shutdown(0)


def install_services(engine: Engine, config: Config, file: Path | None = None) -> None:
    """Install every service that a distribution brings. Raises `InstallError`, which names
    the service, and `ConfigError` for the settings of a service that is not there, which
    names ``file``."""
    found = plugins.entry_points(plugins.SERVICES)
    names = [entry.name for entry in found]
    for name in config.service:
        if name not in names:
            there = ", ".join(names) or "none"
            raise ConfigError(
                f"{file or 'configuration'}: service.{name}: no such service is installed; "
                f"there are: {there}"
            )
    for entry in found:
        if names.count(entry.name) > 1:
            both = " and ".join(one.distribution for one in found if one.name == entry.name)
            raise InstallError(f"the service {entry.name} is brought by {both}; remove one")
        try:
            service = entry.load()()
        except Exception as error:
            raise InstallError(
                f"the service {entry.name} ({entry.value}, of {entry.distribution}) could not be "
                f"loaded: {type(error).__name__}: {error}"
            ) from error
        if not callable(getattr(service, "install", None)):
            raise InstallError(
                f"the service {entry.name} ({entry.value}, of {entry.distribution}) has no "
                "install(engine)"
            )
        try:
            engine.install(service, name=entry.name, settings=config.service.get(entry.name))
        except InstallError as error:
            raise _wrong_settings(entry.name, error, file) or error from error.__cause__


def _wrong_settings(name: str, error: InstallError, file: Path | None) -> ConfigError | None:
    """What a service says of its section, with the file and the section in front: an error
    with the status of wrong usage, and perhaps the ``key`` that its message begins with. One
    that names a ``file`` itself stays as it is."""
    cause = error.__cause__
    if getattr(cause, "status", None) != Status.USAGE:
        return None
    if getattr(cause, "file", ""):
        return ConfigError(str(cause))
    mark = "." if str(cause).startswith(f"{getattr(cause, 'key', None)}: ") else ": "
    return ConfigError(f"{file or 'configuration'}: service.{name}{mark}{cause}")


def server_settings(config: Config) -> ServerSettings:
    """The part of the configuration that is the server's."""
    limits, wire = config.limits, config.wire
    return ServerSettings(
        limits=Limits(
            header=limits.header,
            control=limits.control,
            submit=limits.submit,
            output=limits.output,
            frames=limits.frames,
            nesting=limits.nesting,
            elements=limits.elements,
        ),
        sessions=limits.sessions,
        jobs_per_session=limits.jobs_per_session,
        outbox=limits.outbox,
        send_queue=wire.send_queue,
        linger=wire.linger,
        handshake=wire.handshake_timeout,
        heartbeat=wire.heartbeat_interval,
        misses=wire.heartbeat_misses,
        open_tcp=config.security.open_tcp,
    )


def fit_open_files(config: Config) -> Config:
    """Let the process open as many files as it may; fewer sessions where that is not enough.

    ZeroMQ ends the process when it has no descriptor for a connection.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _ENOUGH_FILES if most == resource.RLIM_INFINITY else most
    wanted = server_settings(config).connections + _OWN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(allowed, max(wanted, _ENOUGH_FILES)), most))
    if wanted <= allowed:
        return config
    fitting = config.limits.sessions - (wanted - allowed)
    if fitting < 1:
        raise EngineError(
            f"{allowed} open files are too few for a daemon; raise the limit (ulimit -n)"
        )
    _log.warning("fewer sessions than configured, for want of open files", sessions=fitting)
    limits = msgspec.structs.replace(config.limits, sessions=fitting)
    return msgspec.structs.replace(config, limits=limits)


#: Files that the daemon itself may have open: transfers, connections to registries, the store.
_OWN_FILES = 320
_ENOUGH_FILES = 65_536
_LIVE = frozenset({"log.level", "limits.output_quota", "limits.jobs_per_principal"})


def changed_for_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and take effect with a restart only."""
    changed = []
    for section in Config.__struct_fields__:
        if section in ("queues", "shutdown"):  # read when they are used
            continue
        before = msgspec.to_builtins(getattr(old, section))
        after = msgspec.to_builtins(getattr(new, section))
        changed += [
            f"{section}.{key}"
            for key in {**before, **after}
            if before.get(key) != after.get(key) and f"{section}.{key}" not in _LIVE
        ]
    return changed


@contextlib.contextmanager
def locked_state(state_dir: Path) -> Iterator[None]:
    """The state directory, made if need be, held against a second daemon.

    The lock is ``engine.lock`` in it, held by this process (flock), so that it ends with the
    process however that ends. Raises `EngineError`.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state_dir.stat().st_mode & 0o002:
            raise EngineError(f"{state_dir}: everybody may write there; chmod it to 0700")
        lock = os.open(state_dir / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngineError(
            f"{state_dir}: the state directory cannot be used: {error.strerror}"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise EngineError(
                f"{state_dir}: another engined (process {holder}) uses this state directory"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _run(
    config: Config,
    file: Path | None,
    state_dir: Path,
    signals: SignalPipe,
    reread: Callable[[], Config],
    environ: Mapping[str, str],
) -> int:
    config = fit_open_files(config)
    daemon = Daemon(config, state_dir=state_dir, file=file, environ=environ)
    endpoints = daemon.start()
    with contextlib.suppress(OSError):  # who started the daemon need not listen to it
        print("engined ready", *endpoints, flush=True)
    _log.info("ready", version=__version__, endpoints=endpoints, state_dir=str(state_dir))
    notifier = notify.Notifier.of(environ)
    notifier.ready()
    pause = notify.watchdog_seconds(environ, os.getpid())
    while (word := signals.wait(pause)) in (None, signal.SIGHUP):
        if word is None:
            daemon.beat(notifier.alive)
            continue
        notifier.reloading()
        _reload(daemon, reread)
        notifier.ready()
    assert isinstance(word, signal.Signals)
    notifier.stopping()
    _log.info("stopping", signal=word.name, grace=daemon.config.shutdown.grace)
    done = _drain(daemon, signals)
    _log.info("stopped", orderly=done)
    return 0


def _drain(daemon: Daemon, signals: SignalPipe) -> bool:
    ended: list[bool] = []

    def stop() -> None:
        try:
            ended.append(daemon.stop())
        finally:
            signals.wake()

    thread = threading.Thread(target=stop, name="engine-drain")
    thread.start()
    while (word := signals.wait()) != WOKEN:
        if word is not signal.SIGHUP:
            _log.warning("hastened", signal=str(word))
            daemon.hasten()
    thread.join()
    return ended == [True]


def _reload(daemon: Daemon, reread: Callable[[], Config]) -> None:
    try:
        left = daemon.reload(reread())
    except EngineError as error:
        _log.error("the configuration was not reloaded, the old one stays", error=str(error))
    else:
        _log.info("the configuration was reloaded")
        if left:
            _log.warning("keys that changed and need a restart", keys=left)
    for service, problem in daemon.engine.reload():
        if problem is None:
            _log.info("the service's configuration was reloaded", service=service)
            continue
        _log.error(
            "the service's configuration was not reloaded, the old one stays",
            service=service,
            error=str(problem),
            # one with a status was meant for people, any other is a fault of the service
            exc_info=None if hasattr(problem, "status") else problem,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="engined",
        description="Run the job engine. It prints 'engined ready ENDPOINT…' when it accepts "
        "clients, and stops in order on SIGTERM.",
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration (also: ENGINE_CONFIG)")
    parser.add_argument(
        "--state-dir", metavar="DIR", help="where the state is kept (also: ENGINE_STATE_DIR)"
    )
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        action="append",
        default=[],
        help="ipc://PATH or tcp://HOST:PORT; may be given again (also: ENGINE_LISTEN)",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the configuration and the services, and exit"
    )
    parser.add_argument("--version", action="version", version=f"engined {__version__}")
    return parser


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
