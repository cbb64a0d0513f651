"""Image archives as other tools write them, and the operations on them, for tests."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry_service.archive import Form
from registry_service.cancel import Cancellation
from registry_service.digest import Digest
from registry_service.manifest import Manifest
from registry_service.observe import Observer, Settled
from registry_service.operations import archives
from registry_service.reference import Reference
from registry_service.store import MemorySource, Store
from registry_service.testing.images import (
    Image,
    ImageIndex,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


__all__ = [
    "COMPRESS",
    "NAME",
    "Entry",
    "blobs",
    "config_of",
    "docker_old",
    "docker_plain",
    "keep",
    "link",
    "load",
    "members",
    "oci",
    "packed",
    "save",
    "sha",
    "swapped",
    "write_tar",
    "zeros",
]

NAME = Reference.parse("example.org/team/app:1")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstd.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": bz2.compress,
}

#: A member: bytes of a file, or a header as it is.
Entry = bytes | tarfile.TarInfo


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_tar(
    path: Path, entries: Mapping[str, Entry] | Iterable[tuple[str, Entry]], mode: str = "w"
) -> Path:
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, entry in pairs:
            if isinstance(entry, tarfile.TarInfo):
                entry.name = name
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(entry)
            tar.addfile(info, io.BytesIO(entry))
    return path


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def docker_plain(
    image: Image, tags: Sequence[str] | None = ("app:1",), *, unpack: bool = True
) -> dict[str, Entry]:
    """As kaniko and others lay it out; ``unpack`` decides whether the layers are compressed."""
    layers = [gzip.decompress(one) if unpack else one for one in image.layers]
    names = [f"{sha(one)}.tar{'' if unpack else '.gz'}" for one in layers]
    listed = {"Config": f"{sha(image.config)}.json", "RepoTags": tags, "Layers": names}
    return {
        "manifest.json": json.dumps([listed]).encode(),
        f"{sha(image.config)}.json": image.config,
        **dict(zip(names, layers, strict=True)),
    }


def docker_old(image: Image, tags: Sequence[str] | None = ("app:1",)) -> dict[str, Entry]:
    """As Docker wrote it before version 25: a directory for each layer, links for those that
    are the same as one before."""
    entries: dict[str, Entry] = {}
    first: dict[bytes, str] = {}
    names = []
    for place, packed in enumerate(image.layers):
        layer = gzip.decompress(packed)
        own = sha(f"{place}".encode() + layer)
        folder = tarfile.TarInfo()
        folder.type = tarfile.DIRTYPE
        entries[own] = folder
        entries[f"{own}/VERSION"] = b"1.0"
        entries[f"{own}/json"] = json.dumps({"id": own}).encode()
        same = first.setdefault(layer, own)
        entries[f"{own}/layer.tar"] = layer if same == own else link(f"../{same}/layer.tar")
        names.append(f"{own}/layer.tar")
    listed = {"Config": f"{sha(image.config)}.json", "RepoTags": tags, "Layers": names}
    entries[f"{sha(image.config)}.json"] = image.config
    entries["manifest.json"] = json.dumps([listed]).encode()
    entries["repositories"] = b"{}"
    return entries


def oci(
    images: Sequence[tuple[str, Image | ImageIndex]], annotation: str = "ref"
) -> dict[str, Entry]:
    """As skopeo (``ref``) or containerd (``containerd``) writes it."""
    entries: dict[str, Entry] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    listed: list[dict[str, Any]] = []
    for name, image in images:
        notes = {"org.opencontainers.image.ref.name": name}
        if annotation == "containerd":
            notes["io.containerd.image.name"] = name
            notes["org.opencontainers.image.ref.name"] = name.rpartition(":")[2]
        listed.append(
            {
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": len(image.manifest),
                **({"annotations": notes} if name else {}),
            }
        )
        for one in (image, *(image.images if isinstance(image, ImageIndex) else ())):
            blobs = one.blobs if isinstance(one, Image) else {}
            for raw in (one.manifest, *blobs.values()):
                entries[f"blobs/sha256/{sha(raw)}"] = raw
    entries["index.json"] = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return entries


def blobs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "images" / "blobs").glob("*/*")}


def swapped(entries: dict[str, Any]) -> dict[str, Any]:
    """The largest two members have each other's content."""
    first, second = sorted(
        (name for name in entries if ".tar" in name or name.startswith("blobs/")),
        key=lambda name: len(entries[name]),
    )[-2:]
    return {**entries, first: entries[second], second: entries[first]}


def zeros(size: int) -> bytes:
    """So many zero bytes as gzip streams, one after the other: made fast, and long to read."""
    block = 2**24
    return gzip.compress(bytes(block), 1) * (size // block)


def keep(store: Store, name: Reference, image: Image | ImageIndex, *, parts: int = 99) -> None:
    """Put an image into the store; of an index, so many of its images."""
    for one in image.images[:parts] if isinstance(image, ImageIndex) else (image,):
        source = MemorySource()
        for raw in (*one.blobs.values(), one.manifest):
            store.ensure(source.add(raw), source).wait()
    store.tag(name, store.put(image.manifest, image.media_type))


def save(store: Store, *names: Reference, form: Form, **options: Any) -> bytes:
    with store.lease() as lease:
        plan = archives.save(
            names,
            form=form,
            store=store,
            lease=lease,
            cancel=Cancellation(),
            observer=options.pop("observer", Observer()),
            **options,
        )
        content = b"".join(plan.pieces())
    assert len(content) == plan.size
    return content


def load(store: Store, path: Path, **options: Any) -> list[Settled]:
    rows: list[Settled] = []
    archives.load(
        path,
        store=store,
        cancel=Cancellation(),
        observer=Observer(settled=rows.append),
        **options,
    )
    return rows


def packed(image: Image) -> list[str]:
    return [sha(gzip.decompress(layer)) for layer in image.layers]


def config_of(store: Store, name: Reference) -> tuple[bytes, list[str]]:
    """The configuration and the layers' digests of an image of the store."""
    found = store.resolve(name)
    assert found is not None
    manifest = Manifest.parse(store.read(found.digest), found.media_type, found.digest)
    assert manifest.config is not None
    for layer in manifest.layers:
        with store.open(layer.digest) as file:
            assert Digest.of(file.read(), layer.digest.algorithm) == layer.digest
    return store.read(manifest.config.digest), [one.digest.hex for one in manifest.layers]


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
