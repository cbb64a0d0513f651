"""One run of a named handler: arguments, environment, streams, status.

A handler is ``handler(job) -> Status`` and reaches everything through its job. It may also
return None, which is OK, or raise: an exception with the attributes ``code``, ``status`` and
``retryable`` reaches the client with its words; any other is a fault of the handler and is
told as such, its details going to the log of the process and not to the client.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

from .env import Env
from .errors import (
    CancelledError,
    DeadlineError,
    EngineError,
    EnvError,
    NeedError,
    ShuttingDownError,
    UnknownJobError,
    UsageError,
)
from .output import OutputLog
from .records import Data, End, Log, Need, Progress, Rows, Schema, StateChange, Text
from .spec import Column, JobSpec
from .status import State, Status
from .table import Table

__all__ = ["Handler", "Job", "Stream"]

Handler: TypeAlias = Callable[["Job"], "Status | int | None"]

_CHUNK = 64 * 1024
_LEVELS = ("debug", "info", "warning", "error")
_log = logging.getLogger("engine.job")
_LOST_LINES = "{} log lines were left out, for the readers were behind"


class Job:
    """A job, run once.

    In the process ``run()`` runs it on the calling thread, and its output is then read from
    ``stdout`` and ``stderr``. The daemon makes the job with an `OutputLog` that encodes, so
    that there the output is read by its readers only.

    ``deadline`` is a moment of ``time.monotonic()``, or None.
    """

    def __init__(
        self,
        name: str,
        args: Iterable[str] = (),
        env: Mapping[str, Any] | None = None,
        *,
        handler: Handler | None,
        spec: JobSpec | None = None,
        id: str = "",
        stdin: IO[bytes] | None = None,
        log: OutputLog | None = None,
        state_dir: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.name = name
        self.args = tuple(args)
        self.spec = spec
        self.env = Env(env or {}, secrets=spec.secrets if spec else ())
        self.id = id
        self.stdin: IO[bytes] = io.BytesIO() if stdin is None else stdin
        self.output = OutputLog() if log is None else log
        self.stdout = Stream(self.output, "stdout")
        self.stderr = Stream(self.output, "stderr")
        self.state_dir = state_dir
        self.settings: Mapping[str, Any] = {} if settings is None else settings
        self.deadline = deadline
        self.created = time.time()
        self.started: float | None = None
        self.attempt = 1
        #: Answers `need`; set by who can ask the client, None where nobody can.
        self.supplier: Callable[[Need], Any] | None = None
        #: Told of every log line, for the log of the process.
        self.on_log: Callable[[Log], None] | None = None
        self._handler = handler
        self._mutex = threading.Lock()
        self._state = State.QUEUED
        self._status: Status | None = None
        self._error: Exception | None = None
        self._cancel_error: EngineError | None = None
        self._cancel_event = threading.Event()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._thread: int | None = None  # the handler's
        self._lost_lines = 0

    def __repr__(self) -> str:
        words = " ".join([self.name, *map(repr, self.args)])
        return f"<Job {self.id or 'in-process'}: {words}, {self.state}>"

    # what a handler emits

    def schema(self, columns: Iterable[Column]) -> None:
        """Say what the rows are made of. A job with columns in its spec need not call it."""
        self.output.schema(columns)

    def row(self, *cells: Any) -> None:
        """Emit one row. Raises `TableError` when the cells do not fit the columns, and waits
        while the readers are behind."""
        self._need_schema()
        self.output.row(cells)

    def rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Emit many rows."""
        self._need_schema()
        self.output.rows(rows)

    def write(self, content: str | bytes) -> None:
        """Write text or bytes to the standard output."""
        if isinstance(content, str):
            for start in range(0, len(content), _CHUNK):
                self.output.append(Text(text=content[start : start + _CHUNK]))
        else:
            view = memoryview(content)
            for start in range(0, len(view), _CHUNK):
                self.output.append(Data(data=bytes(view[start : start + _CHUNK])))

    def progress(self, key: str, phase: str, done: int, total: int = -1) -> None:
        """Tell how far ``key`` has come. Cheap: of each key only the newest is sent."""
        self.output.progress(Progress(key=key, phase=phase, done=done, total=total))

    def log(self, level: str, text: str, **fields: Any) -> None:
        """Emit a log line; ``level`` is debug, info, warning or error.

        The handler's own thread waits while the readers are behind, as with all output. Any
        other may be at work for several jobs, and waits for none: what has no room is left
        out, and the job says at its end how many lines that were.
        """
        if level not in _LEVELS:
            raise ValueError(f"{level!r} is no level: {', '.join(_LEVELS)} are")
        line = Log(level=level, text=text, time=time.time(), fields=fields)
        if self.on_log is not None:
            self.on_log(line)
        if self._thread in (None, threading.get_ident()):
            self.output.append(line)
        elif not self.output.offer(line):
            with self._mutex:
                self._lost_lines += 1

    def error(
        self,
        error: str | Exception,
        *,
        code: str = "error",
        status: Status = Status.ERROR,
        retryable: bool = False,
    ) -> Status:
        """Set what the end of the job will say, and return the status to return.

        >>> def handler(job): return job.error("the shelf is empty", code="empty")
        """
        if isinstance(error, str):
            made = EngineError(error, code=code, retryable=retryable)
            made.status = status
            error = made
        self._error = error
        return _status_of(error)

    def need(self, what: str, **details: Any) -> Any:
        """Ask the client for something that only it has, such as credentials, and wait for
        the answer. Raises `NeedError` where nobody can answer, `CancelledError` on cancel."""
        if self.supplier is None:
            raise NeedError(f"the job needs {what}, and its client cannot be asked for it")
        need = Need(what=what, details=details)
        self._enter(State.WAITING)
        self.output.append(need)
        try:
            return self.supplier(need)
        finally:
            self.check_cancelled()
            self._enter(State.RUNNING)

    # cancellation

    @property
    def cancelled(self) -> bool:
        """Whether the job should stop: a cancel, or its deadline."""
        return self._cancel_event.is_set()

    def check_cancelled(self) -> None:
        """Raise `CancelledError` or `DeadlineError` when the job should stop."""
        if self._cancel_error is not None:
            raise self._cancel_error

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Sleep, but no longer than until the cancel; whether it came."""
        return self._cancel_event.wait(timeout)

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` on cancel, from another thread (at once, on this one, if it has
        come already): to close a socket that the handler waits on, say. Returns a function
        that takes the callback back."""
        token = object()
        with self._mutex:
            if not self._cancel_event.is_set():
                self._callbacks[token] = callback
                return lambda: self._forget(token)
        callback()
        return lambda: None

    def cancel(self, error: EngineError | None = None) -> bool:
        """Ask the job to stop; ``error`` says why (default: `CancelledError`). Runs the
        callbacks on the calling thread. False where it was asked before or has ended."""
        with self._mutex:
            if self._cancel_event.is_set() or self._state.ended:
                return False
            self._cancel_error = error or CancelledError("the job was cancelled")
            self._cancel_event.set()
            callbacks = list(self._callbacks.values())
            if self._state is not State.QUEUED:
                self._change(State.CANCELLING)
        self.output.abort(self._cancel_error)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _log.exception("a cancel callback of job %s failed", self.name)
        return True

    # the run

    @property
    def state(self) -> State:
        return self._state

    @property
    def status(self) -> Status | None:
        """How the job ended; None before."""
        return self._status

    @property
    def end(self) -> End | None:
        """The end, with its message and counts; None before."""
        return self.output.ending

    def run(self) -> Status:
        """Run the handler on this thread, to its end. Never raises for what a handler does."""
        with self._mutex:
            if self.started is not None or self._state.ended:
                raise RuntimeError("a job runs once")
            self.started = time.time()
            self._thread = threading.get_ident()
            cancelled = self._cancel_error
            if cancelled is None:
                self._change(State.RUNNING)
        if cancelled is not None:
            return self.finish(cancelled)
        error: BaseException | None = None
        returned: Status | int | None = None
        try:
            returned = self._run_handler()
        except KeyboardInterrupt:
            self.finish(CancelledError("the job was interrupted"))
            raise
        except BaseException as raised:  # a sys.exit() of a handler ends its job, no more
            error = raised
        return self.finish(error, returned)

    def finish(
        self, error: BaseException | None = None, returned: Status | int | None = None
    ) -> Status:
        """Write the end. For who runs jobs; a handler returns or raises instead."""
        log = self.output
        lost = log.settle()
        error = error or self._error or lost
        if error is None and _status(returned) is Status.OK:
            error = self._say_columns()
        status = _status_of(error) if error is not None else _status(returned)
        if self._cancel_error is not None and (status is not Status.OK or self.started is None):
            error, status = self._cancel_error, _status_of(self._cancel_error)
        elif error is not None and not _speaks(error):
            _log.error("job %s failed", self.name, exc_info=error)
            error = EngineError(
                f"the handler of {self.name} failed ({type(error).__name__}); "
                "the log of the engine says where",
                code="internal",
            )
            status = error.status
        with self._mutex:
            if self._state.ended:
                raise RuntimeError("the end of a job is written once")
            self._state = _state_of(status)
            self._status = status
            self._callbacks.clear()
        if self._lost_lines:
            text = _LOST_LINES.format(self._lost_lines)
            log.append(Log(level="warning", text=text, time=time.time()), wait=False)
        log.end(
            End(
                state=self._state,
                status=int(status),
                code="" if status is Status.OK else str(getattr(error, "code", "error")),
                message="" if status is Status.OK or error is None else self._words(error),
                retryable=bool(getattr(error, "retryable", False)),
                rows=log.rows_emitted,
                bytes=log.bytes_emitted,
                attempt=self.attempt,
                created=self.created,
                started=self.started,
                ended=time.time(),
            )
        )
        return status

    def _say_columns(self) -> Exception | None:
        """Say what the rows would have been, where there were none; the error where these
        columns cannot be sent."""
        if self.output.columns is None and self.spec is not None and self.spec.columns:
            try:
                self.output.schema(self.spec.columns)
            except EngineError as error:
                return error
        return None

    def _words(self, error: BaseException) -> str:
        text = str(error)
        if self.spec is None or _status_of(error) is not Status.USAGE or "\nUsage: " in text:
            return text
        return f"{text}\nUsage: {self.spec.usage}"

    def _run_handler(self) -> Status | int | None:
        if self._handler is None:
            raise UnknownJobError(f"no such job: {self.name}")
        if self.spec is not None:
            validate(self.spec, self.args, self.env)
        with self._watch_deadline():
            return self._handler(self)

    @contextlib.contextmanager
    def _watch_deadline(self) -> Iterator[None]:
        """In the process, where no dispatcher watches it (a dispatcher gives an id)."""
        if self.deadline is None or self.id:
            yield
            return
        expired = DeadlineError("the deadline of the job has passed")
        timer = threading.Timer(
            max(0.0, self.deadline - time.monotonic()), self.cancel, args=(expired,)
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _need_schema(self) -> None:
        if self.output.columns is None:
            if self.spec is None or not self.spec.columns:
                raise ValueError(f"{self.name}: rows need a schema: job.schema(columns)")
            self.output.schema(self.spec.columns)

    def _enter(self, state: State) -> None:
        with self._mutex:
            if self._cancel_error is None:
                self._change(state)

    def _change(self, state: State) -> None:
        self._state = state
        self.output.append(StateChange(state=state, attempt=self.attempt))

    def _forget(self, token: object) -> None:
        with self._mutex:
            self._callbacks.pop(token, None)


class Stream:
    """What a job wrote to one of its streams, read after (or during) a run in the process."""

    def __init__(self, log: OutputLog, name: str) -> None:
        self._log = log
        self._name = name

    def text(self) -> str:
        """All text of the stream; standard error has the log lines and the error too."""
        parts = []
        for record in self._log.records():
            if isinstance(record, Text) and record.stream == self._name:
                parts.append(record.text)
            elif self._name == "stdout" and isinstance(record, Data):
                parts.append(record.data.decode("utf-8", "replace"))
            elif self._name == "stderr" and isinstance(record, Log):
                parts.append(f"{record.level}: {record.text}\n")
            elif self._name == "stderr" and isinstance(record, End) and record.message:
                parts.append(f"{record.message}\n")
        return "".join(parts)

    def data(self) -> bytes:
        """All bytes and text of the stream, text as UTF-8."""
        return b"".join(
            record.data if isinstance(record, Data) else record.text.encode()
            for record in self._log.records()
            if (isinstance(record, Data) and self._name == "stdout")
            or (isinstance(record, Text) and record.stream == self._name)
        )

    def table(self) -> Table:
        """The rows as a table; without columns where the job gave no schema."""
        records = self._log.records()
        columns = next((r.columns for r in records if isinstance(r, Schema)), ())
        rows = (row for record in records if isinstance(record, Rows) for row in record.rows)
        return Table(columns, rows)


def validate(spec: JobSpec, args: tuple[str, ...], env: Env) -> None:
    """Raise `UsageError` where arguments or environment do not fit the spec."""
    problem = spec.check_arguments(args)
    if problem is not None:
        raise UsageError(problem, usage=spec.usage)
    readers: dict[str, Callable[[str], object]] = {
        "integer": env.get_int,
        "float": env.get_float,
        "list": env.get_list,
        "json": env.get_json,
        "boolean": env.check_bool,
        "string": env.get,
    }
    for option in spec.options:
        try:
            readers[option.type](option.name)
        except EnvError as error:
            raise EnvError(error.key, error.problem, usage=spec.usage) from None


def _speaks(error: BaseException) -> bool:
    """Whether an error says its code, its status and whether to try again, in words."""
    try:
        str(error)
    except Exception:
        return False
    return all(hasattr(error, name) for name in ("code", "status", "retryable"))


def _status(returned: Status | int | None) -> Status:
    if returned is None:
        return Status.OK
    try:
        return Status(returned)
    except ValueError:
        return Status.ERROR


def _status_of(error: BaseException) -> Status:
    try:
        status = Status(int(getattr(error, "status", Status.ERROR)))
    except (TypeError, ValueError):
        return Status.ERROR
    return Status.ERROR if status is Status.OK else status


_STATES = {
    Status.OK: State.OK,
    Status.CANCELLED: State.CANCELLED,
    Status.DEADLINE: State.TIMED_OUT,
}


def _state_of(status: Status) -> State:
    return _STATES.get(status, State.FAILED)


def refused() -> ShuttingDownError:
    return ShuttingDownError("the engine is shutting down and takes no new jobs")
