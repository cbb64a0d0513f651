"""A registry of the V1 protocol for tests and demonstrations, on the machinery of the other.

    from registry_service.testing.v1 import V1Registry, images

    with V1Registry(users={"ann": "secret"}, faults=["drop:after=65536,path=/layer"]) as r:
        chain = images.random_chain(seed=1, length=3)
        images.push_chain(r, "test/app", "1.0", chain)
        ...                                     # r.endpoint, r.image(chain.id), r.tags(…)

It is written from the published V1 documentation and by what the original registry answers.
"""

from __future__ import annotations

from . import images
from .registry import V1Registry
from .storage import StoredImage

__all__ = ["StoredImage", "V1Registry", "images"]
