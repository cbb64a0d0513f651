"""Bearer tokens: what they say, and how they are signed and read again."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from typing import Any, Final

from .access import Scope

__all__ = ["InvalidTokenError", "TokenClaims", "TokenSigner"]

_KINDS: Final = ("access", "refresh")


class InvalidTokenError(Exception):
    """A token that was not made here, was changed, or has run out. Says which."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a token says. ``issued`` and ``expires`` are seconds of the Unix time."""

    kind: str
    user: str
    scopes: tuple[Scope, ...]
    issued: float
    expires: float

    def covers(self, need: Scope) -> bool:
        """Whether the token allows everything that ``need`` names."""
        held: frozenset[str] = frozenset().union(
            *(one.actions for one in self.scopes if (one.type, one.name) == (need.type, need.name))
        )
        return need.actions <= held


class TokenSigner:
    """Makes and reads tokens, signed with a key of this process's own (HMAC-SHA256).

    ``clock`` gives the Unix time. Thread-safe: one lock guards the series, by which all tokens
    made so far can be ended at once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._series = dict.fromkeys(_KINDS, 0)

    def issue(
        self, kind: str, user: str, scopes: tuple[Scope, ...], lifetime: float
    ) -> tuple[str, TokenClaims]:
        """A token of a kind ("access" or "refresh") that is good for ``lifetime`` seconds."""
        now = self._clock()
        claims = TokenClaims(
            kind=kind, user=user, scopes=scopes, issued=now, expires=now + lifetime
        )
        with self._lock:
            series = self._series[kind]
        body = json.dumps(
            {
                "kind": kind,
                "sub": user,
                "access": [str(scope) for scope in scopes],
                "iat": claims.issued,
                "exp": claims.expires,
                "series": series,
            }
        ).encode()
        return f"{_encode(body)}.{_encode(self._sign(body))}", claims

    def read(self, kind: str, token: str) -> TokenClaims:
        """What a token says. Raises `InvalidTokenError`."""
        head, dot, tail = token.partition(".")
        try:
            body, signature = _decode(head), _decode(tail)
        except (ValueError, binascii.Error):
            raise InvalidTokenError("the token is malformed") from None
        if not dot or not hmac.compare_digest(signature, self._sign(body)):
            raise InvalidTokenError("the token was not signed here")
        data: dict[str, Any] = json.loads(body)
        if data["kind"] != kind:
            raise InvalidTokenError(f"the token is no {kind} token")
        with self._lock:
            current = self._series[kind]
        if data["series"] != current or self._clock() >= data["exp"]:
            raise InvalidTokenError("the token has expired")
        return TokenClaims(
            kind=kind,
            user=data["sub"],
            scopes=tuple(Scope.parse(text) for text in data["access"]),
            issued=data["iat"],
            expires=data["exp"],
        )

    def expire_all(self, kind: str) -> None:
        """End every token of a kind that was made so far."""
        with self._lock:
            self._series[kind] += 1

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
