"""An engine with a server, for the tests of the wire's real ends."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from engine import Column, ColumnType, Engine, Job, JobSpec
from engine.dispatch import Dispatcher
from engine.executors.local import LocalExecutor
from engine.server import Server, ServerSettings
from engine.wire.codec import encode_record
from engine.wire.limits import Limits

COLUMNS = (Column(name="name"), Column(name="number", type=ColumnType.INTEGER))


class Daemon:
    """An engine, its dispatcher and its server, with a few jobs to try them with."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: ServerSettings | None = None,
        endpoints: tuple[str, ...] = (),
        quota: int = 4 * 1024 * 1024,
    ) -> None:
        self.path = directory / "engine.sock"
        self.endpoint = f"ipc://{self.path}"
        self.engine = Engine()
        self.executor = LocalExecutor()
        limits = settings.limits if settings else Limits()
        encode = partial(encode_record, limits=limits)
        self.dispatcher = Dispatcher(self.engine, self.executor, encode=encode, quota=quota)
        self.server = Server(
            self.engine,
            self.dispatcher,
            endpoints=endpoints or (self.endpoint,),
            settings=settings,
        )
        self.gate = threading.Event()  # what the job 'gated' waits for
        self.started = threading.Event()
        self.emitted = 0
        self._register()

    def _register(self) -> None:
        register = self.engine.register
        register("empty", lambda job: None)
        register("greet", lambda job: job.write(f"hello {job.args[0]}\n"))
        register("env", self._env)
        register("rows", self._rows, JobSpec(name="rows", columns=COLUMNS))
        register("gated", self._gated)
        register("stuck", self._stuck)
        register("fail", self._fail)
        register("mixed", self._mixed)
        register("flood", self._flood)
        register("progress", self._progress)
        register("usage", lambda job: None, JobSpec(name="usage"))

    def _env(self, job: Job) -> None:
        job.schema([Column(name="key"), Column(name="value")])
        for key, value in job.env.items():
            job.row(key, value)

    def _rows(self, job: Job) -> None:
        job.output.schema(COLUMNS)
        job.output.rows(("row", number) for number in range(int(job.env["count"])))

    def _gated(self, job: Job) -> None:
        job.log("info", "waiting", at="gate")
        self.started.set()
        while not self.gate.wait(0.01):
            job.check_cancelled()

    def _stuck(self, job: Job) -> None:
        self.started.set()
        job.wait_cancelled(60)
        job.check_cancelled()

    def _fail(self, job: Job) -> int:
        job.schema(COLUMNS)
        job.row("one", 1)
        return int(job.error("the shelf is empty", code="empty-shelf", retryable=True))

    def _mixed(self, job: Job) -> None:
        job.write("text\n")
        job.write(b"\xff\x00")
        job.log("warning", "careful", where="here")
        job.schema(COLUMNS)
        job.row("a", 1)
        job.progress("layer", "fetch", 5, 10)
        job.progress("layer", "fetch", 10, 10)

    def _flood(self, job: Job) -> None:
        """Rows of a kilobyte, until it is told to stop."""
        job.schema([Column(name="filler")])
        filler = "x" * 1000
        self.emitted = 0
        while not self.gate.is_set():
            job.row(filler)
            self.emitted += 1
            if self.emitted % 100 == 0:
                job.check_cancelled()

    def _progress(self, job: Job) -> None:
        for done in range(1000):
            job.progress("a", "fetch", done, 1000)
            job.progress("b", "fetch", done, 1000)

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.gate.set()
        self.dispatcher.drain(0.2, stop=5)
        self.server.close()
        self.executor.shutdown(5)
        self.engine.shutdown(0)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="ejp-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def serving(
    settings: ServerSettings | None = None,
    *,
    endpoints: tuple[str, ...] = (),
    quota: int = 4 * 1024 * 1024,
) -> Iterator[Daemon]:
    """A daemon that listens, until the block ends."""
    with directory() as place:
        daemon = Daemon(place, settings=settings, endpoints=endpoints, quota=quota)
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()


def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for a condition that nobody tells of. Fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        threading.Event().wait(0.005)
