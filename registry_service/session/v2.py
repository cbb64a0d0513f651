"""The verbs of the V2 protocol, as the OCI distribution specification 1.1 has it."""

from __future__ import annotations

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
    ProtocolError,
)
from ..ledger import Ledger
from ..manifest import Manifest
from ..observe import Observer, ProgressCallback, no_progress
from ..transport import Readable, Response, Transport
from ..transport.retry import RetryPolicy
from .answers import absent, verified
from .blob import RemoteBlob
from .blobs import Blobs
from .foreign import open_foreign
from .manifests import Manifests
from .paging import PAGE_LIMIT, pages
from .reading import BlobReader
from .referrers import Referrers
from .sender import Sender
from .streaming import PART, FromStart, Hashed, LostUploadError, fill, seekable
from .upload import Uploads, check_digest

__all__ = ["V2Client"]

_PAGE: Final = 1000  # the most that some servers take


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
        self._manifests = Manifests(
            self._sender,
            self._base,
            transport.settings.manifest_limit,
            referrers=self._referrers,
            capabilities=self._capabilities,
        )
        self._blobs = Blobs(self._sender, self._base, capabilities=self._capabilities)

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
        return self._manifests.get(repository, reference)

    def get_document(self, repository: str, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest of whatever media type, verified; they are not looked at.

        Raises `DoesNotExistError`, `DigestMismatchError`, `ProtocolError` for one too large.
        """
        return self._manifests.get_document(repository, descriptor)

    def head_manifest(self, repository: str, reference: str | Digest) -> Descriptor | None:
        """What the manifest is, without fetching it; None where there is none."""
        return self._manifests.head(repository, reference)

    def put_manifest(self, repository: str, reference: str | Digest, manifest: Manifest) -> Digest:
        """Store the manifest, byte for byte, under a tag or its digest.

        One that has a subject is put on the subject's list of referrers, where the registry
        does not say that it does so itself.
        """
        return self._manifests.put(repository, reference, manifest)

    def put_document(
        self, repository: str, reference: str | Digest, manifest: Descriptor, raw: bytes
    ) -> Digest:
        """As `put_manifest`, of whatever media type the document is; it is not looked at."""
        return self._manifests.put_document(repository, reference, manifest, raw)

    def delete_manifest(self, repository: str, reference: str | Digest) -> None:
        """Delete a tag alone, or the manifest of a digest with every tag on it; a referrer goes
        off its subject's list too.

        Raises `DoesNotExistError`, and `RegistryHTTPError` with the status 400 or 405 where the
        registry does not do this.
        """
        self._manifests.delete(repository, reference)

    def referrers(
        self, repository: str, subject: Digest, artifact_type: str = ""
    ) -> Iterator[Descriptor]:
        """The manifests that name ``subject`` as theirs, of one kind or of all, page after
        page: by the API, or by the fallback tag where there is none."""
        return self._referrers.find(repository, subject, artifact_type)

    # blobs

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob in bytes, None where there is none."""
        return self._blobs.size(repository, digest)

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
        return self._blobs.open(repository, digest, offset, hasty=hasty, cancel=cancel)

    def read_through(self, repository: str, digest: Digest) -> BlobReader:
        """A blob as a file that verifies it, and goes on where its connection breaks.

        Raises `DoesNotExistError`, `InvalidDigestError` for a digest that content cannot be
        verified with.
        """
        return BlobReader(
            digest,
            lambda offset: self.open_blob(repository, digest, offset),
            policy=RetryPolicy.of(self._sender.transport.settings),
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
        progress: ProgressCallback = no_progress,
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
                raise absent(response, what)
            if response.status != 200:
                raise response.error()
            return response

        return pages(first, key, get, self._sender.follow)
