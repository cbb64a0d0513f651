"""A server that trickles: given up, and gone on with from where it was."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scripted import Authority, Request, scripted
from support_hosts import HERE, HostBench, section
from support_service import Bench

from engine import State
from registry_service.errors import RegistryTimeoutError, SettingsError
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image
from registry_service.transport import Response, Transport

BLOB = random.Random(3).randbytes(400_000)
QUICK: dict[str, Any] = {"min_rate": 2000.0, "min_rate_seconds": 0.3}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "state", **QUICK)
    yield made
    made.engine.shutdown(grace=0)


def read(response: Response, pause: float = 0.0) -> bytes:
    parts = []
    buffer = memoryview(bytearray(40_000))
    while count := response.readinto(buffer):
        parts.append(bytes(buffer[:count]))
        if pause:
            threading.Event().wait(pause)
    return b"".join(parts)


def url_of(registry: Registry) -> str:
    digest = registry.put_blob("a/b", BLOB)
    return f"{registry.url}/v2/a/b/blobs/{digest}"


def test_a_trickle_is_given_up_in_words_that_say_how_slow_it_was(registry: Registry) -> None:
    registry.add_fault("slow:path=*/blobs/*,rate=300,after=50000")
    with (
        Transport(RegistrySettings.from_mapping(QUICK)) as transport,
        transport.request("GET", url_of(registry)) as response,
        pytest.raises(RegistryTimeoutError) as caught,
    ):
        read(response)
    assert caught.value.code == "too-slow"
    assert caught.value.retryable
    assert "bytes came in" in str(caught.value)
    assert "2000 a second are expected" in str(caught.value)
    assert response.count >= 50_000, "what came before counts"


def test_a_coded_body_is_measured_too() -> None:
    body = gzip.compress(BLOB, 0)

    def handler(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        with contextlib.suppress(OSError):  # the client leaves in the middle of it
            for place in range(0, 3000, 10):
                request.wfile.write(body[place : place + 10])
                threading.Event().wait(0.02)

    with (
        scripted(handler) as server,
        Transport(RegistrySettings.from_mapping(QUICK)) as transport,
        transport.request("GET", f"http://{server.host}/") as response,
        pytest.raises(RegistryTimeoutError, match="too slow"),
    ):
        read(response)


def test_a_server_that_thinks_before_it_answers_is_not_slow(registry: Registry) -> None:
    registry.add_fault("stall:path=*/blobs/*,seconds=0.7")
    with (
        Transport(RegistrySettings.from_mapping(QUICK)) as transport,
        transport.request("GET", url_of(registry)) as response,
    ):
        assert read(response) == BLOB


def test_a_pause_that_ends_is_not_slow_where_enough_comes_after_it(registry: Registry) -> None:
    registry.add_fault("stall:path=*/blobs/*,after=399990,seconds=0.7")
    with (
        Transport(RegistrySettings.from_mapping(QUICK)) as transport,
        transport.request("GET", url_of(registry)) as response,
    ):
        assert read(response) == BLOB, "what has arrived is no reason to give up"


def test_a_reader_that_is_slow_itself_is_not_taken_for_a_slow_server(registry: Registry) -> None:
    settings = RegistrySettings(min_rate=200_000, min_rate_seconds=0.2)
    with (
        Transport(settings) as transport,
        transport.request("GET", url_of(registry)) as response,
    ):
        assert read(response, pause=0.15) == BLOB  # 10 reads: some 270 KB a second in all


def test_our_own_limit_is_not_taken_for_a_slow_server(registry: Registry) -> None:
    limited = HostRules(limits=HostLimits(bytes_per_second=200_000))
    settings = RegistrySettings(
        min_rate=1e6, min_rate_seconds=0.1, hosts=HostTable(default=limited)
    )
    with (
        Transport(settings) as transport,
        transport.request("GET", url_of(registry)) as response,
    ):
        assert read(response) == BLOB


def test_without_a_floor_any_rate_will_do(registry: Registry) -> None:
    registry.add_fault("slow:path=*/blobs/*,rate=100,after=399900")
    settings = RegistrySettings(min_rate=0, min_rate_seconds=0.1)
    with (
        Transport(settings) as transport,
        transport.request("GET", url_of(registry)) as response,
    ):
        assert read(response) == BLOB


@pytest.mark.parametrize("key", ["min_rate", "min_rate_seconds"])
def test_a_floor_is_a_number_in_range(key: str) -> None:
    for wrong in (-1, "fast", True):
        with pytest.raises(SettingsError, match=key):
            RegistrySettings.from_mapping({key: wrong})


# through the service


def test_a_pull_goes_on_from_where_the_trickle_began(bench: Bench, registry: Registry) -> None:
    image = random_image(1, layers=1, layer_size=3_000_000, platform=HERE)
    push_image(registry, "a/b", "1", image)
    registry.clear_requests()
    layer = max(image.blobs, key=lambda digest: len(image.blobs[digest]))
    registry.add_fault(f"slow:path=*/blobs/{layer},rate=500,after=2000000,times=1")
    rows = bench.run("pull", f"{registry.host}/a/b:1")
    assert rows[-1]["digest"] == image.digest
    assert bench.broken() == []
    registry.wait_for(lambda log: all(one.done for one in log))
    asked = [one for one in registry.requests if layer in one.path]
    assert len(asked) == 2
    begin = int(asked[1].range.removeprefix("bytes=").partition("-")[0])
    assert 2_000_000 <= begin <= asked[0].sent, "what came does not travel again"


@pytest.mark.parametrize("job", ["pull", "copy"])
def test_a_source_that_trickles_after_each_large_part_is_gone_on_with(
    tmp_path: Path, registry: Registry, job: str
) -> None:
    image = random_image(1, layers=1, layer_size=9_000_000, platform=HERE)
    push_image(registry, "a/b", "1", image)
    layer = max(image.blobs, key=lambda digest: len(image.blobs[digest]))
    registry.add_fault(f"slow:path=*/blobs/{layer},rate=500,after=1500000")
    bench = Bench(tmp_path / "state", **QUICK, retries=4, retry_wait_max=0.1)
    with Registry() as target:
        names = [f"{registry.host}/a/b:1", f"{target.host}/a/b:1"]
        rows = bench.run(job, *names[: 2 if job == "copy" else 1])
    bench.engine.shutdown(grace=0)
    assert rows[-1]["digest"] == image.digest


@pytest.mark.parametrize("fault", ["stall", "drop"])
def test_what_came_before_an_interruption_does_not_travel_again(
    tmp_path: Path, registry: Registry, fault: str
) -> None:
    image = random_image(1, layers=1, layer_size=1_000_000, platform=HERE)
    push_image(registry, "a/b", "1", image)
    registry.clear_requests()
    layer = max(image.blobs, key=lambda digest: len(image.blobs[digest]))
    more = "seconds=60" if fault == "stall" else "reset=no"
    registry.add_fault(f"{fault}:path=*/blobs/{layer},after=700001,times=1,{more}")
    bench = Bench(tmp_path / "state", read_timeout=2.0)
    bench.run("pull", f"{registry.host}/a/b:1")
    bench.engine.shutdown(grace=0)
    assert bench.broken() == []
    asked = [one for one in registry.requests if layer in one.path]
    assert [one.range for one in asked] == ["", "bytes=700001-"]


@pytest.mark.parametrize("secure", [False, True])
def test_an_upload_that_is_taken_in_a_trickle_is_given_up(tmp_path: Path, secure: bool) -> None:
    over = threading.Event()

    def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
        client, _ = listener.accept()
        if secure:
            client = context.wrap_socket(client, server_side=True)
        with client, contextlib.suppress(OSError):
            while client.recv(200) and not over.wait(0.02):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        context = Authority(tmp_path).server_context(f"127.0.0.1:{listener.getsockname()[1]}")
        serving = pool.submit(serve, listener, context)
        url = f"{'https' if secure else 'http'}://127.0.0.1:{listener.getsockname()[1]}/"
        settings = RegistrySettings(
            read_timeout=0.5, connect_timeout=30.0, retries=0, certs_dirs=(tmp_path,)
        )
        with Transport(settings) as made:
            with pytest.raises(RegistryTimeoutError, match="silent for too long"):
                made.request("PUT", url, body=bytes(64_000_000))
            over.set()
        serving.result(30)


def test_a_registry_that_only_trickles_is_an_error_that_says_so(
    bench: Bench, registry: Registry
) -> None:
    image = random_image(1, layers=1, layer_size=300_000, platform=HERE)
    push_image(registry, "a/b", "1", image)
    registry.add_fault("slow:path=*/blobs/*,rate=300")
    job = bench.job("pull", f"{registry.host}/a/b:1")
    job.run()
    assert job.state is State.FAILED
    assert job.end is not None
    assert "too slow" in job.end.message
    assert job.end.retryable
    assert len([one for one in registry.requests if one.method == "GET"]) < 40


def test_a_mirror_that_trickles_makes_way_for_the_origin(
    tmp_path: Path, registry: Registry
) -> None:
    image = random_image(1, layers=2, layer_size=300_000, platform=HERE)
    with Registry() as mirror:
        for one in (registry, mirror):
            push_image(one, "a/b", "1", image)
        mirror.add_fault("slow:path=*/blobs/*,rate=300")
        rules = section(registry.host, mirrors=[mirror.host], origin="last")
        with HostBench(tmp_path, rules, **QUICK) as bench:
            rows = bench.run("pull", f"{registry.host}/a/b:1")
            assert rows[-1]["digest"] == image.digest
            assert bench.broken() == []
    assert {one.path.rpartition("/")[2] for one in registry.requests if "/blobs/" in one.path}
