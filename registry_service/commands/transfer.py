"""What moves content: pull, push."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .archives import read_archive
from .convert import FORMAT
from .options import ALL_TAGS, PLATFORM, REFERRERS, access_options

__all__ = ["pull", "push"]


@click.command()
@click.argument("image")
@PLATFORM
@FORMAT
@ALL_TAGS
@REFERRERS
@access_options
@submit_options
@click.pass_obj
def pull(
    session: Session,
    image: str,
    platform: str | None,
    format: str | None,
    all_tags: bool,
    referrers: bool,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Fetch IMAGE[:TAG][@DIGEST] from its registry into the store."""
    env = {
        **access,
        "platform": platform,
        "format": format,
        "allTags": all_tags or None,
        "referrers": referrers or None,
    }
    return session.submit("pull", (image,), env, submit)


@click.command(short_help="Send an image of the store to its registry.")
@click.argument("image")
@PLATFORM
@FORMAT
@click.option("--foreign", is_flag=True, help="Send layers too that are fetched from elsewhere.")
@REFERRERS
@click.option(
    "--from",
    "source",
    metavar="ARCHIVE",
    callback=read_archive,
    help="Send an image of an archive that the engine can read: docker-archive:PATH[:REF] or "
    "oci-archive:PATH[:REF].",
)
@access_options
@submit_options
@click.pass_obj
def push(
    session: Session,
    image: str,
    platform: str | None,
    format: str | None,
    foreign: bool,
    referrers: bool,
    source: str | None,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Send IMAGE[:TAG] from the store to the registry that its name says."""
    env = {
        **access,
        "platform": platform,
        "format": format,
        "foreign": foreign or None,
        "referrers": referrers or None,
        "from": source,
    }
    return session.submit("push", (image,), env, submit)
