"""Keeping the store in order: remove, gc, verify."""

from __future__ import annotations

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

__all__ = ["gc", "remove", "verify"]

_SECONDS = click.IntRange(min=0)


@click.command(short_help="Remove names of images from the store.")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--prune", is_flag=True, help="Remove at once what only these names led to.")
@submit_options
@click.pass_obj
def remove(session: Session, images: tuple[str, ...], prune: bool, submit: SubmitOptions) -> int:
    """Remove the names of each IMAGE[:TAG][@DIGEST] from the store."""
    return session.submit("remove", images, {"prune": prune or None}, submit)


@click.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing; show what would be.")
@click.option(
    "--grace",
    type=_SECONDS,
    metavar="SECONDS",
    help="How long content without a name stays after it was written. [default: 3600]",
)
@click.option(
    "--partial-age",
    type=_SECONDS,
    metavar="SECONDS",
    help="How long what an interrupted transfer left stays. [default: 604800]",
)
@submit_options
@click.pass_obj
def gc(
    session: Session,
    dry_run: bool,
    grace: int | None,
    partial_age: int | None,
    submit: SubmitOptions,
) -> int:
    """Remove the content of the store that no name leads to."""
    env = {"dryRun": dry_run or None, "grace": grace, "partialAge": partial_age}
    return session.submit("gc", (), env, submit)


@click.command(short_help="Compare what the store has with its digests.")
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
@click.option("--repair", is_flag=True, help="Move damaged content aside for the next pull.")
@submit_options
@click.pass_obj
def verify(session: Session, images: tuple[str, ...], repair: bool, submit: SubmitOptions) -> int:
    """Read the store, or each IMAGE of it, and compare with the digests."""
    return session.submit("verify", images, {"repair": repair or None}, submit)
