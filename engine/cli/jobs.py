"""Commands that are made from what a job says of itself (``describe``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from ..errors import EngineError
from ..status import Status
from .options import read_pairs, read_value, submit_options
from .session import Session, SubmitOptions

__all__ = ["job_command", "option_flag"]

_Row = Mapping[str, Any]


def job_command(session: Session, name: str) -> click.Command:
    """The command that runs the job ``name``.

    Its options are those of the job's environment, as flags; every job has ``-e`` too. The
    engine checks the arguments, so that its usage errors are the same wherever they come from.
    A name that the engine does not know makes a command all the same: the engine then says so,
    and of its help nobody can say anything else.
    """
    rows: Sequence[_Row] = ()
    unknown: EngineError | None = None
    try:
        rows = session.rows("describe", name)
    except EngineError as error:
        if error.status is not Status.UNKNOWN_JOB:
            raise
        unknown = error
    arguments = [row for row in rows if row["kind"] == "argument"]
    options = _flags([row for row in rows if row["kind"] == "option"])

    @submit_options
    def run(args: tuple[str, ...], env: tuple[str, ...], submit: SubmitOptions, **v: Any) -> int:
        values: dict[str, Any] = dict(read_pairs(env))
        for flag, row in options.items():
            given = v[_variable(flag)]
            if given is not None and given != ():
                values[row["name"]] = _value(flag, row, given)
        return session.submit(name, args, values, submit)

    command = click.command(
        name,
        cls=click.Command if unknown is None else _helpless(unknown),
        help=_help(rows),
        options_metavar="[OPTIONS]",
        context_settings={"ignore_unknown_options": not rows},
    )(run)
    command.params = [
        click.Argument(
            ["args"],
            nargs=-1,
            metavar=" ".join(map(_metavar, arguments)) or ("[ARG]..." if not rows else ""),
        ),
        *(_option(flag, row) for flag, row in options.items()),
        click.Option(
            ["-e", "env"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Set a value of the job's environment; KEY=@FILE reads it from a file.",
        ),
        *command.params,
    ]
    return command


def option_flag(name: str) -> str:
    """``authConfig`` as ``--auth-config``."""
    words = "".join(f"-{char.lower()}" if char.isupper() else char for char in name)
    return "--" + words.replace("_", "-").replace(".", "-").strip("-")


def _flags(options: Iterable[_Row]) -> dict[str, _Row]:
    """The flag of each option. One that is no flag, or that another has already, is left out:
    such an option is given with ``-e``."""
    taken = set(_TAKEN)
    found: dict[str, _Row] = {}
    for row in options:
        flag = option_flag(row["name"])
        flags = {flag, f"--no-{flag[2:]}"} if row["type"] == "boolean" else {flag}
        if flag != "--" and _variable(flag).isidentifier() and taken.isdisjoint(flags):
            taken |= flags
            found[flag] = row
    return found


#: Flags that every job command has already; an option of such a name is given with ``-e``.
_TAKEN = frozenset({"--help", "--detach", "--key", "--deadline", "--priority"})


def _helpless(unknown: EngineError) -> type[click.Command]:
    class Unknown(click.Command):
        def get_help(self, ctx: click.Context) -> str:
            raise unknown

    return Unknown


def _help(rows: Sequence[_Row]) -> str:
    about = next((row["help"] for row in rows if row["kind"] == "job"), "") or ""
    lines = [
        f"  {row['name']}  {row['help']}"
        for row in rows
        if row["kind"] == "argument" and row["help"]
    ]
    columns = ", ".join(row["name"] for row in rows if row["kind"] == "column")
    parts = [about]
    if lines:
        parts.append("\n".join(["\b", "Arguments:", *lines]))
    if columns:
        parts.append(f"Columns: {columns}")
    return "\n\n".join(filter(None, parts))


def _metavar(row: _Row) -> str:
    word = f"{row['name']}..." if row["repeated"] else row["name"]
    return word if row["required"] else f"[{word}]"


def _variable(flag: str) -> str:
    return f"option_{flag.strip('-').replace('-', '_')}"


def _option(flag: str, row: _Row) -> click.Option:
    names = [_variable(flag), flag]
    about = row["help"] or ""
    if row["default"]:
        about = f"{about}  [default: {row['default']}]".strip()
    if row["type"] == "boolean":
        return click.Option([names[0], f"{flag}/--no-{flag[2:]}"], default=None, help=about)
    if row["secret"]:
        return click.Option(names, metavar="@FILE", help=f"{about} Secret: @FILE or @- only.")
    if row["type"] == "list":
        return click.Option(names, multiple=True, metavar="WORD", help=f"{about} Repeatable.")
    return click.Option(names, metavar=row["type"].upper(), help=about)


def _value(flag: str, row: _Row, given: Any) -> str:
    if row["type"] == "boolean":
        return "true" if given else "false"
    if row["type"] == "list":
        words = [word for item in given for word in item.split(",") if word]
        return json.dumps(words, ensure_ascii=False)
    if row["secret"] and not given.startswith("@"):
        raise click.UsageError(
            f"{flag} is secret, and the command line is not: give it as @FILE, or @- for "
            "standard input"
        )
    return read_value(given, flag)
