"""Where a registry is, and which protocol it speaks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .cancel import Cancellation
from .challenge import Challenge, parse_challenges
from .constants import APIVersion, TimeoutType
from .errors import (
    ConnectionBrokenError,
    InvalidReferenceError,
    ProtocolError,
    RegistryError,
    RegistryHTTPError,
    RegistryTimeoutError,
    TLSError,
    UnreachableRegistryError,
    show_url,
)
from .hosts import PUBLIC_NAMES, join_host_port, registry_host, split_host_port, without_user
from .observe import Observer
from .settings import RegistrySettings
from .transport import Response, Transport

__all__ = ["Endpoint", "RegistryInfo", "plain_http_refused"]

_PING_LIMIT = 64 * 1024
# What servers of TLS answer to plain http: Go's, nginx's, Apache's.
_TLS_WANTED = re.compile(rb"to (?:an )?HTTPS (?:server|port)|SSL-enabled server", re.IGNORECASE)
_INDEX = "index.docker.io"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegistryInfo:
    """What a ping tells: the server's version, and whether it stands without an index."""

    version: str = ""
    standalone: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A registry that answered. ``url`` is ``scheme://host[:port]/``.

    ``challenges`` is what the ping was answered with: what a request will be asked for.
    ``transport`` sends its requests; `close` closes it only if `discover` made it.
    """

    url: str
    version: APIVersion
    transport: Transport = dataclasses.field(repr=False, compare=False)
    info: RegistryInfo = dataclasses.field(default_factory=RegistryInfo, compare=False)
    challenges: tuple[Challenge, ...] = dataclasses.field(default=(), compare=False)
    owns_transport: bool = dataclasses.field(default=False, repr=False, compare=False)

    def __str__(self) -> str:
        return self.version_string()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def host(self) -> str:
        """``host[:port]``, as in a reference."""
        return urlsplit(self.url).netloc

    def version_string(self, version: APIVersion | None = None) -> str:
        """``scheme://host/vN/``."""
        return f"{self.url}{self.version if version is None else version}/"

    def close(self) -> None:
        if self.owns_transport:
            self.transport.close()

    def ping(
        self, *, cancel: Cancellation | None = None, timeout: TimeoutType = TimeoutType.CONNECT
    ) -> RegistryInfo:
        """Ask the registry what it is. The public index is not asked.

        Raises `UnreachableRegistryError`, `RegistryHTTPError`, `ProtocolError`.
        """
        probe = _Probe(self.transport, timeout, cancel or Cancellation())
        return probe.ask(self.url, self.version).info

    @classmethod
    def discover(
        cls,
        hostname: str,
        *,
        settings: RegistrySettings | None = None,
        transport: Transport | None = None,
        timeout: TimeoutType = TimeoutType.CONNECT,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
    ) -> Endpoint:
        """Find the registry at ``hostname``: ``host``, ``host:port`` or a URL.

        A version in the path (``/v1/``, ``/v2/``) fixes the version, else the configuration's
        rules for the host may; else V2 is tried, then V1. https is tried first, plain http only
        for a host that is on the loopback range or configured insecure. Without a
        ``transport`` one is made of ``settings`` and closed with the endpoint.

        Raises `InvalidReferenceError`, `UnreachableRegistryError` (`TLSError`) with each
        thing that was tried, `RegistryHTTPError`, `CancelledError`.
        """
        address = _Address.parse(hostname)
        used = transport or Transport(settings)
        try:
            found = _discover(
                address,
                _Probe(used, timeout, cancel or Cancellation()),
                observer or Observer(),
            )
        except BaseException:
            if transport is None:
                used.close()
            raise
        return dataclasses.replace(found, owns_transport=transport is None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """What a person wrote, taken apart. ``scheme`` is empty where none was given."""

    scheme: str
    host: str
    port: int | None
    version: APIVersion | None

    @classmethod
    def parse(cls, text: str) -> _Address:
        stated, found, rest = text.strip().partition("://")
        scheme = stated.lower() if found else ""
        if not found:
            rest = stated
        shown = without_user(text)
        if "@" in rest:
            raise InvalidReferenceError(
                f"{shown!r}: no user stands before the host in a registry's address; give "
                "credentials apart from it"
            )
        if scheme not in ("", "http", "https"):
            raise InvalidReferenceError(f"{shown!r}: a registry speaks http or https")
        where, _, path = rest.partition("/")
        try:
            version = _VERSIONS[path.strip("/").lower()]
        except KeyError:
            raise InvalidReferenceError(
                f"{shown!r} is no registry address: after the host comes nothing, /v1/ or /v2/"
            ) from None
        try:
            host, port = split_host_port(where)
        except ValueError as error:
            raise InvalidReferenceError(f"{shown!r} is no registry address: {error}") from None
        return cls(scheme=scheme, host=host, port=port, version=version)


_VERSIONS = {"": None, "v1": APIVersion.V1, "v2": APIVersion.V2}


def _discover(address: _Address, probe: _Probe, observer: Observer) -> Endpoint:
    host, port = address.host, address.port
    told = probe.transport.settings.hosts.of(host, port).version
    version = address.version or told
    if host in PUBLIC_NAMES:
        host = _INDEX if version is APIVersion.V1 else registry_host(host)
    where = join_host_port(host, port)
    schemes = _schemes(address, probe.transport.settings, host, port)
    tried: list[str] = []
    failures: list[UnreachableRegistryError] = []
    for scheme in schemes:
        base = f"{scheme}://{where}/"
        try:
            return probe.find(base, version, told=version is told)
        except UnreachableRegistryError as error:
            tried.append(f"{base}: {error}")
            failures.append(error)
        except (RegistryHTTPError, ProtocolError) as error:
            # Something answers there. Over https that is the last word, unless it is no
            # registry at all and plain http is allowed.
            if scheme == schemes[-1] and not failures:
                raise
            tried.append(f"{base}: {error}")
        except RegistryError as error:
            if error.code == "cancelled" or not error.retryable:
                raise
            tried.append(f"{base}: {error}")
        observer.log("debug", tried[-1])
    raise _unreachable(where, tried, failures)


def _schemes(
    address: _Address, settings: RegistrySettings, host: str, port: int | None
) -> Sequence[str]:
    insecure = settings.may_be_insecure(host, port)
    if address.scheme == "http" and not insecure:
        raise plain_http_refused(join_host_port(host, port))
    if address.scheme:
        return (address.scheme,)
    return ("https", "http") if insecure else ("https",)


def plain_http_refused(where: str) -> UnreachableRegistryError:
    """The error of who is to speak plain http with ``where`` (``host[:port]``), and may not."""
    error = UnreachableRegistryError(
        f"{where}: plain http is spoken with the loopback range and with hosts in insecure_hosts "
        "only; add it there, or insecure = true to its section of registries.toml, or use https",
        host=where,
    )
    error.retryable = False
    return error


def _unreachable(
    where: str, tried: Sequence[str], failures: Sequence[UnreachableRegistryError]
) -> UnreachableRegistryError:
    trusted = [one for one in failures if getattr(one, "reason", "") != "plain-https"]
    if len(tried) == len(failures) and (len(failures) == 1 or len(trusted) == 1):
        return (trusted or failures)[0]  # that plain http was tried in vain is no news
    message = f"no registry answers at {where}; tried {'; '.join(tried)}"
    for failure in failures:
        if isinstance(failure, TLSError) and failure.reason != "plain-http":
            return TLSError(message, host=where, reason=failure.reason)
    error = UnreachableRegistryError(message, host=where, tried=tried)
    error.retryable = any(failure.retryable for failure in failures) or not failures
    return error


class _OddAnswerError(ProtocolError):
    """A ping was answered, and not as a registry of that version does."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a ping was answered with. ``announced``: it says or shows which protocol it is of."""

    info: RegistryInfo
    challenges: tuple[Challenge, ...] = ()
    announced: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Probe:
    transport: Transport
    timeout: TimeoutType
    cancel: Cancellation

    def find(self, base: str, version: APIVersion | None, *, told: bool) -> Endpoint:
        """The endpoint at ``base``, with the version that it turns out to speak. Of one that the
        configuration has ``told``, whatever it answers will do."""
        if version is not None:
            try:
                found = self.ask(base, version)
            except _OddAnswerError:
                if not told:
                    raise
                found = _Answer(info=RegistryInfo())
            return self._endpoint(base, version, found)
        try:
            found = self.ask(base, APIVersion.V2)
        except ProtocolError as error:
            return self._fallback(base, error)
        except ConnectionBrokenError as error:
            raise self._says_more(base, error) from error
        if found.announced:
            return self._endpoint(base, APIVersion.V2, found)
        # A proxy that wants a login for everything gives this answer before any registry.
        with contextlib.suppress(ConnectionBrokenError, ProtocolError, RegistryHTTPError):
            old = self.ask(base, APIVersion.V1)
            if old.announced:
                return self._endpoint(base, APIVersion.V1, old)
        return self._endpoint(base, APIVersion.V2, found)

    def _fallback(self, base: str, before: ProtocolError) -> Endpoint:
        """V1, where the answer was not V2's."""
        try:
            return self._endpoint(base, APIVersion.V1, self.ask(base, APIVersion.V1))
        except ProtocolError as error:
            raise ProtocolError(f"{before}; {error}") from None
        except RegistryHTTPError as error:
            raise ProtocolError(f"{before}; {error}", retryable=error.retryable) from None

    def _says_more(self, base: str, before: ConnectionBrokenError) -> ConnectionBrokenError:
        """The error where V2's ping gets no answer. A registry of V2 may be in trouble, and many
        speak V1 too: so it is not taken for one of V1, and it is said that it may be one."""
        if isinstance(before, RegistryTimeoutError):  # which cost its time already
            return before
        with contextlib.suppress(ConnectionBrokenError, ProtocolError, RegistryHTTPError):
            if self.ask(base, APIVersion.V1).announced:
                return ConnectionBrokenError(
                    f"{before}; it says that it speaks V1: if it is a registry of V1 only, "
                    'version = "v1" in its section of registries.toml lets it be asked for that',
                    code=before.code,
                )
        return before

    def _endpoint(self, base: str, version: APIVersion, found: _Answer) -> Endpoint:
        return Endpoint(
            url=base,
            version=version,
            transport=self.transport,
            info=found.info,
            challenges=found.challenges,
        )

    def ask(self, base: str, version: APIVersion) -> _Answer:
        if version is APIVersion.V2:
            return self._send(f"{base}v2/", _read_v2)
        if urlsplit(base).hostname == _INDEX:
            return _Answer(info=RegistryInfo(standalone=False), announced=True)
        return self._send(f"{base}v1/_ping", _read_v1)

    def _send(self, url: str, read: Callable[[Response, bytes], _Answer]) -> _Answer:
        with self.transport.request(
            "GET", url, cancel=self.cancel, timeout=self.timeout, probe=True
        ) as response:
            if response.status >= 500 or response.status == 429:
                raise response.error()
            body = response.read(_PING_LIMIT)
            if response.status in (400, 497) and _TLS_WANTED.search(body):
                where = urlsplit(response.url).netloc.rpartition("@")[2]
                raise TLSError(
                    f"{where}: the server speaks TLS, and refuses plain http; use https",
                    host=where,
                    reason="plain-https",
                )
            return read(response, body)


def _read_v2(response: Response, body: bytes) -> _Answer:
    announced = response.headers.get("Docker-Distribution-Api-Version", "")
    challenges = parse_challenges(response.header_values("WWW-Authenticate"))
    if response.status in (200, 401, 403):
        says_v2 = "registry/2." in announced.lower()
        shows_v2 = not announced and _json(body) is not None
        if says_v2 or shows_v2 or (not announced and challenges):
            bearer = any(one.scheme == "bearer" for one in challenges)  # V1 knows no such thing
            return _Answer(
                info=RegistryInfo(version=announced),
                challenges=challenges,
                announced=says_v2 or shows_v2 or bearer,
            )
    raise _OddAnswerError(
        f"{show_url(response.url)}: there is no V2 registry (the answer is {response.status} "
        f"{response.reason})"
    )


def _read_v1(response: Response, body: bytes) -> _Answer:
    document = _json(body)
    version = response.headers.get("X-Docker-Registry-Version", "")
    stated = response.headers.get("X-Docker-Registry-Standalone", "").strip()
    announced = bool(version or stated)
    challenges = parse_challenges(response.header_values("WWW-Authenticate"))
    protected = response.status in (401, 403) and bool(announced or challenges)
    if not protected and (response.status != 200 or (document is None and not announced)):
        raise _OddAnswerError(
            f"{show_url(response.url)}: there is no V1 registry (the answer is {response.status} "
            f"{response.reason})"
        )
    standalone = True
    if isinstance(document, dict) and not protected:
        version = version or str(document.get("version") or "")
        standalone = document.get("standalone") is not False
    if stated:
        standalone = stated.lower() in ("true", "1")
    return _Answer(
        info=RegistryInfo(version=version, standalone=standalone),
        challenges=challenges,
        announced=announced,
    )


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
