"""A request to one registry: its headers, its authorization, and the answer to a challenge."""

from __future__ import annotations

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
        cancel = cancel or self.cancel
        own = url.startswith(self.endpoint.url) or same_origin(url, self.endpoint.url)
        asks = own and not self._authorized
        sent = self._merged(headers, own)

        def request(value: str | None) -> Response:
            return self.transport.request(
                method,
                url,
                headers=sent if value is None else {**sent, "Authorization": value},
                body=body,
                cancel=cancel,
                observer=self.observer,
                timeout=self._timeout,
                idempotent=idempotent,
                patient=patient,
                retries=self._retries if retries is None else retries,
                hasty=hasty,
                whole=whole,
            )

        first = authorization
        if asks:
            first = self.authenticator.authorize(scopes, cancel, self.observer) or first
        try:
            response = request(first if own else None)
        except (UnreachableRegistryError, ConnectionBrokenError):
            if own:
                self._on_lost()
            raise
        self._warn(response)
        self._quota(response)
        if response.status != 401:
            return response
        if own and self._authorized:
            raise self._header_refused(response)
        if not asks or not same_origin(response.url, self.endpoint.url):
            raise self.authenticator.refused(scopes, response.errors())
        challenges = parse_challenges(response.header_values("WWW-Authenticate"))
        response.errors()
        second = self.authenticator.challenged(challenges, scopes, first, cancel, self.observer)
        response = request(second)
        if response.status == 401:
            raise self.authenticator.refused(scopes, response.errors())
        return response

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
