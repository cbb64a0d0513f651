"""``enginectl``: the client on the command line.

A package adds commands through the entry-point group ``engine.commands``: its object is a list
of click commands, or a function that returns one. A command gets the `Session` of the
invocation as its context object (``@click.pass_obj``), submits a job with `Session.submit`,
and returns what that returns: the exit status. `submit_options` gives it the options that all
job commands have.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Sequence

from ..streams import (
    escape_what_has_no_encoding,
    provide_standard_streams,
    silence_what_is_full,
)

__all__ = ["main"]

_CANCELLED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status.

    Most commands end in a tenth of a second, which the garbage collector would spend a good
    part of on modules: it is off until a job is followed, and passes them over at the exit.
    """
    provide_standard_streams(discard_output=False)
    escape_what_has_no_encoding()
    # until a job is followed; to be asked to end is to be interrupted, so that it is cancelled
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.disable()
    try:
        from .app import run

        return run(argv)
    except KeyboardInterrupt:  # before or after all that `run` looks after
        return _CANCELLED
    finally:
        silence_what_is_full()
        gc.freeze()
        gc.enable()
