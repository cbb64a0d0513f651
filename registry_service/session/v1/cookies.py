"""Cookies: what a server wants sent back to it, kept as long as the session (RFC 6265).

A registry of old lets a token be used once, and knows who used it by a cookie. A cookie goes to
the origin that set it and to no other, whatever its Domain says, and no more are kept than a
server may need.
"""

from __future__ import annotations

import dataclasses
import email.utils
import re
import threading
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from ...hosts import origin

__all__ = ["CookieJar"]

_MOST_ORIGINS: Final = 64
_MOST_COOKIES: Final = 32  # of one origin
_LONGEST: Final = 4096  # characters of a cookie's name and value
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e\" ,]*")

_Origin = tuple[str, str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Cookie:
    value: str
    path: str
    until: float | None  # seconds since the epoch


class CookieJar:
    """The cookies of one session; thread-safe. One lock guards the table.

    Of too many, the oldest go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cookies: dict[_Origin, dict[tuple[str, str], _Cookie]] = {}

    def __repr__(self) -> str:
        return f"CookieJar({sorted(self._cookies)})"

    def take(self, url: str, fields: Iterable[str]) -> None:
        """Keep what the ``Set-Cookie`` fields of the answer of ``url`` say."""
        now = time.time()
        for field in fields:
            found = _parsed(field, urlsplit(url).path, now)
            if found is None:
                continue
            name, cookie = found
            with self._lock:
                kept = self._of(origin(url))
                kept.pop((name, cookie.path), None)
                if cookie.until is None or cookie.until > now:
                    kept[name, cookie.path] = cookie
                while len(kept) > _MOST_COOKIES:
                    del kept[next(iter(kept))]

    def header(self, url: str) -> str:
        """The value of the ``Cookie`` header of a request for ``url``; empty where there is
        none. The cookie of the longest path comes first."""
        path, now = urlsplit(url).path or "/", time.time()
        with self._lock:
            kept = dict(self._cookies.get(origin(url), {}))
        fitting = [
            (name, cookie.value)
            for (name, _), cookie in sorted(kept.items(), key=lambda one: -len(one[1].path))
            if _covers(cookie.path, path) and (cookie.until is None or cookie.until > now)
        ]
        return "; ".join(f"{name}={value}" for name, value in fitting)

    def _of(self, place: _Origin) -> dict[tuple[str, str], _Cookie]:
        kept = self._cookies.pop(place, {})
        self._cookies[place] = kept  # now the newest
        while len(self._cookies) > _MOST_ORIGINS:
            del self._cookies[next(iter(self._cookies))]
        return kept


def _parsed(field: str, path: str, now: float) -> tuple[str, _Cookie] | None:
    """Name and cookie of a ``Set-Cookie`` field, None for what is none."""
    pair, *rest = field.split(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        return None
    if len(name) + len(value) > _LONGEST:
        return None
    attributes = {
        key.strip().lower(): given.strip() for key, _, given in (one.partition("=") for one in rest)
    }
    wanted = attributes.get("path", "")
    if not wanted.startswith("/") or len(wanted) > _LONGEST:
        wanted = path[: path.rfind("/")] or "/"
    return name, _Cookie(value=value, path=wanted, until=_until(attributes, now))


def _until(attributes: dict[str, str], now: float) -> float | None:
    """When a cookie ends, None for the end of the session. Max-Age comes before Expires."""
    age = attributes.get("max-age", "")
    if re.fullmatch(r"-?[0-9]{1,12}", age):
        return now + int(age) if int(age) > 0 else 0.0
    try:
        return email.utils.parsedate_to_datetime(attributes["expires"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _covers(wanted: str, path: str) -> bool:
    return path == wanted or path.startswith(wanted if wanted.endswith("/") else f"{wanted}/")
