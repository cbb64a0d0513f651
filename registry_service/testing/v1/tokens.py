"""The tokens that an index gives to clients, and by which registries let them in."""

from __future__ import annotations

import dataclasses
import re
import secrets
import threading
from collections.abc import Callable
from typing import Final, Literal

__all__ = ["Access", "Token", "TokenBook", "permits", "stated_access"]

Access = Literal["read", "write", "delete"]

_FIELDS: Final = re.compile(r"(\w+)[:=][\s\"]?([^\",]+)\"?")
_METHODS: Final = {
    "read": frozenset({"GET", "HEAD"}),
    "write": frozenset({"POST", "PUT"}),
    "delete": frozenset({"DELETE"}),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token is good for. ``user`` is empty for nobody. ``expires``: of the clock."""

    signature: str = dataclasses.field(repr=False)
    repository: str
    access: Access
    user: str
    expires: float

    def __str__(self) -> str:
        return f'signature={self.signature},repository="{self.repository}",access={self.access}'


def permits(access: str, method: str, *, strict: bool) -> bool:
    """Whether an access allows an HTTP method.

    Writing has reading in it, unless ``strict``; then reading is by GET alone, too.
    """
    if strict and method == "HEAD":
        return False
    if access == "write" and not strict and method in _METHODS["read"]:
        return True
    return method in _METHODS.get(access, ())


def stated_access(authorization: str) -> str:
    """The access that an Authorization header says its token has; empty where it says none."""
    found: dict[str, str] = dict(_FIELDS.findall(authorization))
    return found.get("access", "")


class TokenBook:
    """The tokens given out so far. Thread-safe by one lock.

    A token is good for ``lifetime`` seconds, and, with ``one_use``, until it was used.
    """

    def __init__(self, *, lifetime: float, one_use: bool, clock: Callable[[], float]) -> None:
        self._lifetime = lifetime
        self._one_use = one_use
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}

    def issue(self, repository: str, access: Access, user: str) -> Token:
        now = self._clock()
        token = Token(
            signature=secrets.token_hex(20),
            repository=repository,
            access=access,
            user=user,
            expires=now + self._lifetime,
        )
        with self._lock:
            self._tokens = {key: one for key, one in self._tokens.items() if one.expires > now}
            self._tokens[token.signature] = token
        return token

    def use(self, authorization: str, repository: str | None = None) -> Token | None:
        """The token of an Authorization header, if it is good, and for that repository.

        What the header says of repository and access has to be what the token was given for.
        """
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() != "token":
            return None
        said = dict(_FIELDS.findall(rest))
        with self._lock:
            token = self._tokens.get(said.get("signature", ""))
            if token is None or self._clock() >= token.expires:
                return None
            if (said.get("repository"), said.get("access")) != (token.repository, token.access):
                return None
            if repository not in (None, token.repository):
                return None
            if self._one_use:
                del self._tokens[token.signature]
            return token

    def expire_all(self) -> None:
        """End every token that was given out so far."""
        with self._lock:
            self._tokens.clear()
