"""What befalls one body on its way: faults and hold points by position."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Final

from .faults import FaultKind, FaultSwitch, RequestFaults
from .holds import Hold

__all__ = ["ConnectionDropped", "Flow"]

_TICK: Final = 0.02


class ConnectionDropped(Exception):  # noqa: N818 - what was asked for, not an error
    """The connection is to be closed here and now; ``reset`` with a TCP reset."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Flow:
    """Guards a body that passes in pieces. Owned by the connection's thread.

    For each piece the mover calls ``reach``, asks ``room`` how many bytes may pass, and moves
    that many, through ``pace`` and ``alter``. ``stopping`` ends every wait. ``offset`` is the
    place in the content of the body's first byte.
    """

    def __init__(
        self,
        *,
        faults: RequestFaults,
        holds: Sequence[Hold],
        stopping: threading.Event,
        offset: int = 0,
    ) -> None:
        self._faults = faults
        self._stopping = stopping
        self._offset = offset
        self._points: list[tuple[int, Callable[[], None]]] = [
            (hold.after, hold.wait) for hold in holds if hold.after is not None
        ]
        for switch in faults.of_kind(FaultKind.STALL, FaultKind.DROP):
            if switch.fault.after is not None:
                self._points.append((switch.fault.after, functools.partial(self._strike, switch)))
        self._points.sort(key=lambda point: point[0])
        self._slow = list(faults.of_kind(FaultKind.SLOW))
        self._pace: int | None = None
        self._corrupt = list(faults.of_kind(FaultKind.CORRUPT))

    @property
    def idle(self) -> bool:
        """Nothing will happen any more: the bytes may be moved in any way."""
        return not (self._points or self._slow or self._corrupt or self._pace)

    def room(self, position: int, wanted: int) -> int:
        """How many bytes, 1 to ``wanted``, may pass from ``position`` before the next event."""
        if self._points:
            wanted = min(wanted, self._points[0][0] - position)
        for switch in self._slow:
            wanted = min(wanted, max(1, (switch.fault.after or 0) - position))
        if self._pace is not None:
            wanted = min(wanted, max(1, int(self._pace * _TICK)))
        return wanted

    def reach(self, position: int) -> None:
        """The mover is at ``position`` and has more to move. Raises `ConnectionDropped`."""
        while self._points and self._points[0][0] <= position:
            self._points.pop(0)[1]()
        for switch in list(self._slow):
            if position >= (switch.fault.after or 0):
                self._slow.remove(switch)
                if self._faults.claim(switch):
                    rate = switch.fault.rate or 1
                    self._pace = rate if self._pace is None else min(self._pace, rate)
        self._check()

    def alter(self, position: int, data: bytes | memoryview) -> bytes | memoryview:
        """The bytes that come out of ``data``, which go in at ``position``."""
        for switch in list(self._corrupt):
            place = (switch.fault.offset or 0) - self._offset - position
            if 0 <= place < len(data):
                self._corrupt.remove(switch)
                if self._faults.claim(switch):
                    changed = bytearray(data)
                    changed[place] ^= 0xFF
                    data = bytes(changed)
        return data

    def pace(self, count: int) -> None:
        """Wait as long as so many bytes, which pass next, take at the rate in force."""
        if self._pace is not None:
            self._stopping.wait(count / self._pace)
            self._check()

    def _check(self) -> None:
        """A wait that the end of the registry cut short is not gone on from."""
        if self._stopping.is_set():
            raise ConnectionDropped()

    def _strike(self, switch: FaultSwitch) -> None:
        if not self._faults.claim(switch):
            return
        if switch.fault.kind is FaultKind.STALL:
            self._stopping.wait(switch.fault.seconds)
        else:
            raise ConnectionDropped(reset=switch.fault.reset)
