"""Options that several commands have, and the parts of a job's environment that they are.

Secrets come from standard input, from a prompt, or from where the user keeps his credentials,
never from the command line, and go nowhere but into the environment of the job.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from engine.cli.options import read_pairs, read_stdin
from engine.cli.session import Session

__all__ = [
    "ALL_TAGS",
    "ANONYMOUS",
    "PASSWORD_STDIN",
    "PLATFORM",
    "REFERRERS",
    "USER",
    "access_options",
    "access_options_for",
    "add_target",
    "read_credentials",
    "read_headers",
    "refuse_both",
]

_ARGUMENTS = ("image", "repository", "reference", "source")
_F = TypeVar("_F", bound=Callable[..., Any])


def access_options(command: _F) -> _F:
    """``-u``, ``--password-stdin``, ``--anonymous`` and ``--header``, handed over as ``access``:
    the part of a job's environment that they are. Without them it is the user's own credentials
    for the registry that the argument names, which is one of `_ARGUMENTS`."""
    return access_options_for(_of_reference)(command)


def access_options_for(asked: Callable[[dict[str, Any]], str | None]) -> Callable[[_F], _F]:
    """The decorator `access_options` for a command whose arguments name a registry otherwise.
    ``asked`` makes of them what the credentials are for: a host, ``host/repository``, or empty
    for the public index; None means that nothing is sent."""

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def collected(
            *args: Any,
            user: str | None,
            password_stdin: bool,
            anonymous: bool,
            headers: tuple[str, ...],
            **values: Any,
        ) -> Any:
            env: dict[str, Any] = {}
            refuse_both(user, password_stdin, anonymous)
            if user is not None or password_stdin:
                env["authConfig"] = read_credentials(user, password_stdin)
            if headers:
                env["metaHeaders"] = read_headers(headers)
            if not anonymous:
                _add_own(env, asked(values))
            return command(*args, access=env, **values)

        made: Any = collected
        for option in (HEADER, ANONYMOUS, PASSWORD_STDIN, USER):
            made = option(made)
        return made  # type: ignore[no-any-return]

    return decorate


USER = click.option(
    "-u",
    "--user",
    metavar="USER",
    help="The user name. The password is asked for on a terminal, if it is not piped in.",
)
PASSWORD_STDIN = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)
ANONYMOUS = click.option(
    "--anonymous",
    is_flag=True,
    help="Send none of your credentials, and leave your own files alone.",
)
HEADER = click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Send a header with each request to the registry; NAME=@FILE reads it from a file. "
    "Repeatable.",
)


def _joined(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> str | None:
    return ",".join(value) or None


PLATFORM = click.option(
    "--platform",
    metavar="PLATFORM",
    multiple=True,
    callback=_joined,
    help="OS/ARCH[/VARIANT], or 'all' for every platform of the image. Repeatable; or several "
    "with commas.",
)

ALL_TAGS = click.option("--all-tags", is_flag=True, help="Every tag of the repository.")
REFERRERS = click.option(
    "--referrers",
    is_flag=True,
    help="Take along what belongs to the image: signatures, SBOMs, attestations.",
)


def refuse_both(user: str | None, password_stdin: bool, anonymous: bool) -> None:
    """Raises `click.UsageError` for credentials that are given and not to be sent."""
    if anonymous and (user is not None or password_stdin):
        raise click.UsageError("--anonymous sends no credentials, and -u some: give one of them")


def read_credentials(
    user: str | None, password_stdin: bool, names: tuple[str, str] = ("-u", "--password-stdin")
) -> dict[str, str]:
    """The user name and the password, from standard input or a prompt that does not echo.

    ``names`` are those of the two options. Raises `click.UsageError` where there is neither.
    """
    name, piped = names
    if user is None:
        raise click.UsageError(f"{piped} needs the user name: {name} USER")
    if not user:
        raise click.UsageError(f"{name}: the user name is empty")
    if password_stdin:
        password = read_stdin(piped)
        if not password:
            raise click.UsageError(f"{piped}: there is no password on standard input")
    elif sys.stdin.isatty() and sys.stderr.isatty():
        password = click.prompt(f"Password for {user}", hide_input=True, err=True)
    else:
        raise click.UsageError(
            f"there is no terminal to ask for the password: pipe it in with {piped}"
        )
    return {"username": user, "password": password}


def read_headers(pairs: tuple[str, ...], what: str = "--header") -> dict[str, list[str]]:
    """``NAME=VALUE`` pairs as a map of name to all its values."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        for name, value in read_pairs([pair], what).items():
            found.setdefault(name, []).append(value)
    return found


def _of_reference(values: dict[str, Any]) -> str | None:
    return _name_of(next((text for key in _ARGUMENTS if (text := values.get(key))), ""))


def _name_of(text: str) -> str | None:
    from ..errors import InvalidReferenceError
    from ..reference import Reference

    try:
        return Reference.parse(text).name
    except InvalidReferenceError:  # the job says what is wrong with it
        return None


def _add_own(env: dict[str, Any], asked: str | None) -> None:
    from .own import add_headers, add_own

    session = click.get_current_context().find_object(Session)
    if session is None or asked is None:
        return
    add_headers(session, env)
    if "authConfig" not in env:
        add_own(session, env, asked)


def add_target(env: dict[str, Any], source: str, target: str) -> None:
    """Put the user's own credentials for the target of a copy into ``env``, where there are
    none yet, unless those that were given for the source serve both."""
    from .own import add_own_target

    context = click.get_current_context()
    session = context.find_object(Session)
    there, here = _name_of(target), _name_of(source)
    if session is None or there is None or here is None or context.params["anonymous"]:
        return
    given = context.params["user"] is not None
    if given and there.partition("/")[0] == here.partition("/")[0]:
        return
    add_own_target(session, env, there)
