"""SIGINT and SIGTERM while a job is followed.

The thread ``enginectl-signals`` waits for them and acts: it asks what is wanted where a person
can answer, cancels otherwise, and sees to it that the program ends even where the job's end does
not come. It ends with the block of `Interrupts`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..signals import WOKEN, SignalPipe

__all__ = ["Following", "Interrupts"]

#: How long the end of a cancelled job is waited for.
END_SECONDS = 2.0
#: How long an answer is waited for.
ANSWER_SECONDS = 600.0
_QUESTION = "\nThe job is running: [c]ancel it, [d]etach from it, or [g]o on? "


class Following(Protocol):
    """What is followed. Both functions may be called from any thread."""

    def cancel(self) -> None: ...
    def leave(self) -> None: ...


class Interrupts:
    """Acts on signals inside its ``with`` block, which belongs to the main thread.

    ``ask`` holds where a person can be asked; ``still`` is a context in which nothing else
    writes to the terminal. After the block, ``detached`` tells whether the job was left to
    itself, and ``cancelled`` whether it was cancelled here.
    """

    def __init__(
        self,
        following: Following,
        *,
        ask: bool,
        still: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._following = following
        self._ask = ask
        self._still = still
        self.detached = False
        self.cancelled = False
        self._signals = SignalPipe((signal.SIGINT, signal.SIGTERM))
        self._thread = threading.Thread(target=self._watch, name="enginectl-signals", daemon=True)

    def __enter__(self) -> Interrupts:
        self._signals.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.wake()
        self._thread.join()
        self._signals.__exit__()

    # the thread

    def _watch(self) -> None:
        while (word := self._signals.wait()) != WOKEN:
            answer = "c"
            if word == signal.SIGINT and self._ask:
                with self._still():
                    answer = self._question()
            if answer == "d":
                self.detached = True
                self._following.leave()
                return
            if answer == "c":
                self._cancel()
                return

    def _cancel(self) -> None:
        self.cancelled = True
        self._following.cancel()
        # the end of the job ends the wait as a rule; another signal, or the time, does too
        if self._signals.wait(END_SECONDS) != WOKEN:
            self._following.leave()

    def _question(self) -> str:
        """``c``, ``d`` or ``g``; a second signal, and no answer at all, is a 'c'."""
        deadline = time.monotonic() + ANSWER_SECONDS
        stdin = sys.stdin.fileno()
        while True:
            sys.stderr.write(_QUESTION)
            sys.stderr.flush()
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._signals, stdin], [], [], left)
            if not readable or self._signals in readable:
                sys.stderr.write("\n")
                if self._signals.wait(0) != WOKEN:
                    return "c"
                self._signals.wake()  # for who waits next: the job has ended
                return "g"
            try:
                said = os.read(stdin, 1024)
            except OSError:  # the terminal has gone
                said = b""
            if not said:
                return "c"
            answer = said.decode("utf-8", "replace").strip().lower()[:1]
            if answer in ("c", "d", "g"):
                return answer
