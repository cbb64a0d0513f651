"""What a registry is asked, and what is known of it: auth, search, tags, registries."""

from __future__ import annotations

import dataclasses
from typing import Final

from engine import Argument, Column, ColumnType, JobSpec, Option, OptionType, Status
from engine.spec import RowMode

from ..capabilities import Capabilities
from ..operations.login import login
from ..operations.search import Query
from ..operations.search import search as search_registry
from .call import AUTH, HEADERS, Call, Entry, flag

__all__ = ["JOBS", "auth", "registries", "search", "tags"]


def auth(call: Call) -> Status:
    """Text: the status line. OK only when the registry accepts the credentials.

    An identity token that was asked for and handed out follows, as bytes. The job is not
    journalled, so that its output is kept nowhere.
    """
    result = login(
        call.credentials,
        registries=call.registries,
        cancel=call.cancel,
        observer=call.observer,
        offline=call.job.env.get_bool("identityToken"),
    )
    call.job.write(f"{result.status}\n")
    if result.identity_token:
        call.job.write(result.identity_token.encode())
    return Status.OK


def search(call: Call) -> Status:
    """One row for each repository that was found, most stars first."""
    job = call.job
    query = Query.parse(
        job.args[0], limit=job.env.get_int("limit", 25), filters=job.env.get_json("filters")
    )
    found = search_registry(
        query,
        registries=call.registries,
        access=call.access,
        cancel=call.cancel,
        observer=call.observer,
    )
    for one in found:
        job.row(one.name, one.description, one.star_count, one.is_official, one.is_trusted)
    return Status.OK


def tags(call: Call) -> Status:
    """One row for each tag, in the registry's order."""
    reference = call.repository()
    for name in call.reader(reference).tags(reference.repository):
        call.job.row(reference.name, name)
    return Status.OK


def registries(call: Call) -> Status:
    """One row for each registry that was spoken to, by host."""
    for one in call.registries.capabilities.all():
        call.job.row(*dataclasses.astuple(one))
    return Status.OK


_FLAGS = ("ranges", "mounts", "referrers", "deletes", "chunks")
_NUMBERS = ("chunk_limit", "rate_limit", "rate_remaining")


def _column(name: str) -> Column:
    if name in _FLAGS:
        return Column(name=name, type=ColumnType.BOOLEAN)
    if name in _NUMBERS:
        return Column(name=name, type=ColumnType.INTEGER)
    return Column(name=name, type=ColumnType.TIME if name == "seen" else ColumnType.STRING)


JOBS: Final = (
    Entry(
        JobSpec(
            name="auth",
            help="Check credentials against a registry. Nothing is stored.",
            options=(
                AUTH,
                flag(
                    "identityToken",
                    "Ask for an identity token; it follows the status line, as bytes.",
                ),
            ),
            queue="registry",
            journalled=False,
        ),
        auth,
    ),
    Entry(
        JobSpec(
            name="search",
            help="Search an index, or a registry: HOST/TERM, HOST/ for all that there is.",
            arguments=(Argument(name="TERM", help="free text, or HOST/TEXT"),),
            options=(
                AUTH,
                HEADERS,
                Option(
                    name="limit",
                    type=OptionType.INTEGER,
                    default="25",
                    help="The most results, from 1 to 10000.",
                ),
                Option(
                    name="filters",
                    type=OptionType.JSON,
                    help="A JSON map with stars (at least), is-official, is-trusted.",
                ),
            ),
            columns=(
                Column(name="name"),
                Column(name="description"),
                Column(name="star_count", type=ColumnType.INTEGER),
                Column(name="is_official", type=ColumnType.BOOLEAN),
                Column(name="is_trusted", type=ColumnType.BOOLEAN),
            ),
            row_mode=RowMode.SINGLE,
            queue="registry",
        ),
        search,
    ),
    Entry(
        JobSpec(
            name="tags",
            help="List the tags of a repository of a registry.",
            arguments=(Argument(name="REPOSITORY", help="a repository, without a tag"),),
            options=(AUTH, HEADERS),
            columns=(Column(name="repository"), Column(name="tag")),
            queue="registry",
        ),
        tags,
    ),
    Entry(
        JobSpec(
            name="registries",
            help="Show what is known of each registry since the engine was started.",
            columns=tuple(_column(field.name) for field in dataclasses.fields(Capabilities)),
            queue="registry",
            journalled=False,
        ),
        registries,
    ),
)
