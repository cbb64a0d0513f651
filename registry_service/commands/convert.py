"""What makes one image of another: convert."""

from __future__ import annotations

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .options import PLATFORM

__all__ = ["FORMAT", "convert"]

FORMAT = click.option(
    "--format",
    type=click.Choice(["oci", "docker"]),
    help="Convert the manifests into this format.",
)


@click.command(short_help="Put an image into Docker's or OCI's format.")
@click.argument("source")
@click.argument("target")
@click.option(
    "--format",
    type=click.Choice(["oci", "docker"]),
    required=True,
    help="The format of the manifests.",
)
@PLATFORM
@submit_options
@click.pass_obj
def convert(
    session: Session,
    source: str,
    target: str,
    format: str,
    platform: str | None,
    submit: SubmitOptions,
) -> int:
    """Give SOURCE, an image of the store, the name TARGET in Docker's or in OCI's format.

    Configurations and layers stay the same; manifests get another digest.
    """
    env = {"format": format, "platform": platform}
    return session.submit("convert", (source, target), env, submit)
