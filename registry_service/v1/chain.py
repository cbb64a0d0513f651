"""From an OCI or Docker image to a chain of V1: one image for each step of its history.

The ids are made of what the images are, so that the same image gives the same chain everywhere and
always, and images that share steps from the lowest on share the images of V1 that stand for them.
What V1 has no place for is kept in the JSON all the same (`upgrade.KEPT`): programs that speak V1
pass over fields that they do not know, and an image that comes back is what it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidDigestError, ManifestError
from ..inflate import EMPTY_DIFF_ID
from ..manifest import Manifest
from ..media import DOCKER_CONFIG, OCI_CONFIG, is_layer
from ..upgrade import DROPPED, KEPT, history_of
from .image import ANCESTRY_LIMIT, V1Image

__all__ = ["EMPTY_LAYER", "Link", "chain_of"]

#: What Docker sent for a step that changed no file: an empty tar archive, compressed with gzip.
EMPTY_LAYER: Final = bytes.fromhex(
    "1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000"
)

# What nobody named is a configuration as well: some builders wrote it so in Docker's manifests.
_CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream"})
_PLATFORM: Final = ("architecture", "os")
_TEXTS: Final = ("created", "author", "comment")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An image of the chain, and its layer: None stands for `EMPTY_LAYER`. ``diff_id`` is of the
    layer before compression, as the image's configuration has it."""

    image: V1Image
    layer: Descriptor | None
    diff_id: Digest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    entry: Mapping[str, Any]  # of the history, without an 'empty_layer' that is true
    layer: Descriptor | None
    diff_id: Digest


def chain_of(config: bytes, manifest: Manifest) -> tuple[Link, ...]:
    """The chain of the image ``manifest`` with that configuration, the lowest image first.

    There is one for each entry of the history. Where the history is none or tells of another
    number of layers, there is one for each layer; where there are no layers either, one.

    Raises `ManifestError` for what is no image: an index, an artifact, a configuration that does
    not fit the layers.
    """
    _check_image(manifest)
    value = _load(config)
    told = _history(value)
    diff_ids = _diff_ids(value, len(manifest.layers))
    content = zip(manifest.layers, diff_ids, strict=True)
    fits = sum(one.get("empty_layer") is not True for one in told) == len(diff_ids)
    steps = list(_fitting(told, content)) if told and fits else _plain(value, content)
    if len(steps) > ANCESTRY_LIMIT:
        raise ManifestError(
            f"history: {len(steps)} entries; V1 may have {ANCESTRY_LIMIT} images upon each other"
        )
    links: list[Link] = []
    parent = ""
    for place, step in enumerate(steps):
        top = place == len(steps) - 1
        made = _top(value, step, told, fits) if top else _below(value, step)
        image = _image(made, parent, step)
        links.append(Link(image=image, layer=step.layer, diff_id=step.diff_id))
        parent = image.id
    return tuple(links)


def _check_image(manifest: Manifest) -> None:
    if manifest.is_index:
        raise ManifestError("an index is no image; V1 has images of one platform each")
    config = manifest.config
    if config is None:
        raise ManifestError(
            f"V1 has no place for what {manifest.media_type} is; it has images only"
        )
    kind = manifest.artifact_type or config.media_type
    if manifest.artifact_type or config.media_type not in _CONFIG_TYPES:
        raise ManifestError(f"{kind} is no image, and V1 has images only")
    for place, layer in enumerate(manifest.layers):
        if not is_layer(layer.media_type):
            raise ManifestError(
                f"layers[{place}]: {layer.media_type} is no layer of files, and V1 has no other"
            )


def _plain(value: Mapping[str, Any], content: Iterable[tuple[Descriptor, Digest]]) -> list[_Step]:
    """A step for each layer, of which nothing is known; at least one."""
    created = value.get("created")
    entry = {"created": created} if isinstance(created, str) and created else {}
    steps = [_Step(entry=entry, layer=layer, diff_id=found) for layer, found in content]
    return steps or [_Step(entry=entry, layer=None, diff_id=EMPTY_DIFF_ID)]


def _fitting(
    told: Sequence[Mapping[str, Any]], content: Iterable[tuple[Descriptor, Digest]]
) -> Iterator[_Step]:
    """A step for each entry of a history that tells of as many layers as there are."""
    rest = iter(content)
    for one in told:
        empty = one.get("empty_layer") is True
        layer, found = (None, EMPTY_DIFF_ID) if empty else next(rest)
        entry = {key: each for key, each in one.items() if key != "empty_layer" or not empty}
        yield _Step(entry=entry, layer=layer, diff_id=found)


def _below(config: Mapping[str, Any], step: _Step) -> dict[str, Any]:
    """The JSON of an image that is not the topmost one, without its id."""
    made = _told(step.entry)
    for field in _PLATFORM:
        if isinstance(config.get(field), str):
            made[field] = config[field]
    if history_of(made) != step.entry:
        made[KEPT] = {"history": dict(step.entry)}
    return made


def _top(
    config: Mapping[str, Any], step: _Step, told: Sequence[Mapping[str, Any]], fits: bool
) -> dict[str, Any]:
    """The JSON of the topmost image, without its id: the configuration, and what V1 has its own
    words for where the configuration has none."""
    made = {key: each for key, each in config.items() if key not in DROPPED}
    hidden = {
        key: each
        for key, each in config.items()
        if key in DROPPED and key not in ("history", "rootfs")
    }
    added = [] if told else ["history"]
    for field, each in _told(step.entry).items():
        if field not in config:
            made[field] = each
            added.append(field)
    kept: dict[str, Any] = {}
    if told and fits and history_of(made) != step.entry:
        kept["history"] = dict(step.entry)
    if hidden:
        kept["config"] = hidden
    if added:
        kept["added"] = added
    if left_open := [field for field in _PLATFORM if not config.get(field)]:
        kept["open"] = left_open
    return {**made, KEPT: kept} if kept else made


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the history in the words of V1, as far as it has some."""
    made: dict[str, Any] = {}
    for field in _TEXTS:
        if isinstance(entry.get(field), str) and entry[field]:
            made[field] = entry[field]
    command = entry.get("created_by")
    if isinstance(command, str) and command:
        made["container_config"] = {"Cmd": [command]}
    return made


def _image(made: Mapping[str, Any], parent: str, step: _Step) -> V1Image:
    """The image. Its id is the sha256 of its JSON without the id, its parent's in it, and with the
    diff id as ``layer_id`` after the rest."""
    value = dict(made)
    if parent:
        value["parent"] = parent
    if step.layer is None:
        value.update(throwaway=True, Size=0)
    elif step.diff_id == EMPTY_DIFF_ID:
        value["throwaway"] = False  # a layer of no files that the image has all the same
    own = hashlib.sha256(_dump({**value, "layer_id": str(step.diff_id)})).hexdigest()
    return V1Image.parse(_dump({"id": own, **value}), own)


def _load(config: bytes) -> dict[str, Any]:
    try:
        value = json.loads(config.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the image's configuration is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ManifestError("the image's configuration is not a JSON object")
    return value


def _history(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = value.get("history")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ManifestError("the image's configuration: history: a list of objects is expected")
    return found


def _diff_ids(value: Mapping[str, Any], layers: int) -> list[Digest]:
    rootfs = value.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    where = "the image's configuration: rootfs.diff_ids"
    if found is None:
        found = []
    if not isinstance(found, list):
        raise ManifestError(f"{where}: a list is expected")
    if len(found) != layers:
        raise ManifestError(f"{where}: {len(found)} for {layers} layers")
    try:
        return [Digest.parse(one) for one in found]
    except InvalidDigestError as error:
        raise ManifestError(f"{where}: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _dump(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError:
        raise ManifestError("the image's configuration nests too deep") from None
    except ValueError as error:  # a number such as 1e999, which is read as infinity
        raise ManifestError(f"the image's configuration cannot be written: {error}") from None
