"""What other packages add to the engine: the entry points of their distributions.

The standard library finds them too, but importing what it needs for that takes longer than
all the rest of a short command. This looks at the same files (``entry_points.txt`` in the
``*.dist-info`` and ``*.egg-info`` directories of ``sys.path``, the packaging specification
'Entry points') and leaves what is no directory to the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "SERVICES", "EntryPoint", "entry_points"]

#: Factories of services: called without arguments they give an `Installer`.
SERVICES = "engine.services"
#: Commands of ``enginectl``: a list of click commands, or a function that returns one.
COMMANDS = "engine.commands"


class EntryPoint(NamedTuple):
    """``value`` is ``module:attribute``; ``distribution`` is who brings it, for errors."""

    name: str
    value: str
    distribution: str

    def load(self) -> Any:
        """The object. Raises whatever its module raises."""
        module, _, attribute = self.value.partition("[")[0].partition(":")
        found: Any = importlib.import_module(module.strip())
        for part in filter(None, attribute.strip().split(".")):
            found = getattr(found, part)
        return found


def entry_points(group: str, path: Iterable[str] | None = None) -> list[EntryPoint]:
    """The entry points of ``group`` by name, of what is installed on ``path`` (default:
    ``sys.path``). Of a distribution that is there twice, the first counts."""
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for place in sys.path if path is None else path:
        for name, content in _distributions(place or "."):
            if name not in seen:
                seen.add(name)
                found += (EntryPoint(key, value, name) for key, value in _section(content, group))
    return sorted(found)


def _distributions(place: str) -> Iterator[tuple[str, str]]:
    """The normalised name and the ``entry_points.txt`` of each distribution in ``place``."""
    try:
        names = os.listdir(place)  # noqa: PTH208 - pathlib is one of the imports to be spared
    except NotADirectoryError:
        yield from _archived(place)
        return
    except OSError:  # sys.path may name what is not there
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            content = _read(f"{place}/{name}/entry_points.txt")
            yield _normal(name.rpartition(".")[0].partition("-")[0]), content


def _archived(place: str) -> Iterator[tuple[str, str]]:
    from importlib import metadata

    for one in metadata.distributions(path=[place]):
        yield _normal(one.metadata["Name"]), one.read_text("entry_points.txt") or ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as above
            return file.read()
    except (OSError, UnicodeDecodeError):  # most have none; one that is broken says nothing
        return ""


def _section(content: str, group: str) -> Iterator[tuple[str, str]]:
    inside = False
    for line in map(str.strip, content.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line and line[0] not in "#;":
            name, equals, value = line.partition("=")
            if equals:
                yield name.strip(), value.strip()


def _normal(name: str) -> str:
    """As PEP 503 writes names, so that two spellings are one."""
    words = name.lower().replace("_", "-").replace(".", "-").split("-")
    return "-".join(filter(None, words))
