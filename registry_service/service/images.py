"""What there is: images, inspect, raw, tag."""

from __future__ import annotations

from functools import partial
from typing import Final

from engine import Argument, Column, ColumnType, JobSpec, Option, Status
from engine.errors import EnvError

from ..operations import listing
from ..operations.content import ALL
from ..operations.looking import Part, digest_of, document
from ..reference import Reference
from .call import AUTH, DESCRIPTORS, HEADERS, IMAGE, PLATFORM, Call, Entry, flag

__all__ = ["JOBS", "images", "inspect", "raw", "tag"]


def images(call: Call) -> Status:
    """One row for each image of the store, by name."""
    job = call.job
    for one in listing.images(call.store, call.observer):
        job.check_cancelled()
        job.row(
            one.reference,
            one.digest,
            one.media_type,
            one.size,
            list(one.platforms),
            one.complete,
        )
    return Status.OK


def inspect(call: Call) -> Status:
    """One row for each manifest: the image's own, then those of an index."""
    reference = Reference.parse(call.job.args[0])
    for one in listing.inspect(
        reference,
        store=call.store,
        connect=lambda: call.reader(reference),
        remote=call.job.env.get_bool("remote"),
        platform=call.platform or ALL,
        observer=call.observer,
    ):
        call.job.row(
            one.reference,
            one.digest,
            one.media_type,
            one.size,
            one.platform,
            one.created,
            list(one.layers),
            dict(one.annotations),
            one.config,
            one.source,
        )
    return Status.OK


def raw(call: Call) -> Status:
    """Bytes: the document. Text: the digest, with a line end."""
    reference = Reference.parse(call.job.args[0])
    part = _part(call.job.env.get("part", Part.MANIFEST.value))
    platform, remote = call.platform, call.job.env.get_bool("remote")
    connect = partial(call.reader, reference)
    if part is Part.DIGEST:
        digest = digest_of(
            reference, store=call.store, connect=connect, remote=remote, platform=platform
        )
        call.job.write(f"{digest}\n")
    else:
        found = document(
            reference, part, store=call.store, connect=connect, remote=remote, platform=platform
        )
        call.job.write(found)
    return Status.OK


def _part(word: str) -> Part:
    try:
        return Part(word)
    except ValueError:
        there = ", ".join(part.value for part in Part)
        raise EnvError("part", f"{word!r:.40} is none; there are {there}") from None


def tag(call: Call) -> Status:
    """One row: the new name and what it stands for."""
    source, target = map(Reference.parse, call.job.args)
    named = listing.tag(call.store, source, target, call.cancel)
    call.job.row(str(target), str(named.digest), named.media_type, named.size, "tagged")
    return Status.OK


_REMOTE: Final = flag("remote", "Ask the registry even where the store has the image.")

JOBS: Final = (
    Entry(
        JobSpec(
            name="images",
            help="List the images of the store.",
            columns=(
                Column(name="reference"),
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="platforms", type=ColumnType.JSON),
                Column(name="complete", type=ColumnType.BOOLEAN),
            ),
            queue="registry",
            journalled=False,
        ),
        images,
    ),
    Entry(
        JobSpec(
            name="inspect",
            help="Show the manifests and configurations of an image.",
            arguments=(IMAGE,),
            options=(
                AUTH,
                HEADERS,
                PLATFORM,
                _REMOTE,
            ),
            columns=(
                Column(name="reference"),
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="platform"),
                Column(name="created"),
                Column(name="layers", type=ColumnType.JSON),
                Column(name="annotations", type=ColumnType.JSON),
                Column(name="config", type=ColumnType.JSON),
                Column(name="source"),
            ),
            queue="registry",
        ),
        inspect,
    ),
    Entry(
        JobSpec(
            name="raw",
            help="Show an image's manifest, configuration or digest alone.",
            arguments=(IMAGE,),
            options=(
                AUTH,
                HEADERS,
                Option(
                    name="part",
                    default=Part.MANIFEST.value,
                    help="'manifest' or 'config', byte for byte, or 'digest'.",
                ),
                Option(
                    name="platform",
                    help="OS/ARCH[/VARIANT]: of the image for that, in the place of its index.",
                ),
                _REMOTE,
            ),
            queue="registry",
        ),
        raw,
    ),
    Entry(
        JobSpec(
            name="tag",
            help="Give an image of the store another name.",
            arguments=(
                Argument(name="SOURCE", help="an image of the store"),
                Argument(name="TARGET", help="its new name"),
            ),
            columns=DESCRIPTORS,
            queue="registry",
        ),
        tag,
    ),
)
