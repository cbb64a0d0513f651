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
from registry_service.manifest import OCI_INDEX, OCI_MANIFEST
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
    "Bench",
    "Made",
    "attempt",
    "check_registry",
    "check_store",
    "disturbed",
    "few",
    "images",
    "plans",
]

T = TypeVar("T")

LONGEST = 30.0  # seconds that one job may take, whatever happens
#: Time limits that a stall reaches soon.
SETTINGS = RegistrySettings(
    ping_timeout=0.8,
    read_timeout=0.4,
    commit_timeout=2.0,
    retries=3,
    retry_wait_max=0.02,
    upload_chunk=200_000,
)
#: Those that nothing reaches, however busy the machine is.
PATIENT = dataclasses.replace(
    SETTINGS, ping_timeout=LONGEST, read_timeout=LONGEST, commit_timeout=LONGEST
)
RETRY = RetryPolicy(fruitless=4, failures=16, first=0.01, most=0.02, patience=0.02)
DATE = email.utils.formatdate(time.time() - 5, usegmt=True)
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An image: its manifest, and the blobs that this names, by digest; or an index, and its
    ``parts``. ``name`` says what it is of, and is the end of a repository's name."""

    name: str
    media_type: str
    manifest: bytes = dataclasses.field(repr=False)
    blobs: Mapping[Digest, bytes] = dataclasses.field(default_factory=dict, repr=False)
    parts: tuple[Made, ...] = ()

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    def walk(self) -> Iterator[Made]:
        """The parts, and then the whole."""
        yield from self.parts
        yield self

    @classmethod
    def of(cls, sizes: Sequence[int], platforms: int = 1) -> Made:
        """One of layers of these sizes: random bytes, the same for the same sizes. An index for
        more than one of the platforms, whose images have their layers in common."""
        name = "-".join(["of", str(platforms), *map(str, sizes)])
        architectures = ("amd64", "arm64", "s390x")[:platforms]
        parts = tuple(_image(name, sizes, one) for one in architectures)
        if len(parts) == 1:
            return parts[0]
        manifests = [
            {
                **_descriptor(OCI_MANIFEST, part.manifest),
                "platform": {"os": "linux", "architecture": architecture},
            }
            for part, architecture in zip(parts, architectures, strict=True)
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return cls(
            name=name, media_type=OCI_INDEX, manifest=json.dumps(document).encode(), parts=parts
        )


def _image(name: str, sizes: Sequence[int], architecture: str) -> Made:
    document = {"architecture": architecture, "os": "linux", "sizes": sizes}
    config = json.dumps(document).encode()
    layers = [random.Random(size).randbytes(size) for size in sizes]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [
            _descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer) for layer in layers
        ],
    }
    return Made(
        name=name,
        media_type=OCI_MANIFEST,
        manifest=json.dumps(manifest).encode(),
        blobs={Digest.of(data): data for data in (config, *layers)},
    )


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
        self._has: set[str] = set()

    def close(self) -> None:
        self.direct.close()
        self.endpoint.close()

    def image(self, made: Made) -> str:
        """The repository that has the image."""
        name = f"pull/{made.name}"
        if name not in self._has:
            self._has.add(name)
            for one in made.walk():
                for digest, data in one.blobs.items():
                    self.direct.put_v2_image_blob(name, "sha256", data, digest=digest)
                locator = "1" if one is made else str(one.digest)
                self.direct.put_v2_image_manifest(name, locator, one.manifest)
        return name

    @property
    def settings(self) -> RegistrySettings:
        return SETTINGS if self.proxy.stalls else PATIENT

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
        with contextlib.closing(Registries(self.settings)) as registries:
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
        with contextlib.closing(Registries(self.settings)) as registries:
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
        for one in made.walk():
            for data in one.blobs.values():
                store.put(data, "application/octet-stream")
            named = store.put(one.manifest, one.media_type)
        store.tag(f"{self.proxy.host}/{name}:1", named)


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
        for one in made.walk():
            assert store.read(one.digest) == one.manifest
            for digest, data in one.blobs.items():
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
def disturbed(place: Path, *, pings: bool = False) -> Iterator[Bench]:
    """Debian's registry in ``place``, and the machine before it, which lets pings through
    unless these are to suffer too."""
    with (
        docker_registry(place / "registry") as host,
        faulty_proxy(host, lambda method, path: pings or path != "/v2/") as proxy,
    ):
        made = Bench(place, host, proxy)
        try:
            yield made
        finally:
            made.close()


def check_registry(bench: Bench, name: str, made: Made) -> None:
    """The registry has the image, byte for byte."""
    session = bench.direct
    for one in made.walk():
        locator = "1" if one is made else str(one.digest)
        assert bytes(session.get_v2_image_manifest(name, locator)) == one.manifest
        for digest, data in one.blobs.items():
            with session.get_v2_image_blob_reader(name, digest.algorithm, digest.hex)[0] as blob:
                assert blob.read() == data


faults = st.builds(
    Fault,
    kind=st.sampled_from(Kind),
    at=st.sampled_from([0.0, 0.3, 0.999, 1.0]),
    code=st.sampled_from([401, 403, 404, 416, 429, 500, 502, 503, 504]),
    retry_after=st.sampled_from(["", "0", DATE, "never"]),
)
plans = st.lists(st.none() | faults, max_size=12)
sizes = st.lists(st.sampled_from([0, 1, 999, 30_000, 450_000]), max_size=3, unique=True)
images = st.builds(Made.of, sizes, st.sampled_from([1, 1, 2, 3]))


def few(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
    )
