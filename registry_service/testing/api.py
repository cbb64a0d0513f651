"""Which endpoint answers a request, and what it takes to be let in.

The routes are those of the OCI distribution specification 1.1, 'Endpoints', with Docker's
catalog, the token endpoint and the search of V1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Final

from .access import Scope
from .blobs import BlobEndpoints
from .exchange import Exchange
from .gate import AuthScheme, Gate
from .manifests import ManifestEndpoints
from .message import ApiError, Request, Response, json_response, next_link
from .names import is_repository
from .search import SearchBook, search_response
from .storage import Storage

__all__ = ["Api"]

_ROUTE: Final = re.compile(
    r"/v2/(?P<name>.+)/(?:"
    r"(?P<tags>tags/list)"
    r"|blobs/(?P<uploads>uploads)/?"
    r"|blobs/uploads/(?P<upload>[^/]+)"
    r"|blobs/(?P<blob>[^/]+)"
    r"|manifests/(?P<manifest>[^/]+)"
    r"|referrers/(?P<referrers>[^/]+)"
    r")"
)
_ACTIONS: Final = {
    "GET": ("pull",),
    "HEAD": ("pull",),
    "POST": ("pull", "push"),
    "PATCH": ("pull", "push"),
    "PUT": ("pull", "push"),
    "DELETE": ("delete",),
}
_CODES: Final = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
    501: "UNSUPPORTED",
    503: "UNAVAILABLE",
    505: "UNSUPPORTED",
}
_V2: Final = ("Docker-Distribution-Api-Version", "registry/2.0")
_V1: Final = (
    ("X-Docker-Registry-Version", "0.9.1"),
    ("X-Docker-Registry-Standalone", "true"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """All endpoints. ``page_size`` is the most, and the default, of a list's page."""

    storage: Storage
    gate: Gate
    blobs: BlobEndpoints
    manifests: ManifestEndpoints
    book: SearchBook
    page_size: int

    def respond(self, exchange: Exchange) -> Response:
        """Answer a request; its errors too. Sets the exchange's user."""
        path = exchange.request.path
        try:
            if path == "/v2" or path.startswith("/v2/"):
                return self._v2(exchange).having(_V2)
            if path.startswith("/v1/"):
                return self._v1(exchange)
            if path == "/token":
                return self.gate.token(exchange)
            raise _nowhere(path)
        except ApiError as error:
            answer = error.response()
            return answer.having(_V2) if path.startswith("/v2") else answer

    def refusal(
        self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        code = _CODES.get(status, "UNKNOWN")
        return ApiError(code, message, status=status, headers=headers).response()

    def _v1(self, exchange: Exchange) -> Response:
        request = exchange.request
        if request.method not in ("GET", "HEAD"):
            raise _wrong_method(request)
        if request.path == "/v1/_ping":
            return json_response(True, headers=_V1)
        if request.path != "/v1/search":
            raise _nowhere(request.path)
        user = exchange.user = self.gate.admit_visitor(request)
        return search_response(
            request, self.book, self.storage.repositories(), lambda name: self.gate.sees(user, name)
        )

    def _v2(self, exchange: Exchange) -> Response:
        request = exchange.request
        if request.path in ("/v2", "/v2/"):
            exchange.user = self.gate.admit(request, ())
            _only(request, "GET", "HEAD")
            return json_response({})
        if request.path == "/v2/_catalog":
            _only(request, "GET", "HEAD")
            return self._catalog(exchange)
        match = _ROUTE.fullmatch(request.path)
        if match is None:
            raise _nowhere(request.path)
        name = match["name"]
        if not is_repository(name):
            raise ApiError("NAME_INVALID", f"{name!r} is not the name of a repository")
        if request.method not in _ACTIONS:
            raise _wrong_method(request)
        needs = [Scope.repository(name, *_ACTIONS[request.method])]
        source = request.argument("from") if match["uploads"] else None
        if source is not None and not is_repository(source):
            source = None
        if source is not None and self.gate.scheme is AuthScheme.TOKEN:
            needs.append(Scope.repository(source, "pull"))
        exchange.user = self.gate.admit(request, needs)
        return self._repository(exchange, match, source)

    def _repository(self, exchange: Exchange, match: re.Match[str], source: str | None) -> Response:
        """Answer inside a repository, once the request has been let in."""
        method = "GET" if exchange.request.method == "HEAD" else exchange.request.method
        name = match["name"]
        if match["uploads"] and method == "POST":
            mountable = source is not None and self.gate.sees(exchange.user, source)
            return self.blobs.start(exchange, name, mountable)
        if match["tags"] and method == "GET":
            return self._tags(exchange, name)
        endpoints: dict[str, dict[str, Callable[[Exchange, str, str], Response]]] = {
            "upload": {
                "GET": self.blobs.progress,
                "PATCH": self.blobs.append,
                "PUT": self.blobs.finish,
                "DELETE": self.blobs.cancel,
            },
            "blob": {"GET": self.blobs.get, "DELETE": self._delete_blob},
            "manifest": {
                "GET": self.manifests.get,
                "PUT": self.manifests.put,
                "DELETE": self.manifests.delete,
            },
            "referrers": {"GET": self.manifests.refer},
        }
        for group, methods in endpoints.items():
            if match[group] and method in methods:
                return methods[method](exchange, name, match[group])
        raise _wrong_method(exchange.request)

    def _delete_blob(self, exchange: Exchange, name: str, digest: str) -> Response:
        if self.manifests.deletes == "none":
            raise ApiError("UNSUPPORTED", "the operation is unsupported")
        return self.blobs.delete(exchange, name, digest)

    def _tags(self, exchange: Exchange, name: str) -> Response:
        if not self.storage.has_repository(name):
            raise ApiError("NAME_UNKNOWN", f"no repository {name}")
        tags, link = self._page(exchange.request, self.storage.tags(name))
        return json_response({"name": name, "tags": tags}, headers=link)

    def _catalog(self, exchange: Exchange) -> Response:
        scope = Scope(type="registry", name="catalog", actions=frozenset({"*"}))
        user = exchange.user = self.gate.admit(exchange.request, (scope,))
        names = [name for name in self.storage.repositories() if self.gate.sees(user, name)]
        page, link = self._page(exchange.request, names)
        return json_response({"repositories": page}, headers=link)

    def _page(
        self, request: Request, names: Sequence[str]
    ) -> tuple[Sequence[str], tuple[tuple[str, str], ...]]:
        """The page that ``n`` and ``last`` ask for, and the Link header to the next."""
        text = request.argument("n")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ApiError("PAGINATION_NUMBER_INVALID", f"n={text!r} is no number from 0 on")
        size = min(self.page_size, int(text)) if text is not None else self.page_size
        last = request.argument("last")
        rest = [name for name in names if name > last] if last is not None else names
        page = rest[:size]
        if not page or len(page) == len(rest):
            return page, ()
        return page, (next_link(request, {"last": page[-1], "n": size}),)


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise _wrong_method(request)


def _wrong_method(request: Request) -> ApiError:
    return ApiError("UNSUPPORTED", f"{request.method} is not supported for {request.path}")


def _nowhere(path: str) -> ApiError:
    return ApiError("UNSUPPORTED", f"nothing is at {path}", status=404)
