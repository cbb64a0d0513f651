"""The asyncio client.

::

    async with AsyncClient("ipc:///run/engine.sock") as client:
        async for row in client.run("search", "alpine", env={"limit": 25}):
            print(row["name"], row["stars"])

Everything happens on the thread of the event loop, and the client belongs to that loop. The
socket is an ordinary one that is never waited on: the loop watches its descriptor, which
tells of a change once only, so that the socket is looked at again after whatever was done
with it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import zmq

from .endpoints import Endpoint, reach
from .errors import ConnectionLostError, EngineError, UnreachableError
from .following import Callbacks, Credits, Event, Followed, Request, Row, Window, refusal, table_of
from .link import Link, check
from .paths import default_endpoint
from .records import Data, End, Log, Progress, Record, StateChange, Text
from .spec import Column
from .table import Table
from .wire.client_side import AcceptedEvent, Arrived, Draining, Failed, Progressed
from .wire.codec import check_submit, encode
from .wire.messages import Submit, Welcome

__all__ = ["AsyncClient", "AsyncRun", "Row"]

_Item: TypeAlias = "tuple[Record | Progress, int] | AcceptedEvent | EngineError"
_PROGRESS_KEYS = 1024


class _Mailbox:
    """What has arrived for one run, and who waits for it. Of progress the newest of each key
    waits where the first of them stood."""

    __slots__ = ("_items", "_progress", "_waiter")

    def __init__(self) -> None:
        self._items: deque[_Item | None] = deque()
        self._progress: dict[str, Progress] = {}
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: _Item) -> None:
        self._items.append(item)
        self._wake()

    def put_progress(self, items: tuple[Progress, ...]) -> None:
        if not self._progress:
            self._items.append(None)
        for item in items:
            self._progress[item.key] = item
        while len(self._progress) > _PROGRESS_KEYS:
            del self._progress[next(iter(self._progress))]
        self._wake()

    async def get(self) -> _Item:
        while not self._items:
            if self._waiter is not None:
                raise RuntimeError("a run is read by one task at a time")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items[0]
        if item is not None:
            self._items.popleft()
            return item
        progress = self._progress.pop(next(iter(self._progress)))
        if not self._progress:
            self._items.popleft()
        return (progress, 0)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncClient:
    """A connection to an engine, for one event loop.

    Parameters as of `engine.client.Client`. It connects in ``async with``, or with `connect`.
    A connection that was lost fails its runs; `connect` makes a new one.
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
        self.endpoint = endpoint or default_endpoint(os.environ, os.getuid())
        self.window = window or Window()
        self.draining = False
        self._endpoint = Endpoint.parse(self.endpoint)
        self._timeout = timeout
        self._numbers = itertools.count(1)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._link: Link | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.Handle | None = None
        self._mailboxes: dict[int, _Mailbox] = {}

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def connect(self) -> None:
        """Connect, unless it is connected. Raises `UnreachableError`."""
        if self._link is not None and self._link.conn.open:
            return
        await self._let_go()
        self._loop = asyncio.get_running_loop()
        if self._endpoint.scheme == "ipc":
            reach(self._endpoint, self._timeout)
        else:
            await asyncio.to_thread(reach, self._endpoint, self._timeout)
        self._context = zmq.Context()
        link = self._link = Link(self._context, self._endpoint)
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(link.socket.fileno(), self._handshake, link, ready)
        self._loop.add_reader(link.monitor.fileno(), self._handshake, link, ready)
        try:
            link.conn.hello()
            self._handshake(link, ready)
            await asyncio.wait_for(ready, self._timeout)
        except TimeoutError:
            await self.aclose()
            raise UnreachableError(
                f"something listens at {self.endpoint}, and no engine answered within "
                f"{self._timeout:g} s; is engined running there?"
            ) from None
        except BaseException:
            await self.aclose()
            raise
        self.draining = False
        self._loop.add_reader(link.socket.fileno(), self._readable, link)
        self._loop.add_reader(link.monitor.fileno(), self._monitored, link)
        self._readable(link)
        self._tick(link)

    async def aclose(self) -> None:
        """Close the connection; runs that are read fail with `ConnectionLostError`."""
        await self._let_go()
        self._fail(ConnectionLostError("the client was closed"))

    @property
    def welcome(self) -> Welcome:
        """What the engine said of itself."""
        if self._link is None or self._link.conn.welcome is None:
            raise ConnectionLostError("the client is not connected")
        return self._link.conn.welcome

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
    ) -> AsyncRun:
        """Submit a job. Parameters as of `engine.client.Client.run`.

        The submission is sent at once. The engine's answer is waited for by the first
        reading, or by ``await run``, which raise what `Client.run` raises.
        """
        link = self._link
        if link is None or not link.conn.open:
            raise ConnectionLostError("the client is not connected: use async with, or connect()")
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
        frames = encode(message)
        check_submit(frames, link.conn.limits)
        mailbox = _Mailbox()
        run = AsyncRun(self, link, message, mailbox, Followed(request, callbacks))
        self._mailboxes[message.request] = mailbox
        link.submit(message, frames)
        self._flush(link)
        return run

    # the event loop's callbacks

    def _handshake(self, link: Link, ready: asyncio.Future[None]) -> None:
        if ready.done():
            return
        link.flush()
        try:
            if check(link.receive()[0] + link.disconnected(), self._endpoint):
                ready.set_result(None)
                return
        except EngineError as error:
            ready.set_exception(error)
            return
        if self._loop is not None and link.attention:
            self._loop.call_soon(self._handshake, link, ready)

    def _readable(self, link: Link) -> None:
        self._again = None
        if link.socket.closed:
            return
        events, more = link.receive()
        self._happened(link, events)
        if more:
            self._look_again(link)
        elif link.conn.open:
            self._flush(link)

    def _monitored(self, link: Link) -> None:
        if not link.socket.closed:
            self._happened(link, link.disconnected())

    def _flush(self, link: Link) -> None:
        """Send what there is to send, and look whether that was when something arrived."""
        if not link.conn.open or self._loop is None:
            return
        link.flush()
        if link.attention:
            self._look_again(link)

    def _look_again(self, link: Link) -> None:
        if self._again is None and self._loop is not None:
            self._again = self._loop.call_soon(self._readable, link)

    def _tick(self, link: Link) -> None:
        self._timer = None
        if not link.conn.open or self._loop is None:
            return
        self._happened(link, link.tick())
        due = link.conn.due
        if link.conn.open and due is not None:  # the loop's clock is time.monotonic too
            when = max(due, self._loop.time() + 0.005)
            self._timer = self._loop.call_at(when, self._tick, link)
            self._flush(link)

    def _happened(self, link: Link, events: list[Any]) -> None:
        for event in events:
            match event:
                case Arrived():
                    mailbox = self._mailboxes.get(event.request)
                    if mailbox is not None:
                        mailbox.put((event.record, event.cost))
                        if type(event.record) is End:
                            del self._mailboxes[event.request]
                case Progressed():
                    mailbox = self._mailboxes.get(event.request)
                    if mailbox is not None:
                        mailbox.put_progress(event.items)
                case AcceptedEvent():
                    mailbox = self._mailboxes.get(event.request)
                    if mailbox is not None:
                        mailbox.put(event)
                case Failed():
                    mailbox = self._mailboxes.pop(event.request, None)
                    if mailbox is not None:
                        mailbox.put(event.error)
                case Draining():
                    self.draining = True
        if not link.conn.open:
            self._drop(link)

    def _drop(self, link: Link) -> None:
        """Close a link's sockets, and watch them no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if link.socket.closed or self._loop is None:
            return
        self._loop.remove_reader(link.socket.fileno())
        self._loop.remove_reader(link.monitor.fileno())
        link.close()

    async def _let_go(self) -> None:
        link, self._link = self._link, None
        context, self._context = self._context, None
        if link is not None:
            self._drop(link)
        if context is not None:
            await asyncio.to_thread(context.term)  # waits for what was sent: a second at most

    def _fail(self, error: EngineError) -> None:
        mailboxes, self._mailboxes = self._mailboxes, {}
        for mailbox in mailboxes.values():
            mailbox.put(error)

    # for runs

    def _consumed(self, link: Link, request: int, messages: int, size: int) -> None:
        if link.conn.open:
            link.conn.consumed(request, messages, size)
            self._flush(link)

    def _cancel(self, link: Link, request: int, reason: str) -> None:
        if link.conn.open:
            link.conn.cancel(request, reason)
            self._flush(link)

    def _detach(self, link: Link, request: int) -> None:
        self._mailboxes.pop(request, None)
        if link.conn.open:
            link.conn.detach(request)
            self._flush(link)


class AsyncRun:
    """A job that an asyncio client follows; as `engine.client.Run`, with ``async for`` and
    ``await``. Awaiting the run itself waits until the engine has accepted it."""

    def __init__(
        self,
        client: AsyncClient,
        link: Link,
        message: Submit,
        mailbox: _Mailbox,
        followed: Followed,
    ) -> None:
        self._client = client
        self._link = link
        self._number = message.request
        self._mailbox = mailbox
        self._followed = followed
        self._credits = Credits(client.window)
        self._owed = 0
        self._accept_until = asyncio.get_running_loop().time() + client._timeout
        self._error: EngineError | None = None
        self._closed = False
        self.id = ""
        self.existed = False

    def __repr__(self) -> str:
        state = "reading" if self.end is None else str(self.end.state)
        return f"<AsyncRun {self.id or '?'}: {self._followed.request.name}, {state}>"

    def __await__(self) -> Generator[Any, None, Self]:
        return self.accepted().__await__()

    async def __aenter__(self) -> Self:
        return await self.accepted()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        loop = self._client._loop
        if not self._closed and self.end is None and loop is not None and not loop.is_closed():
            client, link, number = self._client, self._link, self._number
            loop.call_soon_threadsafe(client._detach, link, number)

    async def accepted(self) -> Self:
        """Wait until the engine has accepted the job. Raises what it was refused with."""
        while not self.id:
            if self._error is not None:
                raise self._error
            try:
                async with asyncio.timeout_at(self._accept_until):
                    item = await self._mailbox.get()
            except TimeoutError:
                self.cancel("its client did not wait")
                self.close()
                self._error = ConnectionLostError(
                    f"the engine did not accept {self._followed.request.name} within "
                    f"{self._client._timeout:g} s"
                )
                raise self._error from None
            if isinstance(item, AcceptedEvent):
                self.id, self.existed = item.job, item.existed
            elif isinstance(item, EngineError):
                self._error = refusal(item)
        return self

    # reading

    async def __aiter__(self) -> AsyncIterator[Row]:
        followed = self._followed
        while True:
            for row in followed.rest:
                yield row
            record = await self._next()
            if record is None:
                break
            followed.take(record)
        followed.check_end()

    async def events(self) -> AsyncIterator[Event]:
        """Everything the job emits, and at last its `End`."""
        while True:
            for row in self._followed.rest:
                yield row
            record = await self._next()
            if record is None:
                return
            event = self._followed.take(record)
            if event is not None:
                yield event

    async def table(self) -> Table:
        """The rows that are left, as a table."""
        rows = [row async for row in self]
        return table_of(self.columns, rows)

    async def text(self) -> str:
        """What is left of the standard output, bytes in it read as UTF-8."""
        parts = [
            event.text.encode() if isinstance(event, Text) else event.data
            async for event in self.events()
            if isinstance(event, Data) or (isinstance(event, Text) and event.stream == "stdout")
        ]
        self._followed.check_end()
        return b"".join(parts).decode("utf-8", "replace")

    async def wait(self) -> End:
        """Read to the end, without keeping rows, and return it, however the job ended."""
        self._followed.drop()
        while (record := await self._next()) is not None:
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
            self._client._cancel(self._link, self._number, reason)

    def close(self) -> None:
        """Follow the job no more; it goes on. Reading on raises `ConnectionLostError`."""
        if self._closed:
            return
        self._closed = True
        if self.end is None:
            self._error = self._error or ConnectionLostError("the run was closed")
            self._client._detach(self._link, self._number)

    async def _next(self) -> Record | Progress | None:
        """What comes next; None after the end. What was read before is credited."""
        if self._owed:
            cost, self._owed = self._owed, 0
            grant = self._credits.use(cost)
            if grant is not None:
                self._client._consumed(self._link, self._number, *grant)
        if not self.id:
            await self.accepted()
        if self.end is not None:
            return None
        if self._error is not None:
            raise self._error
        item = await self._mailbox.get()
        if isinstance(item, EngineError):
            self._error = item
            raise item
        if isinstance(item, AcceptedEvent):  # never twice
            return await self._next()
        record, self._owed = item
        return record
