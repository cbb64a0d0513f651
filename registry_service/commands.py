"""The commands that this package brings to ``enginectl``: jobs with options for people.

Only what turns words into a job's arguments and environment is here; the jobs decide the
rest. Secrets come from standard input or from a prompt, never from the command line, and go
nowhere but into the environment of the job.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from engine.cli.options import read_pairs, read_stdin, submit_options
from engine.cli.session import Session, SubmitOptions

__all__ = ["commands"]

_F = TypeVar("_F", bound=Callable[..., Any])


def _access_options(command: _F) -> _F:
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
    for option in (_HEADER, _PASSWORD_STDIN, _USER):
        made = option(made)
    return made  # type: ignore[no-any-return]


_USER = click.option(
    "-u",
    "--user",
    metavar="USER",
    help="The user name. The password is asked for on a terminal, if it is not piped in.",
)
_PASSWORD_STDIN = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input."
)
_HEADER = click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Send a header with each request to the registry; NAME=@FILE reads it from a file. "
    "Repeatable.",
)
_PLATFORM = click.option(
    "--platform",
    metavar="PLATFORM",
    help="OS/ARCH[/VARIANT], or 'all' for every platform of the image.",
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


@click.command()
@click.argument("host", required=False, default="")
@_USER
@_PASSWORD_STDIN
@submit_options
@click.pass_obj
def auth(
    session: Session, host: str, user: str | None, password_stdin: bool, submit: SubmitOptions
) -> int:
    """Check credentials against the registry HOST, or the public index. Nothing is stored."""
    config = {"serveraddress": host} if host else {}
    if user is not None or password_stdin:
        config |= read_credentials(user, password_stdin)
    return session.submit("auth", (), {"authConfig": config}, submit)


@click.command()
@click.argument("term")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), metavar="N", help="The most results. [default: 25]"
)
@_access_options
@submit_options
@click.pass_obj
def search(
    session: Session,
    term: str,
    limit: int | None,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Search for TERM on the public index, or on a registry: HOST/TERM."""
    return session.submit("search", (term,), {**access, "limit": limit}, submit)


@click.command()
@click.argument("image")
@_PLATFORM
@click.option("--all-tags", is_flag=True, help="Every tag of the repository IMAGE.")
@_access_options
@submit_options
@click.pass_obj
def pull(
    session: Session,
    image: str,
    platform: str | None,
    all_tags: bool,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Fetch IMAGE[:TAG][@DIGEST] from its registry into the store."""
    env = {**access, "platform": platform, "allTags": all_tags or None}
    return session.submit("pull", (image,), env, submit)


@click.command()
@click.argument("image")
@_PLATFORM
@_access_options
@submit_options
@click.pass_obj
def push(
    session: Session,
    image: str,
    platform: str | None,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Send IMAGE[:TAG] from the store to the registry that its name says."""
    return session.submit("push", (image,), {**access, "platform": platform}, submit)


@click.command()
@click.argument("repository")
@_access_options
@submit_options
@click.pass_obj
def tags(session: Session, repository: str, access: dict[str, Any], submit: SubmitOptions) -> int:
    """List the tags of REPOSITORY in its registry."""
    return session.submit("tags", (repository,), access, submit)


@click.command()
@submit_options
@click.pass_obj
def images(session: Session, submit: SubmitOptions) -> int:
    """List the images of the store."""
    return session.submit("images", (), {}, submit)


@click.command()
@click.argument("image")
@_PLATFORM
@click.option("--remote", is_flag=True, help="Ask the registry, even where the store has it.")
@_access_options
@submit_options
@click.pass_obj
def inspect(
    session: Session,
    image: str,
    platform: str | None,
    remote: bool,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Show the manifests and the configurations of IMAGE."""
    env = {**access, "platform": platform, "remote": remote or None}
    return session.submit("inspect", (image,), env, submit)


@click.command()
@click.argument("source")
@click.argument("target")
@submit_options
@click.pass_obj
def tag(session: Session, source: str, target: str, submit: SubmitOptions) -> int:
    """Give SOURCE, an image of the store, the further name TARGET."""
    return session.submit("tag", (source, target), {}, submit)


def commands() -> list[click.Command]:
    """The commands, for the entry-point group ``engine.commands``."""
    return [auth, search, pull, push, tags, images, inspect, tag]
