"""A request to an index or a registry of the V1 protocol: who it says that it is from, the
cookies, and where a redirect leads it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from ...cancel import Cancellation
from ...constants import TimeoutType
from ...credentials import AuthConfig
from ...endpoint import Endpoint, plain_http_refused
from ...errors import (
    ConnectionBrokenError,
    LoginRequiredError,
    ProtocolError,
    UnreachableRegistryError,
    show_url,
)
from ...headers import (
    WHO_ASKS,
    Decorator,
    HTTPRequest,
    HTTPRequestFactory,
    add_required_headers_to_redirected_requests,
    basic_auth,
)
from ...hosts import origin
from ...observe import Observer
from ...transport import Body, Response, Transport, same_origin
from ...urls import follow
from .cookies import CookieJar

__all__ = ["Sender"]

_REDIRECTS: Final = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request. ``resend``: a 303, too, is followed with the same method and body. Where one
    answers another request that changes something, what is at its address says nothing of that."""

    request: HTTPRequest
    body: Body | bytes | None = dataclasses.field(repr=False)
    idempotent: bool | None
    patient: bool
    hasty: bool
    retries: int | None
    whole: int
    resend: bool
    cancel: Cancellation


class Sender:
    """Sends to the index or registry ``endpoint``, and to the registries that it names, for one
    caller; thread-safe. One lock guards what is known of who cannot be reached.

    Credentials go to ``endpoint`` alone: with each request where it is a registry without an
    index over https, else with what is asked of it as an index. Registries get the tokens that
    the index gave. What ``factory`` adds goes to all of them; an ``Authorization`` among its
    headers is the caller's own, goes to ``endpoint`` in place of everything else, and to no other
    registry. What a redirect takes along says `add_required_headers_to_redirected_requests`, and
    cookies go to their origin. ``own``: the credentials are the daemon's, and no error tells the
    caller for which user.
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
        self._lock = threading.Lock()
        self._lost: set[tuple[str, str, int]] = set()
        self._factory = factory or HTTPRequestFactory()

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
        hasty: bool = False,
        retries: int | None = None,
        whole: int = 0,
        resend: bool = False,
        cancel: Cancellation | None = None,
    ) -> Response:
        """The answer, whatever its status but 401. ``index``: it is asked as an index; ``hasty``:
        a pause that the server asks for is its answer.

        Raises `LoginRequiredError` and what the transport raises.
        """
        self._check_scheme(url)
        call = _Call(
            request=self._made(method, url, headers or {}, token, index),
            body=body,
            idempotent=idempotent,
            patient=patient,
            hasty=hasty,
            retries=self._tries(url, retries),
            whole=whole,
            resend=resend,
            cancel=cancel or self.cancel,
        )
        response = self._follow(call)
        if response.status == 401:
            raise self._refused(response, call.request, index)
        return response

    def _check_scheme(self, url: str) -> None:
        """Raises `UnreachableRegistryError` for plain http where that is not spoken."""
        scheme, host, port = origin(url)
        if scheme == "https" or same_origin(url, self.endpoint.url):
            return
        if not self.transport.settings.may_be_insecure(host, port):
            raise plain_http_refused(urlsplit(url).netloc)

    def _made(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        token: Sequence[str],
        index: bool,
    ) -> HTTPRequest:
        decorators: list[Decorator] = []
        if not same_origin(url, self.endpoint.url):
            decorators.append(_anonymous)
        elif index and self._auth.basic:
            decorators.append(_authorized(self._auth.basic))
        elif self.endpoint.info.standalone:
            decorators.append(basic_auth(self._auth, self.endpoint.url))
        if token:
            decorators.append(_authorized(f"Token {','.join(token)}"))
        return self._factory.new_request(method, url, *decorators, headers=headers)

    def _follow(self, call: _Call) -> Response:
        for _ in range(_REDIRECTS + 1):
            response = self._request(call)
            try:
                following = self._redirected(call, response)
            except ProtocolError:
                response.close()
                raise
            if following is None:
                return response
            response.close()
            shown = response.hide(show_url(following.request.url))
            self.observer.log("debug", f"redirected to {shown}")
            call = following
        raise ProtocolError(
            f"{call.request.method} {show_url(call.request.url)}: more than {_REDIRECTS} redirects"
        )

    def _request(self, call: _Call) -> Response:
        request = call.request
        cookies = self._cookies.header(request.url)
        if cookies:
            own = request.value("Cookie")
            request = request.with_headers({"Cookie": f"{own}; {cookies}" if own else cookies})
        try:
            response = self.transport.request(
                request.method,
                request.url,
                headers=request.headers,
                body=call.body,
                cancel=call.cancel,
                observer=self.observer,
                timeout=self._timeout,
                idempotent=call.idempotent,
                patient=call.patient,
                hasty=call.hasty,
                retries=call.retries,
                redirects=False,
                whole=call.whole,
            )
        except (UnreachableRegistryError, ConnectionBrokenError) as error:
            if same_origin(request.url, self.endpoint.url):
                self._on_lost()
            elif isinstance(error, UnreachableRegistryError):
                with self._lock:
                    self._lost.add(origin(request.url))
            raise
        with self._lock:
            self._lost.discard(origin(request.url))
        self._cookies.take(response.url, response.header_values("Set-Cookie"))
        return response

    def _tries(self, url: str, retries: int | None) -> int | None:
        """How often a request is made again. A registry that could not be reached is only looked
        at: an index names several, and it may be down for long."""
        with self._lock:
            if origin(url) in self._lost:
                return 0
        return self._retries if retries is None else retries

    def _redirected(self, call: _Call, response: Response) -> _Call | None:
        """The request that a redirect asks for, None where the answer is none."""
        location = response.headers.get("Location")
        request = call.request
        followed = {301, 302, 307, 308}
        if request.method in ("GET", "HEAD") or call.resend:
            followed.add(303)
        if response.status not in followed or not location:
            return None
        url = follow(
            response.url,
            location,
            f"{request.method} {show_url(request.url)}: a redirect",
            may_be_insecure=self.transport.settings.may_be_insecure,
            hide=response.hide,
        )
        headers = add_required_headers_to_redirected_requests(
            request.headers, request.url, url, secret=request.secret
        )
        request = dataclasses.replace(request, url=url, headers=headers)
        return dataclasses.replace(call, request=request)

    def _refused(self, response: Response, request: HTTPRequest, index: bool) -> LoginRequiredError:
        """The error of a 401, to what began as ``request``."""
        said = "; ".join(text for error in response.errors() if (text := str(error)))
        said = f" ({said})" if said else ""
        scheme, host, _ = origin(response.url)
        if same_origin(response.url, self.endpoint.url):
            host = self.endpoint.host
        sent = request.value("Authorization")
        name = ""
        if not same_origin(response.url, request.url):
            first = urlsplit(request.url).netloc
            text = f"{host}, to which {first} redirects, asks for a login of its own{said}"
        elif "authorization" in request.secret:
            text = f"{host} refuses the Authorization header that it was sent{said}"
        elif scheme == "http" and not index:
            text = (
                f"{host} asks for a login{said}: credentials do not travel over http; the registry "
                "has to be reached by https"
            )
        elif sent.startswith("Token "):
            text = f"{host} refuses the token that its index gave{said}"
        elif not sent:
            text = f"{host} asks for a login{said}: give a user name and a password"
        elif self._own:
            text = (
                f"{host}: the daemon's own credentials were refused; its registries.toml has them"
            )
        else:
            name = self._auth.username
            text = f"{host}: the user name {name!r} or its password was refused{said}"
        return LoginRequiredError(text, host=host, username=name)


def _authorized(value: str) -> Decorator:
    """A decorator that adds this ``Authorization``, unless there is one already."""

    def decorate(request: HTTPRequest) -> HTTPRequest:
        if request.has("Authorization"):
            return request
        return request.with_headers({"Authorization": value})

    return decorate


def _anonymous(request: HTTPRequest) -> HTTPRequest:
    """A decorator that takes out what of the caller's own headers is for his endpoint alone."""
    mine = request.secret & WHO_ASKS
    headers = {name: one for name, one in request.headers.items() if name.lower() not in mine}
    return dataclasses.replace(request, headers=headers, secret=request.secret - mine)
