"""When a request is tried again, and after how long: decisions only."""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import math
import re
from typing import TYPE_CHECKING

from ..errors import (
    ConnectionBrokenError,
    RegistryError,
    RegistryTimeoutError,
    UnreachableRegistryError,
)

if TYPE_CHECKING:
    from ..settings import RegistrySettings

__all__ = ["RetryPolicy", "parse_retry_after", "parse_retry_at"]

_OVERLOADED = frozenset({408, 425, 429, 503})  # the server did not do what it was asked
_FAILED = frozenset({500, 502, 504})  # it may have


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` header asks to wait: a number of seconds or a date.

    ``now`` is the time in seconds since the epoch. None where there is none or it cannot be
    read; a date that has passed is 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, date.timestamp() - now)


def parse_retry_at(value: str | None, now: float) -> float | None:
    """The seconds that an ``X-Retry-After`` header asks to wait: Docker Hub's own, the time in
    seconds since the epoch. None for what cannot be read."""
    found = re.fullmatch(r"[0-9]{1,12}", (value or "").strip())
    return max(0.0, int(found[0]) - now) if found else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """``retries`` further tries, ``longest`` seconds at most between two; the wait doubles
    from ``first`` seconds."""

    retries: int
    longest: float
    first: float = 0.25

    @classmethod
    def of(cls, settings: RegistrySettings, retries: int | None = None) -> RetryPolicy:
        """What the settings say; ``retries`` in place of theirs, where it is given."""
        return cls(
            retries=settings.retries if retries is None else retries,
            longest=settings.retry_wait_max,
        )

    def after_status(
        self, attempt: int, status: int, retry_after: float | None, *, idempotent: bool, dice: float
    ) -> float | None:
        """Seconds to wait before try ``attempt`` + 1, or None: the answer stands.

        ``attempt`` counts from 0, ``dice`` is a random number from 0 to 1. A server that
        asks for a longer wait than is allowed is not asked again.
        """
        if attempt >= self.retries:
            return None
        if status not in _OVERLOADED and not (status in _FAILED and idempotent):
            return None
        return self.wait(attempt, retry_after, dice)

    def after_error(
        self, attempt: int, error: RegistryError, *, idempotent: bool, dice: float
    ) -> float | None:
        """As `after_status`, for a request that brought no answer."""
        if attempt >= self.retries or not error.retryable:
            return None
        if isinstance(error, UnreachableRegistryError):  # nothing was sent
            return self.wait(attempt, None, dice)
        if isinstance(error, RegistryTimeoutError):
            # It cost a minute already; once more is enough.
            return self.wait(attempt, None, dice) if idempotent and not attempt else None
        if isinstance(error, ConnectionBrokenError) and idempotent:
            return self.wait(attempt, None, dice)
        return None

    def wait(self, attempt: int, retry_after: float | None, dice: float) -> float | None:
        """Seconds before try ``attempt`` + 1, None if the server asks for too many."""
        whole = min(self.longest, self.first * math.pow(2, min(attempt, 30)))
        wait = whole * (0.5 + 0.5 * dice)
        if retry_after is None:
            return wait
        if retry_after > self.longest:
            return None
        # All who were turned away at once should not come back at once.
        return min(self.longest, retry_after + wait * 0.2)
