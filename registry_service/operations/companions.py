"""What belongs to an image, such as signatures, SBOMs and attestations, and to that in turn.

A manifest belongs to another one when it names that as its subject, or when it is under a tag
that cosign made of the other's digest. The first is believed of the manifest only, not of the
list that names it: some registries take the fallback tag for something else.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import ManifestError, RegistryError, RegistryHTTPError
from ..manifest import Manifest
from ..observe import Observer
from ..referrers import COSIGN_SUFFIXES, Companion, cosign_tag
from ..session.reader import ImageReader
from ..session.v2 import V2Client
from ..store import Content, Store
from .content import Node, is_manifest, read_manifest, tree

__all__ = ["fetch_companions", "is_listed", "remote_companions", "stored_companions"]

_MOST: Final = 10_000  # of one image; a registry could go on for ever


def fetch_companions(
    run: Fetcher, repository: str, subjects: Iterable[Digest], *, client: ImageReader, store: Store
) -> None:
    """Bring all that belongs to ``subjects`` into the store, whole, and keep it findable."""
    found = remote_companions(
        client,
        repository,
        subjects,
        load=lambda descriptor: run.manifest_of(descriptor)[0],
        cancel=run.cancel,
        observer=run.observer,
    )
    for companion, manifest in found:
        descriptor = companion.descriptor
        if descriptor.digest not in run.settled:
            had = store.has(descriptor.digest, descriptor.size)
            run.fetch(manifest, 1)
            run.store_manifest(manifest)
            run.settle(descriptor, "exists" if had else "fetched")
        store.keep_companion(companion, cancel=run.cancel)


class Fetcher(Protocol):
    """What brings a manifest and its parts into the store: a pull."""

    cancel: Cancellation
    observer: Observer
    settled: set[Digest]

    def manifest_of(self, child: Descriptor) -> tuple[Manifest, str]: ...
    def fetch(self, manifest: Manifest, depth: int) -> None: ...
    def store_manifest(self, manifest: Manifest) -> None: ...
    def settle(self, descriptor: Descriptor, state: str) -> None: ...


def remote_companions(
    client: ImageReader,
    repository: str,
    subjects: Iterable[Digest],
    *,
    load: Callable[[Descriptor], Manifest],
    cancel: Cancellation,
    observer: Observer,
) -> Iterator[tuple[Companion, Manifest]]:
    """What a repository has that belongs to ``subjects``, and to that in turn, with its
    manifest, which ``load`` gets."""

    def find(subject: Digest) -> Iterator[tuple[Companion, Manifest]]:
        for companion in _named(client, repository, subject, observer):
            try:
                manifest = load(companion.descriptor)
            except ManifestError as error:
                observer.log("warning", f"{companion.descriptor.digest} is passed over: {error}")
                continue
            if _belongs(companion, manifest):
                descriptor = dataclasses.replace(
                    companion.descriptor, media_type=manifest.media_type, size=len(manifest.raw)
                )
                yield dataclasses.replace(companion, descriptor=descriptor), manifest
            else:
                observer.log(
                    "info",
                    f"{companion.descriptor.digest} is listed as a referrer of {subject}, but "
                    "does not say so itself; it is passed over",
                )

    return _gather(subjects, find, cancel)


def stored_companions(
    store: Content, node: Node, cancel: Cancellation
) -> list[tuple[Companion, Node]]:
    """What the store, or an archive, has that belongs to an image of its own, as trees."""
    known: dict[Digest, list[Companion]] = collections.defaultdict(list)
    for companion in store.companions():
        known[companion.subject].append(companion)

    def find(subject: Digest) -> Iterator[tuple[Companion, Manifest]]:
        for companion in known.get(subject, ()):
            descriptor = companion.descriptor
            if store.has(descriptor.digest, descriptor.size):
                manifest = read_manifest(store, descriptor)
                if _belongs(companion, manifest):
                    yield companion, manifest

    subjects = [one.descriptor.digest for one in node.walk() if one.manifest is not None]
    found = _gather(subjects, find, cancel)
    return [(companion, tree(store, companion.descriptor)) for companion, _ in found]


def is_listed(client: V2Client, repository: str, manifest: Manifest) -> bool:
    """Whether the registry lists a manifest among its subject's referrers; one without a
    subject needs no listing."""
    if manifest.subject is None:
        return True
    listed = client.referrers(repository, manifest.subject.digest)
    return any(one.digest == manifest.digest for one in listed)


def _gather(
    subjects: Iterable[Digest],
    find: Callable[[Digest], Iterator[tuple[Companion, Manifest]]],
    cancel: Cancellation,
) -> Iterator[tuple[Companion, Manifest]]:
    waiting = collections.deque(dict.fromkeys(subjects))
    asked = set(waiting)
    seen: set[tuple[Digest, str]] = set()
    while waiting:
        cancel.check()
        for companion, manifest in find(waiting.popleft()):
            key = companion.subject, companion.locator
            if key in seen:
                continue
            seen.add(key)
            if len(seen) > _MOST:
                raise RegistryError(f"more than {_MOST} manifests belong to one image")
            if manifest.digest not in asked:
                asked.add(manifest.digest)
                waiting.append(manifest.digest)
            yield companion, manifest


def _named(
    client: ImageReader, repository: str, subject: Digest, observer: Observer
) -> Iterator[Companion]:
    """What the registry says belongs to ``subject``."""
    for descriptor in client.referrers(repository, subject):
        if is_manifest(descriptor):
            yield Companion(subject=subject, descriptor=descriptor)
        else:
            observer.log(
                "info",
                f"{descriptor.digest}, a referrer, is of {descriptor.media_type}: no manifest",
            )
    for suffix in COSIGN_SUFFIXES:
        found = _tagged(client, repository, cosign_tag(subject, suffix))
        if found is not None:
            yield Companion(subject=subject, descriptor=found, suffix=suffix)


def _tagged(client: ImageReader, repository: str, tag: str) -> Descriptor | None:
    try:
        return client.head_manifest(repository, tag)
    except RegistryHTTPError as error:
        if error.http_status == 403:  # how some servers say that there is no such tag
            return None
        raise


def _belongs(companion: Companion, manifest: Manifest) -> bool:
    if companion.suffix:
        return True
    return manifest.subject is not None and manifest.subject.digest == companion.subject
