"""Answers of V1: JSON, how long they may be kept, and errors as ``{"error": MESSAGE}``."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any, Final

from ..exchange import Exchange
from ..message import Request, Response

__all__ = ["V1Error", "answer", "cached", "pong", "read_json"]

_KEPT: Final = 31_536_000
_NOT_KEPT: Final = (("Cache-Control", "no-cache"), ("Expires", "-1"), ("Pragma", "no-cache"))
_BODY_LIMIT: Final = 16 << 20


class V1Error(Exception):
    """An answer that is an error, in the words that the original registry uses."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.headers = headers

    def response(self) -> Response:
        return answer({"error": self.message}, status=self.status, headers=self.headers)


def answer(
    value: Any = True,
    *,
    status: int = 200,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """``value`` as JSON, not to be kept; bytes are taken for JSON already. 204 has no body."""
    body = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return Response(
        status=status,
        headers=(("Content-Type", "application/json"), *_NOT_KEPT, *headers),
        body=b"" if status == 204 else body,
    )


def cached() -> tuple[tuple[str, str], ...]:
    """The headers of what never changes: it may be kept for a year."""
    return (
        ("Cache-Control", f"public, max-age={_KEPT}"),
        ("Expires", formatdate(time.time() + _KEPT, usegmt=True)),
        ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
    )


def pong(request: Request, standalone: str | None) -> Response:
    """The answer to a ping; ``standalone`` is what its header says, None: there is none."""
    if request.method not in ("GET", "HEAD"):
        raise V1Error("Method not allowed", 405)
    headers = () if standalone is None else (("X-Docker-Registry-Standalone", standalone),)
    return answer({}).having(*headers)


def read_json(exchange: Exchange) -> tuple[bytes, Any]:
    """The body and the JSON in it; None where it is none."""
    raw = exchange.body.read(_BODY_LIMIT)
    if raw is None:
        raise V1Error(f"The body is over {_BODY_LIMIT} bytes", 413)
    try:
        return raw, json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return raw, None
