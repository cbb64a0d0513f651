"""References: how people name an image.

The grammar is that of distribution/reference, which is what released clients accept::

    reference  = name [ ":" tag ] [ "@" digest ]
    name       = [ host "/" ] path
    host       = ( domain | IPv4 | "[" IPv6 "]" ) [ ":" port ]
    path       = part *( "/" part )
    part       = alnum *( ( "." | "_" | "__" | 1*"-" ) alnum )      ; a-z and 0-9
    tag        = ( letter | digit | "_" ) *127( letter | digit | "_" | "." | "-" )

The part before the first slash is a host if it contains ``.`` or ``:`` or is ``localhost``.
Otherwise the name belongs to the public registry ``docker.io``, where a name of one part is
short for ``library/NAME``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Final

from .digest import Digest
from .errors import InvalidDigestError, InvalidReferenceError, InvalidRepositoryNameError

__all__ = ["DEFAULT_HOST", "DEFAULT_TAG", "Reference", "split_host"]

DEFAULT_HOST: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_ALIASES: Final = frozenset({"index.docker.io"})
_NAMESPACE: Final = "library/"
_LONGEST_NAME: Final = 255

_PART: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A repository of a host, and a tag or a digest or both in it.

    Normalised: ``host`` is in lower case and never an alias, ``repository`` is complete. Raises
    `InvalidReferenceError` when it is constructed of something else, and of its kind
    `InvalidRepositoryNameError` when the fault is in the name.

    >>> str(Reference.parse("alpine"))
    'docker.io/library/alpine:latest'
    >>> Reference.parse("[::1]:5000/team/app:1.0").host
    '[::1]:5000'
    """

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _normal_host(self.host))
        _check_repository(self.repository)
        if self.host == DEFAULT_HOST and "/" not in self.repository:
            object.__setattr__(self, "repository", _NAMESPACE + self.repository)
        if self.tag is not None:
            _check_tag(self.tag)
        if len(self.name) > _LONGEST_NAME:
            raise InvalidRepositoryNameError(
                f"the name of host and repository has {len(self.name)} characters; "
                f"{_LONGEST_NAME} are allowed"
            )

    @classmethod
    def parse(cls, text: str, *, default_tag: str | None = DEFAULT_TAG) -> Reference:
        """The reference that a person wrote.

        ``default_tag`` is the tag where the text gives neither tag nor digest; None gives
        none then, so that the caller sees it. Raises `InvalidReferenceError`, which says
        which part is wrong and what is allowed there.
        """
        _check_text(text)
        rest, at, digest_text = text.partition("@")
        digest = _parse_digest(digest_text) if at else None
        host, rest = split_host(rest)
        path, colon, tag = rest.partition(":")
        if colon:
            _check_tag(tag)
        elif not at and host is None and _IDENTIFIER.fullmatch(path):
            raise InvalidRepositoryNameError(
                "a name of 64 hexadecimal digits is an image id, not a repository; "
                "give a repository, or write REPOSITORY@sha256:HEX"
            )
        chosen = tag if colon else None if at else default_tag
        return cls(host=host or DEFAULT_HOST, repository=path, tag=chosen, digest=digest)

    def with_tag(self, tag: str) -> Reference:
        """That tag of the same repository; a digest is left behind."""
        return dataclasses.replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        """That digest in the same repository; a tag is left behind."""
        return dataclasses.replace(self, tag=None, digest=digest)

    @property
    def name(self) -> str:
        """``host/repository``."""
        return f"{self.host}/{self.repository}"

    @property
    def locator(self) -> str:
        """What a registry is asked for: the digest, else the tag, else ``latest``."""
        if self.digest is not None:
            return str(self.digest)
        return self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def split_host(text: str) -> tuple[str | None, str]:
    """The host before the first slash, or None where there is none, and the rest.

    >>> split_host("localhost/app"), split_host("team/app")
    (('localhost', 'app'), (None, 'team/app'))
    """
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first.lower() == "localhost"):
        return first, rest
    return None, text


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InvalidReferenceError(f"a reference is text, not {type(text).__name__}")
    if not text:
        raise InvalidReferenceError("the reference is empty; write [HOST/]REPOSITORY[:TAG]")
    if text != text.strip() or any(char.isspace() for char in text):
        raise InvalidReferenceError(f"{_shown(text)}: a reference has no white space in it")
    scheme = _SCHEME.match(text)
    if scheme:  # the rest is not shown: it may hold a password
        raise InvalidRepositoryNameError(
            f"a reference has no scheme: leave out {scheme.group()!r} and write "
            "[HOST/]REPOSITORY[:TAG]"
        )


def _parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigestError as error:
        raise InvalidReferenceError(f"after the '@' a digest is expected: {error}") from None


def _normal_host(host: str) -> str:
    host = host.lower()
    bracket, name, port = _split_port(host)
    if port is not None and not (_PORT.fullmatch(port) and 1 <= int(port) <= 65535):
        raise InvalidReferenceError(
            f"host {_shown(host)}: the port is a number from 1 to 65535, not {_shown(port)}"
        )
    if bracket:
        try:
            if "%" in name:  # a zone means something on one machine only
                raise ValueError
            name = f"[{ipaddress.IPv6Address(name)}]"
        except ValueError:
            raise InvalidReferenceError(
                f"host {_shown(host)}: in brackets an IPv6 address is expected, such as [::1]"
            ) from None
    elif not _DOMAIN.fullmatch(name):
        raise InvalidReferenceError(
            f"host {_shown(host)}: a host name is of letters, digits and inner '-', its parts "
            "separated by '.', with ':PORT' after it where needed"
        )
    if port is None:
        return DEFAULT_HOST if name in _ALIASES else name
    return f"{name}:{int(port)}"


def _split_port(host: str) -> tuple[bool, str, str | None]:
    """Whether the host stands in brackets; the host without them; the port's text."""
    if host.startswith("["):
        name, bracket, after = host[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise InvalidReferenceError(
                f"host {_shown(host)}: an IPv6 address is written [ADDRESS] or [ADDRESS]:PORT"
            )
        return True, name, after[1:] if after else None
    name, colon, port = host.partition(":")
    return False, name, port if colon else None


def _check_repository(repository: str) -> None:
    if not repository:
        raise InvalidRepositoryNameError("the repository is missing; write [HOST/]REPOSITORY[:TAG]")
    for part in repository.split("/"):
        if _PART.fullmatch(part):
            continue
        if not part:
            problem = "a part between slashes is empty"
        elif part != part.lower():
            hint = f"write {_shown(part.lower())}"
            if repository.startswith(f"{part}/"):
                hint += f", or {_shown(part + ':PORT')} if it is a host"
            problem = f"{_shown(part)} is not in lower case; {hint}"
        else:
            problem = (
                f"{_shown(part)} is not of a-z and 0-9 with single '.', '_', '__' or '-' between"
            )
        raise InvalidRepositoryNameError(f"repository {_shown(repository)}: {problem}")


def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise InvalidReferenceError(
            f"tag {_shown(tag)}: a tag is 1 to 128 letters, digits, '_', '.' and '-', "
            "and begins with a letter, a digit or '_'"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
