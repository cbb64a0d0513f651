"""When a transfer that failed is tried again. Pure: no clock, no randomness of its own."""

from __future__ import annotations

import dataclasses
from typing import Final

from ..errors import DigestMismatchError, LayerError, RegistryError

__all__ = ["Attempt", "RetryPolicy", "Tally", "can_help", "out_of_range"]

_TRICKLE: Final = 1024 * 1024  # bytes that are no gain of one that was given up as too slow


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after how long one taker's source is asked again.

    ``fruitless`` failures in a row without a byte gained end it, and so do ``failures`` in
    all. The pause grows from ``first`` to ``most`` seconds; a server's Retry-After counts up
    to ``patience`` seconds.
    """

    fruitless: int = 4
    failures: int = 32
    first: float = 0.2
    most: float = 5.0
    patience: float = 60.0

    def pause(self, fruitless: int, chance: float, asked: float | None = None) -> float:
        """The seconds to wait after the ``fruitless``-th failure; ``chance`` is from 0 to 1,
        and spreads the clients that failed together."""
        pause = min(self.most, self.first * 2.0 ** max(0, fruitless - 1))
        pause *= 0.5 + chance / 2
        return max(pause, min(asked, self.patience)) if asked is not None else pause


@dataclasses.dataclass(slots=True)
class Tally:
    """How one source has failed so far. Belongs to the one thread that moves the blob."""

    fruitless: int = 0
    failures: int = 0

    def count(self, error: Exception, attempt: Attempt) -> None:
        """Count a failure. It weighs double where another try seldom helps: the source could
        not even be opened (who opens it has tried again already, unless the server asked for a
        pause), or it sent wrong bytes."""
        wrong = isinstance(error, (DigestMismatchError, LayerError))
        slow = getattr(error, "code", "") == "too-slow"
        asked = getattr(error, "retry_after", None) is not None
        heavy = not (attempt.opened or asked) or (wrong and not attempt.mixed)
        # Wrong bytes are no gain, nor is a trickle: a source that has no more would be asked for
        # ever.
        gained = not wrong and attempt.gained > (_TRICKLE if slow else 0)
        kept = 0 if gained else self.fruitless
        self.fruitless = kept + (2 if heavy else 1)
        self.failures += 1

    def spent(self, policy: RetryPolicy) -> bool:
        return self.fruitless >= policy.fruitless or self.failures >= policy.failures


@dataclasses.dataclass(slots=True)
class Attempt:
    """What one attempt came to: its source was opened; how many bytes it gained; the bytes are
    not all of its own (a partial file was taken up)."""

    opened: bool = False
    gained: int = 0
    mixed: bool = False


def can_help(error: Exception, attempt: Attempt) -> bool:
    """Whether asking the same source again can help after ``error``."""
    if isinstance(error, RegistryError):
        return error.retryable or (attempt.mixed and out_of_range(error))
    return isinstance(error, (ConnectionError, TimeoutError))


def out_of_range(error: Exception) -> bool:
    """Whether a server has no byte where the transfer would go on (416): what is here already
    cannot be a part of what it has."""
    return getattr(error, "http_status", None) == 416
