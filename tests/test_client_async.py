"""The asyncio client against a real server."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support_server import COLUMNS, Daemon, directory, serving

from engine import State
from engine.aio import AsyncClient
from engine.errors import (
    ConnectionLostError,
    EngineError,
    JobFailedError,
    LimitError,
    UnknownJobError,
    UnreachableError,
    UsageError,
)
from engine.following import Window
from engine.records import End, Log, Progress, StateChange
from engine.server import ServerSettings


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with serving() as one:
        yield one


def go(
    daemon: Daemon, work: Callable[[AsyncClient], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """Run ``work`` with a connected client, to its end."""

    async def main() -> None:
        async with AsyncClient(daemon.endpoint, **options) as client:
            await asyncio.wait_for(work(client), 30)

    asyncio.run(main())


async def started(daemon: Daemon) -> None:
    while not daemon.started.is_set():
        await asyncio.sleep(0.005)


def test_rows_tables_and_text(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        run = client.run("rows", env={"count": 250})
        rows = [row async for row in run]
        assert rows == [("row", number) for number in range(250)]
        assert rows[7]["number"] == 7
        assert run.columns == COLUMNS
        assert run.end is not None
        assert run.end.rows == 250
        assert len(await client.run("rows", env={"count": 5}).table()) == 5
        assert await client.run("greet", "you").text() == "hello you\n"

    go(daemon, work)


def test_events_and_callbacks(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        logs: list[Log] = []
        run = client.run("mixed", on_log=logs.append)
        seen = [event async for event in run.events()]
        assert [line.text for line in logs] == ["careful"]
        assert isinstance(seen[-1], End)
        told = [event for event in seen if isinstance(event, Progress)]
        assert told[-1] == Progress(key="layer", phase="fetch", done=10, total=10)
        progress: list[Progress] = []
        await client.run("progress", on_progress=progress.append).wait()
        assert {item.key: item.done for item in progress} == {"a": 999, "b": 999}

    go(daemon, work)


def test_reading_goes_on_where_it_stopped(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        run = client.run("rows", env={"count": 250})
        async for row in run:
            if row["number"] == 149:
                break
        assert len(await run.table()) == 100

    go(daemon, work)


@pytest.mark.parametrize("window", [Window(messages=1), Window(bytes=1)])
def test_a_small_window_gives_the_same(daemon: Daemon, window: Window) -> None:
    async def work(client: AsyncClient) -> None:
        assert len(await client.run("rows", env={"count": 5000}).table()) == 5000

    go(daemon, work, window=window)


def test_refusals_are_raised_by_awaiting_or_reading(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        with pytest.raises(UnknownJobError):
            await client.run("nothing")
        with pytest.raises(UsageError, match="Usage: usage"):
            async for _ in client.run("usage", "x"):
                pass
        with pytest.raises(LimitError):
            client.run("greet", "x" * (2 << 20))
        with pytest.raises(JobFailedError, match="shelf"):
            await client.run("fail").table()
        assert (await client.run("fail").wait()).code == "empty-shelf"

    go(daemon, work)


def test_awaiting_a_run_gives_its_id(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        run = await client.run("empty", key="k")
        assert run.id
        assert not run.existed
        await run.wait()
        again = await client.run("empty", key="k")
        assert (again.id, again.existed) == (run.id, True)

    go(daemon, work)


def test_cancel(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        states: list[StateChange] = []
        run = client.run("stuck", on_state=states.append)
        await started(daemon)
        run.cancel("enough")
        end = await run.wait()
        assert (end.status, end.message) == (130, "enough")
        assert [one.state for one in states] == [State.RUNNING, State.CANCELLING]
        early = client.run("stuck")
        early.cancel()  # before it was accepted
        assert (await early.wait()).status == 130

    go(daemon, work)


def test_many_runs_at_once(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        tables = await asyncio.gather(
            *(client.run("rows", env={"count": 300 + n}).table() for n in range(40))
        )
        assert [len(table) for table in tables] == [300 + n for n in range(40)]

    go(daemon, work)


def test_a_slow_reader_holds_up_nobody_else(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        slow = client.run("flood")
        async for _ in slow:
            break
        (task,) = daemon.dispatcher.tasks()
        while task.log.held <= 4 * 1024 * 1024:
            await asyncio.sleep(0.005)
        assert len(await client.run("rows", env={"count": 20_000}).table()) == 20_000
        slow.cancel()
        assert (await slow.wait()).status == 130

    go(daemon, work)


def test_a_run_that_is_closed_leaves_the_job_alone(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        async with client.run("gated") as run:
            await started(daemon)
        with pytest.raises(ConnectionLostError):
            await run.wait()
        (task,) = daemon.dispatcher.tasks()
        daemon.gate.set()
        assert await asyncio.to_thread(task.log.wait, 5)
        assert task.state is State.OK

    go(daemon, work)


def test_a_run_that_nobody_holds_holds_up_nobody(daemon: Daemon) -> None:
    async def work(client: AsyncClient) -> None:
        async for _ in client.run("flood"):
            break
        gc.collect()
        before = daemon.emitted
        while daemon.emitted < before + 20_000:
            await asyncio.sleep(0.005)

    go(daemon, work)


def test_an_engine_that_is_not_there() -> None:
    async def main() -> None:
        with pytest.raises(UnreachableError, match="is engined running"):
            async with AsyncClient("ipc:///nonexistent/engine.sock"):
                pass
        with pytest.raises(ConnectionLostError, match="not connected"):
            AsyncClient("ipc:///nonexistent/engine.sock").run("empty")
        with directory() as place, socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(place / "mute.sock"))
            mute.listen()
            with pytest.raises(UnreachableError, match="no engine answered"):
                await AsyncClient(f"ipc://{place}/mute.sock", timeout=0.1).connect()

    asyncio.run(main())


def test_an_engine_that_refuses_the_session() -> None:
    async def main(endpoint: str) -> None:
        async with AsyncClient(endpoint):
            with pytest.raises(EngineError, match="no more are allowed"):
                await AsyncClient(endpoint).connect()

    with serving(ServerSettings(sessions=1)) as daemon:
        asyncio.run(main(daemon.endpoint))


def test_an_engine_that_stops_loses_the_run_and_connect_makes_a_new_one() -> None:
    async def main() -> None:
        with directory() as place:
            first = Daemon(place)
            first.start()
            async with AsyncClient(first.endpoint) as client:
                run = await client.run("stuck")
                await asyncio.to_thread(first.server.close)
                with pytest.raises(ConnectionLostError, match="closed the connection"):
                    await run.wait()
                with pytest.raises(ConnectionLostError):
                    client.run("empty")
                await asyncio.to_thread(first.stop)
                second = Daemon(place)
                second.start()
                await client.connect()
                await client.connect()
                assert (await client.run("empty").wait()).status == 0
                assert client.welcome.epoch
            await asyncio.to_thread(second.stop)

    asyncio.run(main())


def test_closing_fails_what_is_being_read(daemon: Daemon) -> None:
    async def main() -> None:
        client = AsyncClient(daemon.endpoint)
        await client.connect()
        run = client.run("gated")
        reading = asyncio.create_task(run.wait())
        await started(daemon)
        await client.aclose()
        with pytest.raises(ConnectionLostError, match="closed"):
            await reading
        await client.aclose()
        with pytest.raises(ConnectionLostError):
            _ = client.welcome

    asyncio.run(main())


def test_signs_of_life_and_their_absence() -> None:
    with serving(ServerSettings(heartbeat=0.05)) as quick:

        async def work(client: AsyncClient) -> None:
            run = client.run("gated")
            await asyncio.sleep(0.5)  # ten heartbeats with nothing to do
            quick.gate.set()
            assert (await run.wait()).status == 0

        go(quick, work)


def test_tcp(daemon: Daemon) -> None:
    async def main(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            assert await client.run("greet", "tcp").text() == "hello tcp\n"

    with serving(ServerSettings(open_tcp=True), endpoints=("tcp://127.0.0.1:0",)) as other:
        asyncio.run(main(other.server.endpoints[0]))


def test_an_engine_that_does_not_accept_in_time() -> None:
    """One whose handlers of messages hang, as a stopped process does."""

    async def main(endpoint: str, stop: Callable[[], object], go: Callable[[], object]) -> None:
        async with AsyncClient(endpoint, timeout=0.3) as client:
            await client.run("empty").wait()
            stop()
            run = client.run("empty")
            with pytest.raises(ConnectionLostError, match="did not accept empty within"):
                await run.wait()
            with pytest.raises(ConnectionLostError):
                await run.accepted()
            go()

    with serving() as daemon:
        held, entered = threading.Event(), threading.Event()

        def hang() -> None:
            entered.set()
            held.wait(20)

        def stop() -> None:
            daemon.server.call(hang)
            assert entered.wait(10)

        try:
            asyncio.run(main(daemon.endpoint, stop, held.set))
        finally:
            held.set()
