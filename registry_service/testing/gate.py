"""Authentication and authorization of requests, and the token endpoint.

The challenges and the token endpoint are those of the distribution project's token
authentication specification; the POST form is OAuth 2's, RFC 6749, with its errors.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import enum
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

from .access import ANONYMOUS, AccessPolicy, Scope
from .exchange import Exchange
from .message import ApiError, Request, Response, json_response
from .passwords import Passwords
from .tokens import InvalidTokenError, TokenClaims, TokenSigner

__all__ = ["AuthScheme", "Gate"]

_FORM_LIMIT: Final = 64 * 1024
# A refresh token is to outlive every access token of a test run.
_REFRESH_LIFETIME: Final = 90 * 86400.0
_NO_STORE: Final = (("Cache-Control", "no-store"),)


class AuthScheme(enum.Enum):
    """How clients say who they are."""

    BASIC = "basic"
    TOKEN = "token"


class Gate:
    """Decides who asks and whether he may. Immutable but for the signer's series.

    ``lifetime`` is that of access tokens, in seconds.
    """

    def __init__(
        self,
        *,
        scheme: AuthScheme | None,
        passwords: Passwords,
        policy: AccessPolicy,
        signer: TokenSigner,
        service: str,
        lifetime: float,
    ) -> None:
        self.scheme = scheme
        self.policy = policy
        self._passwords = passwords
        self._signer = signer
        self._service = service
        self._lifetime = lifetime

    def admit(self, request: Request, needs: Sequence[Scope]) -> str:
        """The user behind a request for V2. Raises `ApiError`: UNAUTHORIZED or DENIED."""
        if self.scheme is None:
            return ANONYMOUS
        if self.scheme is AuthScheme.TOKEN:
            return self._admit_bearer(request, needs)
        user = self._basic_user(request)
        if user is None:
            if needs and self.policy.allows(ANONYMOUS, needs):
                return ANONYMOUS
            raise self._basic_challenge("authentication is required")
        if not self.policy.allows(user, needs):
            raise ApiError(
                "DENIED",
                "access to the requested resource is denied",
                detail=[str(scope) for scope in needs],
            )
        return user

    def admit_visitor(self, request: Request) -> str:
        """The user behind a request for V1, which knows only basic authentication."""
        if self.scheme is None:
            return ANONYMOUS
        user = self._basic_user(request)
        if user is not None:
            return user
        if self.policy.anonymous_pull:
            return ANONYMOUS
        raise self._basic_challenge("authentication is required")

    def sees(self, user: str, repository: str) -> bool:
        """Whether a repository is shown to this user in lists."""
        if self.scheme is None:
            return True
        return self.policy.allows(user, (Scope.repository(repository, "pull"),))

    def token(self, exchange: Exchange) -> Response:
        """Answer a request to the token endpoint."""
        if self.scheme is not AuthScheme.TOKEN:
            raise ApiError("UNSUPPORTED", "this registry gives no tokens", status=404)
        if exchange.request.method == "GET":
            return self._token_by_get(exchange)
        if exchange.request.method == "POST":
            return self._token_by_post(exchange)
        raise ApiError("UNSUPPORTED", "tokens are had by GET or POST")

    def _admit_bearer(self, request: Request, needs: Sequence[Scope]) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise self._bearer_challenge(request, needs, "", "authentication is required")
        try:
            claims = self._signer.read("access", token.strip())
        except InvalidTokenError as error:
            raise self._bearer_challenge(request, needs, "invalid_token", str(error)) from None
        if not all(claims.covers(need) for need in needs):
            message = "the token does not allow this"
            raise self._bearer_challenge(request, needs, "insufficient_scope", message)
        return claims.user

    def _basic_user(self, request: Request) -> str | None:
        """The user of a Basic header; None without one. Raises for wrong credentials."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            text = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise self._basic_challenge("the basic credentials are malformed") from None
        name, _, password = text.partition(":")
        if not self._passwords.check(name, password):
            raise self._basic_challenge("wrong user name or password")
        return name

    def _basic_challenge(self, message: str) -> ApiError:
        challenge = f'Basic realm="{self._service}"'
        return ApiError("UNAUTHORIZED", message, headers=(("WWW-Authenticate", challenge),))

    def _bearer_challenge(
        self, request: Request, needs: Sequence[Scope], error: str, message: str
    ) -> ApiError:
        challenge = f'Bearer realm="{request.base}/token",service="{self._service}"'
        if needs:
            challenge += f',scope="{" ".join(map(str, needs))}"'
        if error:
            challenge += f',error="{error}"'
        return ApiError(
            "UNAUTHORIZED",
            message,
            detail=[str(scope) for scope in needs] or None,
            headers=(("WWW-Authenticate", challenge),),
        )

    def _token_by_get(self, exchange: Exchange) -> Response:
        request = exchange.request
        service = request.argument("service")
        if service not in (None, self._service):
            raise ApiError("UNSUPPORTED", f"unknown service {service!r}", status=400)
        wanted = _scopes(request.query.get("scope", ()))
        user = self._basic_user(request)
        if user is None and not self.policy.anonymous_pull:
            raise self._basic_challenge("authentication is required to get a token")
        exchange.user = user or ANONYMOUS
        token, claims = self._access_token(exchange.user, wanted)
        answer: dict[str, Any] = {"token": token, "access_token": token, **self._times(claims)}
        if request.argument("offline_token") == "true" and exchange.user:
            answer["refresh_token"] = self._refresh_token(exchange.user)
        return json_response(answer, headers=_NO_STORE)

    def _token_by_post(self, exchange: Exchange) -> Response:
        form = _form(exchange)
        missing = [
            key for key in ("grant_type", "service", "client_id") if not form.get(key, [""])[0]
        ]
        if missing:
            return _oauth_error("invalid_request", f"{missing[0]} is missing")
        if form["service"][0] != self._service:
            return _oauth_error("invalid_request", f"unknown service {form['service'][0]!r}")
        kind = form["grant_type"][0]
        refresh = ""
        if kind == "password":
            name, password = (form.get(key, [""])[0] for key in ("username", "password"))
            if not self._passwords.check(name, password):
                return _oauth_error("invalid_grant", "wrong user name or password", status=401)
        elif kind == "refresh_token":
            refresh = form.get("refresh_token", [""])[0]
            try:
                name = self._signer.read("refresh", refresh).user
            except InvalidTokenError as error:
                return _oauth_error("invalid_grant", str(error), status=401)
        else:
            return _oauth_error("unsupported_grant_type", "password or refresh_token is wanted")
        exchange.user = name
        try:
            wanted = _scopes(form.get("scope", ()))
        except ApiError as error:
            return _oauth_error("invalid_scope", error.message)
        token, claims = self._access_token(name, wanted)
        answer: dict[str, Any] = {
            "access_token": token,
            "scope": " ".join(map(str, claims.scopes)),
            **self._times(claims),
        }
        if refresh or form.get("access_type", [""])[0] == "offline":
            answer["refresh_token"] = refresh or self._refresh_token(name)
        return json_response(answer, headers=_NO_STORE)

    def _access_token(self, user: str, wanted: Sequence[Scope]) -> tuple[str, TokenClaims]:
        granted = []
        for scope in wanted:
            actions = self.policy.allowed(user, scope)
            if actions:
                granted.append(Scope(type=scope.type, name=scope.name, actions=actions))
        return self._signer.issue("access", user, tuple(granted), self._lifetime)

    def _refresh_token(self, user: str) -> str:
        return self._signer.issue("refresh", user, (), _REFRESH_LIFETIME)[0]

    @staticmethod
    def _times(claims: TokenClaims) -> dict[str, Any]:
        issued = datetime.datetime.fromtimestamp(claims.issued, datetime.UTC)
        return {
            "expires_in": round(claims.expires - claims.issued),
            "issued_at": issued.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


def _scopes(values: Sequence[str]) -> tuple[Scope, ...]:
    try:
        return tuple(Scope.parse(word) for value in values for word in value.split())
    except ValueError as error:
        raise ApiError("UNSUPPORTED", str(error), status=400) from None


def _form(exchange: Exchange) -> dict[str, list[str]]:
    raw = exchange.body.read(_FORM_LIMIT)
    if raw is None:
        raise ApiError("SIZE_INVALID", f"the form is over {_FORM_LIMIT} bytes", status=413)
    try:
        return urllib.parse.parse_qs(raw.decode("utf-8"), keep_blank_values=True)
    except ValueError as error:
        raise ApiError("UNSUPPORTED", f"the form cannot be read: {error}", status=400) from None


def _oauth_error(code: str, message: str, *, status: int = 400) -> Response:
    return json_response(
        {"error": code, "error_description": message}, status=status, headers=_NO_STORE
    )
