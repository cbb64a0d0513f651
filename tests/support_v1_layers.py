"""Layers of V1, and sources of them that misbehave on demand."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support_store import Fault, FaultySource

from registry_service.cancel import Cancellation
from registry_service.errors import RegistryHTTPError
from registry_service.store import Arrival, BlobStream, Claim, LayerSource, Store
from registry_service.v1.layer import StatedLayer

__all__ = ["HOST", "LayerOf", "claim_on", "leftovers", "receive", "stated", "tar_of", "tgz_of"]

HOST = "registry.test:5000"


def tar_of(seed: int, size: int = 20_000) -> bytes:
    """An archive of one file of ``size`` bytes, which cannot be compressed."""
    content = random.Random(seed).randbytes(size)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as made:
        info = tarfile.TarInfo(f"file-{seed}")
        info.size = size
        made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tgz_of(seed: int, size: int = 20_000) -> bytes:
    return gzip.compress(tar_of(seed, size), mtime=seed)


def stated(data: bytes, seed: int = 1, **other: Any) -> StatedLayer:
    """What an honest registry says of the layer ``data``."""
    image_id = hashlib.sha256(b"%d" % seed).hexdigest()
    json = b'{"id": "%s"}' % image_id.encode()
    payload = hashlib.sha256(json + b"\n" + data).hexdigest()
    says: dict[str, Any] = {"size": len(data), "checksum_payload": f"sha256:{payload}", **other}
    return StatedLayer(image_id=image_id, json=json, **says)


class LayerOf(LayerSource):
    """A layer, and a fault for each time that it is opened; after the last, no fault. Like real
    servers, it has nothing to give beyond its end."""

    def __init__(self, data: bytes, faults: Iterable[Fault] = ()) -> None:
        self._inner = FaultySource(data, faults)

    @property
    def offsets(self) -> list[int]:
        return self._inner.offsets

    def open(self, offset: int, cancel: Cancellation, /) -> BlobStream:
        if offset and offset >= len(self._inner.content):
            self._inner.offsets.append(offset)
            raise RegistryHTTPError(http_status=416, method="GET", url="http://registry.test/layer")
        return self._inner.open(self._inner.descriptor, offset, cancel)


def claim_on(store: Store, host: str = HOST, repository: str = "test/app") -> Claim:
    return Claim(
        origins=store.origins, host=host, repository=repository, probe=lambda one, cancel: False
    )


def receive(store: Store, says: StatedLayer, source: LayerSource, **options: Any) -> Arrival:
    options.setdefault("claim", claim_on(store))
    return store.receive(says, source, **options)


def leftovers(store: Store) -> list[str]:
    """All that is in the store: blobs, partial files, temporary ones; no names of locks, records
    and the empty index."""
    kept = {"index.lock", "oci-layout", "index.json"}
    return [
        str(path.relative_to(place))
        for place in (store.images, store.scratch)
        for path in sorted(Path(place).rglob("*"))
        if path.is_file() and path.name not in kept and path.parent.name != "origins"
    ]
