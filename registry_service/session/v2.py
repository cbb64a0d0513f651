"""The verbs of the V2 protocol, as the OCI distribution specification 1.1 has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlencode

from ..auth import Authenticator
from ..auth.scope import CATALOG, merge
from ..auth.scope import repository as scope
from ..cancel import Cancellation
from ..capabilities import CapabilityTable
from ..constants import APIVersion, TimeoutType
from ..descriptor import Descriptor
from ..digest import Digest, hasher_of
from ..endpoint import Endpoint, RegistryInfo
from ..errors import (
    DigestMismatchError,
    DoesNotExistError,
    InvalidDigestError,
    ManifestError,
    ProtocolError,
    RegistryError,
    show_url,
)
from ..ledger import Ledger
from ..manifest import MANIFEST_TYPES, SCHEMA1_TYPES, Manifest
from ..observe import Observer, ProgressCallback
from ..transport import Readable, Response, Transport
from ..transport.retry import RetryPolicy
from .answers import (
    described,
    digest_of,
    header_digest,
    is_whole,
    number,
    stated_digest,
    verified,
)
from .blob import RemoteBlob, range_start
from .foreign import open_foreign
from .paging import PAGE_LIMIT, pages
from .reading import BlobReader
from .referrers import Referrers
from .sender import Sender
from .streaming import PART, FromStart, Hashed, LostUploadError, fill, seekable
from .upload import Uploads, check_digest

__all__ = ["V2Client"]

# Every kind, for some servers convert, and some say that there is nothing, when a client
# names only a few; and what is of another kind is there all the same.
_ACCEPT: Final = {"Accept": ", ".join((*MANIFEST_TYPES, *SCHEMA1_TYPES, "*/*;q=0.1"))}
_PAGE: Final = 1000  # the most that some servers take


def _no_progress(key: str, phase: str, done: int, total: int, /) -> None:
    return None


class V2Client:
    """One caller's way to one registry; thread-safe.

    ``headers`` are the caller's own (a map of names to lists of values), ``cancel`` ends
    whatever the client waits for, ``observer`` is told of tries that failed. `close` lets go
    of uploads that were opened and not used. Repositories are given without the host. ``ledger``
    keeps where uploads are, so that a later client goes on with them; ``capabilities`` is what
    is known of registries, and learns. ``retries`` is how often a request is made again; None
    is what the settings say. ``timeout`` is which time limits its requests have.

    Every method raises `LoginRequiredError`, `RegistryHTTPError`, `UnreachableRegistryError`,
    `ConnectionBrokenError`, `ProtocolError` and `CancelledError` where there is cause.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        authenticator: Authenticator,
        *,
        headers: Mapping[str, Sequence[str]] | None = None,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
        ledger: Ledger | None = None,
        capabilities: CapabilityTable | None = None,
        on_lost: Callable[[], object] = lambda: None,
        retries: int | None = None,
        timeout: TimeoutType = TimeoutType.RECEIVE,
    ) -> None:
        if endpoint.version is not APIVersion.V2:
            raise ProtocolError(f"{endpoint.host} speaks the V1 protocol only")
        self.endpoint = endpoint
        self._sender = Sender(
            endpoint,
            transport,
            authenticator,
            headers=headers,
            cancel=cancel,
            observer=observer,
            capabilities=capabilities,
            on_lost=on_lost,
            retries=retries,
            timeout=timeout,
        )
        self._base = endpoint.version_string(APIVersion.V2)
        self._capabilities = capabilities or CapabilityTable()
        self._uploads = Uploads(
            self._sender,
            self._base,
            exists=lambda repository, digest: self.blob_size(repository, digest) is not None,
            ledger=ledger,
            capabilities=self._capabilities,
        )
        self._referrers = Referrers(
            self._sender,
            self._base,
            transport.settings.manifest_limit,
            capabilities=self._capabilities,
        )
        self._limit = transport.settings.manifest_limit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._uploads.close()

    @property
    def identity_token(self) -> str:
        """What the token server handed out in place of the password; empty where it did not,
        or was not asked to."""
        return self._sender.authenticator.identity_token

    def ping(self) -> RegistryInfo:
        """Ask for the root, with the credentials: that it answers says that they are good."""
        with self._sender.send("GET", self._base) as response:
            if response.status != 200:
                raise response.error()
            return RegistryInfo(version=response.headers.get("Docker-Distribution-Api-Version", ""))

    # manifests

    def get_manifest(self, repository: str, reference: str | Digest) -> Manifest:
        """The manifest of a tag or digest, verified against the digest, or against the one
        that the server says a tag has.

        Raises `DoesNotExistError`, `DigestMismatchError`, `ManifestError`.
        """
        url = self._manifest_url(repository, reference)
        with self._sender.send(
            "GET",
            url,
            scopes=(scope(repository, "pull"),),
            headers=_ACCEPT,
            whole=self._limit,
        ) as response:
            if response.status == 404:
                raise self._absent(response, f"manifest {self._name(repository, reference)}")
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
            self._manifest_url(repository, descriptor.digest),
            scopes=(scope(repository, "pull"),),
            headers={"Accept": f"{kind}, {_ACCEPT['Accept']}"},
            whole=self._limit,
        ) as response:
            if response.status == 404:
                name = self._name(repository, descriptor.digest)
                raise self._absent(response, f"manifest {name}")
            if response.status != 200:
                raise response.error()
            raw = response.read(self._limit)
        return verified(raw, descriptor.digest, "manifest")

    def head_manifest(self, repository: str, reference: str | Digest) -> Descriptor | None:
        """What the manifest is, without fetching it; None where there is none.

        Servers that cannot tell (no HEAD, no digest or length in the answer) are asked for
        the manifest itself.
        """
        url = self._manifest_url(repository, reference)
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
            return self.get_manifest(repository, reference).descriptor
        except DoesNotExistError:
            return None

    def put_manifest(self, repository: str, reference: str | Digest, manifest: Manifest) -> Digest:
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
        """As `put_manifest`, of whatever media type the document is; it is not looked at."""
        self._put(repository, reference, manifest, raw)
        return manifest.digest

    def delete_manifest(self, repository: str, reference: str | Digest) -> None:
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

    def referrers(
        self, repository: str, subject: Digest, artifact_type: str = ""
    ) -> Iterator[Descriptor]:
        """The manifests that name ``subject`` as theirs, of one kind or of all, page after
        page: by the API, or by the fallback tag where there is none."""
        return self._referrers.find(repository, subject, artifact_type)

    # blobs

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob in bytes, None where there is none."""
        url = self._blob_url(repository, digest)
        with self._sender.send("HEAD", url, scopes=(scope(repository, "pull"),)) as response:
            if response.status == 404:
                return None
            if response.status == 200:
                size = number(response.headers.get("Content-Length"))
                if size is not None:
                    return size
        try:
            with self.open_blob(repository, digest) as blob:
                if blob.length is None:
                    raise ProtocolError(f"{show_url(url)}: the registry does not say the size")
                return blob.length
        except DoesNotExistError:
            return None

    def open_blob(
        self,
        repository: str,
        digest: Digest,
        offset: int = 0,
        *,
        hasty: bool = False,
        cancel: Cancellation | None = None,
    ) -> RemoteBlob:
        """The bytes of a blob, from ``offset`` on or from 0, as the result's own says.

        They are not verified. With ``hasty``, a server that asks for a pause is not waited for:
        its answer is the error that is raised. Raises `DoesNotExistError`, and
        `RegistryHTTPError` with the status 416 where the blob has no byte there.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._open(repository, digest, headers, cancel, hasty)
        if offset and response.status in (200, 206):
            self._capabilities.learn(self.endpoint.host, ranges=response.status == 206)
        if response.status == 206:
            start = range_start(response.headers.get("Content-Range"))
            if start == offset and (offset or is_whole(response)):
                return RemoteBlob(response, offset)
            # A part, and not the one that was asked for: then rather the whole.
            response.close()
            response = self._open(repository, digest, {}, cancel, hasty)
        if response.status == 200:
            return RemoteBlob(response, 0)
        if response.status == 404:
            raise self._absent(response, f"blob {self._name(repository, digest)}")
        raise response.error()

    def read_through(self, repository: str, digest: Digest) -> BlobReader:
        """A blob as a file that verifies it, and goes on where its connection breaks.

        Raises `DoesNotExistError`, `InvalidDigestError` for a digest that content cannot be
        verified with.
        """
        settings = self._sender.transport.settings
        return BlobReader(
            digest,
            lambda offset: self.open_blob(repository, digest, offset),
            policy=RetryPolicy(retries=settings.retries, longest=settings.retry_wait_max),
            cancel=self._sender.cancel,
            observer=self._sender.observer,
        )

    def open_elsewhere(
        self, descriptor: Descriptor, offset: int, *, cancel: Cancellation | None = None
    ) -> RemoteBlob:
        """A blob from where its ``urls`` say, which are asked in turn, without anything that
        says who asks. Raises what the last one failed with, and names each."""
        return open_foreign(
            descriptor,
            offset,
            transport=self._sender.transport,
            registry=self.endpoint.url,
            cancel=cancel or self._sender.cancel,
            observer=self._sender.observer,
        )

    def ready(self, repository: str, digest: Digest, /) -> float:
        """Seconds after which it is worth while to open the blob (see `reader`)."""
        return self._sender.transport.ready(self._base)

    def elsewhere(self, repository: str, digest: Digest, error: Exception, /) -> bool:
        """False: there is no other place to ask for the blob (see `reader`)."""
        return False

    def read_blob(self, repository: str, descriptor: Descriptor, *, limit: int) -> bytes:
        """A small blob, verified. Raises `ProtocolError` for more than ``limit`` bytes,
        `DigestMismatchError`, `DoesNotExistError`."""
        if descriptor.size > limit:
            raise ProtocolError(
                f"{descriptor.digest} has {descriptor.size} bytes; {limit} are allowed"
            )
        with self.open_blob(repository, descriptor.digest) as blob:
            raw = blob.read(limit)
        return verified(raw, descriptor.digest, "blob")

    def mount_blob(self, repository: str, digest: Digest, source: str) -> bool:
        """Take a blob over from the repository ``source`` of the same registry.

        False where the server would rather have it sent: the upload that it opened is kept
        for the next `put_blob` of that blob.
        """
        query = urlencode({"mount": str(digest), "from": source})
        scopes = merge((scope(repository, "pull", "push"),), (scope(source, "pull"),))
        with self._uploads.start(repository, f"?{query}", scopes) as response:
            if response.status == 201:
                check_digest(response, digest)
                self._capabilities.learn(self.endpoint.host, mounts=True)
            elif response.status == 202:
                self._uploads.keep(repository, digest, response)
                return False
            else:
                raise response.error()
        # Some servers then have it by its sha256 only, and not by the digest that was asked for.
        return digest.algorithm == "sha256" or self.blob_size(repository, digest) is not None

    def put_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        opener: Callable[[], Readable],
        *,
        progress: ProgressCallback = _no_progress,
    ) -> Digest:
        """Send a blob as a stream. ``opener`` opens it from its start, once for each try.

        ``progress`` is told the digest, ``pushing``, and the bytes sent of all. Raises
        `DigestMismatchError` where the server got something else.
        """
        return self._uploads.put(repository, descriptor, opener, progress)

    def put_stream(
        self,
        repository: str,
        source: Readable,
        *,
        algorithm: str = "sha256",
        expected: Digest | None = None,
    ) -> Digest:
        """Send what ``source`` gives, to its end; returns its digest, which the registry has
        confirmed. ``expected`` is what that must be, where it is known before.

        It is read once and sent in parts. Where the registry wants it whole, or loses what it
        has of it, a source that can seek is sent again from its start. Raises
        `DigestMismatchError`, and `LostUploadError` for a source that cannot.
        """
        hashed = Hashed(hasher=hasher_of(algorithm))
        try:
            return self._uploads.stream(repository, source, hashed=hashed, expected=expected)
        except LostUploadError as error:
            again = seekable(source)
            if again is None:
                raise LostUploadError(
                    f"{error}; what was sent can be read only once: give a file that can seek"
                ) from error
            self._sender.observer.log("warning", f"{error}; sending all of it again")
        rest = memoryview(bytearray(PART))
        while count := fill(source, rest):
            hashed.update(rest[:count])
        whole = Descriptor(
            media_type="application/octet-stream", digest=hashed.whole(expected), size=hashed.size
        )
        return self.put_blob(repository, whole, lambda: FromStart(again))

    # lists

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of a repository, page after page. Raises `DoesNotExistError`."""
        return self._list(
            f"{self._base}{quote(repository)}/tags/list",
            "tags",
            (scope(repository, "pull"),),
            f"repository {self.endpoint.host}/{repository}",
        )

    def catalog(self) -> Iterator[str]:
        """The repositories of the registry, page after page, where it lists them."""
        return self._list(
            f"{self._base}_catalog", "repositories", (CATALOG,), f"catalog of {self.endpoint.host}"
        )

    def _list(self, url: str, key: str, scopes: Sequence[str], what: str) -> Iterator[str]:
        first = f"{url}?n={_PAGE}"

        def get(page: str) -> Response:
            response = self._sender.send("GET", page, scopes=scopes, whole=PAGE_LIMIT)
            if response.status == 400 and page == first:
                response.close()  # a server with a smaller limit; it knows best
                response = self._sender.send("GET", url, scopes=scopes, whole=PAGE_LIMIT)
            if response.status == 404:
                raise self._absent(response, what)
            if response.status != 200:
                raise response.error()
            return response

        return pages(first, key, get, self._sender.follow)

    # helpers

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
            self._manifest_url(repository, reference),
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
            self._manifest_url(repository, reference),
            scopes=(scope(repository, "pull", "delete"),),
            idempotent=True,
        ) as response:
            if response.status == 404:
                raise self._absent(response, f"manifest {self._name(repository, reference)}")
            if digest_of(reference) is not None and response.status in (202, 405):
                deletes = response.status == 202
                self._capabilities.learn(self.endpoint.host, deletes=deletes)
            if response.status not in (200, 202, 204):
                raise response.error()

    def _referrer(self, repository: str, digest: Digest) -> Manifest | None:
        """The manifest, if it is one that has a subject."""
        try:
            manifest = self.get_manifest(repository, digest)
        except (DigestMismatchError, InvalidDigestError, ManifestError, ProtocolError):
            return None  # what cannot be read has none, and can be deleted all the same
        return None if manifest.subject is None else manifest

    def _open(
        self,
        repository: str,
        digest: Digest,
        headers: Mapping[str, str],
        cancel: Cancellation | None,
        hasty: bool = False,
    ) -> Response:
        return self._sender.send(
            "GET",
            self._blob_url(repository, digest),
            scopes=(scope(repository, "pull"),),
            headers=headers,
            hasty=hasty,
            cancel=cancel,
        )

    def _manifest_url(self, repository: str, reference: str | Digest) -> str:
        return f"{self._base}{quote(repository)}/manifests/{quote(str(reference), safe=':')}"

    def _blob_url(self, repository: str, digest: Digest) -> str:
        return f"{self._base}{quote(repository)}/blobs/{quote(str(digest), safe=':')}"

    def _name(self, repository: str, reference: str | Digest) -> str:
        mark = "@" if digest_of(reference) is not None else ":"
        return f"{self.endpoint.host}/{repository}{mark}{reference}"

    @staticmethod
    def _absent(response: Response, what: str) -> RegistryError:
        return DoesNotExistError(
            what,
            http_status=response.status,
            method=response.method,
            url=response.url,
            errors=response.errors(),
        )
