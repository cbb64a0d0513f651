"""The daemon's memory does not grow with the layers of V1 that it pulls."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
from support_daemon import running_daemon
from test_memory import ALLOWED, GIB, MIB, job, place

from registry_service.testing.v1 import V1Registry, images

__all__ = ["place"]


def pulled_flat(place: Path, size: int) -> dict[str, int]:
    """Pull a layer of so many bytes that is not compressed, and is compressed here, and then one
    in gzip; the peaks of the daemon's memory, in bytes."""
    free = shutil.disk_usage(place).free
    if free < 2 * size + GIB:
        pytest.skip(f"a layer of {size} bytes needs more than the {free} that are free in {place}")
    peaks = {}
    with V1Registry() as registry, running_daemon(place / "state") as daemon:
        small = images.random_chain(1, length=60, file_size=8192)
        images.push_chain(registry, "test/small", "1", small)
        images.push_synthetic_chain(registry, "test/large", "1", [size])
        packed = push_packed(registry, size)
        job(daemon, "pull", f"{registry.host}/test/small:1")
        peaks["small"] = daemon.peak()
        job(daemon, "pull", f"{registry.host}/test/large:1")
        peaks["pull"] = daemon.peak()
        job(daemon, "remove", f"{registry.host}/test/large:1", "--prune")
        job(daemon, "pull", f"{registry.host}/test/packed:1")
        peaks["packed"] = daemon.peak()
        assert {row["state"] for row in daemon.ctl_json("verify")} == {"ok"}
    assert not list((place / "state" / "ingest").glob("*.partial"))
    sizes = [path.stat().st_size for path in (place / "state").glob("images/blobs/*/*")]
    assert packed in sizes  # kept as it came
    for name in ("pull", "packed"):
        assert peaks[name] - peaks["small"] <= ALLOWED, peaks
    return peaks


def push_packed(registry: V1Registry, size: int) -> int:
    """An image with a layer of about so many bytes in gzip, which nobody holds; its size."""
    part = gzip.compress(bytes(64 * 1024), compresslevel=0, mtime=0)
    whole = size // len(part) * len(part)
    image_id = registry.put_synthetic({"id": "ab" * 32, "os": "linux"}, whole, part)
    registry.put_tag("test/packed", "1", image_id)
    return whole


def test_a_layer_larger_than_what_is_allowed_is_never_in_memory(place: Path) -> None:
    pulled_flat(place, 2 * ALLOWED)


@pytest.mark.soak
def test_a_layer_of_eight_gib_is_never_in_memory(place: Path) -> None:
    peaks = pulled_flat(place, 8 * GIB)
    print({name: f"{peak / MIB:.1f} MiB" for name, peak in peaks.items()})
