"""Image archives: docker-archive (``docker save``) and OCI archive, read and written as streams.

::

    reading      open_archive: an archive's images by name, their content by digest
    docker       what manifest.json says, made OCI manifests of
    oci          an OCI image layout in a tar
    content      Archive: what both give
    writing      what goes into an archive, and its bytes
    tar          headers of tar, members and the links between them
    file         bytes by place, of a plain file or of one that was decompressed
    places       where a process may read and write archives

An archive is never unpacked: members are places in the file, and names in it are looked up in a
table, so that no name, link or device of an archive reaches the file system. Nothing is read
into memory whole but manifests and configurations, and those within bounds.
"""

from __future__ import annotations

from .content import Archive, ArchivedImage
from .places import Places
from .reading import open_archive
from .writing import Form, Picked, Plan, plan

__all__ = [
    "Archive",
    "ArchivedImage",
    "Form",
    "Picked",
    "Places",
    "Plan",
    "open_archive",
    "plan",
]
