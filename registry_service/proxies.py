"""Proxies: which one a request goes through, by the environment's rules or the configuration's.

Nothing here reads the environment: the edge hands it in.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from .errors import SettingsError
from .hosts import is_loopback, join_host_port

__all__ = ["DIRECT", "Proxies", "Proxy"]

#: What the configuration says for a host that is spoken to without a proxy.
DIRECT: Final = "none"

_PORTS: Final = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy. Its credentials are shown nowhere; ``str`` gives ``http://host:port``."""

    host: str
    port: int
    username: str = dataclasses.field(default="", repr=False)
    password: str = dataclasses.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, *, key: str = "proxy") -> Proxy:
        """From ``http://[user:password@]host[:port]``; without a scheme, http is meant.

        Raises `SettingsError` for ``key``, which shows no part of the text that may be secret.
        """
        stated, found, _ = text.strip().partition("://")
        url = text.strip() if found else f"http://{stated}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            username, password = unquote(parts.username or ""), unquote(parts.password or "")
        except ValueError:
            raise SettingsError(key, "no URL of a proxy; http://HOST:PORT is expected") from None
        if found and stated.lower() != "http":
            raise SettingsError(
                key, f"a proxy is spoken to over http:// only, not over {stated[:16]!r}"
            )
        if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise SettingsError(key, "no URL of a proxy; http://HOST:PORT is expected")
        if any(not (c.isprintable() and c.isascii()) or c == " " for c in host):
            raise SettingsError(key, "the name of the proxy's host is malformed")
        return cls(host=host, port=port or _PORTS["http"], username=username, password=password)

    def __str__(self) -> str:
        return f"http://{join_host_port(self.host, self.port)}"

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy itself is sent: ``Proxy-Authorization``, where it has credentials."""
        if not (self.username or self.password):
            return {}
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")
        return {"Proxy-Authorization": f"Basic {pair}"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """The proxies that an environment names: for http, for https, and for whom there is none.

    An entry of ``exceptions`` is a name, which stands for the names below it too, with or
    without a dot before it; an address; a network (``10.0.0.0/8``); each of the first two with
    ``:port`` where it is meant for that port only; or ``*``. The loopback range is spoken to
    directly in any case.
    """

    http: Proxy | None = None
    https: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Proxies:
        """From ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``; in lower case they count
        first. Raises `SettingsError`, which names the variable."""
        found: dict[str, Proxy | None] = {}
        for scheme in ("http", "https"):
            name, text = _variable(environ, f"{scheme}_proxy")
            try:
                found[scheme] = Proxy.parse(text) if text else None
            except SettingsError as error:
                raise SettingsError(name, error.problem, file="environment") from None
        _, exceptions = _variable(environ, "no_proxy")
        entries = exceptions.replace(",", " ").split()
        return cls(
            http=found["http"],
            https=found["https"],
            exceptions=tuple(entry.lower() for entry in entries),
        )

    def choose(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a request, None to go without. ``host`` has no brackets."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or is_loopback(host):
            return None
        if any(_matches(entry, host.lower().rstrip("."), port) for entry in self.exceptions):
            return None
        return proxy


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    for spelling in (name, name.upper()):
        text = environ.get(spelling, "").strip()
        if text:
            return spelling, text
    return name, ""


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, only = _split(entry)
    if only is not None and only != port:
        return False
    if address is not None:
        return address == _address(name)
    name = name.removeprefix("*").removeprefix(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split(entry: str) -> tuple[str, int | None]:
    """The name and the port of an exception; what looks like neither stays a name."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        rest = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, rest = entry.partition(":")
    else:
        return entry, None
    return name, int(rest) if rest.isascii() and rest.isdigit() and len(rest) < 6 else None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
