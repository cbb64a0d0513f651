"""The session of the specification: a thin face over a V1, a V2 and a search client.

With V1, ``registry`` is the URL of a registry, which ends in ``/v1/``, and ``token`` what the
index gave for it: the values of ``X-Docker-Token``.

With V2, a method that takes ``sum_type`` and ``sum`` addresses the blob ``sum_type:sum``. A
``token`` that is given is sent as Bearer; without one, the session's own credentials answer what
the registry asks.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence
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
from ..v1.values import ImgData, RepositoryData
from .outgoing import FileSource, Source, source_of
from .reading import BlobReader
from .search import SearchClient, SearchResults
from .v1.client import V1Client
from .v1.layers import LayerReader
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
        self._v1 = V1Client(
            endpoint,
            endpoint.transport,
            self._auth,
            factory=self._factory,
            cancel=self._cancel,
            observer=self._observer,
            timeout=self._timeout,
        )

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
        self._v1.close()

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
            factory=self._factory,
            cancel=self._cancel,
            observer=self._observer,
        )
        found = tuple(client.search(term, limit=limit))
        return SearchResults(query=term, num_results=len(found), results=found)

    # V1: the index

    def get_repository_data(self, remote: str) -> RepositoryData:
        """What the index says of a repository: its images, the registries that have them (the
        index's own where it names none), and the tokens for those.

        Raises `DoesNotExistError`.
        """
        return self._v1.repository_data(remote)

    def push_image_json_index(
        self,
        remote: str,
        images: Iterable[ImgData],
        validate: bool,
        registries: Sequence[str] = (),
    ) -> RepositoryData:
        """Tell the index what will be pushed: it answers with registries, and tokens for them.
        With ``validate``, tell it what was: the images that have a checksum are at
        ``registries``. Raises `ProtocolError` for a first answer without a token or registry."""
        return self._v1.put_index(remote, images, validate, registries)

    # V1: registries

    def get_remote_history(self, image_id: str, registry: str, token: Token) -> list[str]:
        """The ids of an image and of those that it is made from, its own first. Raises
        `DoesNotExistError`."""
        return self._v1.ancestry(image_id, registry, _tokens(token))

    def lookup_remote_image(self, image_id: str, registry: str, token: Token) -> bool:
        """Whether the registry has the image; what else it says than yes and no is raised."""
        return self._v1.has_image(image_id, registry, _tokens(token))

    def get_remote_image_json(
        self, image_id: str, registry: str, token: Token
    ) -> tuple[bytes, int]:
        """An image's JSON, byte for byte, and the size of its layer in bytes, -1 where the
        registry does not say. Raises `DoesNotExistError`."""
        found = self._v1.image_json(image_id, registry, _tokens(token))
        return found.raw, found.size

    def get_remote_image_layer(
        self, image_id: str, registry: str, token: Token, image_size: int = -1
    ) -> LayerReader:
        """A layer as a file to be closed, tried five times with growing pauses. Where the
        registry can send parts of it and ``image_size`` is known, it goes on with a connection
        that breaks. The bytes are not verified. Raises `DoesNotExistError`."""
        return self._v1.read_layer(image_id, registry, _tokens(token), image_size)

    def get_remote_tags(
        self, registries: Sequence[str], repository: str, token: Token
    ) -> dict[str, str]:
        """The tags of a repository with the ids of their images, from the first registry that
        says. Raises `DoesNotExistError`, and an error that names each where none says."""
        return self._v1.remote_tags(registries, repository, _tokens(token))

    def push_image_json_registry(
        self, img_data: ImgData, json_raw: bytes, registry: str, token: Token
    ) -> None:
        """Send an image's JSON. Raises `AlreadyExistsError` where the registry has the image."""
        self._v1.put_json(img_data, json_raw, registry, _tokens(token))

    def push_image_layer_registry(
        self, image_id: str, layer: Source, registry: str, token: Token, json_raw: bytes
    ) -> tuple[str, str]:
        """Send a layer: a binary file, from where it stands, an iterable of bytes, or bytes; a
        tar archive, which is compressed on the way, or one in gzip. Returns the checksum (its
        TarSum with the JSON) and that of the payload. The file stays open; one that can seek is
        sent again where the first try fails.

        Raises `BodyError`, `TarError` and `ArchiveError` for what is no such layer.
        """
        source = source_of(layer)
        sums = self._v1.put_layer(
            image_id,
            source.again,
            registry,
            _tokens(token),
            json_raw,
            again=isinstance(source, FileSource),
        )
        return sums.checksum, sums.checksum_payload

    def push_image_checksum_registry(self, img_data: ImgData, registry: str, token: Token) -> None:
        """Say what was sent of an image, which is whole with that. Raises `AlreadyExistsError`."""
        self._v1.put_checksum(img_data, registry, _tokens(token))

    def push_registry_tag(
        self, remote: str, revision: str, tag: str, registry: str, token: Token
    ) -> None:
        """Let a tag be that of the image ``revision``."""
        self._v1.put_tag(remote, revision, tag, registry, _tokens(token))

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


def _tokens(token: Token) -> tuple[str, ...]:
    """What an index gave: one, several, or none."""
    return (token,) * bool(token) if isinstance(token, str) else tuple(token or ())
