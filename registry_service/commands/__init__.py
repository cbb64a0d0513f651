"""The commands that this package brings to ``enginectl``: jobs with options for people.

options       options that several commands have
registry      auth, search, tags, registries
transfer      pull, push
images        images, inspect, tag
repositories  catalog, referrers, delete, copy
convert       convert
archives      save, load
upkeep        remove, gc, verify
login         login, logout
own           the credentials that the user has already

Only what turns words into a job's arguments and environment is here, and what the jobs must
not have: the user's own files. The jobs decide the rest.
"""

from __future__ import annotations

import click

from .archives import load, save
from .convert import convert
from .images import images, inspect, tag
from .login import login, logout
from .registry import auth, registries, search, tags
from .repositories import catalog, copy, delete, referrers
from .transfer import pull, push
from .upkeep import gc, remove, verify

__all__ = ["commands"]


def commands() -> list[click.Command]:
    """The commands, for the entry-point group ``engine.commands``."""
    return [
        auth,
        login,
        logout,
        search,
        pull,
        push,
        copy,
        tags,
        catalog,
        referrers,
        delete,
        images,
        inspect,
        tag,
        registries,
        convert,
        save,
        load,
        remove,
        gc,
        verify,
    ]
