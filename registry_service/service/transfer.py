"""What moves content: pull, push."""

from __future__ import annotations

from typing import Final

from engine import Argument, JobSpec, Option, Status

from ..operations.archives import ArchivePath, push_archive
from ..operations.pull import pull as pull_image
from ..operations.pull import pull_all_tags
from ..operations.push import push as push_image
from ..reference import Reference
from .call import (
    ALL_TAGS,
    AUTH,
    DESCRIPTORS,
    HEADERS,
    IMAGE,
    PLATFORM,
    REFERRERS,
    Call,
    Entry,
    flag,
)
from .convert import FORMAT, wanted_format

__all__ = ["JOBS", "pull", "push"]


def pull(call: Call) -> Status:
    """One row for each descriptor when it is settled, the image's own last."""
    every = call.job.env.get_bool("allTags")
    reference = call.repository("with allTags ") if every else Reference.parse(call.job.args[0])
    transfer = pull_all_tags if every else pull_image
    transfer(
        reference,
        client=call.reader(reference),
        store=call.store,
        platform=call.platform,
        format=wanted_format(call),
        referrers=call.job.env.get_bool("referrers"),
        cancel=call.cancel,
        observer=call.observer,
    )
    return Status.OK


def push(call: Call) -> Status:
    """One row for each descriptor when it is settled, the image's own last."""
    reference = Reference.parse(call.job.args[0])
    source = call.job.env.get("from")
    if source:
        push_archive(
            ArchivePath.parse(source),
            reference,
            connect=lambda inner: call.client(reference, inner),
            store=call.store,
            platform=call.platform,
            format=wanted_format(call),
            foreign=call.job.env.get_bool("foreign"),
            referrers=call.job.env.get_bool("referrers"),
            places=call.shared.places,
            cancel=call.cancel,
            observer=call.observer,
        )
        return Status.OK
    push_image(
        reference,
        connect=lambda inner: call.client(reference, inner),
        store=call.store,
        platform=call.platform,
        format=wanted_format(call),
        foreign=call.job.env.get_bool("foreign"),
        referrers=call.job.env.get_bool("referrers"),
        cancel=call.cancel,
        observer=call.observer,
    )
    return Status.OK


JOBS: Final = (
    Entry(
        JobSpec(
            name="pull",
            help="Fetch an image from its registry into the store.",
            arguments=(IMAGE,),
            options=(
                AUTH,
                HEADERS,
                PLATFORM,
                FORMAT,
                ALL_TAGS,
                REFERRERS,
            ),
            columns=DESCRIPTORS,
            queue="transfer",
            resumable=True,
        ),
        pull,
    ),
    Entry(
        JobSpec(
            name="push",
            help="Send an image of the store to the registry that its name says.",
            arguments=(Argument(name="IMAGE[:TAG]", help="the image"),),
            options=(
                AUTH,
                HEADERS,
                PLATFORM,
                FORMAT,
                REFERRERS,
                flag("foreign", "Send layers too that are fetched from elsewhere, by their URLs."),
                Option(
                    name="from",
                    help="Send an image of an archive instead: docker-archive:PATH[:REF] or "
                    "oci-archive:PATH[:REF].",
                ),
            ),
            columns=DESCRIPTORS,
            queue="transfer",
            resumable=True,
        ),
        push,
    ),
)
