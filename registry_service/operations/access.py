"""Getting to registries: what all the jobs of a process share, and what one of them brings."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping

from ..auth import Authenticator, TokenCache
from ..cancel import Cancellation
from ..capabilities import CapabilityTable
from ..constants import APIVersion
from ..credentials import AuthConfig
from ..endpoint import Endpoint
from ..errors import InvalidReferenceError, RegistryError, SettingsError
from ..headers import HTTPRequestFactory
from ..hostfile import own_credentials
from ..hostrules import HostTable, Mirror
from ..hosts import one_form, registry_host
from ..ledger import Ledger
from ..observe import Observer
from ..session.breaker import Breakers
from ..session.mirrors import Mirrored, Place
from ..session.search import SearchClient
from ..session.v2 import V2Client
from ..settings import RegistrySettings
from ..transport import Transport
from .versions import Client, Reader, V1Client, needs_v2

__all__ = ["Access", "Registries", "host_of"]

_REMEMBERED_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who asks: credentials, and headers to send along (both secret). ``own``: where he has no
    credentials for a registry, those that the configuration gives for it stand in."""

    auth: AuthConfig = dataclasses.field(default_factory=AuthConfig)
    own: bool = True
    headers: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, repr=False)


class Registries:
    """Connections, tokens and endpoints, shared by the jobs of a process; thread-safe.

    An endpoint that was found is remembered for a minute, so that jobs in a row do not ping
    each time. One lock guards what is remembered; nothing waits while it is held. ``ledger``
    keeps where uploads are; without one they are cancelled with the operation that began them.
    """

    def __init__(
        self, settings: RegistrySettings | None = None, *, ledger: Ledger | None = None
    ) -> None:
        self.settings = settings or RegistrySettings()
        self.capabilities = CapabilityTable()
        self._ledger = ledger
        self._transport = Transport(self.settings)
        self._tokens = TokenCache()
        self._breakers = Breakers()
        self._lock = threading.Lock()
        self._endpoints: dict[str, tuple[Endpoint, float]] = {}

    def prepare(self) -> None:
        """Make ready for the first job; it does not wait for that."""
        self._transport.prepare()

    def renewed(self, hosts: HostTable) -> Registries:
        """Others, for which ``hosts`` is what holds for single hosts, and which know what these
        have learned: what registries can do, tokens, and who asked to be left alone."""
        made = Registries(dataclasses.replace(self.settings, hosts=hosts), ledger=self._ledger)
        made.capabilities, made._tokens = self.capabilities, self._tokens
        made._transport.heed(self._transport)
        return made

    def retire(self) -> None:
        """No operation begins here any more: no connection is kept for a next one."""
        self._transport.retire()

    def close(self) -> None:
        """End what is under way and close every connection."""
        self._transport.close()

    def endpoint(
        self, host: str, *, cancel: Cancellation, observer: Observer, fresh: bool = False
    ) -> Endpoint:
        """The registry at ``host``. Raises what `Endpoint.discover` raises."""
        now = time.monotonic()
        with self._lock:
            found, until = self._endpoints.get(host, (None, 0.0))
        if found is not None and now < until and not fresh:
            return found
        endpoint = Endpoint.discover(
            host, transport=self._transport, cancel=cancel, observer=observer
        )
        self.capabilities.learn(
            endpoint.host,
            api=str(endpoint.version),
            server=endpoint.info.version,
            scheme=endpoint.url.partition(":")[0],
            auth=_wanted(endpoint),
        )
        with self._lock:
            self._endpoints[host] = (endpoint, now + _REMEMBERED_SECONDS)
            for name in [name for name, (_, end) in self._endpoints.items() if end < now]:
                del self._endpoints[name]
        return endpoint

    def client(
        self,
        host: str,
        access: Access,
        *,
        cancel: Cancellation,
        observer: Observer,
        fresh: bool = False,
        offline: bool = False,
        retries: int | None = None,
    ) -> Client:
        """A client of the registry at ``host``, for one operation, of the protocol that it
        speaks. With ``fresh``, nothing that is remembered counts, no token either; with
        ``offline``, an identity token is asked for. ``retries`` is as in `V2Client`."""
        endpoint = self.endpoint(host, cancel=cancel, observer=observer, fresh=fresh)
        if endpoint.version is APIVersion.V1:
            auth, own = self._credentials(host, access, observer)
            return V1Client(
                endpoint,
                self._transport,
                auth,
                own=own,
                factory=HTTPRequestFactory(access.headers),
                cancel=cancel,
                observer=observer,
                on_lost=lambda: self._lose(host),
                retries=retries,
            )
        return V2Client(
            endpoint,
            self._transport,
            self._authenticator(
                endpoint, host, access, observer, TokenCache() if fresh else self._tokens, offline
            ),
            headers=access.headers,
            cancel=cancel,
            observer=observer,
            ledger=self._ledger,
            capabilities=self.capabilities,
            on_lost=lambda: self._lose(host),
            retries=retries,
        )

    def reader(
        self, host: str, access: Access, *, cancel: Cancellation, observer: Observer
    ) -> Reader:
        """What images of the registry at ``host`` are read from: its mirrors, where it has
        some, and itself, where that may be asked.

        A mirror gets the credentials that the configuration gives for its own host, and nothing
        of the caller's.
        """
        rules = self.settings.hosts.of_address(host)
        if not rules.mirrors:
            return self.client(host, access, cancel=cancel, observer=observer)

        def origin() -> V2Client:
            return needs_v2(
                self.client(host, access, cancel=cancel, observer=observer),
                "which has no mirrors",
                "take them out of its section of registries.toml",
            )

        places = [self._mirror(mirror, cancel, observer) for mirror in rules.mirrors]
        if rules.origin == "last":
            places.append(Place(host, origin, mirror=False))
        return Mirrored(places, self._breakers, observer=observer)

    def _mirror(self, mirror: Mirror, cancel: Cancellation, observer: Observer) -> Place:
        def connect() -> V2Client:
            # What does not answer at once has a next one in its place: no retries.
            return needs_v2(
                self.client(mirror.address, Access(), cancel=cancel, observer=observer, retries=0),
                "and so is no mirror",
                "take it out of the mirrors in registries.toml",
            )

        return Place(str(mirror), connect, rename=mirror.repository)

    def searcher(
        self, host: str, access: Access, *, cancel: Cancellation, observer: Observer
    ) -> SearchClient:
        """A search client of the registry at ``host``; empty is the index."""
        index = host_of(self.settings.index_server)
        where = host or self.settings.index_server
        endpoint = self.endpoint(where, cancel=cancel, observer=observer)
        return SearchClient(
            endpoint,
            self._transport,
            self._authenticator(endpoint, host or index, access, observer, self._tokens),
            headers=access.headers,
            cancel=cancel,
            observer=observer,
            on_lost=lambda: self._lose(where),
        )

    def _lose(self, host: str) -> None:
        """The registry is not where it was found: the next job looks anew."""
        with self._lock:
            self._endpoints.pop(host, None)

    def _authenticator(
        self,
        endpoint: Endpoint,
        host: str,
        access: Access,
        observer: Observer,
        tokens: TokenCache,
        offline: bool = False,
    ) -> Authenticator:
        auth, own = self._credentials(host, access, observer)
        return Authenticator(
            endpoint, self._transport, auth, cache=tokens, offline=offline, own=own
        )

    def _credentials(
        self, host: str, access: Access, observer: Observer
    ) -> tuple[AuthConfig, bool]:
        """What ``host`` gets, and whether that is the configuration's own."""
        auth = access.auth
        if auth.server_address and not auth.empty and not _same(auth.server_address, host):
            # credentials go to the registry that they are for, whatever else is asked of us
            observer.log(
                "warning",
                f"the credentials are for {_shown(auth.server_address)}, and were not sent to "
                f"{host}",
            )
            auth = AuthConfig()
        own = auth.empty and access.own
        if own:
            auth = self._own(host)
        source = "those of the configuration" if own else "the caller's"
        observer.log("debug", f"{host}: credentials: {'none' if auth.empty else source}")
        return auth, own

    def _own(self, host: str) -> AuthConfig:
        """The credentials that the configuration gives for ``host``."""
        try:
            return own_credentials(self.settings.hosts.of_address(host))
        except SettingsError as error:
            raise RegistryError(
                f"{host}: the daemon's own credentials: {error}", code=error.code
            ) from error


def _wanted(endpoint: Endpoint) -> str:
    """Which credentials a registry wants, as far as its ping tells: that of V1 asks for none."""
    schemes = ", ".join(dict.fromkeys(one.scheme for one in endpoint.challenges))
    if endpoint.version is APIVersion.V1 and not schemes:
        return "" if endpoint.info.standalone else "token"
    return schemes or "none"


def host_of(address: str) -> str:
    """``host[:port]`` of an address that may be a URL; user information in it is left out.
    Raises `InvalidReferenceError`."""
    rest = address.strip().partition("://")[2] or address.strip()
    host = one_form(rest.partition("/")[0].rpartition("@")[2])
    if not host:
        raise InvalidReferenceError("the server's address names no registry")
    return host


def _shown(address: str) -> str:
    try:
        return host_of(address)
    except InvalidReferenceError:
        return "no registry"


def _same(address: str, host: str) -> bool:
    try:
        return registry_host(host_of(address)) == registry_host(host_of(host))
    except RegistryError:
        return False
