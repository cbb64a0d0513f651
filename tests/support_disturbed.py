"""Jobs through a machine that disturbs them, to Debian's registry; and what is true after each."""

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
from hypothesis import HealthCheck, Phase, settings
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

__all__ = [
    "DATE",
    "LONGEST",
    "RETRY",
    "SETTINGS",
    "Bench",
    "Made",
    "attempt",
    "check_registry",
    "check_store",
    "disturbed",
    "few",
    "images",
    "plans",
    "within",
]

T = TypeVar("T")

SETTINGS = RegistrySettings(
    read_timeout=0.4, commit_timeout=2.0, retries=3, retry_wait_max=0.02, upload_chunk=200_000
)
RETRY = RetryPolicy(fruitless=4, failures=16, first=0.01, most=0.02, patience=0.02)
DATE = email.utils.formatdate(time.time() - 5, usegmt=True)
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
    def store(self, workers: int = 4) -> Iterator[Store]:
        place = self.place / f"store-{next(_numbers)}"
        try:
            with Store(place / "images", place / "ingest", workers=workers, retry=RETRY) as store:
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


@contextlib.contextmanager
def disturbed(place: Path) -> Iterator[Bench]:
    """Debian's registry in ``place``, and the machine before it, which lets pings through."""
    with (
        docker_registry(place / "registry") as host,
        faulty_proxy(host, lambda method, path: path != "/v2/") as proxy,
    ):
        made = Bench(place, host, proxy)
        try:
            yield made
        finally:
            made.close()


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


def few(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
    )
