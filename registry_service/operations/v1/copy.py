"""Copy where one side or both are registries of V1."""

from __future__ import annotations

from ...cancel import Cancellation
from ...descriptor import Descriptor
from ...errors import RegistryError
from ...observe import Observer
from ...reference import Reference
from ...store import LayerBook
from ...transport.retry import RetryPolicy
from ..versions import Client, V1Client
from .into_v1 import copy_between_v1, copy_into_v1
from .into_v2 import copy_into_v2
from .placed import Placed
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
    placed: Placed,
    platform: str = "",
    referrers: bool = False,
    memory: Memory | None = None,
    cancel: Cancellation,
    observer: Observer,
) -> Descriptor | None:
    """Copy an image from ``origin`` to ``client``, of which one is a registry of V1 at least.

    Nothing belongs to an image of V1, so that ``referrers`` takes nothing along from there, and is
    refused where an image of V2 would lose what belongs to it.
    """
    memory = memory or Memory()
    if isinstance(origin, V1Client):
        old = V1Source(origin, source, memory=memory, cancel=cancel, observer=observer)
        if isinstance(client, V1Client):
            copy_between_v1(
                source,
                target,
                origin=old,
                client=client,
                seen=memory.seen,
                policy=policy,
                platform=platform,
                cancel=cancel,
                observer=observer,
            )
            return None
        return copy_into_v2(
            source,
            target,
            origin=old,
            client=client,
            book=book,
            placed=placed,
            memory=memory,
            policy=policy,
            platform=platform,
            cancel=cancel,
            observer=observer,
        )
    assert isinstance(client, V1Client)  # the caller's condition
    if referrers:
        raise RegistryError(
            f"{target.host} speaks V1, where nothing belongs to an image; copy the image alone",
            code="needs-v2",
        )
    return copy_into_v1(
        source,
        target,
        origin=origin,
        client=client,
        book=book,
        seen=memory.seen,
        policy=policy,
        platform=platform,
        cancel=cancel,
        observer=observer,
    )
