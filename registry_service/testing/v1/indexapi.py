"""The endpoints of an index: accounts, repositories with the lists of their images, tokens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Final

from ..exchange import Exchange
from ..message import ApiError, Request, Response
from ..search import SearchBook, search_response
from . import imagelists
from .accounts import Account, Accounts, unauthorized
from .api import ROUTE, failure, repository_of
from .message import V1Error, answer, pong, read_json
from .names import full_name, short_name
from .storage import V1Storage
from .tokens import Access, TokenBook

__all__ = ["IndexApi"]

_IMAGE_ACCESS: Final = re.compile(
    r"/v1/repositories/(?P<repository>[^/]+/[^/]+)/layer/(?P<image>[^/]+)/access"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IndexApi:
    """All endpoints of an index.

    ``endpoints`` gives the registries' hosts; with ``repeated`` each has a header of its own.
    ``protected``: nobody makes accounts here; ``activated``: accounts are active once made.
    ``deleted`` are the repositories whose end has been asked for and not yet confirmed.
    """

    storage: V1Storage
    accounts: Accounts
    tokens: TokenBook
    book: SearchBook
    endpoints: Callable[[], Sequence[str]]
    repeated: bool
    protected: bool
    activated: bool
    standalone: str | None
    deleted: set[str]

    def respond(self, exchange: Exchange) -> Response:
        """Answer a request; its errors too."""
        try:
            return self._respond(exchange)
        except (V1Error, ApiError) as error:
            return failure(error)

    def refusal(
        self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        return V1Error(message, status, headers).response()

    def may_use(self, user: str, image_id: str) -> bool:
        """Whether an image is in a repository that this user sees."""
        account = self.accounts.get(user)
        return any(
            any(one["id"] == image_id for one in self.storage.index_images(name) or ())
            for name in self.storage.repositories()
            if self._sees(account, name)
        )

    def _respond(self, exchange: Exchange) -> Response:
        request = exchange.request
        if request.path in ("/_ping", "/v1/_ping"):
            return pong(request, self.standalone)
        if request.path == "/v1/search":
            return self._search(exchange)
        access = _IMAGE_ACCESS.fullmatch(request.path)
        if access is not None:
            return self._image_access(exchange, access)
        match = ROUTE.fullmatch(request.path)
        if match is None or match["part"] or match["tagged"]:
            raise V1Error("Not found", 404)
        repository = repository_of(match)
        if repository is None:
            return self._users(exchange, match["user"])
        endpoints: dict[tuple[str | None, str], Callable[[Exchange, str], Response]] = {
            (None, "PUT"): self._create,
            (None, "DELETE"): self._delete,
            ("images", "GET"): self._images,
            ("images", "HEAD"): self._images,
            ("images", "PUT"): self._update,
            ("auth", "PUT"): self._authorize,
        }
        endpoint = endpoints.get((match["what"], request.method))
        if endpoint is None:
            raise V1Error("Method not allowed", 405)
        return endpoint(exchange, repository)

    # accounts

    def _users(self, exchange: Exchange, name: str | None) -> Response:
        request = exchange.request
        if name is not None and request.method == "PUT":
            return self._change_user(exchange, name)
        if name is None and request.method == "POST":
            if self.protected:
                raise unauthorized()
            _, data = read_json(exchange)
            return self.accounts.register(data, active=self.activated)
        if name is None and request.method in ("GET", "HEAD"):
            exchange.user = self.accounts.needed(request).name
            return answer("OK")
        raise V1Error("Method not allowed", 405)

    def _change_user(self, exchange: Exchange, name: str) -> Response:
        account = self.accounts.needed(exchange.request)
        exchange.user = account.name
        if self.accounts.get(name) is None:
            raise V1Error("User not found", 404)
        if account.name != name:
            raise V1Error("Permission denied", 403)
        _, data = read_json(exchange)
        wanted = data if isinstance(data, dict) else {}
        changes = {key: wanted[key] for key in ("email", "password") if key in wanted}
        if not changes or not all(isinstance(value, str) for value in changes.values()):
            raise V1Error("Invalid data")
        self.accounts.change(name, **changes)
        return answer("", status=204)

    # repositories

    def _create(self, exchange: Exchange, repository: str) -> Response:
        """The list of what is to be pushed. The token, asked for, lets it in at a registry."""
        account = self._writer(exchange, repository, "push")
        _, data = read_json(exchange)
        self.storage.merge_index_images(repository, imagelists.checked(data))
        self.deleted.discard(repository)
        headers = self._headers(exchange.request, repository, "write", account)
        return answer("", headers=headers)

    def _update(self, exchange: Exchange, repository: str) -> Response:
        """The list of what has been pushed, with its checksums."""
        self._writer(exchange, repository, "push")
        _, data = read_json(exchange)
        self.storage.merge_index_images(repository, imagelists.checked(data))
        return answer("", status=204)

    def _images(self, exchange: Exchange, repository: str) -> Response:
        """The list, to clients with a token if they ask for one, and to registries for one."""
        request = exchange.request
        if request.headers.get("authorization", "").lower().startswith("token "):
            token = self.tokens.use(request.headers["authorization"], repository)
            if token is None:
                raise unauthorized()
            exchange.user = token.user
            return answer(self._listed(repository))
        account = self.accounts.sign_in(request)
        exchange.user = account.name if account else ""
        if self.storage.is_private(repository) and account is None:
            raise unauthorized()
        if not self._sees(account, repository):
            raise V1Error("images not found", 404)
        headers = self._headers(request, repository, "read", account)
        return answer(self._listed(repository), headers=headers)

    def _delete(self, exchange: Exchange, repository: str) -> Response:
        """Asked for the first time: a token to delete with. Then: it is gone."""
        account = self._writer(exchange, repository, "delete")
        self._listed(repository)
        if repository in self.deleted:
            self.deleted.discard(repository)
            self.storage.delete_repository(repository)
            return answer("")
        self.deleted.add(repository)
        headers = self._headers(exchange.request, repository, "delete", account)
        return answer("", status=202, headers=headers)

    def _authorize(self, exchange: Exchange, repository: str) -> Response:
        """Whether a token is good for a repository, which uses it."""
        self._listed(repository)
        token = self.tokens.use(exchange.request.headers.get("authorization", ""), repository)
        if token is None:
            raise V1Error("Permission denied", 403)
        exchange.user = token.user
        return answer("OK")

    def _image_access(self, exchange: Exchange, match: re.Match[str]) -> Response:
        """Whether the holder of a token may build on an image. Asked by registries."""
        try:
            repository = full_name(match["repository"])
        except ValueError as error:
            raise V1Error(str(error)) from None
        authorization = exchange.request.headers.get("authorization", "")
        token = self.tokens.use(authorization, repository)
        if token is None:
            raise unauthorized()
        exchange.user = token.user
        return answer({"access": self.may_use(token.user, match["image"])})

    def _search(self, exchange: Exchange) -> Response:
        account = self.accounts.sign_in(exchange.request)
        exchange.user = account.name if account else ""
        names = map(short_name, self.storage.repositories())
        return search_response(
            exchange.request, self.book, names, lambda name: self._sees(account, full_name(name))
        )

    def _listed(self, repository: str) -> list[dict[str, object]]:
        images = self.storage.index_images(repository)
        if images is None:
            raise V1Error("images not found", 404)
        return images

    def _writer(self, exchange: Exchange, repository: str, action: str) -> Account:
        account = self.accounts.needed(exchange.request)
        exchange.user = account.name
        if not account.allows(repository, action):
            raise V1Error("Permission denied", 403)
        return account

    def _sees(self, account: Account | None, repository: str) -> bool:
        if not self.storage.is_private(repository):
            return True
        return account is not None and account.allows(repository, "pull")

    def _headers(
        self, request: Request, repository: str, access: Access, account: Account | None
    ) -> tuple[tuple[str, str], ...]:
        """Where the registries are, and a token for them if one was asked for."""
        hosts = list(self.endpoints())
        lines = hosts if self.repeated else [", ".join(hosts)] if hosts else []
        headers = [("X-Docker-Endpoints", line) for line in lines]
        if request.headers.get("x-docker-token", "").lower() == "true":
            token = str(self.tokens.issue(repository, access, account.name if account else ""))
            headers += [("WWW-Authenticate", f"Token {token}"), ("X-Docker-Token", token)]
        return tuple(headers)
