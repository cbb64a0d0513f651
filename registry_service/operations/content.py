"""What the store has of an image: its manifests as a tree, what is there and what is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeGuard

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidReferenceError, ManifestError, PlatformError, StoreError
from ..manifest import INDEX_TYPES, MANIFEST_LIMIT, MANIFEST_TYPES, Manifest
from ..platform import Platform
from ..reference import Reference
from ..store import Content, Store

__all__ = [
    "ALL",
    "Node",
    "check_fits",
    "check_node",
    "check_platform",
    "choose",
    "find",
    "held",
    "names_platform",
    "platform_of",
    "read_manifest",
    "tree",
    "wishes",
]

#: The platform that stands for every platform.
ALL = "all"

_Key: TypeAlias = tuple[Digest, int, str]
_CONFIG_LIMIT = 4 * 1024 * 1024
_DEEPEST = 8  # indexes within indexes; real ones nest twice at the most


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A descriptor and what the store has of it. ``children`` are empty for what is absent;
    ``complete`` says that nothing is absent, here and below."""

    descriptor: Descriptor
    present: bool
    manifest: Manifest | None = None
    children: tuple[Node, ...] = ()
    complete: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        complete = self.present and all(child.complete for child in self.children)
        object.__setattr__(self, "complete", complete)

    def walk(self) -> Iterator[Node]:
        """This node and all below, each digest once, parts before what they are part of."""
        seen = set()
        stack: list[tuple[Node, bool]] = [(self, False)]
        while stack:
            node, visited = stack.pop()
            if visited:
                yield node
            elif node.descriptor.digest not in seen:
                seen.add(node.descriptor.digest)
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node.children))

    @property
    def size(self) -> int:
        """Bytes of all that is present, each blob once."""
        return sum(node.descriptor.size for node in self.walk() if node.present)


def is_manifest(descriptor: Descriptor) -> bool:
    return descriptor.media_type in MANIFEST_TYPES


def read_manifest(store: Content, descriptor: Descriptor) -> Manifest:
    """The manifest of the store, or of an archive, verified against its digest."""
    raw = store.read(descriptor.digest, MANIFEST_LIMIT)
    return Manifest.parse(raw, descriptor.media_type, descriptor.digest)


def tree(store: Content, descriptor: Descriptor) -> Node:
    """What the store, or an archive, has of ``descriptor``."""
    return _grow(store, descriptor, 0, {})


def _grow(store: Content, descriptor: Descriptor, depth: int, known: dict[_Key, Node]) -> Node:
    """Each manifest is read once: indexes that name each other many times over would take for
    ever else."""
    if depth > _DEEPEST:
        raise ManifestError(f"{descriptor.digest}: indexes nest more than {_DEEPEST} deep")
    key = descriptor.digest, descriptor.size, descriptor.media_type
    same = known.get(key)
    if same is not None:
        return dataclasses.replace(same, descriptor=descriptor)
    present = store.has(descriptor.digest, descriptor.size)
    manifest: Manifest | None = None
    children: tuple[Node, ...] = ()
    if present and is_manifest(descriptor):
        manifest = read_manifest(store, descriptor)
        children = tuple(_grow(store, child, depth + 1, known) for child in manifest.children)
    node = Node(descriptor=descriptor, present=present, manifest=manifest, children=children)
    known[key] = node
    return node


def find(store: Store, reference: Reference) -> Descriptor:
    """The image of that reference in the store; a digest finds it under any tag of its
    repository too. Raises `StoreError`."""
    found = store.resolve(str(reference))
    if found is None and reference.digest is not None:
        for name, descriptor in held(store):
            if name.name == reference.name and descriptor.digest == reference.digest:
                return descriptor
    if found is None:
        raise StoreError(
            f"the store has no image {reference}; pull it, or give it that name with 'tag'",
            code="not-in-store",
        )
    return found


def held(store: Store) -> list[tuple[Reference, Descriptor]]:
    """The images of the store whose names are references, written in full: by another name no
    image is found. Other tools' entries are left out."""
    images = []
    for name, descriptor in store.references():
        try:
            reference = Reference.parse(name, default_tag=None)
        except InvalidReferenceError:
            continue
        if str(reference) == name and (reference.tag or reference.digest):
            images.append((reference, descriptor))
    return images


def wishes(wanted: str) -> tuple[Platform, ...]:
    """The platforms of ``OS/ARCH[/VARIANT],…``, this machine's for an empty text.

    Raises `InvalidPlatformError`.
    """
    if not wanted:
        return (Platform.here(),)
    return tuple(Platform.parse(one) for one in wanted.split(","))


def choose(manifest: Manifest, wanted: str) -> tuple[Descriptor, ...]:
    """The manifests of an index that ``wanted`` asks for, in the index's order: platforms with
    commas between them, `ALL`, or empty for this machine's.

    An index whose parts name no platforms has nothing to choose from, and without a wish it
    is all of it. Indexes within it that name none are looked into when nothing else serves.
    Raises `PlatformError`, which names what there is.
    """
    parts = manifest.manifests
    if wanted == ALL or (not wanted and not any(one.platform for one in parts)):
        return parts
    offered = [one.platform for one in parts]
    chosen: set[int] = set()
    for platform in wishes(wanted):
        place = Platform.choose(platform, offered)
        if place is not None:
            chosen.add(place)
            continue
        inner = {
            n for n, one in enumerate(parts) if not one.platform and one.media_type in INDEX_TYPES
        }
        if not inner:
            raise PlatformError(f"the image has nothing for {platform}; it has {platforms(parts)}")
        chosen |= inner
    return tuple(parts[place] for place in sorted(chosen))


def check_node(store: Content, reference: Reference, node: Node, wanted: str) -> None:
    """`check_platform` for a tree: nothing is refused where its configuration is not there, nor
    of an index, of which a part is chosen."""
    manifest = node.manifest
    config = None if manifest is None or manifest.is_index else manifest.config
    if wanted in ("", ALL) or config is None or not store.has(config.digest, config.size):
        return
    check_platform(store, reference, config, wanted)


def check_platform(store: Content, reference: Reference, config: Descriptor, wanted: str) -> None:
    """Refuse an image of one platform where another one was asked for by name.

    ``config`` is in the store. Raises `PlatformError`; not for an artifact, which has none.
    """
    if not names_platform(config):
        return
    has = platform_of(store.read(config.digest, _CONFIG_LIMIT))
    if has is not None:
        check_fits(reference, has, wanted)


def platform_of(config: bytes) -> Platform | None:
    """The platform that the configuration of an image names, or None."""
    try:
        value = json.loads(config)
    except (ValueError, RecursionError):
        return None
    return Platform.from_json(value) if isinstance(value, dict) else None


def check_fits(reference: Reference, has: Platform, wanted: str) -> None:
    """Raise `PlatformError` where an image for ``has`` is none of the platforms ``wanted``."""
    platforms = wishes(wanted)
    if not any(one.matches(has) for one in platforms):
        raise PlatformError(
            f"{reference} is for {has} only, not for {', '.join(map(str, platforms))}"
        )


def names_platform(config: Descriptor | None) -> TypeGuard[Descriptor]:
    """Whether it is the configuration of an image, which names its platform."""
    return config is not None and config.media_type.endswith(("image.v1+json", "config.v1+json"))


def platforms(descriptors: Sequence[Descriptor]) -> str:
    """The platforms as a person reads them."""
    names = sorted({str(one.platform) for one in descriptors if one.platform is not None})
    return ", ".join(names) if names else "no platforms named"
