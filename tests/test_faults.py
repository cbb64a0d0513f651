"""A machine that drops, stalls and corrupts, between us and Debian's registry.

Whatever it does, an image arrives with the right digests, or a clear error says why; the store
verifies clean; and the same job completes once the machine behaves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import faulthandler
import itertools
import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support_faults import Fault, FaultyProxy, Kind, faulty_proxy
from support_real import docker_registry

from registry_service.cancel import Cancellation
from registry_service.digest import Digest
from registry_service.endpoint import Endpoint
from registry_service.errors import RegistryError
from registry_service.manifest import OCI_MANIFEST
from registry_service.observe import Observer
from registry_service.operations.access import Access, Registries
from registry_service.operations.pull import pull
from registry_service.operations.push import push
from registry_service.operations.verify import verify
from registry_service.reference import Reference
from registry_service.session.session import Session
from registry_service.settings import RegistrySettings
from registry_service.store import Store
from registry_service.store.retry import RetryPolicy

T = TypeVar("T")

SETTINGS = RegistrySettings(
    read_timeout=0.4, commit_timeout=2.0, retries=3, retry_wait_max=0.02, upload_chunk=200_000
)
RETRY = RetryPolicy(fruitless=4, failures=16, first=0.01, most=0.02, patience=0.02)
LONGEST = 30.0  # seconds that one job may take, whatever happens
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An image: its manifest, and the blobs that this names, by digest."""

    manifest: bytes
    blobs: Mapping[Digest, bytes]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Made:
        """One of layers of these sizes: random bytes, the same for the same sizes."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "sizes": sizes}).encode()
        layers = [random.Random(size).randbytes(size) for size in sizes]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [
                    _descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)
                    for layer in layers
                ],
            }
        ).encode()
        return cls(manifest=manifest, blobs={Digest.of(data): data for data in (config, *layers)})


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


class Bench:
    """One real registry, the machine before it, and what a client does through it."""

    def __init__(self, place: Path, host: str, proxy: FaultyProxy) -> None:
        self.place = place
        self.host = host
        self.proxy = proxy
        self.endpoint = Endpoint.discover(host)
        self.direct = Session(None, None, self.endpoint)
        self._made: dict[str, Made] = {}

    def close(self) -> None:
        self.direct.close()
        self.endpoint.close()

    def image(self, sizes: Sequence[int]) -> tuple[str, Made]:
        """An image of layers of these sizes, and the repository that has it."""
        name = "-".join(["pull/of", *map(str, sizes)])
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Made.of(sizes)
            for digest, data in made.blobs.items():
                self.direct.put_v2_image_blob(name, "sha256", data, digest=digest)
            self.direct.put_v2_image_manifest(name, "1", made.manifest)
        return name, made

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        place = self.place / f"store-{next(_numbers)}"
        try:
            with Store(place / "images", place / "ingest", retry=RETRY) as store:
                yield store
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def pull(self, store: Store, name: str, host: str = "") -> None:
        reference = Reference.parse(f"{host or self.proxy.host}/{name}:1")
        cancel, observer = Cancellation(), Observer()
        with contextlib.closing(Registries(SETTINGS)) as registries:
            pull(
                reference,
                client=registries.reader(
                    reference.host, Access(), cancel=cancel, observer=observer
                ),
                store=store,
                platform="all",
                cancel=cancel,
                observer=observer,
            )

    def push(self, store: Store, name: str) -> None:
        reference = Reference.parse(f"{self.proxy.host}/{name}:1")
        with contextlib.closing(Registries(SETTINGS)) as registries:
            push(
                reference,
                connect=lambda cancel: registries.client(
                    reference.host, Access(), cancel=cancel, observer=Observer()
                ),
                store=store,
                platform="all",
                cancel=Cancellation(),
                observer=Observer(),
            )

    def fill(self, store: Store, made: Made, name: str) -> None:
        """The image is in the store by that name alone, so that nothing of it can be mounted."""
        for data in made.blobs.values():
            store.put(data, "application/octet-stream")
        store.tag(f"{self.proxy.host}/{name}:1", store.put(made.manifest, OCI_MANIFEST))


def attempt(work: Callable[[], object]) -> RegistryError | None:
    """None where it went well, within its time; else the error, which says something."""
    try:
        within(LONGEST, work)
    except RegistryError as error:
        assert str(error)
        assert error.code
        return error
    return None


def check_store(store: Store, made: Made, *, whole: bool) -> None:
    """The store verifies clean; ``whole``: the image is in it, byte for byte."""
    checked = list(verify(store, cancel=Cancellation(), observer=Observer()))
    assert {one.state for one in checked} <= {"ok", "unreferenced"}
    for path in (store.images / "blobs").glob("*/*"):
        assert str(Digest.of(path.read_bytes(), path.parent.name)).endswith(path.name)
    if whole:
        assert store.read(made.digest) == made.manifest
        for digest, data in made.blobs.items():
            with store.open(digest) as file:
                assert file.read() == data


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises; a failure with all stacks where it does not end."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        faulthandler.dump_traceback()
        pytest.fail(f"it hangs: {seconds} s are over")
    if failed:
        raise failed[0]
    return done[0]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("faults")
    with (
        docker_registry(place / "registry") as host,
        faulty_proxy(host, lambda method, path: path != "/v2/") as proxy,
    ):
        made = Bench(place, host, proxy)
        yield made
        made.close()


SIZES = (300_000, 20_000)
DATE = email.utils.formatdate(time.time() - 5, usegmt=True)

#: Every fault, some of them twice: what a client gets through without a word.
PASSING: list[list[Fault | None]] = [
    [Fault(kind=Kind.DROP_ANSWER)],  # of the manifest
    [Fault(kind=Kind.STALL_ANSWER)],
    [None, Fault(kind=Kind.DROP_ANSWER)],
    [None, Fault(kind=Kind.RESET_ANSWER), Fault(kind=Kind.RESET_ANSWER, at=0.0)],
    [None, Fault(kind=Kind.STALL_ANSWER, at=0.9)],
    [None, Fault(kind=Kind.CORRUPT_ANSWER), None, None],
    [None, Fault(kind=Kind.SHORT_ANSWER)],
    [None, Fault(kind=Kind.LOST_ANSWER), Fault(kind=Kind.LOST_ANSWER)],
    [Fault(kind=Kind.STATUS, code=500), Fault(kind=Kind.STATUS, code=503)],
    [Fault(kind=Kind.STATUS, code=429, retry_after="0")],
    [None, Fault(kind=Kind.STATUS, code=429, retry_after=DATE)],
    [None, Fault(kind=Kind.STATUS, code=502), Fault(kind=Kind.STATUS, code=504)],
    # the first drop makes the next request one for a range
    [None, *[Fault(kind=Kind.DROP_ANSWER)] * 3, *[Fault(kind=Kind.NO_RANGE)] * 3],
    [None, *[Fault(kind=Kind.DROP_ANSWER)] * 3, *[Fault(kind=Kind.WRONG_RANGE)] * 3],
]


@pytest.mark.parametrize("plan", PASSING, ids=lambda plan: "+".join(str(one) for one in plan))
def test_a_pull_gets_through(bench: Bench, plan: list[Fault | None]) -> None:
    name, made = bench.image(SIZES)
    with bench.store() as store:
        bench.proxy.plan(plan)
        assert attempt(lambda: bench.pull(store, name)) is None
        struck = [one.fault for one in bench.proxy.passed if one.fault is not None]
        assert len(struck) == len([one for one in plan if one is not None])
        check_store(store, made, whole=True)


@pytest.mark.parametrize(
    "plan",
    [
        [Fault(kind=Kind.STATUS, code=503)],
        [Fault(kind=Kind.STATUS, code=429, retry_after="0")],
        [None, Fault(kind=Kind.LOST_ANSWER), Fault(kind=Kind.LOST_ANSWER)],
        [*[None] * 4, Fault(kind=Kind.DROP_REQUEST), Fault(kind=Kind.DROP_REQUEST)],
        [*[None] * 4, Fault(kind=Kind.CORRUPT_REQUEST)],
        [*[None] * 6, Fault(kind=Kind.LOST_ANSWER), Fault(kind=Kind.STATUS, code=500)],
    ],
    ids=lambda plan: "+".join(str(one) for one in plan),
)
def test_a_push_gets_through(bench: Bench, plan: list[Fault | None]) -> None:
    made = Made.of(SIZES)
    target = f"push/{next(_numbers)}"
    with bench.store() as store:
        bench.fill(store, made, target)
        bench.proxy.plan(plan)
        assert attempt(lambda: bench.push(store, target)) is None
    check_registry(bench, target, made)


LATE = email.utils.formatdate(time.time() + 5000, usegmt=True)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([None, *[Fault(kind=Kind.DROP_ANSWER, at=0.0)] * 50], "connection ended"),
        ([None, *[Fault(kind=Kind.STALL_ANSWER, at=0.0)] * 50], "silent"),
        ([None, *[Fault(kind=Kind.CORRUPT_ANSWER)] * 50], "have the digest"),
        ([None, *[Fault(kind=Kind.SHORT_ANSWER)] * 50], "bytes, its descriptor says"),
        ([Fault(kind=Kind.CORRUPT_ANSWER)] * 50, "have the digest"),
        ([Fault(kind=Kind.STATUS, code=503)] * 50, "503"),
        ([None, *[Fault(kind=Kind.STATUS, code=500)] * 50], "500"),
        ([Fault(kind=Kind.STATUS, code=429, retry_after="5000")] * 50, "429"),
        ([None, *[Fault(kind=Kind.STATUS, code=429, retry_after=LATE)] * 50], "429"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(map(str, value[:2])),
)
def test_what_does_not_pass_is_said(bench: Bench, plan: list[Fault | None], words: str) -> None:
    name, made = bench.image(SIZES)
    with bench.store() as store:
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.pull(store, name))
        assert words in str(error)
        assert bench.proxy.host in str(error) or "sha256:" in str(error)
        check_store(store, made, whole=False)
        bench.proxy.plan([])
        assert attempt(lambda: bench.pull(store, name)) is None
        check_store(store, made, whole=True)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([Fault(kind=Kind.LOST_ANSWER)] * 50, "connection"),
        ([*[None] * 4, *[Fault(kind=Kind.DROP_REQUEST)] * 50], "connection"),
        ([*[None] * 4, *[Fault(kind=Kind.CORRUPT_REQUEST)] * 50], "digest"),
        ([*[None] * 4, *[Fault(kind=Kind.STATUS, code=502)] * 50], "502"),
        ([*[None] * 4, *[Fault(kind=Kind.STATUS, code=429, retry_after=LATE)] * 50], "429"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value[-1]),
)
def test_what_a_push_does_not_get_through_is_said(
    bench: Bench, plan: list[Fault | None], words: str
) -> None:
    made = Made.of(SIZES)
    target = f"push/{next(_numbers)}"
    with bench.store() as store:
        bench.fill(store, made, target)
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.push(store, target))
        assert words in str(error).lower()
        assert bench.proxy.host in str(error) or "sha256:" in str(error)
        bench.proxy.plan([])
        assert attempt(lambda: bench.push(store, target)) is None
    check_registry(bench, target, made)


def check_registry(bench: Bench, name: str, made: Made) -> None:
    """The registry has the image, byte for byte."""
    assert bytes(bench.direct.get_v2_image_manifest(name, "1")) == made.manifest
    for digest, data in made.blobs.items():
        with bench.direct.get_v2_image_blob_reader(name, digest.algorithm, digest.hex)[0] as blob:
            assert blob.read() == data


faults = st.builds(
    Fault,
    kind=st.sampled_from(Kind),
    at=st.sampled_from([0.0, 0.3, 0.999, 1.0]),
    code=st.sampled_from([401, 403, 404, 416, 429, 500, 502, 503, 504]),
    retry_after=st.sampled_from(["", "0", DATE, "never"]),
)
plans = st.lists(st.none() | faults, max_size=12)
images = st.lists(st.sampled_from([0, 1, 999, 30_000, 450_000]), max_size=3, unique=True)


def a_pull_under_faults(bench: Bench, sizes: list[int], plan: list[Fault | None]) -> None:
    name, made = bench.image(sizes)
    with bench.store() as store:
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.pull(store, name))
        check_store(store, made, whole=error is None)
        bench.proxy.plan([])
        assert attempt(lambda: bench.pull(store, name)) is None, f"after {error}"
        check_store(store, made, whole=True)


def a_push_under_faults(bench: Bench, sizes: list[int], plan: list[Fault | None]) -> None:
    made = Made.of(sizes)
    target = f"push/{next(_numbers)}"
    with bench.store() as store:
        bench.fill(store, made, target)
        bench.proxy.plan(plan)
        error = attempt(lambda: bench.push(store, target))
        if error is None:
            check_registry(bench, target, made)
        bench.proxy.plan([])
        assert attempt(lambda: bench.push(store, target)) is None, f"after {error}"
        check_store(store, made, whole=True)
    check_registry(bench, target, made)


def few(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
    )


@few(30)
@given(sizes=images, plan=plans)
def test_whatever_happens_a_pull_is_right_or_says_why(
    bench: Bench, sizes: list[int], plan: list[Fault | None]
) -> None:
    a_pull_under_faults(bench, sizes, plan)


@few(20)
@given(sizes=images, plan=plans)
def test_whatever_happens_a_push_is_right_or_says_why(
    bench: Bench, sizes: list[int], plan: list[Fault | None]
) -> None:
    a_push_under_faults(bench, sizes, plan)


@pytest.mark.soak
@few(600)
@given(sizes=images, plan=plans)
def test_of_hundreds_of_pulls_each_is_right_or_says_why(
    bench: Bench, sizes: list[int], plan: list[Fault | None]
) -> None:
    a_pull_under_faults(bench, sizes, plan)


@pytest.mark.soak
@few(600)
@given(sizes=images, plan=plans)
def test_of_hundreds_of_pushes_each_is_right_or_says_why(
    bench: Bench, sizes: list[int], plan: list[Fault | None]
) -> None:
    a_push_under_faults(bench, sizes, plan)
