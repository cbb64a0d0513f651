"""Open an archive, whatever kind it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..cancel import Cancellation
from ..errors import ArchiveError
from ..observe import Observer
from .content import Archive
from .docker import MANIFEST, read_docker
from .oci import INDEX, LAYOUT, read_layout
from .places import Places
from .tar import Members
from .writing import Form

__all__ = ["open_archive"]

_OLDEST: Final = "repositories"


def open_archive(
    path: Path,
    *,
    scratch: Path,
    form: Form | None = None,
    places: Places | None = None,
    cancel: Cancellation | None = None,
    observer: Observer | None = None,
) -> Archive:
    """The archive at ``path``, which the caller closes; gzip, zstd, xz and bzip2 are undone.

    Without ``form`` it is what it seems to be; an archive that is of both kinds, as Docker
    writes it since version 25, is read as OCI, with the digests that its images have in a
    registry. ``scratch`` is a directory for what a compressed archive, or layer, holds.

    Raises `ArchiveError`, `DigestMismatchError`, `DiskFullError`, `CancelledError`.
    """
    cancel = cancel or Cancellation()
    observer = observer or Observer()
    file = (places or Places()).open(path)
    try:
        file = file.opened(scratch, cancel, observer.progress)
        try:
            members = Members.read(file, cancel)
        except ArchiveError as error:
            raise ArchiveError(f"{path}: {error}") from None
        if (form or _form(path, members)) is Form.OCI:
            return read_layout(file, members)
        return read_docker(file, members, scratch, cancel, observer)
    except BaseException:
        file.close()
        raise


def _form(path: Path, members: Members) -> Form:
    if LAYOUT in members and INDEX in members:
        return Form.OCI
    if MANIFEST in members:
        return Form.DOCKER
    if _OLDEST in members:
        raise ArchiveError(
            f"{path} was written by a docker before 1.10, which is not supported; load it with "
            "a docker of later times and save it again"
        )
    raise ArchiveError(
        f"{path} is no image archive: it has neither {LAYOUT} and {INDEX} nor {MANIFEST}"
    )
