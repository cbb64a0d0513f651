"""The daemon's memory does not grow with the layers that it sends to V1, or fetches from there."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_daemon import Daemon, running_daemon
from support_manifests import document
from support_store import make_store
from support_v1_push import keep, made_image, rich_archives

from registry_service.digest import Digest
from registry_service.media import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_service.testing.v1 import V1Registry

MIB = 1024 * 1024
GIB = 1024 * MIB
#: Bytes that large layers may cost above an image of many small ones.
ALLOWED = 64 * MIB
SECONDS = 1800.0  # that one job may take


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is gone at the end, whatever happens: what is in it is large."""
    made = tempfile.mkdtemp(prefix="v1-memory-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made)


def archive(size: int, block: bytes) -> Iterator[bytes]:
    """A tar archive with one file of so many bytes, in pieces."""
    info = tarfile.TarInfo("large")
    info.size = size
    yield info.tobuf(tarfile.GNU_FORMAT)
    for _ in range(size // len(block)):
        yield block
    yield bytes(1024)


def put_layer(
    images: Path, pieces: Iterator[bytes], *, packed: bool
) -> tuple[dict[str, object], str]:
    """Put a layer into the store, which nobody holds: its descriptor and its diff id."""
    blob, plain = hashlib.sha256(), hashlib.sha256()
    packer = zlib.compressobj(1, wbits=31)
    size = 0
    path = images / "blobs" / "sha256" / "new"
    with path.open("wb") as file:

        def write(data: bytes) -> int:
            blob.update(data)
            return file.write(data)

        for piece in pieces:
            plain.update(piece)
            size += write(packer.compress(piece) if packed else piece)
        size += write(packer.flush() if packed else b"")
    path.rename(path.with_name(blob.hexdigest()))
    kind = f"{OCI_LAYER}+gzip" if packed else OCI_LAYER
    descriptor = {"mediaType": kind, "digest": f"sha256:{blob.hexdigest()}", "size": size}
    return descriptor, f"sha256:{plain.hexdigest()}"


def put_large(state: Path, name: str, sizes: list[int]) -> list[str]:
    """An image of two layers: one in gzip that inflates to much, one that is not compressed and
    can hardly be. Its diff ids."""
    noise = random.Random(1).randbytes(MIB)
    with make_store(state) as store:
        layers = [
            put_layer(store.images, archive(sizes[0], bytes(MIB)), packed=True),
            put_layer(store.images, archive(sizes[1], noise), packed=False),
        ]
        diff_ids = [diff_id for _, diff_id in layers]
        config = store.put(
            document(
                {
                    "architecture": "amd64",
                    "os": "linux",
                    "rootfs": {"type": "layers", "diff_ids": diff_ids},
                    "history": [{"created_by": "one"}, {"created_by": "two"}],
                }
            ),
            OCI_CONFIG,
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [one for one, _ in layers],
        }
        store.tag(name, store.put(document(manifest), OCI_MANIFEST))
    return diff_ids


def job(daemon: Daemon, *args: str) -> None:
    result = daemon.run_ctl(*args, timeout=SECONDS)
    assert result.returncode == 0, result.stderr


def plain_digest(images: Path, digest: str) -> str:
    """Of a layer in gzip, the digest of the archive in it."""
    plain = hashlib.sha256()
    with gzip.open(
        images / "blobs" / Digest.parse(digest).algorithm / Digest.parse(digest).hex
    ) as f:
        while piece := f.read(MIB):
            plain.update(piece)
    return f"sha256:{plain.hexdigest()}"


def moved_flat(place: Path, sizes: list[int]) -> dict[str, int]:
    """Push an image of two such layers, and pull it; the peaks of the daemons' memory."""
    free = shutil.disk_usage(place).free
    if free < 4 * sizes[1] + GIB:
        pytest.skip(f"the layers need more than the {free} bytes that are free in {place}")
    peaks = {}
    with V1Registry(place / "registry") as registry:
        small, large = f"{registry.host}/test/small:1", f"{registry.host}/test/large:1"
        keep(place / "here", small, made_image(rich_archives(1, 60)))
        diff_ids = put_large(place / "here", large, sizes)
        for side, verb in (("here", "push"), ("there", "pull")):
            with running_daemon(place / side) as daemon:
                job(daemon, verb, small, "--platform", "all")
                peaks[f"{verb} small"] = daemon.peak()
                job(daemon, verb, large, "--platform", "all")
                peaks[verb] = daemon.peak()
        with make_store(place / "there") as store:
            found = store.resolve(large)
            assert found is not None
            layers = json.loads(store.read(found.digest))["layers"]
            assert [plain_digest(store.images, one["digest"]) for one in layers] == diff_ids
    for verb in ("push", "pull"):
        assert peaks[verb] - peaks[f"{verb} small"] <= ALLOWED, peaks
    return peaks


def test_layers_larger_than_what_is_allowed_are_never_in_memory(place: Path) -> None:
    moved_flat(place, [2 * ALLOWED, 5 * ALLOWED // 4])


@pytest.mark.soak
def test_layers_of_several_gib_are_never_in_memory(place: Path) -> None:
    peaks = moved_flat(place, [4 * GIB, 3 * GIB])
    print({name: f"{peak / MIB:.1f} MiB" for name, peak in peaks.items()})
