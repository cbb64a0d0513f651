"""One request being answered, and its body."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

from .faults import RequestFaults
from .message import Request, Response

__all__ = ["Body", "BodyTruncated", "Exchange", "Responder"]


class BodyTruncated(Exception):  # noqa: N818 - an event of the connection, not an error of ours
    """The client went away, or broke the framing, in the middle of its body."""


class Body(Protocol):
    """A request's body, to be read at most once.

    ``chunks`` yields views of a buffer that is used again for the next one. It raises
    `BodyTruncated` when the client stops early; what came before has been yielded.
    """

    @property
    def length(self) -> int | None:
        """Bytes announced; None when the body is sent in chunks; 0 when there is none."""

    @property
    def received(self) -> int:
        """Bytes read so far."""

    def chunks(self) -> Iterator[memoryview]: ...

    def read(self, limit: int) -> bytes | None:
        """The whole body, or None when it is longer than ``limit`` bytes."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Exchange:
    """A request being answered. Owned by its connection's thread; never shared."""

    request: Request
    body: Body
    faults: RequestFaults
    user: str = ""


class Responder(Protocol):
    """What a server says: the protocol behind its connections. Thread-safe."""

    def respond(self, exchange: Exchange) -> Response:
        """Answer a request; its errors too. Sets the exchange's user."""

    def refusal(
        self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        """An error that the connection answers by itself, in the protocol's own form."""
