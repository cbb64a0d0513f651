"""What the commands of one invocation share: the connection, and how results are shown."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from ..errors import CancelledError, ConnectionLostError, EngineError
from ..status import Status

if TYPE_CHECKING:
    from ..client import Client, Run
    from ..records import End

__all__ = ["FORMATS", "Session", "SubmitOptions"]

FORMATS = ("table", "json", "csv")

_CANCEL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """How a job is submitted: the options that every job command has. ``deadline`` is in
    seconds; ``detach`` prints the job's id and does not follow it."""

    detach: bool = False
    key: str | None = None
    deadline: float | None = None
    priority: int = 0


class Session:
    """One invocation of ``enginectl``: ``endpoint`` is where the engine is (empty: the
    default), ``output`` one of table, json and csv. With ``verbose`` remarks are shown, and
    log lines of every level. ``hints`` are lines for a person, each for an error code, that
    are shown when a job ends with it."""

    def __init__(
        self,
        *,
        endpoint: str,
        output: str,
        environ: Mapping[str, str],
        out: IO[str] | None = None,
        err: IO[str] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.output = output
        self.out = sys.stdout if out is None else out
        self.err = sys.stderr if err is None else err
        self.verbose = False
        self.environ = environ
        self.hints: dict[str, str] = {}
        self._client: Client | None = None

    def client(self, timeout: float = 5.0) -> Client:
        """The connection, made when it is first needed. Raises `UnreachableError`."""
        if self._client is None:
            from ..client import Client  # zmq is for those who connect

            self._client = Client(self.endpoint or self._default_endpoint(), timeout=timeout)
        return self._client

    def _default_endpoint(self) -> str:
        from ..paths import default_endpoint

        return default_endpoint(self.environ, os.getuid())

    def say(self, text: str) -> None:
        """A line for a person, on standard error."""
        from .errors import complain

        complain(text, self.err)

    def remark(self, text: str) -> None:
        """A line for a person who asked for more."""
        if self.verbose:
            self.say(text)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def rows(self, job: str, *args: str) -> list[Mapping[str, Any]]:
        """The rows of a query, each by its columns' names. Raises what the job ended with."""
        return [row.to_dict() for row in self.client().run(job, *args)]

    def submit(
        self,
        job: str,
        args: tuple[str, ...] = (),
        env: Mapping[str, Any] | None = None,
        options: SubmitOptions | None = None,
        *,
        out: IO[str] | None = None,
    ) -> int:
        """Submit a job, show what it emits, and return its status as an exit status.

        ``out`` gets what the job writes, as it is, whatever format was asked for: for a job
        whose output is one file. It cannot be detached from then: half of it is nothing.

        On a terminal SIGINT asks whether to cancel or to detach; elsewhere it cancels.
        Raises what the engine answers to the submission, and `ConnectionLostError`.
        """
        options = options or SubmitOptions()
        run = self.client().run(
            job,
            *args,
            env=env,
            key=options.key,
            deadline=options.deadline,
            priority=options.priority,
        )
        if options.detach:
            run.close()
            self.out.write(f"{run.id}\n")
            self.out.flush()
            return Status.OK
        try:
            return self._follow(run, out)
        except KeyboardInterrupt:  # signals are not waited for yet
            self._give_up(run, "the job was cancelled by its client")
            raise CancelledError("the job was cancelled by its client") from None
        except OSError:
            self._give_up(run, "its output cannot be written")
            raise

    def _give_up(self, run: Run, reason: str) -> None:
        run.cancel(reason)
        with contextlib.suppress(TimeoutError, EngineError):
            run.wait(_CANCEL_SECONDS)  # a connection that closes may overtake its cancel

    def _follow(self, run: Run, out: IO[str] | None) -> int:
        from .interrupts import Interrupts
        from .presenter import Presenter

        gc.enable()  # see `main`: a job may go on for long
        output = self.output if out is None else "table"
        presenter = Presenter(output, out=out or self.out, err=self.err, verbose=self.verbose)
        following = _Following(run, self.client())
        ask = sys.stdin is not None and sys.stdin.isatty() and self.err.isatty() and out is None
        try:
            with Interrupts(following, ask=ask, still=presenter.paused) as interrupts:
                try:
                    for event in run.events():
                        presenter.take(event)
                except ConnectionLostError:
                    if interrupts.detached:
                        presenter.close()
                        self.err.write(f"enginectl: job {run.id} goes on\n")
                        return Status.OK
                    if interrupts.cancelled:
                        raise CancelledError(
                            "the job was cancelled; its end has not come yet"
                        ) from None
                    raise
        finally:
            presenter.close()
        return self._status(run.end)

    def _status(self, end: End | None) -> int:
        assert end is not None  # the iteration ended
        if end.status != Status.OK:
            self.say(end.message or f"the job ended as {end.state}")
            if hint := self.hints.get(end.code):
                self.say(hint)
        return end.status if 0 <= end.status <= 255 else Status.ERROR


class _Following:
    """A run as the signals act on it."""

    def __init__(self, run: Run, client: Client) -> None:
        self._run = run
        self._client = client

    def cancel(self) -> None:
        self._run.cancel("the job was cancelled by its client")

    def leave(self) -> None:
        self._client.close()  # who reads the run hears of it at once; the job goes on
