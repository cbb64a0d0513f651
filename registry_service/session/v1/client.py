"""The verbs of the V1 protocol, as its registries and their index had it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from ...cancel import Cancellation
from ...constants import APIVersion, TimeoutType
from ...credentials import AuthConfig
from ...endpoint import Endpoint
from ...errors import DoesNotExistError
from ...headers import HTTPRequestFactory
from ...observe import Observer
from ...transport import Readable, Transport
from ...v1.values import ImgData, RepositoryData
from ..blob import RemoteBlob
from .answers import ImageJSON
from .images import Images
from .index import Index
from .layers import LayerReader, Layers
from .names import on_the_wire
from .pushing import LayerSums, Pushing
from .sender import Sender

__all__ = ["V1Client"]


class V1Client:
    """One caller's way to one V1 registry or index; thread-safe.

    ``endpoint`` is the index, or a registry that stands without one; ``registry`` is the URL of a
    registry, which ends in ``/v1/``, as the index names it, and ``token`` what the index gave for
    it. ``factory`` says what each request carries, ``cancel`` ends whatever the client waits for,
    ``observer`` is told of tries that failed. ``retries`` is how often a request is made again;
    None is what the settings say. ``own``: the credentials are the daemon's. Repositories are
    given without the host; one without a namespace is in ``library/``.

    Every method raises `LoginRequiredError`, `RegistryHTTPError`, `UnreachableRegistryError`,
    `ConnectionBrokenError`, `ProtocolError` and `CancelledError` where there is cause, and
    `InvalidReferenceError` for what can be no id, name or endpoint.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        auth: AuthConfig | None = None,
        *,
        factory: HTTPRequestFactory | None = None,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
        on_lost: Callable[[], object] = lambda: None,
        retries: int | None = None,
        timeout: TimeoutType = TimeoutType.RECEIVE,
        own: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self._sender = Sender(
            endpoint,
            transport,
            auth or AuthConfig(),
            factory=factory,
            cancel=cancel,
            observer=observer,
            on_lost=on_lost,
            retries=retries,
            timeout=timeout,
            own=own,
        )
        self._index = Index(self._sender)
        self._images = Images(self._sender)
        self._layers = Layers(self._sender)
        self._pushing = Pushing(self._sender)
        self._lock = threading.Lock()  # guards the table of grants; one lock a repository
        self._grants: dict[str, _Grant] = {}

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
        """Forget what the index granted; the transport is the caller's."""
        with self._lock:
            self._grants.clear()

    # the index

    def repository_data(self, repository: str) -> RepositoryData:
        """What the index says of a repository: its images, the registries that have them (the
        index's own where it names none), the tokens for those.

        Raises `DoesNotExistError`.
        """
        return self._index.repository_data(repository)

    def grant(self, repository: str) -> RepositoryData:
        """The same, asked for once and kept. A registry without an index that does not know what
        that is, such as a directory of files behind a web server, is asked for the tags: where it
        has these, it has the repository, and wants no token."""
        name = on_the_wire(repository)
        with self._lock:
            grant = self._grants.setdefault(name, _Grant())
        with grant.lock:
            if grant.data is None:
                grant.data = self._granted(repository)
            return grant.data

    def _granted(self, repository: str) -> RepositoryData:
        try:
            return self.repository_data(repository)
        except DoesNotExistError:
            if not self.endpoint.info.standalone:
                raise
            home = self.endpoint.version_string(APIVersion.V1)
            try:
                self.remote_tags((home,), repository, (), broken={})
            except DoesNotExistError:
                pass
            else:
                return RepositoryData(endpoints=(home,))
            raise

    def put_index(
        self,
        repository: str,
        images: Iterable[ImgData],
        validate: bool,
        registries: Sequence[str] = (),
    ) -> RepositoryData:
        """Tell the index of a repository's images: at first that they will come, which it answers
        with the registries and the tokens to send them with; then, with ``validate``, that they
        are at ``registries``. Then only those count that have a checksum.

        Raises `ProtocolError` where the first answer has no token or no registry.
        """
        return self._index.put(repository, images, validate, registries)

    # lists

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of a repository, by what the index grants. Raises `DoesNotExistError`."""
        grant = self.grant(repository)
        broken: dict[str, str] = {}
        yield from self.remote_tags(grant.endpoints, repository, grant.tokens, broken=broken)
        yield from broken

    def remote_tags(
        self,
        registries: Sequence[str],
        repository: str,
        token: Sequence[str],
        *,
        broken: dict[str, str] | None = None,
    ) -> dict[str, str]:
        """The tags of a repository with the ids of their images, from the first of the registries
        that says. Those of what is no id are put into ``broken``, with what it is; where that is
        None, they are a `ProtocolError`.

        Raises `DoesNotExistError` where that has no such repository, and an error that names what
        went wrong with each where none says.
        """
        return self._images.tags(registries, repository, token, broken)

    # images

    def ancestry(self, image_id: str, registry: str, token: Sequence[str]) -> list[str]:
        """The ids of an image and of those that it is made from, its own first, without a
        circle. Raises `DoesNotExistError`."""
        return self._images.ancestry(image_id, registry, token)

    def has_image(self, image_id: str, registry: str, token: Sequence[str]) -> bool:
        """Whether the registry has the image. Some answer 400 to one that is half pushed."""
        return self._images.exists(image_id, registry, token)

    def image_json(self, image_id: str, registry: str, token: Sequence[str]) -> ImageJSON:
        """An image's JSON, byte for byte, and what the registry says of its layer. Raises
        `DoesNotExistError`, `ProtocolError` for the JSON of another image."""
        return self._images.json(image_id, registry, token)

    def open_layer(
        self,
        image_id: str,
        registry: str,
        token: Sequence[str],
        offset: int = 0,
        *,
        size: int = -1,
        hasty: bool = False,
        cancel: Cancellation | None = None,
    ) -> RemoteBlob:
        """The bytes of a layer, from ``offset`` on or from 0, as the result's own says; they are
        not verified. ``size`` is what `image_json` says of it: with that, a part is asked for in
        a way that every registry understands. With ``hasty``, a server that asks for a pause is not
        waited for: its answer is the error that is raised.

        Raises `DoesNotExistError`, and `RegistryHTTPError` with the status 416 where the layer
        has no byte there.
        """
        return self._layers.open(
            image_id, registry, token, offset, size=size, hasty=hasty, cancel=cancel
        )

    def ready(self, registry: str) -> float:
        """Seconds after which it is worth while to ask that registry for a layer, 0 for now."""
        return self._sender.transport.ready(registry)

    def read_layer(
        self, image_id: str, registry: str, token: Sequence[str], size: int = -1
    ) -> LayerReader:
        """A layer as a file, which goes on where its connection breaks if the registry can send
        parts and ``size`` is known. Raises `DoesNotExistError`."""
        return self._layers.read(image_id, registry, token, size)

    # images on their way out

    def put_json(self, image: ImgData, raw: bytes, registry: str, token: Sequence[str]) -> None:
        """Send an image's JSON, byte for byte. Raises `AlreadyExistsError` where the registry has
        the image."""
        self._pushing.json(image, raw, registry, token)

    def put_layer(
        self,
        image_id: str,
        opener: Callable[[], Readable],
        registry: str,
        token: Sequence[str],
        json_raw: bytes,
        *,
        again: bool = True,
    ) -> LayerSums:
        """Send a layer, whose image has the JSON ``json_raw``; returns what to say of it.

        ``opener`` opens it from its start, once for each try; without ``again`` it can do so only
        once, and there is one try. A layer in gzip is sent as it is, a plain tar archive is
        compressed on the way, always to the same bytes.

        Raises `BodyError` for one that is compressed otherwise or cannot be read, `TarError` for
        what is no tar archive, `ArchiveError` for a damaged stream; what was sent then does not
        become a whole layer. Raises `AlreadyExistsError` where the registry has the image.
        """
        return self._pushing.layer(image_id, opener, registry, token, json_raw, again=again)

    def put_checksum(self, image: ImgData, registry: str, token: Sequence[str]) -> None:
        """Say what was sent, upon which the registry has the image. Raises `AlreadyExistsError`,
        and `RegistryHTTPError` with the status 400 where it got something else."""
        self._pushing.checksum(image, registry, token)

    def put_tag(
        self, repository: str, image_id: str, tag: str, registry: str, token: Sequence[str]
    ) -> None:
        """Let a tag be that of an image."""
        self._pushing.tag(repository, image_id, tag, registry, token)

    def delete_tag(self, repository: str, tag: str, registry: str, token: Sequence[str]) -> None:
        """Raises `DoesNotExistError`."""
        self._pushing.delete_tag(repository, tag, registry, token)


class _Grant:
    """What the index says of one repository, once it was asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.data: RepositoryData | None = None
