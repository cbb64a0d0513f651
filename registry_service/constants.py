"""The names and defaults that the registry protocols fix."""

from __future__ import annotations

import enum

__all__ = [
    "CONFIGFILE",
    "DEFAULT_API_VERSION",
    "INDEXSERVER",
    "PRODUCT",
    "REGISTRYSERVER",
    "APIVersion",
    "TimeoutType",
    "index_server_address",
]

CONFIGFILE = ".dockercfg"
INDEXSERVER = "https://index.docker.io/v1/"
PRODUCT = "registry-engine/0.1"  # what the library says that it is, in User-Agent
REGISTRYSERVER = "https://registry-1.docker.io/v1/"


class APIVersion(enum.IntEnum):
    """A version of the registry protocol. ``str()`` gives ``v1`` or ``v2``."""

    V1 = 1
    V2 = 2

    def __str__(self) -> str:
        return f"v{self.value}"


DEFAULT_API_VERSION = APIVersion.V1


class TimeoutType(enum.IntEnum):
    """Which time limits a request has.

    CONNECT is for pings: little time to connect and little in all. RECEIVE ends a request
    that gets no data for a while. NONE has neither. The settings say how long each is.
    """

    NONE = 0
    RECEIVE = 1
    CONNECT = 2


def index_server_address(configured: str = "") -> str:
    """The index in force: ``configured``, or else the public one."""
    return configured or INDEXSERVER
