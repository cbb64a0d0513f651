"""Pull: from a registry into the store.

The registry is asked for the manifest each time, with the credentials of who pulls: only then
does what the store has, or what is in flight for somebody else, serve this pull, and only what this
repository has shown that it has (`store.origins`). Parts are
stored before the manifest that names them, and the name comes last, so that the store never
names what it does not have.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence

from ..cancel import Cancellation
from ..convert import Format, FormatError
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    DigestMismatchError,
    DoesNotExistError,
    ManifestError,
)
from ..manifest import MANIFEST_LIMIT, Manifest
from ..media import OCI_CONFIG
from ..observe import Observer
from ..reference import Reference
from ..referrers import is_fallback_tag, is_list
from ..schema1 import ManifestData
from ..session.reader import ImageReader
from ..session.source import RegistrySource
from ..store import Store, Transfer
from .companions import fetch_companions
from .content import (
    ALL,
    check_fits,
    check_platform,
    choose,
    is_manifest,
    names_platform,
    read_manifest,
)
from .keeping import Keeping, claim_of
from .pulled import Pulled
from .schema1 import converted_from, origin_of, platform_of_schema1, upgraded
from .tags import each_tag
from .v1.pull import pull_all_tags_v1, pull_v1
from .versions import Reader, V1Client

__all__ = ["pull", "pull_all_tags"]

_DEEPEST = 8


def pull(
    reference: Reference,
    *,
    client: Reader,
    store: Store,
    platform: str = "",
    format: Format | None = None,
    referrers: bool = False,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor:
    """Fetch an image and name it in the store; returns what the name stands for.

    ``platform`` chooses of an index: ``OS/ARCH[/VARIANT]``, several of them with commas,
    ``all``, or empty for this machine's. The index itself is kept whole, whatever was chosen.
    With ``referrers``, what belongs to the index and to what was chosen of it comes along, such
    as signatures. An image of schema 1 becomes an OCI image, and so does one of a registry that
    speaks V1, where nothing belongs to it.

    With ``format`` the name stands for the image in Docker's or in OCI's manifests, of an index
    what `pulled_tree` makes of it. The registry's own manifests are kept too, as long as the
    sweep lets them. What belongs to an image belongs to the digest that the registry has, and
    so ``referrers`` are refused then.
    """
    if format is not None and referrers:
        raise FormatError(
            "format: signatures and the like belong to the digest that the registry has, and a "
            "conversion gives another one; pull with the referrers, then convert to another name"
        )
    if isinstance(client, V1Client):
        _tell_of_referrers(reference, referrers, observer)
        return pull_v1(
            reference,
            client=client,
            store=store,
            platform=platform,
            format=format,
            cancel=cancel,
            observer=observer,
        )
    with store.lease() as lease:
        keeping = Keeping(store, lease, claim_of(reference, client, store))
        run = _Pull(reference, client, store, platform, cancel, observer, keeping)
        manifest, state, descriptor = run.top()
        run.fetch(manifest, 0)
        if referrers:
            run.fetch_companions()
        cancel.check()
        run.store_manifest(manifest)
        if format is not None:
            descriptor, state = run.converted(manifest, state, descriptor, format)
        keeping.name(reference, descriptor, run.ensure, cancel)
        run.settle(descriptor, state)
    return descriptor


def pull_all_tags(
    reference: Reference,
    *,
    client: Reader,
    store: Store,
    platform: str = "",
    format: Format | None = None,
    referrers: bool = False,
    cancel: Cancellation,
    observer: Observer,
) -> list[str]:
    """Fetch every tag of a repository; returns the tags.

    A tag that cannot be pulled does not keep the others back (see `each_tag`). Tags that are
    lists of referrers are no images, and left out.
    """
    if isinstance(client, V1Client):
        _tell_of_referrers(reference, referrers, observer)
        return pull_all_tags_v1(
            reference,
            client=client,
            store=store,
            platform=platform,
            format=format,
            cancel=cancel,
            observer=observer,
        )

    def work(one: Reference) -> bool:
        if _lists_referrers(client, one):
            return False
        pull(
            one,
            client=client,
            store=store,
            platform=platform,
            format=format,
            referrers=referrers,
            cancel=cancel,
            observer=observer,
        )
        return True

    return each_tag(reference, client, work, done="pulled", cancel=cancel, observer=observer)


def _tell_of_referrers(reference: Reference, referrers: bool, observer: Observer) -> None:
    if referrers:
        observer.log("debug", f"{reference.host} speaks V1, where nothing belongs to an image")


def _lists_referrers(client: ImageReader, reference: Reference) -> bool:
    tag = reference.tag or ""
    if not is_fallback_tag(tag):
        return False
    head = client.head_manifest(reference.repository, tag)
    return head is not None and is_list(tag, head)


class _Pull(Pulled):
    """What one pull knows: who asks, where from, where to."""

    def __init__(
        self,
        reference: Reference,
        client: ImageReader,
        store: Store,
        platform: str,
        cancel: Cancellation,
        observer: Observer,
        keeping: Keeping,
    ) -> None:
        super().__init__(reference, store, platform, cancel, observer, keeping)
        self.client = client
        self.source = RegistrySource(client, reference.repository)
        self.states: dict[Digest, str] = {}  # of what was ensured
        self.images: list[Digest] = []  # the manifests that were gone through

    def top(self) -> tuple[Manifest, str, Descriptor]:
        """The manifest of the reference, how it came to be in the store, and what names it.

        Where the store has something by this name, asking for the digest alone may be enough,
        and cheaper where registries count the fetches: the name may stand for this image, or
        for what was made of it.
        """
        known = self.store.resolve(str(self.reference))
        if known is not None and (stored := self.stored(known)) is not None:
            head = self.client.head_manifest(self.reference.repository, self.reference.locator)
            if head is not None and head.digest in (known.digest, origin_of(self.store, known)):
                return stored, "exists", known
            if head is not None and (stored := self.stored(head)) is not None:
                return stored, "exists", stored.descriptor
        manifest = self.client.get_manifest(self.reference.repository, self.reference.locator)
        if manifest.schema1 is not None:
            made = self.upgraded(manifest, manifest.schema1)
            return made, "converted", converted_from(made.descriptor, manifest.digest)
        had = self.readable(manifest.descriptor) is not None
        return manifest, "exists" if had else "fetched", manifest.descriptor

    def upgraded(self, old: Manifest, data: ManifestData) -> Manifest:
        """The OCI image that a schema 1 manifest stands for, whose parts are in the store."""
        if self.platform not in ("", "all"):
            check_fits(self.reference, platform_of_schema1(data), self.platform)
        made = upgraded(
            data,
            repository=self.reference.repository,
            client=self.client,
            store=self.store,
            fetch=self.fetch_blobs,
            cancel=self.cancel,
            observer=self.observer,
        )
        if made.manifest.config is not None:
            self.keeping.put(made.config, OCI_CONFIG, made.manifest.config.digest)
            self.states[made.manifest.config.digest] = "converted"
        self.observer.log(
            "info",
            f"{self.reference}: the schema 1 manifest {old.digest} was converted to the OCI "
            f"image {made.manifest.digest}",
        )
        return made.manifest

    def stored(self, descriptor: Descriptor) -> Manifest | None:
        """The manifest that the store has, and that this repository has shown that it has."""
        return self.readable(descriptor) if self.keeping.has(descriptor) else None

    def readable(self, descriptor: Descriptor) -> Manifest | None:
        """The manifest that the store has; None also for one that is damaged, which is
        fetched again then, and made good."""
        if not is_manifest(descriptor) or not self.store.has(descriptor.digest, descriptor.size):
            return None
        try:
            return read_manifest(self.store, descriptor)
        except (DigestMismatchError, DoesNotExistError):
            return None

    def fetch(self, manifest: Manifest, depth: int) -> None:
        """Everything that ``manifest`` needs, as far as it was chosen."""
        if depth > _DEEPEST:
            raise ManifestError(f"{manifest.digest}: indexes nest more than {_DEEPEST} deep")
        self.images.append(manifest.digest)
        if not manifest.is_index:
            if depth == 0 and self.platform not in ("", "all"):
                self.check_platform(manifest)
            self.fetch_blobs(manifest.children)
            return
        for child in choose(manifest, self.platform):
            self.cancel.check()
            if child.digest in self.settled:  # with all that it names
                continue
            if not is_manifest(child):
                self.fetch_unknown(child)
                continue
            part, state = self.manifest_of(child)
            self.fetch(part, depth + 1)
            self.store_manifest(part)
            self.settle(child, state)

    def fetch_companions(self) -> None:
        """What belongs to the images that were fetched, and to that in turn."""
        whole = copy.copy(self)  # what is told as settled is one set
        whole.platform = ALL
        fetch_companions(
            whole,
            self.reference.repository,
            tuple(self.images),
            client=self.client,
            store=self.store,
        )

    def fetch_unknown(self, child: Descriptor) -> None:
        """A part of an index that is of no known kind. Registries keep such a one among the
        manifests, where an index's parts are; some as a blob."""
        here = self.keeping.has(child)
        if here or child.inline is not None or child.size > MANIFEST_LIMIT:
            self.fetch_blobs([child])
            return
        try:
            raw = self.client.get_document(self.reference.repository, child)
        except DoesNotExistError:
            self.fetch_blobs([child])
            return
        self.keeping.put(raw, child.media_type, child.digest)
        self.settle(child, "fetched")

    def manifest_of(self, child: Descriptor) -> tuple[Manifest, str]:
        stored = self.stored(child)
        if stored is not None:
            return stored, "exists"
        inline = child.inline
        if inline is not None:
            return Manifest.parse(inline, child.media_type, child.digest), "fetched"
        part = self.client.get_manifest(self.reference.repository, str(child.digest))
        if len(part.raw) != child.size:  # what has another size would never count as complete
            raise ManifestError(
                f"{child.digest} has {len(part.raw)} bytes, and the index that names it says "
                f"{child.size}"
            )
        try:  # what the index says of its kind is what the store goes by
            return Manifest.parse(part.raw, child.media_type, child.digest), "fetched"
        except ManifestError as error:
            raise ManifestError(
                f"{child.digest} is not what the index that names it says: {error}"
            ) from None

    def fetch_blobs(self, descriptors: Sequence[Descriptor]) -> None:
        """All of them at once, as far as the store's workers go; each is told as it settles."""
        self.keeping.rely(descriptors)
        with contextlib.ExitStack() as leaving:
            tickets = {}
            for descriptor in descriptors:
                if descriptor.digest not in self.settled:
                    transfer = self.ensure(descriptor)
                    leaving.callback(transfer.leave)
                    tickets[transfer] = descriptor
            for transfer in self.store.settled(list(tickets), self.cancel):
                descriptor = tickets[transfer]
                state = self.states.setdefault(descriptor.digest, transfer.result())
                self.settle(descriptor, state)

    def ensure(self, descriptor: Descriptor) -> Transfer:
        return self.store.ensure(
            descriptor,
            self.source,
            cancel=self.cancel,
            progress=self.observer.progress,
            log=self.observer.log,
            claim=self.keeping.claim,
        )

    def check_platform(self, manifest: Manifest) -> None:
        """An image of one platform is refused where another one was asked for by name."""
        config = manifest.config
        if names_platform(config):
            self.keeping.rely([config])
            self.states[config.digest] = self.ensure(config).wait(self.cancel)
            check_platform(self.store, self.reference, config, self.platform)
