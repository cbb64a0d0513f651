"""Names of repositories on V1: which there are, and which host they belong to.

A name of V1 is ``[host/][namespace/]name``. Everything without a host belongs to the index, and
what has no namespace to ``library`` there.
"""

from __future__ import annotations

import re
from typing import Final

from ..constants import index_server_address
from ..errors import InvalidRepositoryNameError
from ..hosts import PUBLIC_NAMES
from ..reference import Reference

__all__ = ["resolve_repository_name", "v1_repository_name"]

_INDEX: Final = "index.docker.io"
_LIBRARY: Final = "library"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_NAMESPACE: Final = re.compile(r"[a-z0-9_]{4,30}")
_NAME: Final = re.compile(r"[a-z0-9._-]+")
# What V1 clients of later years allow in a namespace, and every server of V1 takes.
_LATER_NAMESPACE: Final = re.compile(r"[a-z0-9_-]{2,255}")


def resolve_repository_name(name: str, *, index: str = "") -> tuple[str, str]:
    """The host that a name belongs to by the rules of V1, and the name there.

    A host is what stands before the first slash, if it contains ``.`` or ``:`` or is
    ``localhost``. Every other name belongs to the index: its host is ``index``, or else the
    public one's address. Raises `InvalidRepositoryNameError`.

    >>> resolve_repository_name("ubuntu")
    ('https://index.docker.io/v1/', 'ubuntu')
    >>> resolve_repository_name("registry.example:5000/team/app")
    ('registry.example:5000', 'team/app')
    """
    if "://" in name:  # nothing of it is shown: it may hold a password
        raise InvalidRepositoryNameError(
            "a repository's name has no scheme: leave out what stands before '://', such as in "
            "registry.example/team/app"
        )
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        _check(name)
        return index_server_address(index), name
    if _is_index(first):
        raise InvalidRepositoryNameError(
            f"{_shown(name)}: names at the public index have no host; write {_shown(rest)}"
        )
    _check(rest)
    return first, rest


def v1_repository_name(reference: Reference) -> str:
    """The name that a reference's repository has at a registry of V1: ``[namespace/]name``.

    A reference has the grammar of today. Registries of V1 know one namespace at most, and one
    that is shorter than `resolve_repository_name` allows; the public index is as strict as that.
    Raises `InvalidRepositoryNameError` for what no V1 registry has.
    """
    *namespaces, name = reference.repository.split("/")
    if len(namespaces) > 1:
        why = "a name there is NAMESPACE/NAME and has no further '/'"
        first, joined = namespaces[0], "-".join(namespaces)
        flat = f"{first}/{'-'.join((*namespaces[1:], name))}"
        if not _LATER_NAMESPACE.fullmatch(first):
            flat = f"{joined}/{name}" if _LATER_NAMESPACE.fullmatch(joined) else ""
        raise _not_on_v1(reference, f"{why}, such as {_shown(flat)}" if flat else why)
    for namespace in namespaces:
        if reference.host in PUBLIC_NAMES and not _NAMESPACE.fullmatch(namespace):
            raise _not_on_v1(
                reference,
                f"the index has namespaces of 4 to 30 of a-z, 0-9 and '_', not {_shown(namespace)}",
            )
        if not _LATER_NAMESPACE.fullmatch(namespace):
            raise _not_on_v1(
                reference,
                f"a namespace there is of 2 characters and more of a-z, 0-9, '_' and '-', not "
                f"{_shown(namespace)}",
            )
    return reference.repository


def _is_index(host: str) -> bool:
    name = host.partition(":")[0].lower().rstrip(".")
    return name == _INDEX or name.endswith(f".{_INDEX}")


def _check(name: str) -> None:
    namespace, slash, rest = name.partition("/")
    if not slash:
        namespace, rest = _LIBRARY, name
        if _ID.fullmatch(name):
            raise InvalidRepositoryNameError(
                "a name of 64 hexadecimal digits is an image id, not a repository; give a "
                "repository"
            )
    if not _NAMESPACE.fullmatch(namespace):
        raise InvalidRepositoryNameError(
            f"repository {_shown(name)}: the namespace {_shown(namespace)} is not of 4 to 30 of "
            "a-z, 0-9 and '_'"
        )
    if not _NAME.fullmatch(rest):
        raise InvalidRepositoryNameError(f"repository {_shown(name)}: {_fault(rest)}")


def _fault(rest: str) -> str:
    if not rest:
        return "the name is missing; write [HOST/][NAMESPACE/]NAME"
    if "/" in rest:
        return "it has more parts than a namespace and a name"
    if rest != rest.lower() and _NAME.fullmatch(rest.lower()):
        return f"{_shown(rest)} is not in lower case; write {_shown(rest.lower())}"
    name = re.split("[:@]", rest, maxsplit=1)[0]
    if name != rest and _NAME.fullmatch(name):
        return f"a tag or digest is no part of a repository's name; write {_shown(name)}"
    return f"{_shown(rest)} is not of a-z, 0-9, '-', '_' and '.'"


def _not_on_v1(reference: Reference, why: str) -> InvalidRepositoryNameError:
    return InvalidRepositoryNameError(
        f"{_shown(reference.name)}: {reference.host} speaks V1, which has no such repository: {why}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
