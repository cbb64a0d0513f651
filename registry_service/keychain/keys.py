"""Keys of credentials files: which of them serve what is asked for.

A key is a host (``registry.example:5000``), an address (``https://index.docker.io/v1/``), or, as
podman writes it, a host and the beginning of a repository's name (``quay.io/team``). What is
asked for is a host, an address, or a host and a repository.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from ..constants import INDEXSERVER
from ..hosts import PUBLIC_NAMES, one_form

__all__ = ["Match", "host_of_key", "key_of", "matches"]

_PUBLIC: Final = "docker.io"
_VERSIONS: Final = frozenset({"", "v1", "v2"})


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Match:
    """A key that serves what was asked for; ``depth`` is the length of the name's beginning
    in it, 0 for a key that serves the whole host."""

    depth: int
    key: str


def matches(keys: Iterable[str], asked: str, *, namespaces: bool = True) -> list[Match]:
    """The keys that serve ``asked``, the best first; empty is the public index.

    The key that is ``asked`` to the letter comes before all others, a longer beginning of the
    name before a shorter one, and a host as it is written by clients of today before an
    address. Without ``namespaces`` the path of a key is left out whatever it says, as it was
    in the files that know addresses only.

    >>> [one.key for one in matches(["quay.io", "quay.io/team"], "quay.io/team/app")]
    ['quay.io/team', 'quay.io']
    """
    asked = asked or INDEXSERVER
    host, path = _split(asked, namespaces=True)
    usual = key_of(host)
    found: list[tuple[bool, int, bool, Match]] = []
    for key in keys:
        key_host, begin = _split(key, namespaces=namespaces)
        if key_host != host or not (not begin or path == begin or path.startswith(f"{begin}/")):
            continue
        match = Match(depth=len(begin), key=key)
        found.append((key != asked, -match.depth, key != usual, match))
    return [match for *_, match in sorted(found, key=lambda one: one[:3])]


def key_of(host: str) -> str:
    """The key under which clients keep what is for ``host``, which is empty for the index."""
    host = one_form(host)
    return INDEXSERVER if not host or host in PUBLIC_NAMES else host


def host_of_key(key: str) -> str:
    """The host of a key, in one form; of the public registry's several names, one."""
    return _split(key, namespaces=False)[0]


def _split(text: str, *, namespaces: bool) -> tuple[str, str]:
    """Host, and the beginning of a repository's name or empty."""
    before, scheme, rest = text.strip().partition("://")
    host, _, path = (rest if scheme else before).partition("/")
    host = one_form(host.rpartition("@")[2])
    if host in PUBLIC_NAMES:
        host = _PUBLIC
    path = path.strip("/")
    if scheme or not namespaces or path in _VERSIONS:
        return host, ""
    return host, path
