"""metaHeaders: headers that a client wants sent with each request to a registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from .errors import CredentialsError

__all__ = ["meta_headers"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
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
