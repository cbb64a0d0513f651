"""The session's V1 half at servers that fail, each method in each way."""

from __future__ import annotations

import itertools
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support_session_v1 import (
    BASE,
    CHAIN,
    OTHER,
    TOP,
    session,
)

from registry_service import (
    AlreadyExistsError,
    Cancellation,
    DoesNotExistError,
    ImgData,
    LoginRequiredError,
    RegistryError,
    RegistryHTTPError,
    RegistrySettings,
    Session,
)
from registry_service.errors import (
    CancelledError,
    ConnectionBrokenError,
    ProtocolError,
    RegistryTimeoutError,
)
from registry_service.testing.v1 import V1Registry, images


@pytest.fixture
def registry() -> Iterator[V1Registry]:
    """A registry with one repository, which stands alone."""
    with V1Registry() as started:
        images.push_chain(started, "test/app", ["1.0", "latest"], CHAIN)
        yield started


@pytest.fixture
def at(registry: V1Registry) -> Iterator[Session]:
    with session(registry.host) as made:
        yield made


def settings_for(fault: str) -> RegistrySettings:
    """One more try, and none and no long wait for a server that stalls."""
    seconds = 0.2 if fault.startswith("stall") else 60
    return RegistrySettings(
        retries=1 if seconds == 60 else 0,
        retry_wait_max=0.01,
        read_timeout=seconds,
        commit_timeout=seconds,
    )


def reading(made: Session, registry: V1Registry) -> dict[str, Callable[[], object]]:
    where = registry.endpoint
    return {
        "/images": lambda: made.get_repository_data("test/app"),
        "/tags": lambda: made.get_remote_tags([where], "test/app", None),
        "/ancestry": lambda: made.get_remote_history(TOP.id, where, None),
        "/json": lambda: made.get_remote_image_json(TOP.id, where, None),
    }


@pytest.mark.parametrize("path", ["/images", "/tags", "/ancestry", "/json"])
@pytest.mark.parametrize(
    "fault",
    ["drop:after=0", "drop:after=30", "status:code=500", "status:code=429"],
)
def test_what_is_asked_is_asked_again(
    at: Session, registry: V1Registry, path: str, fault: str
) -> None:
    ask = reading(at, registry)[path]
    before = ask()
    switch = registry.add_fault(f"{fault},path=*{path},times=2")
    after = ask()
    assert switch.hits == 2
    if path != "/images":  # which has a new token
        assert after == before


@pytest.mark.parametrize("path", ["/images", "/tags", "/ancestry", "/json"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("drop:after=0", ConnectionBrokenError),
        ("status:code=500", RegistryHTTPError),
        ("status:code=403", RegistryHTTPError),
        ("status:code=401", LoginRequiredError),
        ("stall:seconds=30", RegistryTimeoutError),
        ("corrupt:offset=0", ProtocolError),
        ("short:after=30", ProtocolError),
    ],
)
def test_what_does_not_get_better_is_an_error(
    registry: V1Registry, path: str, fault: str, error: type[RegistryError]
) -> None:
    with session(registry.host, settings=settings_for(fault)) as made:
        registry.add_fault(f"{fault},path=*{path}")
        with pytest.raises(error):
            reading(made, registry)[path]()


def test_a_layer_is_asked_for_again_unless_it_is_short_or_not_there(
    at: Session, registry: V1Registry
) -> None:
    size = len(TOP.layer)
    overloaded = registry.add_fault("status:code=503,path=*/layer,times=2")
    with at.get_remote_image_layer(TOP.id, registry.endpoint, None, size) as layer:
        assert layer.read() == TOP.layer
    assert overloaded.hits == 2
    for fault, error in (
        (f"short:after={size // 2}", ProtocolError),
        ("status:code=404", DoesNotExistError),
    ):
        registry.clear_faults()
        switch = registry.add_fault(f"{fault},path=*/layer")
        with pytest.raises(error):
            at.get_remote_image_layer(TOP.id, registry.endpoint, None, size)
        assert switch.hits == 1


@pytest.mark.parametrize("path", ["/json", "/layer", "/checksum", "/tags/1"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("drop:after=0", ConnectionBrokenError),
        ("status:code=500", RegistryHTTPError),
        ("status:code=403", RegistryHTTPError),
        ("status:code=401", LoginRequiredError),
        ("stall:seconds=30", RegistryTimeoutError),
    ],
)
def test_what_is_sent_in_vain_is_an_error(
    path: str, fault: str, error: type[RegistryError]
) -> None:
    with (
        V1Registry() as registry,
        session(registry.host) as before,
        session(registry.host, settings=settings_for(fault)) as made,
    ):
        image = ImgData(id=BASE.id, checksum=BASE.tarsum, checksum_payload=BASE.checksum)
        where = registry.endpoint
        steps: dict[str, Callable[[Session], object]] = {
            "/json": lambda by: by.push_image_json_registry(image, BASE.raw, where, None),
            "/layer": lambda by: by.push_image_layer_registry(
                BASE.id, BASE.layer, where, None, BASE.raw
            ),
            "/checksum": lambda by: by.push_image_checksum_registry(image, where, None),
            "/tags/1": lambda by: by.push_registry_tag("app", BASE.id, "1", where, None),
        }
        if path == "/checksum" and error is ConnectionBrokenError:
            error = AlreadyExistsError  # with the second try, whose no is not dropped
        registry.add_fault(f"{fault},path=*{path},method=PUT")
        for step in itertools.takewhile(lambda step: step != path, steps):
            steps[step](before)
        with pytest.raises(error):
            steps[path](made)


@contextmanager
def once_it_was_asked(registry: V1Registry, cancel: Cancellation) -> Iterator[None]:
    """Cancels once the registry was asked."""

    def wait() -> None:
        registry.wait_for(lambda seen: any(one.path.endswith("/ancestry") for one in seen), 30)
        cancel.cancel()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join(30)


def test_a_cancellation_ends_a_session_s_waits(registry: V1Registry) -> None:
    cancel = Cancellation()
    registry.add_fault("stall:seconds=60,after=10,path=*/ancestry")
    with (
        session(registry.host, cancel=cancel) as made,
        once_it_was_asked(registry, cancel),
        pytest.raises(CancelledError),
    ):
        made.get_remote_history(TOP.id, registry.endpoint, None)


def test_the_memory_of_a_session_is_bounded(registry: V1Registry) -> None:
    """What is read of a large layer is read piece by piece."""
    raw = json.dumps({"id": OTHER}).encode()
    size = 128 * 1024 * 1024
    registry.put_synthetic(raw, size)
    with session(registry.host) as made:
        tracemalloc.start()
        try:
            with made.get_remote_image_layer(OTHER, registry.endpoint, None, size) as layer:
                buffer = bytearray(256 * 1024)
                count = 0
                while more := layer.readinto(buffer):
                    count += more
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == size
    assert peak < 12 * 1024 * 1024
