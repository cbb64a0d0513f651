"""A repository of a V1 registry, as images are read from it.

An index grants a repository: it names the registries that have it, and gives the tokens for them.
Each thing is asked of the registry that answered last, and where that fails of the next.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from ...cancel import Cancellation
from ...digest import Digest
from ...documents import most_values
from ...errors import (
    CancelledError,
    DoesNotExistError,
    LoginRequiredError,
    ManifestError,
    ProtocolError,
    RegistryError,
)
from ...observe import Observer
from ...reference import Reference
from ...session.blob import RemoteBlob
from ...session.v1.answers import ImageJSON
from ...session.v1.client import V1Client
from ...v1.image import V1Image, check_ancestry, check_chain
from ...v1.layer import StatedLayer
from ...v1.values import RepositoryData
from .sending import Seen

__all__ = ["Described", "Memory", "V1Source", "tag_of"]

_T = TypeVar("_T")

_AT_ONCE: Final = 8  # images whose JSON is asked for
_CHAIN_LIMIT: Final = 16 * 1024 * 1024  # bytes of JSON of one chain
_CHAIN_VALUES: Final = 1_000_000  # in that JSON: in all they take ten times as much
_REMEMBERED: Final = 16 * 1024 * 1024  # bytes of JSON


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An image, and what the registry says of its layer."""

    image: V1Image
    layer: StatedLayer


def tag_of(reference: Reference) -> str:
    """The tag. Raises an error with the code ``needs-v2`` for a digest, which V1 has none of."""
    if reference.digest is not None or reference.tag is None:
        raise RegistryError(
            f"{reference}: {reference.host} speaks V1, whose images have no digest; name a tag",
            code="needs-v2",
        )
    return reference.tag


class Memory:
    """What one operation remembers of what many tags share: JSON of images, as far as it is small,
    layers that came wrong, and what a target was seen to have. Thread-safe; one lock guards what
    is of the source."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, ImageJSON] = OrderedDict()
        self._weight = 0
        self._broken: dict[str, RegistryError] = {}  # by the id of the image
        self.tags: Mapping[str, str] | None = None
        self.no_image: dict[str, str] = {}  # tags of what is no id
        self.blobs: set[Digest] = set()  # of a target of V2
        self.seen = Seen()  # of a target of V1

    def find(self, image_id: str) -> ImageJSON | None:
        with self._lock:
            return self._known.get(image_id)

    def keep(self, image_id: str, found: ImageJSON) -> None:
        with self._lock:
            if image_id in self._known:
                return
            self._known[image_id] = found
            self._weight += len(found.raw)
            while self._weight > _REMEMBERED:
                self._weight -= len(self._known.popitem(last=False)[1].raw)

    def give_up(self, image_id: str, error: RegistryError) -> None:
        with self._lock:
            self._broken[image_id] = error

    def failure(self, image_id: str) -> RegistryError | None:
        with self._lock:
            return self._broken.get(image_id)


class _Room:
    """What the JSON of one chain takes, which is all held at once. Thread-safe."""

    def __init__(self, image_id: str) -> None:
        self._where = f"image {image_id}: the JSON of the images of its ancestry"
        self._lock = threading.Lock()
        self._bytes = 0
        self._values = 0

    def take(self, raw: bytes) -> None:
        """Raises `ManifestError` where that is too much."""
        with self._lock:
            self._bytes += len(raw)
            self._values += most_values(raw)
            for found, most, what in (
                (self._bytes, _CHAIN_LIMIT, "bytes"),
                (self._values, _CHAIN_VALUES, "values"),
            ):
                if found > most:
                    raise ManifestError(
                        f"{self._where} has {found} {what} and more; {most} are allowed"
                    )


class V1Source:
    """One repository, for one operation; thread-safe. ``memory`` is that of an operation on many
    tags.

    One lock guards what was granted and which registry answered last, and is held for moments only;
    another one is held while the index is asked again, since whoever needs that has to wait for it
    too.
    """

    def __init__(
        self,
        client: V1Client,
        reference: Reference,
        *,
        memory: Memory | None = None,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._client = client
        self._repository = reference.repository
        self.host = reference.host
        #: ``host/repository``.
        self.name = reference.name
        self._memory = memory or Memory()
        self._cancel = cancel
        self._observer = observer
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._first = ""
        self._granted: RepositoryData | None = None
        self._good = False

    def tags(self) -> Mapping[str, str]:
        """The tags with the ids of their images, or what is in the place of one, asked for once.
        Raises `DoesNotExistError`."""
        found = self._memory.tags
        if found is None:
            grant = self._client.grant(self._repository)
            broken = self._memory.no_image
            found = self._client.remote_tags(
                grant.endpoints, self._repository, grant.tokens, broken=broken
            )
            found = {**found, **broken}
            self._memory.tags = found
            with self._lock:
                self._granted, self._good = self._granted or grant, True
        return found

    def image_id(self, tag: str) -> str:
        """The image of a tag. Raises `DoesNotExistError`, `ManifestError` where it is of none."""
        found = self.tags().get(tag)
        if found is None:
            raise DoesNotExistError(f"image {self.name}:{tag}")
        if tag in self._memory.no_image:
            raise ManifestError(f"{self.name}:{tag} is the tag of {found!r}, which is no image id")
        return found

    def chain(self, image_id: str) -> tuple[Described, ...]:
        """An image and all that it lies upon, the lowest first.

        Raises `DoesNotExistError`, `ManifestError` for what is no such chain, and what a layer of
        it was given up with.
        """

        def ask(registry: str, token: Sequence[str]) -> list[str]:
            return self._client.ancestry(image_id, registry, token)

        ids = check_ancestry(self._document(ask), image_id)
        room = _Room(image_id)

        def described(one: str) -> Described:
            what = self.described(one)
            room.take(what.image.raw)
            return what

        found: list[Described] = []
        pool = concurrent.futures.ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="v1-json")
        try:
            # Not all at once: what is too much is noticed before much more of it is asked for.
            for place in range(0, len(ids), 4 * _AT_ONCE):
                found += pool.map(described, ids[place : place + 4 * _AT_ONCE])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        check_chain([one.image for one in found])
        for one in found:
            failure = self._memory.failure(one.image.id)
            if failure is not None:
                raise failure
        return tuple(reversed(found))

    def give_up(self, layer: StatedLayer, error: RegistryError) -> None:
        """Remember that the layer came wrong, and was asked for again in vain: it may be large, and
        other tags lie upon it too."""
        self._memory.give_up(layer.image_id, error)

    def described(self, image_id: str) -> Described:
        """One image. Raises `DoesNotExistError`, `ManifestError`."""
        self._cancel.check()

        def ask(registry: str, token: Sequence[str]) -> ImageJSON:
            return self._client.image_json(image_id, registry, token)

        found = self._memory.find(image_id)
        if found is None:
            found = self._document(ask)
            self._memory.keep(image_id, found)
        return Described(
            image=V1Image.parse(found.raw, image_id),
            layer=StatedLayer(
                image_id=image_id,
                json=found.raw,
                size=found.size,
                checksum_payload=found.checksum_payload,
                checksum=found.checksum,
            ),
        )

    def open_layer(
        self,
        layer: StatedLayer,
        offset: int,
        cancel: Cancellation | None = None,
        *,
        hasty: bool = False,
        shunned: Collection[str] = (),
        opened: Callable[[str], object] = lambda registry: None,
    ) -> RemoteBlob:
        """The bytes of a layer, as `V1Client.open_layer` gives them. ``shunned`` are registries
        that are asked last; ``opened`` is told which one it is."""

        def ask(registry: str, token: Sequence[str]) -> RemoteBlob:
            blob = self._client.open_layer(
                layer.image_id,
                registry,
                token,
                offset,
                size=layer.size,
                hasty=hasty,
                cancel=cancel,
            )
            opened(registry)
            return blob

        return self._ask(ask, shunned)

    def others(self, shunned: Collection[str]) -> bool:
        """Whether the index names a registry that is none of these."""
        with self._lock:
            grant = self._granted
        return grant is not None and not set(grant.endpoints) <= set(shunned)

    def ready(self) -> float:
        """Seconds after which it is worth while to ask for a layer, 0 for now."""
        with self._lock:
            grant = self._granted
        return min(map(self._client.ready, grant.endpoints), default=0.0) if grant else 0.0

    def _document(self, ask: Callable[[str, Sequence[str]], _T]) -> _T:
        """A document that is no good is a fault of its image, and of no other one."""
        try:
            return self._ask(ask)
        except ProtocolError as error:
            if error.retryable:
                raise
            raise ManifestError(str(error)) from error

    def _ask(self, ask: Callable[[str, Sequence[str]], _T], shunned: Collection[str] = ()) -> _T:
        """What a registry gives. A token that was good and is not taken any more has run out, as it
        may while large layers move; the index is asked for another one."""
        with self._lock:
            grant, good = self._granted, self._good
        if grant is None:
            grant = self._client.grant(self._repository)
        try:
            found = self._of_any(grant, ask, shunned)
        except LoginRequiredError:
            if not good:
                raise
            grant = self._renewed(grant)
            found = self._of_any(grant, ask, shunned)
        with self._lock:
            self._granted, self._good = self._granted or grant, True
        return found

    def _renewed(self, old: RepositoryData) -> RepositoryData:
        """Another grant than ``old``, which is asked for once by all who need it."""
        with self._asking:
            with self._lock:
                known = self._granted
            if known is None or known is old:
                known = self._client.repository_data(self._repository)
                with self._lock:
                    self._granted = known
        return known

    def _of_any(
        self,
        grant: RepositoryData,
        ask: Callable[[str, Sequence[str]], _T],
        shunned: Collection[str],
    ) -> _T:
        """What the first of the registries gives that gives it: the one that answered last is
        asked first. Raises what the last one failed with that has something else to say than
        that it does not have it."""
        with self._lock:
            first = self._first
        failure: RegistryError | None = None
        for registry in sorted(grant.endpoints, key=lambda one: (one in shunned, one != first)):
            try:
                found = ask(registry, grant.tokens)
            except CancelledError:
                raise
            except RegistryError as error:
                self._observer.log("debug", f"{registry}: {error}")
                if failure is None or not isinstance(error, DoesNotExistError):
                    failure = error
            else:
                with self._lock:
                    self._first = registry
                return found
        if failure is None:
            raise RegistryError(f"the index names no registry that has {self.name}")
        raise failure
