"""A registry of the V1 protocol for tests and demonstrations, on the machinery of the other.

    from registry_service.testing.v1 import V1Registry, images

    with V1Registry(users={"ann": "secret"}, faults=["drop:after=65536,path=/layer"]) as r:
        chain = images.random_chain(seed=1, length=3)
        images.push_chain(r, "test/app", "1.0", chain)
        ...                                     # r.endpoint, r.image(chain.id), r.tags(…)

With an index, which has the accounts and gives the tokens:

    with V1Registry(role="registry") as r, V1Index(registries=[r], accounts={"anna": "pw"}) as i:
        ...                                     # i.endpoint, i.images("anna/app")

It is written from the published V1 documentation and by what the original registry answers.
"""

from __future__ import annotations

from . import images
from .accounts import Account
from .index import V1Index
from .registry import V1Registry
from .storage import StoredImage

__all__ = ["Account", "StoredImage", "V1Index", "V1Registry", "images"]
