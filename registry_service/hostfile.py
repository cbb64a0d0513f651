"""``registries.toml``: what holds for single hosts, read into the values of `hostrules`.

``conf/registries.toml`` explains every key. Secrets stand in files of their own, never here.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from .constants import APIVersion
from .credentials import AuthConfig
from .errors import SettingsError
from .hostrules import HostLimits, HostRules, HostTable, Mirror, host_key
from .proxies import DIRECT, Proxy

__all__ = ["FILE_NAME", "load_hosts", "own_credentials", "parse_hosts"]

FILE_NAME: Final = "registries.toml"

_FILE_LIMIT: Final = 16 * 1024 * 1024
_SECRET_LIMIT: Final = 64 * 1024


def load_hosts(path: Path) -> HostTable:
    """The rules in ``path``; none where there is no such file.

    Relative paths in it lie beside it. Raises `SettingsError`, which names the file, the host
    and the key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT + 1)
    except FileNotFoundError:
        return HostTable()
    except OSError as error:
        raise SettingsError("", f"cannot be read: {error.strerror}", file=str(path)) from None
    if len(content) > _FILE_LIMIT:
        raise SettingsError("", f"has more than {_FILE_LIMIT} bytes", file=str(path))
    return parse_hosts(content, source=str(path), base=path.parent)


def parse_hosts(content: bytes, *, source: str, base: Path) -> HostTable:
    """The rules that TOML stands for. ``source`` names it in errors, relative paths lie in
    ``base``. Raises `SettingsError`."""
    try:
        values = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise SettingsError("", f"not UTF-8 at byte {error.start}", file=source) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError("", f"not TOML: {error}", file=source) from None
    try:
        return _Reader(base).table(values)
    except SettingsError as error:
        raise SettingsError(error.key, error.problem, file=source) from None


def own_credentials(rules: HostRules) -> AuthConfig:
    """The daemon's own credentials for a host, empty where it has none.

    The file with the secret is read each time, so that it can be changed while the daemon
    runs. Raises `SettingsError`, which names the file.
    """
    if rules.identity_token_file is not None:
        token = _secret("identity_token_file", rules.identity_token_file)
        return AuthConfig(identity_token=token)
    if rules.password_file is not None:
        password = _secret("password_file", rules.password_file)
        return AuthConfig(username=rules.username, password=password)
    return AuthConfig()


def _secret(key: str, path: Path) -> str:
    """What a file holds, but for the end of its last line."""
    try:
        # a pipe in the file's place would be waited for without end
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SettingsError(key, f"{path} is no plain file")
            content = file.read(_SECRET_LIMIT + 1)
            mode = stat.S_IMODE(status.st_mode)
    except OSError as error:
        raise SettingsError(key, f"{path} cannot be read: {error.strerror}") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SettingsError(key, f"{path} is open to others (mode {mode:04o}); chmod it to 0600")
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SettingsError(key, f"{path} is not UTF-8") from None
    if not text or len(content) > _SECRET_LIMIT or "\n" in text:
        raise SettingsError(key, f"{path}: one line with the secret is expected")
    return text


class _Reader:
    """Reads the tables of one file."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._readers: Mapping[str, Callable[[str, Any], Any]] = {
            "insecure": _boolean,
            "version": _version,
            "mirrors": _mirrors,
            "origin": _origin,
            "username": _text,
            "password_file": self._file,
            "identity_token_file": self._file,
            "proxy": _proxy,
            "certs_dirs": self._paths,
        }

    def table(self, values: Mapping[str, Any]) -> HostTable:
        _known("", values, ("default", "host"))
        default = self._default(_table("default", values.get("default", {})))
        hosts: dict[str, HostRules] = {}
        for name, section in _table("host", values.get("host", {})).items():
            where = f'host."{name}"'
            try:
                key = host_key(name)
            except ValueError as error:
                raise SettingsError(where, f"{error}; 'host' or 'host:port' is expected") from None
            if key in hosts:
                raise SettingsError(where, f"there is a section for {key} already")
            hosts[key] = self._host(where, _table(where, section), default)
            if any(host_key(mirror.host) == key for mirror in hosts[key].mirrors):
                raise SettingsError(f"{where}.mirrors", "a host is no mirror of itself")
        return HostTable(default=default, hosts=hosts)

    def _default(self, section: Mapping[str, Any]) -> HostRules:
        for key in section:
            if key in self._readers and key != "proxy":
                raise SettingsError(
                    f"default.{key}", 'is said of one host, in its section [host."NAME"]'
                )
        _known("default", section, ("proxy", *_LIMITS))
        proxy = _proxy("default.proxy", section.get("proxy", ""))
        return HostRules(proxy=proxy, limits=_limits("default", section, HostLimits()))

    def _host(self, where: str, section: Mapping[str, Any], default: HostRules) -> HostRules:
        for key in ("password", "identity_token"):
            if key in section:
                raise SettingsError(
                    f"{where}.{key}", f"a secret does not stand here; name its file in {key}_file"
                )
        known = (*self._readers, *_LIMITS)
        for key, value in section.items():
            if key not in known and isinstance(value, dict):  # [host.a.b] is b in a to TOML
                raise SettingsError(
                    f"{where}.{key}",
                    'a table in a table; put the name of the host in quotes: [host."NAME"]',
                )
        _known(where, section, known)
        values = {
            key: read(f"{where}.{key}", section[key])
            for key, read in self._readers.items()
            if key in section
        }
        values.setdefault("proxy", default.proxy)
        limits = _limits(where, section, default.limits)
        try:
            return HostRules(limits=limits, **values)
        except SettingsError as error:
            raise SettingsError(f"{where}.{error.key}", error.problem) from None

    def _path(self, key: str, value: Any) -> Path:
        text = _text(key, value)
        if not text or "\0" in text:
            raise SettingsError(key, "the path of a file is expected")
        return self._base / text

    def _file(self, key: str, value: Any) -> Path | None:
        return None if value == "" else self._path(key, value)

    def _paths(self, key: str, value: Any) -> tuple[Path, ...]:
        return tuple(self._path(key, text) for text in _list(key, value))


def _known(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        key = f"{where}.{unknown[0]}" if where else unknown[0]
        kind = "key" if where else "section"
        raise SettingsError(key, f"no such {kind}; there are {', '.join(known)}")


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(key, "a table is expected")
    return value


def _list(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(key, "a list of strings is expected")
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(key, "a string is expected")
    return value


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(key, "true or false is expected")
    return value


def _version(key: str, value: Any) -> APIVersion | None:
    versions = {"": None, **{str(one): one for one in APIVersion}}
    if not isinstance(value, str) or value not in versions:
        raise SettingsError(key, "'v1' or 'v2' is expected, or nothing: what the host speaks")
    return versions[value]


def _origin(key: str, value: Any) -> Any:
    if value not in ("last", "never"):
        raise SettingsError(key, "'last' or 'never' is expected")
    return value


def _proxy(key: str, value: Any) -> Any:
    text = _text(key, value)
    return text if text in ("", DIRECT) else Proxy.parse(text, key=key)


def _mirrors(key: str, value: Any) -> tuple[Mirror, ...]:
    found: list[Mirror] = []
    for place, text in enumerate(_list(key, value)):
        try:
            mirror = Mirror.parse(text)
        except ValueError as error:
            raise SettingsError(f"{key}[{place}]", f"{error}") from None
        if mirror in found:
            raise SettingsError(f"{key}[{place}]", f"{mirror} stands there twice")
        found.append(mirror)
    return tuple(found)


_LIMITS: Final[Mapping[str, tuple[type, float]]] = {
    "concurrent": (int, 1024),
    "requests_per_second": (float, 1_000_000),
    "bytes_per_second": (int, 2**50),
    "chunk": (int, 2**50),
}


def _limits(where: str, section: Mapping[str, Any], default: HostLimits) -> HostLimits:
    values: dict[str, Any] = {}
    for key, (kind, most) in _LIMITS.items():
        value = section.get(key, getattr(default, key))
        kinds = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            wanted = "a number" if kind is float else "an integer"
            raise SettingsError(f"{where}.{key}", f"{wanted} is expected")
        if not 0 <= value <= most:
            raise SettingsError(
                f"{where}.{key}", f"{value} is not between 0 (no limit) and {most:g}"
            )
        values[key] = kind(value)
    if 0 < values["requests_per_second"] < 0.001:
        raise SettingsError(f"{where}.requests_per_second", "at least 0.001, or 0 for no limit")
    if 0 < values["bytes_per_second"] < 1024:
        raise SettingsError(f"{where}.bytes_per_second", "at least 1024, or 0 for no limit")
    return HostLimits(**values)
