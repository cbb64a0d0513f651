"""What is in registries, and what is done there: catalog, referrers, delete, copy."""

from __future__ import annotations

import sys
from typing import Any

import click

from engine.cli.options import submit_options
from engine.cli.session import Session, SubmitOptions

from .options import (
    ALL_TAGS,
    PLATFORM,
    REFERRERS,
    access_options,
    access_options_for,
    add_target,
    read_credentials,
    read_headers,
)

__all__ = ["catalog", "copy", "delete", "referrers"]

_TARGET = ("--target-user", "--target-password-stdin")


@click.command()
@click.argument("host", required=False)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The most repositories.")
@access_options_for(lambda values: values["host"] or "")
@submit_options
@click.pass_obj
def catalog(
    session: Session,
    host: str | None,
    limit: int | None,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """List the repositories of the registry HOST."""
    args = () if host is None else (host,)
    return session.submit("catalog", args, {**access, "limit": limit}, submit)


@click.command(short_help="List what belongs to an image in its registry.")
@click.argument("image")
@click.option("--artifact-type", metavar="TYPE", help="Only referrers of this type.")
@access_options
@submit_options
@click.pass_obj
def referrers(
    session: Session,
    image: str,
    artifact_type: str | None,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """List what belongs to IMAGE in its registry: signatures, SBOMs, attestations."""
    env = {**access, "artifactType": artifact_type}
    return session.submit("referrers", (image,), env, submit)


@click.command(short_help="Delete a tag or a manifest in its registry.")
@click.argument("reference")
@click.option("--force", is_flag=True, help="Delete the manifest even if other tags lead to it.")
@access_options
@submit_options
@click.pass_obj
def delete(
    session: Session,
    reference: str,
    force: bool,
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Delete REFERENCE, REPOSITORY:TAG or REPOSITORY@DIGEST, in its registry.

    Other tags stay what they are: where the registry cannot delete a tag alone, its image is
    deleted only if no other tag leads to it.
    """
    env = {**access, "force": force or None}
    return session.submit("delete", (reference,), env, submit)


@click.command()
@click.argument("source")
@click.argument("target")
@PLATFORM
@ALL_TAGS
@REFERRERS
@click.option(
    "--target-user", metavar="USER", help="The user name for the target's registry, as -u."
)
@click.option(
    "--target-password-stdin",
    is_flag=True,
    help="Read the password for the target's registry from standard input.",
)
@click.option(
    "--target-header",
    "target_headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="As --header, for the target's registry.",
)
@access_options
@submit_options
@click.pass_obj
def copy(
    session: Session,
    source: str,
    target: str,
    platform: str | None,
    all_tags: bool,
    referrers: bool,
    target_user: str | None,
    target_password_stdin: bool,
    target_headers: tuple[str, ...],
    access: dict[str, Any],
    submit: SubmitOptions,
) -> int:
    """Copy the image SOURCE to TARGET, from registry to registry.

    TARGET without a tag gets that of SOURCE. Within one registry, -u and --header serve both
    sides unless the target has its own.
    """
    env = {
        **access,
        "platform": platform,
        "allTags": all_tags or None,
        "referrers": referrers or None,
    }
    if target_user is not None or target_password_stdin:
        given = click.get_current_context().params  # the user's own come from elsewhere
        of_source = given["user"] is not None or given["password_stdin"]
        if target_user and of_source and not sys.stdin.isatty():
            raise click.UsageError(
                "standard input holds one password, and that was the source's: "
                "'enginectl login' keeps the target's"
            )
        env["targetAuthConfig"] = read_credentials(target_user, target_password_stdin, _TARGET)
    if target_headers:
        env["targetMetaHeaders"] = read_headers(target_headers, "--target-header")
    add_target(env, source, target)
    return session.submit("copy", (source, target), env, submit)
