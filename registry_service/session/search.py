"""Search: the V1 search where a server has it, else the V2 catalog, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from ..auth import Authenticator
from ..cancel import Cancellation
from ..constants import APIVersion
from ..endpoint import Endpoint
from ..errors import LoginRequiredError, ProtocolError, RegistryError, RegistryHTTPError, show_url
from ..headers import HTTPRequestFactory
from ..hosts import PUBLIC_NAMES
from ..observe import Observer
from ..transport import Response, Transport
from .answers import load_json
from .sender import Sender
from .v1.sender import Sender as V1Sender
from .v2 import V2Client

__all__ = ["SearchClient", "SearchResult", "SearchResults"]

_PAGE: Final = 100  # the most that the public index gives on a page
_LIMIT: Final = 16 * 1024 * 1024
_MOST: Final = 100_000  # results of one search
_MOST_STARS: Final = 2**63 - 1
_ABSENT: Final = frozenset({404, 405, 501})
_NO_SEARCH: Final = _ABSENT | {400, 403, 410}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A repository that was found. ``is_trusted`` is what newer servers call automated."""

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_trusted: bool = False

    @classmethod
    def from_json(cls, value: Any) -> SearchResult:
        """From an entry of a server's answer. Raises `ProtocolError`."""
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or not name:
            raise ProtocolError("a search result without a name")
        return cls(
            name=name,
            description=str(value.get("description") or ""),
            star_count=_stars(value.get("star_count")),
            is_official=value.get("is_official") is True,
            is_trusted=value.get("is_trusted") is True or value.get("is_automated") is True,
        )


def _stars(value: Any) -> int:
    """Within what a row can carry: one odd result must not fail a whole search."""
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), _MOST_STARS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchResults:
    """One page of results; ``num_results`` counts all pages."""

    query: str
    num_results: int
    results: tuple[SearchResult, ...]
    num_pages: int = 1

    @classmethod
    def from_json(cls, value: Any) -> SearchResults:
        """From a server's answer. Raises `ProtocolError`."""
        if not isinstance(value, Mapping):
            raise ProtocolError("the search's answer is not a JSON map")
        entries = value.get("results")
        if entries is None:
            entries = []
        if not isinstance(entries, list):
            raise ProtocolError("results: a list is expected in the search's answer")
        results = tuple(SearchResult.from_json(entry) for entry in entries)
        return cls(
            query=str(value.get("query") or ""),
            num_results=_count(value.get("num_results"), len(results)),
            results=results,
            num_pages=_count(value.get("num_pages"), 1),
        )


class SearchClient:
    """Searches one registry, or the public index; thread-safe.

    The parameters are those of `V2Client`; ``factory``, in place of ``headers``, says what each
    request carries. The public registry is searched at its index. An
    endpoint of version 1 has no catalog to fall back to.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        authenticator: Authenticator,
        *,
        headers: Mapping[str, Sequence[str]] | None = None,
        factory: HTTPRequestFactory | None = None,
        cancel: Cancellation | None = None,
        observer: Observer | None = None,
        on_lost: Callable[[], object] = lambda: None,
    ) -> None:
        factory = factory or HTTPRequestFactory(headers)
        endpoint = self.endpoint = _searched(endpoint, transport)
        self._index: V1Sender | None = None
        self._catalog: V2Client | None = None
        if endpoint.version is APIVersion.V1:
            self._index = V1Sender(
                endpoint,
                transport,
                authenticator.credentials,
                own=authenticator.own,
                factory=factory,
                cancel=cancel,
                observer=observer,
                on_lost=on_lost,
            )
            return
        self._sender = Sender(
            endpoint,
            transport,
            authenticator,
            headers=factory.headers,
            cancel=cancel,
            observer=observer,
            on_lost=on_lost,
        )
        self._catalog = V2Client(
            endpoint,
            transport,
            authenticator,
            headers=factory.headers,
            cancel=cancel,
            observer=observer,
            on_lost=on_lost,
        )

    def search(self, term: str, *, limit: int | None = None) -> Iterator[SearchResult]:
        """What is found for ``term``, in the registry's order, at most ``limit`` of it.

        Pages are asked for as the iteration comes to them. Raises what `V2Client` does.
        """
        if limit is not None and limit < 1:
            return
        size = _PAGE if limit is None else min(limit, _PAGE)
        first = self._page(term, size, 1)
        found = self._by_name(term) if first is None else self._all(term, size, first)
        for count, result in enumerate(found, 1):
            yield result
            if count == limit:
                return

    def _all(self, term: str, size: int, first: SearchResults) -> Iterator[SearchResult]:
        """What all pages have, each name once, up to a page that brings nothing new. Raises
        `ProtocolError` for pages that have no end."""
        page: SearchResults | None = first
        number = 1
        seen = 0
        known: set[str] = set()
        while page is not None:
            new = {one.name: one for one in page.results if one.name not in known}
            yield from new.values()
            known.update(new)
            seen += len(page.results)
            if not new or number >= page.num_pages or seen >= page.num_results:
                return
            if len(known) > _MOST:
                raise ProtocolError(
                    f"{self.endpoint.host}: the search has more than {_MOST} results"
                )
            number += 1
            page = self._page(term, size, number)

    def _page(self, term: str, size: int, number: int) -> SearchResults | None:
        """One page of the V1 search; None where the server has no such thing."""
        query = urlencode({"q": term, "n": size, "page": number})
        url = f"{self.endpoint.version_string(APIVersion.V1)}search?{query}"
        try:
            response = self._ask(url)
        except LoginRequiredError:
            if self._catalog is None:
                raise
            return None
        with response:
            if response.status != 200:
                if self._catalog is not None and response.status in _NO_SEARCH:
                    return None
                error = response.error()
                if response.status in _ABSENT:
                    raise self._unsupported("it has no search") from error
                raise error
            return self._read(response)

    def _ask(self, url: str) -> Response:
        # The index shows private results to who says who he is, and asks nobody.
        headers = {"Accept": "application/json", "X-Docker-Token": "true"}
        if self._index is not None:
            return self._index.send("GET", url, index=True, headers=headers, whole=_LIMIT)
        basic = self._sender.authenticator.credentials.basic
        return self._sender.send(
            "GET", url, headers=headers, authorization=basic or None, whole=_LIMIT
        )

    def _read(self, response: Response) -> SearchResults | None:
        raw = response.read(_LIMIT)
        try:
            return SearchResults.from_json(load_json(raw))
        except ValueError as error:
            if self._catalog is not None:
                return None  # a page for people, where a proxy or a portal answers all paths
            raise ProtocolError(
                f"{show_url(response.url)}: the answer is not JSON: {error}"
            ) from None
        except ProtocolError as error:
            raise ProtocolError(f"{show_url(response.url)}: {error}") from None

    def _by_name(self, term: str) -> Iterator[SearchResult]:
        assert self._catalog is not None  # _page gives None only where there is one
        wanted = term.lower()
        try:
            for name in self._catalog.catalog():
                if wanted in name.lower():
                    yield SearchResult(name=name)
        except RegistryHTTPError as error:
            if error.http_status in _ABSENT or error.has("UNSUPPORTED"):
                raise self._unsupported("it has neither a search nor a catalog") from error
            raise

    def _unsupported(self, why: str) -> RegistryError:
        return RegistryError(
            f"{self.endpoint.host} cannot be searched: {why}", code="search-unsupported"
        )


def _searched(endpoint: Endpoint, transport: Transport) -> Endpoint:
    """Where ``endpoint`` is searched: the public registry at its index."""
    if endpoint.host not in PUBLIC_NAMES or endpoint.version is not APIVersion.V2:
        return endpoint
    root = transport.settings.index_server
    return dataclasses.replace(
        endpoint,
        url=f"{root.removesuffix('/').removesuffix('/v1')}/",
        version=APIVersion.V1,
        challenges=(),
    )


def _count(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
