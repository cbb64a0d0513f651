"""The transport: requests out, answers in, with tries, redirects, time limits and an end."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Self

import urllib3.exceptions

from ..cancel import Cancellation
from ..constants import PRODUCT, TimeoutType
from ..errors import ProtocolError, RegistryError, show_url
from ..hosts import origin
from ..observe import Observer
from ..settings import RegistrySettings
from ..tls import Showing
from .body import Body
from .connection import Adapter
from .exchange import Exchange, current_exchange
from .floor import Floor
from .gate import Clock, Gate, Gates
from .request import Request, proxy_login, redirected
from .resolver import Resolver
from .response import Response, translate
from .retry import RetryPolicy

__all__ = ["Transport"]

_REDIRECTS = 10
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})
_FOREVER = 7 * 86_400.0  # seconds; a socket wants some number


class Transport:
    """Sends requests for all the jobs of a process; thread-safe.

    It keeps connections for each host and lets go of them with `close`, which also ends
    every request under way. It keeps no cookies, reads no ``.netrc`` and no environment, and
    sends credentials only where a caller puts them, and never on to another origin.

    What goes to one host goes through one gate, so that limits, and a server's wish to be left
    alone, hold for all jobs together.

    One lock guards the set of exchanges under way. ``sleep`` (a wait that a cancellation
    ends), ``clock`` (the gates') and ``dice`` are for tests.
    """

    def __init__(
        self,
        settings: RegistrySettings | None = None,
        *,
        sleep: Callable[[float, Cancellation], object] | None = None,
        clock: Clock | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings or RegistrySettings()
        self._adapter = Adapter(self.settings)
        rate, seconds = self.settings.min_rate, self.settings.min_rate_seconds
        self._floor = Floor(rate=rate, seconds=seconds) if rate else None
        self._resolver = Resolver()
        self._gates = Gates(self.settings.hosts, clock=clock, dice=dice)
        self._sleep = sleep or (lambda seconds, cancel: cancel.wait(seconds))
        self._dice = dice
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._closed = False
        products = [*self.settings.user_agent, PRODUCT]
        self._headers = {"User-Agent": " ".join(products), "Accept-Encoding": "identity"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Do ahead of the first request what takes its time; it does not wait for that."""
        self._adapter.prepare()

    def pause(self, seconds: float, cancel: Cancellation) -> None:
        """Wait before something is tried again. Raises `CancelledError`."""
        self._sleep(seconds, cancel)
        cancel.check()

    def ready(self, url: str) -> float:
        """Seconds after which a request for content of that host is worth while, 0 for now:
        earlier ones would wait for the host's limits, or because it asked to be left alone."""
        try:
            _, host, port = origin(url)
        except ValueError:
            return 0.0
        return self._gates.of(host, port).ready()

    def heed(self, other: Transport) -> None:
        """Leave alone, for as long as they asked for that, the servers that ``other`` does."""
        self._gates.heed(other._gates)

    def retire(self) -> None:
        """Keep no connection open any longer than its request. What is under way goes on."""
        self._adapter.clear()

    def close(self) -> None:
        """End what is under way, close every connection, refuse further requests."""
        with self._lock:
            self._closed = True
            exchanges = list(self._exchanges)
        self._gates.close()
        for exchange in exchanges:
            exchange.interrupt()
        self._adapter.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
        timeout: TimeoutType = TimeoutType.RECEIVE,
        idempotent: bool | None = None,
        retries: int | None = None,
        redirects: bool = True,
        patient: bool = False,
        probe: bool = False,
        sealed: bool = False,
        hasty: bool = False,
        whole: int = 0,
        secret: Collection[str] | None = None,
    ) -> Response:
        """Send a request; the answer, whatever its status, has its body still unread.

        With ``whole``, an answer of status 200 has been read, and may have so many bytes: one that
        breaks off is no answer, and asked for again like one that did not come.

        ``idempotent`` says whether a request of which it is not known whether it arrived may
        be sent again (default: GET and HEAD). ``patient`` gives the server the time that the
        last byte of an upload may cost it; ``probe`` makes the first failure to get an answer
        stand; with ``hasty`` an answer that asks for a pause (Retry-After) stands, for a caller
        that has something else to do in the meantime; ``sealed`` says that the body holds
        credentials. Redirects are followed with the same method, GET for 303;
        ``Authorization`` and a sealed body go along within one origin only. With ``secret``,
        names of headers of the caller's own, headers go along as V1 has it:
        `add_required_headers_to_redirected_requests`.

        Raises `UnreachableRegistryError`, `TLSError`, `ConnectionBrokenError`,
        `RegistryTimeoutError`, `ProtocolError`, `CancelledError`.
        """
        cancel = cancel or Cancellation()
        observer = observer or Observer()
        connect, read, total = self._limits(timeout, patient)
        request = Request(
            method=method,
            url=url.partition("#")[0],
            headers=self._merged(headers or {}),
            body=Body.of(body) if isinstance(body, bytes) else body,
            sealed=sealed,
            form=body if sealed and isinstance(body, bytes) else b"",
            secret=secret,
            connect=connect,
            read=read,
            total=total,
            whole=whole,
        )
        safe = method in _IDEMPOTENT if idempotent is None else idempotent
        policy = RetryPolicy.of(self.settings, retries)
        for _ in range(_REDIRECTS + 1):
            response = self._try(request, policy, safe, probe, hasty, cancel, observer)
            following = None
            if redirects:
                try:
                    following = redirected(request, response, self.settings.may_be_insecure)
                except ProtocolError:
                    response.close()
                    raise
            if following is None:
                return response
            response.close()
            observer.log("debug", response.hide(f"redirected to {show_url(following.url)}"))
            request = following
        raise ProtocolError(f"{method} {show_url(url)}: more than {_REDIRECTS} redirects")

    def _merged(self, headers: Mapping[str, str]) -> dict[str, str]:
        if headers.get("User-Agent") == PRODUCT:  # it names nobody: the settings may name some
            headers = {name: value for name, value in headers.items() if name != "User-Agent"}
        given = {name.lower() for name in headers}
        common = {name: value for name, value in self._headers.items() if name.lower() not in given}
        return {**common, **headers}

    def _limits(self, timeout: TimeoutType, patient: bool) -> tuple[float, float, float | None]:
        settings = self.settings
        if timeout is TimeoutType.NONE:
            return _FOREVER, _FOREVER, None
        if timeout is TimeoutType.CONNECT:
            return settings.connect_timeout, settings.ping_timeout, settings.ping_timeout
        read = max(settings.commit_timeout, settings.read_timeout) if patient else None
        return settings.connect_timeout, read or settings.read_timeout, None

    def _try(
        self,
        request: Request,
        policy: RetryPolicy,
        idempotent: bool,
        probe: bool,
        hasty: bool,
        cancel: Cancellation,
        observer: Observer,
    ) -> Response:
        attempt = 0
        served = 0.0
        gate, showing = self._gate(request), Showing()
        while True:
            wait: float | None
            try:
                if gate is not None:
                    gate.enter(cancel, observer.log, served=served)
                response = self._send(request, gate, showing, cancel, observer)
            except RegistryError as error:
                if showing.next_after_error(error):
                    observer.log("debug", f"{error}; another client certificate is shown")
                    continue
                wait = policy.after_error(attempt, error, idempotent=idempotent, dice=self._dice())
                if wait is None or probe:
                    raise
                why = str(error)
            else:
                asked = response.retry_after if response.status in (429, 503) else None
                if showing.next_after_status(
                    response.status, paused=asked is not None, idempotent=idempotent
                ):
                    response.close()
                    continue
                if gate is not None and asked is not None:
                    served = gate.hold_off(min(asked, policy.longest))
                wait = policy.after_status(
                    attempt,
                    response.status,
                    response.retry_after,
                    idempotent=idempotent,
                    dice=self._dice(),
                )
                if wait is None or (hasty and asked is not None):
                    return response
                why = f"{request.method} {show_url(request.url)}: {response.status}"
                why = f"{why} {response.reason}".rstrip()
                response.close()
            attempt += 1
            observer.log("warning", f"{why}; trying again", wait=round(wait, 2), attempt=attempt)
            self.pause(wait, cancel)

    def _gate(self, request: Request) -> Gate | None:
        """The gate of the request's host; None for a URL that will be refused."""
        try:
            _, host, port = origin(request.url)
        except ValueError:
            return None
        return self._gates.of(host, port)

    def _send(
        self,
        request: Request,
        gate: Gate | None,
        showing: Showing,
        cancel: Cancellation,
        observer: Observer,
    ) -> Response:
        cancel.check()
        lease = None if gate is None else gate.lease(observer.log)
        if lease is not None and request.method == "GET":
            lease.before(cancel)
        exchange = Exchange(
            resolver=self._resolver,
            cancel=cancel,
            send_timeout=request.read,
            total=request.total,
            certificates=self._adapter.certificates,
            showing=showing,
            ended=self._forget,
            lease=lease,
            floor=None if request.read >= _FOREVER else self._floor,
        )
        token = current_exchange.set(exchange)
        try:
            self._remember(exchange)
            raw = self._exchange(request, exchange)
            if raw.status == 407:
                raise proxy_login(request, raw)
            response = Response(
                raw,
                method=request.method,
                url=request.url,
                exchange=exchange,
                veil=request.veil,
            )
            if request.whole and response.status == 200:
                response.load(request.whole)
            return response
        except BaseException:
            exchange.end()
            raise
        finally:
            current_exchange.reset(token)

    def _exchange(self, request: Request, exchange: Exchange) -> urllib3.HTTPResponse:
        headers = dict(request.headers)
        blocks = None
        if request.body is not None:
            if request.body.length is None:
                headers["Transfer-Encoding"] = "chunked"
            else:
                headers["Content-Length"] = str(request.body.length)
            if request.body.length != 0:
                blocks = request.body.blocks(exchange.cancel)
                if exchange.lease is not None:
                    blocks = exchange.lease.pace(blocks, exchange.cancel)
        try:
            return self._adapter.exchange(
                request.method,
                request.url,
                headers,
                blocks,
                connect=request.connect,
                read=request.read,
            )
        except ValueError as error:  # a header or URL that no request can have
            raise ProtocolError(
                f"{request.method} {show_url(request.url)}: this cannot be sent; its URL or "
                "one of its headers is malformed"
            ) from error
        except (http.client.HTTPException, urllib3.exceptions.HTTPError, OSError) as error:
            hide = request.veil.hide
            failure = translate(error, exchange, request.method, request.url, hide)
            raise failure from error
        finally:
            if blocks is not None:
                blocks.close()

    def _remember(self, exchange: Exchange) -> None:
        with self._lock:
            if self._closed:
                raise RegistryError("the transport is closed", code="closed")
            self._exchanges.add(exchange)

    def _forget(self, exchange: Exchange) -> None:
        if exchange.lease is not None:
            exchange.lease.end()
        with self._lock:
            self._exchanges.discard(exchange)
