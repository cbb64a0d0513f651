"""The search of the V1 protocol, over the names of the repositories and their descriptions."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from .message import ApiError, Request, Response, json_response

__all__ = ["Described", "SearchBook", "search_response"]

_PAGE: Final = 25
_LARGEST_PAGE: Final = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What search shows of a repository beside its name."""

    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False

    def __post_init__(self) -> None:
        for name, wanted in (
            ("description", str),
            ("star_count", int),
            ("is_official", bool),
            ("is_automated", bool),
        ):
            value = getattr(self, name)
            if type(value) is not wanted:
                raise ValueError(f"{name} is to be of type {wanted.__name__}, not {value!r}")
        if self.star_count < 0:
            raise ValueError("star_count is to be 0 or more")


class SearchBook:
    """What is known of repositories, by name. Thread-safe by one lock.

    A repository that is only described is found too, so that a search can be shown without
    content.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Described] = {}

    def describe(self, name: str, described: Described) -> None:
        with self._lock:
            self._known[name] = described

    def read(self, path: Path) -> None:
        """Add what a JSON file says: an object of name to description, star_count and so on.

        Raises OSError if it cannot be read, ValueError that names the file and the entry.
        """
        try:
            data = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path}: an object of repository names is wanted")
        fields = [field.name for field in dataclasses.fields(Described)]
        for name, values in data.items():
            if not isinstance(values, dict) or not set(values) <= set(fields):
                raise ValueError(f"{path}: {name!r} takes an object with {', '.join(fields)}")
            try:
                self.describe(name, Described(**values))
            except ValueError as error:
                raise ValueError(f"{path}: {name!r}: {error}") from None

    def find(self, term: str, names: Iterable[str]) -> list[tuple[str, Described]]:
        """Those with ``term`` in name or description, whatever the case; most stars first."""
        with self._lock:
            known = dict(self._known)
        every = {**{name: Described() for name in names}, **known}
        wanted = term.casefold()
        found = [
            (name, what)
            for name, what in every.items()
            if wanted in name.casefold() or wanted in what.description.casefold()
        ]
        return sorted(found, key=lambda pair: (-pair[1].star_count, pair[0]))


def search_response(
    request: Request, book: SearchBook, names: Iterable[str], visible: Callable[[str], bool]
) -> Response:
    """Answer ``/v1/search?q=TERM&n=SIZE&page=NUMBER``; pages count from 1."""
    term = request.argument("q") or ""
    size = min(_positive(request, "n", _PAGE), _LARGEST_PAGE)
    page = _positive(request, "page", 1)
    found = [pair for pair in book.find(term, names) if visible(pair[0])]
    results: list[dict[str, Any]] = [
        {"name": name, "is_trusted": what.is_automated, **dataclasses.asdict(what)}
        for name, what in found[(page - 1) * size : page * size]
    ]
    return json_response(
        {
            "query": term,
            "num_results": len(found),
            "num_pages": -(-len(found) // size),
            "page": page,
            "page_size": size,
            "results": results,
        }
    )


def _positive(request: Request, name: str, default: int) -> int:
    text = request.argument(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):
        raise ApiError("PAGINATION_NUMBER_INVALID", f"{name}={text!r} is no number from 1 on")
    return int(text)
