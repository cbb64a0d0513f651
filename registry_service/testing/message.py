"""What goes through the server: a request, the answer, and errors as answers. All values."""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from .content import Content

__all__ = [
    "ApiError",
    "Request",
    "Response",
    "Span",
    "json_response",
    "next_link",
]

_STATUS: Final = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DENIED": 403,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "PAGINATION_NUMBER_INVALID": 400,
    "RANGE_INVALID": 416,
    "SIZE_INVALID": 400,
    "TAG_INVALID": 400,
    "TOOMANYREQUESTS": 429,
    "UNAUTHORIZED": 401,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
    "UNSUPPORTED": 405,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it was sent. ``headers`` has lower-case names, repeated ones joined."""

    method: str
    target: str
    path: str
    query: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, str]
    secure: bool
    host: str

    def argument(self, name: str) -> str | None:
        """The first value of a query argument, or None."""
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def base(self) -> str:
        """The address under which the client knows this server."""
        return f"{'https' if self.secure else 'http'}://{self.host}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of some content, to be sent as a body."""

    content: Content
    offset: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Span = b""

    @property
    def length(self) -> int:
        return self.body.length if isinstance(self.body, Span) else len(self.body)

    def having(self, *headers: tuple[str, str]) -> Response:
        """The same with these headers added."""
        return dataclasses.replace(self, headers=(*self.headers, *headers))


class ApiError(Exception):
    """An answer that is an error: code and message in the specification's JSON.

    ``status`` is the code's usual one unless given.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        detail: Any = None,
        status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.status = _STATUS[code] if status is None else status
        self.headers = headers

    def response(self) -> Response:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return json_response({"errors": [error]}, status=self.status, headers=self.headers)


def json_response(
    value: Any,
    *,
    status: int = 200,
    headers: tuple[tuple[str, str], ...] = (),
    media_type: str = "application/json",
) -> Response:
    """``value`` as a JSON body."""
    body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return Response(status=status, headers=(("Content-Type", media_type), *headers), body=body)


def next_link(request: Request, query: Mapping[str, object]) -> tuple[str, str]:
    """The Link header that leads to the next page, which has that query."""
    path = urllib.parse.quote(request.path)
    return "Link", f'<{path}?{urllib.parse.urlencode(query)}>; rel="next"'
