"""Lists that come in pages, one after the other by their Link header (RFC 8288)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ProtocolError, show_url
from ..transport import Response, same_origin
from ..urls import follow

__all__ = ["next_page", "pages", "read_document"]

_LIMIT = 32 * 1024 * 1024  # bytes of one page
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_REL = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)


def _followed(response: Response, target: str) -> str:
    return follow(response.url, target, f"{response.method} {show_url(response.url)}")


def next_page(
    response: Response, followed: Callable[[Response, str], str] = _followed
) -> str | None:
    """The URL of the page after this one, None at the last. ``followed`` makes the URL that
    an answer names an absolute one.

    Raises `ProtocolError` for one at another origin: credentials would go there.
    """
    for header in response.header_values("Link"):
        for link in _LINK.finditer(header):
            found = _REL.search(link[2])
            relations = ((found[1] or found[2]) if found else "").lower().split()
            if "next" not in relations:
                continue
            url = followed(response, link[1])
            if not same_origin(url, response.url):
                raise ProtocolError(
                    f"{show_url(response.url)}: the next page is said to be at "
                    f"{show_url(url)}, which is another server"
                )
            return url
    return None


def pages(
    url: str,
    key: str,
    get: Callable[[str], Response],
    followed: Callable[[Response, str], str] = _followed,
) -> Iterator[str]:
    """The texts in the list ``key`` of each page, from ``url`` on.

    ``get`` sends the request and raises for an answer that is an error. A list that is null
    or missing is empty; what is no text in it is left out.
    """
    seen: set[str] = set()
    following: str | None = url
    while following is not None:
        if following in seen:
            raise ProtocolError(f"{show_url(following)}: the pages go round in a circle")
        seen.add(following)
        with get(following) as response:
            document = read_document(response)
            following = next_page(response, followed)
        items = document.get(key)
        if items is None:
            items = []
        if not isinstance(items, list):
            raise ProtocolError(f"{show_url(response.url)}: {key}: a list is expected")
        yield from (item for item in items if isinstance(item, str))


def read_document(response: Response) -> dict[str, Any]:
    """The JSON map that a page is. Raises `ProtocolError`."""
    try:
        document = json.loads(response.read(_LIMIT))
    except (ValueError, RecursionError):
        raise ProtocolError(f"{show_url(response.url)}: the answer is not JSON") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"{show_url(response.url)}: the answer is not a JSON map")
    return document
