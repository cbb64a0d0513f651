"""What a standalone registry answers in the place of an index: everybody may, and has a token."""

from __future__ import annotations

import dataclasses
import secrets

from ..exchange import Exchange
from ..message import Request, Response
from . import imagelists
from .message import V1Error, answer, read_json
from .storage import V1Storage

__all__ = ["StandaloneIndex"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneIndex:
    """Repositories with the lists of their images, and users of whom nothing is kept.

    ``endpoints`` are named to clients; where there are none, the host that they asked. With
    ``derived`` a list that is missing is made of the tags.
    """

    storage: V1Storage
    endpoints: tuple[str, ...]
    derived: bool

    def users(self, exchange: Exchange, name: str | None) -> Response:
        """``users/``: any login is good, any account is created, and forgotten."""
        method = exchange.request.method
        if name is not None:
            if method != "PUT":
                raise V1Error("Method not allowed", 405)
            return answer("", status=204)
        if method in ("GET", "HEAD"):
            return answer("OK")
        if method != "POST":
            raise V1Error("Method not allowed", 405)
        _, data = read_json(exchange)
        if data is None:
            raise V1Error("Error Decoding JSON")
        return answer("User Created", status=201)

    def put(self, exchange: Exchange, repository: str, *, status: int) -> Response:
        """The list of the images that are to be pushed (200), or that have been (204)."""
        _, data = read_json(exchange)
        self.storage.merge_index_images(repository, imagelists.checked(data))
        headers = self._headers(exchange.request, repository, "write")
        return answer("", status=status, headers=headers)

    def images(self, exchange: Exchange, repository: str) -> Response:
        """``images``: asked for, put, or taken back, which does nothing."""
        request = exchange.request
        if request.method == "PUT":
            return self.put(exchange, repository, status=204)
        if request.method == "DELETE":
            headers = self._headers(request, repository, "delete")
            return answer("", status=204, headers=headers)
        if request.method not in ("GET", "HEAD"):
            raise V1Error("Method not allowed", 405)
        images = self.storage.index_images(repository)
        if images is None and self.derived:
            images = self.storage.tagged_images(repository)
        if images is None:
            raise V1Error("images not found", 404)
        return answer(images, headers=self._headers(request, repository, "read"))

    def auth(self, exchange: Exchange, repository: str) -> Response:
        """``auth``: every token is good."""
        if exchange.request.method != "PUT":
            raise V1Error("Method not allowed", 405)
        return answer("OK")

    def _headers(
        self, request: Request, repository: str, access: str
    ) -> tuple[tuple[str, str], ...]:
        signature = secrets.token_hex(8).upper()
        token = f'Token signature={signature},repository="{repository}",access={access}'
        endpoints = ", ".join(self.endpoints) or request.host
        return (
            ("X-Docker-Endpoints", endpoints),
            ("WWW-Authenticate", token),
            ("X-Docker-Token", token),
        )
