"""What goes through archives: save, load."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from engine import Argument, JobSpec, Option, Status
from engine.errors import EnvError

from ..archive import Form
from ..operations import archives
from ..reference import Reference
from .call import DESCRIPTORS, PLATFORM, REFERRERS, Call, Entry, flag

__all__ = ["JOBS", "load", "save"]

_FORMATS: Final = ", ".join(form.value for form in Form)


def save(call: Call) -> Status:
    """Bytes: the archive; nothing where the engine writes it to a file itself."""
    env = call.job.env
    path, force = env.get("path", ""), env.get_bool("force")
    target = Path(path) if path else None
    if force and target is None:
        raise EnvError("force", "it goes with 'path'")
    form = _form(env.get("format", Form.DOCKER.value))
    places = call.shared.places
    if target is not None:
        places.check_target(target, force=force)
    with call.store.lease() as lease:
        plan = archives.save(
            [Reference.parse(text) for text in call.job.args],
            form=form,
            store=call.store,
            platform=call.platform,
            referrers=env.get_bool("referrers"),
            lease=lease,
            cancel=call.cancel,
            observer=call.observer,
        )
        if target is not None:
            places.write(target, plan.pieces(), force=force)
            return Status.OK
        for piece in plan.pieces():
            call.job.write(piece)
    return Status.OK


def load(call: Call) -> Status:
    """One row for each descriptor when it is settled, the images' own last."""
    name = call.job.env.get("as", "")
    archives.load(
        Path(call.job.args[0]),
        store=call.store,
        name=Reference.parse(name) if name else None,
        places=call.shared.places,
        cancel=call.cancel,
        observer=call.observer,
    )
    return Status.OK


def _form(word: str) -> Form:
    try:
        return Form(word)
    except ValueError:
        raise EnvError("format", f"{word!r:.40} is none; there are {_FORMATS}") from None


JOBS: Final = (
    Entry(
        JobSpec(
            name="save",
            help="Write images of the store as an archive, to the standard output or a file.",
            arguments=(Argument(name="IMAGE", help="an image of the store", repeated=True),),
            options=(
                Option(
                    name="format",
                    default=Form.DOCKER.value,
                    help="'docker', which every tool reads, with layers that are not compressed; "
                    "or 'oci', which keeps every byte and all platforms.",
                ),
                PLATFORM,
                REFERRERS,
                Option(
                    name="path",
                    help="A file that the engine writes itself, under its save_dirs.",
                ),
                flag("force", "Replace the file at 'path'."),
            ),
            queue="transfer",
            journalled=False,
        ),
        save,
    ),
    Entry(
        JobSpec(
            name="load",
            help="Keep the images of a docker-archive or OCI archive in the store.",
            arguments=(
                Argument(name="FILE", help="the absolute path of a file that the engine can read"),
            ),
            options=(
                Option(name="as", help="The name of the image, where the archive has just one."),
            ),
            columns=DESCRIPTORS,
            queue="transfer",
            resumable=True,
        ),
        load,
    ),
)
