"""Images of the store for pushes to V1, and what a V1 registry has of them."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support_manifests import descriptor, document
from support_store import make_store

from registry_service.digest import Digest
from registry_service.manifest import Manifest
from registry_service.media import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_service.testing.exchange import Exchange, Responder
from registry_service.testing.message import Response
from registry_service.testing.v1 import V1Registry, images

__all__ = ["Answering", "Made", "keep", "made_image", "puts", "rich_archives"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An image: its configuration, its manifest, its layers as they are kept and as archives."""

    config: bytes
    manifest: Manifest
    layers: tuple[bytes, ...]
    archives: tuple[bytes, ...]

    @property
    def blobs(self) -> dict[Digest, bytes]:
        return {Digest.of(one): one for one in (self.config, *self.layers)}


def rich_archives(seed: int, count: int) -> list[bytes]:
    """Archives with what a layer may hold, those above with marks that take away what is below."""
    names: list[str] = []
    return [images.random_archive(seed * 1000 + one, below=names) for one in range(count)]


def packed(archive: bytes) -> bytes:
    return gzip.compress(archive, 1, mtime=0)


def made_image(
    archives: Sequence[bytes],
    *,
    pack: Callable[[bytes], bytes] = packed,
    config: dict[str, Any] | None = None,
    history: list[dict[str, Any]] | None = None,
    layer_type: str = f"{OCI_LAYER}+gzip",
    diff_ids: list[str] | None = None,
    **fields: Any,
) -> Made:
    """An OCI image of these layers; ``fields`` are of its configuration."""
    layers = [pack(one) for one in archives]
    if history is None:
        history = [
            {"created": "2024-01-01T00:00:00Z", "created_by": f"step {number}"}
            for number in range(len(layers))
        ]
    value = {
        "created": "2024-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Env": ["A=1"]} if config is None else config,
        "rootfs": {
            "type": "layers",
            "diff_ids": [str(Digest.of(one)) for one in archives] if diff_ids is None else diff_ids,
        },
        "history": history,
        **fields,
    }
    raw = document(value)
    manifest = document(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, raw),
            "layers": [descriptor(layer_type, one) for one in layers],
        }
    )
    return Made(
        config=raw,
        manifest=Manifest.parse(manifest),
        layers=tuple(layers),
        archives=tuple(archives),
    )


def keep(state: Path, name: str, *images: Made, index: dict[str, Any] | None = None) -> Digest:
    """Put images into the store of an engine, under a name: the one, or an index of them, or the
    index that is given. Its digest."""
    with make_store(state) as store:
        found = []
        for image in images:
            for blob in image.blobs.values():
                store.put(blob, "application/octet-stream")
            found.append(store.put(image.manifest.raw, image.manifest.media_type))
        if index is None:
            (top,) = found
        else:
            top = store.put(document(index), index["mediaType"])
        store.tag(name, top)
        return top.digest


def puts(registry: V1Registry, what: str = "/images/") -> list[str]:
    """Of the requests so far the PUTs whose path has ``what`` in it."""
    return [
        one.path
        for one in registry.requests
        if one.method == "PUT" and what in one.path and "/repositories/" not in one.path
    ]


class Answering(V1Registry):
    """A registry in whose place ``answers`` may answer: it is asked first, with each request, and
    gives None for what the registry itself is to answer."""

    answers: Callable[[Exchange], Response | None] = staticmethod(lambda exchange: None)

    def _responder(self) -> Responder:
        return _Answers(self, super()._responder())


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
    registry: Answering
    inner: Responder

    def respond(self, exchange: Exchange) -> Response:
        found = self.registry.answers(exchange)
        return self.inner.respond(exchange) if found is None else found

    def refusal(self, *args: Any, **more: Any) -> Response:
        return self.inner.refusal(*args, **more)


def image_json(registry: V1Registry, image_id: str) -> dict[str, Any]:
    found = registry.image(image_id)
    assert found is not None
    return dict(json.loads(found.raw))
