"""A request to an index or a registry of the V1 protocol: who it says that it is from, the
cookies, and where a redirect leads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ...cancel import Cancellation
from ...constants import TimeoutType
from ...credentials import AuthConfig
from ...endpoint import Endpoint
from ...errors import (
    ConnectionBrokenError,
    LoginRequiredError,
    ProtocolError,
    UnreachableRegistryError,
    show_url,
)
from ...headers import HTTPRequestFactory
from ...hosts import origin
from ...observe import Observer
from ...transport import Body, Response, Transport, same_origin
from ...urls import follow
from .cookies import CookieJar

__all__ = ["Sender"]

_REDIRECTS: Final = 10
# What says nothing about who asks.
_HARMLESS: Final = frozenset({"accept", "content-type", "range", "user-agent"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request. ``resend``: a 303, too, is followed with the same method and body."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | bytes | None
    idempotent: bool | None
    patient: bool
    retries: int | None
    whole: int
    resend: bool
    cancel: Cancellation


class Sender:
    """Sends to the index or registry ``endpoint``, and to the registries that it names, for one
    caller; thread-safe.

    Credentials go to ``endpoint`` alone: with each request where it is a registry without an
    index over https, else with what is asked of it as an index. Registries get the tokens that
    the index gave. What ``factory`` adds goes to all of them; an ``Authorization`` in it is the
    caller's own, goes to ``endpoint`` in place of everything else, and nowhere else. A redirect
    to another origin gets nothing that says who asks. ``own``: the credentials are the daemon's,
    and no error tells the caller for which user.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        auth: AuthConfig,
        *,
        factory: HTTPRequestFactory | None = None,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
        on_lost: Callable[[], object] = lambda: None,
        retries: int | None = None,
        timeout: TimeoutType = TimeoutType.RECEIVE,
        own: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.cancel = cancel or Cancellation()
        self.observer = observer or Observer()
        self._auth = auth
        self._on_lost = on_lost
        self._retries = retries
        self._timeout = timeout
        self._own = own
        self._cookies = CookieJar()
        given = (factory or HTTPRequestFactory()).headers
        self._given = {name: ", ".join(values) for name, values in given.items()}
        self._authorized = any(name.lower() == "authorization" for name in self._given)
        https = origin(endpoint.url)[0] == "https"
        self._standalone = https and endpoint.info.standalone

    def send(
        self,
        method: str,
        url: str,
        *,
        token: Sequence[str] = (),
        index: bool = False,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        idempotent: bool | None = None,
        patient: bool = False,
        retries: int | None = None,
        whole: int = 0,
        resend: bool = False,
        cancel: Cancellation | None = None,
    ) -> Response:
        """The answer, whatever its status but 401. ``index``: it is asked as an index.

        Raises `LoginRequiredError` and what the transport raises.
        """
        call = _Call(
            method=method,
            url=url,
            headers=self._merged(url, headers or {}, token, index),
            body=body,
            idempotent=idempotent,
            patient=patient,
            retries=self._retries if retries is None else retries,
            whole=whole,
            resend=resend,
            cancel=cancel or self.cancel,
        )
        response = self._follow(call)
        if response.status == 401:
            raise self._refused(response, index, token)
        return response

    def _merged(
        self, url: str, headers: Mapping[str, str], token: Sequence[str], index: bool
    ) -> dict[str, str]:
        home = same_origin(url, self.endpoint.url)
        names = {name.lower() for name in headers}
        if not home:
            names |= {"authorization", "cookie"}  # of the caller's own, for the endpoint
        extra = {name: value for name, value in self._given.items() if name.lower() not in names}
        merged = {**extra, **headers}
        if home and self._authorized:
            return merged
        basic = self._auth.basic if home and (index or self._standalone) else ""
        if basic:
            merged["Authorization"] = basic
        elif token:
            merged["Authorization"] = f"Token {','.join(token)}"
        return merged

    def _follow(self, call: _Call) -> Response:
        for _ in range(_REDIRECTS + 1):
            response = self._request(call)
            following = self._redirected(call, response)
            if following is None:
                return response
            response.close()
            self.observer.log("debug", f"redirected to {show_url(following.url)}")
            call = following
        raise ProtocolError(f"{call.method} {show_url(call.url)}: more than {_REDIRECTS} redirects")

    def _request(self, call: _Call) -> Response:
        headers = dict(call.headers)
        cookies = self._cookies.header(call.url)
        if cookies and "cookie" not in {name.lower() for name in headers}:
            headers["Cookie"] = cookies
        try:
            response = self.transport.request(
                call.method,
                call.url,
                headers=headers,
                body=call.body,
                cancel=call.cancel,
                observer=self.observer,
                timeout=self._timeout,
                idempotent=call.idempotent,
                patient=call.patient,
                retries=call.retries,
                redirects=False,
                whole=call.whole,
            )
        except (UnreachableRegistryError, ConnectionBrokenError):
            if same_origin(call.url, self.endpoint.url):
                self._on_lost()
            raise
        self._cookies.take(response.url, response.header_values("Set-Cookie"))
        return response

    def _redirected(self, call: _Call, response: Response) -> _Call | None:
        """The request that a redirect asks for, None where the answer is none."""
        location = response.headers.get("Location")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            return None
        url = follow(
            response.url,
            location,
            f"{call.method} {show_url(call.url)}: a redirect",
            may_be_insecure=self.transport.settings.may_be_insecure,
        )
        method, body, headers = call.method, call.body, call.headers
        if response.status == 303 and method != "HEAD" and not call.resend:
            method, body = "GET", None
        if not same_origin(url, call.url):
            headers = {name: one for name, one in headers.items() if name.lower() in _HARMLESS}
        return dataclasses.replace(call, method=method, url=url, headers=headers, body=body)

    def _refused(self, response: Response, index: bool, token: Sequence[str]) -> LoginRequiredError:
        """The error of a 401."""
        said = "; ".join(text for error in response.errors() if (text := str(error)))
        said = f" ({said})" if said else ""
        scheme, host, _ = origin(response.url)
        home = same_origin(response.url, self.endpoint.url)
        host = self.endpoint.host if home else host
        name = "" if self._own else self._auth.username
        if home and self._authorized:
            text = f"{host} refuses the Authorization header that it was sent{said}"
        elif not index and scheme == "http":
            text = (
                f"{host} asks for a login{said}: credentials do not travel over http; the registry "
                "has to be reached by https"
            )
        elif not home or not self._auth.basic:
            text = f"{host} asks for a login{said}: give a user name and a password" * (not token)
            text = text or f"{host} refuses the token that its index gave{said}"
        elif self._own:
            text = (
                f"{host}: the daemon's own credentials were refused; its registries.toml has them"
            )
        else:
            text = f"{host}: the user name {name!r} or its password was refused{said}"
        return LoginRequiredError(text, host=host, username=name)
