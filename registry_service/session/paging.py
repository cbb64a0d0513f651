"""Lists that come in pages, one after the other by their Link header (RFC 8288)."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Final, TypeVar

from ..errors import ProtocolError, show_url
from ..transport import Response, same_origin
from ..urls import follow
from .answers import load_json

__all__ = ["PAGE_LIMIT", "next_page", "pages", "read_document", "walk"]

PAGE_LIMIT: Final = 32 * 1024 * 1024  # bytes of one page
_MOST: Final = 1_000_000  # entries of one list
_BARREN: Final = 500  # pages; of a filtered list many in a row may be empty
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_REL = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)

_Value = TypeVar("_Value")


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


def walk(
    first: Response,
    get: Callable[[str], Response],
    read: Callable[[Response], Iterable[tuple[Hashable, _Value]]],
    followed: Callable[[Response, str], str] = _followed,
) -> Iterator[_Value]:
    """What ``first`` and each page after it have, each once, page after page.

    ``read`` gives what a page has, each value with its key; ``get`` sends the request for a
    page. Both raise for an answer that is an error. Raises `ProtocolError` for pages that go
    round in a circle, that bring nothing new for long, or that have no end.
    """
    asked = {first.url}
    known: set[Hashable] = set()
    barren = 0
    page: Response | None = first
    while page is not None:
        with page:
            found = read(page)
            following = next_page(page, followed)
        new = {key: value for key, value in found if key not in known}
        known.update(new)
        yield from new.values()
        if following is None:
            return
        shown = show_url(following)
        barren = 0 if new else barren + 1
        if following in asked:
            raise ProtocolError(f"{shown}: the pages go round in a circle")
        if barren >= _BARREN:
            raise ProtocolError(f"{shown}: {barren} pages in a row brought nothing new")
        if len(known) > _MOST:
            raise ProtocolError(f"{shown}: the list has more than {_MOST} entries")
        asked.add(following)
        page = get(following)


def pages(
    url: str,
    key: str,
    get: Callable[[str], Response],
    followed: Callable[[Response, str], str] = _followed,
) -> Iterator[str]:
    """The texts in the list ``key`` of each page, from ``url`` on, as `walk` has it.

    A list that is null or missing is empty; what is no text in it is left out.
    """

    def read(page: Response) -> Iterator[tuple[str, str]]:
        items = read_document(page).get(key)
        if items is None:
            items = []
        if not isinstance(items, list):
            raise ProtocolError(f"{show_url(page.url)}: {key}: a list is expected")
        return ((item, item) for item in items if isinstance(item, str))

    yield from walk(get(url), get, read, followed)


def read_document(response: Response) -> dict[str, Any]:
    """The JSON map that a page is. Raises `ProtocolError`."""
    try:
        document = load_json(response.read(PAGE_LIMIT))
    except ValueError as error:
        raise ProtocolError(f"{show_url(response.url)}: the answer is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"{show_url(response.url)}: the answer is not a JSON map")
    return document
