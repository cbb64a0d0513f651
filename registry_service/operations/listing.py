"""Tags, images, inspect, tag: what there is, in a registry and in the store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidReferenceError, ManifestError, RegistryError
from ..manifest import Manifest
from ..observe import Observer
from ..platform import Platform
from ..reference import Reference
from ..schema1 import ManifestData
from ..store import Store
from .cells import too_heavy
from .content import (
    ALL,
    Node,
    check_fits,
    choose,
    held,
    is_manifest,
    names_platform,
    platform_of,
    tree,
)
from .keeping import held_whole
from .looking import CONFIG_LIMIT, Looker, look_remote, look_stored
from .schema1 import show
from .v1.look import Seen, look_on_v1
from .versions import Reader, V1Client

__all__ = ["Inspection", "StoredImage", "images", "inspect", "tag"]

_DEEPEST = 8
_LONGEST_TIME = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the store. ``size`` is in bytes and counts what is present, each blob once;
    ``platforms`` are those of which everything is there."""

    reference: str
    digest: str
    media_type: str
    size: int
    platforms: tuple[str, ...]
    complete: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A manifest and its configuration. ``source`` is ``store`` or ``registry``; ``size``
    counts the manifest, the configuration and the layers, in bytes, as the manifest says. Of a
    registry that speaks V1 it is what `Seen` says."""

    reference: str
    digest: str
    media_type: str
    size: int
    platform: str
    created: str
    layers: tuple[Mapping[str, Any], ...]
    annotations: Mapping[str, str]
    config: Any
    source: str


def images(store: Store, observer: Observer | None = None) -> Iterator[StoredImage]:
    """The images of the store, by name. One that is damaged is not complete, and ``observer``
    is told why."""
    observer = observer or Observer()
    for name, descriptor in sorted(held(store), key=lambda one: str(one[0])):
        size, complete = 0, False
        present: tuple[str, ...] = ()
        try:
            node = tree(store, descriptor)
            size, present = node.size, _present(store, node)
            complete = node.complete
        except RegistryError as error:
            observer.log("warning", f"{name}: {error}")
        yield StoredImage(
            reference=str(name),
            digest=str(descriptor.digest),
            media_type=descriptor.media_type,
            size=size,
            platforms=present,
            complete=complete,
        )


def _present(store: Store, node: Node) -> tuple[str, ...]:
    """The platforms of which everything is there."""
    manifest = node.manifest
    if manifest is None:
        return ()
    if manifest.is_index:
        parts = (one.descriptor for one in node.children if one.complete)
        return tuple(str(one.platform) for one in parts if one.platform is not None)
    if manifest.config is None or not node.complete or not _is_json(manifest.config):
        return ()
    platform = _platform(_load(store.read(manifest.config.digest, CONFIG_LIMIT)))
    return () if platform is None else (str(platform),)


def tag(
    store: Store, source: Reference, target: Reference, cancel: Cancellation | None = None
) -> Descriptor:
    """Give an image of the store another name."""
    if target.digest is not None:
        raise InvalidReferenceError(
            f"{target}: a new name is a tag; the digest is the image's own and is not given"
        )
    with store.lease() as lease:
        descriptor = held_whole(store, source, lease, cancel or Cancellation())
        store.tag(str(target), descriptor, cancel=cancel)
    return descriptor


def inspect(
    reference: Reference,
    *,
    store: Store,
    connect: Callable[[], Reader],
    remote: bool = False,
    platform: str = ALL,
    observer: Observer | None = None,
) -> Iterator[Inspection]:
    """What an image is: its own manifest first, then, for an index, those of its platforms.

    The store is asked first; where it has no such image, or with ``remote``, the registry or
    its mirrors.
    Of an index in the store, what was not pulled has no configuration. What is too much for
    a row is left out, and ``observer`` is told why.
    """
    observer = observer or Observer()
    found = None if remote else look_stored(reference, store)
    if found is None:
        client = connect()
        if isinstance(client, V1Client):
            seen = look_on_v1(reference, client, store.layers, platform, observer)
            yield _fitted(_on_v1(str(reference), seen), observer)
            return
        found = look_remote(reference, client)
    reader, top, manifest = found
    if manifest.schema1 is not None:
        yield _fitted(_old(str(reference), manifest, manifest.schema1, reader.source), observer)
        return
    if platform not in ("", ALL) and not manifest.is_index and names_platform(manifest.config):
        has = platform_of(reader.blob(manifest.config) or b"")
        if has is not None:
            check_fits(reference, has, platform)
    for one in _inspect(str(reference), top, manifest, reader, platform, set(), 0):
        yield _fitted(one, observer)


def _fitted(inspection: Inspection, observer: Observer) -> Inspection:
    """The same without what does not fit into a row."""
    empty: dict[str, Any] = {"annotations": {}, "layers": (), "config": None}
    left_out = too_heavy({name: getattr(inspection, name) for name in empty})
    for name, why in left_out.items():
        which = inspection.digest or inspection.reference
        text = f"{which}: 'inspect' cannot show '{name}': {why}"
        observer.log("warning", text)
    return dataclasses.replace(inspection, **{name: empty[name] for name in left_out})


def _old(reference: str, manifest: Manifest, data: ManifestData, source: str) -> Inspection:
    """An image of schema 1, as its registry has it. It does not say how large its layers are."""
    shown = show(data)
    return Inspection(
        reference=reference,
        digest=str(manifest.digest),
        media_type=manifest.media_type,
        size=len(manifest.raw),
        platform=str(shown.platform),
        created=shown.created,
        layers=shown.layers,
        annotations={},
        config=shown.config,
        source=source,
    )


def _on_v1(reference: str, seen: Seen) -> Inspection:
    """An image of V1, as its registry has it."""
    return Inspection(
        reference=reference,
        digest=seen.digest,
        media_type=seen.media_type,
        size=seen.size,
        platform=str(seen.platform),
        created=_created(seen.config),
        layers=seen.layers,
        annotations={},
        config=seen.config,
        source="registry",
    )


def _inspect(
    reference: str,
    descriptor: Descriptor,
    manifest: Manifest | None,
    reader: Looker,
    platform: str,
    seen: set[Digest],
    depth: int,
) -> Iterator[Inspection]:
    if depth > _DEEPEST:
        raise ManifestError(f"{descriptor.digest}: indexes nest more than {_DEEPEST} deep")
    config: Any = None
    if manifest is not None and manifest.config is not None and _is_json(manifest.config):
        raw = reader.blob(manifest.config)
        config = None if raw is None else _load(raw)
    stated = descriptor.platform or _platform(config)
    layers = () if manifest is None else manifest.layers
    parts = () if manifest is None or manifest.config is None else (manifest.config,)
    yield Inspection(
        reference=reference,
        digest=str(descriptor.digest),
        media_type=descriptor.media_type,
        size=descriptor.size + sum(one.size for one in (*parts, *layers)),
        platform="" if stated is None else str(stated),
        created=_created(config),
        layers=tuple(one.to_json() for one in layers),
        annotations={} if manifest is None else manifest.annotations,
        config=config,
        source=reader.source,
    )
    # An index that is named many times over is gone through once, or it might take for ever.
    if manifest is not None and manifest.is_index and descriptor.digest not in seen:
        seen.add(descriptor.digest)
        for child in choose(manifest, platform):
            part = reader.manifest(child) if is_manifest(child) else None
            yield from _inspect(reference, child, part, reader, platform, seen, depth + 1)


def _is_json(descriptor: Descriptor) -> bool:
    """Artifacts may have anything as their configuration."""
    return descriptor.media_type.endswith("json") and descriptor.size <= CONFIG_LIMIT


def _load(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _created(config: Any) -> str:
    """When the image was made, as it says itself; a time is never long."""
    created = config.get("created") if isinstance(config, dict) else None
    return created if isinstance(created, str) and len(created) <= _LONGEST_TIME else ""


def _platform(config: Any) -> Platform | None:
    if not isinstance(config, dict):
        return None
    try:
        return Platform.from_json(config)
    except RegistryError:
        return None
