"""Cancellation: one flag that many waits can watch, and callbacks that free a blocked one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from .errors import CancelledError

__all__ = ["Cancellation"]


class Cancellation:
    """Whether somebody gave up what is being done. Thread-safe; set once, never unset.

    Code that waits either asks (``check`` between steps, ``wait`` in place of a sleep) or
    registers a callback that ends its wait, such as the shutting down of a socket.

    One lock guards the flag and the table of callbacks; callbacks run outside it, in the
    thread that cancels, each once.
    """

    __slots__ = ("_callbacks", "_event", "_lock", "_next")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._next = 0

    def __repr__(self) -> str:
        return f"Cancellation(cancelled={self.cancelled})"

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        """Set the flag and run the callbacks. A second call does nothing.

        A callback that raises keeps none of the others from running; its exception is
        raised when all have run.
        """
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        failure: Exception | None = None
        for callback in callbacks:
            try:
                callback()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def on_cancel(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Run ``callback`` at the cancellation; at once, in this thread, if it was already.

        Returns a function that takes the callback back. It may be called more than once, and
        does not wait for a callback that runs at that moment: the callback must bear that.
        """
        with self._lock:
            if not self._event.is_set():
                key = self._next
                self._next += 1
                self._callbacks[key] = callback
                return lambda: self._remove(key)
        callback()
        return _nothing

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds. True if cancelled."""
        return self._event.wait(timeout)

    def check(self) -> None:
        """Raise `CancelledError` if cancelled."""
        if self._event.is_set():
            raise CancelledError()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """``callback`` is registered for as long as the block runs."""
        remove = self.on_cancel(callback)
        try:
            yield
        finally:
            remove()

    def _remove(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)


def _nothing() -> None:
    return None
