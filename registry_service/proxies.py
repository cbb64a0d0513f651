"""Proxies: which one a request goes through, by the environment's rules or the configuration's.

Nothing here reads the environment: the edge hands it in.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from .errors import SettingsError
from .hosts import is_loopback, join_host_port

__all__ = ["DIRECT", "Proxies", "Proxy"]

#: What the configuration says for a host that is spoken to without a proxy.
DIRECT: Final = "none"

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}")
_MALFORMED: Final = "no URL of a proxy; http://HOST:PORT is expected"
_SOCKS_LOGIN: Final = 255  # bytes of each (RFC 1929, section 2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy. Its credentials are shown nowhere; ``str`` gives ``scheme://host:port``.

    ``scheme`` is what is spoken with the proxy itself: ``http``, ``https`` (TLS first), or SOCKS5,
    for which names are looked up here (``socks5``) or by the proxy (``socks5h``).
    """

    host: str
    port: int
    scheme: str = "http"
    username: str = dataclasses.field(default="", repr=False)
    password: str = dataclasses.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, *, key: str = "proxy") -> Proxy:
        """From ``scheme://[user:password@]host[:port]``; without a scheme, http is meant.

        Raises `SettingsError` for ``key``, which shows no part of the text that may be secret.
        """
        stated, found, _ = text.strip().partition("://")
        scheme = stated.lower() if found else "http"
        if scheme not in _PORTS:
            known = ", ".join(f"{one}://" for one in _PORTS)
            shown = f", not over {stated!r}" if _SCHEME.fullmatch(stated) else ""
            raise SettingsError(key, f"a proxy is spoken to over one of {known}{shown}")
        try:
            parts = urlsplit(text.strip() if found else f"http://{stated}")
            host, port = parts.hostname, parts.port
            username, password = unquote(parts.username or ""), unquote(parts.password or "")
            longest = max(len(username.encode()), len(password.encode()))
        except ValueError:
            raise SettingsError(key, _MALFORMED) from None
        if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise SettingsError(key, _MALFORMED)
        if any(not (c.isprintable() and c.isascii()) or c == " " for c in host):
            raise SettingsError(key, "the name of the proxy's host is malformed")
        proxy = cls(
            host=host,
            port=port or _PORTS[scheme],
            scheme=scheme,
            username=username,
            password=password,
        )
        if proxy.is_socks and (longest > _SOCKS_LOGIN or (password and not username)):
            raise SettingsError(
                key, "for SOCKS, a user name and a password have 1 to 255 bytes each"
            )
        return proxy

    def __str__(self) -> str:
        return f"{self.scheme}://{join_host_port(self.host, self.port)}"

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def has_login(self) -> bool:
        return bool(self.username or self.password)

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy itself is sent: ``Proxy-Authorization``, where it has credentials."""
        if not self.has_login:
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
        """From ``HTTP_PROXY``, ``HTTPS_PROXY``, for what these leave out ``ALL_PROXY``, and
        ``NO_PROXY``; in lower case they count first. Raises `SettingsError`, which names the
        variable."""
        found: dict[str, Proxy | None] = {}
        for scheme in ("http", "https"):
            name, text = _variable(environ, f"{scheme}_proxy", "all_proxy")
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


def _variable(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    for spelling in (spelling for name in names for spelling in (name, name.upper())):
        text = environ.get(spelling, "").strip()
        if text:
            return spelling, text
    return names[0], ""


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
