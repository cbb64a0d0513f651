"""The standard streams of a process that may have been started without them."""

from __future__ import annotations

import io
import os
import sys

__all__ = [
    "escape_what_has_no_encoding",
    "provide_standard_streams",
    "silence",
    "silence_what_is_full",
]


def provide_standard_streams(*, discard_output: bool) -> None:
    """Open the null device where standard input, output or error is closed.

    Otherwise the next file or socket that is opened would get its number, and with it whatever
    is written there: a library's last words, in the middle of a connection or of an image.
    Without ``discard_output`` what is written to a closed standard output fails, as it does
    where nothing takes its place, and is not lost unnoticed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            fails = number == 1 and not discard_output
            _open(number, os.O_RDONLY if fails else os.O_RDWR)
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
            setattr(sys, name, stream)


def escape_what_has_no_encoding() -> None:
    """Let standard output and error write as an escape what their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence_what_is_full() -> None:
    """Let what standard output and error could not take go to the null device: or the
    interpreter would try it once more at its end, complain, and make the exit status its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream.fileno())


def silence(number: int) -> None:
    """Let the null device take the place of an open descriptor."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _open(number: int, flags: int) -> None:
    made = os.open(os.devnull, flags)
    if made != number:
        os.dup2(made, number)
        os.close(made)
