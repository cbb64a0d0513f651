"""From a chain of steps to an OCI image: the configuration and the manifest that they stand for.

Schema 1 and V1 tell the history of an image in the same way: one JSON for each step, of which the
topmost has the configuration too, and a layer. Pure: what is to be known of a layer is found out
elsewhere (`inflate.diff_id`). The same steps always give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .descriptor import Descriptor
from .digest import Digest
from .errors import ManifestError
from .inflate import EMPTY_DIFF_ID
from .manifest import Manifest
from .media import OCI_CONFIG, OCI_MANIFEST

__all__ = ["DROPPED", "KEPT", "Layer", "Step", "UpgradedImage", "history_of", "upgrade"]

#: The field of a step's JSON in which `v1.chain` puts what an OCI image says and V1 has no place
#: for. An object; of its fields, each of which may be absent, ``history`` is the step's entry of
#: the history, ``config`` has fields of the configuration, ``added`` names fields that the JSON has
#: and the configuration had not, and ``open`` those of the platform that the configuration left so.
KEPT: Final = "registry-engine"

#: What the JSON of a step says and an image's configuration does not.
DROPPED: Final = frozenset(
    {"id", "parent", "parent_id", "layer_id", "Size", "throwaway", "history", "rootfs", KEPT}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What was found out of a layer: ``size`` is the bytes of the blob ``digest``."""

    digest: Digest
    size: int
    diff_id: Digest
    media_type: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the image's history: its JSON, and its layer, if it has one with files."""

    value: Mapping[str, Any]
    layer: Layer | None

    @property
    def content(self) -> Layer | None:
        """The layer, where it belongs to the image. Docker wrote one for each step; one of no
        files says nothing, unless the step says that it is not to be thrown away."""
        layer = self.layer
        if layer is None or layer.diff_id != EMPTY_DIFF_ID:
            return layer
        return layer if self.value.get("throwaway") is False else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpgradedImage:
    config: bytes
    manifest: Manifest


def upgrade(steps: Sequence[Step], *, architecture: str = "") -> UpgradedImage:
    """The OCI image of ``steps``, the lowest first. ``architecture`` stands in for one that the
    topmost step does not name. Raises `ManifestError` for JSON that cannot be written again, and
    where there is no step."""
    if not steps:
        raise ManifestError("an image of no steps is none")
    layers: list[Descriptor] = []
    diff_ids: list[str] = []
    history: list[dict[str, Any]] = []
    for step in steps:
        entry = history_of(step.value)
        layer = step.content
        if layer is None:
            entry["empty_layer"] = True
        else:
            layers.append(
                Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
            )
            diff_ids.append(str(layer.diff_id))
        history.append(entry)
    top = steps[-1].value
    fields = {key: value for key, value in top.items() if key not in DROPPED}
    left_open = _kept(top).get("open")
    for field, default in (("architecture", architecture or "amd64"), ("os", "linux")):
        if not fields.get(field) and not (isinstance(left_open, list) and field in left_open):
            fields[field] = default
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = _dump(_restored({**fields, "rootfs": rootfs, "history": history}, top))
    described = Descriptor(media_type=OCI_CONFIG, digest=Digest.of(config), size=len(config))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return UpgradedImage(config=config, manifest=Manifest.parse(_dump(document), OCI_MANIFEST))


def history_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of an OCI configuration's history that a step's JSON stands for, without an
    ``empty_layer`` that is true: whether it is so, the layer says."""
    kept = _kept(value).get("history")
    if isinstance(kept, dict):
        return {key: each for key, each in kept.items() if key != "empty_layer" or each is not True}
    entry: dict[str, Any] = {}
    for key in ("created", "author", "comment"):
        found = value.get(key)
        if isinstance(found, str) and found:
            entry[key] = found
    container = value.get("container_config")
    command = container.get("Cmd") if isinstance(container, dict) else None
    if isinstance(command, list) and command:
        entry["created_by"] = " ".join(str(word) for word in command)
    elif isinstance(command, str) and command:
        entry["created_by"] = command
    return entry


# What may be kept of a configuration: nothing that the JSON can say itself, or it would say one
# thing to programs that speak V1 and another one here.
_HIDDEN: Final = DROPPED - {"history", "rootfs"}
_ADDED: Final = frozenset({"created", "author", "comment", "container_config", "history"})


def _restored(config: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what was kept of the one that the steps were made of."""
    kept = _kept(top)
    added, fields = kept.get("added"), kept.get("config")
    for field in added if isinstance(added, list) else ():
        if isinstance(field, str) and field in _ADDED:
            config.pop(field, None)
    if isinstance(fields, dict):
        config.update((key, each) for key, each in fields.items() if key in _HIDDEN)
    return config


def _kept(value: Mapping[str, Any]) -> Mapping[str, Any]:
    found = value.get(KEPT)
    return found if isinstance(found, dict) else {}


def _dump(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError:
        raise ManifestError("history: its JSON nests too deep") from None
    except ValueError as error:  # a number such as 1e999, which is read as infinity
        raise ManifestError(f"history: its JSON cannot be written: {error}") from None
