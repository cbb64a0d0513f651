"""What to send as ``Authorization``, and what to do when it is refused."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

from ..cancel import Cancellation
from ..challenge import Challenge
from ..credentials import AuthConfig
from ..endpoint import Endpoint
from ..errors import LoginRequiredError, ServerError
from ..observe import Observer
from ..transport import Transport
from .cache import TokenCache, TokenKey
from .flow import Token, TokenAnswer, TokenRequest, check_realm, token_flow
from .scope import merge

__all__ = ["Authenticator"]

_ANSWER_LIMIT = 1024 * 1024
# Of a challenge's scopes: as many as one request can need, and as long as names can be.
_MOST_SCOPES = 16
_LONGEST_SCOPE = 512


class Authenticator:
    """Answers the challenges of one registry with one set of credentials; thread-safe.

    It begins with the challenge that the ping was answered with, so that the first request
    has its token already. One lock guards the challenge in force; tokens are the cache's,
    which jobs share. With ``offline`` token servers are asked for an identity token too. ``own``:
    the credentials are the daemon's, and no error tells the caller for which user.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        credentials: AuthConfig | None = None,
        *,
        cache: TokenCache | None = None,
        offline: bool = False,
        own: bool = False,
    ) -> None:
        self.credentials = credentials or AuthConfig()
        self.own = own and not self.credentials.empty
        self._endpoint = endpoint
        self._transport = transport
        self._cache = cache or TokenCache()
        self._offline = offline
        self._identity = ""
        self._lock = threading.Lock()
        self._challenge = _choose(endpoint.challenges)

    @property
    def host(self) -> str:
        return self._endpoint.host

    @property
    def identity_token(self) -> str:
        """What a token server handed out in place of the password, or empty."""
        with self._lock:
            return self._identity

    def authorize(
        self, scopes: Sequence[str], cancel: Cancellation, observer: Observer
    ) -> str | None:
        """The header's value for a request that needs ``scopes``, None where none is needed.

        Raises `LoginRequiredError` and what the transport raises.
        """
        if self.credentials.registry_token:
            return f"Bearer {self.credentials.registry_token}"
        with self._lock:
            challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self.credentials.basic or None
        return self._bearer(challenge, scopes, cancel, observer)

    def challenged(
        self,
        challenges: Sequence[Challenge],
        scopes: Sequence[str],
        rejected: str | None,
        cancel: Cancellation,
        observer: Observer,
    ) -> str:
        """The header's value after a 401 with ``challenges``, ``rejected`` having been sent.

        Where the answer names none the ping's challenge counts. Raises `LoginRequiredError`
        where there is nothing new to send.
        """
        if self.credentials.registry_token:
            raise self.refused(scopes)
        challenge = _choose(challenges)
        with self._lock:
            if challenge is None:
                challenge = self._challenge
            self._challenge = challenge
        if challenge is None:
            raise self._unsupported(challenges)
        if challenge.scheme == "basic":
            basic = self.credentials.basic
            if not basic or basic == rejected:
                raise self.refused(scopes)
            return basic
        if rejected is not None and rejected.startswith("Bearer "):
            key = self._key(challenge, merge(scopes))
            self._cache.forget(key, rejected.removeprefix("Bearer "))
        return self._bearer(challenge, merge(scopes, _bounded(challenge.scopes)), cancel, observer)

    def anonymous(
        self,
        url: str,
        challenges: Sequence[Challenge],
        cancel: Cancellation,
        observer: Observer,
    ) -> str | None:
        """The header's value for ``url``, another server to which the registry redirected and
        which asks for a token of its own; None where it asks for anything else.

        It is a token for nobody: what the caller has is for the registry.
        """
        challenge = _choose(challenges)
        if challenge is None or challenge.scheme != "bearer":
            return None
        key = TokenKey(
            realm=self._realm(challenge, url),
            service=challenge.service,
            credentials=AuthConfig(),
            scopes=merge(_bounded(challenge.scopes)),
        )
        token = self._cache.get(key, lambda: self._fetch(key, challenge, cancel, observer), cancel)
        return f"Bearer {token.value}"

    def refused(
        self, scopes: Sequence[str], errors: Sequence[ServerError] = ()
    ) -> LoginRequiredError:
        """The error for a 401 that stays."""
        host, name = self.host, "" if self.own else self.credentials.username
        with self._lock:
            bearer = self._challenge is not None and self._challenge.scheme == "bearer"
        # without the details: they are the scopes again, in the server's own form
        brief = (dataclasses.replace(error, detail="") for error in errors)
        said = "; ".join(text for error in brief if (text := str(error)))
        said = f" ({said})" if said else ""
        wanted = f" for {', '.join(scopes)}" if scopes else ""
        if self.credentials.empty:
            text = (
                f"{host} asks for a login{wanted}{said}: give a user name and a password, or "
                "see that the name is right"
            )
        elif bearer:
            who = f"the user {name!r}" if name else "these credentials"
            who = "the daemon's own credentials" if self.own else who
            text = f"{host} refuses {who}{wanted}{said}: there is no access, or no such thing"
        elif self.own:
            return self._refused_own()
        elif name:
            text = f"{host}: the user name {name!r} or its password was refused{said}"
        else:
            text = f"{host}: the credentials were refused{said}"
        return LoginRequiredError(text, host=host, username=name)

    def _refused_own(self) -> LoginRequiredError:
        return LoginRequiredError(
            f"{self.host}: the daemon's own credentials were refused; its registries.toml has them",
            host=self.host,
        )

    def _unsupported(self, challenges: Sequence[Challenge]) -> LoginRequiredError:
        asked = ", ".join(challenge.scheme for challenge in challenges)
        return LoginRequiredError(
            f"{self.host} refuses the request and "
            + (
                f"asks for {asked}, which is not supported (basic and bearer are)"
                if asked
                else "does not say how to authenticate"
            ),
            host=self.host,
            username="" if self.own else self.credentials.username,
        )

    def _key(self, challenge: Challenge, scopes: tuple[str, ...]) -> TokenKey:
        return TokenKey(
            realm=self._realm(challenge, self._endpoint.version_string()),
            service=challenge.service,
            credentials=self.credentials,
            scopes=scopes,
        )

    def _realm(self, challenge: Challenge, url: str) -> str:
        return check_realm(
            challenge.realm, url, may_be_insecure=self._transport.settings.may_be_insecure
        )

    def _bearer(
        self,
        challenge: Challenge,
        scopes: Sequence[str],
        cancel: Cancellation,
        observer: Observer,
    ) -> str:
        key = self._key(challenge, merge(scopes))
        token = self._cache.get(key, lambda: self._fetch(key, challenge, cancel, observer), cancel)
        if self._offline and token.identity:
            with self._lock:
                self._identity = token.identity
        return f"Bearer {token.value}"

    def _fetch(
        self, key: TokenKey, challenge: Challenge, cancel: Cancellation, observer: Observer
    ) -> Token:
        flow = token_flow(key.realm, challenge, key.credentials, key.scopes, offline=self._offline)
        request = next(flow)
        while True:
            answer = self._send(request, cancel, observer)
            try:
                request = flow.send(answer)
            except StopIteration as done:
                token: Token = done.value
                return token
            except LoginRequiredError as error:
                if self.own and not key.credentials.empty:
                    raise self._refused_own() from None
                if error.host == self.host:
                    raise
                said = str(error).removeprefix(f"{error.host}: ")
                where = f"{self.host}, whose tokens come from {error.host}"
                raise LoginRequiredError(
                    f"{where}, asks for a login: {said}"
                    if self.credentials.empty
                    else f"{where}: {said}",
                    host=self.host,
                    username=error.username,
                ) from None

    def _send(self, request: TokenRequest, cancel: Cancellation, observer: Observer) -> TokenAnswer:
        with self._transport.request(
            request.method,
            request.url,
            headers={"Accept": "application/json", **request.headers},
            body=request.body,
            cancel=cancel,
            observer=observer,
            idempotent=True,
            sealed=True,
            whole=_ANSWER_LIMIT,
        ) as response:
            if 200 <= response.status < 300:
                return TokenAnswer(status=200, body=response.read(_ANSWER_LIMIT))
            return TokenAnswer(status=response.status, error=response.error())


def _bounded(scopes: Sequence[str]) -> list[str]:
    """What of a server's scopes it makes sense to ask for."""
    return [scope for scope in scopes if len(scope) <= _LONGEST_SCOPE][:_MOST_SCOPES]


def _choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """The challenge to answer: bearer before basic, for it gives less away."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None
