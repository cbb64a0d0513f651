"""A user's own credentials: found, stored and removed where other clients keep them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ..credentials import AuthConfig
from ..errors import ConfigFileMissingError, CredentialStoreError, RegistryError
from .config_file import ConfigFile, load_file, locked, save_config
from .helper import HELPER_SECONDS, Helper
from .keys import Match, host_of_key, key_of, matches
from .places import Place, docker_config, places_of

__all__ = ["Found", "Keychain", "Removed"]

_META: Final = "x-meta-"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Credentials and where they come from.

    ``source`` names the file or the helper that answered, and is empty where none did;
    ``searched`` is what was asked, in order; ``warnings`` are for the user. None of them
    holds a secret.
    """

    auth_config: AuthConfig = dataclasses.field(default_factory=AuthConfig)
    source: str = ""
    searched: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Where credentials were removed ``from``, and what still ``left`` answers for the host."""

    sources: tuple[str, ...] = ()
    left: str = ""


class Keychain:
    """The credentials that the files of ``places`` and the helpers that they name hold.

    Nothing is remembered between two calls. ``environ`` is what helpers run with, ``timeout``
    the seconds that one may take; ``headers_from`` is Docker's own file.

    Every method raises `CredentialsError` for a file whose content cannot be read,
    `ConfigFileMissingError` for one that was named and is not there, and
    `CredentialStoreError` for a file or a helper that does not do what is asked of it.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        environ: Mapping[str, str],
        headers_from: Path | None = None,
        timeout: float = HELPER_SECONDS,
    ) -> None:
        self._places = tuple(places)
        self._environ = environ
        self._headers_from = headers_from
        self._timeout = timeout

    @classmethod
    def of_user(cls, environ: Mapping[str, str], uid: int | None = None) -> Keychain:
        """The keychain of the user of this process, who has the environment ``environ``."""
        uid = os.getuid() if uid is None else uid
        places = places_of(environ, uid)
        return cls(places, environ=environ, headers_from=docker_config(environ, uid))

    def find(self, asked: str) -> Found:
        """The credentials for a host, an address, or ``host/repository``; empty is the public
        index. The first file that has some counts, and in it the most specific entry.
        """
        searched: list[str] = []
        warnings: list[str] = []
        for place in self._places:
            config = self._load(place)
            if config.exposed:
                warnings.append(
                    f"{config.path}: others may read it, and it holds credentials: chmod 600"
                )
            searched.append(str(config.path))
            for source, auth in self._answers(config, asked):
                if source not in searched:
                    searched.append(source)
                if auth is not None and not auth.empty:
                    address = key_of(_host_asked(asked))
                    return Found(
                        auth_config=dataclasses.replace(auth, server_address=address),
                        source=source,
                        searched=tuple(searched),
                        warnings=tuple(warnings),
                    )
        return Found(searched=tuple(searched), warnings=tuple(warnings))

    def meta_headers(self) -> dict[str, tuple[str, ...]]:
        """The headers for registries: of ``HttpHeaders`` in Docker's file those whose names
        begin with ``X-Meta-``, which are the ones that a Docker daemon passes on."""
        if self._headers_from is None:
            return {}
        given = load_file(self._headers_from).http_headers
        return {name: values for name, values in given.items() if name.lower().startswith(_META)}

    def store(self, host: str, auth: AuthConfig) -> str:
        """Keep ``auth`` for ``host`` (empty: the public index); where it is kept now.

        The first place counts: its helper for the host, if it names one, else the file itself.
        """
        place, key = self._places[0], key_of(host)
        helper, source = self._helper_for(load_file(place.path), key)
        if helper is not None:
            helper.store(key, auth)
        # In the file an entry with nothing in it stays, which says that there is a login.
        kept = AuthConfig() if helper is not None else dataclasses.replace(auth, auth="")
        with locked(place.path):
            config = load_file(place.path)
            with_email = dataclasses.replace(kept, email=auth.email, server_address=key)
            config.configs[key] = with_email
            save_config(_without_problem(config, key))
        return source or str(place.path)

    def remove(self, host: str) -> Removed:
        """Forget what the first place and its helper keep for ``host`` (empty: the public
        index). What other places have stays, and is named. Where the helper fails, the file
        forgets all the same, before that is raised."""
        place, key = self._places[0], key_of(host)
        sources = []
        helper, source = self._helper_for(load_file(place.path), key)
        failure = None
        if helper is not None:
            try:
                erased = [helper.erase(server) for server in _servers(key)]
            except CredentialStoreError as error:
                failure = error
            else:
                sources = [source] if any(erased) else []
        if place.path.exists() and _drop(place.path, key):
            sources.append(str(place.path))
        if failure is not None:
            raise failure
        left = ""
        with contextlib.suppress(RegistryError):  # it says what else there is, and no more
            left = self.find(key).source
        return Removed(sources=tuple(sources), left=left)

    def _load(self, place: Place) -> ConfigFile:
        if place.shared and not os.access(place.path.parent, os.X_OK, effective_ids=True):
            return ConfigFile(path=place.path)
        try:
            return load_file(place.path, must_exist=bool(place.named))
        except ConfigFileMissingError as error:
            raise ConfigFileMissingError(f"{place.named}={error}") from None

    def _answers(self, config: ConfigFile, asked: str) -> Iterator[tuple[str, AuthConfig | None]]:
        """What a file and its helper say, the most specific first; the helper before the file
        where they are equal."""
        helpers = matches(config.cred_helpers, asked)
        tries: list[tuple[int, int, Match | None]] = [
            (-match.depth, 0, match) for match in helpers[:1]
        ]
        if not helpers and config.creds_store:
            tries.append((0, 0, None))
        entries = matches([*config.configs, *config.problems], asked, namespaces=config.namespaces)
        tries += [(-match.depth, 1, match) for match in entries]
        for _, kind, match in sorted(tries, key=lambda one: one[:2]):
            if kind == 1 and match is not None:
                yield str(config.path), config.config_of(match.key)
                continue
            key = key_of(_host_asked(asked))
            servers = (match.key,) if match is not None and match.depth else _servers(key)
            helper, source = self._helper_for(config, servers[0])
            if helper is not None:
                yield source, _first(helper, servers)

    def _helper_for(self, config: ConfigFile, key: str) -> tuple[Helper | None, str]:
        """The helper that a file names for a key, and how it is told."""
        found = matches(config.cred_helpers, key)
        name = config.cred_helpers[found[0].key] if found else config.creds_store
        if not name:
            return None, ""
        helper = Helper(name=name, environ=self._environ, timeout=self._timeout)
        word = "credHelpers" if found else "credsStore"
        return helper, f"{helper.program} ({word} in {config.path})"


def _drop(path: Path, key: str) -> bool:
    """Take the entries for a host out of a file. Whether they held anything."""
    with locked(path):
        config = load_file(path)
        keys = [*config.configs, *config.problems]
        found = matches(keys, key, namespaces=config.namespaces)
        held = False
        for match in found:
            held |= match.key in config.problems or not config.configs[match.key].empty
            config.configs.pop(match.key, None)
            config = _without_problem(config, match.key)
        if found:
            save_config(config)
    return held


def _host_asked(asked: str) -> str:
    return host_of_key(asked) if asked else ""


def _servers(key: str) -> tuple[str, ...]:
    """The names under which clients keep a host at a helper."""
    return (key,) if "://" in key else (key, f"https://{key}")


def _first(helper: Helper, servers: Iterable[str]) -> AuthConfig | None:
    return next((found for one in servers if (found := helper.get(one)) is not None), None)


def _without_problem(config: ConfigFile, key: str) -> ConfigFile:
    """The file without the entry ``key`` that could not be read: it is replaced, or removed."""
    problems = {other: text for other, text in config.problems.items() if other != key}
    return dataclasses.replace(config, problems=problems)
