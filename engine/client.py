"""The blocking client.

::

    with Client("ipc:///run/engine.sock") as client:
        for row in client.run("search", "alpine", env={"limit": 25}):
            print(row["name"], row["stars"])

A client may be used by many threads, and follow many jobs at a time; each `Run` is read by
one thread at a time. Its own thread ``engine-client`` owns the socket: it answers the
engine's pings, however busy the readers are, and puts what arrives into each run's mailbox,
which holds no more than the run's window. The thread ends with `close`.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeAlias

import zmq

from .endpoints import Endpoint
from .errors import ConnectionLostError, EngineError, LimitError
from .following import Callbacks, Credits, Event, Followed, Request, Row, Window, refusal, table_of
from .link import Link, connect
from .loop import Loop
from .records import Data, End, Log, Progress, Record, StateChange, Text
from .spec import Column
from .table import Table
from .wire.client_side import AcceptedEvent, Arrived, Draining, Failed, Progressed
from .wire.codec import check_submit, encode
from .wire.messages import Submit, Welcome

__all__ = ["Client", "Row", "Run"]

_Item: TypeAlias = "tuple[Record, int] | AcceptedEvent | EngineError | None"


class _Mailbox:
    """What has arrived for one run: put by the I/O thread, taken by the reader.

    Of progress only the newest of each key waits, apart from the rest; None in the queue
    stands where it belongs.
    """

    __slots__ = ("_mutex", "_progress", "queue")

    def __init__(self) -> None:
        self.queue: SimpleQueue[_Item] = SimpleQueue()
        self._mutex = threading.Lock()
        self._progress: dict[str, Progress] = {}

    def put_progress(self, items: tuple[Progress, ...]) -> None:
        with self._mutex:
            waiting = bool(self._progress)
            for item in items:
                self._progress[item.key] = item
            while len(self._progress) > _PROGRESS_KEYS:
                del self._progress[next(iter(self._progress))]
        if not waiting:
            self.queue.put(None)

    def take_progress(self) -> list[Progress]:
        with self._mutex:
            found, self._progress = self._progress, {}
        return list(found.values())


_PROGRESS_KEYS = 1024


class _Core:
    """What the I/O thread works on. The client's face holds it; it never holds the face."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.loop = Loop("engine-client", on_error=self._broken)
        self.link: Link | None = None
        self.mailboxes: dict[int, _Mailbox] = {}
        self.draining = False
        self.closed = False
        self._connecting = threading.Lock()
        self._closing = threading.Lock()

    # any thread

    def ensure(self) -> Link:
        """The link in use; a new one where there is none or it was lost."""
        with self._connecting:
            if self.closed:
                raise ConnectionLostError("the client is closed")
            link = self.link
            if link is not None and link.conn.open:
                return link
            made = connect(self.context, self.endpoint, self.timeout)
            self.link = made
            self.draining = False
            self.loop.call(self._adopt, made)
            return made

    def close(self) -> None:
        with self._closing:
            if self.closed:
                return
            self.closed = True
            with self._connecting:  # who connects now is done, or finds it closed
                pass
            self.loop.call(self._finish)
            self.loop.close(timeout=2.0)
            self.context.destroy(linger=1000)

    # the I/O thread

    def _adopt(self, link: Link) -> None:
        self.loop.add(link.socket, lambda: self._readable(link))
        self.loop.add(link.monitor, lambda: self._happened(link, link.disconnected()))
        self._readable(link)  # what came with the WELCOME
        self._tick(link)

    def _readable(self, link: Link) -> None:
        events, _ = link.receive()
        self._happened(link, events)

    def _tick(self, link: Link) -> None:
        if link is not self.link or not link.conn.open:
            return
        self._happened(link, link.tick())
        due = link.conn.due
        if due is not None:
            self.loop.at(max(due, time.monotonic() + 0.005), lambda: self._tick(link))

    def submit(
        self, link: Link, message: Submit, frames: Sequence[bytes], mailbox: _Mailbox
    ) -> None:
        if not link.conn.open:
            mailbox.queue.put(ConnectionLostError("the connection was lost"))
            return
        self.mailboxes[message.request] = mailbox
        link.submit(message, frames)
        self.flush(link)

    def consumed(self, link: Link, request: int, messages: int, size: int) -> None:
        link.conn.consumed(request, messages, size)
        self.flush(link)

    def cancel(self, link: Link, request: int, reason: str) -> None:
        if link.conn.open:
            link.conn.cancel(request, reason)
            self.flush(link)

    def detach(self, link: Link, request: int) -> None:
        self.mailboxes.pop(request, None)
        if link.conn.open:
            link.conn.detach(request)
            self.flush(link)

    def flush(self, link: Link) -> None:
        if link.conn.open and not link.flush():
            self.loop.at(time.monotonic() + 0.005, lambda: self.flush(link))

    def _happened(self, link: Link, events: list[Any]) -> None:
        for event in events:
            match event:
                case Arrived():
                    mailbox = self.mailboxes.get(event.request)
                    if mailbox is not None:
                        mailbox.queue.put((event.record, event.cost))
                        if type(event.record) is End:
                            del self.mailboxes[event.request]
                case Progressed():
                    mailbox = self.mailboxes.get(event.request)
                    if mailbox is not None:
                        mailbox.put_progress(event.items)
                case AcceptedEvent():
                    mailbox = self.mailboxes.get(event.request)
                    if mailbox is not None:
                        mailbox.queue.put(event)
                case Failed():
                    mailbox = self.mailboxes.pop(event.request, None)
                    if mailbox is not None:
                        mailbox.queue.put(event.error)
                case Draining():
                    self.draining = True
        if not link.conn.open:
            self._drop(link)

    def _drop(self, link: Link) -> None:
        if link.socket.closed:
            return
        self.loop.remove(link.socket)
        self.loop.remove(link.monitor)
        link.close()

    def _finish(self) -> None:
        link = self.link
        if link is not None and not link.socket.closed:
            self._drop(link)
        self._fail(ConnectionLostError("the client was closed"))

    def _broken(self, error: Exception) -> None:
        """A fault of this client's own: nobody may wait for what will not come."""
        lost = ConnectionLostError(f"the client failed: {error}")
        lost.__cause__ = error
        link = self.link
        if link is not None:
            link.conn.lost(lost)
            self._drop(link)
        self._fail(lost)

    def _fail(self, error: EngineError) -> None:
        mailboxes, self.mailboxes = self.mailboxes, {}
        for mailbox in mailboxes.values():
            mailbox.queue.put(error)


def _default_endpoint() -> str:
    from .paths import default_endpoint  # pathlib costs more than the rest of a start

    return default_endpoint(os.environ, os.getuid())


class Client:
    """A connection to an engine.

    ``endpoint`` is ``ipc://PATH`` or ``tcp://HOST:PORT``, by default the socket of this user's
    daemon. ``timeout`` bounds, in seconds, the connecting and the acceptance of a job.
    ``window`` is how much unread output of each job may be under way. A connection that was
    lost fails the runs that it had, and the next `run` makes a new one.

    Raises `UnreachableError` where no engine answers.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout: float = 5.0,
        window: Window | None = None,
    ) -> None:
        if timeout <= 0:
            raise ValueError("the timeout is above 0")
        self.endpoint = endpoint or _default_endpoint()
        self.window = window or Window()
        self._core = _Core(Endpoint.parse(self.endpoint), timeout)
        self._numbers = itertools.count(1)
        self._finalizer = weakref.finalize(self, self._core.close)
        try:
            self._core.ensure()
        except BaseException:
            self._core.close()
            raise
        self._core.loop.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; runs that are read fail with `ConnectionLostError`. Takes a
        few seconds at the most."""
        self._finalizer()

    @property
    def welcome(self) -> Welcome:
        """What the engine said of itself: version, epoch, features, limits, the principal."""
        link = self._core.link
        if link is None or link.conn.welcome is None:
            raise ConnectionLostError("the client is not connected")
        return link.conn.welcome

    @property
    def draining(self) -> bool:
        """Whether the engine has said that it shuts down."""
        return self._core.draining

    def run(
        self,
        job: str,
        *args: str,
        env: Mapping[str, Any] | None = None,
        key: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
        detach: bool = True,
        single_rows: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        on_log: Callable[[Log], None] | None = None,
        on_text: Callable[[Text], None] | None = None,
        on_state: Callable[[StateChange], None] | None = None,
    ) -> Run:
        """Submit a job; return when the engine has accepted it.

        Values of ``env`` may be lists, maps, numbers and booleans. ``key`` makes the submission
        idempotent, ``deadline`` is in seconds; without ``detach`` the job dies with this
        client. The callbacks are called on the thread that reads the run, while it reads.

        Raises `UnknownJobError`, `UsageError`, `NotAllowedError`, `ConflictError`,
        `LimitError` or `ShuttingDownError` as the engine answers, `ConnectionLostError`, or
        `UnreachableError`. A job whose acceptance did not come in time may run all the same:
        with a ``key`` it is safe to submit it again.
        """
        request = Request(
            name=job,
            args=args,
            env=env,
            key=key,
            deadline=deadline,
            priority=priority,
            detach=detach,
            single_rows=single_rows,
        )
        callbacks = Callbacks(
            on_progress=on_progress, on_log=on_log, on_text=on_text, on_state=on_state
        )
        message = request.message(next(self._numbers), self.window)
        link = self._core.ensure()
        frames = encode(message)
        check_submit(frames, link.conn.limits)
        run = Run(self._core, link, message.request, Followed(request, callbacks), self.window)
        run._submit(message, frames)
        return run


class Run:
    """A job that a client follows. Iterating it gives its rows.

    Every way of reading goes on from where the one before stopped. Iteration, `table` and
    `text` raise `JobFailedError` at the end of a job that ended otherwise than well; `wait`
    and `events` give the end instead. One that is left unread holds up its own job: `close`
    it (or use it as a context manager), and the job goes on.
    """

    def __init__(
        self, core: _Core, link: Link, number: int, followed: Followed, window: Window
    ) -> None:
        self._core = core
        self._link = link
        self._number = number
        self._followed = followed
        self._mailbox = _Mailbox()
        self._credits = Credits(window)
        self._owed = 0  # bytes of the record that is being read
        self._news: deque[Progress] = deque()
        self._error: EngineError | None = None
        self._closed = False
        self.id = ""
        self.existed = False

    def __repr__(self) -> str:
        state = "reading" if self.end is None else str(self.end.state)
        return f"<Run {self.id or '?'}: {self._followed.request.name}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # reading

    def __iter__(self) -> Iterator[Row]:
        followed = self._followed
        while True:
            yield from followed.rest
            record = self._next()
            if record is None:
                break
            followed.take(record)
        followed.check_end()

    def events(self) -> Iterator[Event]:
        """Everything the job emits: `Schema`, `Row`, `Text`, `Data`, `Log`, `Progress`,
        `StateChange`, `Need`, and at last its `End`."""
        while True:
            yield from self._followed.rest
            record = self._next()
            if record is None:
                return
            event = self._followed.take(record)
            if event is not None:
                yield event

    def table(self) -> Table:
        """The rows that are left, as a table."""
        rows = list(self)
        return table_of(self.columns, rows)

    def text(self) -> str:
        """What is left of the standard output, bytes in it read as UTF-8."""
        parts = [
            event.text.encode() if isinstance(event, Text) else event.data
            for event in self.events()
            if isinstance(event, Data) or (isinstance(event, Text) and event.stream == "stdout")
        ]
        self._followed.check_end()
        return b"".join(parts).decode("utf-8", "replace")

    def wait(self, timeout: float | None = None) -> End:
        """Read to the end, without keeping rows, and return it, however the job ended.

        Raises `TimeoutError` after ``timeout`` seconds; reading can go on then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._followed.drop()
        while (record := self._next(deadline)) is not None:
            self._followed.take(record)
            self._followed.drop()
        assert self.end is not None
        return self.end

    @property
    def end(self) -> End | None:
        """How the job ended, once that was read."""
        return self._followed.end

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the rows, once they were read."""
        return self._followed.columns

    # steering

    def cancel(self, reason: str = "") -> None:
        """Ask the engine to cancel the job; its end says whether that came in time."""
        if self.end is None:
            self._core.loop.call(self._core.cancel, self._link, self._number, reason)

    def close(self) -> None:
        """Follow the job no more; it goes on. Reading on raises `ConnectionLostError`."""
        if self._closed:
            return
        self._closed = True
        if self._followed.end is None:
            self._error = self._error or ConnectionLostError("the run was closed")
            self._core.loop.call(self._core.detach, self._link, self._number)

    # inner

    def _submit(self, message: Submit, frames: Sequence[bytes]) -> None:
        self._core.loop.call(self._core.submit, self._link, message, frames, self._mailbox)
        try:
            item = self._mailbox.queue.get(timeout=self._core.timeout)
        except Empty:
            self.cancel("its client did not wait")
            self.close()
            raise ConnectionLostError(
                f"the engine did not accept {message.name} within {self._core.timeout:g} s"
            ) from None
        except BaseException:  # an interrupt: nobody will follow what comes of it
            self.cancel("its client was interrupted")
            self.close()
            raise
        if isinstance(item, EngineError):
            self._closed = True
            self._error = item
            raise refusal(item)
        if not isinstance(item, AcceptedEvent):
            raise LimitError("output came before the acceptance")
        self.id = item.job
        self.existed = item.existed

    def _next(self, deadline: float | None = None) -> Record | Progress | None:
        """What comes next; None after the end. Coming back for more, the reader says that it
        has read what it had, and that is credited."""
        if self._owed:
            cost, self._owed = self._owed, 0
            grant = self._credits.use(cost)
            if grant is not None:
                core = self._core
                core.loop.call(core.consumed, self._link, self._number, *grant)
        while self._followed.end is None:
            if self._news:
                return self._news.popleft()
            if self._error is not None:
                raise self._error
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                item = self._mailbox.queue.get(timeout=left)
            except Empty:
                raise TimeoutError(f"job {self.id} has not ended yet") from None
            if isinstance(item, tuple):
                record, self._owed = item
                return record
            if item is None:
                self._news.extend(self._mailbox.take_progress())
            elif isinstance(item, EngineError):
                self._error = item
        return None
