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
@click.option("--raw", is_flag=True, help="The manifest alone, byte for byte.")
@click.option("--config", is_flag=True, help="The image's configuration alone, byte for byte.")
@click.option("--digest", is_flag=True, help="The digest alone.")
@access_options
@submit_options
@click.pass_obj
def inspect(
    session: Session,
    image: str,
    platform: str | None,
    remote: bool,
    raw: bool,
    config: bool,
    digest: bool,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Show the manifests and the configurations of IMAGE.

    --raw and --digest are about what the name stands for, which may be an index, --config about
    this machine's image; --platform is the image that is meant otherwise.
    """
    env = {**access, "platform": platform, "remote": remote or None}
    wanted = {"manifest": raw, "config": config, "digest": digest}
    parts = [part for part, given in wanted.items() if given]
    if len(parts) > 1:
        raise click.UsageError("--raw, --config, --digest: one of them at a time")
    if parts:
        # it is the same in each output format
        return session.submit("raw", (image,), {**env, "part": parts[0]}, submit, out=session.out)
    return session.submit("inspect", (image,), env, submit)


@click.command(short_help="Give an image of the store a further name.")
@click.argument("source")
@click.argument("target")
@submit_options
@click.pass_obj
def tag(session: Session, source: str, target: str, submit: SubmitOptions) -> int:
    """Give SOURCE, an image of the store, the further name TARGET."""
    return session.submit("tag", (source, target), {}, submit)
