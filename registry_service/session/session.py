"""The session of the specification: a thin face over a V2 client and a search client.

A method that takes ``sum_type`` and ``sum`` addresses the blob ``sum_type:sum``. A ``token`` that
is given is sent as Bearer; without one, the session's own credentials answer what the registry
asks.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeAlias

from ..auth import Authenticator
from ..cancel import Cancellation
from ..capabilities import CapabilityTable
from ..constants import TimeoutType
from ..credentials import AuthConfig
from ..descriptor import Descriptor
from ..digest import Digest
from ..endpoint import Endpoint, RegistryInfo
from ..errors import InvalidDigestError
from ..headers import HTTPRequestFactory
from ..manifest import Manifest
from ..observe import Observer
from .outgoing import Source, source_of
from .reading import BlobReader
from .search import SearchClient, SearchResults
from .v2 import V2Client

__all__ = ["Session"]

Token: TypeAlias = str | Sequence[str] | None

_BLOCK: Final = 256 * 1024
_BINARY: Final = "application/octet-stream"
_MOST_TOKENS: Final = 16  # of which the clients are kept


class Session:
    """What one caller does at one registry. Thread-safe; one lock guards the table of clients.

    ``factory`` says what each request carries, ``endpoint`` where the registry is
    (`Endpoint.discover`). With ``timeout``, a request that gets no data for a while ends
    (ReceiveTimeout); without, it never does. ``cancel`` ends whatever the session waits for.
    `close` lets go of uploads that were opened and not used; the endpoint is the caller's.

    Every method raises `LoginRequiredError`, `RegistryHTTPError` (`DoesNotExistError`),
    `UnreachableRegistryError`, `ConnectionBrokenError` and `ProtocolError` where there is cause.
    """

    def __init__(
        self,
        auth_config: AuthConfig | None,
        factory: HTTPRequestFactory | None,
        endpoint: Endpoint,
        timeout: bool = True,
        *,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._auth = auth_config or AuthConfig()
        self._factory = factory or HTTPRequestFactory()
        self._timeout = TimeoutType.RECEIVE if timeout else TimeoutType.NONE
        self._cancel = cancel or Cancellation()
        self._observer = observer or Observer()
        self._capabilities = CapabilityTable()
        self._lock = threading.Lock()
        self._clients: dict[str, V2Client] = {}

    def __repr__(self) -> str:
        return f"Session({str(self.endpoint)!r})"

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
        """Cancel the uploads that were opened and not used."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    def get_auth_config(self, with_password: bool) -> AuthConfig:
        """A copy of the credentials; what is secret in them only ``with_password``."""
        if with_password:
            return dataclasses.replace(self._auth)
        return AuthConfig(
            username=self._auth.username,
            email=self._auth.email,
            server_address=self._auth.server_address,
        )

    def search_repositories(self, term: str, *, limit: int | None = None) -> SearchResults:
        """What is found for ``term``, in the registry's order, at most ``limit`` of it. A
        registry that has no search is searched through its catalog, by name."""
        client = SearchClient(
            self.endpoint,
            self.endpoint.transport,
            Authenticator(self.endpoint, self.endpoint.transport, self._auth),
            headers=self._factory.headers,
            cancel=self._cancel,
            observer=self._observer,
        )
        found = tuple(client.search(term, limit=limit))
        return SearchResults(query=term, num_results=len(found), results=found)

    # V2

    def get_v2_version(self, token: Token = None) -> RegistryInfo:
        """What the registry says of itself; that it answers says that the credentials are good."""
        return self._client(token).ping()

    def get_v2_image_manifest(self, name: str, reference: str, token: Token = None) -> Manifest:
        """The manifest of a tag or digest, verified; ``bytes()`` of it gives it as it came.

        Raises `DoesNotExistError`, `DigestMismatchError`, `ManifestError`.
        """
        return self._client(token).get_manifest(name, reference)

    def get_v2_image_blob(
        self, name: str, sum_type: str, sum: str, writer: BinaryIO, token: Token = None
    ) -> int:
        """Write the blob to ``writer``, a binary file; returns the number of bytes.

        Where it fails, or the bytes are not those of the digest (`DigestMismatchError`), a file
        that can seek is cut back to where it was. What cannot be cut back never gets the last
        bytes of such a blob.
        """
        with self.get_v2_image_blob_reader(name, sum_type, sum, token)[0] as reader:
            begin = writer.tell() if writer.seekable() else None
            buffer = memoryview(bytearray(_BLOCK))
            size = 0
            try:
                while count := reader.readinto(buffer):
                    writer.write(buffer[:count])
                    size += count
            except BaseException:
                if begin is not None:
                    writer.seek(begin)
                    writer.truncate()
                raise
        return size

    def get_v2_image_blob_reader(
        self, name: str, sum_type: str, sum: str, token: Token = None
    ) -> tuple[BlobReader, int]:
        """The blob as a file to be closed, and its length, -1 where the registry does not say.

        The reader verifies at the end, and goes on with a connection that breaks.
        """
        reader = self._client(token).read_through(name, Digest(algorithm=sum_type, hex=sum))
        return reader, -1 if reader.length is None else reader.length

    def post_v2_image_mount_blob(
        self, name: str, sum_type: str, sum: str, token: Token = None, *, from_: str
    ) -> bool:
        """Take a blob over from the repository ``from_`` of the same registry.

        False where the registry would rather have it sent: the upload that it opened is kept
        for the next `put_v2_image_blob` of that blob.
        """
        return self._client(token).mount_blob(name, Digest(algorithm=sum_type, hex=sum), from_)

    def put_v2_image_blob(
        self,
        name: str,
        sum_type: str,
        reader: Source,
        token: Token = None,
        *,
        digest: str | Digest | None = None,
    ) -> Digest:
        """Send a blob: a binary file, from where it stands, an iterable of bytes, or bytes.

        With ``digest``, a file that can seek is sent as it is, and a broken upload goes on from
        what the registry has. Else it is hashed with ``sum_type`` while it is read, once, and
        sent in parts. Returns the digest that the registry has confirmed; the file stays open.

        Raises `DigestMismatchError` for a file that is not what ``digest`` says,
        `InvalidDigestError` for a digest of another type than ``sum_type``.
        """
        client = self._client(token)
        wanted = Digest.parse(digest) if isinstance(digest, str) else digest
        if wanted is not None and wanted.algorithm != sum_type:
            raise InvalidDigestError(f"{wanted} is no digest of the type {sum_type!r}")
        source = source_of(reader)
        if wanted is None or source.size is None:
            return client.put_stream(name, source, algorithm=sum_type, expected=wanted)
        blob = Descriptor(media_type=_BINARY, digest=wanted, size=source.size)
        return client.put_blob(name, blob, source.again)

    def put_v2_image_manifest(
        self, name: str, reference: str, manifest: Manifest | bytes, token: Token = None
    ) -> Digest:
        """Store the manifest, byte for byte, under a tag or its digest; the registry's digest
        is checked. Raises `ManifestError` for bytes that are none."""
        if not isinstance(manifest, Manifest):
            manifest = Manifest.parse(manifest)
        return self._client(token).put_manifest(name, reference, manifest)

    def get_v2_remote_tags(self, name: str, token: Token = None) -> list[str]:
        """The tags of a repository, of all pages. Raises `DoesNotExistError`."""
        return list(self._client(token).tags(name))

    # inner

    def _client(self, token: Token) -> V2Client:
        """The client that sends ``token``; the empty one is the session's own."""
        if not isinstance(token, str):
            token = next(filter(None, token or ()), "")
        with self._lock:
            client = self._clients.pop(token, None) or self._connect(token)
            self._clients[token] = client  # now the newest
            oldest = next(iter(self._clients))
            spare = self._clients.pop(oldest) if len(self._clients) > _MOST_TOKENS else None
        if spare is not None:
            spare.close()
        return client

    def _connect(self, token: str) -> V2Client:
        auth = AuthConfig(registry_token=token) if token else self._auth
        return V2Client(
            self.endpoint,
            self.endpoint.transport,
            Authenticator(self.endpoint, self.endpoint.transport, auth),
            headers=self._factory.headers,
            cancel=self._cancel,
            observer=self._observer,
            capabilities=self._capabilities,
            timeout=self._timeout,
        )
