"""Keeping the store in order: remove, gc, verify."""

from __future__ import annotations

import collections
from typing import Final

from engine import Argument, Column, ColumnType, Job, JobSpec, Option, OptionType, Status
from engine.errors import UsageError

from ..errors import StoreError
from ..operations import remove as removal
from ..operations.verify import GOOD
from ..operations.verify import verify as verify_store
from ..reference import Reference
from .call import Call, Entry, flag

__all__ = ["JOBS", "gc", "remove", "verify"]

_GRACE: Final = 3600


def remove(call: Call) -> Status:
    """One row for each name that is gone, then one for each blob that went with it."""
    job = call.job
    references = [Reference.parse(text) for text in job.args]
    for one in removal.remove(
        call.store, references, prune=job.env.get_bool("prune"), cancel=call.cancel
    ):
        job.row(one.reference or None, one.digest, one.state)
    return Status.OK


def gc(call: Call) -> Status:
    """One row for each blob that no name leads to."""
    job = call.job
    for one in removal.gc(
        call.store,
        grace=_seconds(job, "grace", _GRACE),
        partial_age=_seconds(job, "partialAge", int(removal.PARTIAL_AGE)),
        dry_run=job.env.get_bool("dryRun"),
        cancel=call.cancel,
        observer=call.observer,
    ):
        job.row(str(one.digest), one.media_type or None, one.size, one.state)
    return Status.OK


def verify(call: Call) -> Status:
    """One row for each blob when it was read. An error where something is not as it should be."""
    job = call.job
    bad: collections.Counter[str] = collections.Counter()
    for one in verify_store(
        call.store,
        [Reference.parse(text) for text in job.args],
        repair=job.env.get_bool("repair"),
        cancel=call.cancel,
        observer=call.observer,
    ):
        job.row(one.digest, one.media_type or None, one.size, one.state, one.reference or None)
        if one.state not in GOOD:
            bad[one.state] += 1
    if bad:
        told = ", ".join(f"{count} {state}" for state, count in sorted(bad.items()))
        hint = "" if bad.keys() == {"missing"} else "; 'repair' moves damaged ones aside"
        raise StoreError(
            f"the store is not whole: {told}{hint}, and a pull fetches what is not there",
            code="damaged",
        )
    return Status.OK


def _seconds(job: Job, name: str, default: int) -> int:
    value = job.env.get_int(name, default)
    if value < 0:
        usage = "" if job.spec is None else job.spec.usage
        raise UsageError(f"{name}: seconds are 0 or more, not {value}", usage=usage)
    return value


JOBS: Final = (
    Entry(
        JobSpec(
            name="remove",
            help="Remove names of images from the store.",
            arguments=(
                Argument(name="IMAGE[:TAG][@DIGEST]", help="an image of the store", repeated=True),
            ),
            options=(flag("prune", "Remove at once the content that only these names led to."),),
            columns=(Column(name="reference"), Column(name="digest"), Column(name="state")),
            queue="registry",
        ),
        remove,
    ),
    Entry(
        JobSpec(
            name="gc",
            help="Remove content of the store that no name leads to.",
            options=(
                flag("dryRun", "Remove nothing; say what would be."),
                Option(
                    name="grace",
                    type=OptionType.INTEGER,
                    default=str(_GRACE),
                    help="Seconds for which content without a name stays after it was written.",
                ),
                Option(
                    name="partialAge",
                    type=OptionType.INTEGER,
                    default=str(int(removal.PARTIAL_AGE)),
                    help="Seconds for which what an interrupted transfer left stays.",
                ),
            ),
            columns=(
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="state"),
            ),
            queue="registry",
            resumable=True,
        ),
        gc,
    ),
    Entry(
        JobSpec(
            name="verify",
            help="Read the store, or these images, and compare with the digests.",
            arguments=(
                Argument(
                    name="IMAGE[:TAG][@DIGEST]",
                    help="an image of the store; without one, everything",
                    required=False,
                    repeated=True,
                ),
            ),
            options=(
                flag("repair", "Move damaged content aside, so that the next pull fetches it."),
            ),
            columns=(
                Column(name="digest"),
                Column(name="media_type"),
                Column(name="size", type=ColumnType.INTEGER),
                Column(name="state"),
                Column(name="reference"),
            ),
            queue="registry",
            resumable=True,
        ),
        verify,
    ),
)
