"""What there is: images, inspect, tag."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .options import PLATFORM, access_options

__all__ = ["images", "inspect", "tag"]


@click.command()
@submit_options
@click.pass_obj
def images(session: Session, submit: SubmitOptions) -> int:
    """List the images of the store."""
    return session.submit("images", (), {}, submit)


@click.command()
@click.argument("image")
@PLATFORM
@click.option("--remote", is_flag=True, help="Ask the registry, even where the store has it.")
@access_options
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
