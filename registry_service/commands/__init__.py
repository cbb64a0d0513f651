"""The commands that this package brings to ``enginectl``: jobs with options for people.

options     options that several commands have
registry    auth, search, tags, registries
transfer    pull, push
images      images, inspect, tag
convert     convert

Only what turns words into a job's arguments and environment is here; the jobs decide the rest.
"""

from __future__ import annotations

import click

from .convert import convert
from .images import images, inspect, tag
from .registry import auth, registries, search, tags
from .transfer import pull, push

__all__ = ["commands"]


def commands() -> list[click.Command]:
    """The commands, for the entry-point group ``engine.commands``."""
    return [auth, search, pull, push, tags, images, inspect, tag, registries, convert]
