"""The referrers of a manifest: listed by the API, or by the fallback tag where there is none.

A registry without the API keeps no list, so its clients do: an index under a tag made of the
subject's digest. To change it is to read, change and write it. Jobs of this process take turns;
against others the write is conditional, where the registry gives an ETag and heeds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from ..auth.scope import repository as scope
from ..capabilities import CapabilityTable
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import ManifestError, ProtocolError, RegistryError, RegistryHTTPError, show_url
from ..manifest import MANIFEST_TYPES, OCI_INDEX, Manifest
from ..referrers import (
    describe,
    fallback_tag,
    index_document,
    listed,
    with_entry,
    without_entries,
)
from ..transport import Response
from .paging import PAGE_LIMIT, read_document, walk
from .sender import Sender
from .turns import Turns

__all__ = ["Referrers"]

# What servers answer that do not know the path; those that know it and have nothing give an
# empty list.
_NO_API: Final = frozenset({400, 404, 405, 406})
_TRIES: Final = 8
_FILTERED: Final = "org.opencontainers.referrers.filtersApplied"  # of the release candidates

#: Who changes the list of which subject: all clients of the process take turns here.
_TURNS: Final = Turns()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """What is under a fallback tag. ``raw`` is None where there is no list; ``condition`` is
    the header that a change of it is sent with."""

    raw: bytes | None
    condition: dict[str, str]


class Referrers:
    """The referrers of one client's registry; thread-safe. One lock guards the set of
    repositories that were found to have no API, which are not asked for it again.

    Manifests of lists have ``limit`` bytes at most.
    """

    def __init__(
        self, sender: Sender, base: str, limit: int, *, capabilities: CapabilityTable
    ) -> None:
        self._sender = sender
        self._base = base
        self._limit = limit
        self._capabilities = capabilities
        self._lock = threading.Lock()
        self._without: set[str] = set()

    def find(
        self, repository: str, subject: Digest, artifact_type: str = ""
    ) -> Iterator[Descriptor]:
        """The referrers of ``subject``, each digest once, page after page."""
        with self._lock:
            without = repository in self._without
        first = None if without else self._first(repository, subject, artifact_type)
        if first is None:
            yield from self._by_tag(repository, subject, artifact_type)
            return

        def get(url: str) -> Response:
            page = self._get(url, repository)
            if page.status != 200:
                raise page.error()
            return page

        def read(page: Response) -> Iterator[tuple[Digest, Descriptor]]:
            return ((one.digest, one) for one in self._entries(page, artifact_type))

        yield from walk(first, get, read, self._sender.follow)

    def add(self, repository: str, manifest: Manifest) -> None:
        """Put a manifest on its subject's list, for a registry that does not do so itself.

        Raises `ManifestError` where something else is under the list's tag.
        """
        entry = describe(manifest)
        self._change(repository, manifest, lambda document: with_entry(document, entry))

    @contextlib.contextmanager
    def unlisted(self, repository: str, manifest: Manifest | None) -> Iterator[None]:
        """The block deletes ``manifest``: it is taken off its subject's list, if it is on one,
        and put back on it when the block fails. None is on no list."""
        removed = manifest is not None and self._remove(repository, manifest)
        try:
            yield
        except RegistryError:
            if manifest is not None and removed:
                self._relist(repository, manifest)
            raise

    def _remove(self, repository: str, manifest: Manifest) -> bool:
        digests = (manifest.digest,)
        return self._change(
            repository, manifest, lambda document: without_entries(document, digests), only=True
        )

    def _relist(self, repository: str, manifest: Manifest) -> None:
        try:
            self.add(repository, manifest)
        except RegistryError as error:
            self._sender.observer.log(
                "warning", f"{manifest.digest} is no longer listed as a referrer: {error}"
            )

    # listing

    def _first(self, repository: str, subject: Digest, artifact_type: str) -> Response | None:
        """The first page of the API; None where there is no API."""
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        name = f"{quote(repository)}/referrers/{quote(str(subject), safe=':')}"
        response = self._get(f"{self._base}{name}{query}", repository)
        if response.status == 200 and _kind(response) == OCI_INDEX:
            self._learn(True)
            return response
        if response.status != 200 and response.status not in _NO_API:
            raise response.error()
        response.close()
        self._learn(False)
        with self._lock:
            self._without.add(repository)
        return None

    def _learn(self, there: bool) -> None:
        self._capabilities.learn(self._sender.endpoint.host, referrers=there)

    def _get(self, url: str, repository: str) -> Response:
        return self._sender.send(
            "GET",
            url,
            scopes=(scope(repository, "pull"),),
            headers={"Accept": OCI_INDEX},
            whole=PAGE_LIMIT,
        )

    def _entries(self, page: Response, artifact_type: str) -> list[Descriptor]:
        document = read_document(page)
        notes = document.get("annotations")
        told = [
            *page.header_values("OCI-Filters-Applied"),
            str(notes.get(_FILTERED) or "") if isinstance(notes, dict) else "",
        ]
        filtered = any(
            word.strip().lower() == "artifacttype" for text in told for word in text.split(",")
        )
        try:
            return list(listed(document.get("manifests"), "" if filtered else artifact_type))
        except ManifestError as error:
            raise ProtocolError(f"{show_url(page.url)}: {error}") from None

    def _by_tag(self, repository: str, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
        """What the fallback tag lists. What cannot be read as a list is taken for none."""
        try:
            raw = self._listing(repository, subject).raw
            found = listed(index_document(raw)["manifests"], artifact_type)
            yield from {one.digest: one for one in found}.values()
        except ManifestError as error:
            self._sender.observer.log(
                "info",
                f"{self._sender.endpoint.host}/{repository}:{fallback_tag(subject)} is no list "
                f"of referrers: {error}",
            )

    # the fallback tag

    def _listing(self, repository: str, subject: Digest) -> _Listing:
        """Raises `ManifestError` where the tag has something else than an index."""
        with self._sender.send(
            "GET",
            self._url(repository, fallback_tag(subject)),
            scopes=(scope(repository, "pull"),),
            headers={"Accept": ", ".join(MANIFEST_TYPES)},
            whole=self._limit,
        ) as response:
            if response.status == 404:
                return _Listing(raw=None, condition={"If-None-Match": "*"})
            if response.status != 200:
                raise response.error()
            raw = response.read(self._limit)
        if _is_subject(raw, subject):
            # Some servers take the tag for the digest: what that names lists its platforms.
            return _Listing(raw=None, condition={})
        manifest = Manifest.parse(raw, response.headers.get("Content-Type"))
        if manifest.media_type != OCI_INDEX:
            raise ManifestError(f"it is of {manifest.media_type}, not of {OCI_INDEX}")
        etag = response.headers.get("ETag", "")
        return _Listing(raw=raw, condition={"If-Match": etag} if etag.startswith('"') else {})

    def _change(
        self,
        repository: str,
        manifest: Manifest,
        change: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        only: bool = False,
    ) -> bool:
        """Change the list that ``manifest`` belongs on; whether it was changed.

        With ``only``, there is nothing to change where there is no list.
        """
        assert manifest.subject is not None  # the caller's condition
        subject = manifest.subject.digest
        name = f"{self._sender.endpoint.host}/{repository}:{fallback_tag(subject)}"
        with _TURNS.hold(name, self._sender.cancel):
            gone: tuple[Digest, ...] = ()
            for _ in range(_TRIES):
                try:
                    found = self._listing(repository, subject)
                except ManifestError as error:
                    if only:
                        return False
                    raise ManifestError(
                        f"the referrers of {subject} are to be listed at {name}, where there "
                        f"is something else: {error}; remove that tag first"
                    ) from None
                before = index_document(found.raw)
                after = without_entries(change(before), gone)
                if after == before or (only and found.raw is None):
                    return False
                try:
                    if self._put(repository, subject, after, found.condition):
                        return True
                except RegistryHTTPError as error:
                    gone = self._gone(repository, error, after, gone, manifest.digest)
        raise RegistryError(
            f"{name}: somebody else changes the list of referrers all the time",
            code="conflict",
            retryable=True,
        )

    def _put(
        self,
        repository: str,
        subject: Digest,
        document: dict[str, Any],
        condition: dict[str, str],
    ) -> bool:
        """Write the list. False where somebody else did so since it was read."""
        with self._sender.send(
            "PUT",
            self._url(repository, fallback_tag(subject)),
            scopes=(scope(repository, "pull", "push"),),
            headers={"Content-Type": OCI_INDEX, **condition},
            body=json.dumps(document, separators=(",", ":")).encode(),
            idempotent=True,
            patient=True,
        ) as response:
            if response.status == 412:
                return False
            if response.status not in (200, 201, 202, 204):
                raise response.error()
        return True

    def _gone(
        self,
        repository: str,
        error: RegistryHTTPError,
        document: dict[str, Any],
        known: Sequence[Digest],
        own: Digest,
    ) -> tuple[Digest, ...]:
        """The entries whose manifests are there no more, for which a registry refuses the
        list: other clients delete a manifest and leave its entry. Raises ``error`` if that is
        not it."""
        if known or not error.has("MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"):
            raise error
        gone = tuple(self._absent(repository, listed(document["manifests"]), own))
        if not gone:
            raise error
        return gone

    def _absent(
        self, repository: str, entries: Iterable[Descriptor], own: Digest
    ) -> Iterator[Digest]:
        for entry in entries:
            if entry.digest == own:
                continue
            with self._sender.send(
                "HEAD",
                self._url(repository, str(entry.digest)),
                scopes=(scope(repository, "pull"),),
                headers={"Accept": entry.media_type},
            ) as response:
                if response.status == 404:
                    yield entry.digest

    def _url(self, repository: str, reference: str) -> str:
        return f"{self._base}{quote(repository)}/manifests/{quote(reference, safe=':')}"


def _kind(response: Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _is_subject(raw: bytes, subject: Digest) -> bool:
    try:
        return Digest.of(raw, subject.algorithm) == subject
    except RegistryError:
        return False
