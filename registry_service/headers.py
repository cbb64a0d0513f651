"""Headers that a client wants sent with each request to a registry: metaHeaders, and what it
says that it is. And what of a request's headers a redirect takes along."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from .constants import PRODUCT
from .credentials import AuthConfig
from .errors import CredentialsError
from .hosts import origin

__all__ = [
    "WHO_ASKS",
    "Decorator",
    "HTTPRequest",
    "HTTPRequestFactory",
    "add_required_headers_to_redirected_requests",
    "basic_auth",
    "meta_headers",
]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PRODUCT_NAME: Final = re.compile(rf"{_TOKEN.pattern}(?:/{_TOKEN.pattern})?")
# What belongs to the transport: a client that set these would break the framing, or choose
# the host behind the reference's back.
_RESERVED: Final = frozenset(
    {"connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
_MOST = 64
#: Headers that say who asks, whoever put them there.
WHO_ASKS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
# What says nothing about who asks.
_OPEN: Final = frozenset({"accept", "accept-encoding", "content-type", "range", "user-agent"})
# Where the companies behind the public index keep what it redirects to.
_TRUSTED: Final = ("docker.com", "docker.io")


def meta_headers(value: Any, key: str = "metaHeaders") -> dict[str, tuple[str, ...]]:
    """From a map of header name to a list of values (a single value may stand alone).

    Names that differ in case only are one header, with the values of all; one without a value is
    none. ``key`` is where it comes from. Raises `CredentialsError`, which names the header and
    shows no value: values are secret.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CredentialsError(f"{key}: a JSON map of names to lists of values is expected")
    if len(value) > _MOST:
        raise CredentialsError(f"{key}: {len(value)} headers; {_MOST} are allowed")
    headers: dict[str, tuple[str, ...]] = {}
    spelled: dict[str, str] = {}
    for name, given in value.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise CredentialsError(f"{key}: {name!r} is no header name")
        if name.lower() in _RESERVED:
            raise CredentialsError(f"{key}: {name} belongs to the connection")
        values = [given] if isinstance(given, str) else given
        if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
            raise CredentialsError(f"{key}: {name}: a list of texts is expected")
        if not all(map(_VALUE.fullmatch, values)):
            raise CredentialsError(
                f"{key}: {name}: a value has a character that no header may have, "
                "such as the end of a line"
            )
        if values:
            first = spelled.setdefault(name.lower(), name)
            headers[first] = (*headers.get(first, ()), *(one.strip() for one in values))
    return headers


def _given(headers: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    return meta_headers(headers, "meta_headers")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRequest:
    """A request's method, URL and headers. ``secret`` are the names of headers of the caller's
    own, in lower case: they go where ``Authorization`` may go. ``repr`` shows no value."""

    method: str
    url: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    secret: frozenset[str] = frozenset()

    def with_headers(self, headers: Mapping[str, str]) -> HTTPRequest:
        """The same request with these headers, each in place of one of the same name."""
        given = {name.lower() for name in headers}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in given}
        return dataclasses.replace(
            self, headers={**kept, **headers}, secret=self.secret.difference(given)
        )

    def has(self, name: str) -> bool:
        return name.lower() in {one.lower() for one in self.headers}

    def value(self, name: str) -> str:
        """The value of the header of this name, in whatever case, or empty."""
        return next((v for one, v in self.headers.items() if one.lower() == name.lower()), "")


#: Gives a request to send in place of the one that it is given.
Decorator = Callable[[HTTPRequest], HTTPRequest]


def basic_auth(auth: AuthConfig, home: str) -> Decorator:
    """A decorator that adds basic authentication to requests to ``home``, the URL of a private
    registry, where they go over https and have no ``Authorization``. Others stay as they are:
    in clear text, or to another server, the password does not go."""

    def decorate(request: HTTPRequest) -> HTTPRequest:
        value = auth.basic
        if not value or request.has("Authorization"):
            return request
        there, own = _origin(request.url), _origin(home)
        if there is None or there != own or there[0] != "https":
            return request
        return request.with_headers({"Authorization": value})

    return decorate


class HTTPRequestFactory:
    """What each request of a session carries: ``meta_headers``, a map of names to lists of
    values, and a User-Agent of ``products``, each ``NAME`` or ``NAME/VERSION``, before this
    library's own. ``decorators`` change each request that `new_request` makes, as those of V1 are,
    in their order.

    Raises `CredentialsError` for what is no header, `ValueError` for what is no product.
    ``repr`` shows no value: they are secret.
    """

    def __init__(
        self,
        meta_headers: Mapping[str, Any] | None = None,
        *,
        products: Sequence[str] = (),
        decorators: Sequence[Decorator] = (),
    ) -> None:
        for product in products:
            if not _PRODUCT_NAME.fullmatch(product):
                raise ValueError(f"{product!r} is no product: NAME or NAME/VERSION")
        self.products = tuple(products)
        self._given = _given(meta_headers)
        self._decorators = tuple(decorators)

    def __repr__(self) -> str:
        return f"HTTPRequestFactory(meta_headers={sorted(self._given)}, products={self.products})"

    @property
    def headers(self) -> dict[str, tuple[str, ...]]:
        """The headers. A User-Agent among those that were given comes before the products'."""
        agent = {"User-Agent": (" ".join((*self.products, PRODUCT)),)} if self.products else {}
        given = {name.lower() for name in self._given}
        return {**({} if "user-agent" in given else agent), **self._given}

    def add_decorator(self, *decorators: Decorator) -> None:
        """Let these change each request that is made from now on, after those there are."""
        self._decorators += decorators

    def new_request(
        self,
        method: str,
        url: str,
        *decorators: Decorator,
        headers: Mapping[str, str] | None = None,
    ) -> HTTPRequest:
        """A request with the User-Agent, every metaHeader with all of its values, and ``headers``,
        which the protocol asks for and which come before the caller's own of the same name.
        Then the decorators change it: the factory's, and those that are given here."""
        agent = " ".join((*self.products, PRODUCT))
        given = {name: ", ".join(values) for name, values in self._given.items()}
        request = HTTPRequest(method=method, url=url, headers={"User-Agent": agent})
        request = request.with_headers(given)
        secret = frozenset(name.lower() for name in given) - {"user-agent"}
        request = dataclasses.replace(request, secret=secret).with_headers(headers or {})
        for decorate in (*self._decorators, *decorators):
            request = decorate(request)
        return request


def add_required_headers_to_redirected_requests(
    headers: Mapping[str, str],
    source: str,
    target: str,
    *,
    secret: Collection[str] | None = (),
) -> dict[str, str]:
    """Those of ``headers`` that a redirect from the URL ``source`` to ``target`` takes along.

    All of them do within one origin. To another one ``Authorization`` goes along only where both
    ends speak https and are hosts of docker.com or docker.io; so do cookies, and the headers that
    ``secret`` names; everything else goes along. With None for ``secret`` nobody is trusted, and
    only what says nothing about who asks goes to another origin: what a presigned URL needs is
    in it, and a second way to authenticate is refused there.
    """
    there, here = _origin(target), _origin(source)
    if there is not None and there == here:
        return dict(headers)
    if secret is None:
        return {name: value for name, value in headers.items() if name.lower() in _OPEN}
    if _is_trusted(here) and _is_trusted(there):
        return dict(headers)
    kept = WHO_ASKS.union(name.lower() for name in secret)
    return {name: value for name, value in headers.items() if name.lower() not in kept}


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        return origin(url)
    except ValueError:
        return None


def _is_trusted(place: tuple[str, str, int] | None) -> bool:
    if place is None or place[0] != "https":
        return False
    return any(place[1] == name or place[1].endswith(f".{name}") for name in _TRUSTED)
