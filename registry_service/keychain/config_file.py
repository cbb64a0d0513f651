"""Credentials files on the disk: read whole, written beside their place and renamed."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ..constants import CONFIGFILE
from ..credentials import AuthConfig
from ..errors import ConfigFileMissingError, CredentialsError, CredentialStoreError
from .forms import Content, Form, parse, render
from .keys import matches

__all__ = ["CONFIGFILE", "ConfigFile", "load_config", "load_file", "locked", "save_config"]

_LIMIT: Final = 4 * 1024 * 1024  # bytes
#: Where credentials lie in a directory, the newest form first.
_NAMES: Final = (Path(".docker/config.json"), Path("config.json"), Path(CONFIGFILE))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A credentials file.

    ``configs`` is a map of server to `AuthConfig` that may be changed and then saved with
    `save_config`; everything else that the file says is kept. ``problems`` says of each entry
    that cannot be read what is wrong with it: it matters only to who needs that entry.
    ``exposed`` says that others than the owner may read the file, and that it holds a secret.
    ``http_headers`` are secret. No secret shows in the repr.
    """

    path: Path
    configs: dict[str, AuthConfig] = dataclasses.field(default_factory=dict)
    form: Form = Form.DOCKER
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    creds_store: str = ""
    cred_helpers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    http_headers: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=dict, repr=False
    )
    exposed: bool = False
    _content: Content | None = dataclasses.field(default=None, repr=False)
    _loaded: Mapping[str, AuthConfig] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def namespaces(self) -> bool:
        """Whether keys may name a part of a registry; the oldest form has addresses only."""
        return self.form is Form.DOCKER

    def resolve_auth_config(self, hostname: str) -> AuthConfig:
        """The credentials for a host, an address, or a host and a repository.

        The exact key counts first, then the host without scheme and path; the empty name is
        the public index. Without a match, the empty AuthConfig. Raises `CredentialsError` for
        an entry that matches and cannot be read.
        """
        keys = [*self.configs, *self.problems]
        for match in matches(keys, hostname, namespaces=self.namespaces):
            found = self.config_of(match.key)
            if not found.empty:
                return found
        return AuthConfig()

    def config_of(self, key: str) -> AuthConfig:
        """The entry of that very key. Raises `CredentialsError` for one that cannot be read."""
        if key in self.problems:
            raise CredentialsError(f"{self.path}: {key}: {self.problems[key]}")
        return self.configs.get(key, AuthConfig())


def load_config(root: str | os.PathLike[str]) -> ConfigFile:
    """The credentials that lie in the directory ``root``, or in the file that it names.

    In a directory (a home, or one of ``config.json``) the first of ``.docker/config.json``,
    ``config.json`` and ``.dockercfg`` counts; where there is none, the result is empty and is
    saved as ``.dockercfg``. Raises `ConfigFileMissingError` where ``root`` is not there at
    all, `CredentialsError` for content that cannot be read, `CredentialStoreError` for a file
    that cannot be.
    """
    path = Path(root)
    if not path.is_dir():
        return load_file(path, must_exist=True)
    there = (path / name for name in _NAMES if (path / name).is_file())
    return load_file(next(there, path / CONFIGFILE))


def load_file(path: Path, *, must_exist: bool = False) -> ConfigFile:
    """The credentials file ``path``, empty where there is none. Raises as `load_config`."""
    form = Form.LEGACY if path.name == CONFIGFILE else Form.DOCKER
    try:
        raw, others = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise ConfigFileMissingError(f"{path}: there is no such credentials file") from None
        return ConfigFile(path=path, form=form)
    except OSError as error:
        raise CredentialStoreError(
            f"{path}: the credentials file cannot be read: {error.strerror}", where=str(path)
        ) from None
    try:
        content = parse(raw, form)
    except CredentialsError as error:
        raise CredentialsError(f"{path}: {error}") from None
    secret = any(not config.empty for config in content.configs.values())
    return ConfigFile(
        path=path,
        form=content.form,
        configs=dict(content.configs),
        problems=content.problems,
        creds_store=content.creds_store,
        cred_helpers=content.cred_helpers,
        http_headers=content.http_headers,
        exposed=others and (secret or bool(content.problems)),
        _content=content,
        _loaded=content.configs,
    )


def save_config(config_file: ConfigFile) -> None:
    """Write the file, for its owner alone (mode 0600): whoever reads it finds the old content
    or the new. One with nothing in it is removed. A symbolic link stays, and what it points
    to is written.

    Raises `CredentialStoreError`, with the old content as it was.
    """
    content = config_file._content or Content(form=config_file.form)
    raw = render(
        dataclasses.replace(
            content, configs=config_file.configs, problems=dict(config_file.problems)
        ),
        config_file._loaded,
    )
    target = Path(os.path.realpath(config_file.path))
    try:
        if raw:
            _write(target, raw)
        else:
            target.unlink(missing_ok=True)
    except OSError as error:
        raise CredentialStoreError(
            f"{config_file.path}: the credentials file cannot be written: "
            f"{error.filename or target}: {error.strerror}",
            where=str(config_file.path),
        ) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep others who lock it from changing the file ``path`` between its load and its save.

    The directory is what is locked, for the file itself is replaced. It is made where it is
    missing. Raises `CredentialStoreError`.
    """
    directory = Path(os.path.realpath(path)).parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CredentialStoreError(
            f"{path}: the credentials file cannot be written: {directory}: {error.strerror}",
            where=str(path),
        ) from None
    try:
        with contextlib.suppress(OSError):  # no locks there: then as other clients do
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read(path: Path) -> tuple[bytes, bool]:
    """The bytes, and whether others than the owner may read them."""
    # a pipe or a device in the file's place would be waited for without end
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file")
        raw = file.read(_LIMIT + 1)
    if len(raw) > _LIMIT:
        raise OSError(0, f"it is larger than {_LIMIT} bytes")
    return raw, bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _write(target: Path, raw: bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(beside, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(OSError):  # root writes for another user: it stays his
                owner = target.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(raw)
            file.flush()
            os.fsync(descriptor)
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
