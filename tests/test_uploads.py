"""Uploads that are broken off and gone on with, in the parts that a registry takes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Request, scripted
from support_daemon import running_daemon
from support_server import until

from registry_service.auth import Authenticator
from registry_service.cancel import Cancellation
from registry_service.capabilities import CapabilityTable
from registry_service.constants import APIVersion
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import CancelledError, RegistryHTTPError
from registry_service.ledger import DiskLedger, Ledger, MemoryLedger, UploadKey
from registry_service.session.chunks import Parts, received, smaller
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image
from registry_service.testing.requestlog import LoggedRequest
from registry_service.transport import Transport

MIB = 1024 * 1024
BLOB = random.Random(1).randbytes(5 * MIB + 17)
DIGEST = Digest.of(BLOB)
LAYER = Descriptor(media_type="application/octet-stream", digest=DIGEST, size=len(BLOB))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def sender() -> Iterator[Callable[..., V2Client]]:
    """Makes clients whose waits take no time."""
    transports = []

    def made(host: str, *, chunk: int = MIB, retries: int = 2, **options: Any) -> V2Client:
        transport = Transport(
            RegistrySettings(retries=retries, upload_chunk=chunk, retry_wait_max=0.01),
            sleep=lambda seconds, cancel: None,
            dice=lambda: 0.0,
        )
        transports.append(transport)
        endpoint = Endpoint(url=f"http://{host}/", version=APIVersion.V2, transport=transport)
        return V2Client(endpoint, transport, Authenticator(endpoint, transport), **options)

    yield made
    for transport in transports:
        transport.close()


def put(client: V2Client, data: bytes = BLOB, **options: Any) -> Digest:
    descriptor = Descriptor(media_type="a/b", digest=Digest.of(data), size=len(data))
    return client.put_blob("team/app", descriptor, lambda: io.BytesIO(data), **options)


def sent(registry: Registry) -> int:
    """The bytes of blobs that reached the registry."""
    return sum(one.received for one in registry.requests if one.method in ("PATCH", "PUT"))


# decisions


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.integers(1, 10**7))
def test_parts_cover_what_is_left(offset: int, left: int, wanted: int) -> None:
    length = Parts(wanted=wanted).next(offset, offset + left)
    assert 1 <= length <= min(left, wanted)


def test_a_registry_bounds_the_parts() -> None:
    assert Parts(wanted=100, most=10).size == 10
    assert Parts(wanted=100, least=500, most=10).size == 500
    assert Parts(wanted=100).size == 100


@pytest.mark.parametrize(
    ("header", "count"),
    [("0-0", 0), ("0-9", 10), ("bytes=0-9", 10), ("bytes 0-9", 10), ("", 7), (None, 7), ("x", 7)],
)
def test_what_a_registry_has(header: str | None, count: int) -> None:
    assert received(header, 7) == count


def test_smaller_parts_come_to_an_end() -> None:
    tried = []
    size: int | None = 256 * MIB
    while size is not None:
        tried.append(size)
        size = smaller(size)
    assert tried == [256 * MIB, 64 * MIB, 16 * MIB, 4 * MIB, MIB]


# parts


def test_a_large_blob_goes_in_parts(registry: Registry, sender: Callable[..., V2Client]) -> None:
    told: list[int] = []
    put(sender(registry.host), progress=lambda key, phase, done, total: told.append(done))
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    methods = [one.method for one in registry.requests]
    assert methods == ["POST", *["PATCH"] * 6, "PUT"]
    assert told == sorted(told)
    assert told[-1] == len(BLOB)
    assert sent(registry) == len(BLOB)
    assert registry.open_uploads == 0


def test_a_blob_of_one_part_goes_whole(registry: Registry, sender: Callable[..., V2Client]) -> None:
    put(sender(registry.host, chunk=len(BLOB)))
    assert [one.method for one in registry.requests] == ["POST", "PUT"]


@pytest.mark.parametrize(
    "fault",
    [
        "drop:after=300000,method=PATCH,skip=2,times=1",
        "status:code=503,method=PATCH,skip=3,times=1",
        "lost-answer:method=PATCH,skip=1,times=1",
        "lost-answer:method=PATCH,skip=1,times=2",
    ],
)
def test_a_part_that_failed_costs_at_most_itself(
    registry: Registry, sender: Callable[..., V2Client], fault: str
) -> None:
    registry.add_fault(fault)
    put(sender(registry.host))
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    assert sum(one.method == "POST" for one in registry.requests) == 1
    assert sent(registry) <= len(BLOB) + MIB


def test_the_last_request_that_is_broken_off_is_gone_on_with(
    registry: Registry, sender: Callable[..., V2Client]
) -> None:
    """The registry kept what came of the body; that does not travel again."""
    registry.add_fault("drop:after=3000000,method=PUT,times=1")
    put(sender(registry.host, chunk=len(BLOB)))
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    assert sum(one.method == "POST" for one in registry.requests) == 1
    assert sent(registry) == len(BLOB)


def test_failures_that_gain_something_do_not_end_an_upload(
    registry: Registry, sender: Callable[..., V2Client]
) -> None:
    registry.add_fault("drop:after=500000,method=PATCH,times=5")
    put(sender(registry.host, retries=1))
    assert registry.blob("team/app", str(DIGEST)) == BLOB


def test_an_upload_that_the_registry_lost_is_begun_anew(
    registry: Registry, sender: Callable[..., V2Client]
) -> None:
    registry.add_fault("drop:after=300000,method=PATCH,skip=2,times=1")
    registry.add_fault("status:code=404,method=GET,path=*/uploads/*,times=1")
    put(sender(registry.host))
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    assert sum(one.method == "POST" for one in registry.requests) == 2


def limited(limit: int, code: int) -> Callable[[Request], None]:
    """A registry that takes no body of over ``limit`` bytes."""
    state: dict[str, bytes] = {"data": b""}

    def handler(request: Request) -> None:
        body = request.read_body()
        place = {"Location": "/up?s=1"}
        if request.command == "POST":
            state["data"] = b""
            request.answer(202, headers=place)
        elif len(body) > limit:
            request.answer(code)
        elif request.command == "GET":
            last = max(len(state["data"]) - 1, 0)
            request.answer(204, headers={**place, "Range": f"0-{last}"})
        else:
            state["data"] += body
            status = 202 if request.command == "PATCH" else 201
            headers = {**place, "Range": f"0-{len(state['data']) - 1}"}
            if status == 201:
                headers["Docker-Content-Digest"] = str(Digest.of(state["data"]))
            request.answer(status, headers=headers)

    return handler


@pytest.mark.parametrize("code", [413, 416])
def test_parts_shrink_to_what_a_registry_takes_and_it_is_remembered(
    sender: Callable[..., V2Client], code: int
) -> None:
    known = CapabilityTable()
    with scripted(limited(4 * MIB, code)) as server:
        put(sender(server.host, chunk=5 * MIB, capabilities=known))
        assert known.of(server.host).chunk_limit == 4 * MIB
        before = len(server.requests)
        put(sender(server.host, chunk=5 * MIB, capabilities=known))
        refused = server.requests[before:]
    assert [method for method, _, _ in refused] == ["POST", "PATCH", "PATCH", "PUT"]


def test_a_registry_that_takes_nothing_is_an_error(sender: Callable[..., V2Client]) -> None:
    with scripted(limited(1000, 413)) as server, pytest.raises(RegistryHTTPError, match="413"):
        put(sender(server.host, chunk=5 * MIB))


def test_the_least_part_that_a_registry_asks_for(sender: Callable[..., V2Client]) -> None:
    sizes: list[int] = []

    def handler(request: Request) -> None:
        body = request.read_body()
        if request.command == "PATCH":
            sizes.append(len(body))
            done = sum(sizes)
            request.answer(202, headers={"Location": "/up", "Range": f"0-{done - 1}"})
        elif request.command == "POST":
            headers = {"Location": "/up", "OCI-Chunk-Min-Length": str(2 * MIB)}
            request.answer(202, headers=headers)
        else:
            request.answer(201)

    with scripted(handler) as server:
        put(sender(server.host))
    assert sizes == [2 * MIB, 2 * MIB, MIB + 17]


@pytest.mark.parametrize("status", [405, 404, 201])
def test_a_registry_that_knows_no_parts_gets_the_whole(
    sender: Callable[..., V2Client], status: int
) -> None:
    bodies: list[bytes] = []

    def handler(request: Request) -> None:
        body = request.read_body()
        if request.command == "PATCH":
            request.answer(status)
        elif request.command == "POST":
            request.answer(202, headers={"Location": "/up"})
        elif request.command == "GET":
            request.answer(404)
        else:
            bodies.append(body)
            request.answer(201)

    known = CapabilityTable()
    with scripted(handler) as server:
        put(sender(server.host, capabilities=known))
        put(sender(server.host, capabilities=known))
    assert bodies == [BLOB, BLOB]
    assert sum(method == "PATCH" for method, _, _ in server.requests) == 1


# what outlives the client


def test_a_cancelled_upload_is_gone_on_with_by_the_next_client(
    registry: Registry, sender: Callable[..., V2Client]
) -> None:
    ledger = MemoryLedger()
    cancel = Cancellation()

    def stop(key: str, phase: str, done: int, total: int, /) -> None:
        if done > 3 * MIB:
            cancel.cancel()

    with (
        sender(registry.host, ledger=ledger, cancel=cancel) as first,
        pytest.raises(CancelledError),
    ):
        put(first, progress=stop)
    assert registry.open_uploads == 1
    # A registry that still takes in the fourth part would tell less than it will have. A request
    # is in the log when its answer begins, or when it was broken off.
    registry.wait_for(lambda log: parts(log) == 4 and all(one.done for one in log))
    assert sent(registry) >= 3 * MIB
    with sender(registry.host, ledger=ledger) as second:
        put(second)
    assert registry.blob("team/app", str(DIGEST)) == BLOB
    assert registry.open_uploads == 0
    registry.wait_for(lambda log: all(one.done for one in log))
    assert sent(registry) == len(BLOB)
    again = UploadKey(
        registry=f"http://{registry.host}/", repository="team/app", digest=str(DIGEST)
    )
    assert ledger.recall(again) is None


def test_two_that_send_the_same_blob_do_not_share_an_upload(
    registry: Registry, sender: Callable[..., V2Client]
) -> None:
    ledger = MemoryLedger()
    inner: list[Digest] = []

    def other(key: str, phase: str, done: int, total: int, /) -> None:
        if done > 2 * MIB and not inner:
            inner.append(put(sender(registry.host, ledger=ledger)))

    put(sender(registry.host, ledger=ledger), progress=other)
    assert inner == [DIGEST]
    assert sum(one.method == "POST" for one in registry.requests) == 2
    assert registry.open_uploads == 0


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_a_ledger_keeps(kind: str, tmp_path: Path) -> None:
    ledger: Ledger = MemoryLedger() if kind == "memory" else DiskLedger(tmp_path / "uploads")
    key = UploadKey(registry="http://h/", repository="a/b", digest="sha256:x")
    other = UploadKey(registry="http://h/", repository="a/c", digest="sha256:x")
    assert ledger.recall(key) is None
    assert ledger.claim(key)
    assert not ledger.claim(key)
    assert ledger.claim(other)
    ledger.note(key, "http://h/up?1")
    ledger.note(key, "http://h/up?2")
    ledger.release(key)
    assert ledger.claim(key)
    assert ledger.recall(key) == "http://h/up?2"
    assert ledger.recall(other) is None
    if kind == "disk":
        assert DiskLedger(tmp_path / "uploads").recall(key) == "http://h/up?2"
        (path,) = (tmp_path / "uploads").iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_text("{")
        assert DiskLedger(tmp_path / "uploads").recall(key) is None
    ledger.drop(key)
    assert ledger.recall(key) is None


def test_a_ledger_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = DiskLedger(tmp_path / "file" / "uploads")
    key = UploadKey(registry="http://h/", repository="a/b", digest="sha256:x")
    ledger.note(key, "http://h/up")
    assert ledger.recall(key) == "http://h/up"
    ledger.drop(key)


# through the daemon


def killed_push(registry: Registry, tmp_path: Path, moments: int) -> None:
    """Push an image whose daemon is killed in the middle of a part, again and again; what the
    registry got never travels twice."""
    image = random_image(7, layers=3, layer_size=(moments + 1) * MIB)
    config = tmp_path / "engined.toml"
    config.write_text("[service.registry]\nupload_chunk = 500000\nretries = 2\n")
    state, target = tmp_path / "state", f"{registry.host}/other/app:1"
    with Registry() as source, running_daemon(state, config=config) as daemon:
        push_image(source, "test/base", "1", image)
        daemon.ctl("pull", f"{source.host}/test/base:1", "--platform", "all")
        daemon.ctl("tag", f"{source.host}/test/base:1", target)
    registry.add_fault("slow:rate=10000000,method=PATCH")
    for number in range(1, moments + 1):
        with running_daemon(state, config=config) as daemon:
            with daemon.start_ctl("push", target) as client:
                until(lambda number=number, log=daemon.log: pushes(log()) == number)  # type: ignore[misc]
                before = parts(registry.requests)
                registry.wait_for(lambda log, before=before: parts(log) > before)  # type: ignore[misc]
                daemon.process.kill()
                _, stderr = client.communicate(timeout=20)
                assert client.returncode == 75, stderr
            daemon.process.wait(10)
        registry.wait_for(lambda log: all(one.done for one in log))
    with running_daemon(state, config=config) as daemon:
        daemon.ctl("push", target)
    stored = registry.manifest("other/app", "1")
    assert stored is not None
    assert stored.raw == image.manifest
    for digest, data in image.blobs.items():
        assert registry.blob("other/app", digest) == data
    registry.wait_for(lambda log: all(one.done for one in log))
    assert parts(registry.requests) >= moments
    assert sent(registry) == sum(map(len, [*image.blobs.values(), image.manifest]))
    # Of an upload that was opened just when the daemon was killed nobody knows; it has nothing.
    assert not any(registry.upload_sizes)


def pushes(log: str) -> int:
    return sum('"accepted"' in line and '"push"' in line for line in log.splitlines())


def parts(log: Sequence[LoggedRequest]) -> int:
    return sum(one.method == "PATCH" for one in log)


def test_a_push_whose_daemon_is_killed_goes_on(registry: Registry, tmp_path: Path) -> None:
    killed_push(registry, tmp_path, 3)


@pytest.mark.soak
def test_a_push_whose_daemon_is_killed_at_twenty_moments(
    registry: Registry, tmp_path: Path
) -> None:
    killed_push(registry, tmp_path, 20)


def test_what_is_known_of_registries_is_shown(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "test/base", "1", random_image(1))
    with running_daemon(tmp_path / "state") as daemon:
        assert daemon.ctl_json("registries") == []
        daemon.ctl("pull", f"{registry.host}/test/base:1", "--platform", "all")
        (row,) = daemon.ctl_json("registries")
    assert row["host"] == registry.host
    assert (row["api"], row["scheme"], row["auth"]) == ("v2", "http", "none")
    assert row["chunk_limit"] is None
    assert row["seen"] > 0
