"""Login on V1: accounts are made, and credentials checked, at ``users/``.

There is one verb for both: the account is posted, and only where the answer says that there is
one of that name, or that nobody is let in unknown, the credentials are checked. So who mistypes
a name gets a new account, where the server makes some; the status says so.
"""

from __future__ import annotations

import json
from typing import Final

from ...cancel import Cancellation
from ...constants import APIVersion
from ...credentials import AuthConfig
from ...endpoint import Endpoint
from ...errors import LoginRequiredError, RegistryHTTPError
from ...headers import HTTPRequestFactory
from ...hosts import PUBLIC_NAMES
from ...observe import Observer
from ...transport import Response

__all__ = ["SUCCEEDED", "login_v1"]

SUCCEEDED: Final = "Login Succeeded"
_TAKEN: Final = "username or email already exists"
_ELSEWHERE: Final = (
    "there are no accounts of V1; a registry of V2 is logged in to without /v1/ in its address"
)


def login_v1(
    endpoint: Endpoint,
    auth: AuthConfig,
    factory: HTTPRequestFactory,
    cancel: Cancellation,
    observer: Observer,
) -> str:
    """The status line of a login at a registry or index of V1.

    Without credentials nothing is posted: then it is good only where none are asked for. Raises
    `LoginRequiredError` for credentials that are refused, and `RegistryHTTPError` for an account
    that is not active (403) and for every other answer.
    """
    users = _Users(endpoint, auth, factory, cancel, observer)
    if auth.empty:
        users.check()
        return f"{SUCCEEDED}: {endpoint.host} asks for no credentials"
    if not (auth.username and auth.password):
        raise LoginRequiredError(
            f"{endpoint.host} speaks V1, and takes a user name and a password, no token",
            host=endpoint.host,
            username=auth.username,
        )
    if users.create():
        return users.created
    users.check()
    return SUCCEEDED


class _Users:
    """``users/`` of one server, for one caller."""

    def __init__(
        self,
        endpoint: Endpoint,
        auth: AuthConfig,
        factory: HTTPRequestFactory,
        cancel: Cancellation,
        observer: Observer,
    ) -> None:
        self._endpoint = endpoint
        self._auth = auth
        self._factory = factory
        self._cancel = cancel
        self._observer = observer
        self._url = f"{endpoint.version_string(APIVersion.V1)}users/"

    @property
    def created(self) -> str:
        """What tells a person that there is an account now."""
        host, name = self._endpoint.host, self._auth.username
        text = f"Account created: {host} had none of the name {name!r}. "
        if self._is_public:
            return f"{text}The link in the mail to {self._auth.email or 'its owner'} activates it."
        text += f"The documentation of {host} says how to activate it"
        if self._endpoint.info.standalone:
            text += "; a registry that keeps no accounts says this to every name"
        return f"{text}."

    def create(self) -> bool:
        """Whether an account was made; False where the credentials are to be checked."""
        account = {
            "username": self._auth.username,
            "password": self._auth.password,
            "email": self._auth.email,
        }
        body = json.dumps(account).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        with self._send("POST", headers, body) as response:
            if response.status == 201:
                return True
            if response.status == 401 or (response.status == 400 and response.says(_TAKEN)):
                return False
            raise response.error(self._not_made(response.status), words=True)

    def check(self) -> None:
        """See that the credentials are good, or that none are needed."""
        basic, host = self._auth.basic, self._endpoint.host
        with self._send("GET", {"Authorization": basic} if basic else {}) as response:
            if response.status == 200:
                self._say_where_it_stays(basic)
                return
            if response.status == 401:
                said = "; ".join(text for error in response.errors() if (text := str(error)))
                raise self._refused(f" ({said})" if said else "")
            if response.status == 403 and basic:
                raise self._inactive(response)
            raise response.error(f"this is where {host} tells who may log in", words=True)

    def _not_made(self, status: int) -> str:
        if status in (404, 405):
            return _ELSEWHERE
        if status != 400:
            return ""
        text = (
            f"no account {self._auth.username!r} was made; where there is one, its name is another"
        )
        return text if self._auth.email else f"{text}. A new one may need an e-mail address"

    def _say_where_it_stays(self, basic: str) -> None:
        """It is sent here over http, but with no other request (see `session.v1.sender`)."""
        alone = self._endpoint.info.standalone
        if basic and alone and self._endpoint.url.startswith("http:"):
            self._observer.log(
                "warning",
                f"{self._endpoint.host} is reached over http: after this login a registry of V1 "
                "without an index is sent the password over https only",
            )

    def _send(self, method: str, headers: dict[str, str], body: bytes | None = None) -> Response:
        request = self._factory.new_request(method, self._url, headers=headers)
        return self._endpoint.transport.request(
            method,
            request.url,
            headers=request.headers,
            body=body,
            cancel=self._cancel,
            observer=self._observer,
            sealed=body is not None,
            secret=request.secret,
        )

    @property
    def _is_public(self) -> bool:
        return self._endpoint.host in PUBLIC_NAMES

    def _refused(self, said: str) -> LoginRequiredError:
        host, name = self._endpoint.host, self._auth.username
        if self._auth.empty:
            text = f"{host} asks for a login{said}: give a user name and a password"
        else:
            text = f"{host}: the user name {name!r} or its password was refused{said}"
        return LoginRequiredError(text, host=host, username=name)

    def _inactive(self, response: Response) -> RegistryHTTPError:
        name, host = self._auth.username, self._endpoint.host
        how = "use the link in the mail that came for it"
        if not self._is_public:
            how = f"the documentation of {host} says how to activate it"
        return response.error(f"the account {name!r} is not active: {how}")
