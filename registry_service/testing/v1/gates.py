"""Who is let in to a V1 registry: everybody, those with a password, those whom an index sends."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import http.cookies
import secrets
import threading
from typing import Final, Protocol

from ..exchange import Exchange
from ..message import Request
from ..passwords import Passwords
from .message import V1Error
from .tokens import Token, permits, stated_access

__all__ = ["Admission", "BasicGate", "Gate", "OpenGate", "TokenGate", "Verifier"]

_COOKIE: Final = "session"
_CHALLENGE: Final = (("WWW-Authenticate", "Token"),)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What is known of who was let in: by which token, if by one, and headers for the answer."""

    token: Token | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Gate(Protocol):
    """Lets requests in. Thread-safe."""

    def admit(self, exchange: Exchange, repository: str | None) -> Admission:
        """Let a request in, at a repository if it names one, and note whose it is.

        Raises `V1Error`.
        """


class OpenGate:
    """Everybody may do everything."""

    def admit(self, exchange: Exchange, repository: str | None) -> Admission:
        return Admission()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BasicGate:
    """Basic authentication, as before a standalone registry; ``anonymous_pull``: to read, none."""

    passwords: Passwords
    anonymous_pull: bool
    realm: str

    def admit(self, exchange: Exchange, repository: str | None) -> Admission:
        request = exchange.request
        credentials = basic_credentials(request)
        if credentials is None:
            if self.anonymous_pull and request.method in ("GET", "HEAD"):
                return Admission()
            raise self._challenge()
        if not self.passwords.check(*credentials):
            raise self._challenge()
        exchange.user = credentials[0]
        return Admission()

    def _challenge(self) -> V1Error:
        headers = (("WWW-Authenticate", f'Basic realm="{self.realm}"'),)
        return V1Error("Requires authorization", 401, headers)


class Verifier(Protocol):
    """The index behind a registry, as the registry asks it about tokens."""

    def use_token(self, authorization: str, repository: str | None) -> Token | None:
        """The token of an Authorization header, if it is good, and for that repository."""


class TokenGate:
    """Tokens of an index, and sessions in their place.

    A token that was found good opens a session, whose cookie the client may send with its next
    requests; the token may have been used up by then. ``verifier`` is the index; until there is
    one, nobody is let in. With ``cookies`` False there are no sessions. With ``strict`` a token
    to write does not read, and there is none for HEAD, as in the original. One lock guards the
    sessions.
    """

    def __init__(self, *, cookies: bool, strict: bool) -> None:
        self.verifier: Verifier | None = None
        self._cookies = cookies
        self._strict = strict
        self._lock = threading.Lock()
        self._sessions: dict[str, Token] = {}

    def admit(self, exchange: Exchange, repository: str | None) -> Admission:
        request = exchange.request
        held = self._session(request)
        if held is not None and self._fits(held, request, repository):
            exchange.user = held.user
            return Admission(token=held)
        authorization = request.headers.get("authorization", "")
        # Before anything is asked of the index, which would use the token up.
        if self._strict and not permits(stated_access(authorization), request.method, strict=True):
            raise V1Error("Requires authorization", 401, _CHALLENGE)
        token = self.verifier and self.verifier.use_token(authorization, repository)
        if not token or not self._fits(token, request, repository):
            raise V1Error("Requires authorization", 401, _CHALLENGE)
        exchange.user = token.user
        if not self._cookies:
            return Admission(token=token)
        session = secrets.token_urlsafe(24)
        with self._lock:
            self._sessions[session] = token
        cookie = f'{_COOKIE}="{session}"; Path=/; HttpOnly'
        return Admission(token=token, headers=(("Set-Cookie", cookie),))

    def end_sessions(self) -> None:
        """Forget every session: their cookies are good for nothing any more."""
        with self._lock:
            self._sessions.clear()

    def _session(self, request: Request) -> Token | None:
        jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        try:
            jar.load(request.headers.get("cookie", ""))
        except http.cookies.CookieError:
            return None
        if _COOKIE not in jar:
            return None
        with self._lock:
            return self._sessions.get(jar[_COOKIE].value)

    def _fits(self, token: Token, request: Request, repository: str | None) -> bool:
        if repository not in (None, token.repository):
            return False
        return permits(token.access, request.method, strict=self._strict)


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
