"""SIGHUP and registries.toml: what holds from then on, and for whom."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support_daemon import running_daemon
from support_hosts import HERE, HostBench, section, told
from support_store import make_store

from engine import Status
from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import CancelledError, SettingsError
from registry_service.hostrules import HostLimits, HostRules, HostTable
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.service.call import Shared
from registry_service.service.generations import Generations
from registry_service.session.source import RegistrySource
from registry_service.session.v2 import V2Client
from registry_service.testing import Registry
from registry_service.testing.images import Image, push_image, random_image
from registry_service.transport import Transport

NOWHERE = "origin.example"


@pytest.fixture
def one() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def two() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def fill(registry: Registry, number: int = 1) -> Image:
    image = random_image(number, layers=3, layer_size=200_000, platform=HERE)
    push_image(registry, "app", str(number), image)
    registry.clear_requests()
    return image


def only(mirror: Registry) -> str:
    return section(NOWHERE, mirrors=[mirror.host], origin="never")


def until(condition: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        pause.wait(0.01)


# in the process


def test_a_running_job_keeps_the_configuration_with_which_it_began(
    tmp_path: Path, one: Registry, two: Registry
) -> None:
    fill(one)
    fill(two, 2)
    with HostBench(tmp_path, only(one)) as bench, ThreadPoolExecutor(1) as pool:
        job = bench.job("pull", f"{NOWHERE}/app:1")
        with one.hold(path="/blobs/", after=1000) as hold:
            running = pool.submit(job.run)
            assert hold.entered.wait(30)
            (tmp_path / "registries.toml").write_text(only(two))
            assert bench.engine.reload() == [("registry", None)]
            bench.run("pull", f"{NOWHERE}/app:2")
            assert not running.done()
            seen = len(two.requests)
        assert running.result(60) is Status.OK, told(job)
        assert len(two.requests) == seen  # nothing of the first went there
        assert not bench.broken()
        assert bench.names == [f"{NOWHERE}/app:1", f"{NOWHERE}/app:2"]


def test_a_transfer_outlives_the_configuration_of_its_first_taker(
    tmp_path: Path, one: Registry
) -> None:
    content = fill(one).layers[0]
    layer = Descriptor(
        media_type="application/octet-stream", digest=Digest.of(content), size=len(content)
    )
    with make_store(tmp_path) as store:
        generations = Generations(Shared(registries=Registries(), store=store))
        first, second = Cancellation(), Cancellation()
        with one.hold(path="/blobs/", after=1000) as hold, generations.use() as before:
            leaving = store.ensure(layer, source(before, one), cancel=first)
            assert hold.entered.wait(30)
            generations.renew(HostTable(default=HostRules(limits=HostLimits(concurrent=1))))
            with generations.use() as after:
                assert after is not before
                assert after.store is before.store
                staying = store.ensure(layer, source(after, one), cancel=second)
            first.cancel()
            with pytest.raises(CancelledError):
                leaving.wait()
            # the job of before has ended, and with it what it had
        assert staying.wait() == "fetched"
        assert len([got for got in one.requests if "/blobs/" in got.path]) == 1
        generations.close()


def source(shared: Shared, registry: Registry) -> RegistrySource:
    client = shared.registries.client(
        registry.host, Access(), cancel=Cancellation(), observer=Observer()
    )
    assert isinstance(client, V2Client)
    return RegistrySource(client, "app")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("[default]\nnope = 1\n", r"registries\.toml: default\.nope: no such key"),
        ("[default", r"registries\.toml: .*not TOML"),
        ("[default]\nproxy = 'http://u:hunter2@'\n", r"registries\.toml: default\.proxy: no URL"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(
    tmp_path: Path, one: Registry, rules: str, words: str
) -> None:
    fill(one)
    with HostBench(tmp_path, only(one)) as bench:
        (tmp_path / "registries.toml").write_text(rules)
        ((name, problem),) = bench.engine.reload()
        assert name == "registry"
        with pytest.raises(SettingsError, match=words):
            raise problem or AssertionError("it was taken")
        assert "hunter2" not in str(problem)
        bench.run("pull", f"{NOWHERE}/app:1")


def test_what_is_the_same_as_before_keeps_the_connections(tmp_path: Path, one: Registry) -> None:
    fill(one)
    with HostBench(tmp_path, only(one)) as bench:
        bench.run("pull", f"{NOWHERE}/app:1")
        one.clear_requests()
        (tmp_path / "registries.toml").write_text(f"# a remark\n{only(one)}")
        assert bench.engine.reload() == [("registry", None)]
        bench.run("pull", f"{NOWHERE}/app:1")
        assert "/v2/" not in [request.path for request in one.requests]  # where it is, is known


def test_what_registries_have_shown_is_still_known(tmp_path: Path, one: Registry) -> None:
    fill(one)
    with HostBench(tmp_path, only(one)) as bench:
        bench.run("pull", f"{NOWHERE}/app:1")
        before = bench.run("registries")
        (tmp_path / "registries.toml").write_text("")
        bench.engine.reload()
        assert bench.run("registries") == before != []


def test_a_file_that_is_gone_is_an_empty_one(tmp_path: Path, one: Registry, two: Registry) -> None:
    fill(one)
    with HostBench(tmp_path, section(one.host, mirrors=[two.host], origin="never")) as bench:
        assert "app" in bench.fail("pull", f"{one.host}/app:1")
        (tmp_path / "registries.toml").unlink()
        assert bench.engine.reload() == [("registry", None)]
        bench.run("pull", f"{one.host}/app:1")


# connections


def test_a_transport_that_is_retired_ends_nothing_and_keeps_nothing() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    begun, go_on = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> bytes:
        client, _ = listener.accept()
        with client:
            client.settimeout(30)
            client.recv(4096)
            client.sendall(answer + b"ab")
            begun.set()
            assert go_on.wait(30)
            client.sendall(b"cd")
            return client.recv(1)

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as pool,
        Transport() as transport,
    ):
        serving = pool.submit(serve, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with transport.request("GET", url) as response:
            assert begun.wait(30)
            transport.retire()
            go_on.set()
            assert response.read(100) == b"abcd"
        del response  # urllib3 closes a connection with the last who knows of its pool
        assert serving.result(30) == b""  # closed, with what was under way


# the daemon


def test_engined_reloads_the_file_on_sighup(tmp_path: Path, one: Registry, two: Registry) -> None:
    fill(one)
    fill(two, 2)
    config = tmp_path / "conf" / "engined.toml"
    config.parent.mkdir()
    config.write_text("")
    rules = config.with_name("registries.toml")
    rules.write_text(only(one))
    with running_daemon(tmp_path / "state", config=config) as daemon:
        daemon.ctl("pull", f"{NOWHERE}/app:1")

        rules.write_text("[default]\nnope = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "was not reloaded, the old one stays" in daemon.log())
        (line,) = (line for line in daemon.log().splitlines() if "was not reloaded" in line)
        assert '"level": "error"' in line
        assert '"service": "registry"' in line
        assert f"{rules}: default.nope: no such key" in line
        assert "Traceback" not in daemon.log()
        daemon.ctl("pull", f"{NOWHERE}/app:1")  # the mirror of before

        rules.write_text(only(two))
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "the service's configuration was reloaded" in daemon.log())
        daemon.ctl("pull", f"{NOWHERE}/app:2")
        assert daemon.run_ctl("pull", f"{NOWHERE}/app:1").returncode == 1


def test_an_error_in_one_file_does_not_keep_the_other_from_being_reloaded(
    tmp_path: Path, one: Registry
) -> None:
    fill(one)
    config = tmp_path / "engined.toml"
    config.write_text("")
    with running_daemon(tmp_path / "state", config=config) as daemon:
        config.write_text("[log]\nlevel = 'loud'\n")
        config.with_name("registries.toml").write_text(only(one))
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "the service's configuration was reloaded" in daemon.log())
        assert "'loud' is none of" in daemon.log()
        daemon.ctl("pull", f"{NOWHERE}/app:1")
