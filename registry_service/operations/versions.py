"""The two protocols: who speaks which, and what the older one has no form of.

`Registries` gives a client of whichever a host speaks. An operation that has a form for V1 asks
``isinstance(client, V1Client)``, in one place, and goes on in `operations.v1`; one that has none
asks `needs_v2`. Whoever brings a reference asks `knowing`.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from ..errors import RegistryError
from ..reference import Reference
from ..session.reader import ImageReader
from ..session.v1.client import V1Client
from ..session.v2 import V2Client
from ..v1.names import v1_repository_name

__all__ = ["Client", "Reader", "V1Client", "knowing", "needs_v2"]

#: One caller's way to one registry.
Client: TypeAlias = V1Client | V2Client
#: What images are read from: a registry, or mirrors before it.
Reader: TypeAlias = V1Client | ImageReader

_V2 = TypeVar("_V2", V2Client, ImageReader)
_Any = TypeVar("_Any", Client, Reader)


def needs_v2(client: V1Client | _V2, what: str, instead: str) -> _V2:
    """``client``, if it is one of V2.

    Raises an error with the code ``needs-v2``, which says that a registry of V1 ``what``, and what
    to do ``instead``.
    """
    if isinstance(client, V1Client):
        raise RegistryError(f"{client.endpoint.host} speaks V1, {what}; {instead}", code="needs-v2")
    return client


def knowing(client: _Any, reference: Reference) -> _Any:
    """``client``, whose protocol has a name for the repository of ``reference``.

    Raises `InvalidRepositoryNameError`, which says what names V1 has, for one of V1.
    """
    if isinstance(client, V1Client):
        v1_repository_name(reference)
    return client
