"""The command line as a whole: where a word is looked for, and how everything ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from .. import plugins
from ..errors import EngineError
from ..status import Status
from ..streams import silence
from ..version import __version__
from .errors import complain
from .generic import COMMANDS
from .session import FORMATS, Session
from .text import printable

__all__ = ["enginectl", "run"]

_LISTING_SECONDS = 1.0


class _Commands(click.Group):
    """A word is one of the engine's own commands, else a command that a package brings
    (`plugins.COMMANDS`), else a job."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = COMMANDS.get(cmd_name) or _brought().get(cmd_name)
        if known is not None:
            return known
        from .jobs import job_command

        return job_command(_session(ctx), cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {*COMMANDS, *_brought()}
        try:
            names.update(_jobs(ctx))
        except EngineError:  # completion and help work without a daemon
            return sorted(names)
        return sorted(names)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        brought = _brought()
        _section(formatter, "Commands", _summaries(COMMANDS.values()))
        _section(formatter, "Commands of services", _summaries(brought.values()))
        try:
            jobs = _jobs(ctx)
        except EngineError as error:
            with formatter.section("Other jobs"):
                formatter.write_text(f"not known: {printable(str(error))}")
            return
        others = [(n, h) for n, h in jobs.items() if n not in brought and n not in COMMANDS]
        _section(formatter, "Other jobs", others)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--connect",
    metavar="ENDPOINT",
    envvar="ENGINE_CONNECT",
    is_eager=True,  # --help asks the engine
    default="",
    help="Where the engine listens: ipc://PATH or tcp://HOST:PORT (also: ENGINE_CONNECT).",
)
@click.option(
    "--output",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How rows are written; json is one object a line.",
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Show log lines of every level, and remarks, on standard error.",
)
@click.version_option(__version__, prog_name="enginectl", message="%(prog)s %(version)s")
@click.pass_context
def enginectl(ctx: click.Context, /, **_options: Any) -> None:
    """Run jobs on an engine and show what they emit.

    Any word that is no command is a job: 'enginectl JOB --help' shows what it takes. The exit
    status is the job's: 0 well, 1 failed, 2 wrong usage, 69 no engine answers, 75 try again,
    124 deadline passed, 126 not allowed, 127 no such job, 130 cancelled.
    """
    _session(ctx)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Says what is wrong on standard error."""
    # --help and completion ask the engine before click has read the environment
    endpoint = os.environ.get("ENGINE_CONNECT", "")
    session = Session(endpoint=endpoint, output="table", environ=os.environ)
    try:
        status = enginectl.main(
            args=None if argv is None else list(argv),
            prog_name="enginectl",
            standalone_mode=False,
            obj=session,
        )
        sys.stdout.flush()
        return int(status or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Status.USAGE
    except click.ClickException as error:
        complain(error.format_message(), sys.stderr)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}", err=True)
        return error.exit_code
    except EngineError as error:
        complain(str(error), sys.stderr)
        return int(error.status)
    except BrokenPipeError:  # let nothing more be written there, at the exit neither
        silence(sys.stdout.fileno())
        return Status.ERROR
    except OSError as error:
        complain(f"{error.filename or 'output'}: {error.strerror or error}", sys.stderr)
        return Status.ERROR
    except (KeyboardInterrupt, click.Abort):
        return Status.CANCELLED
    finally:
        session.close()


def _session(ctx: click.Context) -> Session:
    """The session, with the options as far as they have been read: a word may have to be
    looked up in the engine before click calls the group itself."""
    session = ctx.find_object(Session)
    assert session is not None  # `run` hands it in
    session.endpoint = ctx.params.get("connect") or session.endpoint
    session.output = ctx.params.get("output") or session.output
    session.verbose = bool(ctx.params.get("verbose"))
    return session


def _brought() -> Mapping[str, click.Command]:
    """The commands that packages bring. One that cannot be loaded takes none of the others
    with it."""
    found: dict[str, click.Command] = {}
    for entry in plugins.entry_points(plugins.COMMANDS):
        try:
            loaded: Any = entry.load()
            commands: Iterable[click.Command] = loaded() if callable(loaded) else loaded
            found.update((command.name or "", command) for command in commands)
        except Exception as error:
            complain(
                f"the commands of {entry.name} ({entry.value}, of {entry.distribution}) cannot "
                f"be loaded: {type(error).__name__}: {error}",
                sys.stderr,
            )
    return found


def _jobs(ctx: click.Context) -> dict[str, str]:
    session = _session(ctx)
    session.client(timeout=_LISTING_SECONDS)
    return {row["name"]: row["help"] for row in session.rows("commands")}


def _summaries(commands: Iterable[click.Command]) -> list[tuple[str, str]]:
    return [(one.name or "", one.get_short_help_str(60)) for one in commands if not one.hidden]


def _section(formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl([(printable(name), printable(about)) for name, about in rows])
