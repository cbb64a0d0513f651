"""What the configuration says of single hosts: frozen values. `hostfile` reads them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from .constants import APIVersion
from .errors import SettingsError
from .hosts import (
    PUBLIC_NAMES,
    PUBLIC_REGISTRY,
    join_host_port,
    one_form_of_host,
    origin,
    split_host_port,
)
from .proxies import DIRECT, Proxies, Proxy

__all__ = ["HostLimits", "HostRules", "HostTable", "Mirror", "Origin", "host_key"]

#: When the registry itself is asked, where there are mirrors: after them, or not at all.
Origin: TypeAlias = Literal["last", "never"]

_PREFIX: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9._-]+)*")
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?")
_STANDARD_PORTS: Final = (None, 80, 443)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """How much is asked of one host, over all jobs; 0 is 'no limit'.

    - ``concurrent``: connections over which bytes of content move at a time;
    - ``requests_per_second``, ``bytes_per_second``: on average, both ways together;
    - ``chunk``: the most bytes that one request of an upload carries.
    """

    concurrent: int = 0
    requests_per_second: float = 0.0
    bytes_per_second: int = 0
    chunk: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Another registry with the content of a registry. ``address`` is ``host[:port]``, or with
    a scheme before it; the repositories have the names of the origin's, after ``prefix``."""

    address: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Mirror:
        """From ``[http[s]://]HOST[:PORT][/PREFIX]``. Raises ValueError, which shows no
        credentials."""
        stated, found, rest = text.strip().partition("://")
        scheme = stated.lower() if found else ""
        where, _, prefix = (rest if found else stated).partition("/")
        prefix = prefix.strip("/")
        if "@" in where:
            raise ValueError(
                'a mirror is named without credentials; its own [host."…"] section has those'
            )
        if scheme not in ("", "http", "https"):
            raise ValueError(f"{scheme!r}: a mirror speaks http or https")
        host = join_host_port(*_split(where))
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is no beginning of a repository's name")
        return cls(address=f"{scheme}://{host}" if scheme else host, prefix=prefix)

    @property
    def host(self) -> str:
        """``host[:port]``."""
        return self.address.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}" if self.prefix else self.address

    def repository(self, name: str) -> str:
        """What the mirror calls the repository ``name`` of the origin."""
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """What holds for one host.

    - ``insecure``: plain http may be spoken with it;
    - ``version``: the protocol that is spoken with it; None is what it turns out to speak;
    - ``mirrors``, in the order in which they are asked, and ``origin``;
    - ``username`` with ``password_file``, or ``identity_token_file``: the daemon's own
      credentials; the files hold the secrets and nothing else;
    - ``proxy``: a URL, ``none``, or empty: what the environment says;
    - ``certs_dirs``: directories with certificates for this host alone;
    - ``limits``.
    """

    insecure: bool = False
    version: APIVersion | None = None
    mirrors: tuple[Mirror, ...] = ()
    origin: Origin = "last"
    username: str = ""
    password_file: Path | None = None
    identity_token_file: Path | None = None
    proxy: Proxy | Literal["none", ""] = ""
    certs_dirs: tuple[Path, ...] = ()
    limits: HostLimits = HostLimits()

    def __post_init__(self) -> None:
        if self.origin == "never" and not self.mirrors:
            raise SettingsError("origin", "'never' leaves nobody to ask, for there are no mirrors")
        if self.mirrors and self.version is APIVersion.V1:
            raise SettingsError("version", "'v1' has no mirrors; leave out the one or the other")
        if bool(self.username) != (self.password_file is not None):
            there, missing = "username", "password_file"
            if not self.username:
                there, missing = missing, there
            raise SettingsError(missing, f"is missing; {there} is given")
        if self.username and self.identity_token_file is not None:
            raise SettingsError(
                "identity_token_file",
                "is given, and so is username; one of them is enough",
            )
        if ":" in self.username:
            raise SettingsError("username", "a user name holds no ':'")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostTable:
    """The rules of every host: those that name it, and for all others ``default``.

    The keys of ``hosts`` are as `host_key` gives them.
    """

    default: HostRules = HostRules()
    hosts: Mapping[str, HostRules] = dataclasses.field(default_factory=dict)

    def of(self, host: str, port: int | None = None) -> HostRules:
        """The rules for ``host`` (no brackets) at a port; None is the one that is implied."""
        if not self.hosts:
            return self.default
        host = _one_name(host.lower())
        exact = self.hosts.get(join_host_port(host, port))
        if exact is None and port in _STANDARD_PORTS:
            exact = self.hosts.get(join_host_port(host, None))
        return self.default if exact is None else exact

    def of_address(self, address: str) -> HostRules:
        """The rules for ``host[:port]`` or a URL. Raises ValueError."""
        if "://" in address:
            _, host, port = origin(address)
            return self.of(host, urlsplit(address).port and port)
        return self.of(*split_host_port(address))

    def proxy(self, proxies: Proxies, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a request, None to go without: what is said of the host, else what the
        environment says."""
        said = self.of(host, port).proxy
        if isinstance(said, Proxy):
            return said
        return None if said == DIRECT else proxies.choose(scheme, host, port)


def host_key(text: str) -> str:
    """``host`` or ``host:port`` as `HostTable` has it: in lower case, one name for the public
    registry, one form for each address, and without the port that https implies. Raises
    ValueError."""
    host, port = _split(text)
    return join_host_port(_one_name(host), None if port == 443 else port)


def _split(text: str) -> tuple[str, int | None]:
    host, port = split_host_port(text)
    if ":" not in host and not _HOST.fullmatch(host):
        hint = "; no character stands for others" if "*" in host else ""
        raise ValueError(f"{text!r} is no host{hint}")
    return host, port


def _one_name(host: str) -> str:
    """Of the names that the public registry has, and of the forms of an address, one."""
    return PUBLIC_REGISTRY if host in PUBLIC_NAMES else one_form_of_host(host)
