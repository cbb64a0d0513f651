"""How a token is got: a conversation as a generator, with no network in it.

`token_flow` yields the requests to send to the token server, is sent the answers, and
returns the token.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from ..challenge import Challenge
from ..credentials import AuthConfig
from ..errors import (
    LoginRequiredError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    show_url,
)
from ..hosts import is_private_literal, origin
from ..urls import follow

__all__ = ["Token", "TokenAnswer", "TokenRequest", "check_realm", "token_flow"]

CLIENT_ID = "registry-engine"
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry
_LONGEST = 32 * 1024  # characters of a token; no server takes a header of that length
_LEAST_LIFE = 60.0  # seconds; what the token protocol says where the server does not
_MOST_LIFE = 86_400.0
_NO_POST = frozenset({400, 401, 404, 405, 501})
_NO_GET = frozenset({404, 405, 501})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    method: str
    url: str
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    body: bytes | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenAnswer:
    """``error`` is the answer as an error, for one that is none of 2xx."""

    status: int
    body: bytes = dataclasses.field(default=b"", repr=False)
    error: RegistryError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """``value`` goes into a Bearer header; it is good for ``life`` seconds from its arrival.

    The server's ``issued_at`` is left alone: its clock need not be this machine's.
    ``identity`` is an identity token that came along, or empty.
    """

    value: str = dataclasses.field(repr=False)
    life: float = _LEAST_LIFE
    identity: str = dataclasses.field(default="", repr=False)

    @classmethod
    def parse(cls, body: bytes, url: str) -> Token:
        """From a token server's JSON. Raises `ProtocolError`, which shows none of it."""
        where = show_url(url)
        try:
            document: Any = json.loads(body)
        except (ValueError, RecursionError):
            raise ProtocolError(f"{where}: the token server's answer is not JSON") from None
        if not isinstance(document, dict):
            raise ProtocolError(f"{where}: the token server's answer is not a JSON map")
        value = document.get("access_token") or document.get("token")
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise ProtocolError(f"{where}: the token server's answer holds no token")
        if len(value) > _LONGEST:
            raise ProtocolError(f"{where}: the token is longer than {_LONGEST} characters")
        identity = document.get("refresh_token")
        return cls(
            value=value,
            life=_life(document.get("expires_in")),
            identity=identity if isinstance(identity, str) else "",
        )


def _life(stated: Any) -> float:
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return _LEAST_LIFE
    if not stated >= _LEAST_LIFE:  # NaN is less than nothing
        return _LEAST_LIFE
    return float(min(stated, _MOST_LIFE))


def check_realm(
    realm: str,
    endpoint_url: str,
    *,
    may_be_insecure: Callable[[str, int | None], bool] = lambda host, port: False,
) -> str:
    """The token server's URL that a challenge from ``endpoint_url`` names.

    A server can name any realm, and credentials go there. Refused are a realm over plain
    http after https, or to another host that ``may_be_insecure`` (host, port) does not
    allow it for, and an address behind this side's router where the registry is not there
    itself. Raises `ProtocolError`.
    """
    own_scheme, own_host, _ = origin(endpoint_url)
    if not realm:
        raise ProtocolError(f"{own_host}: a Bearer challenge names no realm")
    url = follow(
        endpoint_url,
        realm,
        f"{own_host}: the token server",
        may_be_insecure=lambda host, port: True,  # said below, and more sharply
    )
    shown = show_url(url)
    scheme, host, port = origin(url)
    if urlsplit(url).username is not None:
        raise ProtocolError(f"{own_host} names a token server with credentials in its URL")
    if scheme == "http" and (
        own_scheme == "https" or not (host == own_host or may_be_insecure(host, port))
    ):
        raise ProtocolError(
            f"{own_host} names the token server {shown}, to which credentials would go in "
            "clear text; that is refused"
        )
    if is_private_literal(host) and host != own_host and not is_private_literal(own_host):
        raise ProtocolError(
            f"{own_host} names the token server {shown}, an address of a private network; "
            "that is refused"
        )
    return url


def token_flow(
    url: str,
    challenge: Challenge,
    credentials: AuthConfig,
    scopes: Sequence[str],
    *,
    offline: bool = False,
) -> Generator[TokenRequest, TokenAnswer, Token]:
    """Get a token from the token server at ``url``.

    An identity token is exchanged by POST and, at servers that do not know POST, by GET as
    a password; a user name and password go by GET with basic authentication and, at servers
    that do not know GET, by POST; nothing at all asks for an anonymous token. With ``offline``,
    an identity token is asked for as well; it is asked for by a login only, since some servers
    hand out ones that they do not take.

    Raises `LoginRequiredError` where the server refuses, else what the answer is an error of.
    """
    if credentials.identity_token:
        grant = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
        answer = yield _post(url, challenge, scopes, grant)
        if answer.status == 200:
            return Token.parse(answer.body, url)
        if answer.status not in _NO_POST:
            raise _refused(answer, url, credentials)
    answer = yield _get(url, challenge, credentials, scopes, offline)
    if answer.status in _NO_GET and credentials.password and not credentials.identity_token:
        grant = {"grant_type": "password", "username": credentials.username}
        grant["password"] = credentials.password
        if offline:
            grant["access_type"] = "offline"
        answer = yield _post(url, challenge, scopes, grant)
    if answer.status == 200:
        return Token.parse(answer.body, url)
    raise _refused(answer, url, credentials)


def _post(
    url: str, challenge: Challenge, scopes: Sequence[str], grant: Mapping[str, str]
) -> TokenRequest:
    """As in OAuth 2 (RFC 6749, sections 4.3.2 and 6)."""
    form = {
        "service": challenge.service,
        "client_id": CLIENT_ID,
        "scope": " ".join(scopes),
        **grant,
    }
    return TokenRequest(
        method="POST",
        url=url,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode(form).encode("ascii"),
    )


def _get(
    url: str,
    challenge: Challenge,
    credentials: AuthConfig,
    scopes: Sequence[str],
    offline: bool,
) -> TokenRequest:
    query = [("service", challenge.service)] if challenge.service else []
    query += [("scope", scope) for scope in scopes]
    basic = credentials.basic
    if not basic and credentials.identity_token:
        basic = AuthConfig(username=credentials.username, password=credentials.identity_token).basic
    if credentials.username:
        query.append(("account", credentials.username))
    if offline:
        query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
    separator = "&" if urlsplit(url).query else "?"
    return TokenRequest(
        method="GET",
        url=f"{url}{separator}{urlencode(query)}" if query else url,
        headers={"Authorization": basic} if basic else {},
    )


def _refused(answer: TokenAnswer, url: str, credentials: AuthConfig) -> RegistryError:
    if answer.status in (400, 401, 403):
        host = urlsplit(url).netloc.rpartition("@")[2]
        told = answer.error.errors if isinstance(answer.error, RegistryHTTPError) else ()
        said = "; ".join(text for error in told if (text := str(error)))
        said = f" ({said})" if said else ""
        if credentials.empty:
            text = (
                f"{host}: the token server gives no anonymous token; credentials are needed{said}"
            )
        elif credentials.username and not credentials.identity_token:
            text = (
                f"{host}: the user name {credentials.username!r} or its password was refused{said}"
            )
        else:
            text = f"{host}: the identity token was refused; log in again{said}"
        return LoginRequiredError(text, host=host, username=credentials.username)
    return answer.error or ProtocolError(
        f"{show_url(url)}: the token server answered {answer.status}"
    )
