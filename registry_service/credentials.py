"""Credentials for one registry, in the form in which clients send them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import CredentialsError
from .hosts import without_user

__all__ = ["AuthConfig"]

_JSON_NAMES = {
    "username": "username",
    "password": "password",
    "auth": "auth",
    "email": "email",
    "serveraddress": "server_address",
    "identitytoken": "identity_token",
    "registrytoken": "registry_token",
}
_SECRET = frozenset({"password", "auth", "identity_token", "registry_token"})
_TOKEN = re.compile(r"[\x21-\x7e]*")
_TOKEN_USER = "<token>"  # a helper's user name that says: the password is an identity token


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AuthConfig:
    """What a client knows to log in with. Every field may be empty.

    ``auth`` is base64 of ``user:password`` and stands for both where they are not given. An
    ``identity_token`` is exchanged for tokens at the token server; a ``registry_token`` is
    sent as it is. ``server_address`` names the registry that they belong to. Neither ``repr``
    nor ``str`` shows a secret. Raises `CredentialsError`, which names the field.
    """

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __post_init__(self) -> None:
        if self.auth and not (self.username or self.password):
            username, password = _decode(self.auth)
            object.__setattr__(self, "username", username)
            object.__setattr__(self, "password", password)
        self._check()
        if ":" in self.username:
            raise CredentialsError("username: a user name holds no ':'")
        if self.username == _TOKEN_USER:
            if not self.identity_token:
                object.__setattr__(self, "identity_token", self.password)
            object.__setattr__(self, "username", "")
            object.__setattr__(self, "password", "")

    def _check(self) -> None:
        for name, field in _JSON_NAMES.items():
            value = getattr(self, field)
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise CredentialsError(f"{name}: it has half a character (a lone surrogate)")
        if not _TOKEN.fullmatch(self.registry_token):  # it goes into a header as it is
            raise CredentialsError(
                "registrytoken: a token has no character such as a blank or the end of a line"
            )

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "server_address":
                value = without_user(value)
            if value:
                shown.append(f"{field.name}={'***' if field.name in _SECRET else repr(value)}")
        return f"AuthConfig({', '.join(shown)})"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to log in with."""
        return not (self.username or self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header of the basic scheme, or empty. A user name
        that stands beside an identity token only says whose that is."""
        if not (self.username or self.password) or (self.identity_token and not self.password):
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> AuthConfig:
        """From a map with the JSON names. Other names are left alone, null is 'not given'."""
        values: dict[str, str] = {}
        for name, field in _JSON_NAMES.items():
            value = mapping.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise CredentialsError(f"{name}: a string is expected")
            values[field] = value
        return cls(**values)

    @classmethod
    def from_json(cls, value: str | bytes | Mapping[str, Any] | None) -> AuthConfig:
        """From JSON text, or a native map of the same shape; None and empty text are the
        empty AuthConfig."""
        if value is None or (isinstance(value, (str, bytes)) and not value.strip()):
            return cls()
        if isinstance(value, (str, bytes)):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                # The parser's own words would show a piece of the text.
                raise CredentialsError("the credentials are not JSON") from None
        if value is None:
            return cls()
        if not isinstance(value, Mapping):
            raise CredentialsError("the credentials are not a JSON map")
        return cls.from_mapping(value)

    def to_json(self) -> dict[str, str]:
        """The map with the JSON names; what is empty is left out. It holds the secrets."""
        return {
            name: value for name, field in _JSON_NAMES.items() if (value := getattr(self, field))
        }


def _decode(auth: str) -> tuple[str, str]:
    try:
        pair = base64.b64decode(auth.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise CredentialsError("auth: not base64 of user:password") from None
    username, colon, password = pair.partition(":")
    if not colon:
        raise CredentialsError("auth: not base64 of user:password (there is no ':')")
    return username, password.rstrip("\0")
