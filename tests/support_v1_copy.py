"""Images in V1 registries, whole and broken, and what a copy made of them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support_service import Bench

from registry_service.digest import Digest
from registry_service.testing import Registry
from registry_service.testing.v1 import V1Registry
from registry_service.testing.v1.images import (
    Chain,
    random_archive,
    random_chain,
    random_id,
)

__all__ = [
    "CHAIN",
    "LARGE",
    "NAME",
    "another_s_json",
    "assert_whole",
    "copied",
    "copy_bench",
    "cut_off",
    "cut_off_otherwise",
    "hole",
    "kept",
    "loop",
    "no_layer",
    "no_tar",
    "noise",
    "put",
    "states",
    "wrong_sum",
]


@contextlib.contextmanager
def copy_bench(state: Path) -> Iterator[Bench]:
    """An engine with jobs that try again at once, of which no thread is left at the end."""
    made = Bench(state, retries=3, retry_wait_max=0.05)
    yield made
    made.engine.shutdown(grace=0)
    assert not [t for t in threading.enumerate() if t.name.startswith(("copy", "v1-"))]


NAME = "test/app"
CHAIN = random_chain(1, length=3, file_size=60_000)
LARGE = 5 * 1024 * 1024  # more than what is looked at before it is sent


def put(
    registry: V1Registry,
    layers: list[bytes],
    tag: str = "1.0",
    *,
    more: list[dict[str, Any]] | None = None,
    checksums: list[str] | None = None,
) -> list[str]:
    """An image with these layers, the lowest first, as another tool might have made it."""
    ids: list[str] = []
    for number, layer in enumerate(layers):
        image_id = random_id(f"{tag} {number} {Digest.of(layer)}")
        value: dict[str, Any] = {"id": image_id, "created": "2014-01-01T00:00:00Z"}
        if ids:
            value["parent"] = ids[-1]
        value.update((more or [{}] * len(layers))[number])
        registry.put_image(value, layer, checksums=checksums)
        ids.append(image_id)
    registry.put_tag(NAME, tag, ids[-1])
    return ids


def noise(size: int) -> bytes:
    """A tar archive with one file that cannot be compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("noise")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(size).randbytes(size)))
    return file.getvalue()


def copied(new: Registry, repository: str, tag: str) -> tuple[dict[str, Any], list[bytes]]:
    """The configuration of an image, and its layers uncompressed; each is what its digest says."""
    found = new.manifest(repository, tag)
    assert found is not None
    manifest = json.loads(found.raw)
    blobs = []
    for one in (manifest["config"], *manifest["layers"]):
        data = new.blob(repository, one["digest"])
        assert data is not None
        assert (str(Digest.of(data)), len(data)) == (one["digest"], one["size"])
        blobs.append(data)
    assert {one["mediaType"] for one in manifest["layers"]} <= {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    }
    return json.loads(blobs[0]), [gzip.decompress(one) for one in blobs[1:]]


def assert_whole(new: Registry, repository: str, tag: str, chain: Chain = CHAIN) -> None:
    config, layers = copied(new, repository, tag)
    assert layers == [one.archive for one in chain.images]
    assert config["rootfs"]["diff_ids"] == [str(Digest.of(one.archive)) for one in chain.images]
    assert config["config"] == chain.images[-1].json["config"]
    assert len(config["history"]) == len(chain.images)


def states(rows: list[dict[str, Any]]) -> set[str]:
    return {row["state"] for row in rows}


def kept(bench: Bench) -> list[str]:
    """What the engine has on disk of content."""
    found = [one for one in (bench.state / "images").rglob("*") if one.is_file()]
    return [str(one) for one in found if "blobs" in one.parts or ".partial" in one.name]


# broken ones


def wrong_sum(old: V1Registry) -> None:
    put(old, [random_archive(1)], checksums=[f"sha256:{'0' * 64}"])


def no_tar(old: V1Registry) -> None:
    put(old, [random_archive(1), gzip.compress(b"text" * 1000)])


def cut_off(old: V1Registry) -> None:
    put(old, [gzip.compress(random_archive(1))[:-20]])


def cut_off_otherwise(old: V1Registry) -> None:
    put(old, [bz2.compress(random_archive(1))[:-20]])


def hole(old: V1Registry) -> None:
    ids = put(old, [random_archive(1), random_archive(2), random_archive(3)])
    old.put_image({"id": ids[2], "parent": ids[1]}, random_archive(3), ancestry=[ids[2], ids[0]])


def loop(old: V1Registry) -> None:
    ids = put(old, [random_archive(1), random_archive(2)])
    old.put_image(
        {"id": ids[1], "parent": ids[0]}, random_archive(2), ancestry=[ids[1], ids[0], ids[1]]
    )


def another_s_json(old: V1Registry) -> None:
    ids = put(old, [random_archive(1)])
    old.put_image({"id": random_id("other")}, random_archive(1), image_id=ids[0])


def no_layer(old: V1Registry) -> None:
    ids = put(old, [random_archive(1)])
    old.put_image({"id": ids[0]}, None)
