"""Search: of an index, or of one registry by its own search or its catalog."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..cancel import Cancellation
from ..errors import RegistryError
from ..hosts import PUBLIC_NAMES
from ..observe import Observer
from ..reference import split_host
from ..session.search import SearchResult
from .access import Access, Registries

__all__ = ["Query", "search"]

_MOST = 10_000
_FILTERS = ("stars", "is-official", "is-trusted", "is-automated")


class QueryError(RegistryError):
    code = "query"
    status = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is searched for. ``host`` is empty for the index; ``limit`` counts results."""

    text: str
    host: str = ""
    limit: int = 25
    stars: int = 0
    official: bool | None = None
    trusted: bool | None = None

    @classmethod
    def parse(cls, term: str, *, limit: int = 25, filters: Any = None) -> Query:
        """The query of a job: ``HOST/TEXT`` where the first part is a host, else free text.

        ``filters`` maps names to a value or a list with one. Raises an error of status 2,
        which names what is wrong.
        """
        if not 1 <= limit <= _MOST:
            raise QueryError(f"limit: {limit} is not from 1 to {_MOST}")
        host, text = split_host(term.strip())
        if not host or host in PUBLIC_NAMES:  # its index calls these by their one component
            text = text.removeprefix("library/")
        given = _given(filters)
        trusted = given.get("is-trusted", given.get("is-automated"))
        return cls(
            text=text.strip(),
            host=host or "",
            limit=limit,
            stars=_integer(given.get("stars", 0)),
            official=_boolean("is-official", given.get("is-official")),
            trusted=_boolean("is-trusted", trusted),
        )

    def takes(self, result: SearchResult) -> bool:
        """Whether the filters let a result through."""
        return (
            result.star_count >= self.stars
            and self.official in (None, result.is_official)
            and self.trusted in (None, result.is_trusted)
        )


def search(
    query: Query,
    *,
    registries: Registries,
    access: Access,
    cancel: Cancellation,
    observer: Observer,
) -> list[SearchResult]:
    """At most ``query.limit`` results, most stars first and by name where these are equal.

    A registry ranks by its own lights and may have more than it is asked for here: what is
    sorted is what came within the limit.
    """
    client = registries.searcher(query.host, access, cancel=cancel, observer=observer)
    found: list[SearchResult] = []
    for result in client.search(query.text, limit=query.limit if _bare(query) else None):
        cancel.check()
        if query.takes(result):
            found.append(result)
            if len(found) == query.limit:
                break
    return sorted(found, key=lambda one: (-one.star_count, one.name))


def _bare(query: Query) -> bool:
    """Without filters the server needs to give no more than the limit."""
    return query.stars == 0 and query.official is None and query.trusted is None


def _given(filters: Any) -> dict[str, Any]:
    if filters is None:
        return {}
    if not isinstance(filters, Mapping):
        raise QueryError("filters: a JSON map is expected")
    unknown = sorted(set(filters) - set(_FILTERS))
    if unknown:
        raise QueryError(f"filters: no filter {unknown[0]!r}; there are {', '.join(_FILTERS)}")
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in filters.items()
    }


def _integer(value: Any) -> int:
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise QueryError("filters: stars is a number") from None


def _boolean(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "false", "0"):
        return value.lower() in ("true", "1")
    raise QueryError(f"filters: {name} is true or false")
