"""Manifests of one registry: asked for, put and deleted."""

from __future__ import annotations

import dataclasses
from typing import Final
from urllib.parse import quote

from ..auth.scope import repository as scope
from ..capabilities import CapabilityTable
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    DigestMismatchError,
    DoesNotExistError,
    InvalidDigestError,
    ManifestError,
    ProtocolError,
)
from ..manifest import MANIFEST_TYPES, SCHEMA1_TYPES, Manifest
from .answers import absent, described, digest_of, header_digest, stated_digest, verified
from .referrers import Referrers
from .sender import Sender
from .upload import check_digest

__all__ = ["Manifests"]

# Every kind, for some servers convert, and some say that there is nothing, when a client
# names only a few; and what is of another kind is there all the same.
_ACCEPT: Final = {"Accept": ", ".join((*MANIFEST_TYPES, *SCHEMA1_TYPES, "*/*;q=0.1"))}


class Manifests:
    """The manifests of one client's registry; thread-safe. ``base`` is its root; of a document
    ``limit`` bytes are read at most. ``referrers`` keeps the lists of those that have a subject.
    """

    def __init__(
        self,
        sender: Sender,
        base: str,
        limit: int,
        *,
        referrers: Referrers,
        capabilities: CapabilityTable,
    ) -> None:
        self._sender = sender
        self._endpoint = sender.endpoint
        self._base = base
        self._limit = limit
        self._referrers = referrers
        self._capabilities = capabilities

    def get(self, repository: str, reference: str | Digest) -> Manifest:
        """The manifest of a tag or digest, verified against the digest, or against the one
        that the server says a tag has.

        Raises `DoesNotExistError`, `DigestMismatchError`, `ManifestError`.
        """
        url = self._url(repository, reference)
        with self._sender.send(
            "GET",
            url,
            scopes=(scope(repository, "pull"),),
            headers=_ACCEPT,
            whole=self._limit,
        ) as response:
            if response.status == 404:
                raise absent(response, f"manifest {self._name(repository, reference)}")
            if response.status != 200:
                raise response.error()
            raw = response.read(self._limit)
            wanted = digest_of(reference)
            manifest = Manifest.parse(
                raw,
                response.headers.get("Content-Type"),
                wanted or stated_digest(response),
            )
            if wanted is None and manifest.schema1 is not None:
                # Some servers sign anew what they serve: their name for it is the one that
                # stays the same.
                named = header_digest(response) or manifest.digest
                manifest = dataclasses.replace(manifest, digest=named)
            return manifest

    def get_document(self, repository: str, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest of whatever media type, verified; they are not looked at.

        Raises `DoesNotExistError`, `DigestMismatchError`, `ProtocolError` for one too large.
        """
        kind = descriptor.media_type
        with self._sender.send(
            "GET",
            self._url(repository, descriptor.digest),
            scopes=(scope(repository, "pull"),),
            headers={"Accept": f"{kind}, {_ACCEPT['Accept']}"},
            whole=self._limit,
        ) as response:
            if response.status == 404:
                name = self._name(repository, descriptor.digest)
                raise absent(response, f"manifest {name}")
            if response.status != 200:
                raise response.error()
            raw = response.read(self._limit)
        return verified(raw, descriptor.digest, "manifest")

    def head(self, repository: str, reference: str | Digest) -> Descriptor | None:
        """What the manifest is, without fetching it; None where there is none.

        Servers that cannot tell (no HEAD, no digest or length in the answer) are asked for
        the manifest itself.
        """
        url = self._url(repository, reference)
        with self._sender.send(
            "HEAD", url, scopes=(scope(repository, "pull"),), headers=_ACCEPT
        ) as response:
            if response.status == 404:
                return None
            # A HEAD has no body that would say why it was refused; the GET's has.
            found = described(response, reference) if response.status == 200 else None
            if found is not None:
                return found
        try:
            return self.get(repository, reference).descriptor
        except DoesNotExistError:
            return None

    def put(self, repository: str, reference: str | Digest, manifest: Manifest) -> Digest:
        """Store the manifest, byte for byte, under a tag or its digest.

        One that has a subject is put on the subject's list of referrers, where the registry
        does not say that it does so itself.
        """
        listed = self._put(repository, reference, manifest.descriptor, manifest.raw)
        if manifest.subject is not None and not listed:
            self._referrers.add(repository, manifest)
        return manifest.digest

    def put_document(
        self, repository: str, reference: str | Digest, manifest: Descriptor, raw: bytes
    ) -> Digest:
        """As `put`, of whatever media type the document is; it is not looked at."""
        self._put(repository, reference, manifest, raw)
        return manifest.digest

    def delete(self, repository: str, reference: str | Digest) -> None:
        """Delete a tag alone, or the manifest of a digest with every tag on it.

        A referrer is taken off its subject's list first, where that is kept under a tag: a
        registry may refuse a list that names what is there no more. Raises
        `DoesNotExistError`, and `RegistryHTTPError` with the status 400 or 405 where the
        registry does not do this.
        """
        digest = digest_of(reference)
        manifest = None if digest is None else self._referrer(repository, digest)
        with self._referrers.unlisted(repository, manifest):
            self._delete(repository, reference)

    def _put(
        self, repository: str, reference: str | Digest, manifest: Descriptor, raw: bytes
    ) -> bool:
        """Whether the registry says that it lists the document with its subject's referrers."""
        wanted = digest_of(reference)
        if wanted is not None and wanted != manifest.digest:
            raise DigestMismatchError(
                f"the manifest {manifest.digest} cannot be put as {wanted}",
                expected=str(wanted),
                actual=str(manifest.digest),
            )
        try:
            return self._put_once(repository, reference, manifest, raw)
        except DigestMismatchError as error:
            # A byte was changed on the way, it may be, and a tag names what came of that.
            self._sender.observer.log("warning", f"{error}; sending it again")
        return self._put_once(repository, reference, manifest, raw)

    def _put_once(
        self, repository: str, reference: str | Digest, manifest: Descriptor, raw: bytes
    ) -> bool:
        with self._sender.send(
            "PUT",
            self._url(repository, reference),
            scopes=(scope(repository, "pull", "push"),),
            headers={"Content-Type": manifest.media_type},
            body=raw,
            idempotent=True,
            patient=True,
        ) as response:
            if response.status not in (200, 201, 202, 204):
                raise response.error()
            check_digest(response, manifest.digest)
            return "OCI-Subject" in response.headers

    def _delete(self, repository: str, reference: str | Digest) -> None:
        with self._sender.send(
            "DELETE",
            self._url(repository, reference),
            scopes=(scope(repository, "pull", "delete"),),
            idempotent=True,
        ) as response:
            if response.status == 404:
                raise absent(response, f"manifest {self._name(repository, reference)}")
            if digest_of(reference) is not None and response.status in (202, 405):
                deletes = response.status == 202
                self._capabilities.learn(self._endpoint.host, deletes=deletes)
            if response.status not in (200, 202, 204):
                raise response.error()

    def _referrer(self, repository: str, digest: Digest) -> Manifest | None:
        """The manifest, if it is one that has a subject."""
        try:
            manifest = self.get(repository, digest)
        except (DigestMismatchError, InvalidDigestError, ManifestError, ProtocolError):
            return None  # what cannot be read has none, and can be deleted all the same
        return None if manifest.subject is None else manifest

    def _url(self, repository: str, reference: str | Digest) -> str:
        return f"{self._base}{quote(repository)}/manifests/{quote(str(reference), safe=':')}"

    def _name(self, repository: str, reference: str | Digest) -> str:
        mark = "@" if digest_of(reference) is not None else ":"
        return f"{self._endpoint.host}/{repository}{mark}{reference}"
