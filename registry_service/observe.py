"""How progress, remarks and results leave the library: callbacks, each of which may be left out.

Callbacks are called from whatever thread does the work, several at a time too, and must
return soon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["LogCallback", "Observer", "ProgressCallback", "Settled", "no_progress"]


class ProgressCallback(Protocol):
    def __call__(self, key: str, phase: str, done: int, total: int, /) -> object:
        """``done`` of ``total`` bytes of ``key`` (a digest, say); ``total`` is -1 if unknown.

        ``phase`` is a word such as ``fetching`` or ``pushing``.
        """


class LogCallback(Protocol):
    def __call__(self, level: str, text: str, /, **fields: Any) -> object:
        """A remark. ``level`` is ``debug``, ``info``, ``warning`` or ``error``; ``fields``
        hold no secret."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One descriptor of which it is known how it ended: ``state`` is ``exists``, ``fetched``,
    ``converted``, ``loaded``, ``mounted``, ``pushed``, ``copied``, or ``skipped`` for a layer that
    stays at URLs of its own. ``size`` is in bytes."""

    reference: str
    digest: str
    media_type: str
    size: int
    state: str


def no_progress(key: str, phase: str, done: int, total: int, /) -> None:
    """The `ProgressCallback` of who does not want to know."""


def _no_log(level: str, text: str, /, **fields: Any) -> None:
    return None


def _no_settled(settled: Settled, /) -> None:
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """The callbacks of one operation. Each default does nothing."""

    progress: ProgressCallback = no_progress
    log: LogCallback = _no_log
    settled: Callable[[Settled], object] = _no_settled
