"""Which endpoint of a V1 registry answers a request, and what it takes to be let in."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from ..exchange import Exchange
from ..message import ApiError, Response
from ..search import SearchBook, search_response
from .gates import Gate
from .imageapi import ImageEndpoints
from .message import V1Error, pong
from .names import full_name
from .standalone import StandaloneIndex
from .storage import V1Storage
from .tagapi import TagEndpoints
from .tokens import Token

__all__ = ["ROUTE", "RegistryApi", "failure", "repository_of"]

ROUTE: Final = re.compile(
    r"/v1/(?:"
    r"images/(?P<image>[^/]+)/(?P<part>json|layer|ancestry|checksum)"
    r"|users(?:/(?P<user>[^/]+))?/?(?P<users>)"
    r"|repositories/(?P<tagged>[^/]+(?:/[^/]+)?)/tags(?:/(?P<tag>[^/]+)(?P<about>/json)?)?"
    r"|repositories/(?P<listed>[^/]+(?:/[^/]+)?)/(?P<what>images|auth|json|properties)"
    r"|repositories/(?P<repository>[^/]+(?:/[^/]+)?)/?"
    r")"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegistryApi:
    """All endpoints of a registry. With ``index`` it is standalone, and answers for one too.

    ``standalone`` is what the ping's header says; None: there is no such header. With
    ``read_only`` nothing can be put or taken away.
    """

    storage: V1Storage
    gate: Gate
    images: ImageEndpoints
    tags: TagEndpoints
    index: StandaloneIndex | None
    book: SearchBook
    version: str
    standalone: str | None
    read_only: bool
    search: bool

    def respond(self, exchange: Exchange) -> Response:
        """Answer a request; its errors too."""
        version = ("X-Docker-Registry-Version", self.version)
        try:
            return self._respond(exchange).having(version)
        except (V1Error, ApiError) as error:
            return failure(error).having(version)

    def refusal(
        self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        return V1Error(message, status, headers).response()

    def _respond(self, exchange: Exchange) -> Response:
        path = exchange.request.path
        if path in ("/_ping", "/v1/_ping"):
            return pong(exchange.request, self.standalone)
        if path == "/v1/search" and self.search:
            self.gate.admit(exchange, None)
            names = self.storage.repositories()
            return search_response(exchange.request, self.book, names, lambda name: True)
        match = ROUTE.fullmatch(path)
        if match is None:
            raise V1Error("Not found", 404)
        repository = repository_of(match)
        if self.index is None and not _of_registry(match, exchange.request.method):
            raise V1Error("Not found", 404)
        admission = self.gate.admit(exchange, repository)
        if self.read_only and exchange.request.method not in ("GET", "HEAD"):
            raise V1Error("This registry is only read", 405)
        self._note(admission.token)
        try:
            if match["part"]:
                image_id, part = match["image"], match["part"]
                found = self.images.respond(exchange, image_id, part, admission.token)
            else:
                found = self._repository(exchange, match, repository)
        except V1Error as error:
            # The token may be used up now, whatever came of it: the session is not to be lost.
            found = error.response()
        return found.having(*admission.headers)

    def _note(self, token: Token | None) -> None:
        """Whoever comes with a token makes its repository known: it has no tags yet, maybe."""
        index = self.images.membership()
        if token is None or index is None or self.read_only:
            return
        if not self.storage.has_repository(token.repository):
            self.storage.note_images(token.repository, index.ids(token.repository))

    def _repository(
        self, exchange: Exchange, match: re.Match[str], repository: str | None
    ) -> Response:
        if repository is None:
            if self.index is None:
                raise V1Error("Not found", 404)
            return self.index.users(exchange, match["user"])
        if match["about"]:
            return self.tags.describe(exchange, repository, match["tag"])
        if match["tagged"]:
            return self.tags.respond(exchange, repository, match["tag"])
        if match["what"] == "json":
            return self.tags.describe(exchange, repository, None)
        if match["what"] == "properties":
            return self.tags.access(exchange, repository)
        method = exchange.request.method
        if match["repository"] and method == "DELETE":
            return self.tags.delete(repository)
        if self.index is None:
            raise V1Error("Not found", 404)
        if match["what"] == "images":
            return self.index.images(exchange, repository)
        if match["what"] == "auth":
            return self.index.auth(exchange, repository)
        if method != "PUT":
            raise V1Error("Method not allowed", 405)
        return self.index.put(exchange, repository, status=200)


def _of_registry(match: re.Match[str], method: str) -> bool:
    """Whether a request is for a registry, and not for an index."""
    if match["part"] or match["tagged"] or match["what"] in ("json", "properties"):
        return True
    return match["repository"] is not None and method == "DELETE"


def repository_of(match: re.Match[str]) -> str | None:
    """The repository that a path names, with its namespace. Raises `V1Error`."""
    name = match["tagged"] or match["listed"] or match["repository"]
    if name is None:
        return None
    try:
        return full_name(name)
    except ValueError as error:
        raise V1Error(str(error)) from None


def failure(error: V1Error | ApiError) -> Response:
    """An error in the form of V1."""
    if isinstance(error, V1Error):
        return error.response()
    return V1Error(error.message, error.status, error.headers).response()
