"""A service for the tests of the daemon and the command line: jobs that do as they are told."""

from __future__ import annotations

import threading
from pathlib import Path

from engine import Argument, Column, ColumnType, Engine, Job, JobSpec, Option, OptionType, Status
from engine.records import Text

__all__ = ["Service", "installed"]

_SPECS = (
    JobSpec(
        name="echo",
        help="Give each word back.",
        arguments=(
            Argument(name="WORD", help="the first word"),
            Argument(name="MORE", required=False, repeated=True),
        ),
        columns=(Column(name="place", type=ColumnType.INTEGER), Column(name="word")),
    ),
    JobSpec(
        name="options",
        help="Give the environment back.",
        options=(
            Option(name="someText", default="plain", help="Any text."),
            Option(name="count", type=OptionType.INTEGER),
            Option(name="quiet", type=OptionType.BOOLEAN),
            Option(name="words", type=OptionType.LIST),
            Option(name="token", secret=True),
            Option(name="key", help="A name that the command line has for itself."),
            Option(name="some_text", help="A name whose flag is that of another."),
            Option(name="a/b", help="A name that makes no flag."),
            Option(name="_", help="Another one."),
            Option(name="no-quiet", help="A name whose flag is that of a boolean."),
        ),
        columns=(Column(name="name"), Column(name="value")),
    ),
    JobSpec(
        name="kinds",
        help="One row of every type.",
        columns=tuple(Column(name=str(kind), type=kind) for kind in ColumnType),
    ),
)


class Service:
    """Found through an entry point, as a stranger's would be."""

    def install(self, engine: Engine) -> None:
        handlers = {
            "echo": echo,
            "options": options,
            "kinds": kinds,
        }
        for spec in _SPECS:
            engine.register(spec.name, handlers[spec.name], spec)
        for handler in (say, hang, stubborn, fail, bare, endless, settings):
            engine.register(handler.__name__, handler)


def echo(job: Job) -> None:
    for place, word in enumerate(job.args):
        job.row(place, word)


def options(job: Job) -> None:
    for name, value in job.env.items():
        job.row(name, value)


def kinds(job: Job) -> None:
    job.row('text, "quoted"\n\x1b[31m', 12, 1.5, True, 0.0, b"\x00\xff", {"a": [1]})
    job.row(*[None] * len(ColumnType))


def say(job: Job) -> None:
    job.log("info", "nobody needs to know")
    job.log("warning", "something \x1b[2J is odd")
    job.write("to the output\n")
    job.output.append(Text(text="to the side\n", stream="stderr"))
    job.write(b"\x00\x01")


def hang(job: Job) -> Status:
    """Emit something, then wait for the cancel; the argument is how many seconds at most."""
    job.schema(
        [
            Column(name="reference"),
            Column(name="digest"),
            Column(name="size", type=ColumnType.INTEGER),
        ]
    )
    job.row("here", "sha256:" + "ab" * 32, 123_456)
    job.progress("sha256:" + "cd" * 32, "fetching", 10, 100)
    job.progress("other", "fetching", 1)
    if job.wait_cancelled(60):
        job.check_cancelled()
    return Status.ERROR


def stubborn(job: Job) -> None:
    """Takes no notice of a cancel until a file says so."""
    job.write("begun\n")
    release = Path(job.args[0])
    pause = threading.Event()
    for _ in range(6000):
        if release.exists():
            return
        pause.wait(0.01)


def fail(job: Job) -> Status:
    return job.error("it went wrong: \x1b[31mred", status=Status(int(job.args[0])))


def bare(job: Job) -> None:
    job.write(" ".join(job.args))


def endless(job: Job) -> None:
    job.schema([Column(name="number", type=ColumnType.INTEGER)])
    number = 0
    while not job.cancelled:
        job.row(number)
        number += 1


def settings(job: Job) -> None:
    job.write(str(job.settings.get("greeting", "none")))


def installed(place: Path, **groups: str) -> Path:
    """Make ``place`` a directory for PYTHONPATH on which this service is 'installed'.

    ``groups`` are further entry points: the group, with ``_`` for ``.``, to ``name = value``.
    """
    about = place / "trial_service-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: trial-service\nVersion: 1.0\n")
    points = {"engine_services": "trial = trial_service:Service", **groups}
    (about / "entry_points.txt").write_text(
        "".join(f"[{group.replace('_', '.')}]\n{value}\n" for group, value in points.items())
    )
    return place
