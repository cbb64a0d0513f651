"""URLs that a server names: made absolute, and looked at before anything goes there."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urldefrag, urljoin, urlsplit

from .errors import ProtocolError, show_url
from .hosts import is_local_literal, origin

__all__ = ["follow"]


def _never(host: str, port: int | None) -> bool:
    return False


def follow(
    base: str,
    target: str,
    what: str,
    *,
    may_be_insecure: Callable[[str, int | None], bool] = _never,
    hide: Callable[[str], str] = str,
) -> str:
    """``target``, which the server at ``base`` named, as an absolute URL without a fragment.

    ``what`` says in an error what it is of, such as ``GET https://h/v2/``; ``hide`` takes out of
    it what the server says back of the secrets that it was sent. Raises
    `ProtocolError` for one that is malformed or neither http nor https, for one of this machine
    or link that a server elsewhere names, and for plain http after https at a host that
    ``may_be_insecure`` (host, port) does not allow it for: what is sent and fetched there could
    be read and changed on the way.
    """
    try:
        url = urldefrag(urljoin(base, target)).url
        scheme, host, _ = origin(url)
        port = urlsplit(url).port
    except ValueError:
        raise ProtocolError(
            f"{what}: the server names {_shown(target, hide)}, which is no http or https URL"
        ) from None
    own = origin(base)[1]
    shown = hide(show_url(url))
    if is_local_literal(host) and host != own and not is_local_literal(own):
        raise ProtocolError(
            f"{what}: the server names {shown}, an address of this machine or its link; "
            "that is refused"
        )
    if scheme == "http" and urlsplit(base).scheme == "https" and not may_be_insecure(host, port):
        raise ProtocolError(
            f"{what}: the server names {shown}, which is plain http after https; that is "
            "refused, unless the host is in insecure_hosts"
        )
    return url


def _shown(target: str, hide: Callable[[str], str]) -> str:
    shown = hide(show_url(target))
    return repr(shown if len(shown) <= 200 else f"{shown[:200]}…")
