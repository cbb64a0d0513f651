"""The engine's own commands: run, commands, describe, info."""

from __future__ import annotations

import click

from .options import read_pairs, submit_options
from .session import Session, SubmitOptions

__all__ = ["COMMANDS"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.argument("job")
@click.argument("args", nargs=-1)
@click.option(
    "-e",
    "env",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a value of the job's environment; KEY=@FILE reads it from a file, KEY=@- from "
    "standard input. Repeatable.",
)
@submit_options
@click.pass_obj
def run(
    session: Session,
    job: str,
    args: tuple[str, ...],
    env: tuple[str, ...],
    submit: SubmitOptions,
) -> int:
    """Run JOB with its arguments, and show what it emits."""
    return session.submit(job, args, read_pairs(env), submit)


@click.command()
@click.pass_obj
def commands(session: Session) -> int:
    """List the jobs that can be run."""
    return session.submit("commands")


@click.command()
@click.argument("job")
@click.pass_obj
def describe(session: Session, job: str) -> int:
    """Show the arguments, the environment and the columns of JOB."""
    return session.submit("describe", (job,))


@click.command(short_help="Show the version, the limits and the queues.")
@click.pass_obj
def info(session: Session) -> int:
    """Show the version, the limits, the uptime and the queues of the engine."""
    return session.submit("info")


COMMANDS = {command.name or "": command for command in (run, commands, describe, info)}
