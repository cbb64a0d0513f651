"""What a registry is asked, and what is known of it: auth, search, tags, registries."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .options import PASSWORD_STDIN, USER, access_options, read_credentials

__all__ = ["auth", "registries", "search", "tags"]


@click.command()
@click.argument("host", required=False, default="")
@USER
@PASSWORD_STDIN
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
@access_options
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
@click.argument("repository")
@access_options
@submit_options
@click.pass_obj
def tags(session: Session, repository: str, access: dict[str, Any], submit: SubmitOptions) -> int:
    """List the tags of REPOSITORY in its registry."""
    return session.submit("tags", (repository,), access, submit)


@click.command()
@submit_options
@click.pass_obj
def registries(session: Session, submit: SubmitOptions) -> int:
    """Show what is known of each registry: its version, ranges, mounts, limits."""
    return session.submit("registries", (), {}, submit)
