"""Options that several commands have, and the parts of a job's environment that they are.

Secrets come from standard input or from a prompt, never from the command line, and go nowhere
but into the environment of the job.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from engine.cli.options import read_pairs, read_stdin

__all__ = ["PASSWORD_STDIN", "PLATFORM", "USER", "access_options", "read_credentials"]

_F = TypeVar("_F", bound=Callable[..., Any])


def access_options(command: _F) -> _F:
    """``-u``, ``--password-stdin`` and ``--header``, handed over as ``access``: the part of
    a job's environment that they are."""

    @functools.wraps(command)
    def collected(
        *args: Any, user: str | None, password_stdin: bool, headers: tuple[str, ...], **values: Any
    ) -> Any:
        env: dict[str, Any] = {}
        if user is not None or password_stdin:
            env["authConfig"] = read_credentials(user, password_stdin)
        if headers:
            env["metaHeaders"] = _headers(headers)
        return command(*args, access=env, **values)

    made: Any = collected
    for option in (HEADER, PASSWORD_STDIN, USER):
        made = option(made)
    return made  # type: ignore[no-any-return]


USER = click.option(
    "-u",
    "--user",
    metavar="USER",
    help="The user name. The password is asked for on a terminal, if it is not piped in.",
)
PASSWORD_STDIN = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)
HEADER = click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Send a header with each request to the registry; NAME=@FILE reads it from a file. "
    "Repeatable.",
)
PLATFORM = click.option(
    "--platform",
    metavar="PLATFORM",
    help="OS/ARCH[/VARIANT], several with commas, or 'all' for every platform of the image.",
)


def read_credentials(user: str | None, password_stdin: bool) -> dict[str, str]:
    """The user name and the password, from standard input or a prompt that does not echo.

    Raises `click.UsageError` where there is neither.
    """
    if user is None:
        raise click.UsageError("--password-stdin needs the user name: -u USER")
    if not user:
        raise click.UsageError("-u: the user name is empty")
    if password_stdin:
        password = read_stdin("--password-stdin")
        if not password:
            raise click.UsageError("--password-stdin: there is no password on standard input")
    elif sys.stdin.isatty() and sys.stderr.isatty():
        password = click.prompt(f"Password for {user}", hide_input=True, err=True)
    else:
        raise click.UsageError(
            "there is no terminal to ask for the password: pipe it in with --password-stdin"
        )
    return {"username": user, "password": password}


def _headers(pairs: tuple[str, ...]) -> dict[str, list[str]]:
    """``NAME=VALUE`` pairs as a map of name to all its values."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        for name, value in read_pairs([pair], "--header").items():
            found.setdefault(name, []).append(value)
    return found
