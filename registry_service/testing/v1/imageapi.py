"""The endpoints of images: their JSON, layers, ancestries and checksums."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, Literal, Protocol

from ..content import Content
from ..exchange import Exchange
from ..message import Response, Span
from ..ranges import RangeOutsideError, ranged
from .message import V1Error, answer, cached, read_json
from .names import is_image_id
from .oldranges import ranged_as_original
from .storage import V1Storage
from .sums import NoTarError, may_be_tarsum, payload_hasher
from .tokens import Token

__all__ = ["ImageEndpoints", "Membership", "Ranges"]

# How layers are cut: as RFC 9110 says, as the original does, or not at all.
Ranges = Literal["exact", "original", "none"]


class Membership(Protocol):
    """What an index knows of images. A standalone registry has none to ask."""

    def ids(self, repository: str) -> list[str]:
        """The images in the list of a repository."""

    def may_use(self, user: str, image_id: str) -> bool:
        """Whether a user sees a repository that has this image; empty: anybody."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageEndpoints:
    """Images, asked for and put: JSON first, then the layer, then the checksum.

    ``redirect`` gives the address at which a layer is to be fetched instead. With
    ``listed_checksums`` the checksum's header has a JSON list in it.
    """

    storage: V1Storage
    ranges: Ranges
    membership: Callable[[], Membership | None]
    redirect: Callable[[str], str] | None
    listed_checksums: bool

    def respond(
        self, exchange: Exchange, image_id: str, part: str, token: Token | None
    ) -> Response:
        """Answer a request for a part of an image. The client has been let in, by a token maybe."""
        if not is_image_id(image_id):
            raise V1Error("Invalid image ID", 404)
        method = "GET" if exchange.request.method == "HEAD" else exchange.request.method
        endpoints: dict[tuple[str, str], Callable[[Exchange, str], Response]] = {
            ("GET", "json"): self.get_json,
            ("GET", "layer"): self.get_layer,
            ("GET", "ancestry"): self.get_ancestry,
            ("PUT", "json"): functools.partial(self.put_json, token=token),
            ("PUT", "layer"): self.put_layer,
            ("PUT", "checksum"): self.put_checksum,
        }
        endpoint = endpoints.get((method, part))
        if endpoint is None:
            raise V1Error("Method not allowed", 405)
        if method == "GET":
            self._check_private(image_id, token)
            if self.storage.is_pending(image_id):
                raise V1Error("Image is being uploaded, retry later")
            if "if-modified-since" in exchange.request.headers:
                return Response(status=304, headers=cached())
        return endpoint(exchange, image_id)

    def get_json(self, exchange: Exchange, image_id: str) -> Response:
        raw = self._raw(image_id)
        headers: list[tuple[str, str]] = []
        layer = self.storage.layer(image_id)
        if layer is not None:
            headers.append(("X-Docker-Size", str(layer.size)))
        checksums = self.storage.checksums(image_id)
        if self.listed_checksums and checksums:
            headers.append(("X-Docker-Checksum-Payload", json.dumps(list(checksums))))
        else:
            headers += [("X-Docker-Checksum-Payload", one) for one in checksums]
        said = self.storage.said(image_id)
        headers = [pair for pair in headers if pair[0] not in said]
        headers += [(name, value) for name, value in said.items() if value is not None]
        return _kept(answer(raw, headers=tuple(headers)))

    def get_ancestry(self, exchange: Exchange, image_id: str) -> Response:
        ancestry = self.storage.ancestry(image_id)
        if ancestry is None:
            raise _unknown()
        return _kept(answer(ancestry))

    def get_layer(self, exchange: Exchange, image_id: str) -> Response:
        layer = self.storage.layer(image_id)
        if layer is None:
            raise _unknown()
        if self.redirect is not None:
            return Response(status=302, headers=(("Location", self.redirect(image_id)),))
        headers = (("Content-Type", "application/octet-stream"), *cached())
        if self.ranges == "none":
            span = Span(content=layer, offset=0, length=layer.size)
            whole = Response(status=200, headers=headers, body=span)
            return whole if layer.size else Response(status=416, headers=headers)
        if layer.size == 0:
            return Response(status=416, headers=(*headers, ("Accept-Ranges", "bytes")))
        if self.ranges == "original":
            return ranged_as_original(exchange, layer, headers)
        try:
            return ranged(exchange, layer, headers)
        except RangeOutsideError as error:
            return Response(status=416, headers=(*headers, *error.headers))

    def put_json(self, exchange: Exchange, image_id: str, token: Token | None) -> Response:
        raw, data = read_json(exchange)
        if not data or not isinstance(data, dict):
            raise V1Error("Invalid JSON")
        if "id" not in data:
            raise V1Error("Missing key `id' in JSON")
        if data["id"] != image_id:
            raise V1Error("JSON data contains invalid id")
        index = self.membership()
        if index is not None and token and image_id not in index.ids(token.repository):
            raise V1Error("This image does not belong to the repository")
        parent = data.get("parent")
        if parent:
            self._check_parent(parent, token)
        if self.storage.raw(image_id) is not None and not self.storage.is_pending(image_id):
            raise V1Error("Image already exists", 409)
        above = self.storage.chain(parent) if parent else []
        self.storage.begin(image_id, raw, json.dumps([image_id, *above]).encode())
        return answer()

    def put_layer(self, exchange: Exchange, image_id: str) -> Response:
        raw = self._raw(image_id)
        if self.storage.layer(image_id) is not None and not self.storage.is_pending(image_id):
            raise V1Error("Image already exists", 409)
        digest = payload_hasher(raw)
        upload = self.storage.new_upload()
        try:
            for chunk in exchange.body.chunks():
                upload.append(chunk)
                digest.update(chunk)
            self.storage.take_layer(image_id, upload, f"sha256:{digest.hexdigest()}")
        finally:
            upload.discard()
        return answer()

    def put_checksum(self, exchange: Exchange, image_id: str) -> Response:
        payload = exchange.request.headers.get("x-docker-checksum-payload")
        if payload is None:
            raise V1Error(
                "X-Docker-Checksum-Payload not set.  If you are using the Docker daemon, "
                "you should upgrade to version 0.10 or later",
                412,
            )
        if not payload:
            raise V1Error("Missing Image's checksum")
        raw = self._raw(image_id)
        if not self.storage.is_pending(image_id):
            raise V1Error("Cannot set this image checksum", 409)
        layer = self.storage.layer(image_id)
        if layer is None or payload not in self.storage.checksums(image_id):
            raise V1Error("Checksum mismatch")
        tar = exchange.request.headers.get("x-docker-checksum", "")
        if tar.startswith("tarsum+sha256:"):
            _check_tarsum(tar, raw, layer)
        self.storage.finish(image_id)
        return answer()

    def _check_parent(self, parent: Any, token: Token | None) -> None:
        known = isinstance(parent, str) and is_image_id(parent)
        if not known or self.storage.raw(parent) is None:
            raise V1Error("Image depends on a non existing parent")
        if not self._may_use(parent, token):
            raise V1Error("Image depends on an unauthorized parent")

    def _check_private(self, image_id: str, token: Token | None) -> None:
        """Whoever comes for a private repository has no more than what he sees."""
        private = token is not None and self.storage.is_private(token.repository)
        if private and not self._may_use(image_id, token):
            raise _unknown()

    def _may_use(self, image_id: str, token: Token | None) -> bool:
        index = self.membership()
        return index is None or token is None or index.may_use(token.user, image_id)

    def _raw(self, image_id: str) -> bytes:
        raw = self.storage.raw(image_id)
        if raw is None:
            raise _unknown()
        return raw


def _unknown() -> V1Error:
    return V1Error("Image not found", 404)


def _kept(response: Response) -> Response:
    """The same answer, which may be kept."""
    kind = tuple(pair for pair in response.headers if pair[0].startswith(("Content-", "X-")))
    return dataclasses.replace(response, headers=(*kind, *cached()))


def _check_tarsum(stated: str, raw: bytes, layer: Content) -> None:
    try:
        holds = may_be_tarsum(stated, raw, layer)
    except NoTarError:
        raise V1Error("Layer format not supported") from None
    if not holds:
        raise V1Error("Checksum mismatch")
