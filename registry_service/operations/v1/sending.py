"""A chain of images on its way to a V1 registry, one image after the other, the lowest first.

The order is the one that the protocol asks for: the index is told what will come, and answers where
to and with which token; each image is asked for before its JSON, its layer and its checksum are
sent; then comes the tag, and the index is told that all is there. One image at a time: a registry
takes an image only upon one that it has, and what is sent out of turn is half pushed for longer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from ...cancel import Cancellation
from ...errors import (
    AlreadyExistsError,
    CancelledError,
    DigestMismatchError,
    DoesNotExistError,
    InvalidReferenceError,
    LayerError,
    LoginRequiredError,
    RegistryError,
    RegistryHTTPError,
)
from ...observe import Observer
from ...reference import Reference
from ...session.turns import Turns
from ...session.v1.answers import MISMATCH
from ...session.v1.client import V1Client
from ...transport import Readable
from ...v1.image import V1Image
from ...v1.values import ImgData, RepositoryData

__all__ = ["Outgoing", "Seen", "Sending", "tag_to_put"]

_T = TypeVar("_T")

# How often an image is sent whose bytes did not arrive as they were sent.
_TRIES: Final = 3
#: What came wrong from its source is seldom better the next time, and may be large.
_TRIES_OF_SOURCE: Final = 2
# Jobs of one process that push images with the same ones below do not send these twice, nor spoil
# what the other is sending: a registry has one place for an image that is half pushed.
_TURNS: Final = Turns()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """An image to be sent; ``open`` opens its layer from the start, once for each try."""

    image: V1Image
    open: Callable[[], Readable]


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What an operation on many tags has seen of registries: the images that they have, whole, by
    registry and id, and those that let a token read."""

    images: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    reading: set[str] = dataclasses.field(default_factory=set)


def tag_to_put(reference: Reference) -> str:
    """The tag that an image gets. Raises `InvalidReferenceError` where it would get none."""
    if reference.tag is None:
        raise InvalidReferenceError(f"{reference}: V1 knows images by tags; give it one")
    return reference.tag


class _Grant:
    """What the index grants for one push: where to send the images, and the token for that. It is
    asked again where a token that was good runs out, as it may while large layers are sent."""

    def __init__(self, ask: Callable[[], RepositoryData]) -> None:
        self._renewed = ask
        data = ask()
        self.endpoints = data.endpoints
        self._tokens = data.tokens
        self._good = False

    def let(self, request: Callable[[Sequence[str]], _T]) -> _T:
        """Do it with the token."""
        try:
            done = request(self._tokens)
        except LoginRequiredError:
            if not self._good:
                raise
            self._tokens = self._renewed().tokens
            done = request(self._tokens)
        self._good = True
        return done

    def ask(self, request: Callable[[Sequence[str]], _T], *, reads: bool) -> _T:
        """The same for a question. Of a token that is not known to read, an answer that does not
        let it says nothing."""
        if reads:
            return self.let(request)
        done = request(self._tokens)
        self._good = True
        return done


class Sending:
    """Sends chains under the name ``reference``, which has a tag, to every registry that the index
    names. Used by one thread. ``seen`` is that of an operation on many tags."""

    def __init__(
        self,
        reference: Reference,
        client: V1Client,
        cancel: Cancellation,
        observer: Observer,
        seen: Seen | None = None,
    ) -> None:
        self._reference = reference
        self._client = client
        self._cancel = cancel
        self._observer = observer
        #: The images that were sent, by their ids.
        self.sent: dict[str, ImgData] = {}
        self._seen = seen or Seen()

    def run(self, chain: Sequence[Outgoing], settled: Callable[[V1Image], object]) -> bool:
        """Send what is missing; whether anything was. ``settled`` is told of each image, when it is
        known what became of it everywhere."""
        repository, tag = self._reference.repository, tag_to_put(self._reference)
        top = chain[-1].image.id
        listed = [ImgData(id=one.image.id, tag=tag if one is chain[-1] else "") for one in chain]
        grant = _Grant(lambda: self._client.put_index(repository, listed, False, ()))
        tagged = False
        for registry in grant.endpoints:
            for one in chain:
                self._image(one, registry, grant)
                if registry == grant.endpoints[-1]:
                    settled(one.image)
            tagged = self._tag(top, tag, registry, grant) or tagged
        confirmed = [self.sent[one.image.id] for one in chain if one.image.id in self.sent]
        self._client.put_index(repository, confirmed, True, grant.endpoints)
        self._observer.log("info", f"{self._reference} is the image {top} there")
        return tagged or bool(self.sent)

    def _image(self, one: Outgoing, registry: str, grant: _Grant) -> None:
        """Send one image, unless it is there."""
        image_id = one.image.id
        self._cancel.check()
        if (registry, image_id) in self._seen.images:
            return
        with _TURNS.hold((registry, image_id), self._cancel):
            self._bring(one, registry, grant)
        self._seen.images.add((registry, image_id))

    def _bring(self, one: Outgoing, registry: str, grant: _Grant) -> None:
        image_id = one.image.id
        for tries_left in reversed(range(_TRIES)):
            if self._is_there(image_id, registry, grant):
                return
            try:
                self._send(one, registry, grant)
            except AlreadyExistsError:  # somebody else was faster
                pass
            except (DigestMismatchError, LayerError) as error:  # of where it comes from
                if _TRIES - tries_left >= _TRIES_OF_SOURCE:
                    raise
                self._observer.log("warning", f"image {image_id} is sent again: {error}")
                continue
            except RegistryHTTPError as error:
                if error.http_status == 409 and self._is_there(image_id, registry, grant):
                    return  # with the checksum
                if error.code != MISMATCH:
                    raise
                if not tries_left:
                    raise _spoilt(image_id, error) from error
                self._observer.log("warning", f"image {image_id} is sent again: {error}")
                continue
            return

    def _is_there(self, image_id: str, registry: str, grant: _Grant) -> bool:
        """Whether the registry has the image, whole. One that is half pushed is answered with a
        400, and may be sent again. The original registry, behind an index, does not let a token
        that writes read: then it says whether it has the image when it gets the JSON."""
        reads = registry in self._seen.reading
        question = functools.partial(self._client.has_image, image_id, registry)
        try:
            there = grant.ask(question, reads=reads)
        except LoginRequiredError:
            if reads:
                raise
            return False
        except RegistryHTTPError as error:
            if error.http_status != 400:
                raise
            self._observer.log("info", f"image {image_id} is half pushed, and sent again: {error}")
            there = False
        self._seen.reading.add(registry)
        return there

    def _send(self, one: Outgoing, registry: str, grant: _Grant) -> None:
        image, client = one.image, self._client
        found = ImgData(id=image.id)
        grant.let(functools.partial(client.put_json, found, image.raw, registry))
        sums = grant.let(
            lambda token: client.put_layer(image.id, one.open, registry, token, image.raw)
        )
        found = ImgData(id=image.id, checksum=sums.checksum, checksum_payload=sums.checksum_payload)
        grant.let(functools.partial(client.put_checksum, found, registry))
        self.sent[image.id] = found

    def _tag(self, image_id: str, tag: str, registry: str, grant: _Grant) -> bool:
        """Whether the tag had to be put."""
        self._cancel.check()
        if registry in self._seen.reading and self._has_tag(image_id, tag, registry, grant):
            return False
        repository = self._reference.repository
        grant.let(functools.partial(self._client.put_tag, repository, image_id, tag, registry))
        return True

    def _has_tag(self, image_id: str, tag: str, registry: str, grant: _Grant) -> bool:
        """Whether the tag is that of the image. Where it cannot be told, it is put."""
        repository = self._reference.repository
        try:
            tags = grant.let(functools.partial(self._client.remote_tags, [registry], repository))
        except DoesNotExistError:
            return False
        except (CancelledError, LoginRequiredError):
            raise
        except RegistryError as error:
            self._observer.log("info", f"the tag is put without having been asked for: {error}")
            return False
        return tags.get(tag) == image_id


def _spoilt(image_id: str, error: RegistryHTTPError) -> RegistryError:
    return RegistryError(
        f"image {image_id}: the registry got other bytes than were sent, {_TRIES} times: {error}",
        code=MISMATCH,
        retryable=True,
    )
