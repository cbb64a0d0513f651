"""From schema 1 to an OCI image: the configuration and the manifest that its histories stand for.

Pure: what has to be read for it, the layers, is looked at elsewhere (`inflate.diff_id`). The
same manifest with the same layers always gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from .descriptor import Descriptor
from .digest import Digest
from .errors import ManifestError
from .inflate import EMPTY_DIFF_ID
from .manifest import Manifest
from .media import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from .schema1 import ManifestData

__all__ = ["Layer", "OldLayer", "UpgradedImage", "layers_of", "upgrade"]

#: The layer without content that Docker wrote for each step that changed no file.
_EMPTY_BLOB: Final = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
# What schema 1 says of a layer and an image's configuration does not.
_DROPPED: Final = frozenset(
    {"id", "parent", "parent_id", "layer_id", "Size", "throwaway", "history", "rootfs"}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OldLayer:
    """A step of the image's history: its JSON, the blob that came with it, and whether that is
    ``empty``, so that nobody needs to look at it."""

    blob_sum: Digest
    compatibility: Mapping[str, Any]
    empty: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What was found out of a blob: ``size`` is its bytes."""

    size: int
    diff_id: Digest
    compressed: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpgradedImage:
    config: bytes
    manifest: Manifest


def layers_of(data: ManifestData) -> tuple[OldLayer, ...]:
    """The steps of the image, the lowest first. A step that is there twice in a row, as some
    builders wrote it, counts once. Raises `ManifestError` where the chain of parents breaks."""
    steps: list[OldLayer] = []
    below = ""  # the id of the step below
    for place in reversed(range(len(data.history))):
        found = data.compatibility(place)
        own, parent = found.get("id"), found.get("parent")
        if steps and own is not None and own == below:
            continue
        if steps and own is not None and below and parent != below:
            raise ManifestError(
                f"history[{place}].v1Compatibility: its parent is not the entry after it"
            )
        below = own if isinstance(own, str) else ""
        blob_sum = data.fs_layers[place].blob_sum
        empty = found.get("throwaway") is True or str(blob_sum) == _EMPTY_BLOB
        steps.append(OldLayer(blob_sum=blob_sum, compatibility=found, empty=empty))
    return tuple(steps)


def upgrade(data: ManifestData, found: Mapping[Digest, Layer]) -> UpgradedImage:
    """The OCI image. ``found`` has each blob of `layers_of` that is not empty.

    A layer of no files is left out too: it says nothing, and its step stays in the history.
    """
    steps = layers_of(data)
    layers: list[Descriptor] = []
    diff_ids: list[str] = []
    history: list[dict[str, Any]] = []
    for step in steps:
        entry = _history(step.compatibility)
        layer = None if step.empty else found[step.blob_sum]
        if layer is None or layer.diff_id == EMPTY_DIFF_ID:
            entry["empty_layer"] = True
        else:
            kind = f"{OCI_LAYER}+gzip" if layer.compressed else OCI_LAYER
            layers.append(Descriptor(media_type=kind, digest=step.blob_sum, size=layer.size))
            diff_ids.append(str(layer.diff_id))
        history.append(entry)
    top = {k: v for k, v in steps[-1].compatibility.items() if k not in _DROPPED}
    top.setdefault("architecture", data.architecture or "amd64")
    top.setdefault("os", "linux")
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = _dump({**top, "rootfs": rootfs, "history": history})
    described = Descriptor(media_type=OCI_CONFIG, digest=Digest.of(config), size=len(config))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return UpgradedImage(config=config, manifest=Manifest.parse(_dump(document), OCI_MANIFEST))


def _history(compatibility: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of an OCI configuration's history."""
    entry: dict[str, Any] = {}
    for key in ("created", "author", "comment"):
        value = compatibility.get(key)
        if isinstance(value, str) and value:
            entry[key] = value
    container = compatibility.get("container_config")
    command = container.get("Cmd") if isinstance(container, dict) else None
    if isinstance(command, list) and command:
        entry["created_by"] = " ".join(str(word) for word in command)
    elif isinstance(command, str) and command:
        entry["created_by"] = command
    return entry


def _dump(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise ManifestError("history: its JSON nests too deep") from None
