"""The connections of both sides, without a socket and without a clock.

Messages and the time go in; messages to send gather in ``outgoing``, and what the owner must
act on comes back as events. Times are seconds of any one monotonic clock. A connection
belongs to one thread.
"""

from .client_side import (
    AcceptedEvent,
    Arrived,
    ClientConnection,
    Draining,
    Event,
    Failed,
    Lost,
    Progressed,
    Ready,
    RemoteError,
)
from .engine_side import FEATURES, ServerConnection, Terms
from .messages import Incoming
from .peer import VERSIONS, Pulse, error_of

__all__ = [
    "FEATURES",
    "VERSIONS",
    "AcceptedEvent",
    "Arrived",
    "ClientConnection",
    "Draining",
    "Event",
    "Failed",
    "Incoming",
    "Lost",
    "Progressed",
    "Pulse",
    "Ready",
    "RemoteError",
    "ServerConnection",
    "Terms",
    "error_of",
]
