"""A request to one registry: its headers, its authorization, and the answer to a challenge."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ..auth import Authenticator
from ..cancel import Cancellation
from ..capabilities import CapabilityTable
from ..challenge import parse_challenges
from ..constants import TimeoutType
from ..endpoint import Endpoint
from ..errors import (
    ConnectionBrokenError,
    LoginRequiredError,
    ProtocolError,
    UnreachableRegistryError,
    show_url,
)
from ..hosts import is_private_literal, origin
from ..observe import Observer
from ..transport import Body, Response, Transport, same_origin
from ..urls import follow

__all__ = ["Sender"]

_WARNING: Final = re.compile(r'299 \S+ "((?:[^"\\]|\\.){1,1000})"')
_WARNINGS: Final = 100
_QUOTA: Final = {"rate_limit": "RateLimit-Limit", "rate_remaining": "RateLimit-Remaining"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request, whoever it says that it is from. ``own``: it goes to the registry itself."""

    method: str
    url: str
    own: bool
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    body: Body | bytes | None = dataclasses.field(repr=False)
    idempotent: bool | None
    patient: bool
    retries: int | None
    hasty: bool
    whole: int
    cancel: Cancellation


class Sender:
    """Sends to ``endpoint`` for one caller; thread-safe. One lock guards what it warned of.

    ``headers`` are the caller's own: a map of names to lists of values. They go to the
    registry's origin only, as the authorization does; an ``Authorization`` among them is
    sent in place of the authenticator's. ``on_lost`` is called when the registry is no longer
    where it was. ``retries`` is how often a request is made again where it does not say so
    itself; None is what the settings say.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        authenticator: Authenticator,
        *,
        headers: Mapping[str, Sequence[str]] | None = None,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
        capabilities: CapabilityTable | None = None,
        on_lost: Callable[[], object] = lambda: None,
        retries: int | None = None,
        timeout: TimeoutType = TimeoutType.RECEIVE,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.authenticator = authenticator
        self.cancel = cancel or Cancellation()
        self.observer = observer or Observer()
        self._capabilities = capabilities
        self._on_lost = on_lost
        self._retries = retries
        self._timeout = timeout
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._own = {name: ", ".join(values) for name, values in (headers or {}).items()}
        self._authorized = any(name.lower() == "authorization" for name in self._own)

    def send(
        self,
        method: str,
        url: str,
        *,
        scopes: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        idempotent: bool | None = None,
        patient: bool = False,
        retries: int | None = None,
        authorization: str | None = None,
        hasty: bool = False,
        whole: int = 0,
        cancel: Cancellation | None = None,
    ) -> Response:
        """The answer, whatever its status but 401.

        ``authorization`` is what to send where no challenge is known yet. Raises
        `LoginRequiredError` and what the transport raises.
        """
        own = url.startswith(self.endpoint.url) or same_origin(url, self.endpoint.url)
        call = _Call(
            method=method,
            url=url,
            own=own,
            headers=self._merged(headers, own),
            body=body,
            idempotent=idempotent,
            patient=patient,
            retries=self._retries if retries is None else retries,
            hasty=hasty,
            whole=whole,
            cancel=cancel or self.cancel,
        )
        first = None if self._authorized else authorization
        if own and not self._authorized:
            first = self.authenticator.authorize(scopes, call.cancel, self.observer) or first
        response = self._request(call, first if own else None)
        if response.status != 401:
            return response
        if not own or not same_origin(response.url, self.endpoint.url):
            return self._asked_elsewhere(response, headers, scopes, call.cancel)
        second = self._answer(call, response, scopes, first)
        response = self._request(call, second)
        if response.status == 401:
            raise self.authenticator.refused(scopes, response.errors())
        return response

    def _request(self, call: _Call, authorization: str | None) -> Response:
        headers = call.headers
        if authorization is not None:
            headers = {**headers, "Authorization": authorization}
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
                hasty=call.hasty,
                whole=call.whole,
            )
        except (UnreachableRegistryError, ConnectionBrokenError):
            if call.own:
                self._on_lost()
            raise
        try:
            self._warn(response)
        except BaseException:  # what a job that has ended says to a remark, too
            response.close()
            raise
        self._quota(response)
        return response

    def _answer(
        self, call: _Call, response: Response, scopes: Sequence[str], first: str | None
    ) -> str:
        """What to send after a 401. Raises `LoginRequiredError` where there is nothing."""
        if call.own and self._authorized:
            raise self._header_refused(response)
        challenges = parse_challenges(response.header_values("WWW-Authenticate"))
        response.errors()
        return self.authenticator.challenged(challenges, scopes, first, call.cancel, self.observer)

    def _asked_elsewhere(
        self,
        response: Response,
        headers: Mapping[str, str] | None,
        scopes: Sequence[str],
        cancel: Cancellation,
    ) -> Response:
        """The answer of a server that the registry redirected to, and that wants a token of its
        own; it gets one that is nobody's."""
        challenges = parse_challenges(response.header_values("WWW-Authenticate"))
        errors = response.errors()
        value = None
        if response.method in ("GET", "HEAD"):
            value = self.authenticator.anonymous(response.url, challenges, cancel, self.observer)
        if value is None:
            raise self.authenticator.refused(scopes, errors)
        again = self.transport.request(
            response.method,
            response.url,
            headers={**(headers or {}), "Authorization": value},
            cancel=cancel,
            observer=self.observer,
            timeout=self._timeout,
        )
        if again.status == 401:
            raise self.authenticator.refused(scopes, again.errors())
        return again

    def _header_refused(self, response: Response) -> LoginRequiredError:
        said = "; ".join(text for error in response.errors() if (text := str(error)))
        host = self.endpoint.host
        return LoginRequiredError(
            f"{host} refuses the Authorization header that it was sent{f' ({said})' * bool(said)}",
            host=host,
        )

    def _warn(self, response: Response) -> None:
        """Pass on what the registry warns of (code 299), once for each text."""
        headers = response.header_values("Warning")
        for found in (one for header in headers for one in _WARNING.finditer(header)):
            text = response.hide(found[1].replace('\\"', '"'))
            text = "".join(c for c in text if c.isprintable())
            with self._lock:
                new = text not in self._warned and len(self._warned) < _WARNINGS
                if new:
                    self._warned.add(text)
            if new:
                self.observer.log("warning", f"{self.endpoint.host} warns: {text}")

    def _quota(self, response: Response) -> None:
        """Note what the registry says of its rate limit: ``RateLimit-Remaining: 76;w=21600``."""
        if self._capabilities is None or "RateLimit-Remaining" not in response.headers:
            return
        shown: dict[str, int] = {}
        for field, header in _QUOTA.items():
            number = response.headers.get(header, "").partition(";")[0].strip()
            if number.isascii() and number.isdigit():
                shown[field] = int(number[:12])
        self._capabilities.learn(self.endpoint.host, **shown)

    def at_home(self, url: str) -> str:
        """``url``, which the registry named, with its own scheme if it is its own host.

        A server behind a proxy that ends TLS may take itself for one of plain http.
        """
        parts, home = urlsplit(url), urlsplit(self.endpoint.url)
        if parts.scheme == "http" and home.scheme == "https" and parts.netloc == home.netloc:
            return urlunsplit(("https", *parts[1:]))
        return url

    def follow(self, response: Response, target: str) -> str:
        """Where ``target``, which an answer of the registry names, is: absolute, relative,
        without a scheme. Raises `ProtocolError`, also for an address of a private network that
        a registry elsewhere names: what is sent would reach what it cannot reach itself."""
        base = response.url
        what = f"{response.method} {show_url(base)}"
        # Joined first: what is at home may be named with the wrong scheme.
        url = follow(base, target, what, may_be_insecure=lambda host, port: True)
        url = follow(
            base,
            self.at_home(url),
            what,
            may_be_insecure=self.transport.settings.may_be_insecure,
        )
        host, own = origin(url)[1], origin(self.endpoint.url)[1]
        if is_private_literal(host) and host != own and not is_private_literal(own):
            raise ProtocolError(
                f"{what}: the server names {show_url(url)}, an address of a private network; "
                "that is refused"
            )
        return url

    def _merged(self, headers: Mapping[str, str] | None, own: bool) -> dict[str, str]:
        protocol = dict(headers or {})
        if not own:
            return protocol
        names = {name.lower() for name in protocol}
        extra = {name: value for name, value in self._own.items() if name.lower() not in names}
        return {**extra, **protocol}
