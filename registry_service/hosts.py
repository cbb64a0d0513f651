"""Hosts and origins: what a host in a reference or a URL says about itself, without a look-up."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

__all__ = [
    "PUBLIC_NAMES",
    "PUBLIC_REGISTRY",
    "is_local_literal",
    "is_loopback",
    "is_private_literal",
    "join_host_port",
    "one_form",
    "one_form_of_host",
    "origin",
    "registry_host",
    "split_host_port",
    "without_user",
]

PUBLIC_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
PUBLIC_REGISTRY = "registry-1.docker.io"
_OLD_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{0,16}|0[0-7]{0,16}|[1-9][0-9]{0,16}")
_LONGEST_NAME = 255  # characters of a host's name (RFC 1123, section 2.1)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def split_host_port(text: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; the host comes without brackets.

    Raises ValueError.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r}: '[address]' or '[address]:port' is expected")
        ipaddress.IPv6Address(host.partition("%")[0])
        port = rest[1:] if rest else None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
    if not host or any(c in host for c in "/@?# \t\r\n"):
        raise ValueError(f"{text!r} is no host")
    if port is None:
        return host.lower(), None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return host.lower(), int(port)


def join_host_port(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def one_form(address: str) -> str:
    """``host[:port]`` as everything that compares hosts compares it: in lower case, an IPv6
    address in its one short form. Text that is no host is only in lower case then.

    >>> one_form("[0:0:0:0:0:0:0:1]:5000")
    '[::1]:5000'
    """
    try:
        host, port = split_host_port(address)
    except ValueError:
        return address.lower()
    return join_host_port(one_form_of_host(host), port)


def one_form_of_host(host: str) -> str:
    """The same for a host without brackets and without a port."""
    host = host.lower()
    if ":" not in host:
        return host
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        return host


def without_user(address: str) -> str:
    """An address or a host as it may be shown: without what stands before an ``@``, which may be
    a password, and without a query.

    >>> without_user("https://ann:secret@registry.example/v1/")
    'https://registry.example/v1/'
    """
    before, mark, after = address.partition("://")
    rest = after if mark else before
    return f"{before if mark else ''}{mark}{rest.rpartition('@')[2].partition('?')[0]}"


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http or https URL. Raises ValueError."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not 0 < len(parts.hostname or "") <= _LONGEST_NAME:
        raise ValueError("not an http or https URL")
    return scheme, str(parts.hostname).lower(), parts.port or _DEFAULT_PORTS[scheme]


def is_loopback(host: str) -> bool:
    """Whether ``host`` (no port, no brackets) names this machine by its form alone."""
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _literal(host)
    return address is not None and address.is_loopback


def is_local_literal(host: str) -> bool:
    """Whether ``host`` is an address of this machine or of the link that it is on, where no
    registry that is elsewhere keeps anything, but clouds keep their secrets."""
    if is_loopback(host):
        return True
    address = _literal(host.removesuffix("."))
    return address is not None and (address.is_link_local or address.is_unspecified)


def is_private_literal(host: str) -> bool:
    """Whether ``host`` is an address that means something on this side of a router only."""
    if is_loopback(host):
        return True
    address = _literal(host.removesuffix("."))
    return address is not None and not address.is_global


def registry_host(host: str) -> str:
    """The host that serves a registry: the public one has several names."""
    return PUBLIC_REGISTRY if host.lower() in PUBLIC_NAMES else host


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return _old_literal(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _old_literal(host: str) -> ipaddress.IPv4Address | None:
    """An address as the system's look-up reads it too: 127.1, 0x7f000001, 2130706433. One to
    four numbers, decimal, octal or hexadecimal, the last of which fills what is left."""
    parts = host.split(".")
    if len(parts) > 4 or not all(_OLD_NUMBER.fullmatch(part) for part in parts):
        return None
    numbers = [_old_number(part) for part in parts]
    if any(number > 255 for number in numbers[:-1]):
        return None
    value = numbers[-1]
    for place, number in enumerate(numbers[:-1]):
        value += number << (24 - 8 * place)
    rest = 1 << (8 * (5 - len(parts)))
    return ipaddress.IPv4Address(value) if numbers[-1] < rest else None


def _old_number(text: str) -> int:
    if text.lower().startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") else 10)
