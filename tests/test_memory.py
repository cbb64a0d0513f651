"""The daemon's memory does not grow with what it moves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_daemon import Daemon, running_daemon

from registry_service.platform import Platform
from registry_service.testing import Registry
from registry_service.testing.images import push_image, push_synthetic_image, random_image

MIB = 1024 * 1024
GIB = 1024 * MIB
HERE = str(Platform.here())
#: Bytes that a large blob may cost above an image of many small layers.
ALLOWED = 64 * MIB
SECONDS = 1800.0  # that one job may take


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is gone at the end, whatever happens: what is in it is large."""
    made = tempfile.mkdtemp(prefix="memory-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made)


def job(daemon: Daemon, *args: str) -> None:
    result = daemon.run_ctl(*args, timeout=SECONDS)
    assert result.returncode == 0, result.stderr


def moved_flat(place: Path, size: int) -> dict[str, int]:
    """Pull a blob of so many bytes, and push it; the peaks of the daemon's memory, in bytes."""
    free = shutil.disk_usage(place).free
    if free < 2 * size + GIB:
        pytest.skip(f"two blobs of {size} bytes need more than the {free} that are free in {place}")
    peaks = {}
    with (
        Registry() as source,
        Registry(place / "target") as target,
        running_daemon(place / "state") as daemon,
    ):
        small = random_image(1, layers=60, layer_size=8192, platform=HERE)
        push_image(source, "test/small", "1", small)
        large = push_synthetic_image(source, "test/large", "1", [size], platform=HERE)
        here, there = f"{source.host}/test/large:1", f"{target.host}/test/large:1"
        job(daemon, "pull", f"{source.host}/test/small:1")
        peaks["small"] = daemon.peak()
        job(daemon, "pull", here)
        peaks["pull"] = daemon.peak()
        job(daemon, "tag", here, there)
        job(daemon, "push", there)
        peaks["push"] = daemon.peak()
        stored = target.manifest("test/large", "1")
        assert stored is not None
        assert stored.raw == large.manifest
    sizes = [path.stat().st_size for path in (place / "state").glob("images/blobs/*/*")]
    assert size in sizes
    assert peaks["pull"] - peaks["small"] <= ALLOWED, peaks
    assert peaks["push"] - peaks["small"] <= ALLOWED, peaks
    return peaks


def test_a_blob_larger_than_what_is_allowed_is_never_in_memory(place: Path) -> None:
    moved_flat(place, 3 * ALLOWED)


@pytest.mark.soak
def test_a_blob_of_eight_gib_is_never_in_memory(place: Path) -> None:
    peaks = moved_flat(place, 8 * GIB)
    print({name: f"{peak / MIB:.1f} MiB" for name, peak in peaks.items()})
