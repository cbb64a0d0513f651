"""Headers that a client wants sent with each request to a registry: metaHeaders, and what it
says that it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .constants import PRODUCT
from .errors import CredentialsError

__all__ = ["HTTPRequestFactory", "meta_headers"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PRODUCT_NAME: Final = re.compile(rf"{_TOKEN.pattern}(?:/{_TOKEN.pattern})?")
# What belongs to the transport: a client that set these would break the framing, or choose
# the host behind the reference's back.
_RESERVED: Final = frozenset(
    {"connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
_MOST = 64


def meta_headers(value: Any, key: str = "metaHeaders") -> dict[str, tuple[str, ...]]:
    """From a map of header name to a list of values (a single value may stand alone).

    ``key`` is where it comes from. Raises `CredentialsError`, which names the header and shows
    no value: values are secret.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CredentialsError(f"{key}: a JSON map of names to lists of values is expected")
    if len(value) > _MOST:
        raise CredentialsError(f"{key}: {len(value)} headers; {_MOST} are allowed")
    headers: dict[str, tuple[str, ...]] = {}
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
        headers[name] = tuple(one.strip() for one in values)
    return headers


def _given(headers: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    return meta_headers(headers, "meta_headers")


class HTTPRequestFactory:
    """What each request of a session carries: ``meta_headers``, a map of names to lists of
    values, and a User-Agent of ``products``, each ``NAME`` or ``NAME/VERSION``, before this
    library's own.

    Raises `CredentialsError` for what is no header, `ValueError` for what is no product.
    ``repr`` shows no value: they are secret.
    """

    def __init__(
        self, meta_headers: Mapping[str, Any] | None = None, *, products: Sequence[str] = ()
    ) -> None:
        for product in products:
            if not _PRODUCT_NAME.fullmatch(product):
                raise ValueError(f"{product!r} is no product: NAME or NAME/VERSION")
        self.products = tuple(products)
        self._given = _given(meta_headers)

    def __repr__(self) -> str:
        return f"HTTPRequestFactory(meta_headers={sorted(self._given)}, products={self.products})"

    @property
    def headers(self) -> dict[str, tuple[str, ...]]:
        """The headers. A User-Agent among those that were given comes before the products'."""
        agent = {"User-Agent": (" ".join((*self.products, PRODUCT)),)} if self.products else {}
        given = {name.lower() for name in self._given}
        return {**({} if "user-agent" in given else agent), **self._given}
