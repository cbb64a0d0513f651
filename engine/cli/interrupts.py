"""SIGINT and SIGTERM while a job is followed.

A signal handler only writes a byte to a pipe. The thread ``enginectl-signals`` owns the pipe's
other end and acts: it asks what is wanted where a person can answer, cancels otherwise, and
sees to it that the program ends even where the job's end does not come. It ends with the
block of `Interrupts`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from ..errors import CancelledError

__all__ = ["Following", "Interrupts"]

#: How long the end of a cancelled job is waited for.
END_SECONDS = 2.0
_QUESTION = "\nThe job is running: [c]ancel it, [d]etach from it, or [g]o on? "
_INT, _TERM, _QUIT = b"i", b"t", b"q"


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

    def __init__(self, following: Following, *, ask: bool, still: Callable[[], Any]) -> None:
        self._following = following
        self._ask = ask
        self._still = still
        self.detached = False
        self.cancelled = False
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._watch, name="enginectl-signals", daemon=True)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._thread.start()
        for kind, word in ((signal.SIGINT, _INT), (signal.SIGTERM, _TERM)):
            self._before[kind] = signal.signal(kind, self._handler(word))
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._tell(_QUIT)
        self._thread.join(END_SECONDS)
        if not self._thread.is_alive():
            os.close(self._read)
            os.close(self._write)

    def check(self) -> None:
        """Raise `CancelledError` where the job was cancelled here and its end did not come."""
        if self.cancelled:
            raise CancelledError("the job was cancelled; the engine has not told of its end yet")

    def _handler(self, word: bytes) -> Callable[[int, FrameType | None], None]:
        return lambda _number, _frame: self._tell(word)

    def _tell(self, word: bytes) -> None:
        try:
            os.write(self._write, word)
        except BlockingIOError:  # thousands of signals wait there already
            return

    # the thread

    def _watch(self) -> None:
        while (word := self._next()) != _QUIT:
            answer = "c"
            if word == _INT and self._ask:
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
        # another signal, or the time, ends the wait; the end of the job does, as a rule
        if self._next(END_SECONDS) != _QUIT:
            self._following.leave()

    def _next(self, timeout: float | None = None) -> bytes:
        """The next word, or nothing when the time is over."""
        readable, _, _ = select.select([self._read], [], [], timeout)
        return os.read(self._read, 1) if readable else b""

    def _question(self) -> str:
        """``c``, ``d`` or ``g``; a second signal, or no more input, is a 'c'."""
        deadline = time.monotonic() + 600
        while True:
            sys.stderr.write(_QUESTION)
            sys.stderr.flush()
            stdin = sys.stdin.fileno()
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._read, stdin], [], [], left)
            if not readable or self._read in readable:
                sys.stderr.write("\n")
                if readable and os.read(self._read, 1) == _QUIT:
                    self._tell(_QUIT)
                    return "g"
                return "c"
            answer = os.read(stdin, 1024).decode("utf-8", "replace").strip().lower()[:1]
            if answer in ("c", "d", "g"):
                return answer
