"""Push: from the store to a registry.

The order is the one that the protocol asks for: the parts first, each asked for before it is
sent, then the manifests, children before their index, and the name last.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..cancel import Cancellation
from ..convert import Format, FormatError
from ..descriptor import Descriptor
from ..errors import CancelledError, ManifestError, RegistryError, RegistryHTTPError, StoreError
from ..manifest import MANIFEST_LIMIT
from ..observe import Observer, Settled
from ..reference import Reference
from ..referrers import Companion
from ..session.v2 import V2Client
from ..store import Content, Store
from .companions import is_listed, stored_companions
from .content import Node, check_node, find, held, platforms, tree
from .convert import formatted
from .keeping import claim_of, pin_tree
from .presence import has_blob, has_manifest
from .selection import select, without_foreign
from .v1 import push as v1
from .versions import Client, V1Client, needs_v2

__all__ = ["push"]

_WORKERS = 4


def push(
    reference: Reference,
    *,
    connect: Callable[[Cancellation], Client],
    store: Store,
    platform: str = "",
    format: Format | None = None,
    foreign: bool = False,
    referrers: bool = False,
    cancel: Cancellation,
    observer: Observer,
    archived: tuple[Content, Descriptor] | None = None,
) -> Descriptor:
    """Send the image of that name; returns what the registry has under it now.

    ``archived`` is content other than the store's, and what of it is sent.

    An index goes whole, with every part; ``platform`` sends the image of one platform in its
    place, of several an index of those. ``format`` sends it in Docker's or in OCI's, whatever
    the store has. Layers that come from elsewhere, by their URLs, are sent only with
    ``foreign``. With ``referrers``, what is there that belongs to what is sent goes along, ahead
    of the image's name; nothing belongs to what a conversion makes, so that is refused. What is
    not complete in the store fails before anything is sent.

    To a registry of V1 the image goes as a chain (`v1.push`), an index only where it has one image
    or ``platform`` names one; ``format`` means nothing there, and ``referrers`` are refused.

    ``connect`` makes the client of a cancellation: when one blob fails, the others that are
    under way are given up too.
    """
    with store.lease() as lease:
        content, found = archived or (store, find(store, reference))
        whole = tree(content, found)
        check_node(content, reference, whole, platform)
        node = select(whole, platform)
        if not foreign:
            node = without_foreign(node)
        _check_complete(reference, node)
        if archived is None:  # a name that is removed while its image is sent leaves that alone
            pin_tree(lease, reference, whole, cancel)
        plain = node
        if format is not None:
            converted = formatted(reference, node, format, cancel=cancel, observer=observer)
            if referrers:
                _check_unchanged(node, converted)
            node = converted
        companions = stored_companions(content, node, cancel) if referrers else []
        if not foreign:
            companions = [(one, without_foreign(part)) for one, part in companions]
        for _, part in companions:
            _check_complete(reference, part)
            if archived is None:
                pin_tree(lease, reference, part, cancel)
        inner = Cancellation()
        remove = cancel.on_cancel(inner.cancel)
        try:
            with connect(inner) as client:
                if isinstance(client, V1Client):
                    if referrers:
                        needs_v2(
                            client, "where nothing belongs to an image", "push the image alone"
                        )
                    _to_v1(reference, plain, client, store, content, format, inner, observer)
                else:
                    _Push(reference, client, store, content, inner, observer).all(node, companions)
        except CancelledError:
            cancel.check()
            raise
        finally:
            remove()
    return node.descriptor


def _to_v1(
    reference: Reference,
    node: Node,
    client: V1Client,
    store: Store,
    content: Content,
    format: Format | None,
    cancel: Cancellation,
    observer: Observer,
) -> None:
    plan = v1.planned(reference, node, content)
    if format is not None:
        observer.log(
            "warning",
            f"{client.endpoint.host} speaks V1, which has neither format: {format.value!r} changes "
            "nothing",
        )
    v1.push(
        reference,
        plan,
        client=client,
        opener=lambda layer: content.open(layer.digest),
        book=store.layers,
        cancel=cancel,
        observer=observer,
    )


def _check_unchanged(node: Node, converted: Node) -> None:
    """What belongs to an image belongs to its digest."""
    if converted.descriptor.digest != node.descriptor.digest:
        raise FormatError(
            "format: signatures and the like belong to the digest that the store has, and "
            "a conversion gives another one; push without the one or the other"
        )


def _check_complete(reference: Reference, node: Node) -> None:
    if node.complete:
        return
    if node.manifest is not None and node.manifest.is_index:
        missing = [one.descriptor for one in node.children if not one.complete]
        present = [one.descriptor for one in node.children if one.complete]
        hint = (
            f"; pull it with the platform 'all', or push one of {platforms(present)}"
            if present
            else "; pull it again"
        )
        raise StoreError(
            f"{reference} is an index, and the store does not have all of it: "
            f"{len(missing)} of {len(node.children)} parts are missing "
            f"({platforms(missing)}){hint}",
            code="incomplete",
        )
    absent = [str(one.descriptor.digest) for one in node.walk() if not one.present]
    raise StoreError(
        f"the store does not have all of {reference}: {', '.join(absent[:3])}"
        f"{'…' if len(absent) > 3 else ''} missing; pull it again",
        code="incomplete",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Push:
    reference: Reference
    client: V2Client
    store: Store
    content: Content
    cancel: Cancellation
    observer: Observer

    def all(self, node: Node, companions: Sequence[tuple[Companion, Node]]) -> None:
        sent = self.blobs(node, *(part for _, part in companions))
        for one, part in companions:
            self.manifests(part, sent, one.locator)
        self.manifests(node, sent)

    def blobs(self, *nodes: Node) -> bool:
        """Send what the registry lacks, each blob once; whether anything was sent."""
        apart = {one.descriptor.digest for node in nodes for one in _unknown(node)}
        blobs = {
            one.descriptor.digest: one.descriptor
            for node in nodes
            for one in node.walk()
            if one.manifest is None and one.descriptor.digest not in apart
        }.values()
        sources = _Sources(self.store, self.reference)
        pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="push")
        sent = False
        try:
            futures = {pool.submit(self.blob, one, sources): one for one in blobs}
            for future in concurrent.futures.as_completed(futures):
                state = future.result()
                sent = sent or state != "exists"
                self.settle(futures[future], state)
        except BaseException:
            self.cancel.cancel()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return sent

    def blob(self, descriptor: Descriptor, sources: _Sources) -> str:
        self.cancel.check()
        repository = self.reference.repository
        claim = claim_of(self.reference, self.client, self.store)
        if has_blob(self.client, repository, descriptor):
            claim.confirm(descriptor.digest)
            return "exists"
        origin = sources.of(descriptor)
        if origin is not None and self.mount(descriptor, origin):
            claim.confirm(descriptor.digest)
            return "mounted"
        self.client.put_blob(
            repository,
            descriptor,
            lambda: self.content.open(descriptor.digest),
            progress=self.observer.progress,
        )
        claim.record(descriptor.digest)
        return "pushed"

    def mount(self, descriptor: Descriptor, origin: str) -> bool:
        """A mount saves an upload; where it fails, the upload is the answer to everything."""
        try:
            return self.client.mount_blob(self.reference.repository, descriptor.digest, origin)
        except CancelledError:
            raise
        except RegistryError as error:
            self.observer.log(
                "info", f"{descriptor.digest} could not be mounted from {origin}: {error}"
            )
            return False

    def manifests(self, node: Node, sent: bool, place: str = "") -> None:
        """Put every manifest, the node's own last, under the image's name or at ``place``."""
        unknown = {one.descriptor.digest for one in _unknown(node)}
        for one in node.walk():
            manifest = one.manifest
            if one.descriptor.digest in unknown:
                sent = self.document(one.descriptor) or sent
            if manifest is None:
                continue
            self.cancel.check()
            own = one.descriptor.digest == node.descriptor.digest
            locator = (place or self.reference.locator) if own else str(manifest.digest)
            state = "exists"
            repository = self.reference.repository
            there = not sent and has_manifest(self.client, repository, locator, manifest.digest)
            if not there or not is_listed(self.client, repository, manifest):
                self.check_digest(own and not place, one)
                self.client.put_manifest(repository, locator, manifest)
                claim_of(self.reference, self.client, self.store).record(manifest.digest)
                state = "pushed"
                sent = True
            self.settle(one.descriptor, state)

    def document(self, descriptor: Descriptor) -> bool:
        """Put a part of an index that is of no known kind, whether it was sent. It belongs
        among the manifests; a registry that refuses it there gets it as a blob."""
        self.cancel.check()
        state = "exists"
        repository, digest = self.reference.repository, descriptor.digest
        try:
            self.client.get_document(repository, descriptor)
        except RegistryHTTPError:
            raw = self.content.read(digest, MANIFEST_LIMIT)
            try:
                self.client.put_document(repository, digest, descriptor, raw)
                state = "pushed"
            except RegistryHTTPError as error:
                if error.http_status not in (400, 404, 405, 415):
                    raise
                self.observer.log("info", f"{digest} is sent as a blob: {error}")
                state = self.blob(descriptor, _Sources(self.store, self.reference))
        self.settle(descriptor, state)
        return state != "exists"

    def check_digest(self, own: bool, node: Node) -> None:
        wanted = self.reference.digest
        if own and wanted is not None and wanted != node.descriptor.digest:
            raise ManifestError(
                f"{self.reference} asks for another digest than the image has "
                f"({node.descriptor.digest})"
            )

    def settle(self, descriptor: Descriptor, state: str) -> None:
        self.observer.settled(
            Settled(
                reference=str(self.reference),
                digest=str(descriptor.digest),
                media_type=descriptor.media_type,
                size=descriptor.size,
                state=state,
            )
        )


def _unknown(node: Node) -> Iterator[Node]:
    """The parts of indexes that are of no known kind, and not too large for manifests."""
    for one in node.walk():
        if one.manifest is not None and one.manifest.is_index:
            for part in one.children:
                if part.manifest is None and part.descriptor.size <= MANIFEST_LIMIT:
                    yield part


class _Sources:
    """From which repository of the same registry a blob may be mounted: one whose image in
    the store has it. Looked up once, and only when a blob is missing over there."""

    def __init__(self, store: Store, target: Reference) -> None:
        self._store = store
        self._target = target
        self._lock = threading.Lock()  # held while looking: the others want the answer too
        self._origins: Mapping[str, str] | None = None

    def of(self, descriptor: Descriptor) -> str | None:
        with self._lock:
            if self._origins is None:
                self._origins = self._look()
            return self._origins.get(str(descriptor.digest))

    def _look(self) -> Mapping[str, str]:
        origins: dict[str, str] = {}
        for name, descriptor in held(self._store):
            if name.host != self._target.host or name.repository == self._target.repository:
                continue
            try:
                node = tree(self._store, descriptor)
            except RegistryError:
                continue  # another image's damage is no reason to fail this push
            for one in node.walk():
                origins.setdefault(str(one.descriptor.digest), name.repository)
        return origins
