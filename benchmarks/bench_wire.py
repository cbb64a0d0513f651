"""The wire against bare ZeroMQ: an empty job, and rows as they stream.

The engine runs in a process of its own with two jobs, `empty` and `rows N`; the bare sides are
a ROUTER and a DEALER that do the least that can be done.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import msgpack  # type: ignore[import-untyped]
import zmq
from common import RUNS, scratch

from engine import Argument, Column, ColumnType, Engine, Job, JobSpec
from engine.client import Client
from engine.dispatch import Dispatcher
from engine.executors import LocalExecutor
from engine.server import Server, ServerSettings
from engine.wire.codec import encode_record

PINGS = 3000
ROWS = 500_000
ROW = ("library/alpine", "A minimal image of a few megabytes", 10_000, True, False)
COLUMNS = (
    Column(name="name"),
    Column(name="description"),
    Column(name="star_count", type=ColumnType.INTEGER),
    Column(name="is_official", type=ColumnType.BOOLEAN),
    Column(name="is_trusted", type=ColumnType.BOOLEAN),
)

ROWS_SPEC = JobSpec(name="rows", columns=COLUMNS, arguments=(Argument(name="N"),))


def serve(endpoint: str, ready: Event, stop: Event) -> None:
    engine = Engine()

    def rows(job: Job) -> None:
        batch = [ROW] * 1000
        for _ in range(int(job.args[0]) // len(batch)):
            job.rows(batch)

    engine.register("empty", lambda job: None)
    engine.register("rows", rows, ROWS_SPEC)
    executor = LocalExecutor()
    dispatcher = Dispatcher(engine, executor, encode=encode_record)
    server = Server(engine, dispatcher, endpoints=[endpoint], settings=ServerSettings())
    server.start()
    ready.set()
    stop.wait()
    server.close()
    executor.shutdown(5)


def echo(endpoint: str, ready: Event, stop: Event) -> None:
    """A ROUTER that sends back what comes, and batches of rows where a number comes."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what is too much is dropped in silence
        socket.bind(endpoint)
        ready.set()
        while not stop.is_set():
            if not socket.poll(50):
                continue
            identity, body = socket.recv_multipart()
            if not body.isdigit():
                socket.send_multipart([identity, body])
                continue
            batch = [ROW] * 100
            for number in range(int(body) // 100):
                frames = [b"prefix", msgpack.packb({"seq": number}), msgpack.packb(batch)]
                socket.send_multipart([identity, *frames])


@contextlib.contextmanager
def process(target: object, endpoint: str) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    ready, stop = spawn.Event(), spawn.Event()
    child = spawn.Process(target=target, args=(endpoint, ready, stop))  # type: ignore[arg-type]
    child.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        stop.set()
        child.join(10)


def latencies(work: object) -> list[float]:
    times = []
    for _ in range(PINGS):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        times.append((time.perf_counter() - start) * 1e6)
    return sorted(times[PINGS // 10 :])


def raw_rows(socket: zmq.Socket[bytes]) -> float:
    start = time.perf_counter()
    socket.send(str(ROWS).encode())
    count = 0
    while count < ROWS:
        _, _, body = socket.recv_multipart()
        for _row in msgpack.unpackb(body):
            count += 1
    return ROWS / (time.perf_counter() - start)


def our_rows(client: Client) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in client.run("rows", str(ROWS)))
    assert count == ROWS
    return ROWS / (time.perf_counter() - start)


def main() -> None:
    with scratch() as root:
        ours, bare = f"ipc://{root}/ours.sock", f"ipc://{root}/bare.sock"
        with (
            process(serve, ours),
            process(echo, bare),
            Client(ours) as client,
            zmq.Context() as context,
            context.socket(zmq.DEALER) as socket,
        ):
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.connect(bare)
            measure(client, socket)


def measure(client: Client, socket: zmq.Socket[bytes]) -> None:
    def ping() -> None:
        socket.send(b"x")
        socket.recv()

    pairs = []
    for _ in range(RUNS):
        raw = latencies(ping)
        empty = latencies(lambda: client.run("empty").wait())
        pairs.append((raw, empty))
    medians = [(statistics.median(raw), statistics.median(empty)) for raw, empty in pairs]
    show(
        "empty job, client to end",
        raw_us=statistics.median(raw for raw, _ in medians),
        ours_us=statistics.median(empty for _, empty in medians),
        ours_p99_us=statistics.median(one[int(len(one) * 0.99)] for _, one in pairs),
        ratio=statistics.median(empty / raw for raw, empty in medians),
    )
    speeds = [(raw_rows(socket), our_rows(client)) for _ in range(RUNS)]
    show(
        "rows streamed, 100 a message",
        raw_per_second=statistics.median(raw for raw, _ in speeds),
        ours_per_second=statistics.median(own for _, own in speeds),
        ratio=statistics.median(own / raw for raw, own in speeds),
    )


def show(measure: str, **values: float) -> None:
    rounded = {name: round(value, 2) for name, value in values.items()}
    print(json.dumps({"measure": measure, "runs": RUNS, **rounded}), flush=True)


if __name__ == "__main__":
    main()
