"""A container registry for tests and demonstrations. It imports nothing else of this project.

    from registry_service.testing import Registry, images

    with Registry(users={"ann": "secret"}, faults=["drop:after=65536,path=/blobs/,times=1"]) as r:
        image = images.random_image(seed=1)
        images.push_image(r, "test/app", "1.0", image)
        ...                                     # r.url, r.host, r.requests, r.hold(…)

It speaks the OCI distribution protocol 1.1, Docker's V2 with its token service, and the search
of V1. It is meant for one machine: content is not synced to disk, and nothing is rate-limited.
"""

from __future__ import annotations

from .access import Grant
from .faults import Fault, FaultKind, FaultSwitch
from .holds import Hold
from .registry import Registry, TLSFiles
from .requestlog import LoggedRequest
from .storage import StoredManifest

__all__ = [
    "Fault",
    "FaultKind",
    "FaultSwitch",
    "Grant",
    "Hold",
    "LoggedRequest",
    "Registry",
    "StoredManifest",
    "TLSFiles",
]
