"""The engine: handlers by name, the jobs made of them, and an orderly end."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from . import builtin
from .env import Env
from .errors import (
    DuplicateJobError,
    InstallError,
    ShuttingDownError,
    UnknownJobError,
    UsageError,
)
from .job import Handler, Job, refused
from .output import OutputLog
from .spec import JobSpec
from .status import Status

__all__ = ["Engine", "Installer", "Registration"]

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_log = logging.getLogger("engine")


@runtime_checkable
class Installer(Protocol):
    """Anything that puts handlers on an engine."""

    def install(self, engine: Engine) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A handler, what it says of itself, and the settings of the service that installed it."""

    name: str
    handler: Handler
    spec: JobSpec | None
    settings: Mapping[str, Any]


class Engine:
    """Holds handlers by name and makes jobs of them. Thread-safe.

    ``state_dir`` is where services may keep what outlives the process (None: nowhere), and
    ``config_dir`` where the configuration lies, for what lies beside it. ``environ`` is the
    environment as far as services may go by it: an engine outside a daemon has none.

    >>> engine = Engine()
    >>> engine.register("greet", lambda job: job.write(f"hello {job.args[0]}"))
    >>> job = engine.job("greet", "world")
    >>> int(job.run()), job.stdout.text()
    (0, 'hello world')
    """

    def __init__(
        self,
        *,
        state_dir: Path | None = None,
        config_dir: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.config_dir = config_dir
        self.environ: Mapping[str, str] = dict(environ or {})
        self.started = time.time()
        self._mutex = threading.Lock()
        self._handlers: dict[str, Registration] = {}
        self._catchall: Registration | None = None
        self._settings: Mapping[str, Any] = {}
        self._installing = ""
        self._callbacks: list[Callable[[], None]] = []
        self._reloads: list[tuple[str, Callable[[], None]]] = []
        self._information: list[Callable[[], Mapping[str, Any]]] = []
        self._running: set[Job] = set()
        self._idle = threading.Condition(self._mutex)
        self._closing = False
        builtin.install(self)

    # handlers

    def register(self, name: str, handler: Handler, spec: JobSpec | None = None) -> None:
        """Put ``handler`` on the engine. Raises `DuplicateJobError` for a name that is taken."""
        if spec is not None and spec.name != name:
            raise ValueError(f"the spec of {name!r} is of {spec.name!r}")
        made = Registration(
            name=name,
            handler=handler,
            spec=spec,
            settings=self._settings,
        )
        if spec is None:
            JobSpec(name=name)  # a bad name is refused here too
        with self._mutex:
            if name in self._handlers:
                raise DuplicateJobError(f"there is a handler of the name {name!r} already")
            self._handlers[name] = made

    def register_catchall(self, handler: Handler) -> None:
        """The handler of every name that has none of its own. There is one at the most."""
        with self._mutex:
            if self._catchall is not None:
                raise DuplicateJobError("there is a catch-all handler already")
            self._catchall = Registration(
                name="*", handler=handler, spec=None, settings=self._settings
            )

    def install(
        self, installer: Installer, *, name: str = "", settings: Mapping[str, Any] | None = None
    ) -> None:
        """Let ``installer`` register its handlers; their jobs see ``settings``.

        All or nothing: when it fails, nothing of it stays. Raises `InstallError`.
        """
        with self._mutex:
            before, catchall = dict(self._handlers), self._catchall
            callbacks, information = list(self._callbacks), list(self._information)
            reloads = list(self._reloads)
            self._settings = dict(settings or {})
            self._installing = name or type(installer).__name__
        try:
            installer.install(self)
        except Exception as error:
            with self._mutex:
                self._handlers, self._catchall = before, catchall
                self._callbacks, self._information = callbacks, information
                self._reloads = reloads
                what = self._installing
            raise InstallError(f"the service {what} could not be installed: {error}") from error
        finally:
            with self._mutex:
                self._settings, self._installing = {}, ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the service that is being installed; empty at other times."""
        return self._settings

    def resolve(self, name: str) -> Registration:
        """The registration that runs ``name``. Raises `UnknownJobError`."""
        with self._mutex:
            found = self._handlers.get(name) or self._catchall
            names = list(self._handlers) if found is None else []
        if found is None:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UnknownJobError(f"no such job: {name!r}{hint}")
        return found

    def commands(self) -> list[JobSpec]:
        """The spec of every job, by name; a handler without one is listed by its name."""
        with self._mutex:
            known = sorted(self._handlers.values(), key=lambda one: one.name)
        return [one.spec or JobSpec(name=one.name) for one in known]

    # jobs

    def job(
        self,
        name: str,
        *args: str,
        env: Mapping[str, Any] | None = None,
        stdin: IO[bytes] | None = None,
        deadline: float | None = None,
    ) -> Job:
        """A job of that name, to be run in the process. A name that nobody handles makes a
        job that ends with status 127. ``deadline`` is in seconds from now."""
        return self.make(
            name,
            args,
            env,
            stdin=stdin,
            deadline=None if deadline is None else time.monotonic() + deadline,
        )

    def parse_job(self, line: str) -> Job:
        """The job that a line such as ``limit=5 search "two words"`` describes, by the rules
        of a shell's words. Raises `UsageError`."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{line!r}: {error}") from None
        env = Env()
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            env.set(match[1], match[2])
            words.pop(0)
        if not words:
            raise UsageError(f"{line!r} names no job", usage="[KEY=value …] JOB [ARG …]")
        return self.job(words[0], *words[1:], env=env)

    def make(
        self,
        name: str,
        args: tuple[str, ...],
        env: Mapping[str, Any] | None,
        *,
        id: str = "",
        stdin: IO[bytes] | None = None,
        log: OutputLog | None = None,
        deadline: float | None = None,
    ) -> Job:
        """A job, for who runs jobs: with an id, a log, and a deadline (monotonic)."""
        try:
            found: Registration | None = self.resolve(name)
        except UnknownJobError:
            found = None
        return Job(
            name,
            args,
            env,
            handler=None if found is None else self._guard(found.handler),
            spec=None if found is None else found.spec,
            id=id,
            stdin=stdin,
            log=log,
            state_dir=self.state_dir,
            settings={} if found is None else found.settings,
            deadline=deadline,
        )

    def _guard(self, handler: Handler) -> Handler:
        def run(job: Job) -> Status | int | None:
            with self._mutex:
                if self._closing:
                    raise refused()
                self._running.add(job)
            try:
                return handler(job)
            finally:
                with self._mutex:
                    self._running.discard(job)
                    if self.closing:  # nobody waits before
                        self._idle.notify_all()

        return run

    # information

    def add_info(self, source: Callable[[], Mapping[str, Any]]) -> None:
        """Let ``info`` show what ``source`` returns: names to JSON values."""
        with self._mutex:
            self._information.append(source)

    def information(self) -> dict[str, Any]:
        """What ``info`` shows of the sources. What one that fails has to say is in ``errors``."""
        with self._mutex:
            sources = list(self._information)
            found: dict[str, Any] = {
                "uptime": round(time.time() - self.started, 3),
                "jobs.running": len(self._running),
            }
        errors: list[str] = []
        for source in sources:
            try:
                found.update(source())
            except Exception as error:
                _log.exception("a source of information failed")
                errors.append(f"{type(error).__name__}: {error}")
        return {**found, "errors": errors} if errors else found

    # the configuration

    def on_reload(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when a service is to read anew what it reads beside its settings. It
        raises where that cannot be used, and goes on with what it has."""
        with self._mutex:
            self._reloads.append((self._installing, callback))

    def reload(self) -> list[tuple[str, Exception | None]]:
        """Let every service that wants it read its configuration anew: its name, and what kept it
        from that."""
        with self._mutex:
            reloads = list(self._reloads)
        done: list[tuple[str, Exception | None]] = []
        for name, callback in reloads:
            try:
                callback()
            except Exception as error:
                done.append((name, error))
            else:
                done.append((name, None))
        return done

    # the end

    @property
    def closing(self) -> bool:
        return self._closing

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the engine has shut down its jobs; the last first."""
        with self._mutex:
            self._callbacks.append(callback)

    def shutdown(self, grace: float = 10.0, *, stop: float = 5.0) -> None:
        """Refuse new jobs, let the running ones finish within ``grace`` seconds, cancel the
        rest and give them ``stop`` seconds, run every callback, return. Once."""
        with self._mutex:
            if self._closing:
                return
            self._closing = True
        if not self._wait_idle(grace):
            with self._mutex:
                running = list(self._running)
            for job in running:
                job.cancel(ShuttingDownError("the engine shut down before the job was done"))
            if not self._wait_idle(stop):
                _log.warning("jobs still run after the engine has shut down")
        for callback in reversed(self._callbacks):
            try:
                callback()
            except Exception:
                _log.exception("a shutdown callback failed")

    def _wait_idle(self, timeout: float) -> bool:
        with self._mutex:
            return self._idle.wait_for(lambda: not self._running, timeout)
