"""A registry with mirrors: each manifest and each blob comes from the first place that gives it.

The mirrors are asked in their order, then the origin, where that may be asked. A place that does
not have a blob, breaks off, or serves wrong bytes is followed by the next one, for that blob
alone; one that does not answer is left alone for a while by all jobs.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import (
    CancelledError,
    DigestMismatchError,
    DoesNotExistError,
    LoginRequiredError,
    ManifestError,
    RegistryError,
)
from ..manifest import Manifest
from ..observe import Observer
from .blob import RemoteBlob
from .breaker import Breakers
from .v2 import V2Client

__all__ = ["Mirrored", "Place"]

_T = TypeVar("_T")

# What a place will say again when it is asked again.
_FINAL: Final = (DigestMismatchError, DoesNotExistError, LoginRequiredError, ManifestError)


class Place:
    """One place where an image may be: a mirror, or the origin. Thread-safe.

    ``connect`` finds the registry, when it is first needed; ``rename`` gives the repository's
    name there. One lock is held while it is found, for whoever else needs it would have to wait
    for that too; what it waits for ends with the caller's cancellation.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], V2Client],
        *,
        rename: Callable[[str], str] = lambda repository: repository,
        mirror: bool = True,
    ) -> None:
        self.name = name
        self.mirror = mirror
        self.rename = rename
        self._connect = connect
        self._lock = threading.Lock()
        self._client: V2Client | None = None
        self._error: RegistryError | None = None

    @property
    def known(self) -> V2Client | None:
        """The client, if the registry has been found."""
        return self._client

    @property
    def client(self) -> V2Client:
        """Raises what finding the registry raises; if that can pass, the next caller tries
        again. Raises what `give_up` was told."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._client is None:
                try:
                    self._client = self._connect()
                except CancelledError:
                    raise
                except RegistryError as error:
                    if not error.retryable:
                        self._error = error
                    raise
            return self._client

    def give_up(self, error: RegistryError) -> None:
        """The place is of no use to this operation."""
        with self._lock:
            self._error = error

    @property
    def useless(self) -> bool:
        with self._lock:
            return self._error is not None


@dataclasses.dataclass(slots=True)
class _Search:
    """How far the search for one blob has come: which place is asked first, whether it was that
    one that gave the blob last, and which are of no use for it."""

    at: int = 0
    given: bool = False
    useless: set[int] = dataclasses.field(default_factory=set)


class Mirrored:
    """An `ImageReader` over several places, for one operation; thread-safe.

    ``places`` are in order, the origin last, if it is among them. One lock guards how far each
    blob's search has come.
    """

    def __init__(
        self,
        places: Sequence[Place],
        breakers: Breakers,
        *,
        observer: Observer | None = None,
    ) -> None:
        if not places:
            raise ValueError("there is no place to ask")
        self._places = tuple(places)
        self._breakers = breakers
        self._observer = observer or Observer()
        self._lock = threading.Lock()
        self._searches: dict[tuple[str, Digest], _Search] = {}

    def tags(self, repository: str, /) -> Iterator[str]:
        """As `referrers`. Who gives the first tag gives all of them."""

        def ask(place: Place) -> Iterator[str]:
            found = place.client.tags(place.rename(repository))
            first = list(itertools.islice(found, 1))
            return itertools.chain(first, found)

        return self._first(f"tags of {repository}", ask, self._origin_first())

    def referrers(
        self, repository: str, subject: Digest, artifact_type: str = "", /
    ) -> Iterator[Descriptor]:
        """The origin's list, where that may be asked: a mirror's may be an older one."""

        def ask(place: Place) -> list[Descriptor]:
            return list(place.client.referrers(place.rename(repository), subject, artifact_type))

        return iter(self._first(f"referrers of {subject}", ask, self._origin_first()))

    def _origin_first(self) -> list[int]:
        numbers = range(len(self._places))
        return sorted(numbers, key=lambda number: self._places[number].mirror)

    def get_manifest(self, repository: str, reference: str | Digest, /) -> Manifest:
        """Of the first place that gives it. It is verified as that of one registry is."""

        def ask(place: Place) -> Manifest:
            return place.client.get_manifest(place.rename(repository), reference)

        return self._first(f"manifest {repository} {reference}", ask)

    def get_document(self, repository: str, descriptor: Descriptor, /) -> bytes:
        """Of the first place that gives it, verified."""

        def ask(place: Place) -> bytes:
            return place.client.get_document(place.rename(repository), descriptor)

        return self._first(f"manifest {descriptor.digest}", ask)

    def read_blob(self, repository: str, descriptor: Descriptor, /, *, limit: int) -> bytes:
        """A small blob, of the first place that gives it, verified."""

        def ask(place: Place) -> bytes:
            return place.client.read_blob(place.rename(repository), descriptor, limit=limit)

        return self._first(f"blob {descriptor.digest}", ask)

    def head_manifest(self, repository: str, reference: str | Digest, /) -> Descriptor | None:
        """Of the first place that has it; None where none does. Without an origin, one mirror
        that says so is enough where the others say nothing."""
        lacking: list[Place] = []

        def ask(place: Place) -> Descriptor:
            found = place.client.head_manifest(place.rename(repository), reference)
            if found is None:
                lacking.append(place)
                raise DoesNotExistError(f"manifest {repository} {reference} at {place.name}")
            return found

        try:
            return self._first(f"manifest {repository} {reference}", ask)
        except DoesNotExistError:
            return None
        except CancelledError:
            raise
        except RegistryError:
            # a mirror that is gone for good would make everything optional fail for ever
            if lacking and all(place.mirror for place in self._places):
                return None
            raise

    def blob_size(self, repository: str, digest: Digest, /) -> int | None:
        """Of the first place that has the blob; None where none does."""

        def ask(place: Place) -> int:
            size = place.client.blob_size(place.rename(repository), digest)
            if size is None:
                raise DoesNotExistError(f"blob {digest} at {place.name}")
            return size

        try:
            return self._first(f"blob {digest}", ask)
        except DoesNotExistError:
            return None

    def open_elsewhere(
        self, descriptor: Descriptor, offset: int, *, cancel: Cancellation | None = None
    ) -> RemoteBlob:
        """From the URLs of the descriptor. Which of the places gave the manifest makes no
        difference; one that was found says what its network may be asked for."""
        place = next((one for one in self._places if one.known is not None), self._places[-1])
        return place.client.open_elsewhere(descriptor, offset, cancel=cancel)

    def open_blob(
        self,
        repository: str,
        digest: Digest,
        offset: int = 0,
        *,
        hasty: bool = False,
        cancel: Cancellation | None = None,
    ) -> RemoteBlob:
        """From the place where the search for this blob has come to, or the next that opens."""
        with self._lock:
            search = self._searches.setdefault((repository, digest), _Search())
            search.given = False
            begin, useless = search.at, set(search.useless)
        order = [n for n in range(begin, len(self._places)) if n not in useless]

        def ask(place: Place) -> RemoteBlob:
            return place.client.open_blob(
                place.rename(repository), digest, offset, hasty=hasty, cancel=cancel
            )

        def note(number: int, error: Exception | None) -> None:
            with self._lock:
                if error is None:
                    search.at, search.given = number, True
                elif isinstance(error, _FINAL):
                    search.useless.add(number)

        return self._first(f"blob {digest}", ask, order, note)

    def ready(self, repository: str, digest: Digest, /) -> float:
        """0 for a mirror, which has a next place; what the origin says, where it is its turn."""
        with self._lock:
            search = self._searches.get((repository, digest))
            place = self._places[0 if search is None else search.at]
        known = None if place.mirror else place.known
        return 0.0 if known is None else known.ready(repository, digest)

    def elsewhere(self, repository: str, digest: Digest, error: Exception, /) -> bool:
        """Go on with the next place. At the end of the list the search begins again with those
        that may still be of use, and this was a failure."""
        if isinstance(error, CancelledError):
            return False
        with self._lock:
            search = self._searches.setdefault((repository, digest), _Search())
            place = self._places[search.at] if search.given else None
            if place is not None and isinstance(error, _FINAL):
                search.useless.add(search.at)
            left = [n for n in range(len(self._places)) if n not in search.useless]
            following = [n for n in left if place is not None and n > search.at]
            search.at = (following or left or [0])[0]
            search.given = False
            if not left:
                search.useless.clear()
        if place is not None and place.mirror:
            self._failed(place, f"blob {digest}", error)
        return bool(following)

    def _first(
        self,
        what: str,
        ask: Callable[[Place], _T],
        order: Sequence[int] | None = None,
        note: Callable[[int, Exception | None], object] = lambda number, error: None,
    ) -> _T:
        """What the first of the places gives that gives it.

        A mirror that is left alone is passed over. Without an origin it is asked after all when
        the others have failed.
        """
        numbers = list(order or range(len(self._places)))
        asleep: list[int] = []
        failures: list[tuple[Place, RegistryError]] = []
        while numbers:
            number = numbers.pop(0)
            place = self._places[number]
            if number not in asleep and self._asleep(place):
                asleep.append(number)
            else:
                try:
                    found = ask(place)
                except CancelledError:
                    raise
                except RegistryError as error:
                    note(number, error)
                    failures.append((place, error))
                    if place.mirror:
                        self._failed(place, what, error)
                        if isinstance(error, LoginRequiredError):
                            place.give_up(error)
                else:
                    note(number, None)
                    if place.mirror:
                        self._answered(place, what, found)
                    return found
            if not numbers and not any(not one.mirror for one, _ in failures):
                numbers = [one for one in asleep if self._places[one] not in _asked(failures)]
        raise _failure(what, failures)

    def _asleep(self, place: Place) -> bool:
        if place.useless:
            return True
        left = self._breakers.closed_for(place.name) if place.mirror else 0.0
        if left > 0:
            self._observer.log(
                "debug", f"the mirror {place.name} is left alone for {left:.0f} s more"
            )
        return left > 0

    def _answered(self, place: Place, what: str, found: object) -> None:
        self._breakers.answered(place.name)
        try:
            self._observer.log("debug", f"{what} comes from the mirror {place.name}")
        except BaseException:  # of a job that has ended
            if isinstance(found, RemoteBlob):
                found.close()
            raise

    def _failed(self, place: Place, what: str, error: Exception) -> None:
        rest = self._breakers.failed(place.name, error)
        level = "debug" if isinstance(error, DoesNotExistError) else "warning"
        more = f"; it is left alone for {rest:.0f} s" if rest else ""
        self._observer.log(level, f"{what}: the mirror {place.name}: {error}{more}")


def _asked(failures: Sequence[tuple[Place, RegistryError]]) -> list[Place]:
    return [place for place, _ in failures]


def _failure(what: str, failures: Sequence[tuple[Place, RegistryError]]) -> RegistryError:
    """The origin's own error where it was asked; else, of several mirrors, one that names all."""
    for place, error in failures:
        if not place.mirror or len(failures) == 1:
            return error
    told = "; ".join(f"{one.name}: {why}" for one, why in failures)
    if all(isinstance(why, DoesNotExistError) for _, why in failures):
        return DoesNotExistError(f"{what}, at every mirror, ")
    return RegistryError(
        f"{what}: no mirror gives it, and the origin is not to be asked: {told}",
        code="mirrors",
        retryable=any(why.retryable for _, why in failures),
    )
