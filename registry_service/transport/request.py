"""What is asked of a server, and where a redirect leads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import urllib3

from ..errors import ProtocolError, ProxyError, show_url
from ..headers import add_required_headers_to_redirected_requests
from ..hosts import origin
from ..urls import follow
from .body import Body
from .response import Response
from .veil import Veil

__all__ = ["Request", "proxy_login", "redirected", "same_origin"]


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    try:
        return origin(one) == origin(other)
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, and the seconds that it may take: ``connect`` for the connection, ``read`` for
    each wait, ``total`` in all, where that is limited. ``form`` is the body of one that is
    ``sealed``; ``secret`` and ``whole`` are as `Transport.request` has them. ``repr`` shows neither
    headers nor a body, which may be secret.
    """

    method: str
    url: str
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    body: Body | None = dataclasses.field(repr=False)
    sealed: bool
    form: bytes = dataclasses.field(repr=False)
    secret: Collection[str] | None
    connect: float
    read: float
    total: float | None
    whole: int

    @property
    def veil(self) -> Veil:
        return Veil(headers=self.headers, form=self.form)


def proxy_login(request: Request, raw: urllib3.HTTPResponse) -> ProxyError:
    """The error of the answer ``raw``, 407, which is closed."""
    raw.close()
    raw.release_conn()
    error = ProxyError(
        f"{request.method} {show_url(request.url)}: the proxy asks for credentials, or refuses "
        "those that it was given (407); they stand in the proxy's URL"
    )
    error.retryable = False
    return error


def redirected(
    request: Request, response: Response, may_be_insecure: Callable[[str, int | None], bool]
) -> Request | None:
    """The request that a redirect asks for, or None where the answer is none."""
    if response.status not in (301, 302, 303, 307, 308):
        return None
    location = response.headers.get("Location")
    if not location:
        return None
    url = follow(
        response.url,
        location,
        f"{request.method} {show_url(request.url)}: a redirect",
        may_be_insecure=may_be_insecure,
        hide=response.hide,
    )
    method, body = request.method, request.body
    if response.status == 303 and method != "HEAD":
        method, body = "GET", None
    if request.sealed and body is not None and not same_origin(url, request.url):
        shown = response.hide(show_url(url))
        raise ProtocolError(
            f"{request.method} {show_url(request.url)}: redirected to {shown}, another server, to "
            "which the credentials in the request do not go"
        )
    headers = add_required_headers_to_redirected_requests(
        request.headers, request.url, url, secret=request.secret
    )
    return dataclasses.replace(request, method=method, url=url, headers=headers, body=body)
