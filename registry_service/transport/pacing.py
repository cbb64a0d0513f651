"""How much one host is asked for at a time: decisions only. Times are seconds of some clock that
never goes back, and are handed in."""

from __future__ import annotations

import dataclasses
from typing import Final

__all__ = ["Slots", "TokenBucket"]

_NEVER: Final = float("inf")


class TokenBucket:
    """``rate`` units a second on average, ``burst`` of them at once after a pause.

    Whoever takes more than there is owes the rest: he is told how long to wait until it is paid,
    and whoever takes after him waits for that too. So nobody is overtaken.
    """

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at: float | None = None

    def take(self, amount: float, now: float) -> float:
        """Take ``amount`` units; the seconds to wait until they are paid."""
        if self._at is not None:
            grown = self._level + max(0.0, now - self._at) * self.rate
            self._level = min(self.burst, grown)
        self._at = now
        self._level -= amount
        return max(0.0, -self._level / self.rate)


@dataclasses.dataclass(slots=True)
class _Held:
    """Since when a slot is held, when bytes moved last, and by whom (a thread)."""

    since: float
    moved: float
    owner: int


class Slots:
    """Who of many may move bytes: ``limit`` at a time, first come, first served.

    A slot belongs to a connection as long as bytes move over it. From one that has moved none
    for ``idle`` seconds it goes to whoever waits, and from one that has had it for ``turn``
    seconds too, between two blocks; they queue again. So nobody waits for a stalled
    server, nor for ever, and who reads from one connection to write to another (a copy) cannot
    wait for himself: what one thread holds, it can use for any of its connections.

    What is told apart by ``key`` is a connection; ``owner`` is the thread that is about to move.
    """

    def __init__(self, limit: int, *, idle: float = 1.0, turn: float = 10.0) -> None:
        self.limit = limit
        self.idle = idle
        self.turn = turn
        self._held: dict[object, _Held] = {}
        self._queue: dict[object, None] = {}  # in order of arrival

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def ask(self, key: object, owner: int, now: float) -> float:
        """0 where ``key`` has a slot now; else it is in the queue, and this is the number of
        seconds after which to ask again, if nothing is let go before (it may be infinite)."""
        mine = self._held.get(key)
        if mine is not None:
            if not self._queue or now - mine.since < self.turn:
                mine.moved, mine.owner = now, owner
                return 0.0
            del self._held[key]
        self._queue.setdefault(key)
        other = next((one for one, held in self._held.items() if held.owner == owner), None)
        if other is not None:
            del self._held[other]
            return self._grant(key, owner, now)
        place = next(at for at, one in enumerate(self._queue) if one == key)
        free = self.limit - len(self._held)
        if place < free:
            return self._grant(key, owner, now)
        idle = sorted(self._held.items(), key=lambda entry: entry[1].moved)
        at = place - free
        if at >= len(idle):
            return _NEVER
        left = idle[at][1].moved + self.idle - now
        if left > 0:
            return left
        del self._held[idle[0][0]]
        return self._grant(key, owner, now)

    def moved(self, key: object, now: float) -> None:
        """Bytes of ``key`` have moved."""
        mine = self._held.get(key)
        if mine is not None:
            mine.moved = now

    def leave(self, key: object) -> None:
        """``key`` needs no slot, and waits for none. Can be called twice."""
        self._held.pop(key, None)
        self._queue.pop(key, None)

    def _grant(self, key: object, owner: int, now: float) -> float:
        self._queue.pop(key, None)
        self._held[key] = _Held(since=now, moved=now, owner=owner)
        return 0.0
