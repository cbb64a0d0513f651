"""What a registry is asked, and what is known of it: auth, search, tags, registries."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .options import (
    ANONYMOUS,
    PASSWORD_STDIN,
    USER,
    access_options,
    access_options_for,
    read_credentials,
    refuse_both,
)

__all__ = ["auth", "registries", "search", "tags"]


def _own(session: Session, host: str) -> dict[str, str]:
    """The user's own credentials for a host; where they come from is said."""
    from .own import find_own

    found = find_own(session, host)
    where = host or "the public index"
    if found.auth_config.empty:
        session.say(f"no credentials for {where} in {', '.join(found.searched)}")
    else:
        session.say(f"the credentials for {where} are from {found.source}")
    return found.auth_config.to_json()


def _searched(values: dict[str, Any]) -> str:
    """The host of ``HOST/TERM``, or empty."""
    from ..reference import split_host

    return split_host(values["term"])[0] or ""


@click.command(short_help="Check credentials for a registry; store nothing.")
@click.argument("host", required=False, default="")
@USER
@PASSWORD_STDIN
@ANONYMOUS
@submit_options
@click.pass_obj
def auth(
    session: Session,
    host: str,
    user: str | None,
    password_stdin: bool,
    anonymous: bool,
    submit: SubmitOptions,
) -> int:
    """Check credentials against the registry HOST, or the public index: those of -u, or else
    your own. Nothing is stored."""
    refuse_both(user, password_stdin, anonymous)
    config: dict[str, str] = {}
    if user is not None or password_stdin:
        config = read_credentials(user, password_stdin)
    elif not anonymous:
        config = _own(session, host)
    if host:
        config["serveraddress"] = host
    return session.submit("auth", (), {"authConfig": config}, submit)


@click.command(short_help="Search the public index, or a registry.")
@click.argument("term")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), metavar="N", help="The most results. [default: 25]"
)
@access_options_for(_searched)
@submit_options
@click.pass_obj
def search(
    session: Session,
    term: str,
    limit: int | None,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Search for TERM on the public index, or on a registry: HOST/TERM. HOST/ finds all
    that there is."""
    return session.submit("search", (term,), {**access, "limit": limit}, submit)


@click.command()
@click.argument("repository")
@access_options
@submit_options
@click.pass_obj
def tags(session: Session, repository: str, access: dict[str, Any], submit: SubmitOptions) -> int:
    """List the tags of REPOSITORY in its registry."""
    return session.submit("tags", (repository,), access, submit)


@click.command(short_help="Show what is known of each registry.")
@submit_options
@click.pass_obj
def registries(session: Session, submit: SubmitOptions) -> int:
    """Show what is known of each registry: its version, ranges, mounts, limits."""
    return session.submit("registries", (), {}, submit)
