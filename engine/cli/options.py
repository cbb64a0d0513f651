"""Options that many commands share, and how their words are read."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from .session import SubmitOptions

__all__ = ["read_duration", "read_pairs", "read_stdin", "read_value", "submit_options"]

_F = TypeVar("_F", bound=Callable[..., Any])


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)
_WORD = re.compile(r"[\w.-]+", re.ASCII)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def read_duration(
    ctx: click.Context | None, param: click.Parameter | None, value: str | None
) -> float | None:
    """Seconds, from a number with or without a unit: ``90``, ``1.5m``, ``2h``, ``1d``."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < 10**9:
        raise click.BadParameter(
            f"{value!r} is no time to come; 90, 90s, 1.5m, 2h and 1d are", ctx=ctx, param=param
        )
    return seconds


def submit_options(command: _F) -> _F:
    """Give a command ``--detach``, ``--key``, ``--deadline`` and ``--priority``; it gets them
    as one argument ``submit``, a `SubmitOptions`."""

    @functools.wraps(command)
    def collected(*args: Any, **values: Any) -> Any:
        names = ("detach", "key", "deadline", "priority")
        submit = SubmitOptions(**{name: values.pop(f"submit_{name}") for name in names})
        return command(*args, submit=submit, **values)

    made: Any = collected
    for option in reversed(submit_parameters()):
        made = option(made)
    return made  # type: ignore[no-any-return]


def submit_parameters() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--detach",
            "submit_detach",
            is_flag=True,
            help="Print the job's id and do not wait for its end.",
        ),
        click.option(
            "--key",
            "submit_key",
            metavar="KEY",
            help="Submit only once: the same key with the same work is the same job.",
        ),
        click.option(
            "--deadline",
            "submit_deadline",
            callback=read_duration,
            metavar="TIME",
            help="Cancel the job when it takes longer: 90, 1.5m, 2h.",
        ),
        click.option(
            "--priority",
            "submit_priority",
            type=click.IntRange(-100, 100),
            default=0,
            metavar="N",
            help="From -100 to 100; a higher one comes first.",
        ),
    ]


def read_pairs(pairs: Iterable[str], what: str = "-e") -> dict[str, str]:
    """``KEY=VALUE`` and ``KEY=@FILE`` as a map; of a repeated key the last counts.

    ``@-`` is standard input; a value that begins with ``@@`` begins with one ``@``.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            # the rest may be a secret, so that no more than a first word is shown
            shown = _WORD.match(key)
            word = f", not {shown[0]!r}" if shown else ""
            raise click.UsageError(f"{what}: KEY=VALUE or KEY=@FILE is wanted{word}")
        found.pop(key, None)
        found[key] = read_value(value, f"{what} {key}")
    return found


def read_value(value: str, what: str) -> str:
    """``value``, or the content of the file that it names, without its last newline."""
    if value.startswith("@@"):
        return value[1:]
    if not value.startswith("@"):
        return value
    if value == "@-":
        return read_stdin(what)
    try:
        content = _content(value[1:])
    except (OSError, ValueError) as error:  # a path with a NUL is the latter
        raise click.UsageError(f"{what}: {value[1:]}: {_reason(error)}") from None
    return _line(content, f"{what}: {value[1:]}")


def read_stdin(what: str) -> str:
    """All of standard input without its last newline. ``what`` names it in an error."""
    try:
        content = sys.stdin.buffer.read()
    except OSError as error:
        raise click.UsageError(f"{what}: standard input: {_reason(error)}") from None
    return _line(content, f"{what}: standard input")


def _line(content: bytes, where: str) -> str:
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # which shows the content, perhaps a secret
        raise click.UsageError(f"{where}: not UTF-8 text") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _content(path: str) -> bytes:
    from pathlib import Path  # costs more than it does, at every start

    return Path(path).read_bytes()
