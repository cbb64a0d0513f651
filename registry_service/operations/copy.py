"""Copy: from one registry to another, or within one, not through the disk.

As in a push, each part is asked for before it is sent, and the name comes last; what one registry
has in another repository is mounted. Everything else is read and sent at the same time, a blob
for each of a few threads, in blocks of a bounded size.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Final

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    CancelledError,
    DoesNotExistError,
    ManifestError,
    RegistryError,
    RegistryHTTPError,
)
from ..manifest import MANIFEST_LIMIT, Manifest
from ..media import OCI_LAYER, TO_DOCKER
from ..observe import Observer, Settled
from ..reference import Reference
from ..referrers import is_list
from ..session.relay import Relay
from ..session.source import RegistrySource
from ..session.v2 import V2Client
from ..store import LayerBook, MemoryLayerBook
from ..transport import Readable
from ..transport.retry import RetryPolicy
from .companions import is_listed, remote_companions
from .content import ALL, check_fits, choose, is_manifest, names_platform, platform_of
from .presence import has_blob, has_manifest
from .selection import reduced
from .tags import each_tag
from .v1.copy import copy_v1
from .v1.placed import Placed
from .v1.source import Memory
from .versions import Client, V1Client

__all__ = ["Connections", "copy", "copy_all_tags"]

_WORKERS: Final = 4
_DEEPEST: Final = 8
_SCHEMA1_LAYER: Final = TO_DOCKER[f"{OCI_LAYER}+gzip"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Makes the clients of both sides for a cancellation. ``policy`` says when a source that
    broke is asked again, ``book`` is what was learned of layers of V1 and ``placed``
    where such layers were put."""

    source: Callable[[Cancellation], Client]
    target: Callable[[Cancellation], Client]
    policy: RetryPolicy
    book: LayerBook = dataclasses.field(default_factory=MemoryLayerBook)
    placed: Placed = dataclasses.field(default_factory=Placed)


def copy(
    source: Reference,
    target: Reference,
    *,
    connections: Connections,
    platform: str = "",
    referrers: bool = False,
    memory: Memory | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor | None:
    """Copy an image, byte for byte; returns what ``target`` stands for now, None where both
    sides are of V1, which has no digests.

    An index goes whole; ``platform`` copies the image of one platform in its place, of several
    an index like it that names only those, which has another digest. With
    ``referrers``, what belongs to what is copied goes along, ahead of the name. Where one side
    speaks V1, the image becomes what it is there. ``memory`` is that of a copy of many tags.
    """

    def work(inner: Cancellation, origin: Client, client: Client) -> Descriptor | None:
        if isinstance(origin, V1Client) or isinstance(client, V1Client):
            return copy_v1(
                source,
                target,
                origin=origin,
                client=client,
                policy=connections.policy,
                book=connections.book,
                placed=connections.placed,
                platform=platform,
                referrers=referrers,
                memory=memory,
                cancel=inner,
                observer=observer,
            )
        run = _Copy(source, target, origin, client, connections.policy, inner, observer)
        return run.image(platform, referrers)

    return _run(connections, cancel, work)


def copy_all_tags(
    source: Reference,
    target: Reference,
    *,
    connections: Connections,
    platform: str = "",
    referrers: bool = False,
    cancel: Cancellation,
    observer: Observer,
) -> list[str]:
    """Copy every tag of a repository to the same tag of another; returns the tags.

    A tag that cannot be copied does not keep the others back (see `each_tag`). A list of
    referrers under a fallback tag is not copied over the target's own: what it lists is copied,
    and put on that.
    """
    memory = Memory()

    def work(one: Reference) -> bool:
        copy(
            one,
            target.with_tag(one.tag or ""),
            connections=connections,
            platform=platform,
            referrers=referrers,
            memory=memory,
            cancel=cancel,
            observer=observer,
        )
        return True

    client = connections.source(cancel)
    return each_tag(source, client, work, done="copied", cancel=cancel, observer=observer)


def _run(
    connections: Connections,
    cancel: Cancellation,
    work: Callable[[Cancellation, Client, Client], Descriptor | None],
) -> Descriptor | None:
    """Do the work with clients that are cancelled with the job, and when one part fails."""
    inner = Cancellation()
    remove = cancel.on_cancel(inner.cancel)
    try:
        with connections.source(inner) as origin, connections.target(inner) as client:
            return work(inner, origin, client)
    except CancelledError:
        cancel.check()
        raise
    finally:
        remove()


class _Copy:
    """What one copy knows. Its own thread settles; blobs move in threads of a pool."""

    def __init__(
        self,
        source: Reference,
        target: Reference,
        origin: V2Client,
        client: V2Client,
        policy: RetryPolicy,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self.source = source
        self.target = target
        self.origin = origin
        self.client = client
        self.policy = policy
        self.cancel = cancel
        self.observer = observer
        self.content = RegistrySource(origin, source.repository)
        self.mounts = source.host == target.host and source.repository != target.repository
        self.settled: set[Digest] = set()
        self.images: list[Digest] = []  # the manifests that were gone through

    def image(self, platform: str, referrers: bool) -> Descriptor:
        manifest = self.load(self.source.locator)
        listing = _is_list(self.source, self.target, manifest)
        if listing:
            pass  # what belongs to an image is of no platform
        elif platform and platform != ALL and manifest.is_index:
            manifest = self.chosen(manifest, platform)
        elif platform and platform != ALL:
            self.check_platform(manifest, platform)
        self.check_digest(manifest)
        self.parts(manifest, 0)
        if referrers:
            self.companions(tuple(self.images))
        if listing:
            self.log("info", f"{self.target}: what it lists was copied, not the list itself")
        else:
            self.put(manifest, self.target.locator)
        return manifest.descriptor

    def load(self, locator: str) -> Manifest:
        self.cancel.check()
        return self.origin.get_manifest(self.source.repository, locator)

    def chosen(self, index: Manifest, platform: str) -> Manifest:
        parts = {one.digest for one in choose(index, platform)}
        if len(parts) == 1:
            return self.load(str(parts.pop()))
        whole = all(one.digest in parts for one in index.manifests)
        return index if whole else reduced(index, parts)

    def check_platform(self, manifest: Manifest, platform: str) -> None:
        """An image of one platform is not copied where another one was asked for."""
        if not names_platform(manifest.config):
            return
        raw = self.origin.read_blob(self.source.repository, manifest.config, limit=MANIFEST_LIMIT)
        has = platform_of(raw)
        if has is not None:
            check_fits(self.source, has, platform)

    def check_digest(self, manifest: Manifest) -> None:
        wanted = self.target.digest
        if wanted is not None and wanted != manifest.digest:
            raise ManifestError(
                f"{self.target} asks for another digest than the image has ({manifest.digest})"
            )

    def parts(self, manifest: Manifest, depth: int) -> None:
        """Everything that ``manifest`` names."""
        if depth > _DEEPEST:
            raise ManifestError(f"{manifest.digest}: indexes nest more than {_DEEPEST} deep")
        self.images.append(manifest.digest)
        blobs = []
        for child in (*manifest.children, *self.layers(manifest)):
            if child.digest in self.settled:  # with all that it names
                continue
            if is_manifest(child):
                part = self.load(str(child.digest))
                self.parts(part, depth + 1)
                self.put(part, str(child.digest))
            elif not manifest.is_index or not self.document(child):
                blobs.append(child)
        self.blobs(blobs)

    def layers(self, manifest: Manifest) -> list[Descriptor]:
        """The layers of a manifest of schema 1, which does not say how large they are."""
        if manifest.schema1 is None:
            return []
        found = []
        for digest in dict.fromkeys(one.blob_sum for one in manifest.schema1.fs_layers):
            size = self.origin.blob_size(self.source.repository, digest)
            if size is None:
                raise DoesNotExistError(f"blob {self.source.name}@{digest}")
            found.append(Descriptor(media_type=_SCHEMA1_LAYER, digest=digest, size=size))
        return found

    def document(self, descriptor: Descriptor) -> bool:
        """Copy a part of an index that is of no known kind. It belongs among the manifests;
        False where the source has it as a blob, or the target wants it so."""
        self.cancel.check()
        if descriptor.size > MANIFEST_LIMIT:
            return False
        try:
            raw = self.origin.get_document(self.source.repository, descriptor)
        except DoesNotExistError:
            return False
        repository, digest = self.target.repository, descriptor.digest
        try:
            self.client.get_document(repository, descriptor)
        except RegistryHTTPError:
            pass
        else:
            self.settle(descriptor, "exists")
            return True
        try:
            self.client.put_document(repository, digest, descriptor, raw)
        except RegistryHTTPError as error:
            if error.http_status not in (400, 404, 405, 415):
                raise
            self.log("info", f"{digest} is sent as a blob: {error}")
            self.client.put_blob(repository, descriptor, lambda: io.BytesIO(raw))
        self.settle(descriptor, "copied")
        return True

    def companions(self, subjects: Iterable[Digest]) -> None:
        """What belongs to these, and to that in turn."""
        found = remote_companions(
            self.origin,
            self.source.repository,
            subjects,
            load=lambda descriptor: self.load(str(descriptor.digest)),
            cancel=self.cancel,
            observer=self.observer,
        )
        for companion, manifest in found:
            if companion.suffix or manifest.digest not in self.settled:
                self.parts(manifest, 1)
                self.put(manifest, companion.locator)

    def blobs(self, descriptors: Iterable[Descriptor]) -> None:
        pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="copy")
        try:
            futures = {pool.submit(self.blob, one): one for one in descriptors}
            for future in concurrent.futures.as_completed(futures):
                self.settle(futures[future], future.result())
        except BaseException:
            self.cancel.cancel()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def blob(self, descriptor: Descriptor) -> str:
        self.cancel.check()
        repository = self.target.repository
        if has_blob(self.client, repository, descriptor):
            return "exists"
        if self.mounts and self.mount(descriptor):
            return "mounted"
        if descriptor.urls and self.is_elsewhere(descriptor):
            return "skipped"
        self.send(descriptor)
        return "copied"

    def mount(self, descriptor: Descriptor) -> bool:
        """A mount saves the way; where it fails, the blob takes it."""
        try:
            return self.client.mount_blob(
                self.target.repository, descriptor.digest, self.source.repository
            )
        except CancelledError:
            raise
        except RegistryError as error:
            self.log(
                "info",
                f"{descriptor.digest} could not be mounted from {self.source.repository}: {error}",
            )
            return False

    def is_elsewhere(self, descriptor: Descriptor) -> bool:
        """Whether the source does not have a blob whose place is at URLs of its own."""
        if self.origin.blob_size(self.source.repository, descriptor.digest) is not None:
            return False
        self.log("info", f"{descriptor.digest} stays where its descriptor's URLs say")
        return True

    def send(self, descriptor: Descriptor) -> None:
        def put(opener: Callable[[], Readable]) -> None:
            self.client.put_blob(
                self.target.repository, descriptor, opener, progress=self.observer.progress
            )

        data = descriptor.inline
        if data is not None:
            put(lambda: io.BytesIO(data))
            return
        with Relay(
            descriptor,
            lambda offset: self.content.open(descriptor, offset, self.cancel),
            policy=self.policy,
            cancel=self.cancel,
            observer=self.observer,
        ) as relay:
            put(relay.open)

    def put(self, manifest: Manifest, locator: str) -> None:
        self.cancel.check()
        repository = self.target.repository
        there = has_manifest(self.client, repository, locator, manifest.digest)
        if there and is_listed(self.client, repository, manifest):
            self.settle(manifest.descriptor, "exists")
            return
        self.client.put_manifest(repository, locator, manifest)
        self.settle(manifest.descriptor, "exists" if there else "copied")

    def settle(self, descriptor: Descriptor, state: str) -> None:
        self.settled.add(descriptor.digest)
        self.observer.settled(
            Settled(
                reference=str(self.target),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=state,
            )
        )

    def log(self, level: str, text: str) -> None:
        self.observer.log(level, text)


def _is_list(source: Reference, target: Reference, manifest: Manifest) -> bool:
    """Whether this is a list of referrers, which the target's repository has of its own."""
    tag = target.tag
    if tag is None or tag != source.tag or source.digest is not None:
        return False
    return is_list(tag, manifest.descriptor)
