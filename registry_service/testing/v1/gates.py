"""Who is let in to a V1 registry."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from typing import Protocol

from ..exchange import Exchange
from ..message import Request
from ..passwords import Passwords
from .message import V1Error

__all__ = ["BasicGate", "Gate", "OpenGate", "basic_credentials"]

Headers = tuple[tuple[str, str], ...]


class Gate(Protocol):
    """Lets requests in. Thread-safe."""

    def admit(self, exchange: Exchange, repository: str | None) -> Headers:
        """Let a request in, at a repository if it names one, and note whose it is.

        Returns headers for the answer. Raises `V1Error`.
        """


class OpenGate:
    """Everybody may do everything."""

    def admit(self, exchange: Exchange, repository: str | None) -> Headers:
        return ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BasicGate:
    """Basic authentication, as before a standalone registry; ``anonymous_pull``: to read, none."""

    passwords: Passwords
    anonymous_pull: bool
    realm: str

    def admit(self, exchange: Exchange, repository: str | None) -> Headers:
        request = exchange.request
        credentials = basic_credentials(request)
        if credentials is None:
            if self.anonymous_pull and request.method in ("GET", "HEAD"):
                return ()
            raise self._challenge()
        if not self.passwords.check(*credentials):
            raise self._challenge()
        exchange.user = credentials[0]
        return ()

    def _challenge(self) -> V1Error:
        headers = (("WWW-Authenticate", f'Basic realm="{self.realm}"'),)
        return V1Error("Requires authorization", 401, headers)


def basic_credentials(request: Request) -> tuple[str, str] | None:
    """Name and password of a Basic header; None without one that can be read."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, _, password = text.partition(":")
    return name, password
