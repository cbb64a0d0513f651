"""What configuration says of registries: frozen values, made by the edge from a mapping."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .constants import INDEXSERVER
from .errors import SettingsError
from .hostrules import HostTable
from .hosts import is_loopback, join_host_port, origin, split_host_port
from .manifest import MANIFEST_LIMIT
from .proxies import Proxies, Proxy

__all__ = ["DEFAULT_CERTS_DIRS", "RegistrySettings"]

DEFAULT_CERTS_DIRS = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """The settings of the registry library. Times are in seconds, sizes in bytes.

    - ``insecure_hosts``: hosts (``host`` or ``host:port``) that may be spoken to in plain http;
      the loopback range always may.
    - ``certs_dirs``: roots that hold a directory ``<host[:port]>`` of certificates for each host.
    - ``connect_timeout``: to connect, TLS included; ``ping_timeout``: a whole ping;
      ``read_timeout``: without any data, and for a server to take the next block of an upload;
      ``commit_timeout``: for the answer to an upload's last byte, for which servers may work for
      minutes.
    - ``min_rate``: bytes a second that the body of an answer comes at, measured over
      ``min_rate_seconds`` of waiting for it; what is slower is given up, and asked for anew from
      where it was. 0 is 'at any rate'.
    - ``retries``: further tries of a request that a retry can help; ``retry_wait_max``: the
      longest wait between two, and the longest ``Retry-After`` that is waited for.
    - ``connections_per_host``: idle connections that are kept open for each host.
    - ``user_agent``: products put before the library's own.
    - ``index_server``: the index in force, for accounts and search.
    - ``manifest_limit``: the largest manifest that is accepted.
    - ``upload_chunk``: a larger blob is sent in parts of that size; smaller ones where a registry
      takes no such part.
    - ``hosts``: what holds for single hosts; ``proxies``: what the environment says. Neither
      is a key of a section: the edge puts them in.
    """

    insecure_hosts: tuple[str, ...] = ()
    certs_dirs: tuple[Path, ...] = DEFAULT_CERTS_DIRS
    connect_timeout: float = 5.0
    ping_timeout: float = 10.0
    read_timeout: float = 60.0
    commit_timeout: float = 300.0
    min_rate: float = 1024.0
    min_rate_seconds: float = 30.0
    retries: int = 4
    retry_wait_max: float = 60.0
    connections_per_host: int = 32
    user_agent: tuple[str, ...] = ()
    index_server: str = INDEXSERVER
    manifest_limit: int = 4 * 1024 * 1024
    upload_chunk: int = 256 * 1024 * 1024
    hosts: HostTable = dataclasses.field(default_factory=HostTable)
    proxies: Proxies = dataclasses.field(default_factory=Proxies)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "insecure_hosts", tuple(_host(text) for text in self.insecure_hosts)
        )
        for name in ("connect_timeout", "ping_timeout", "read_timeout", "commit_timeout"):
            _in_range(name, getattr(self, name), 0.001, 86_400)
        _in_range("min_rate", self.min_rate, 0, 2**40)
        _in_range("min_rate_seconds", self.min_rate_seconds, 0.001, 86_400)
        _in_range("retries", self.retries, 0, 100)
        _in_range("retry_wait_max", self.retry_wait_max, 0, 86_400)
        _in_range("connections_per_host", self.connections_per_host, 1, 1024)
        _in_range("manifest_limit", self.manifest_limit, 1024, MANIFEST_LIMIT)
        _in_range("upload_chunk", self.upload_chunk, 1, 2**40)
        for product in self.user_agent:
            if not product or not product.isprintable() or not product.isascii():
                raise SettingsError("user_agent", f"{product!r} is no product/version")
        try:
            origin(self.index_server)
        except ValueError as error:
            raise SettingsError("index_server", f"{self.index_server!r}: {error}") from None
        if not self.index_server.endswith("/"):
            object.__setattr__(self, "index_server", f"{self.index_server}/")

    def may_be_insecure(self, host: str, port: int | None) -> bool:
        """Whether plain http may be spoken with ``host``."""
        if is_loopback(host) or self.hosts.of(host, port).insecure:
            return True
        return host in self.insecure_hosts or join_host_port(host, port) in self.insecure_hosts

    def chunk(self, address: str) -> int:
        """The most bytes that one request of an upload to ``address`` carries."""
        return self.hosts.of_address(address).limits.chunk or self.upload_chunk

    def own_certs_dirs(self, host: str, port: int) -> tuple[Path, ...]:
        """Directories with certificates for that host alone."""
        return self.hosts.of(host, port).certs_dirs

    def proxy(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy that a request goes through, None for none."""
        return self.hosts.proxy(self.proxies, scheme, host, port)

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        *,
        certs_dirs: tuple[Path, ...] = DEFAULT_CERTS_DIRS,
        others: tuple[str, ...] = (),
    ) -> RegistrySettings:
        """The settings that a configuration section gives; what it leaves out has its default.

        ``certs_dirs`` is the default of that key, for which the edge knows where the
        configuration lies; ``others`` are keys of the same section that somebody else reads.
        Raises `SettingsError`, which names the key.
        """
        unknown = sorted(set(mapping) - set(_READERS))
        if unknown:
            known = ", ".join([*_READERS, *others])
            raise SettingsError(str(unknown[0]), f"no such key; there are {known}")
        values: dict[str, Any] = {"certs_dirs": certs_dirs}
        for key, value in mapping.items():
            values[key] = _READERS[key](key, value)
        return cls(**values)


def _in_range(key: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise SettingsError(key, f"{value} is not between {least} and {most}")


def _host(text: str) -> str:
    try:
        return join_host_port(*split_host_port(text))
    except ValueError as error:
        raise SettingsError(
            "insecure_hosts", f"{error}; 'host' or 'host:port' is expected"
        ) from None


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise SettingsError(key, "a list of strings is expected")
    return tuple(value)


def _paths(key: str, value: Any) -> tuple[Path, ...]:
    return tuple(Path(text) for text in _texts(key, value))


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(key, "a string is expected")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(key, "a number is expected")
    return float(value)


def _integer(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingsError(key, "an integer is expected")
    return value


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "insecure_hosts": _texts,
    "certs_dirs": _paths,
    "connect_timeout": _number,
    "ping_timeout": _number,
    "read_timeout": _number,
    "commit_timeout": _number,
    "min_rate": _number,
    "min_rate_seconds": _number,
    "retries": _integer,
    "retry_wait_max": _number,
    "connections_per_host": _integer,
    "user_agent": _texts,
    "index_server": _text,
    "manifest_limit": _integer,
    "upload_chunk": _integer,
}
