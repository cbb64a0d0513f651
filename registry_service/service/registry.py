"""What a registry is asked: auth, search, tags."""

from __future__ import annotations

from typing import Final

from engine import Argument, Column, ColumnType, JobSpec, Option, OptionType, Status
from engine.spec import RowMode

from ..operations.login import login
from ..operations.search import Query
from ..operations.search import search as search_registry
from .call import AUTH, HEADERS, Call, Entry

__all__ = ["JOBS", "auth", "search", "tags"]


def auth(call: Call) -> Status:
    """Text: the status line. OK only when the registry accepts the credentials."""
    result = login(
        call.credentials,
        registries=call.registries,
        headers={},
        cancel=call.cancel,
        observer=call.observer,
    )
    call.job.write(f"{result.status}\n")
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
    for name in call.client(reference).tags(reference.repository):
        call.job.row(reference.name, name)
    return Status.OK


JOBS: Final = (
    Entry(
        JobSpec(
            name="auth",
            help="Check credentials against a registry. Nothing is stored.",
            options=(AUTH,),
            queue="registry",
        ),
        auth,
    ),
    Entry(
        JobSpec(
            name="search",
            help="Search an index, or a registry: HOST/TERM.",
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
)
