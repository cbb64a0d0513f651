"""What a job says of itself: arguments, environment, result columns, scheduling.

A `JobSpec` drives validation, ``Usage:`` errors, ``commands``, ``describe``, the command
line's help, and what is redacted. Nothing here runs anything.
"""

from __future__ import annotations

import dataclasses
import enum

__all__ = ["Argument", "Column", "ColumnType", "JobSpec", "Option", "OptionType", "RowMode"]


class ColumnType(enum.StrEnum):
    STRING = "string"
    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TIME = "time"  # seconds since the epoch, a float
    BYTES = "bytes"
    JSON = "json"  # any JSON value


class OptionType(enum.StrEnum):
    STRING = "string"
    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    LIST = "list"  # a JSON list of strings, or words separated by commas
    JSON = "json"


class RowMode(enum.StrEnum):
    """``single``: each row is a message of its own. ``batch``: 100 rows, 64 KiB or 20 ms."""

    SINGLE = "single"
    BATCH = "batch"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A named, typed column. A cell of any type may be None."""

    name: str
    type: ColumnType = ColumnType.STRING

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a column needs a name")
        object.__setattr__(self, "type", ColumnType(self.type))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A positional argument. Only the last may be repeated; none follows an optional one
    that is required."""

    name: str
    help: str = ""
    required: bool = True
    repeated: bool = False

    def __str__(self) -> str:
        word = f"{self.name}…" if self.repeated else self.name
        return word if self.required else f"[{word}]"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A value of the environment that a job reads. A ``secret`` never reaches a log, a
    listing, an error or the journal."""

    name: str
    type: OptionType = OptionType.STRING
    default: str | None = None
    secret: bool = False
    help: str = ""

    def __post_init__(self) -> None:
        if self.name.split() != [self.name] or "=" in self.name or "\0" in self.name:
            raise ValueError(f"{self.name!r} is no option name: a word without '=' is")
        object.__setattr__(self, "type", OptionType(self.type))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """The description of one job.

    ``queue`` names the executor's queue whose concurrency limit counts; ``journalled`` is
    false for the engine's own queries; ``resumable`` says that a job interrupted by a crash
    may run again under the same id.
    """

    name: str
    help: str = ""
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    columns: tuple[Column, ...] = ()
    row_mode: RowMode = RowMode.BATCH
    queue: str = "default"
    journalled: bool = True
    resumable: bool = False

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip() or "=" in self.name:
            raise ValueError(f"{self.name!r} is no job name: words without '=' are")
        for before, after in zip(self.arguments, self.arguments[1:], strict=False):
            if before.repeated:
                raise ValueError(f"{self.name}: only the last argument may be repeated")
            if after.required and not before.required:
                raise ValueError(f"{self.name}: {after.name} is required after an optional one")
        object.__setattr__(self, "row_mode", RowMode(self.row_mode))
        if len({column.name for column in self.columns}) != len(self.columns):
            raise ValueError(f"{self.name}: a column name stands twice")
        if len({option.name for option in self.options}) != len(self.options):
            raise ValueError(f"{self.name}: an option name stands twice")

    @property
    def usage(self) -> str:
        """The line that ``Usage:`` shows, such as ``search TERM``."""
        return " ".join([self.name, *map(str, self.arguments)])

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the environment values that must not be shown."""
        return frozenset(option.name for option in self.options if option.secret)

    def check_arguments(self, args: tuple[str, ...]) -> str | None:
        """What is wrong with the number of arguments, or None."""
        least = sum(argument.required for argument in self.arguments)
        most = len(self.arguments)
        if len(args) < least:
            return f"{self.name}: {self.arguments[len(args)].name} is missing"
        if len(args) > most and not (self.arguments and self.arguments[-1].repeated):
            return f"{self.name}: {args[most]!r} is one argument too many"
        return None
