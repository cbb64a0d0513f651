"""What the benchmarks share: a registry, images, a daemon, and paired timings.

Everything lies on tmpfs (``/dev/shm``), so that disks do not count. Each measure alternates
between the sides, run by run, and its result is a line of JSON with medians in seconds and
ratios to ours.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import queue
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RUNS = int(os.environ.get("BENCH_RUNS", "5"))
TMPFS = Path("/dev/shm")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=TMPFS if TMPFS.is_dir() else None))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def registry(root: Path) -> Iterator[str]:
    """Debian's docker-registry; yields ``127.0.0.1:PORT``."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    config = root / "registry.yml"
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {
                    "filesystem": {"rootdirectory": str(root / "registry")},
                    "delete": {"enabled": True},
                },
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def make_layout(layout: Path, *, layers: int, size: int, seed: int = 1) -> None:
    """An OCI layout with the image ``x``: layers of bytes that do not compress."""
    dice = random.Random(seed)
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def put(raw: bytes) -> dict[str, object]:
        name = hashlib.sha256(raw).hexdigest()
        (blobs / name).write_bytes(raw)
        return {"digest": f"sha256:{name}", "size": len(raw)}

    described, diff_ids = [], []
    for number in range(layers):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo(f"file-{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(dice.randbytes(size)))
        raw = out.getvalue()
        diff_ids.append(f"sha256:{hashlib.sha256(raw).hexdigest()}")
        packed = gzip.compress(raw, compresslevel=1, mtime=0)
        described.append(
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **put(packed)}
        )
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **put(json.dumps(config).encode()),
        },
        "layers": described,
    }
    top = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        **put(json.dumps(manifest).encode()),
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))


def blob_digests(layout: Path) -> list[str]:
    index = json.loads((layout / "index.json").read_text())
    top = index["manifests"][0]["digest"]
    manifest = json.loads((layout / "blobs" / "sha256" / top[7:]).read_text())
    return [manifest["config"]["digest"], *(one["digest"] for one in manifest["layers"])]


def skopeo(*args: str) -> None:
    subprocess.run(
        ["skopeo", "--insecure-policy", *args],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def bare_pull(host: str, repository: str, digests: list[str], target: Path, threads: int) -> None:
    """The least that a pull can be: http.client into one buffer a thread, hashed, written."""
    work: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for digest in digests:
        work.put(digest)
    target.mkdir(parents=True)

    def run() -> None:
        connection = http.client.HTTPConnection(host)
        buffer = memoryview(bytearray(256 * 1024))
        while True:
            try:
                digest = work.get_nowait()
            except queue.Empty:
                connection.close()
                return
            connection.request("GET", f"/v2/{repository}/blobs/{digest}")
            response = connection.getresponse()
            hasher = hashlib.sha256()
            with (target / str(digest)[7:]).open("wb", buffering=0) as file:
                while count := response.readinto(buffer):
                    hasher.update(buffer[:count])
                    file.write(buffer[:count])
            assert f"sha256:{hasher.hexdigest()}" == digest

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@contextlib.contextmanager
def daemon(state: Path) -> Iterator[str]:
    """A daemon with that state directory; yields its endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.daemon", "--state-dir", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("engined ready "), line
        yield line.split()[2]
    finally:
        process.terminate()
        process.wait(20)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(measure: str, times: dict[str, list[float]], **more: object) -> None:
    """Print a line: medians, and of each other side how ours compares to it."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = times["ours"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(ours, values, strict=True))
        for name, values in times.items()
        if name != "ours"
    }
    print(
        json.dumps(
            {
                "measure": measure,
                "runs": len(ours),
                "seconds": {name: round(value, 4) for name, value in medians.items()},
                "ours_to": {name: round(value, 3) for name, value in ratios.items()},
                **more,
            }
        ),
        flush=True,
    )
