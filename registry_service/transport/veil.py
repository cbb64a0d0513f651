"""What a request carries and nobody is to read, even where a server says it back."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl

__all__ = ["Veil"]

#: Headers of a request that say nothing about who asks.
_OPEN: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-length",
        "content-range",
        "content-type",
        "if-match",
        "if-none-match",
        "range",
        "user-agent",
        "x-docker-checksum",
        "x-docker-checksum-payload",
        "x-docker-endpoints",
    }
)
_OPEN_FIELDS: Final = frozenset(
    {"access_type", "client_id", "email", "grant_type", "scope", "service", "username"}
)
_FLAG: Final = ("x-docker-token", "true")  # asks for a token, and is none
_SIGNATURE: Final = re.compile(r'signature="?([^",]+)')
_SHORTEST: Final = 4  # characters; less than that is in every text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Veil:
    """The headers of a request, and its body where that is a form with credentials, or a JSON
    map with some."""

    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    form: bytes = dataclasses.field(default=b"", repr=False)

    def hide(self, text: str) -> str:
        """``text`` without the secrets of the request."""
        for word in sorted(set(self._words()), key=len, reverse=True):
            if len(word) >= _SHORTEST:
                text = text.replace(word, "***")
        return text

    def _words(self) -> Iterator[str]:
        for name, value in self.headers.items():
            if name.lower() in _OPEN or (name.lower(), value) == _FLAG:
                continue
            yield value
            if name.lower() == "authorization":
                yield from _credentials(value)
            elif name.lower() == "cookie":
                yield from (pair.partition("=")[2].strip() for pair in value.split(";"))
        for name, value in self._fields():
            if name not in _OPEN_FIELDS:
                yield value
                yield json.dumps(value)[1:-1]

    def _fields(self) -> Iterator[tuple[str, str]]:
        text = self.form.decode("utf-8", "replace")
        if not text.startswith("{"):
            yield from parse_qsl(text)
            return
        for name, value in json.loads(text).items():
            if isinstance(value, str):
                yield name, value


def _credentials(value: str) -> Iterator[str]:
    scheme, _, rest = value.partition(" ")
    yield rest
    if scheme.lower() == "token":  # of V1: Token signature=…,repository="…",access=…
        yield from _SIGNATURE.findall(rest)
    if scheme.lower() != "basic":
        return
    try:
        pair = base64.b64decode(rest).decode()
    except (binascii.Error, ValueError):
        return
    yield pair
    yield pair.partition(":")[2]
