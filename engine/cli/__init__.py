"""``enginectl``: the client on the command line.

A package adds commands through the entry-point group ``engine.commands``: its object is a list
of click commands, or a function that returns one. A command gets the `Session` of the
invocation as its context object (``@click.pass_obj``), submits a job with `Session.submit`,
and returns what that returns: the exit status. `submit_options` gives it the options that all
job commands have.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from .app import run

    return run(argv)
