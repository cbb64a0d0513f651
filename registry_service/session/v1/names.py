"""Ids, repositories and endpoints: what may stand in a URL of the V1 protocol."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlsplit

from ...errors import InvalidReferenceError, InvalidRepositoryNameError, ProtocolError, show_url
from ...hosts import (
    is_local_literal,
    is_private_literal,
    join_host_port,
    origin,
    split_host_port,
    without_user,
)
from ...transport import Response, same_origin
from ...v1.image import is_image_id

__all__ = ["checked", "endpoints_of", "image_url", "on_the_wire", "repository_url", "tag_url"]

_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
_ENDPOINT: Final = re.compile(r"[^\s?#@\\]+")
_MOST_ENDPOINTS: Final = 64
_LONGEST: Final = 256  # characters of a name


def on_the_wire(repository: str) -> str:
    """``repository``, as the protocol names it: in ``library/`` where it has no namespace.

    Raises `InvalidRepositoryNameError` for one of other than one or two parts: what names it
    refuses apart from that, the server knows best.
    """
    parts = repository.split("/")
    good = len(parts) <= 2 and len(repository) <= _LONGEST
    if not good or not all(_PART.fullmatch(one) and one.strip(".") for one in parts):
        raise InvalidRepositoryNameError(
            f"{repository[:_LONGEST]!r} is no repository of a V1 registry: NAME or NAMESPACE/NAME"
        )
    return repository if len(parts) == 2 else f"library/{repository}"


def repository_url(registry: str, repository: str, what: str) -> str:
    """``what`` of a repository at ``registry``, a URL that ends in ``/v1/``."""
    return f"{checked(registry)}repositories/{quote(on_the_wire(repository))}/{what}"


def tag_url(registry: str, repository: str, tag: str) -> str:
    if not tag.strip(".") or len(tag) > _LONGEST:
        raise InvalidReferenceError(f"{tag[:_LONGEST]!r} is no tag")
    return repository_url(registry, repository, f"tags/{quote(tag, safe='')}")


def image_url(registry: str, image_id: str, what: str) -> str:
    """``what`` of an image. Raises `InvalidReferenceError` for an id that is none."""
    if not is_image_id(image_id):
        raise InvalidReferenceError(
            f"{image_id[:80]!r} is no image id: that is 64 lower-case hex digits"
        )
    return f"{checked(registry)}images/{image_id}/{what}"


def checked(registry: str) -> str:
    """``registry``, which is the URL of one. Raises `InvalidReferenceError`."""
    try:
        origin(registry)
        if not _ENDPOINT.fullmatch(registry):
            raise ValueError("it has more than a scheme, a host and a path")
        if not registry.endswith("/v1/"):
            raise ValueError("it does not end in /v1/")
    except ValueError as error:
        raise InvalidReferenceError(
            f"{show_url(without_user(registry))} is no endpoint of a V1 registry, such as "
            f"https://HOST/v1/: {error}"
        ) from None
    return registry


def endpoints_of(
    response: Response, home: str, may_be_insecure: Callable[[str, int | None], bool]
) -> tuple[str, ...]:
    """The endpoints that the index at the URL ``home`` names, each once and in its order; none
    where it names none. They have its scheme.

    Raises `ProtocolError` for what is no host, for another scheme, for plain http with a host
    that ``may_be_insecure`` does not allow it for, and for an address of this machine or of a
    private network that an index elsewhere names.
    """
    fields = response.header_values("X-Docker-Endpoints")
    named = [one.strip() for field in fields for one in field.split(",")]
    found = dict.fromkeys(
        _endpoint(one, home, may_be_insecure, response.hide) for one in named if one
    )
    if len(found) > _MOST_ENDPOINTS:
        raise ProtocolError(
            f"{show_url(response.url)}: the index names {len(found)} registries; "
            f"{_MOST_ENDPOINTS} are allowed"
        )
    return tuple(found)


def _endpoint(
    text: str,
    home: str,
    may_be_insecure: Callable[[str, int | None], bool],
    hide: Callable[[str], str],
) -> str:
    scheme, own, _ = origin(home)
    stated, found, rest = text.partition("://")
    where = rest.removesuffix("/").removesuffix("/v1") if found else text
    shown = hide(show_url(text))[:200]
    what = f"the index {urlsplit(home).netloc} names {shown!r} as a registry"
    try:
        host, port = split_host_port(where)
        url = f"{scheme}://{join_host_port(host, port)}/v1/"
        origin(url)
    except ValueError:
        raise ProtocolError(f"{what}, which is no host") from None
    if found and stated.lower() != scheme:
        raise ProtocolError(f"{what}; another scheme than its own, {scheme}, is refused")
    for refused, kind in (
        (is_local_literal, "this machine"),
        (is_private_literal, "a private net"),
    ):
        if refused(host) and host != own and not refused(own):
            raise ProtocolError(f"{what}, an address of {kind}; that is refused")
    if scheme == "http" and not same_origin(url, home) and not may_be_insecure(host, port):
        raise ProtocolError(
            f"{what}, with which plain http is not spoken, unless it is in insecure_hosts"
        )
    return url
