"""Signals as something to wait for.

The interpreter runs a signal's handler on the main thread, and only when that thread comes to
it: one that waits for a lock may not, for as long as it waits. But the interpreter also writes
the signal's number to a pipe, at once and whatever its threads do. Here one thread reads it.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final

__all__ = ["WOKEN", "SignalPipe"]

#: What `SignalPipe.wait` gives after a `SignalPipe.wake`.
WOKEN: Final = "woken"


class SignalPipe:
    """The signals of ``kinds`` that arrive inside its ``with`` block, which belongs to the main
    thread. One thread, any, calls `wait`; every thread may call `wake`.

    After the block their handlers are what they were before, or, where the process ``ends``
    with it, the signals are ignored: a late one must not make another end of an orderly one.
    A signal that was ignored before (by ``nohup``, or by a shell for what it runs in the
    background) stays so, unless the process ends with the block: who waits for a signal as its
    way to end must hear it.
    """

    def __init__(self, kinds: Iterable[signal.Signals], *, ends: bool = False) -> None:
        self._kinds = tuple(kinds)
        self._ends = ends
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup = -1
        self._read = self._write = -1

    def __enter__(self) -> SignalPipe:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {
            kind: signal.signal(kind, _ignore)
            for kind in self._kinds
            if self._ends or signal.getsignal(kind) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, signal.SIG_IGN if self._ends else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)
        os.close(self._read)

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` has something to give."""
        return self._read

    def wait(self, timeout: float | None = None) -> signal.Signals | str | None:
        """The next signal, or `WOKEN`, or None when ``timeout`` seconds are over."""
        while True:
            readable, _, _ = select.select([self._read], [], [], timeout)
            if not readable:
                return None
            number = os.read(self._read, 1)[0]
            if number == 0:
                return WOKEN
            if number in self._kinds:  # others' signals are written there too
                return signal.Signals(number)

    def wake(self) -> None:
        """Let a `wait` return."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:  # thousands of signals lie there already
            return


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The pipe tells of the signal; without a handler it would end the process."""
