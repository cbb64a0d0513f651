"""Copy where one side or both are registries of V1."""

from __future__ import annotations

from ...cancel import Cancellation
from ...descriptor import Descriptor
from ...observe import Observer
from ...reference import Reference
from ...store import LayerBook
from ...transport.retry import RetryPolicy
from ..versions import Client, V1Client, needs_v2
from .into_v2 import copy_into_v2
from .source import Memory, V1Source

__all__ = ["copy_v1"]


def copy_v1(
    source: Reference,
    target: Reference,
    *,
    origin: Client,
    client: Client,
    policy: RetryPolicy,
    book: LayerBook,
    platform: str = "",
    referrers: bool = False,
    memory: Memory | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor | None:
    """Copy an image from ``origin`` to ``client``, of which one is a registry of V1 at least.

    What comes from V1 is an OCI image then, nothing belongs to it, and so ``referrers`` takes
    nothing along. What goes to V1 is a chain of images, to which nothing can belong.
    """
    target_v2 = needs_v2(client, "to which is not copied", "copy to a registry of V2")
    assert isinstance(origin, V1Client)
    return copy_into_v2(
        source,
        target,
        origin=V1Source(origin, source, memory=memory, cancel=cancel, observer=observer),
        client=target_v2,
        book=book,
        policy=policy,
        platform=platform,
        cancel=cancel,
        observer=observer,
    )
