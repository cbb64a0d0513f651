"""What makes one image of another: convert."""

from __future__ import annotations

from typing import Final

from engine import Argument, JobSpec, Option, Status
from engine.errors import UsageError

from ..convert import Format
from ..operations.convert import convert_image
from ..reference import Reference
from .call import DESCRIPTORS, PLATFORM, Call, Entry

__all__ = ["FORMAT", "JOBS", "convert", "wanted_format"]

FORMAT: Final = Option(
    name="format",
    help="'oci' or 'docker': the format of the manifests.",
)


def convert(call: Call) -> Status:
    """One row for each descriptor when it is settled, the image's own last."""
    source, target = map(Reference.parse, call.job.args)
    format = wanted_format(call)
    if format is None:
        usage = "" if call.job.spec is None else call.job.spec.usage
        raise UsageError("format: 'oci' or 'docker' is wanted", usage=usage)
    convert_image(
        source,
        target,
        store=call.store,
        format=format,
        platform=call.platform,
        cancel=call.cancel,
        observer=call.observer,
    )
    return Status.OK


def wanted_format(call: Call) -> Format | None:
    """The option `FORMAT`. Raises an error of status 2."""
    text = call.job.env.get("format", "")
    return Format.parse(text) if text else None


JOBS: Final = (
    Entry(
        JobSpec(
            name="convert",
            help="Give an image of the store, in Docker's or in OCI's format, another name.",
            arguments=(
                Argument(name="SOURCE", help="an image of the store"),
                Argument(name="TARGET", help="the name of what it becomes; it may be the same"),
            ),
            options=(FORMAT, PLATFORM),
            columns=DESCRIPTORS,
            queue="registry",
        ),
        convert,
    ),
)
