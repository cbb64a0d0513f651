"""Save, load, and push from an archive: images between the store, files and registries."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ..archive import Archive, ArchivedImage, Form, Picked, Places, Plan, open_archive, plan
from ..archive.content import ArchiveSource
from ..cancel import Cancellation
from ..convert import Format
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    ArchiveError,
    InvalidReferenceError,
    ManifestError,
    PlatformError,
    StoreError,
)
from ..observe import Observer, Settled
from ..platform import Platform
from ..reference import Reference
from ..store import Lease, Store, Transfer
from .companions import stored_companions
from .content import ALL, Node, check_platform, find, platforms, tree
from .keeping import Keeping, claim_of_file, pin_tree
from .push import push
from .selection import select
from .versions import Client

__all__ = ["ArchivePath", "load", "push_archive", "save"]

_USAGE: Final = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePath:
    """``docker-archive:PATH[:REF]`` or ``oci-archive:PATH[:REF]``, as other tools write it."""

    form: Form
    path: Path
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> ArchivePath:
        """Raises `ArchiveError` for anything else. A path has no colon.

        >>> ArchivePath.parse("oci-archive:/x.tar:app:1").name
        'app:1'
        """
        kind, _, rest = text.partition(":")
        path, _, name = rest.partition(":")
        forms = {f"{form.value}-archive": form for form in Form}
        if kind not in forms or not path:
            raise ArchiveError(
                f"{text!r:.200} is no archive: docker-archive:PATH[:REF] or "
                "oci-archive:PATH[:REF] is expected",
                status=_USAGE,
            )
        return cls(form=forms[kind], path=Path(path), name=name)


# save


def save(
    references: Sequence[Reference],
    *,
    form: Form,
    store: Store,
    platform: str = "",
    referrers: bool = False,
    lease: Lease,
    cancel: Cancellation,
    observer: Observer,
) -> Plan:
    """An archive of images of the store, ready to be written while ``lease`` keeps them.

    A docker-archive has of an index the image of ``platform``, or of this machine's. An OCI
    archive keeps an index, with those of its platforms that the store has; ``platform`` saves
    one image in its place, of several an index of those. With ``referrers``, what belongs to
    what is saved goes along, in an OCI archive. Raises `StoreError`, `PlatformError`,
    `ArchiveError`, `DigestMismatchError`.
    """
    if form is Form.DOCKER and referrers:
        raise ArchiveError(
            "a docker-archive has no place for what belongs to an image; the format 'oci' has one",
            status=_USAGE,
        )
    if form is Form.DOCKER and (platform == ALL or "," in platform):
        raise ArchiveError(
            "a docker-archive has one platform of an image; the format 'oci' has all of them",
            status=_USAGE,
        )
    picked = []
    for reference in dict.fromkeys(references):
        cancel.check()
        top = tree(store, find(store, reference))
        pin_tree(lease, reference, top, cancel)
        node = top
        if form is Form.DOCKER or platform not in ("", ALL):
            node = _chosen(reference, top, platform)
            _check_platform(store, reference, node, platform)
        one = _pick(reference, node, observer)
        if referrers:
            one = _accompanied(one, store, lease, node, cancel)
        picked.append(one)
    return plan(picked, form, content=store, cancel=cancel, observer=observer)


def _chosen(reference: Reference, node: Node, platform: str) -> Node:
    """The image of one platform, this machine's without a wish; of several an index of those.

    Raises `PlatformError`, which names what is there.
    """
    wanted = platform or str(Platform.here())
    while node.manifest is not None and node.manifest.is_index:
        part = select(node, wanted)
        if not part.complete:
            there = platforms([one.descriptor for one in node.children if one.complete])
            raise PlatformError(
                f"the store does not have all of {reference} for {wanted}; it has {there}"
            )
        if "," in wanted or part is node:
            return part
        node = part
    return node


def _check_platform(store: Store, reference: Reference, node: Node, platform: str) -> None:
    """An image of one platform is not saved where another one was asked for by name."""
    manifest = node.manifest
    config = None if manifest is None or manifest.is_index else manifest.config
    if platform and config is not None and store.has(config.digest, config.size):
        check_platform(store, reference, config, platform)


def _pick(reference: Reference, node: Node, observer: Observer) -> Picked:
    if node.complete:
        parts = tuple(one.descriptor for one in node.walk())
    else:
        parts = tuple(one.descriptor for one in _whole(node, f"the store: {reference}").walk())
        absent = [one.descriptor for one in node.children if not one.complete]
        observer.log(
            "warning",
            f"{reference}: {len(absent)} of {len(node.children)} parts of the index are not in "
            f"the store, and so not in the archive ({platforms(absent)})",
        )
    if node.manifest is None:
        raise ManifestError(f"{reference} names {node.descriptor.media_type}, which is no manifest")
    return Picked(name=reference, descriptor=node.descriptor, manifest=node.manifest, parts=parts)


def _accompanied(
    picked: Picked, store: Store, lease: Lease, node: Node, cancel: Cancellation
) -> Picked:
    """The same with what belongs to it, which is pinned too."""
    found = stored_companions(store, node, cancel)
    parts = list(picked.parts)
    for companion, part in found:
        whole = _whole(part, f"the store: {companion.locator}, which belongs to {picked.name},")
        pin_tree(lease, picked.name, whole, cancel)
        parts += [one.descriptor for one in whole.walk()]
    return dataclasses.replace(
        picked, parts=tuple(parts), companions=tuple(one for one, _ in found)
    )


def _whole(node: Node, where: str) -> Node:
    """What is there in full: an index may lack some of its parts, everything else none."""
    if node.complete:
        return node
    children = tuple(one for one in node.children if one.complete)
    if node.present and children and node.manifest is not None and node.manifest.is_index:
        return dataclasses.replace(node, children=children)
    absent = [str(one.descriptor.digest) for one in node.walk() if not one.present]
    raise StoreError(
        f"{where} is not complete: {', '.join(absent[:3])}{'…' if len(absent) > 3 else ''} missing",
        code="incomplete",
    )


# load


def load(
    path: Path,
    *,
    store: Store,
    name: Reference | None = None,
    places: Places | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> list[Descriptor]:
    """Keep every image of an archive in the store, under the names that it has there.

    ``name`` is for the one image of an archive, in the place of its own names. An image without
    a name is left out with a warning where others have one. No name is written before
    everything is there, verified. What belongs to an image, such as a signature, is kept with
    it. Raises `ArchiveError`, `DigestMismatchError`, `StoreError`.
    """
    with open_archive(
        path, scratch=store.scratch, places=places, cancel=cancel, observer=observer
    ) as archive:
        images = _named(archive, name, observer)
        with store.lease() as lease:
            keeping = Keeping(store, lease, claim_of_file())
            loads = [_Load(archive, image, store, keeping, cancel, observer) for image in images]
            for one in loads:
                one.content()
            for one in loads:
                cancel.check()
                one.name()
        return [image.descriptor for image in images]


def _named(archive: Archive, name: Reference | None, observer: Observer) -> Sequence[ArchivedImage]:
    """The images that the store keeps, each with its names."""
    images = archive.images
    if not images:
        raise ArchiveError(f"{archive.path} has no images")
    if name is not None:
        if len(images) > 1:
            raise ArchiveError(
                f"{archive.path} has {len(images)} images; one name cannot be that of all",
                status=_USAGE,
            )
        images = (dataclasses.replace(images[0], names=(name,)),)
    seen: dict[Reference, Digest] = {}
    for image in images:
        digest = image.descriptor.digest
        for one in image.names:
            if one.digest not in (None, digest) or seen.setdefault(one, digest) != digest:
                raise ArchiveError(
                    f"{archive.path}: {one} is the name of another image than {digest}"
                )
    named = [image for image in images if image.names]
    for image in images:
        if image.names:
            continue
        label = f" (only the label {image.labels[0]!r:.140})" if image.labels else ""
        text = f"{archive.path}: the image {image.descriptor.digest} has no name{label}"
        if not named:
            raise ArchiveError(f"{text}; {_way_out(images)}", code="no-name")
        observer.log("warning", f"{text}, and is left out")
    return named


def _way_out(images: Sequence[ArchivedImage]) -> str:
    if len(images) == 1:
        return "give one with 'as'"
    return f"nor has any other of the {len(images)} images; save them with their names"


class _Load:
    """One image on its way into the store."""

    def __init__(
        self,
        archive: Archive,
        image: ArchivedImage,
        store: Store,
        keeping: Keeping,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._image = image
        self._keeping = keeping
        self._store = store
        self._cancel = cancel
        self._observer = observer
        self._source = ArchiveSource(archive)
        self._archive = archive
        self._node = _whole(tree(archive, image.descriptor), str(archive.path))
        self._companions = [
            (one, _whole(node, f"{archive.path}: {one.locator}"))
            for one, node in stored_companions(archive, self._node, cancel)
        ]
        self._states: dict[Digest, str] = {}

    def content(self) -> None:
        """Everything but the names; parts before what they are part of."""
        nodes = list(self._node.walk())
        for _, part in self._companions:
            nodes += part.walk()
        nodes = list({one.descriptor.digest: one for one in nodes}.values())
        self._blobs([one.descriptor for one in nodes if one.manifest is None])
        for one in nodes:
            if one.manifest is None:
                continue
            self._cancel.check()
            found = one.manifest
            had = self._store.has(found.digest, len(found.raw))
            self._keeping.put(found.raw, found.media_type, found.digest)
            self._settle(one.descriptor, "exists" if had else "loaded")

    def name(self) -> None:
        """What belongs to the image, and the names, last; the image's own row with each."""
        for companion, _ in self._companions:
            self._store.keep_companion(companion, cancel=self._cancel)
        for name in self._image.names:
            self._keeping.name(name, self._image.descriptor, self._ensure, self._cancel)
            self._tell(name, self._image.descriptor, self._states[self._image.descriptor.digest])

    def _blobs(self, descriptors: Sequence[Descriptor]) -> None:
        self._keeping.rely(descriptors)
        with contextlib.ExitStack() as leaving:
            tickets = {}
            for descriptor in descriptors:
                ticket = self._ensure(descriptor)
                leaving.callback(ticket.leave)
                tickets[ticket] = descriptor
            for ticket in self._store.settled(list(tickets), self._cancel):
                had = ticket.result() == "exists"
                self._settle(tickets[ticket], "exists" if had else "loaded")

    def _ensure(self, descriptor: Descriptor) -> Transfer:
        return self._store.ensure(
            descriptor,
            self._source,
            cancel=self._cancel,
            progress=self._observer.progress,
            log=self._observer.log,
            claim=self._keeping.claim,
        )

    def _settle(self, descriptor: Descriptor, state: str) -> None:
        self._states[descriptor.digest] = state
        if descriptor.digest != self._image.descriptor.digest:
            self._tell(self._image.names[0], descriptor, state)

    def _tell(self, name: Reference, descriptor: Descriptor, state: str) -> None:
        self._observer.settled(
            Settled(
                reference=str(name),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=state,
            )
        )


# push


def push_archive(
    archived: ArchivePath,
    reference: Reference,
    *,
    connect: Callable[[Cancellation], Client],
    store: Store,
    platform: str = "",
    format: Format | None = None,
    foreign: bool = False,
    referrers: bool = False,
    places: Places | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Send an image of an archive to a registry, as ``reference``, straight from the file.

    The store keeps nothing of it. Without a name in ``archived`` the archive must have one
    image.
    """
    with open_archive(
        archived.path,
        form=archived.form,
        scratch=store.scratch,
        places=places,
        cancel=cancel,
        observer=observer,
    ) as archive:
        image = _select(archive, archived.name)
        return push(
            reference,
            connect=connect,
            store=store,
            platform=platform,
            format=format,
            foreign=foreign,
            referrers=referrers,
            cancel=cancel,
            observer=observer,
            archived=(archive, image.descriptor),
        )


def _select(archive: Archive, name: str) -> ArchivedImage:
    found = [one for one in archive.images if not name or _is_called(one, name)]
    if len(found) == 1:
        return found[0]
    names = [str(text) for one in archive.images for text in (*one.names, *one.labels)]
    there = ", ".join(dict.fromkeys(names)) or "no names"
    what = f"{len(found)} images" if found or not name else "no image"
    called = f" called {name!r:.140}" if name else ""
    raise ArchiveError(
        f"{archive.path} has {what}{called}; one is expected. It has {there:.1000}",
        code="which-image",
    )


def _is_called(image: ArchivedImage, name: str) -> bool:
    if image.is_called(name):
        return True
    try:
        return image.is_called(str(Reference.parse(name)))
    except InvalidReferenceError:
        return False
