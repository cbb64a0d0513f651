"""The engine's own jobs: what there is to run, what one takes, how the engine is."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from .errors import UnknownJobError
from .spec import Argument, Column, ColumnType, JobSpec, RowMode
from .version import __version__

if TYPE_CHECKING:
    from .engine import Engine
    from .job import Job

__all__ = ["install"]

_COMMANDS = JobSpec(
    name="commands",
    help="List the jobs that can be run.",
    columns=(Column(name="name"), Column(name="usage"), Column(name="help")),
    queue="engine",
    journalled=False,
)
_DESCRIBE = JobSpec(
    name="describe",
    help="Show the arguments, the environment and the columns of a job.",
    arguments=(Argument(name="NAME", help="the job"),),
    columns=(
        Column(name="kind"),
        Column(name="name"),
        Column(name="type"),
        Column(name="required", type=ColumnType.BOOLEAN),
        Column(name="repeated", type=ColumnType.BOOLEAN),
        Column(name="secret", type=ColumnType.BOOLEAN),
        Column(name="default"),
        Column(name="help"),
    ),
    queue="engine",
    journalled=False,
)
_INFO = JobSpec(
    name="info",
    help="Show the version, the limits, the uptime and the queues of the engine.",
    columns=(Column(name="name"), Column(name="value", type=ColumnType.JSON)),
    queue="engine",
    journalled=False,
)


def install(engine: Engine) -> None:
    """Register the engine's own jobs."""

    def commands(job: Job) -> None:
        for spec in engine.commands():
            job.row(spec.name, spec.usage, spec.help)

    def describe(job: Job) -> None:
        (name,) = job.args
        spec = next((spec for spec in engine.commands() if spec.name == name), None)
        if spec is None:
            engine.resolve(name)  # says what is near, unless a catch-all takes the name
            raise UnknownJobError(f"nothing is known of the job {name!r}")
        for row in description(spec):
            job.row(*row)

    def info(job: Job) -> None:
        job.row("version", __version__)
        job.row("python", platform.python_version())
        for name, value in engine.information().items():
            job.row(name, value)

    engine.register("commands", commands, _COMMANDS)
    engine.register("describe", describe, _DESCRIBE)
    engine.register("info", info, _INFO)


def description(
    spec: JobSpec,
) -> list[tuple[str, str, str, bool, bool, bool, str | None, str]]:
    """The rows of ``describe``: the job, then its arguments, options and columns in order."""
    mode = "row a message" if spec.row_mode is RowMode.SINGLE else "batches"
    rows: list[tuple[str, str, str, bool, bool, bool, str | None, str]] = [
        ("job", spec.name, mode, True, False, False, spec.usage, spec.help)
    ]
    rows += [
        ("argument", one.name, "string", one.required, one.repeated, False, None, one.help)
        for one in spec.arguments
    ]
    rows += [
        ("option", one.name, str(one.type), False, False, one.secret, one.default, one.help)
        for one in spec.options
    ]
    rows += [
        ("column", one.name, str(one.type), False, False, False, None, "") for one in spec.columns
    ]
    return rows
